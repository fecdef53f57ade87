# SPDX-License-Identifier: Apache-2.0
"""Reading and drawing of maps of classes."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from rsvheat.data import DataError
from rsvheat.raster.scene import Georeference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Map:
    """A map of classes.

    Attributes:
        labels: Numbers of the classes (rows, columns), uint8; ``nodata`` where there is none.
        classes: Names of the classes.
        colors: Colors of the classes (classes, 3), uint8.
        nodata: Value of ``labels`` without a class.
        stride: Side of a pixel of the map in pixels of the scene; 1 for classes of pixels.
        bands: Bands of the scene that the map was predicted from; of several rasters, the first's.
        georeference: Place of the map.
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    colors: NDArray[np.uint8]
    nodata: int
    stride: int
    bands: tuple[int, ...]
    georeference: Georeference


def read_map(path: str | os.PathLike[str]) -> Map:
    """Read a map that ``rsvheat.raster.predict`` wrote.

    Args:
        path: Path of the map.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is damaged, or no map of classes.
    """
    with opened_map(path) as file:
        tags = file.tags()
        return Map(
            file.read(1),
            *_legend(file),
            int(file.nodata),
            int(tags["RSVHEAT_STRIDE"]),
            _bands(tags),
            Georeference.of(file),
        )


def read_legend(path: str | os.PathLike[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the names of a map's classes, and their colors (classes, 3).

    Args:
        path: Path of the map.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is damaged, or no map of classes.
    """
    with opened_map(path) as file:
        return _legend(file)


def _legend(file: Any) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    classes = tuple(json.loads(file.tags()["RSVHEAT_CLASSES"]))
    table = file.colormap(1)
    return classes, np.array([table[i][:3] for i in range(len(classes))], np.uint8)


@contextmanager
def opened_map(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a map of classes as rasterio's dataset; errors of reading in the block name it.

    Args:
        path: Path of the map.

    Yields:
        The dataset.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is damaged, or no map of classes.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {os.fspath(path)}")
    try:
        with _quietly_open(path) as file:
            if "RSVHEAT_CLASSES" not in file.tags():
                raise DataError(f"{path} is no map of classes by rsvheat")
            yield file
    except (RasterioError, OSError) as error:
        raise DataError(f"{path} is damaged or no map: {error.__cause__ or error}") from error


def _bands(tags: dict[str, str], source: str | os.PathLike[str] = "") -> tuple[int, ...]:
    """Return the bands that a map was predicted from, of a raster or else of the first one."""
    bands = json.loads(tags["RSVHEAT_BANDS"])
    if isinstance(bands, dict):
        names = json.loads(tags["RSVHEAT_SOURCE"])
        shown = [name for name in bands if names[name] == Path(source).name]
        bands = bands[(shown or list(bands))[0]]
    return tuple(bands)


def draw_map(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    opacity: float = 0.5,
    max_side: int = 1200,
) -> "Figure":
    """Draw a scene, and beside it the map over the scene with a legend.

    Args:
        path: Path of the map.
        source: Path of the raster that the map was predicted from; of several, the one to show.
            Its first three bands that were used, or the first, are shown, stretched from their 2nd
            to their 98th percentile unless they are uint8.
        opacity: Opacity of the map, from 0 to 1.
        max_side: Largest side in pixels at which scene and map are shown; larger ones are shown at
            lower resolution.

    Returns:
        The figure; ``figure.savefig(...)`` writes it.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If a file is damaged, or the map is of another scene.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    with opened_map(path) as file:
        classes, colors = _legend(file)
        stride, bands = int(file.tags()["RSVHEAT_STRIDE"]), _bands(file.tags(), source)
        nodata, (rows, columns) = int(file.nodata), file.shape
        shape = shrunk(file.shape, max_side)
        labels = file.read(1, out_shape=shape, resampling=Resampling.mode)
        counts = np.zeros(256, np.int64)
        for _, window in file.block_windows(1):
            counts += np.bincount(file.read(1, window=window).ravel(), minlength=256)
    counts[nodata] = 0
    image, (height, width) = scene_picture(source, bands, max_side)
    if (rows, columns) != (-(-height // stride), -(-width // stride)):
        raise DataError(
            f"{path} has {rows} x {columns} pixels of {stride}; it is no map of {source}, "
            f"which has {height} x {width}"
        )
    overlay = np.zeros((*shape, 4), np.uint8)
    filled = labels != nodata
    overlay[filled, :3] = colors[labels[filled]]
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
            axes.imshow(
                overlay,
                extent=(0, columns * stride, rows * stride, 0),
                interpolation="nearest",
            )
        # The map's last row and column may stick out of the scene.
        axes.set(xlim=(0, width), ylim=(height, 0))
    order = [i for i in np.argsort(counts, kind="stable")[::-1] if counts[i]]
    figure.legend(
        handles=[
            Patch(
                color=colors[i] / 255,
                label=f"{classes[i]}  {counts[i] / counts.sum():.1%}",
            )
            for i in order
        ],
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    return figure


def shrunk(shape: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return a size of at most some pixels, of the same shape.

    Args:
        shape: Height and width.
        max_side: Largest height and width.
    """
    shrink = max(1.0, max(shape) / max_side)
    return max(1, round(shape[0] / shrink)), max(1, round(shape[1] / shrink))


def scene_picture(
    source: str | os.PathLike[str],
    bands: tuple[int, ...],
    max_side: int,
    like: str | os.PathLike[str] | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a scene as (H, W, 3), white where there is no data, and its full size.

    Args:
        source: Path of the raster.
        bands: Bands to show: the first three, or the first.
        max_side: Largest side in pixels.
        like: Path of the raster on whose grid it is shown; None for its own.

    Returns:
        The picture, and the height and width of the raster.

    Raises:
        DataError: If the file cannot be read.
    """
    chosen = bands[:3] if len(bands) >= 3 else bands[:1] * 3
    try:
        with ExitStack() as stack:
            file = stack.enter_context(_quietly_open(source))
            covered: Any = True
            if like is not None:
                grid = stack.enter_context(_quietly_open(like))
                file = stack.enter_context(
                    WarpedVRT(
                        file,
                        crs=grid.crs,
                        transform=grid.transform,
                        height=grid.height,
                        width=grid.width,
                        resampling=Resampling.bilinear,
                        add_alpha=ColorInterp.alpha not in file.colorinterp,
                    )
                )
                # GDAL takes an alpha band for a mask only where there are one or three others.
                number = file.colorinterp.index(ColorInterp.alpha) + 1
                covered = file.read(number, out_shape=shrunk(file.shape, max_side)) > 0
            size = file.shape
            read = file.read(
                list(chosen),
                out_shape=(3, *shrunk(size, max_side)),
                masked=True,
                resampling=Resampling.average,
            )
            read = np.ma.masked_where(np.broadcast_to(~np.array(covered), read.shape), read)
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
