# SPDX-License-Identifier: Apache-2.0
"""Maps, change and boxes of rasters of any size (``pip install 'rsvheat[geo]'``).

:func:`predict` chooses a :class:`~rsvheat.raster.predictor.Predictor` by the task of a checkpoint:
:mod:`~rsvheat.raster.windows` for a class of each window, :mod:`~rsvheat.raster.dense` for a class
of each pixel, :mod:`~rsvheat.raster.change` for two dates, :mod:`~rsvheat.raster.boxes` for
objects. :func:`read_map` and :func:`draw_map` read and show the maps; :func:`write_polygons` makes
polygons of them.
"""

from rsvheat.raster.box_files import BoxesResult
from rsvheat.raster.colors import class_colors
from rsvheat.raster.map_files import MapResult
from rsvheat.raster.maps import Map, draw_map, read_map
from rsvheat.raster.polygons import PolygonsResult, write_polygons
from rsvheat.raster.predict import predict

__all__ = [
    "BoxesResult",
    "Map",
    "MapResult",
    "PolygonsResult",
    "class_colors",
    "draw_map",
    "predict",
    "read_map",
    "write_polygons",
]
