# SPDX-License-Identifier: Apache-2.0
"""Coordinates of a raster's pixels in reference systems, and areas on the ground."""

from typing import Any

import numpy as np
import rasterio.warp
from numpy.typing import NDArray
from rasterio.transform import GCPTransformer, RPCTransformer

from rsvheat.raster.scene import Georeference

LONGITUDE_LATITUDE = "EPSG:4326"


class Projection:
    """Coordinates of pixels on the map of a raster, or in another reference system.

    Args:
        place: Location of the raster.
        target: Reference system of the coordinates; None for the raster's own.

    Attributes:
        crs: Reference system of the coordinates; None where they are columns and rows.
    """

    def __init__(self, place: Georeference, target: str | None = None) -> None:
        self._place = place
        self._source = place.crs
        if place.transform is None and place.rpcs is not None and not place.gcps:
            self._source = LONGITUDE_LATITUDE
        self.crs = self._source if self._source is None or target is None else target

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coordinates (..., 2) as x, y of points (..., 2) as column, row."""
        x, y = self.on_map(points)
        if self.crs != self._source and len(x):
            x, y = rasterio.warp.transform(self._source, self.crs, x, y)
        return np.stack((x, y), 1).reshape(points.shape)

    @property
    def has_place(self) -> bool:
        """Whether the raster is georeferenced; otherwise coordinates are columns and rows."""
        place = self._place
        return place.transform is not None or bool(place.gcps) or place.rpcs is not None

    def on_map(self, points: NDArray[np.float64]) -> tuple[Any, Any]:
        """Return x and y (N,) in the raster's own reference system.

        Args:
            points: Points (..., 2) as column, row; N in all.
        """
        columns, rows = points.reshape(-1, 2).T
        place = self._place
        if place.transform is not None:
            t = place.transform
            return t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
        if not self.has_place or not len(rows):
            return columns, rows
        kind, about = (GCPTransformer, place.gcps) if place.gcps else (RPCTransformer, place.rpcs)
        with kind(about) as transformer:
            return transformer.xy(rows, columns, offset="ul")  # type: ignore[no-any-return]
