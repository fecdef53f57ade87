# SPDX-License-Identifier: Apache-2.0
"""Files of boxes as polygons."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.found_boxes import FoundBoxes
from rsvheat.raster.box_seams import BoxSeams, RowBoxes, RowsFile
from rsvheat.raster.journal import Journal
from rsvheat.raster.map_files import CONFIDENCE_STEPS, confidence_counts
from rsvheat.raster.predictor import Files, Scenes
from rsvheat.raster.projection import Projection
from rsvheat.raster.vector_files import VectorLayer, vector_file

# Boxes that are kept to be shown.
_SHOWN = 20_000


def _no_corners() -> NDArray[np.float64]:
    return np.zeros((0, 4, 2))


def _no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class BoxesResult:
    """A file of boxes that was written.

    Attributes:
        path: Path of the file.
        classes: Names of the classes.
        counts: Number of boxes of each class.
        seconds: Time that it took.
        confidence: Number of boxes by score, in equal steps from 0 to 1.
        corners: Corners (n, 4, 2) of the first boxes, at most 20,000, in pixels of the scene.
        labels: Classes (n,) of these boxes.
        tags: Provenance.
        task: What the boxes are.
    """

    path: Path
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    seconds: float
    confidence: tuple[int, ...] = ()
    corners: NDArray[np.float64] = field(default_factory=_no_corners, repr=False, compare=False)
    labels: NDArray[np.int64] = field(default_factory=_no_labels, repr=False, compare=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    task: str = "boxes of objects"

    def __str__(self) -> str:
        """Return a line, and a table of the classes that occur."""
        lines = [f"{self.path}: {sum(self.counts)} boxes, in {self.seconds:.1f} s"]
        width = max(map(len, self.classes))
        for i in np.argsort(self.counts, kind="stable")[::-1]:
            if self.counts[i]:
                lines.append(f"  {self.classes[i]:{width}}  {self.counts[i]:8}")
        return "\n".join(lines)


class BoxFile:
    """Writes polygons of boxes with their class and score.

    Each has the attributes ``class``, ``label`` (the number of the class) and ``score``; oriented
    ones also ``angle``: of the longer side, in degrees clockwise from the map's north, from 0 on
    and below 180. Without georeference coordinates are columns and rows of pixels.
    """

    def __init__(
        self,
        path: Path,
        classes: tuple[str, ...],
        projection: Projection,
        layer: VectorLayer,
        tags: Mapping[str, str],
        seams: BoxSeams,
        rows: RowsFile | None = None,
    ) -> None:
        self._path, self._classes, self.done = path, classes, 0
        self._seams, self._rows = seams, rows
        self._projection, self._layer = projection, layer
        self._counts, self._tags = np.zeros(len(classes), np.int64), tags
        self._confidence = np.zeros(CONFIDENCE_STEPS, np.int64)
        self._corners, self._labels = _no_corners(), _no_labels()

    @classmethod
    @contextmanager
    def open(
        cls, files: Files, model: TrainedModel, scenes: Scenes, seams: BoxSeams
    ) -> Iterator["BoxFile"]:
        """Create the file, which appears when the block succeeds.

        Args:
            files: Path and options.
            model: Network that predicts.
            scenes: Scenes by modality.
            seams: Merging of boxes over the seams between windows.

        Yields:
            The file, which takes ``rsvheat.raster.box_seams.RowBoxes``.

        Raises:
            ValueError: If the suffix is unknown, or an option has no meaning for boxes.
            ModuleNotFoundError: If a package that writes the format is not installed.
            FileExistsError: If there is such a file, and it is not to be replaced, or an unfinished
                one of another prediction.
            InUseError: If another process writes the file.
            OSError: If the file cannot be written.
        """
        for name in ("probability", "colors"):
            if getattr(files, name) is not None:
                raise ValueError(f"{name} has no meaning for boxes, got {getattr(files, name)}")
        place = next(iter(scenes.values())).georeference
        options = files.tags, files.overwrite, files.resume
        with vector_file(files.output, "boxes", place, *options) as file:
            rows = None
            if files.resume:
                journal = Journal(file.unfinished.parent, {**files.tags, **files.about})
                rows = RowsFile(file.unfinished, journal)
            output = cls(
                files.output, model.classes, file.projection, file.layer, files.tags, seams, rows
            )
            output._go_on()
            yield output
            if rows is not None:
                rows.remove()

    def write(self, part: RowBoxes) -> None:
        """Write the boxes of a row of windows, but those that the next row may find again.

        Args:
            part: Boxes of the next row.
        """
        if self._rows is not None:
            self._rows.write(part)
        self._add(part)

    def _go_on(self) -> None:
        """Take over the rows that a killed process wrote: merging them takes little time."""
        for part in self._rows.read() if self._rows is not None else ():
            self._add(part)
            self.done += 1

    def _add(self, part: RowBoxes) -> None:
        for found in self._seams.add(part):
            self._write(found)

    def _write(self, part: FoundBoxes) -> None:
        import shapely

        columns: dict[str, NDArray[Any]] = {
            "class": np.array(self._classes, object)[part.labels],
            "label": part.labels,
            "score": part.scores.astype(np.float64).round(4),
        }
        corners = part.corners
        if part.boxes.shape[1] == 5:
            columns["angle"] = _angles(self._projection, corners).round(2)
        self._layer.write(shapely.polygons(_rings(self._projection(corners))), columns)
        self._counts += np.bincount(part.labels, minlength=len(self._classes))
        self._confidence += confidence_counts(part.scores)
        room = _SHOWN - len(self._corners)
        if room > 0:
            self._corners = np.concatenate((self._corners, corners[:room]))
            self._labels = np.concatenate((self._labels, part.labels[:room]))

    def result(self, seconds: float) -> BoxesResult:
        """Return a summary of the boxes.

        Args:
            seconds: Time that it took.
        """
        return BoxesResult(
            self._path,
            self._classes,
            tuple(self._counts.tolist()),
            seconds,
            tuple(self._confidence.tolist()),
            self._corners,
            self._labels,
            self._tags,
        )


def _angles(projection: Projection, corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle (N,) of the longer sides, in degrees clockwise from the map's north."""
    x, y = projection.on_map(corners)
    points = np.stack((x, y if projection.has_place else -np.array(y)), 1).reshape(corners.shape)
    sides = points[:, 1:3] - points[:, :2]  # from the first corner, and from the second
    longer = np.square(sides).sum(2).argmax(1)
    east, north = np.take_along_axis(sides, longer[:, None, None], 1)[:, 0].T
    angles: NDArray[np.float64] = np.rad2deg(np.arctan2(east, north)) % 180
    return angles


def _rings(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return closed rings (N, 5, 2) of corners (N, 4, 2), counter-clockwise where y points up."""
    x, y = np.moveaxis(corners, 2, 0)
    area = (x * (np.roll(y, -1, 1) - np.roll(y, 1, 1))).sum(1)
    turned = np.where((area < 0)[:, None, None], corners[:, ::-1], corners)
    # Boxes without an area have equal corners, which shapely takes for closed already.
    return np.concatenate((turned, turned[:, :1]), 1)
