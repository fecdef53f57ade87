# SPDX-License-Identifier: Apache-2.0
"""Files of maps of classes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.raster.colors import class_colors
from rsvheat.raster.journal import Journal
from rsvheat.raster.predictor import Files, Scenes
from rsvheat.raster.scene import Georeference
from rsvheat.raster.writing import Layer, LayerWriter, writing

CONFIDENCE_STEPS = 20
# Sums over the parts that were written.
_SUMS = ("_counts", "_areas", "_confidence")


@dataclass(frozen=True)
class MapResult:
    """A map of classes that was written.

    Attributes:
        path: Path of the map.
        rows: Rows of the map.
        columns: Columns of the map.
        classes: Names of the classes, by the values of the map's pixels.
        counts: Number of pixels of the map of each class.
        nodata: Number of pixels of the map without a class.
        square_km: Area of each class within the scene; None where coordinates are not to scale.
        seconds: Time that it took.
        resampled: Names of the rasters that were interpolated on the grid of the first.
        confidence: Number of pixels by the probability of their class, in equal steps from 0 to 1.
        tags: Provenance.
        task: What the map shows.
    """

    path: Path
    rows: int
    columns: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    nodata: int
    square_km: tuple[float, ...] | None
    seconds: float
    resampled: tuple[str, ...] = ()
    confidence: tuple[int, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    task: str = "map of classes"

    def __str__(self) -> str:
        """Return a line, and a table of the classes that occur."""
        lines = [
            f"{self.path}: {self.rows} x {self.columns} pixels, {self.nodata} without data, "
            f"in {self.seconds:.1f} s"
        ]
        lines += [f"  {name} was interpolated bilinearly on its grid" for name in self.resampled]
        total = sum(self.counts)
        width = max(map(len, self.classes))
        for i in np.argsort(self.counts, kind="stable")[::-1]:
            if self.counts[i]:
                area = "" if self.square_km is None else f"  {self.square_km[i]:12,.2f} km2"
                share = self.counts[i] / total
                lines.append(f"  {self.classes[i]:{width}}  {share:6.1%}{area}")
        return "\n".join(lines)


def confidence_counts(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many values lie in each of equal steps from 0 to 1.

    Args:
        values: Probabilities or scores.
    """
    return np.histogram(values, CONFIDENCE_STEPS, (0, 1))[0]


class SensorArea(NamedTuple):
    """Part of a map, and the sensors that it was predicted from.

    Attributes:
        sensors: Names of the sensors.
        place: Left, top, right and bottom in pixels of the map.
    """

    sensors: tuple[str, ...]
    place: tuple[int, int, int, int]


@dataclass(frozen=True)
class MapRows:
    """Rows of a map.

    Attributes:
        first: Number of the first row.
        labels: Classes (rows, columns), uint8; 255 for no data.
        probabilities: Probabilities of the classes (rows, columns); of no meaning without data.
        areas: Number of pixels of the scene (rows, columns) in each pixel of the map; None for 1.
        left: Number of the first column.
        sensors: Windows that ended with these rows, if the network takes any of several sensors.
        chosen: Probabilities (classes, rows, columns) of the classes that were asked for; None
            for none.
    """

    first: int
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    areas: NDArray[np.int64] | None = None
    left: int = 0
    sensors: Sequence[SensorArea] = ()
    chosen: NDArray[np.float32] | None = None


