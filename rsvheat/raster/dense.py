# SPDX-License-Identifier: Apache-2.0
"""A class for each pixel of a scene, by overlapping windows whose probabilities are blended."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Window
from rsvheat.raster.map_files import MapFiles, MapRows, SensorArea
from rsvheat.raster.predictor import (
    Files,
    Options,
    Scenes,
    infer,
    sensors_with_data,
    square_size,
)
from rsvheat.raster.strips import Strip, strips
from rsvheat.raster.tiling import Panel, blending_weight, cores, panels, window_starts

# Pixels that the network gets at once, unless told otherwise: four windows of 512 x 512.
_PIXELS = 4 * 512 * 512


class DensePredictor:
    """Classifies every pixel.

    Windows overlap by a quarter of their side by default. Of that, the outer quarter on each side,
    where the network lacks context, counts for nothing; over the rest the probabilities of
    neighboring windows are blended with a smooth weight. At the border of the scene the pixels
    beyond are mirrored. Pixels without data have no class. Windows in which one of several sensors
    has no data are predicted from the others, if the network takes that.

    Memory holds the rows of one window over the width of a panel: the pixels, and a float32 for
    each class. As many panels lie side by side as the option ``memory`` asks for; a scene that fits
    is one panel.

    Args:
        model: Network whose output is a mask.
        scenes: Scenes by modality, of one grid.
        options: Options.

    Attributes:
        windows: Number of windows.
    """

    kind = "classes of pixels"

    def __init__(self, model: TrainedModel, scenes: Scenes, options: Options) -> None:
        options.refuse(self.kind, "stride", "min_score")
        self._model, self._scenes, self._options = model, scenes, options
        self._chosen = options.chosen(model.classes)
        scene = next(iter(scenes.values()))
        self._shape = scene.height, scene.width
        self._size = size = square_size(model) if options.window is None else options.window
        self._overlap = options.overlap_of(size)
        self._margin = self._overlap // 4
        self._tops, self._lefts = (
            window_starts(length, size, self._overlap, self._margin) for length in self._shape
        )
        self._cores = tuple(
            dict(zip(starts, cores(starts, size), strict=True))
            for starts in (self._tops, self._lefts)
        )
        # Sums and weights, and what is made of them: classes, and their probabilities.
        columns = options.columns(scenes, size, 4 * (len(model.classes) + 5))
        most = max(1, (columns - 2 * size) // (size - self._overlap))
        self._panels = panels(self._lefts, size, self._margin, scene.width, most)
        self.windows = len(self._tops) * sum(len(panel.windows) for panel in self._panels)
        weight = blending_weight(size, self._overlap, self._margin)
        self._weight = np.outer(weight, weight)
        self._batch_size = options.batch_size or max(1, _PIXELS // size**2)

    def open(self, files: Files) -> AbstractContextManager[MapFiles]:
        """Create the files of the map.

        Args:
            files: Files to be written.
        """
        tags = {
            "RSVHEAT_WINDOW": str(self._size),
            "RSVHEAT_OVERLAP": str(self._overlap),
            "RSVHEAT_STRIDE": "1",
        }
        return MapFiles.open(files, self._model, self._scenes, self._shape, 1, tags)

    def parts(self, done: int = 0) -> Generator[tuple[int, MapRows], None, None]:
        """Predict from top to bottom, one panel after the other.

        Args:
            done: Number of first parts to be left out.

        Yields:
            Number of windows, and rows of the map.
        """
        for panel in self._panels:
            if done < len(self._tops):
                yield from self._panel(panel, done)
            done = max(0, done - len(self._tops))

    def _panel(self, panel: Panel, done: int) -> Generator[tuple[int, MapRows], None, None]:
        height = self._shape[0]
        # Sums over the windows so far, for the rows of the scene from ``first`` on.
        sums = np.zeros((len(self._model.classes), self._size, panel.width), np.float32)
        weights = np.zeros((self._size, panel.width), np.float32)
        # Rows that no later window has a weight for are complete.
        ends = [top + self._margin for top in self._tops[1:]] + [height]
        first = ends[done - 1] if done else 0
        # Windows of parts that are left out may reach into the next ones.
        begin = next(i for i, top in enumerate(self._tops) if i == done or top + self._size > first)
        intervals = [(max(top, 0), min(top + self._size, height)) for top in self._tops[begin:]]
        reading = [strips(scene, intervals, panel.columns) for scene in self._scenes.values()]
        numbers = range(begin, len(self._tops))
        for number, *read in zip(numbers, *reading, strict=True):
            rows = dict(zip(self._scenes, read, strict=True))
            sensors = self._add(self._tops[number], rows, panel, first, sums, weights)
            if number < done:
                continue
            count = ends[number] - first
            finished = self._finished(rows, panel, first, sums[:, :count], weights[:count])
            finished = replace(finished, sensors=sensors)
            yield len(panel.windows), finished
            for kept in (sums, weights):
                kept[..., : self._size - count, :] = kept[..., count:, :]
                kept[..., self._size - count :, :] = 0
            first = ends[number]

    def _add(
        self,
        top: int,
        rows: Mapping[str, Strip],
        panel: Panel,
        first: int,
        sums: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> list[SensorArea]:
        """Add the weighted probabilities of a row of windows, and return their sensors."""
        sensors = []
        size, height = self._size, self._shape[0]
        places = [Window(top, left, size, size) for left in panel.windows]
        places = [place for place in places if self._filled(rows, place)]
        for begin in range(0, len(places), self._batch_size):
            batch = places[begin : begin + self._batch_size]
            windows = [{name: strip.cut(place) for name, strip in rows.items()} for place in batch]
            options = self._options
            output = infer(
                self._model, self._scenes, windows, batch, options.precision, options.turns
            )
            if self._model.network.any_sensor:
                for place, window in zip(batch, windows, strict=True):
                    names = sensors_with_data(self._model, window)
                    sensors.append(SensorArea(names, self._core(place, panel)))
            for place, probabilities in zip(batch, output.cpu().numpy(), strict=True):
                # The part of the window that is in the panel and not complete yet.
                up, left = max(first - top, 0), max(panel.left - place.left, 0)
                down, right = min(size, height - top), min(size, panel.right - place.left)
                weight = self._weight[up:down, left:right]
                column = place.left - panel.left
                there = np.s_[
                    ..., top + up - first : top + down - first, column + left : column + right
                ]
                sums[there] += probabilities[:, up:down, left:right] * weight
                weights[there] += weight
        return sensors

    def _core(self, place: Window, panel: Panel) -> tuple[int, int, int, int]:
        """Return the part of a panel that is nearest to a window: left, top, right, bottom."""
        (up, down), (left, right) = (
            cores[start] for cores, start in zip(self._cores, (place.top, place.left), strict=True)
        )
        return (
            round(max(left, panel.left)),
            round(max(up, 0)),
            round(min(right, panel.right)),
            round(min(down, self._shape[0])),
        )

    def _filled(self, rows: Mapping[str, Strip], place: Window) -> bool:
        """Return whether enough of a window holds data: by default, any of it."""
        known = self._known(rows, place)
        missing = 0.0 if known is None else 1 - float(known.mean())
        most = self._options.max_nodata
        return missing < 1 and (most is None or missing <= most)

    def _known(self, rows: Mapping[str, Strip], window: Window) -> NDArray[np.bool_] | None:
        """Return where a part of the scene is predicted, (H, W); None for everywhere."""
        masks = [strip.part(window).valid for strip in rows.values()]
        return self.combine([None if m is None else np.logical_or.reduce(m) for m in masks])

    def combine(self, masks: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
        """Return where pixels are predicted: where any of the sensors has data.

        Args:
            masks: Where each sensor has data (H, W); None for everywhere.
        """
        found = [mask for mask in masks if mask is not None]
        return np.logical_or.reduce(found) if len(found) == len(masks) else None

    def _finished(
        self,
        rows: Mapping[str, Strip],
        panel: Panel,
        first: int,
        sums: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> MapRows:
        """Return rows of the map from the sums of all their windows."""
        labels = sums.argmax(0).astype(np.uint8)
        best = np.take_along_axis(sums, labels[None].astype(np.intp), 0)[0]
        missing = weights == 0
        weights = np.where(missing, 1, weights)
        best /= weights
        chosen = sums[self._chosen] / weights if self._chosen else None
        known = self._known(rows, Window(first, panel.left, *weights.shape))
        if known is not None:
            missing |= ~known
        labels[missing] = MapFiles.NODATA
        return MapRows(first, labels, best, left=panel.left, chosen=chosen)
