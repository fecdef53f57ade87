# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import rsvheat

# What takes longer to import than rsvheat, or comes with an extra only.
HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "timm",
    "huggingface_hub",
    "torchvision",
    "lightning",
    "torchmetrics",
    "torchgeo",
    "jsonargparse",
    "tensorboard",
    "rasterio",
    "PIL",
    "matplotlib",
    "onnx",
    "scipy",
)


def test_importing_rsvheat_imports_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import rsvheat; "
        f"assert not (found := (set(sys.modules) - before) & set({HEAVY!r})), found"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_public_name_is_there_in_a_process_of_the_command_too() -> None:
    assert all(hasattr(rsvheat, name) for name in rsvheat.__all__)
    # The command's own process imports torch when it is needed only.
    code = (
        "import sys; sys.argv = ['rsvheat']; import rsvheat; assert 'torch' not in sys.modules; "
        "assert all(hasattr(rsvheat, name) for name in rsvheat.__all__); "
        "assert not hasattr(rsvheat, 'nothing')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
