# SPDX-License-Identifier: Apache-2.0
"""Rasters that are predicted on: pixels as in training, and where they lie on the ground."""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from typing_extensions import Self

from rsvheat.data import DataError, ImageReader, Pixels, Sensor, Window, open_image
from rsvheat.data.readers import _RasterioReader

# What training reads by Pillow is read by it here too: GDAL's libjpeg decodes to other values, and
# its PNG driver takes a file that was cut short for a dark one.
_PILLOW = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
# Bytes of blocks that GDAL keeps, at least; by itself it keeps 5 % of the machine's memory.
_CACHE = 64 * 2**20
# Projections of which a metre is no metre on the ground.
_NOT_TO_SCALE = ("merc", "webmerc", "geos", "eqc")


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies: by a transform, by ground control points, by RPCs, or unknown.

    Attributes:
        crs: Of the transform or the points; None if unknown.
        transform: From (column, row) to coordinates; None if unknown.
        gcps: Ground control points.
        rpcs: Rational polynomial coefficients.
    """

    crs: Any = None
    transform: Any = None
    gcps: Sequence[Any] = ()
    rpcs: Any = None

    @classmethod
    def of(cls, file: Any) -> "Georeference":
        """Return a rasterio dataset's."""
        if not file.transform.is_identity:
            return cls(file.crs, file.transform)
        points, crs = file.gcps
        return cls(crs if points else file.crs, None, tuple(points), file.rpcs)

    def scaled(self, stride: int) -> "Georeference":
        """Return that of a raster with the same corner, and pixels ``stride`` times as wide."""
        transform, rpcs = self.transform, self.rpcs
        if transform is not None:
            transform = transform @ transform.scale(stride)
        gcps = [
            GroundControlPoint(p.row / stride, p.col / stride, p.x, p.y, p.z, p.id, p.info)
            for p in self.gcps
        ]
        if rpcs is not None:
            # RPCs count from the centre of the first pixel.
            about = rpcs.to_dict()
            for axis in ("line", "samp"):
                about[f"{axis}_off"] = (about[f"{axis}_off"] + 0.5) / stride - 0.5
                about[f"{axis}_scale"] = about[f"{axis}_scale"] / stride
            rpcs = type(rpcs)(**about)
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs)

    @property
    def square_metres(self) -> float | None:
        """Area of a pixel, where coordinates are true to scale."""
        crs, transform = self.crs, self.transform
        if crs is None or transform is None or not crs.is_projected:
            return None
        if crs.to_dict().get("proj") in (None, *_NOT_TO_SCALE):
            return None
        return abs(float(transform.determinant)) * float(crs.linear_units_factor[1]) ** 2


class Scene:
    """A raster of any size, read by windows; a context manager that closes it.

    Files are those of GDAL: GeoTIFF, VRT and others. PNG and JPEG are decoded whole, as in
    training.

    Args:
        source: The file.
        bands: How many bands are needed.
        select: Which bands of the file, counted from 1, in which order; None for all but alpha,
            where there are as many as needed.
        nodata: A value that stands for no data, where the file does not say so.

    Attributes:
        georeference: Where it lies.
        height: In pixels.
        width: Likewise.
        bands: How many are read.
        select: Which of the file's.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is damaged, or its bands do not fit.
        ValueError: If ``select`` is not as above.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        bands: int,
        select: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.name, self.bands = os.fspath(source), bands
        if select is not None and len(select) != bands:
            raise ValueError(f"bands must name {bands} bands, as the model takes, got {select}")
        self._sensor = Sensor(bands, select, nodata=nodata)
        self._reader, self.georeference, cache = _open(self.name)
        # Rows are read once, from top to bottom: blocks are needed again by the next rows only.
        self._environment = rasterio.Env(GDAL_CACHEMAX=max(_CACHE, 2 * cache))
        self.height, self.width = self._reader.height, self._reader.width
        try:
            self.select = self._chosen()
        except DataError:
            self.close()
            raise

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
            chosen = list(range(1, needed + 1)) if reader.bands > needed else [1] * needed
            raise DataError(
                f"{there}, and the model takes {needed}: choose them, such as --bands "
                f"{json.dumps(chosen, separators=(',', ':'))}"
            )
        return reader._data_bands() if reader.bands == needed else tuple(range(1, needed + 1))

    def read(self, window: Window) -> Pixels:
        """Read a window.

        Args:
            window: Which.

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
        """Bound GDAL's cache, and return the scene."""
        self._environment.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()
        self._environment.__exit__()


def _open(name: str) -> tuple[ImageReader, Georeference, int]:
    """Return what reads a file, where it lies, and the size of a row of its blocks in bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name) as file:
                driver, georeference = file.driver, Georeference.of(file)
                lines = max(height for height, _ in file.block_shapes)
                pixel = sum(np.dtype(dtype).itemsize for dtype in file.dtypes)
                cache = lines * file.width * pixel
    except (RasterioError, OSError) as error:
        if not Path(name).exists() and "No such file" in str(error):
            raise FileNotFoundError(f"there is no file {name}") from None
        raise DataError(f"{name} cannot be opened, or is damaged: {error}") from error
    if driver in _PILLOW:
        return open_image(name), georeference, 0
    return _RasterioReader(name, name), georeference, cache
