# SPDX-License-Identifier: Apache-2.0
"""Heat conduction operators and the RS-vHeat foundation model for remote sensing.

Names are imported when they are used. Operators are registered with torch, and models with timm,
once that library is imported, be it before or after this package.
"""

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rsvheat._after_import import after_import

if TYPE_CHECKING:
    from rsvheat import models, ops
    from rsvheat._library import BuildInfo, build_info, package_version
    from rsvheat.models import CheckpointError, create_model, load_checkpoint

    __version__ = package_version()

_MODULES = (
    "augmentation",
    "data",
    "evaluation",
    "explain",
    "export",
    "losses",
    "masking",
    "models",
    "ops",
    "raster",
)
# Where each other name is defined: module and attribute.
_HOMES = {
    "BuildInfo": ("rsvheat._library", "BuildInfo"),
    "CheckpointError": ("rsvheat.models", "CheckpointError"),
    "__version__": ("rsvheat._library", "package_version"),
    "build_info": ("rsvheat._library", "build_info"),
    "create_model": ("rsvheat.models", "create_model"),
    "load": ("rsvheat.checkpoint", "TrainedModel.load"),
    "load_checkpoint": ("rsvheat.models", "load_checkpoint"),
}

__all__ = [
    "BuildInfo",
    "CheckpointError",
    "__version__",
    "build_info",
    "create_model",
    "load",
    "load_checkpoint",
    "models",
    "ops",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return importlib.import_module(f"rsvheat.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rsvheat' has no attribute {name!r}")
    importlib.import_module("rsvheat.ops")  # registers the operators
    module, attribute = _HOMES[name]
    value = attrgetter(attribute)(importlib.import_module(module))
    globals()[name] = value() if name == "__version__" else value
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


after_import("torch", "rsvheat.ops", unless="rsvheat._library")
after_import("timm", "rsvheat.integrations.timm")
