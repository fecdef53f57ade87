# SPDX-License-Identifier: Apache-2.0
"""Colors of classes on maps, the same as in all other pictures."""

from rsvheat._colors import class_colors

__all__ = ["class_colors"]
