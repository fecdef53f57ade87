# SPDX-License-Identifier: Apache-2.0
"""Windows of a scene in the order of a map's rows, a few rows at a time."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsvheat.data import Pixels, Window
from rsvheat.raster.grid import Grid
from rsvheat.raster.scene import Scene


class Predictor(Protocol):
    """What tells something of windows: one value of each layer for each window.

    Attributes:
        layers: dtype and value for no data of each layer.
    """

    layers: Sequence[tuple[str, float]]

    def __call__(self, windows: Sequence[Pixels]) -> Sequence[NDArray[Any]]:
        """Return, for each layer, values (n,) of n windows as the scene's file holds them."""
        ...


@dataclass(frozen=True)
class Strip:
    """Rows of a map, and the pixels of the scene that all their windows are in.

    Attributes:
        grid: The map's.
        first: The first of the rows.
        rows: How many.
        top: Row of the scene that the pixels begin at.
        pixels: (C, H, W) of the scene's whole width.
    """

    grid: Grid
    first: int
    rows: int
    top: int
    pixels: Pixels

    def window(self, row: int, column: int) -> Pixels:
        """Return a window (C, size, size), mirrored where the scene is smaller than that."""
        window = self.grid.window(row, column)
        values, valid = self._cut(window)
        size = self.grid.size
        if window.height < size or window.width < size:
            # Half-sample symmetry, which is what the DCT sees beyond an image.
            more = ((0, 0), (0, size - window.height), (0, size - window.width))
            values = np.pad(values, more, "symmetric")
            valid = None if valid is None else np.pad(valid, more, "symmetric")
        return Pixels(values, valid)

    def filled(self, row: int, column: int, most: float) -> bool:
        """Whether a window is worth predicting.

        Args:
            row: Of the map.
            column: Likewise.
            most: The largest part of the window's values that may be without data. The map's pixel
                itself needs some.
        """
        if self.pixels.valid is None:
            return True
        valid = self._cut(self.grid.window(row, column)).valid
        cell = self.grid.cell(row, column)
        # With large strides the pixel may reach beyond the rows that are read.
        bottom = min(cell.top + cell.height, self.top + self.pixels.values.shape[1])
        top = max(cell.top, self.top)
        own = self._cut(cell._replace(top=top, height=bottom - top)).valid
        return bool(valid is None or (1 - valid.mean() <= most and (own is None or own.any())))

    def _cut(self, window: Window) -> Pixels:
        values, valid = self.pixels
        top = window.top - self.top
        part = np.s_[:, top : top + window.height, window.left : window.left + window.width]
        return Pixels(values[part], None if valid is None else valid[part])


def strips(scene: Scene, grid: Grid, at_once: int) -> Iterator[Strip]:
    """Read a scene from top to bottom; each row of it once, however much windows overlap.

    The next strip is read while one is used: reading a deflated GeoTIFF from a local disk takes a
    twentieth of the time of the smallest model on one core, but not so beside a GPU, or from afar.

    Args:
        scene: The scene.
        grid: The map's.
        at_once: Windows in a strip, at least, where there are no rows between them.

    Yields:
        Strips; together they are the map.
    """
    rows = -(-at_once // grid.columns) if grid.stride <= grid.size else 1

    def read(first: int, before: Strip | None) -> Strip:
        count = min(rows, grid.rows - first)
        top, last = grid.window(first, 0).top, grid.window(first + count - 1, 0)
        bottom = last.top + last.height
        begin = top
        if before is not None:
            begin = max(top, before.top + before.pixels.values.shape[1])
        parts = []
        if before is not None and begin > top:
            parts.append(_rows(before.pixels, top - before.top, begin - before.top))
        if bottom > begin:
            parts.append(scene.read(Window(begin, 0, bottom - begin, grid.width)))
        return Strip(grid, first, count, top, _stack(parts))

    with _ahead() as pool:
        coming = pool.submit(read, 0, None)
        for first in range(0, grid.rows, rows):
            strip = coming.result()
            if first + rows < grid.rows:
                coming = pool.submit(read, first + rows, strip)
            yield strip


@contextmanager
def _ahead() -> Iterator[ThreadPoolExecutor]:
    """Give a thread that ends after what it is doing, whatever else was asked of it."""
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


def sweep(
    scene: Scene,
    grid: Grid,
    predict: Predictor,
    *,
    batch_size: int,
    max_nodata: float,
) -> Generator[tuple[int, list[NDArray[Any]]], None, None]:
    """Predict a map, row after row.

    Args:
        scene: The scene.
        grid: The map's.
        predict: The predictor.
        batch_size: Windows that it gets at once, at most.
        max_nodata: Windows of which a larger part is without data are not predicted.

    Yields:
        Number of the first row, and for each layer (rows, columns) of that and the next ones.
    """
    for strip in strips(scene, grid, batch_size):
        shape = (strip.rows, grid.columns)
        layers = [np.full(shape, nodata, dtype) for dtype, nodata in predict.layers]
        places = [
            (row, column)
            for row in range(strip.rows)
            for column in range(grid.columns)
            if strip.filled(strip.first + row, column, max_nodata)
        ]
        for begin in range(0, len(places), batch_size):
            batch = places[begin : begin + batch_size]
            windows = [strip.window(strip.first + row, column) for row, column in batch]
            index = tuple(np.array(batch).T)
            for layer, values in zip(layers, predict(windows), strict=True):
                layer[index] = values
        yield strip.first, layers
