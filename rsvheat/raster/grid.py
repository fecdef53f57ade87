# SPDX-License-Identifier: Apache-2.0
"""Windows of a scene around the pixels of a coarser map."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.readers import Window


@dataclass(frozen=True)
class Grid:
    """Pixels of a map, each of ``stride`` x ``stride`` pixels of the scene, and their windows.

    The map covers the whole scene and begins at its upper left corner; its last row and column may
    reach beyond the scene by less than a stride. A window has its pixel in the middle. Where it
    would reach beyond the scene it is moved inside, so that every prediction is of existing pixels
    and of a whole window. Only a scene that is smaller than a window is mirrored at its border, see
    ``rsvheat.raster.strips.Strip.cut``.

    Args:
        height: Height of the scene in pixels.
        width: Width of the scene in pixels.
        size: Side of the windows in pixels of the scene.
        stride: Side of the map's pixels in pixels of the scene. Windows overlap if it is below
            ``size``; if it is above, pixels between windows are not used.

    Raises:
        ValueError: If an argument is below 1.
    """

    height: int
    width: int
    size: int
    stride: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, value in (("window", self.size), ("stride", self.stride)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, got {value}")

    @property
    def rows(self) -> int:
        """Rows of the map."""
        return -(-self.height // self.stride)

    @property
    def columns(self) -> int:
        """Columns of the map."""
        return -(-self.width // self.stride)

    def window(self, row: int, column: int) -> Window:
        """Return the part of the scene that a pixel of the map is predicted from.

        Args:
            row: Row of the map.
            column: Column of the map.
        """
        return Window(
            self._start(row, self.height),
            self._start(column, self.width),
            min(self.size, self.height),
            min(self.size, self.width),
        )

    def cell(self, row: int, column: int) -> Window:
        """Return the part of the scene that a pixel of the map lies on.

        Args:
            row: Row of the map.
            column: Column of the map.
        """
        top, left = row * self.stride, column * self.stride
        return Window(
            top, left, min(self.stride, self.height - top), min(self.stride, self.width - left)
        )

    def _start(self, index: int, length: int) -> int:
        centered = index * self.stride + (self.stride - self.size) // 2
        return max(0, min(centered, length - self.size))

    def areas(self, row: int, rows: int) -> NDArray[np.int64]:
        """Return the number of pixels of the scene in each pixel of rows of the map.

        Args:
            row: First row of the map.
            rows: Number of rows.

        Returns:
            Numbers (rows, columns).
        """
        heights = self.height - self.stride * np.arange(row, row + rows)
        widths = self.width - self.stride * np.arange(self.columns)
        return np.outer(np.minimum(heights, self.stride), np.minimum(widths, self.stride))
