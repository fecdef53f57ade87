# SPDX-License-Identifier: Apache-2.0
"""Polygons of the classes of a map, of any size."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window

from rsvheat.raster.maps import opened_map
from rsvheat.raster.scene import Georeference
from rsvheat.raster.vector_files import vector_file

# Rows of the map that are made into polygons at a time.
_ROWS = 2048


@dataclass(frozen=True)
class PolygonsResult:
    """A file of polygons that was written.

    Attributes:
        path: Path of the file.
        count: Number of polygons.
    """

    path: Path
    count: int

    def __str__(self) -> str:
        """Return a line."""
        return f"{self.path}: {self.count} polygons"


def write_polygons(
    map_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    min_pixels: int = 1,
    simplify: float = 0.0,
    overwrite: bool = False,
) -> PolygonsResult:
    """Write the classes of a map as polygons, one for each connected area of a class.

    Areas are connected over sides of pixels, not over corners. Pixels without data are in no
    polygon. Each has the attributes ``class``, ``label`` (the number of the class), ``pixels`` and,
    where the map is georeferenced, ``square_metres`` on the ground. The map is read in strips;
    memory holds the polygons that reach into the next one.

    Args:
        map_path: Path of a map that ``rsvheat.raster.predict`` wrote.
        output: Path of the file: ``.gpkg``, ``.fgb``, ``.parquet`` or ``.geojson``.
        min_pixels: Number of pixels of the smallest areas that are written.
        simplify: Tolerance in pixels within which borders are made simpler (Douglas-Peucker), which
            may leave gaps and overlaps of that size between neighbors; 0 keeps the pixels' borders.
        overwrite: Whether an older file is replaced.

    Returns:
        Summary.

    Raises:
        ValueError: If an argument is not as above.
        FileNotFoundError: If there is no such map.
        FileExistsError: If there is an output, and ``overwrite`` is not set.
        DataError: If the file is damaged, or no map of classes.
        OSError: If the output cannot be written.
    """
    import shapely

    if min_pixels < 1 or simplify < 0:
        raise ValueError(
            f"min_pixels must be at least 1 and simplify at least 0, got {min_pixels}, {simplify}"
        )
    output, count = Path(output), 0
    with opened_map(map_path) as file:
        tags, place = file.tags(), Georeference.of(file)
        names = np.array(json.loads(tags["RSVHEAT_CLASSES"]), object)
        kept = {name: text for name, text in tags.items() if name.startswith("RSVHEAT")}
        with vector_file(output, "polygons", place, kept, overwrite) as (layer, projection, _):
            for polygons, labels in _areas(file):
                pixels = shapely.area(polygons).round().astype(np.int64)
                chosen = pixels >= min_pixels
                polygons, labels, pixels = polygons[chosen], labels[chosen], pixels[chosen]
                columns: dict[str, NDArray[Any]] = {
                    "class": names[labels],
                    "label": labels,
                    "pixels": pixels,
                }
                if place.equal_area is not None:
                    ground = shapely.area(shapely.transform(polygons, place.equal_area))
                    columns["square_metres"] = ground.round(3)
                if simplify:
                    polygons = shapely.simplify(polygons, simplify, preserve_topology=True)
                placed = shapely.transform(polygons, projection)
                layer.write(shapely.orient_polygons(placed), columns)
                count += len(polygons)
    return PolygonsResult(output, count)


def _areas(file: Any) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Yield polygons in pixels with their labels, of which no later row has a part."""
    import shapely

    height, width = file.shape
    waiting, labels = np.zeros(0, object), np.zeros(0, np.int64)
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        values = file.read(1, window=Window(0, top, width, rows))
        found, theirs = _shapes(values, top, int(file.nodata))
        if len(waiting):
            found, theirs = _joined(waiting, labels, found, theirs, top)
        later = shapely.bounds(found)[:, 3] >= top + rows if len(found) else np.zeros(0, bool)
        if top + rows == height:
            later[:] = False
        yield found[~later], theirs[~later]
        waiting, labels = found[later], theirs[later]


def _shapes(
    values: NDArray[np.uint8], top: int, nodata: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the polygons of the rows from ``top`` on, and their labels."""
    import shapely

    shapes = rasterio.features.shapes(
        values, values != nodata, connectivity=4, transform=Affine.translation(0, top)
    )
    polygons, labels = [], []
    for shape, label in shapes:
        shell, *holes = shape["coordinates"]
        polygons.append(shapely.Polygon(shell, holes))
        labels.append(int(label))
    return np.array(polygons, object), np.array(labels, np.int64)


def _joined(
    above: NDArray[Any],
    labels_above: NDArray[np.int64],
    below: NDArray[Any],
    labels_below: NDArray[np.int64],
    seam: int,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return polygons of which those that share a border on the seam of two strips are one."""
    import shapely

    polygons, labels = np.concatenate((above, below)), np.concatenate((labels_above, labels_below))
    bounds = shapely.bounds(polygons)
    # Those above reach down to the seam; of those below some begin there.
    near = (bounds[:, 1] <= seam) & (bounds[:, 3] >= seam)
    whole, theirs = list(polygons[~near]), list(labels[~near])
    for label in np.unique(labels[near]):
        union = shapely.union_all(polygons[near & (labels == label)])
        # It keeps the corners on the seam, which are none any more.
        parts = shapely.simplify(shapely.get_parts(union), 0)
        whole += list(parts)
        theirs += [int(label)] * len(parts)
    return np.array(whole, object), np.array(theirs, np.int64)
