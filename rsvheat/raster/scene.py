# SPDX-License-Identifier: Apache-2.0
"""Rasters to predict on: pixels as training reads them, and where they lie on the ground."""

import functools
import json
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from typing_extensions import Self

from rsvheat.data import DataError, Pixels, SampleError, Sensor, Window, open_image
from rsvheat.data.aligned_reader import AlignedReader

# Bytes of blocks that GDAL keeps, at least; by default it keeps 5 % of the machine's memory.
_CACHE = 64 * 2**20
# Projections in which a meter is not a meter on the ground.
_NOT_TO_SCALE = ("merc", "webmerc", "geos", "eqc")


@dataclass(frozen=True)
class Georeference:
    """Location of a raster: by a transform, by ground control points, by RPCs, or unknown.

    Attributes:
        crs: Reference system of the transform or the points; None if unknown.
        transform: Affine transform from (column, row) to coordinates; None if unknown.
        gcps: Ground control points.
        rpcs: Rational polynomial coefficients.
    """

    crs: Any = None
    transform: Any = None
    gcps: Sequence[Any] = ()
    rpcs: Any = None

    @classmethod
    def of(cls, file: Any) -> "Georeference":
        """Return the georeference of a rasterio dataset."""
        if not file.transform.is_identity:
            return cls(file.crs, file.transform)
        points, crs = file.gcps
        return cls(crs if points else file.crs, None, tuple(points), file.rpcs)

    def scaled(self, stride: int) -> "Georeference":
        """Return the georeference of a raster with the same corner and larger pixels.

        Args:
            stride: Ratio of the sides of the pixels.
        """
        transform, rpcs = self.transform, self.rpcs
        if transform is not None:
            transform = transform @ transform.scale(stride)
        gcps = [
            GroundControlPoint(p.row / stride, p.col / stride, p.x, p.y, p.z, p.id, p.info)
            for p in self.gcps
        ]
        if rpcs is not None:
            # RPCs count from the center of the first pixel.
            about = rpcs.to_dict()
            for axis in ("line", "samp"):
                about[f"{axis}_off"] = (about[f"{axis}_off"] + 0.5) / stride - 0.5
                about[f"{axis}_scale"] = about[f"{axis}_scale"] / stride
            rpcs = type(rpcs)(**about)
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs)

    @property
    def equal_area(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
        """Map of points (N, 2) as column, row to a plane with the areas of the ground in m2.

        None where coordinates have no scale. In longitude and latitude areas are those of the
        ellipsoid, exact for what lies between meridians and parallels.
        """
        crs, transform = self.crs, self.transform
        if crs is None or transform is None:
            return None
        if crs.is_geographic:
            return functools.partial(_on_cylinder, transform, *_ellipsoid(crs))
        if not crs.is_projected or crs.to_dict().get("proj") in (None, *_NOT_TO_SCALE):
            return None
        area = abs(float(transform.determinant)) * float(crs.linear_units_factor[1]) ** 2
        return lambda points: points * (area, 1.0)

    def row_areas(self, first: int, rows: int) -> NDArray[np.float64] | None:
        """Return the area in m2 on the ground of a pixel of each row.

        Args:
            first: Number of the first row.
            rows: Number of rows.

        Returns:
            Areas (rows,); None where coordinates have no scale.
        """
        if self.equal_area is None:
            return None
        edges = np.arange(first, first + rows + 1, dtype=np.float64)
        left, right = (
            self.equal_area(np.stack((np.full_like(edges, x), edges), 1)) for x in (0.0, 1.0)
        )
        across, down = right - left, np.diff(left, axis=0)
        return np.abs(across[:-1, 0] * down[:, 1] - across[:-1, 1] * down[:, 0])


def _ellipsoid(crs: Any) -> tuple[float, float]:
    """Return the semi-major axis in m and the squared eccentricity."""
    found = re.search(r'SPHEROID\["[^"]*",([0-9.eE+]+),([0-9.eE+]+)', crs.to_wkt())
    if found is None:
        return 6378137.0, 0.0066943799901413165  # of WGS 84
    axis, inverse_flattening = float(found[1]), float(found[2])
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    return axis, flattening * (2 - flattening)


def _on_cylinder(
    transform: Any, axis: float, squared: float, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return points in the cylindrical equal-area projection of an ellipsoid, in m.

    Source: Snyder, Map Projections: A Working Manual (1987), equations 3-12 and 10-14.
    """
    columns, rows = points.T
    longitude = np.deg2rad(transform.a * columns + transform.b * rows + transform.c)
    sine = np.sin(np.deg2rad(transform.d * columns + transform.e * rows + transform.f))
    q = 2 * sine
    if squared:
        e = np.sqrt(squared)
        q = (1 - squared) * (sine / (1 - squared * sine**2) + np.arctanh(e * sine) / e)
    return np.stack((axis * longitude, axis * q / 2), 1)


class Scene:
    """A raster of any size, read by windows; a context manager that closes it.

    All formats of GDAL are read: GeoTIFF, VRT and others. PNG and JPEG are decoded whole, as in
    training, unless they are too large for that.

    Args:
        source: Path of the raster, or a name that GDAL knows.
        bands: Number of bands that are needed.
        select: Numbers of the bands to read, counted from 1, in the order wanted; None for all but
            alpha, if there are as many as needed.
        nodata: Value that stands for no data, if the file does not name it.
        like: Scene on whose grid this one is read, interpolated bilinearly, if its own is another.

    Attributes:
        georeference: Location on the ground.
        resampled: Whether pixels are interpolated on another grid than the file's.
        height: Number of rows.
        width: Number of columns.
        bands: Number of bands that are read.
        select: Their numbers in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is damaged, or its bands do not fit.
        ValueError: If ``select`` has another number of bands.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        bands: int,
        select: Sequence[int] | None = None,
        nodata: float | None = None,
        like: "Scene | None" = None,
    ) -> None:
        self.name, self.bands = os.fspath(source), bands
        if select is not None and len(select) != bands:
            raise ValueError(f"bands must name {bands} bands, as the model takes, got {select}")
        self._sensor = Sensor(bands, select, nodata=nodata)
        try:
            self._reader = open_image(self.name)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {self.name}") from None
        except SampleError as error:
            if error.kind != "damaged":
                raise
            raise DataError(
                f"{self.name} cannot be opened, or is damaged: {error.reason}"
            ) from error
        try:
            self.georeference, cache = _header(self.name)
            self.select = self._chosen()
            self.resampled = like is not None and not self._has_grid_of(like)
            if like is not None and self.resampled:
                self._resample(like)
        except DataError:
            self.close()
            raise
        # Rows are read once, from top to bottom: blocks are needed again by the next rows only.
        self._environment = rasterio.Env(GDAL_CACHEMAX=max(_CACHE, 2 * cache))
        self.height, self.width = self._reader.height, self._reader.width

    def _chosen(self) -> tuple[int, ...]:
        reader, needed = self._reader, self._sensor.bands
        there = f"{self.name} has {reader.stored} band{'s' * (reader.stored > 1)}"
        if reader.stored > reader.bands:
            there += f", {reader.stored - reader.bands} of them alpha"
        if self._sensor.select is not None:
            if max(self._sensor.select) > reader.stored:
                raise DataError(f"{there}, asked for {list(self._sensor.select)}")
            return tuple(self._sensor.select)
        if needed not in (reader.bands, reader.stored):
            # With fewer bands any choice would repeat one, and the map would look right.
            first = json.dumps(list(range(1, needed + 1)), separators=(",", ":"))
            hint = f": choose them, such as --bands {first}" if reader.bands > needed else ""
            raise DataError(f"{there}, and the model takes {needed}{hint}")
        return reader.data_bands if reader.bands == needed else tuple(range(1, needed + 1))

    def _has_grid_of(self, other: "Scene") -> bool:
        ours, theirs = self._reader, other._reader
        if (ours.height, ours.width) != (theirs.height, theirs.width):
            return False
        a, b = self.georeference, other.georeference
        if a.crs != b.crs or (a.transform is None) != (b.transform is None):
            return False
        if a.transform is None or b.transform is None:
            return True
        # A hundredth of a pixel: the coordinates of grids differ by rounding.
        here, there = (np.array(x.transform).reshape(3, 3) for x in (a, b))
        return bool(np.abs(np.linalg.solve(here, there) - np.eye(3)).max() < 0.01)

    def _resample(self, like: "Scene") -> None:
        """Read the file on another scene's grid."""
        for scene in (self, like):
            if scene.georeference.transform is None:
                ours, theirs = self._reader, like._reader
                raise DataError(
                    f"{self.name} has {ours.height} x {ours.width} pixels, and {like.name} has "
                    f"{theirs.height} x {theirs.width} or lies elsewhere; {scene.name} has no "
                    "transform to resample it by: rasters must have the same grid"
                )
        try:
            reader = AlignedReader(self.name, like.name)
        except SampleError as error:
            raise DataError(
                f"{self.name} cannot be resampled to the grid of {like.name}: {error.reason}"
            ) from error
        self._reader.close()
        self._reader, self.georeference = reader, like.georeference

    @property
    def pixel_bytes(self) -> int:
        """Bytes that a pixel takes in memory: its values, and whether they are valid."""
        return self.bands * (self._reader.dtype.itemsize + 1)

    def read(self, window: Window) -> Pixels:
        """Read a window.

        Args:
            window: Part of the raster.

        Returns:
            The chosen bands, and where they hold data.

        Raises:
            DataError: If the file is damaged there.
        """
        return self._sensor.read(self._reader, window)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        """Limit GDAL's cache, and return the scene."""
        self._environment.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()
        self._environment.__exit__()


def source_files(source: str | os.PathLike[str]) -> set[Path]:
    """Return the files on disk that a raster is read from.

    Args:
        source: Path of the raster, or a name that GDAL knows. A virtual raster (VRT) is read from
            the rasters that it names and, if these are virtual too, from those that they name; an
            archive is the file for all that is in it. Files that cannot be opened are left out:
            reading the raster tells of them.
    """
    name = os.fspath(source)
    found = _on_disk(name)
    with suppress(RasterioError, CPLE_BaseError, OSError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(os.path.abspath(name) if os.path.exists(name) else name) as file:
            for other in file.files:
                found |= _on_disk(other)
    seen: set[Path] = set()
    while virtual := {path for path in found - seen if path.suffix.lower() == ".vrt"}:
        seen |= virtual
        for path in virtual:
            for other in _vrt_sources(path):
                found |= _on_disk(other)
    return found


def _vrt_sources(path: Path) -> list[str]:
    """Return the names of the rasters that a VRT is made of.

    GDAL lists those that are files, not those within archives or other files.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return []
    names = []
    for element in root.iter():
        if element.tag in ("SourceFilename", "SourceDataset") and element.text:
            relative = element.get("relativeToVRT", element.get("relativetoVRT")) == "1"
            names.append(str(path.parent / element.text) if relative else element.text)
    return names


def _on_disk(name: str) -> set[Path]:
    """Return the files that a name of GDAL is about, such as /vsizip/{a.zip}/b.tif."""
    plain = re.sub(r"^(/vsi[a-z0-9_]+/)+", "", name)
    paths = set()
    # GTIFF_DIR:1:a.tif, NETCDF:"a.nc":b, /vsisubfile/0_9,a.tif
    for part in {plain, *re.split(r'[:",{}]', plain)}:
        while part and not os.path.exists(part):
            part = os.path.dirname(part.rstrip("/"))  # within an archive
        if part and os.path.isfile(part):
            paths.add(Path(part).resolve())
    return paths


def _header(name: str) -> tuple[Georeference, int]:
    """Return where a raster lies, and the size of a row of its blocks in bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(os.path.abspath(name) if os.path.exists(name) else name) as file:
                lines = max(height for height, _ in file.block_shapes)
                pixel = sum(_itemsize(dtype) for dtype in file.dtypes)
                return Georeference.of(file), lines * file.width * pixel
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise DataError(f"{name} cannot be opened, or is damaged: {error}") from error


def _itemsize(dtype: str) -> int:
    # GDAL's complex_int16 is no dtype of NumPy.
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize
