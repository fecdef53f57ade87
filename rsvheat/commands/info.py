# SPDX-License-Identifier: Apache-2.0
"""Print versions, libraries in use, and the packages that commands lack."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from typing import TypedDict

from rsvheat import cli
from rsvheat.commands._parser import PlainParser

EXAMPLE = "rsvheat info"

# Packages that results or errors may depend on.
_PACKAGES = (
    *("torch", "numpy", "timm", "safetensors", "lightning", "jsonargparse", "torchmetrics"),
    *("rasterio", "torchgeo", "mmengine", "onnx", "onnxruntime"),
)


class Need(TypedDict):
    """Packages that a command lacks."""

    missing: list[str]
    """Requirements that no installed package meets."""
    install: str | None
    """Command that installs them; None if nothing is missing."""


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
        print(json.dumps({**about, "packages": packages, "commands": needs()}, indent=1))
        return
    for name, value in {**about, **packages}.items():
        print(f"{name:22} {'-' if value is None else value}")
    for name, need in needs().items():
        missing = ", ".join(need["missing"])
        found = f"lacks {missing}: {need['install']}" if need["install"] else "ready"
        print(f"{'rsvheat ' + name:22} {found}")


def needs() -> dict[str, Need]:
    """Return the packages that each command lacks, and each option that needs further ones."""
    found = {}
    for name, module in cli.command_modules().items():
        found[name] = _need(getattr(module, "EXTRAS", ()))
        for option, extra in getattr(module, "OPTION_EXTRAS", {}).items():
            found[f"{name} {option}"] = _need((extra,))
    return found


def _need(extras: Iterable[str]) -> Need:
    missing = {extra: _missing(extra) for extra in extras}
    lacking = [extra for extra, packages in missing.items() if packages]
    packages = sorted({package for extra in lacking for package in missing[extra]})
    install = f"pip install 'rsvheat[{','.join(lacking)}]'" if lacking else None
    return {"missing": packages, "install": install}


def _missing(extra: str) -> list[str]:
    """Return the requirements of an extra that are not met, those of extras that it names too."""
    from packaging.requirements import Requirement

    missing = []
    for text in importlib.metadata.requires("rsvheat") or ():
        requirement = Requirement(text)
        # One of the package itself has no marker, or one that is true without an extra.
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name == "rsvheat":
            missing += [name for other in requirement.extras for name in _missing(other)]
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier}")
    return missing


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
