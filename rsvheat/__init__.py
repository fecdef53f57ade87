# SPDX-License-Identifier: Apache-2.0
"""Heat conduction operators and the RS-vHeat foundation model for remote sensing."""

from rsvheat import ops
from rsvheat._library import BuildInfo, build_info, package_version

__version__ = package_version()

__all__ = ["BuildInfo", "__version__", "build_info", "ops"]
