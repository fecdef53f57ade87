# SPDX-License-Identifier: Apache-2.0
"""Heat conduction operators and the RS-vHeat foundation model for remote sensing."""

from rsvheat import models, ops
from rsvheat._library import BuildInfo, build_info, package_version
from rsvheat.models import create_model, load_checkpoint

__version__ = package_version()

__all__ = [
    "BuildInfo",
    "__version__",
    "build_info",
    "create_model",
    "load_checkpoint",
    "models",
    "ops",
]
