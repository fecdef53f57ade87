# SPDX-License-Identifier: Apache-2.0
"""Compares where georeferenced files lie, by their headers."""

import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from rsvheat.data.gdal_reader import gdal_errors
from rsvheat.data.skip_report import SampleError

# Parts of a pixel by which the corners of two images of the same ground may differ.
TOLERANCE = 0.5

# Tags of TIFF: width, height; pixel scale, tie points, transform and keys of GeoTIFF.
_SIZE, _GEOREFERENCE = (256, 257), (33550, 33922, 34264, 34735, 34736, 34737)
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d", 16: "Q"}
_MOST_VALUES = 4096  # of a tag; damaged files may claim any number


class _Place(NamedTuple):
    """Grid of a georeferenced file.

    Attributes:
        size: Numbers of rows and columns.
        transform: Affine transform from (column, row) to coordinates.
        crs: Reference system of the coordinates; None if unknown.
    """

    size: tuple[int, int]
    transform: Any
    crs: Any


class Places:
    """Makes sure that files of one sample show the same ground.

    Files without a georeference, and those with ground control points or RPCs alone, are not
    compared. Only headers are read. Reference systems may differ by name, as long as the corners
    of the images agree.
    """

    def __init__(self) -> None:
        self._listings: dict[str, frozenset[str]] = {}

    def check(self, paths: Sequence[str], part: tuple[int, int] | None = None) -> None:
        """Compare files.

        Args:
            paths: Files that are to be of the same grid.
            part: Numbers of rows and columns, from the upper left corner, that are compared of
                files that differ in size; None for all.

        Raises:
            SampleError: If two of them differ in size, or if their corners are more than half a
                pixel apart.
        """
        headers = [_tiff_header(path) for path in paths]
        if headers[0] is not None and all(header == headers[0] for header in headers):
            return
        candidates = [
            path
            for path, header in zip(paths, headers, strict=True)
            if header is not None or self._may_be_placed(path)
        ]
        if len(candidates) < 2:
            return
        places = {path: place for path in candidates if (place := _place(path)) is not None}
        if part is not None:
            places = {path: place._replace(size=part) for path, place in places.items()}
        if len(places) < 2:
            return
        first, *others = places
        for path in others:
            here, there = places[first], places[path]
            if there.size != here.size:
                pixels = "{} has {} x {} pixels, {} has {} x {}"
                raise SampleError("size", pixels.format(first, *here.size, path, *there.size))
            difference = _difference(here, there)
            if difference is not None:
                raise SampleError("place", f"{path} {difference} {first}")

    def _may_be_placed(self, path: str) -> bool:
        """Return whether a file may have a georeference, by its name and those beside it."""
        folder, name = os.path.split(path)
        stem, suffix = os.path.splitext(name.lower())
        if suffix == ".jp2":
            return True
        if folder not in self._listings:
            names = os.listdir(folder or os.curdir)
            self._listings[folder] = frozenset(other.lower() for other in names)
        world = f".{suffix[1:2]}{suffix[-1:]}w"
        beside = (stem + world, f"{stem}{suffix}w", f"{stem}.wld", f"{stem}{suffix}.aux.xml")
        return not self._listings[folder].isdisjoint(beside)


def _difference(first: _Place, other: _Place) -> str | None:
    """Return how a place differs from the first, as the beginning of "... than FILE"."""
    height, width = first.size
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    found = [other.transform @ corner for corner in corners]
    systems = ""
    if first.crs and other.crs and first.crs != other.crs:
        systems = f" ({_name(other.crs)}, {_name(first.crs)})"
        found = _transformed(found, other.crs, first.crs)
    inverse = ~first.transform
    found = [inverse @ corner for corner in found]
    if all(_near(a, b) for a, b in zip(found, corners, strict=True)):
        return None
    if systems:
        return f"has another reference system and grid{systems} than"
    if all(any(_near(a, b) for b in corners) for a in found):
        return "is flipped or rotated compared with"
    columns, rows = found[0]
    if _near(found[0], corners[0]):
        return "has pixels of another size or direction than"
    return f"lies {rows:+.1f} rows and {columns:+.1f} columns away from"


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) <= TOLERANCE for x, y in zip(a, b, strict=True))  # False for NaN


def _transformed(points: list[Any], source: Any, target: Any) -> list[Any]:
    import rasterio.warp
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        x, y = rasterio.warp.transform(source, target, *zip(*points, strict=True))
    except (RasterioError, CPLE_BaseError):  # there is no way from one to the other
        return [(float("nan"), float("nan"))] * len(points)
    return list(zip(x, y, strict=True))


def _name(crs: Any) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_string()).split("\n")[0][:60]


def _place(path: str) -> _Place | None:
    """Return the grid of a file; None without a georeference, or if the file is damaged."""
    import rasterio

    try:
        with (
            gdal_errors(path, "cannot be opened"),
            rasterio.open(os.path.abspath(path), sharing=False) as file,
        ):
            if file.transform.is_identity:
                return None
            return _Place(file.shape, file.transform, file.crs)
    except SampleError:  # reading it tells why
        return None


def _tiff_header(path: str) -> tuple[Any, ...] | None:
    """Return size and georeference of a TIFF as its first directory holds them.

    Opening a file by GDAL takes thirty times as long. None for other files, and for those without a
    georeference: a world file may lie beside them.
    """
    if not path.lower().endswith((".tif", ".tiff")):
        return None
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
            order = {b"II": "<", b"MM": ">"}[magic[:2]]
            (version,) = struct.unpack(order + "H", magic[2:4])
            big = {42: False, 43: True}[version]
            word, at = ("Q", magic[8:16]) if big else ("I", magic[4:8])
            file.seek(struct.unpack(order + word, at)[0])
            number = order + ("Q" if big else "H")
            (entries,) = struct.unpack(number, file.read(struct.calcsize(number)))
            size = 20 if big else 12
            if entries > _MOST_VALUES:
                return None
            directory = file.read(entries * size)
            found = {}
            for start in range(0, len(directory), size):
                entry = directory[start : start + size]
                tag, kind, count = struct.unpack_from(order + "HH" + word, entry)
                if tag not in (*_SIZE, *_GEOREFERENCE):
                    continue
                values = f"{order}{count}{_FORMATS[kind]}"
                if count > _MOST_VALUES:
                    return None
                length, content = struct.calcsize(values), entry[-struct.calcsize(word) :]
                if length > len(content):
                    file.seek(struct.unpack(order + word, content)[0])
                    content = file.read(length)
                found[tag] = struct.unpack_from(values, content)
    except (OSError, KeyError, struct.error, ValueError, OverflowError):
        return None
    if not set(_SIZE) <= found.keys() or not found.keys() & set(_GEOREFERENCE[:3]):
        return None
    return tuple(found.get(tag) for tag in (*_SIZE, *_GEOREFERENCE))
