# SPDX-License-Identifier: Apache-2.0
"""Print versions and libraries in use, for reports of problems."""

import importlib.metadata
import json
import platform

from rsvheat.commands._parser import PlainParser

EXAMPLE = "rsvheat info"

# Packages that results or errors may depend on.
_PACKAGES = (
    *("torch", "numpy", "timm", "safetensors", "lightning", "jsonargparse", "torchmetrics"),
    *("rasterio", "torchgeo", "mmengine", "onnx", "onnxruntime"),
)


def run(arguments: list[str]) -> None:
    """Run the command."""
    parser = PlainParser(__name__)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    as_json = parser.parse_args(arguments).json

    import torch

    import rsvheat

    packages = {name: _version(name) for name in _PACKAGES}
    about = {
        **rsvheat.build_info(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    if as_json:
        print(json.dumps({**about, "packages": packages}, indent=1))
        return
    for name, value in {**about, **packages}.items():
        print(f"{name:22} {'-' if value is None else value}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
