# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows that cover a scene, and how their predictions are put together."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def window_starts(length: int, size: int, overlap: int, margin: int = 0) -> list[int]:
    """Return where windows along an axis begin; they are evenly spread.

    Args:
        length: Length of the scene along the axis in pixels.
        size: Side of the windows in pixels.
        overlap: Least overlap of neighboring windows in pixels, below ``size``.
        margin: Pixels at both ends of a window that shall lie outside of the scene, or in other
            windows, too.

    Returns:
        Ascending; the first is ``-margin``, and the last window ends ``margin`` after the scene. A
        scene with margins that is smaller than a window has one, in its middle.
    """
    beyond = length + 2 * margin - size
    if beyond <= 0:
        return [-((size - length) // 2)]
    count = 1 + -(-beyond // (size - overlap))
    starts: list[int] = (np.linspace(0, beyond, count).round().astype(int) - margin).tolist()
    return starts


def blending_weight(size: int, overlap: int, margin: int) -> NDArray[np.float32]:
    """Return the weight of a window's pixels along an axis, for blending with its neighbors.

    It is 0 in the margin, where the network lacks context, rises as a squared sine over the rest of
    the overlap, and is 1 where only one window lies. Neighbors of exactly this overlap add up to 1.

    Args:
        size: Side of the windows in pixels.
        overlap: Overlap of neighboring windows in pixels.
        margin: Pixels at both ends whose weight is 0, less than half of the overlap.

    Returns:
        Weights (size,).
    """
    ramp = max(1, overlap - 2 * margin)
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) - margin + 0.5
    if overlap == 0:
        return np.ones(size, np.float32)
    weight: NDArray[np.float32] = np.square(
        np.sin(np.clip(distance / ramp, 0, 1) * np.pi / 2)
    ).astype(np.float32)
    return weight


def cores(starts: list[int], size: int) -> list[tuple[float, float]]:
    """Return the part of an axis that each window answers for; together they are the whole axis.

    Args:
        starts: Where the windows begin.
        size: Side of the windows in pixels.

    Returns:
        Begin and end of each part; seams are in the middle of overlaps, the ends are infinite.
    """
    seams = [(a + size + b) / 2 for a, b in itertools.pairwise(starts)]
    return list(zip([-math.inf, *seams], [*seams, math.inf], strict=True))


@dataclass(frozen=True)
class Panel:
    """Columns of a scene that are predicted at a time.

    Attributes:
        left: First column that the panel completes.
        right: Column after the last one that it completes.
        windows: Where the windows begin that have a part in these columns.
        columns: First column that the windows need and the column after the last one, within the
            scene.
    """

    left: int
    right: int
    windows: tuple[int, ...]
    columns: tuple[int, int]

    @property
    def width(self) -> int:
        """Number of columns that the panel completes."""
        return self.right - self.left


def panels(starts: list[int], size: int, margin: int, width: int, most: int) -> list[Panel]:
    """Divide the windows of a row into panels, so that memory does not grow with a scene's width.

    Windows that reach over the seam of two panels belong to both, and are predicted twice.

    Args:
        starts: Where the windows of a row begin.
        size: Side of the windows in pixels.
        margin: Pixels at both ends of a window that count for nothing.
        width: Width of the scene.
        most: Number of windows after which a new panel begins, at least 1.

    Returns:
        Panels from left to right.
    """
    first = starts[::most]
    edges = [0, *(start + margin for start in first[1:]), width]
    found = []
    for left, right in itertools.pairwise(edges):
        windows = tuple(s for s in starts if s + margin < right and s + size - margin > left)
        columns = max(windows[0], 0), min(windows[-1] + size, width)
        found.append(Panel(left, right, windows, columns))
    return found
