# SPDX-License-Identifier: Apache-2.0
"""What importing the package does, and which of its files may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rsvheat

# What takes longer to import than rsvheat, or comes with an extra only.
HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "torch.utils.flop_counter",
    "timm",
    "triton",
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


def run(code: str) -> None:
    """Run a program in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("use", ["", "rsvheat.create_model; rsvheat.ops.dct2d"])
def test_importing_rsvheat_imports_nothing_heavy(use: str) -> None:
    run(
        f"import sys, torch; before = set(sys.modules); import rsvheat; {use}\n"
        f"assert not (found := (set(sys.modules) - before) & set({HEAVY!r})), found"
    )


@pytest.mark.parametrize("arguments", ["['rsvheat']", "['script.py', 'data']", "['']"])
def test_the_package_is_the_same_in_every_process(arguments: str) -> None:
    run(
        f"import sys; sys.argv = {arguments}; import rsvheat; assert 'torch' not in sys.modules\n"
        "assert set(rsvheat.__all__) <= set(dir(rsvheat))\n"
        "assert rsvheat.create_model is rsvheat.models.create_model\n"
        "assert rsvheat.__version__ == rsvheat.build_info()['version']\n"
        "assert not hasattr(rsvheat, 'nothing')"
    )


@pytest.mark.parametrize("name", rsvheat.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert hasattr(rsvheat, name)


@pytest.mark.parametrize(
    "order",
    [
        "import rsvheat; import torch",
        "import torch; import rsvheat",
        "import rsvheat; rsvheat.build_info(); import torch",
        "import rsvheat.models; import torch",
        "import rsvheat._library; import rsvheat.ops; import torch",
    ],
)
def test_operators_are_registered_whichever_is_imported_first(order: str) -> None:
    # As a program needs that was exported before, and names no operator itself.
    run(
        f"{order}\n"
        "assert torch.ops.rsvheat.dct2d.default\n"
        "with torch.device('meta'):\n"
        "    x = torch.ops.rsvheat.dct2d(torch.empty(1, 4, 4, 3), True)\n"
        "assert x.shape == (1, 4, 4, 3)\n"
        "from torch.utils.flop_counter import FlopCounterMode, flop_registry\n"
        "assert torch.ops.rsvheat.dct2d in flop_registry"
    )


def test_modules_load_as_without_the_package() -> None:
    # Programs look for a module before they import it, and read its source and its resources.
    run(
        "import importlib.util, rsvheat, inspect, sys\n"
        "assert importlib.util.find_spec('timm') is not None and 'timm' not in sys.modules\n"
        "assert importlib.util.find_spec('torch') is not None and 'torch' not in sys.modules\n"
        "import torch, importlib.machinery, importlib.resources\n"
        "assert type(torch.__loader__) is type(torch.__spec__.loader)\n"
        "assert type(torch.__loader__) is importlib.machinery.SourceFileLoader\n"
        "assert 'def compile' in inspect.getsource(torch)\n"
        "assert importlib.resources.files('torch').joinpath('version.py').is_file()\n"
        "assert hasattr(torch.ops.rsvheat, 'dct2d')\n"
        "assert not any(type(f).__module__ == 'rsvheat._after_import' and f.first == 'torch'\n"
        "               for f in sys.meta_path)"
    )


def test_an_absent_module_may_come_later(tmp_path: Path) -> None:
    run(
        "import sys\n"
        "from rsvheat._after_import import after_import\n"
        "after_import('comes_later', 'follows')\n"
        "try:\n"
        "    import comes_later\n"
        "except ModuleNotFoundError as error:\n"
        "    assert error.name == 'comes_later'\n"
        f"folder = {str(tmp_path)!r}\n"
        "open(folder + '/comes_later.py', 'w').write('value = 1')\n"
        "open(folder + '/follows.py', 'w').write('import comes_later; comes_later.value += 1')\n"
        "sys.path.insert(0, folder)\n"
        "import comes_later\n"
        "assert comes_later.value == 2\n"
        "after_import('comes_later', 'follows')\n"
        "assert comes_later.value == 2"
    )


# ---- Which file may import which ----------------------------------------------------------------

PACKAGE = Path(rsvheat.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# A layer's folders and files, and the layers that it may use beside itself.
PARTS = {
    "base": (
        "_after_import",
        "_colors",
        "_display",
        "_files",
        "_html",
        "_library",
        "_locks",
        "postprocess",
    ),
    "ops": ("ops",),
    "models": ("models", "augmentation", "losses", "masking"),
    "data": ("data",),
    "checkpoint": ("checkpoint", "found_boxes", "prediction", "segmentation_losses"),
    "evaluation": ("evaluation",),
    "uses": ("benchmarking", "explain", "export", "integrations", "raster"),
    "training": ("training",),
    "tasks": ("tasks",),
    "demo": ("demo",),
    "commands": ("__main__", "cli", "commands"),
}
_TRAINED = ("base", "ops", "models", "data", "checkpoint")
_BELOW = {
    "base": (),
    "ops": ("base",),
    "models": ("base", "ops"),
    "data": ("base", "ops"),
    "checkpoint": ("base", "ops", "models", "data"),
    "evaluation": _TRAINED,
    "uses": _TRAINED,
    "training": _TRAINED,
    "tasks": (*_TRAINED, "training", "evaluation"),
    "demo": (*_TRAINED, "training", "evaluation", "tasks", "uses"),
    "commands": (*_TRAINED, "training", "evaluation", "tasks", "uses", "demo"),
}
WITHOUT_LIGHTNING = ("base", "ops", "models", "data", "checkpoint", "uses")

# Exceptions, and why they are there.
KNOWN = {("rsvheat.data.datamodule", "lightning"): "the data module is Lightning's"}


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a file imports, within functions and by name, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "after_import", "__import__"):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value


# The package's own file is not among them: it imports names when users ask for them.
EDGES = {
    name: {found for found in imports(path) if found.split(".")[0] in ("rsvheat", "lightning")}
    for name, path in MODULES.items()
    if name != "rsvheat"
}


def layer(module: str) -> str:
    part = module.split(".")[1]
    (found,) = (name for name, parts in PARTS.items() if part in parts)
    return found


def violations() -> Iterator[tuple[str, str]]:
    for name, targets in EDGES.items():
        own = layer(name)
        for target in sorted(targets):
            if target.split(".")[0] == "lightning":
                if own in WITHOUT_LIGHTNING:
                    yield name, "lightning"
            elif target == "rsvheat":  # gives everything
                if own not in ("commands", "demo"):
                    yield name, target
            elif layer(target) not in (own, *_BELOW[own]):
                yield name, target


def test_imports_of_every_form_are_seen(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(
        "import rsvheat.ops as ops, json\n"
        "from rsvheat.models import encoder, RSVHeat\n"
        "def later():\n"
        "    from lightning.pytorch import Trainer\n"
        "    importlib.import_module('rsvheat.tasks')\n"
    )
    assert set(imports(tmp_path / "some.py")) == {
        "rsvheat.ops",
        "json",
        "rsvheat.models.encoder",
        "rsvheat.models",
        "lightning.pytorch",
        "rsvheat.tasks",
    }


def test_every_file_has_its_layer() -> None:
    parts = [part for parts in PARTS.values() for part in parts]
    assert len(parts) == len(set(parts))
    assert {name.split(".")[1] for name in EDGES} <= set(parts)


def test_no_arrow_is_reversed() -> None:
    assert set(violations()) - set(KNOWN) == set()


def test_every_known_violation_is_still_there() -> None:
    assert set(KNOWN) - set(violations()) == set(), "take these out of KNOWN"


def test_parts_of_one_layer_do_not_use_each_other() -> None:
    # Raster does not explain, and explaining exports nothing.
    parts = {
        (name.split(".")[1], target.split(".")[1])
        for name, targets in EDGES.items()
        for target in targets & EDGES.keys()
        if layer(name) == layer(target) == "uses"
    }
    assert {(a, b) for a, b in parts if a != b} == set()


def test_no_circle_of_files() -> None:
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        if state.get(name) == 2:
            return
        if name in trail:
            circles.append(" -> ".join([*trail[trail.index(name) :], name]))
            return
        for target in sorted(EDGES[name] & EDGES.keys()):
            visit(target, [*trail, name])
        state[name] = 2

    for name in EDGES:
        visit(name, [])
    assert circles == []
