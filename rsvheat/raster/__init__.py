# SPDX-License-Identifier: Apache-2.0
"""Maps, change and boxes of rasters of any size (``pip install 'rsvheat[geo]'``).

``predict`` chooses a ``rsvheat.raster.predictor.Predictor`` by the task of a checkpoint:
``rsvheat.raster.windows`` for a class of each window, ``rsvheat.raster.dense`` for a class
of each pixel, ``rsvheat.raster.change`` for two dates, ``rsvheat.raster.boxes`` for
objects. ``read_map`` and ``draw_map`` read and show the maps; ``write_polygons`` makes
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
