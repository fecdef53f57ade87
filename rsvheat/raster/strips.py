# SPDX-License-Identifier: Apache-2.0
"""Strips of rows of a scene or of a panel of it, from top to bottom, each row read once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rsvheat.data import Pixels, Window
from rsvheat.raster.scene import Scene


@dataclass(frozen=True)
class Strip:
    """Rows of a scene, over its whole width or that of a panel.

    Attributes:
        top: First row of the scene that the strip holds.
        pixels: Pixels (C, rows, columns).
        left: First column of the scene that the strip holds.
    """

    top: int
    pixels: Pixels
    left: int = 0

    @property
    def bottom(self) -> int:
        """Row of the scene after the last one that the strip holds."""
        return self.top + len(self.pixels.values[0])

    def cut(self, window: Window) -> Pixels:
        """Return a window of the scene; pixels outside of the scene are mirrored at its border.

        Args:
            window: Window whose pixels within the scene are all in the strip.

        Returns:
            Pixels (C, height, width).
        """
        values, valid = self.pixels
        rows, above, below = _within(window.top - self.top, window.height, values.shape[1])
        columns, left, right = _within(window.left - self.left, window.width, values.shape[2])
        values = values[:, rows, columns]
        valid = None if valid is None else valid[:, rows, columns]
        if above or below or left or right:
            # Half-sample symmetry, which is how the DCT continues an image.
            more = ((0, 0), (above, below), (left, right))
            values = np.pad(values, more, "symmetric")
            valid = None if valid is None else np.pad(valid, more, "symmetric")
        return Pixels(values, valid)

    def part(self, window: Window) -> Pixels:
        """Return the part of a window that is within the strip.

        Args:
            window: Window that may reach beyond the strip.
        """
        top, bottom = max(window.top, self.top), min(window.top + window.height, self.bottom)
        left = max(window.left, self.left)
        right = min(window.left + window.width, self.left + self.pixels.values.shape[2])
        return self.cut(Window(top, left, bottom - top, right - left))

    def known(self, window: Window) -> float:
        """Return the share of a window's values that hold data.

        Args:
            window: Window that may reach beyond the strip; pixels beyond do not count.
        """
        valid = self.part(window).valid
        return 1.0 if valid is None else float(valid.mean())


def _within(start: int, length: int, whole: int) -> tuple[slice, int, int]:
    """Return the part of a range that is within ``whole``, and how much is before and after it."""
    first, last = max(start, 0), min(start + length, whole)
    return slice(first, last), first - start, start + length - last


def strips(
    scene: Scene,
    intervals: Sequence[tuple[int, int]],
    columns: tuple[int, int] | None = None,
) -> Iterator[Strip]:
    """Read strips of a scene; each row is read once, however much strips overlap.

    The next strip is read in a thread while one is used: reading a deflated GeoTIFF from a local
    disk takes a twentieth of the time of the smallest model on one core, but more than that beside
    a GPU, or over a network.

    Args:
        scene: Scene to read.
        intervals: First row of each strip and the row after its last one, both ascending.
        columns: First column of the strips and the column after their last one; None for all.

    Yields:
        The strips, in order.
    """
    left, right = (0, scene.width) if columns is None else columns

    def read(interval: tuple[int, int], before: Strip | None) -> Strip:
        top, bottom = interval
        begin = top if before is None else max(top, before.bottom)
        parts = []
        if before is not None and begin > top:
            parts.append(_rows(before.pixels, top - before.top, begin - before.top))
        if bottom > begin:
            parts.append(scene.read(Window(begin, left, bottom - begin, right - left)))
        return Strip(top, _stack(parts), left)

    with _ahead() as pool:
        coming = pool.submit(read, intervals[0], None)
        for i in range(len(intervals)):
            strip = coming.result()
            if i + 1 < len(intervals):
                coming = pool.submit(read, intervals[i + 1], strip)
            yield strip


@contextmanager
def _ahead() -> Iterator[ThreadPoolExecutor]:
    """Give a thread that ends after its current task, whatever else was submitted."""
    pool = ThreadPoolExecutor(1, "rsvheat-read")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _rows(pixels: Pixels, begin: int, end: int) -> Pixels:
    values, valid = pixels
    return Pixels(values[:, begin:end], None if valid is None else valid[:, begin:end])


def _stack(parts: Sequence[Pixels]) -> Pixels:
    if len(parts) == 1:
        return Pixels(*parts[0])
    values = np.concatenate([part.values for part in parts], 1)
    if all(part.valid is None for part in parts):
        return Pixels(values, None)
    masks = [np.ones(v.shape, bool) if m is None else np.broadcast_to(m, v.shape) for v, m in parts]
    return Pixels(values, np.concatenate(masks, 1))
