# SPDX-License-Identifier: Apache-2.0
"""GeoJSON and GeoPackage: polygons in a coordinate reference system, over GeoTIFF."""

import importlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import read_text
from rsvheat.data.image_reader import line_of, require
from rsvheat.data.polygons import Points, bounds, smallest_rectangle
from rsvheat.data.skip_report import DataError, SampleError

GEOJSON = (".geojson", ".json")
_LONGITUDE_LATITUDE = "EPSG:4326"
_POLYGON, _MULTIPOLYGON = 3, 6


@dataclass(frozen=True)
class GeoBoxes:
    """Polygons of a vector file.

    Attributes:
        path: Path of the file.
        crs: Reference system of the coordinates; None if the file names none.
        polygons: Outer ring (K, 2) of each polygon, in that system.
        names: Class name of each polygon.
        difficult: Polygons whose attribute ``difficult`` is true.
    """

    path: str
    crs: str | None
    polygons: tuple[Points, ...]
    names: tuple[str, ...]
    difficult: tuple[bool, ...]

    def on_image(self, path: str | os.PathLike[str]) -> ImageBoxes:
        """Return the boxes on an image, in its pixels.

        Corners are transformed one by one, so a rectangle on the map may be a quadrilateral in the
        image. Polygons of other than four corners become the smallest rectangle around them.
        Coordinates are columns and rows where the image has no georeference.

        Args:
            path: Path of the image.

        Raises:
            SampleError: If the image cannot be opened, or the file's reference system is unknown
                and the image's is not.
        """
        require("rasterio", "geo", "georeferenced boxes")
        import rasterio
        import rasterio.warp
        from rasterio.errors import RasterioError

        try:
            with rasterio.open(path) as image:
                crs, inverse, size = image.crs, ~image.transform, (image.height, image.width)
        except RasterioError as error:
            raise SampleError("damaged", f"{path}: {line_of(error)}") from None
        if not self.polygons:
            return ImageBoxes.of([], [], size=size)
        points = np.concatenate(self.polygons)
        if crs is not None:
            if self.crs is None:
                raise SampleError("place", f"{self.path} names no reference system, {path} has one")
            x, y = rasterio.warp.transform(self.crs, crs, *points.T)
            points = np.stack((x, y), -1)
            # Without the operator of affine, which differs between its versions.
            a, b, c, d, e, f = inverse[:6]
            points = points @ np.array([[a, d], [b, e]]) + np.array([c, f])
        ends = np.cumsum([len(polygon) for polygon in self.polygons])[:-1]
        corners = np.stack(
            [
                ring if len(ring) == 4 else smallest_rectangle(ring)
                for ring in np.split(points, ends)
            ]
        )
        left, top, right, bottom = bounds(corners).T
        inside = (right > 0) & (bottom > 0) & (left < size[1]) & (top < size[0])
        chosen = np.flatnonzero(inside)
        return ImageBoxes.of(
            list(corners[chosen]),
            [self.names[i] for i in chosen],
            [self.difficult[i] for i in chosen],
            size,
        )


def read_geo(path: str | os.PathLike[str], *, class_field: str = "class") -> GeoBoxes:
    """Read the polygons of a GeoJSON or GeoPackage file.

    GeoJSON is in longitude and latitude (RFC 7946) unless an older file names another system in
    ``crs``. An attribute ``difficult`` marks difficult boxes.

    Args:
        path: Path of the file, which ends in ``.geojson``, ``.json`` or another suffix that pyogrio
            reads, such as ``.gpkg``.
        class_field: Attribute that holds the class name.

    Raises:
        DataError: If the file cannot be read, or a polygon has no class.
        ModuleNotFoundError: If pyogrio is not installed, which reads all but GeoJSON.
    """
    text = Path(path).suffix.lower() in GEOJSON
    crs, features = _read_json(path) if text else _read_vector(path, class_field)
    polygons, names, difficult = [], [], []
    for number, (ring, attributes) in enumerate(features):
        name = attributes.get(class_field)
        if name is None or str(name) == "":
            raise DataError(
                f"{path}: the polygon {number} has no attribute {class_field!r}, but "
                f"{', '.join(sorted(attributes)) or 'none'}"
            )
        points = np.array(ring, np.float64)[:, :2]
        if len(points) > 1 and (points[0] == points[-1]).all():
            points = points[:-1]
        if len(points) < 3:
            raise DataError(f"{path}: the polygon {number} has {len(points)} corners")
        polygons.append(points)
        names.append(str(name))
        difficult.append(bool(attributes.get("difficult")))
    return GeoBoxes(str(path), crs, tuple(polygons), tuple(names), tuple(difficult))


def _read_json(path: str | os.PathLike[str]) -> tuple[str | None, list[tuple[Any, dict[str, Any]]]]:
    try:
        content = json.loads(read_text(path))
        crs = content.get("crs")
        name = _LONGITUDE_LATITUDE if crs is None else str(crs["properties"]["name"])
        features = []
        for feature in content["features"]:
            geometry = feature["geometry"]
            parts = geometry["coordinates"]
            if geometry["type"] == "MultiPolygon" and len(parts) == 1:
                parts = parts[0]
            elif geometry["type"] != "Polygon":
                raise DataError(f"{path} has a {geometry['type']}, expected polygons")
            features.append((parts[0], dict(feature.get("properties") or {})))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not GeoJSON of polygons: {error!r}") from None
    return name, features


def _read_vector(
    path: str | os.PathLike[str], class_field: str
) -> tuple[str | None, list[tuple[Any, dict[str, Any]]]]:
    require("pyogrio", "geo", f"{path}")
    # It has no type hints.
    errors, raw = (importlib.import_module(f"pyogrio.{name}") for name in ("errors", "raw"))
    try:
        about, _, geometries, columns = raw.read(path, force_2d=True)
    except (errors.DataSourceError, OSError) as error:
        raise DataError(f"{path}: {line_of(error)}") from None
    fields = [str(name) for name in about["fields"]]
    rows = zip(*columns, strict=True) if fields else ({} for _ in geometries)
    features = [
        (_ring(geometry, path), dict(zip(fields, row, strict=True)))
        for geometry, row in zip(geometries, rows, strict=True)
    ]
    return about["crs"], features


def _ring(geometry: bytes | None, path: str | os.PathLike[str]) -> Sequence[Any]:
    """Return the outer ring of a polygon in well-known binary."""
    start = 0
    if geometry is not None:
        order, kind = _header(geometry, 0)
        if kind == _MULTIPOLYGON and struct.unpack_from(order + "I", geometry, 5)[0] == 1:
            start = 9
            order, kind = _header(geometry, start)
        if kind == _POLYGON:
            (count,) = struct.unpack_from(order + "I", geometry, start + 9)
            values = np.frombuffer(geometry, order + "f8", 2 * count, start + 13)
            ring: Sequence[Any] = values.reshape(-1, 2).tolist()
            return ring
    raise DataError(f"{path} has a geometry that is no polygon")


def _header(geometry: bytes, start: int) -> tuple[str, int]:
    """Return the byte order and the type of a geometry."""
    order = "<" if geometry[start] else ">"
    return order, struct.unpack_from(order + "I", geometry, start + 1)[0]
