# SPDX-License-Identifier: Apache-2.0
"""A class for each window of a scene."""

from collections.abc import Generator
from contextlib import AbstractContextManager

import numpy as np

from rsvheat.checkpoint import TrainedModel
from rsvheat.raster.grid import Grid
from rsvheat.raster.map_files import MapFiles, MapRows
from rsvheat.raster.predictor import Files, Options, Scenes, infer, square_size
from rsvheat.raster.strips import Strip, strips

# Windows of which a larger part is without data get no class, unless told otherwise.
_MAX_NODATA = 0.5
_BATCH_SIZE = 64


class WindowPredictor:
    """Classifies windows around the pixels of a coarser map, as a grid places them.

    Args:
        model: Network whose output is a class.
        scenes: Scenes by modality, of one grid.
        options: Options.

    Attributes:
        windows: Number of windows, one for each pixel of the map.
        grid: Windows and pixels of the map.
    """

    def __init__(self, model: TrainedModel, scenes: Scenes, options: Options) -> None:
        options.refuse("classes of windows", "overlap", "min_score", "turns")
        self._model, self._scenes, self._options = model, scenes, options
        self._chosen = options.chosen(model.classes)
        scene = next(iter(scenes.values()))
        size = square_size(model) if options.window is None else options.window
        stride = size if options.stride is None else options.stride
        self.grid = Grid(scene.height, scene.width, size, stride)
        self.windows = self.grid.rows * self.grid.columns
        self._batch_size = options.batch_size or _BATCH_SIZE
        self._max_nodata = _MAX_NODATA if options.max_nodata is None else options.max_nodata

    def open(self, files: Files) -> AbstractContextManager[MapFiles]:
        """Create the files of the map.

        Args:
            files: Files to be written.
        """
        grid = self.grid
        tags = {"RSVHEAT_WINDOW": str(grid.size), "RSVHEAT_STRIDE": str(grid.stride)}
        return MapFiles.open(
            files, self._model, self._scenes, (grid.rows, grid.columns), grid.stride, tags
        )

    def parts(self, done: int = 0) -> Generator[tuple[int, MapRows], None, None]:
        """Predict from top to bottom, one panel of columns after the other.

        Args:
            done: Number of first parts to be left out.

        Yields:
            Number of windows, and rows of the map.
        """
        grid = self.grid
        fitting = self._options.columns(self._scenes, 2 * grid.size) - grid.size
        wide = max(1, fitting // grid.stride)
        for left in range(0, grid.columns, wide):
            columns = range(left, min(left + wide, grid.columns))
            ranges = self._ranges(columns)
            if done < len(ranges):
                yield from self._panel(columns, ranges[done:])
            done = max(0, done - len(ranges))

    def _ranges(self, columns: range) -> list[range]:
        """Return the rows of the map in each part of a panel."""
        grid = self.grid
        # A batch takes several rows of windows, unless memory is short, or windows do not touch and
        # rows between them need not be read.
        together = grid.stride <= grid.size and len(columns) == grid.columns
        step = -(-self._batch_size // len(columns)) if together else 1
        return [range(row, min(row + step, grid.rows)) for row in range(0, grid.rows, step)]

    def _panel(
        self, columns: range, ranges: list[range]
    ) -> Generator[tuple[int, MapRows], None, None]:
        grid = self.grid
        intervals = []
        for rows in ranges:
            last = grid.window(rows[-1], 0)
            intervals.append((grid.window(rows[0], 0).top, last.top + last.height))
        last = grid.window(0, columns[-1])
        across = grid.window(0, columns[0]).left, last.left + last.width
        reading = [strips(scene, intervals, across) for scene in self._scenes.values()]
        for rows, *read in zip(ranges, *reading, strict=True):
            found = self._strip(rows, columns, dict(zip(self._scenes, read, strict=True)))
            yield len(rows) * len(columns), found

    def _strip(self, rows: range, columns: range, read: dict[str, Strip]) -> MapRows:
        grid = self.grid
        shape = len(rows), len(columns)
        labels, probabilities = np.full(shape, MapFiles.NODATA, np.uint8), np.zeros(shape, "f4")
        chosen = np.zeros((len(self._chosen), *shape), np.float32)
        cells = [(row, column) for row in rows for column in columns]
        cells = [
            cell for cell in cells if all(self._filled(strip, *cell) for strip in read.values())
        ]
        for begin in range(0, len(cells), self._batch_size):
            batch = cells[begin : begin + self._batch_size]
            places = [
                grid.window(*cell)._replace(height=grid.size, width=grid.size) for cell in batch
            ]
            windows = [{name: strip.cut(place) for name, strip in read.items()} for place in places]
            output = infer(self._model, self._scenes, windows, places, self._options.precision)
            index = tuple((np.array(batch) - (rows[0], columns[0])).T)
            probabilities[index], labels[index] = (x.cpu().numpy() for x in output.max(1))
            chosen[:, index[0], index[1]] = output[:, self._chosen].T.cpu().numpy()
        areas = grid.areas(rows[0], len(rows))[:, columns[0] : columns[-1] + 1]
        return MapRows(
            rows[0],
            labels,
            probabilities,
            areas,
            columns[0],
            chosen=chosen if self._chosen else None,
        )

    def _filled(self, strip: Strip, row: int, column: int) -> bool:
        """Return whether enough of a window holds data, and some of its pixel of the map."""
        if strip.pixels.valid is None:
            return True
        valid = strip.cut(self.grid.window(row, column)).valid
        # With large strides the map's pixel may reach beyond the rows that are read.
        own = strip.part(self.grid.cell(row, column)).valid
        return bool(
            valid is None or (1 - valid.mean() <= self._max_nodata and (own is None or own.any()))
        )
