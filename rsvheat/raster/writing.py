# SPDX-License-Identifier: Apache-2.0
"""Maps as cloud-optimized GeoTIFF (COG) that are there whole or not at all."""

import errno
import functools
import shutil
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from rsvheat._files import remove_unfinished, replacing
from rsvheat.raster.scene import Georeference

_BLOCK = 512

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Layer:
    """What a file of a map holds.

    Attributes:
        path: The file.
        dtype: Of its pixels.
        nodata: The value that stands for no data.
        description: Of its band.
        resampling: How overviews are made.
        scale: Factor to the unit that the description is about.
        names: Of the values from 0 on, if they are classes.
        colors: (n, 3) uint8, of the values from 0 on.
        tags: Metadata.
    """

    path: Path
    dtype: str
    nodata: float
    description: str
    resampling: str
    scale: float = 1.0
    names: Sequence[str] = ()
    colors: NDArray[np.uint8] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class LayerWriter:
    """Takes the rows of a map from top to bottom; see :func:`writing`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.counts: Counter[float] = Counter()

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Write rows.

        Args:
            row: The first of them.
            values: (rows, columns).
        """
        height, width = values.shape
        self._file.write(values, 1, window=RasterioWindow(0, row, width, height))
        self.counts += _count(values)


@contextmanager
def writing(
    layer: Layer, rows: int, columns: int, georeference: Georeference, overwrite: bool = False
) -> Iterator[LayerWriter]:
    """Write a map; its file appears, or replaces an older one, when the block succeeds.

    Rows go to an uncompressed file in a temporary folder beside the map, since a COG cannot be
    written piece by piece; that becomes the COG, which is read back before it is kept. Class names
    are in its tags and, since GDAL finds them nowhere else, in ``.aux.xml`` beside it.

    Args:
        layer: What is written.
        rows: Of the map.
        columns: Likewise.
        georeference: The map's.
        overwrite: Whether there may be an older one.

    Yields:
        What takes the rows.

    Raises:
        FileExistsError: If there is an older one.
        OSError: If the folder cannot be written, or the disk is full.
    """
    path = layer.path
    check_output(path, overwrite)
    remove_unfinished(path.parent, f"rows-{path.name}")
    with replacing(path.parent) as folder:
        _check_space(folder, 2 * rows * columns * np.dtype(layer.dtype).itemsize)
        plain, finished = folder / f"rows-{path.name}", folder / path.name
        try:
            with _create(plain, layer, rows, columns, georeference) as file:
                writer = LayerWriter(file)
                yield writer
            _finish(plain, finished, layer)
            # A disk that is full when GDAL closes a file is an error that nobody gets to see.
            if _counts(finished) != writer.counts:
                raise RasterioError("it does not hold what was written")
        except (RasterioError, CPLE_BaseError) as error:
            cause = error.__cause__ or error
            free = shutil.disk_usage(folder).free
            raise OSError(
                f"{path} cannot be written: {cause} ({free / 2**20:.0f} MiB are free)"
            ) from error
        plain.unlink()
        if layer.names:
            _write_names(folder / f"{path.name}.aux.xml", layer)


def _not_georeferenced(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Keep rasterio from warning of what a map of a scene without georeference has to be."""

    @functools.wraps(function)
    def quiet(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return function(*args, **kwargs)

    return quiet


def check_output(path: Path, overwrite: bool) -> None:
    """Raise unless a map may be written.

    Args:
        path: Of the map.
        overwrite: Whether it may be there.

    Raises:
        ValueError: If it is not to be a TIFF.
        FileExistsError: If it is there.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"{path} must end in .tif: maps are GeoTIFF")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the map may need {needed / 2**20:.1f} MiB, {free / 2**20:.1f} are free",
            str(folder.parent),
        )


@_not_georeferenced
def _create(path: Path, layer: Layer, rows: int, columns: int, georeference: Georeference) -> Any:
    where = {
        "crs": georeference.crs,
        "transform": georeference.transform,
        "gcps": list(georeference.gcps),
        "rpcs": georeference.rpcs,
    }
    file = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=columns,
        height=rows,
        count=1,
        dtype=layer.dtype,
        nodata=layer.nodata,
        bigtiff="IF_SAFER",
        **{name: value for name, value in where.items() if value},
    )
    file.update_tags(**layer.tags)
    file.set_band_description(1, layer.description)
    if layer.scale != 1:
        file.scales = (layer.scale,)
    if layer.colors is not None:
        table = {i: (*color, 255) for i, color in enumerate(layer.colors.tolist())}
        file.write_colormap(1, {**table, int(layer.nodata): (0, 0, 0, 0)})
        file.colorinterp = (ColorInterp.palette,)
    return file


@_not_georeferenced
def _finish(plain: Path, finished: Path, layer: Layer) -> None:
    rasterio.shutil.copy(
        plain,
        finished,
        driver="COG",
        compress="DEFLATE",
        blocksize=_BLOCK,
        overview_resampling=layer.resampling,
        bigtiff="IF_SAFER",
    )


@_not_georeferenced
def _counts(path: Path) -> Counter[float]:
    counts: Counter[float] = Counter()
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            counts += _count(file.read(1, window=window))
    return counts


def _count(values: NDArray[Any]) -> Counter[float]:
    found, numbers = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), numbers.tolist(), strict=True)))


def _write_names(path: Path, layer: Layer) -> None:
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in layer.names:
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root) + b"\n")