def _stacked(places: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return places, as left, top, right, bottom, of which those above each other are joined."""
    found: list[list[int]] = []
    ends: dict[tuple[int, int, int], list[int]] = {}
    for left, top, right, bottom in places:
        above = ends.pop((left, right, top), None)
        if above is None:
            above = [left, top, right, bottom]
            found.append(above)
        above[3] = bottom
        ends[left, right, bottom] = above
    return found


class MapFiles:
    """Writes the map of classes and, if asked for, the map of their probabilities."""

    NODATA: ClassVar[int] = IGNORE_INDEX

    def __init__(
        self,
        path: Path,
        writers: Sequence[LayerWriter],
        shape: tuple[int, int],
        classes: tuple[str, ...],
        place: Georeference,
        stride: int,
        resampled: tuple[str, ...],
        tags: Mapping[str, str],
        sensors: Sequence[str],
        journal: Journal | None = None,
    ) -> None:
        self._journal, self.done, self._all_sensors = journal, 0, "+".join(sensors)
        self._path, self._writers, self._resampled = path, writers, resampled
        self._tags, self._confidence = tags, np.zeros(CONFIDENCE_STEPS, np.int64)
        self._shape, self._classes, self._place, self._stride = shape, classes, place, stride
        self._counts = np.zeros(self.NODATA + 1, np.int64)
        self._areas = np.zeros(self.NODATA + 1)
        # Places of the windows by the sensors that they were predicted from, as left, top, right,
        # bottom; neighbors in a row are one.
        self._sensors: dict[str, list[list[int]]] = {}

    @classmethod
    @contextmanager
    def open(
        cls,
        files: Files,
        model: TrainedModel,
        scenes: Scenes,
        shape: tuple[int, int],
        stride: int,
        tags: Mapping[str, str],
    ) -> Iterator["MapFiles"]:
        """Create the files, which appear when the block succeeds.

        Args:
            files: Paths and options.
            model: Network that predicts.
            scenes: Scenes by modality.
            shape: Rows and columns of the map.
            stride: Side of the map's pixels in pixels of the scene.
            tags: Metadata beside those of every map.

        Yields:
            The files, which take ``MapRows``.

        Raises:
            ValueError: If there are more classes than a map has values, or colors are wrong.
            OSError: If a file cannot be written.
        """
        classes = model.classes
        if len(classes) > cls.NODATA:
            raise ValueError(
                f"{model.path} has {len(classes)} classes; a map holds up to {cls.NODATA}"
            )
        scene = next(iter(scenes.values()))
        tags = {**files.tags, **tags}
        nodata = cls.NODATA
        table = class_colors(classes, files.colors)
        layers = [Layer(files.output, "uint8", nodata, "class", "mode", 1.0, classes, table, tags)]
        if files.probability is not None:
            name, path = "probability of the class", files.probability
            bands = [f"probability of {chosen}" for chosen in files.probability_of]
            layers.append(
                Layer(path, "uint8", nodata, name, "average", 0.01, tags=tags, bands=bands)
            )
        where = scene.georeference.scaled(stride)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(writing(layer, *shape, where, files.overwrite, files.resume))
                for layer in layers
            ]
            journal = None
            if files.resume:
                about = {**tags, "shape": list(shape), **files.about}
                journal = Journal(writers[0].folder, about)
            resampled = tuple(scene.name for scene in scenes.values() if scene.resampled)
            output = cls(
                files.output,
                writers,
                shape,
                classes,
                where,
                stride,
                resampled,
                tags,
                tuple(scenes),
                journal,
            )
            output._go_on()
            yield output
            output._add_sensors()
            if journal is not None:
                journal.remove()

    def write(self, part: MapRows) -> None:
        """Write rows of the map.

        Args:
            part: The next rows.
        """
        self._writers[0].write(part.first, part.labels, part.left)
        for writer in self._writers[1:]:
            missing = part.labels == self.NODATA
            shown = part.probabilities if part.chosen is None else part.chosen
            percent = np.where(missing, self.NODATA, np.rint(100 * shown))
            writer.write(part.first, percent.astype(np.uint8), part.left)
        known = part.probabilities[part.labels != self.NODATA]
        self._confidence += confidence_counts(known)
        flat = part.labels.ravel()
        self._counts += np.bincount(flat, minlength=self.NODATA + 1)
        areas = self._place.row_areas(part.first, len(part.labels))
        if areas is not None:
            # The map's last pixels may stick out of the scene.
            shares = 1.0 if part.areas is None else part.areas / self._stride**2
            ground = np.broadcast_to(areas[:, None] * shares, part.labels.shape)
            self._areas += np.bincount(flat, ground.ravel(), minlength=self.NODATA + 1)
        for sensors, (left, top, right, bottom) in part.sensors:
            places = self._sensors.setdefault("+".join(sensors), [])
            if places and places[-1][1:] == [top, left, bottom]:
                places[-1][2] = right
            else:
                places.append([left, top, right, bottom])
        self.done += 1
        if self._journal is not None:
            for writer in self._writers:
                writer.flush()
            self._journal.write(
                {
                    "parts": self.done,
                    "values": [list(writer.counts.items()) for writer in self._writers],
                    **{name: getattr(self, name).tolist() for name in _SUMS},
                    "sensors": self._sensors,
                }
            )

    def _go_on(self) -> None:
        """Take over the sums over the parts that a killed process wrote."""
        if self._journal is None or not all(writer.resumed for writer in self._writers):
            return
        content = self._journal.read()
        if content is None:
            return
        self.done, self._sensors = content["parts"], content["sensors"]
        for writer, counts in zip(self._writers, content["values"], strict=True):
            writer.counts.update(dict(counts))
        for name in _SUMS:
            sums = getattr(self, name)
            sums[:] = content[name]

    def _add_sensors(self) -> None:
        """Add the tag that says which sensors predicted which part of the map."""
        if not self._sensors:
            return
        areas = {
            names: sum((right - left) * (bottom - top) for left, top, right, bottom in places)
            for names, places in self._sensors.items()
        }
        total = sum(areas.values())
        about: dict[str, Any] = {}
        for names, places in sorted(self._sensors.items()):
            about[names] = {"share": round(areas[names] / total, 6)}
            if names != self._all_sensors:
                about[names]["places"] = _stacked(places)
        self._tags = {**self._tags, "RSVHEAT_SENSORS": json.dumps(about)}
        for writer in self._writers:
            writer.add_tags({"RSVHEAT_SENSORS": self._tags["RSVHEAT_SENSORS"]})

    def result(self, seconds: float) -> MapResult:
        """Return a summary of the map.

        Args:
            seconds: Time that it took.
        """
        n, square_km = len(self._classes), None
        if self._place.equal_area is not None:
            square_km = tuple((self._areas[:n] / 1e6).tolist())
        return MapResult(
            self._path,
            *self._shape,
            self._classes,
            tuple(self._counts[:n].tolist()),
            int(self._counts[self.NODATA]),
            square_km,
            seconds,
            self._resampled,
            tuple(self._confidence.tolist()),
            self._tags,
        )
