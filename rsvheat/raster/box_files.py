# SPDX-License-Identifier: Apache-2.0
"""Files of boxes: GeoPackage and GeoJSON."""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from rasterio.transform import GCPTransformer, RPCTransformer
from typing_extensions import Self

from rsvheat._files import output_file
from rsvheat.checkpoint import TrainedModel
from rsvheat.raster.box_geometry import FoundBoxes
from rsvheat.raster.predictor import Files, Scenes
from rsvheat.raster.scene import Georeference

GEOPACKAGE, GEOJSON = ".gpkg", (".geojson", ".json")
_LONGITUDE_LATITUDE = "EPSG:4326"


@dataclass(frozen=True)
class BoxesResult:
    """A file of boxes that was written.

    Attributes:
        path: Path of the file.
        classes: Names of the classes.
        counts: Number of boxes of each class.
        seconds: Time that it took.
    """

    path: Path
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    seconds: float

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
        self, path: Path, classes: tuple[str, ...], projection: "_Projection", layer: "_Layer"
    ) -> None:
        self._path, self._classes = path, classes
        self._projection, self._layer = projection, layer
        self._counts = np.zeros(len(classes), np.int64)

    @classmethod
    @contextmanager
    def open(cls, files: Files, model: TrainedModel, scenes: Scenes) -> Iterator["BoxFile"]:
        """Create the file, which appears when the block succeeds.

        Args:
            files: Path and options.
            model: Network that predicts.
            scenes: Scenes by modality.

        Yields:
            The file, which takes :class:`~rsvheat.raster.box_geometry.FoundBoxes`.

        Raises:
            ValueError: If the suffix is unknown, or an option has no meaning for boxes.
            ModuleNotFoundError: If pyogrio, which writes GeoPackage, is not installed.
            FileExistsError: If there is such a file, and it is not to be replaced.
            InUseError: If another process writes the file.
            OSError: If the file cannot be written.
        """
        path, geopackage = files.output, files.output.suffix.lower() == GEOPACKAGE
        for name in ("probability", "colors"):
            if getattr(files, name) is not None:
                raise ValueError(f"{name} has no meaning for boxes, got {getattr(files, name)}")
        if not geopackage and path.suffix.lower() not in GEOJSON:
            raise ValueError(f"{path} must end in {', '.join((GEOPACKAGE, *GEOJSON))} for boxes")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        _check_new(path, files.overwrite)
        place = next(iter(scenes.values())).georeference
        projection = _Projection(place, None if geopackage else _LONGITUDE_LATITUDE)
        kind = _GeoPackage if geopackage else _GeoJSON
        with output_file(path) as temporary, kind(temporary, projection.crs, files.tags) as layer:
            # Another process may have written the file before the lock was taken.
            _check_new(path, files.overwrite)
            yield cls(path, model.classes, projection, layer)

    def write(self, part: FoundBoxes) -> None:
        """Write boxes.

        Args:
            part: The next boxes.
        """
        columns: dict[str, NDArray[Any]] = {
            "class": np.array(self._classes, object)[part.labels],
            "label": part.labels,
            "score": part.scores.astype(np.float64).round(4),
        }
        corners = part.corners
        if part.boxes.shape[1] == 5:
            columns["angle"] = self._projection.angles(corners).round(2)
        self._layer.write(self._projection(corners), columns)
        self._counts += np.bincount(part.labels, minlength=len(self._classes))

    def result(self, seconds: float) -> BoxesResult:
        """Return a summary of the boxes.

        Args:
            seconds: Time that it took.
        """
        return BoxesResult(self._path, self._classes, tuple(self._counts.tolist()), seconds)


