# SPDX-License-Identifier: Apache-2.0
"""Maps of rasters of any size (``pip install 'rsvheat[geo,train]'``).

A :class:`~rsvheat.raster.grid.Grid` says which window each pixel of a map stands for,
:func:`~rsvheat.raster.sweep.sweep` reads them and asks a :class:`~rsvheat.raster.sweep.Predictor`,
:func:`~rsvheat.raster.writing.writing` takes what it says.
"""

from rsvheat.raster.classification import MapResult, predict_map
from rsvheat.raster.colors import class_colors
from rsvheat.raster.maps import Map, draw_map, read_map

__all__ = ["Map", "MapResult", "class_colors", "draw_map", "predict_map", "read_map"]
