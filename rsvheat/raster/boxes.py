# SPDX-License-Identifier: Apache-2.0
"""Boxes of objects in a scene, by overlapping windows."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Window
from rsvheat.found_boxes import FoundBoxes
from rsvheat.raster.box_files import BoxFile
from rsvheat.raster.box_seams import BoxSeams, RowBoxes
from rsvheat.raster.predictor import Files, Options, Scenes, infer, square_size
from rsvheat.raster.strips import Strip, strips
from rsvheat.raster.tiling import Panel, cores, panels, window_starts

# Pixels that the network gets at once, unless told otherwise: four windows of 512 x 512.
_PIXELS = 4 * 512 * 512


class BoxPredictor:
    """Finds objects in overlapping windows.

    Windows overlap by a quarter of their side by default. A window answers for its core, which ends
    in the middle of the overlaps: of its boxes those are kept whose center lies in there. Boxes
    that reach over a seam between cores may have been found from both sides, whole or in pieces;
    ``rsvheat.raster.box_seams.BoxSeams`` makes one of them. So objects are found once and, as
    far as the network finds their pieces, whole, also those larger than the overlap. Boxes whose
    center has no data are dropped.

    Args:
        model: Network whose output is boxes.
        scenes: Scenes by modality, of one grid.
        options: Options.

    Attributes:
        windows: Number of windows.

    Raises:
        ValueError: If an option has no meaning for boxes, or the overlap is as large as a window.
    """

    def __init__(self, model: TrainedModel, scenes: Scenes, options: Options) -> None:
        options.refuse("boxes", "stride", "turns")
        self._model, self._scenes, self._options = model, scenes, options
        scene = next(iter(scenes.values()))
        size = square_size(model) if options.window is None else options.window
        self._overlap = options.overlap_of(size)
        # Networks for boxes take images of any size; a mirrored border would show objects that are
        # not there.
        self._height, self._width = min(size, scene.height), min(size, scene.width)
        self._tops, self._lefts = (
            window_starts(length, side, min(self._overlap, side - 1))
            for length, side in ((scene.height, self._height), (scene.width, self._width))
        )
        self._rows = cores(self._tops, self._height)
        self._columns = dict(zip(self._lefts, cores(self._lefts, self._width), strict=True))
        self._shape = scene.height, scene.width
        columns = options.columns(scenes, self._height)
        most = max(1, columns // (self._width - self._overlap) - 1)
        self._panels = panels(self._lefts, self._width, 0, scene.width, most)
        # Neighbors of the last panel show its windows, too; boxes need each window once.
        ends = [-1, *(panel.windows[-1] for panel in self._panels)]
        self._panel_lefts = [
            [left for left in panel.windows if left > end]
            for panel, end in zip(self._panels, ends, strict=False)
        ]
        self.windows = len(self._tops) * len(self._lefts)
        self._batch_size = options.batch_size or max(1, _PIXELS // size**2)
        self._numbers = 5 if model.output == "oriented_boxes" else 4

    def open(self, files: Files) -> AbstractContextManager[BoxFile]:
        """Create the file of the boxes.

        Args:
            files: Files to be written.
        """
        edges = [(self._columns[ls[0]][0], self._columns[ls[-1]][1]) for ls in self._panel_lefts]
        seams = BoxSeams(self._shape, edges, len(self._tops), self._numbers)
        return BoxFile.open(files, self._model, self._scenes, seams)

    def parts(self, done: int = 0) -> Generator[tuple[int, RowBoxes], None, None]:
        """Predict from top to bottom, one panel after the other.

        Args:
            done: Number of first parts to be left out.

        Yields:
            Number of windows, and the boxes of a row of them.
        """
        for panel, lefts in zip(self._panels, self._panel_lefts, strict=True):
            if done < len(self._tops):
                yield from self._panel(panel, lefts, done)
            done = max(0, done - len(self._tops))

    def _panel(
        self, panel: Panel, lefts: Sequence[int], done: int
    ) -> Generator[tuple[int, RowBoxes], None, None]:
        tops = self._tops[done:]
        intervals = [(top, top + self._height) for top in tops]
        reading = [strips(scene, intervals, panel.columns) for scene in self._scenes.values()]
        for top, core, *read in zip(tops, self._rows[done:], *reading, strict=True):
            strips_read = dict(zip(self._scenes, read, strict=True))
            yield len(lefts), self._row(strips_read, lefts, top, core)

    def _row(
        self,
        read: Mapping[str, Strip],
        lefts: Sequence[int],
        top: int,
        rows: tuple[float, float],
    ) -> RowBoxes:
        inside = crossing = FoundBoxes.none(self._numbers)
        places = [Window(top, left, self._height, self._width) for left in lefts]
        places = [place for place in places if self._filled(read, place)]
        for begin in range(0, len(places), self._batch_size):
            batch = places[begin : begin + self._batch_size]
            windows = [{name: strip.cut(w) for name, strip in read.items()} for w in batch]
            output = infer(self._model, self._scenes, windows, batch, self._options.precision)
            for window, one in zip(batch, output, strict=True):
                columns = self._columns[window.left]
                boxes = FoundBoxes.of(one, window, self._options.min_score or 0.0)
                x, y = boxes.centers.T
                own = (x >= columns[0]) & (x < columns[1]) & (y >= rows[0]) & (y < rows[1])
                boxes = boxes[own]
                boxes = boxes[self._known(read, boxes)]
                left, upper, right, lower = boxes.extents.T
                over = (left < columns[0]) | (right > columns[1])
                over |= (upper < rows[0]) | (lower > rows[1])
                inside, crossing = inside + boxes[~over], crossing + boxes[over]
        return RowBoxes(inside, crossing)

    def _filled(self, read: Mapping[str, Strip], window: Window) -> bool:
        """Return whether enough of a window holds data: by default, any of it."""
        known = max(strip.known(window) for strip in read.values())
        most = self._options.max_nodata
        return known > 0 and (most is None or 1 - known <= most)

    def _known(self, read: Mapping[str, Strip], boxes: FoundBoxes) -> NDArray[np.bool_]:
        """Return which boxes have their center on a pixel of the scene with data."""
        scene = next(iter(self._scenes.values()))
        columns, rows = np.floor(boxes.centers).astype(np.int64).T
        inside = (columns >= 0) & (columns < scene.width) & (rows >= 0) & (rows < scene.height)
        found: NDArray[np.bool_] = np.zeros(len(boxes), bool)
        for strip in read.values():
            valid = strip.pixels.valid
            if valid is None:
                return np.asarray(inside)
            found[inside] |= valid[:, rows[inside] - strip.top, columns[inside] - strip.left].any(0)
        return found