def _check_new(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")


class _Projection:
    """Coordinates of pixels on the map of a raster, or in another reference system.

    Attributes:
        crs: Reference system of the coordinates; None where they are columns and rows.
    """

    def __init__(self, place: Georeference, target: str | None) -> None:
        self._place = place
        self._source = place.crs
        if place.transform is None and place.rpcs is not None and not place.gcps:
            self._source = _LONGITUDE_LATITUDE
        self.crs = self._source if self._source is None or target is None else target

    def __call__(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coordinates (N, 4, 2) of corners (N, 4, 2) as x, y."""
        x, y = self._on_map(corners)
        if self.crs != self._source and len(x):
            x, y = rasterio.warp.transform(self._source, self.crs, x, y)
        return np.stack((x, y), 1).reshape(corners.shape)

    def angles(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the angle (N,) of the longer sides, in degrees clockwise from the map's north."""
        x, y = self._on_map(corners)
        points = np.stack((x, y if self._has_place else -np.array(y)), 1).reshape(corners.shape)
        sides = points[:, 1:3] - points[:, :2]  # from the first corner, and from the second
        longer = np.square(sides).sum(2).argmax(1)
        east, north = np.take_along_axis(sides, longer[:, None, None], 1)[:, 0].T
        angles: NDArray[np.float64] = np.rad2deg(np.arctan2(east, north)) % 180
        return angles

    @property
    def _has_place(self) -> bool:
        place = self._place
        return place.transform is not None or bool(place.gcps) or place.rpcs is not None

    def _on_map(self, corners: NDArray[np.float64]) -> tuple[Any, Any]:
        columns, rows = corners.reshape(-1, 2).T
        place = self._place
        if place.transform is not None:
            t = place.transform
            return t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
        if not self._has_place or not len(rows):
            return columns, rows
        kind, about = (GCPTransformer, place.gcps) if place.gcps else (RPCTransformer, place.rpcs)
        with kind(about) as transformer:
            return transformer.xy(rows, columns, offset="ul")  # type: ignore[no-any-return]


class _Layer(Protocol):
    """A file that polygons are written to; a context manager that completes it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def write(self, polygons: NDArray[np.float64], columns: Mapping[str, NDArray[Any]]) -> None:
        """Write polygons (N, 4, 2) with their attributes (N,) by name."""


class _GeoJSON:
    """Writes GeoJSON by RFC 7946."""

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        self._path, self._tags = path, tags
        self._separator = "\n"

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        about = json.dumps(dict(self._tags), ensure_ascii=False)
        self._file.write(f'{{"type": "FeatureCollection", "rsvheat": {about}, "features": [')
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.write("\n]}\n")
        self._file.close()

    def write(self, polygons: NDArray[np.float64], columns: Mapping[str, NDArray[Any]]) -> None:
        rings = _rings(polygons).round(7).tolist()  # a centimeter
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        for ring, row in zip(rings, values, strict=True):
            feature = {
                "type": "Feature",
                "properties": dict(zip(columns, row, strict=True)),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
            self._file.write(self._separator + json.dumps(feature, ensure_ascii=False))
            self._separator = ",\n"


class _GeoPackage:
    """Writes GeoPackage by pyogrio, a part at a time."""

    # Polygon of one ring with five points, little-endian.
    _WKB = np.dtype(
        [
            ("order", "u1"),
            ("kind", "<u4"),
            ("rings", "<u4"),
            ("points", "<u4"),
            ("xy", "<f8", (5, 2)),
        ]
    )

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        self._path, self._tags = path, tags
        self._crs = None if crs is None else rasterio.CRS.from_user_input(crs).to_wkt()

    def __enter__(self) -> Self:
        self._raw = importlib.import_module("pyogrio.raw")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, polygons: NDArray[np.float64], columns: Mapping[str, NDArray[Any]]) -> None:
        content = np.empty(len(polygons), self._WKB)
        content["order"], content["kind"], content["rings"], content["points"] = 1, 3, 1, 5
        content["xy"] = _rings(polygons)
        geometry = np.array([row.tobytes() for row in content] + [b""], object)[:-1]
        begun = self._path.exists()
        try:
            self._raw.write(
                self._path,
                geometry,
                list(columns.values()),
                list(columns),
                layer=self._path.stem,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self._crs,
                append=begun,
                layer_metadata=None if begun else dict(self._tags),
            )
        except RuntimeError as error:
            raise OSError(f"{self._path.name} cannot be written: {error}") from error


def _rings(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return closed rings (N, 5, 2), counter-clockwise where y points up."""
    x, y = np.moveaxis(polygons, 2, 0)
    area = (x * (np.roll(y, -1, 1) - np.roll(y, 1, 1))).sum(1)
    turned = np.where((area < 0)[:, None, None], polygons[:, ::-1], polygons)
    return np.concatenate((turned, turned[:, :1]), 1)
