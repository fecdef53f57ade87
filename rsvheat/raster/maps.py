# SPDX-License-Identifier: Apache-2.0
"""Maps read back, and shown."""

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsvheat.data import DataError
from rsvheat.raster.scene import Georeference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Map:
    """A map of classes.

    Attributes:
        labels: (rows, columns) uint8, classes by number; ``nodata`` where there is none.
        classes: Their names.
        colors: (classes, 3) uint8.
        nodata: See ``labels``.
        stride: Side of one of its pixels in pixels of the scene.
        bands: Of the scene, that it was predicted from.
        georeference: Where it lies.
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    colors: NDArray[np.uint8]
    nodata: int
    stride: int
    bands: tuple[int, ...]
    georeference: Georeference


def read_map(path: str | os.PathLike[str]) -> Map:
    """Read a map that :func:`~rsvheat.raster.predict_map` wrote.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is damaged, or no map of classes.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {os.fspath(path)}")
    try:
        with _quietly_open(path) as file:
            tags = file.tags()
            if "RSVHEAT_CLASSES" not in tags:
                raise DataError(f"{path} is no map of classes by rsvheat")
            classes = tuple(json.loads(tags["RSVHEAT_CLASSES"]))
            table = file.colormap(1)
            return Map(
                file.read(1),
                classes,
                np.array([table[i][:3] for i in range(len(classes))], np.uint8),
                int(file.nodata),
                int(tags["RSVHEAT_STRIDE"]),
                tuple(json.loads(tags["RSVHEAT_BANDS"])),
                Georeference.of(file),
            )
    except (RasterioError, OSError) as error:
        raise DataError(f"{path} is damaged or no map: {error.__cause__ or error}") from error


def draw_map(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    opacity: float = 0.5,
    max_side: int = 1200,
) -> "Figure":
    """Draw a scene, and beside it the map over the scene with a legend.

    Args:
        path: The map.
        source: The scene that it was predicted from. Its first three bands that were used, or the
            first, are shown; those that are not uint8 from their 2nd to their 98th percentile.
        opacity: Of the map, from 0 to 1.
        max_side: Larger scenes are shown at lower resolution, of that many pixels at most.

    Returns:
        The figure; ``figure.savefig(...)`` writes it.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If one is damaged, or the map is of another scene.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    found = read_map(path)
    image, (height, width) = _picture(source, found.bands, max_side)
    rows, columns = found.labels.shape
    if (rows, columns) != (-(-height // found.stride), -(-width // found.stride)):
        raise DataError(
            f"{path} has {rows} x {columns} pixels of {found.stride}; it is no map of {source}, "
            f"which has {height} x {width}"
        )
    overlay = np.zeros((rows, columns, 4), np.uint8)
    filled = found.labels != found.nodata
    overlay[filled, :3] = found.colors[found.labels[filled]]
    overlay[filled, 3] = round(255 * opacity)
    side = 5.0
    figure = Figure(
        figsize=(
            2 * side * max(0.4, min(1.0, width / height)) + 1.8,
            side * min(1.0, height / width) + 0.4,
        ),
        layout="constrained",
    )
    extent = (0, width, height, 0)
    for axes, title in zip(figure.subplots(1, 2), ("scene", "map"), strict=True):
        axes.imshow(image, extent=extent)
        axes.set(title=title, xticks=[], yticks=[])
        if title == "map":
            stride = found.stride
            axes.imshow(
                overlay,
                extent=(0, columns * stride, rows * stride, 0),
                interpolation="nearest",
            )
        # The map's last row and column may stick out of the scene.
        axes.set(xlim=(0, width), ylim=(height, 0))
    counts = np.bincount(found.labels[filled], minlength=len(found.classes))
    order = [i for i in np.argsort(counts, kind="stable")[::-1] if counts[i]]
    figure.legend(
        handles=[
            Patch(
                color=found.colors[i] / 255,
                label=f"{found.classes[i]}  {counts[i] / counts.sum():.1%}",
            )
            for i in order
        ],
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    return figure


def _picture(
    source: str | os.PathLike[str], bands: tuple[int, ...], max_side: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a scene as (H, W, 3), white where there is no data, and its full size."""
    chosen = bands[:3] if len(bands) >= 3 else bands[:1] * 3
    try:
        with _quietly_open(source) as file:
            size = file.shape
            shrink = max(1.0, max(size) / max_side)
            shape = (3, *(max(1, round(side / shrink)) for side in size))
            read = file.read(
                list(chosen), out_shape=shape, masked=True, resampling=Resampling.average
            )
    except (RasterioError, OSError, IndexError) as error:
        raise DataError(f"{source} cannot be shown: {error.__cause__ or error}") from error
    if read.dtype == np.uint8:
        scaled = np.ma.getdata(read)
    else:
        values = np.ma.masked_invalid(read.astype(np.float64)).filled(np.nan)
        low, high = np.nanpercentile(values, (2, 98), axis=(1, 2), keepdims=True)
        values = (values - low) / np.where(high > low, high - low, 1)
        scaled = (255 * np.nan_to_num(values).clip(0, 1)).astype(np.uint8)
    picture = np.ascontiguousarray(np.moveaxis(scaled, 0, 2))
    picture[np.min(np.ma.getmaskarray(read), axis=0)] = 255
    return picture, size


def _quietly_open(path: str | os.PathLike[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)
