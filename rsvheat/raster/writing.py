# SPDX-License-Identifier: Apache-2.0
"""Writes maps as cloud-optimized GeoTIFF (COG), whole or not at all."""

import errno
import functools
import os
import shutil
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from rsvheat._locks import Lock
from rsvheat.raster.scene import Georeference, source_files

_BLOCK = 512

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def not_georeferenced(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Keep rasterio from warning of maps without a georeference, whose scenes have none.

    Args:
        function: Function that opens maps.

    Returns:
        The function without these warnings.
    """

    @functools.wraps(function)
    def quiet(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return function(*args, **kwargs)

    return quiet


@dataclass(frozen=True)
class Layer:
    """Content and format of one file of a map.

    Attributes:
        path: Path of the file.
        dtype: Type of the pixels.
        nodata: Value that stands for no data.
        description: Description of the band.
        resampling: Method by which overviews are computed.
        scale: Factor from pixel values to the unit of the description.
        names: Names of the values from 0 on, if they are classes.
        colors: Colors (n, 3) of the values from 0 on, uint8.
        tags: Metadata.
        bands: Descriptions of several bands, if there are any.
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
    bands: Sequence[str] = ()


class LayerWriter:
    """Writes the parts of a map; see ``writing``.

    Attributes:
        folder: Temporary folder of the map's files.
        resumed: Whether the file is that of a process that was killed, with the rows it wrote.
        counts: Number of pixels written so far by their value.
    """

    def __init__(self, path: Path, file: Any, resumed: bool = False) -> None:
        self._path, self._file = path, file
        self.folder, self.resumed = path.parent, resumed
        self.counts: Counter[float] = Counter()

    def write(self, row: int, values: NDArray[Any], column: int = 0) -> None:
        """Write rows.

        Args:
            row: Number of the first row.
            values: Pixels (rows, columns), or (bands, rows, columns) of several bands.
            column: Number of the first column.
        """
        height, width = values.shape[-2:]
        bands = values.reshape(-1, height, width)
        self._file.write(bands, window=RasterioWindow(column, row, width, height))
        self.counts += _count(values)

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Add metadata to those of the layer.

        Args:
            tags: Metadata.
        """
        self._file.update_tags(**{name: xml_text(value) for name, value in tags.items()})

    def flush(self) -> None:
        """Hand the rows over to the system, so that they outlive this process."""
        self.close()
        self._file = _reopen(self._path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def writing(
    layer: Layer,
    rows: int,
    columns: int,
    georeference: Georeference,
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[LayerWriter]:
    """Write a map; its file appears, or replaces an older one, when the block succeeds.

    Rows go to an uncompressed file in a temporary folder beside the map, since a COG cannot be
    written piece by piece; that becomes the COG, which is read back before it is kept. Class names
    are in its tags and, since GDAL finds them nowhere else, in ``.aux.xml`` beside it. Masks,
    overviews and metadata that lay beside an older map are removed with it.

    Args:
        layer: Content and format of the file.
        rows: Number of rows of the map.
        columns: Number of columns of the map.
        georeference: Location of the map.
        overwrite: Whether to replace an older map.
        resume: Whether to go on with the rows of a process that was killed, and to keep them if
            this one is interrupted.

    Yields:
        Writer that takes the rows.

    Raises:
        FileExistsError: If there is an older map, and ``overwrite`` is not set.
        InUseError: If another process writes the map.
        OSError: If the folder cannot be written, or the disk is full.
    """
    path = layer.path
    check_output(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_name = f"rows-{path.name}"
    with Lock(path), replacing(path.parent, rows_name if resume else None) as folder:
        # Another process may have written the map before the lock was taken.
        check_output(path, overwrite)
        if not resume:
            remove_unfinished(path.parent, rows_name)
        plain, finished = folder / rows_name, folder / path.name
        resumed = plain.exists() and _is_raster(plain)
        if not resumed:
            bands = max(1, len(layer.bands))
            _check_space(folder, 2 * bands * rows * columns * np.dtype(layer.dtype).itemsize)
        try:
            if resume:
                if not resumed:
                    # A process that is killed here leaves no rows that cannot be opened again.
                    begun = folder / f"new-{rows_name}"
                    _create(begun, layer, rows, columns, georeference).close()
                    begun.replace(plain)
                file = _reopen(plain)
            else:
                file = _create(plain, layer, rows, columns, georeference)
            writer = LayerWriter(plain, file, resumed)
            try:
                yield writer
            finally:
                writer.close()
            _finish(plain, finished, layer)
            # GDAL reports no error if the disk is full when it closes a file.
            if _counts(finished) != writer.counts:
                raise RasterioError("it does not hold what was written")
        except (RasterioError, CPLE_BaseError) as error:
            cause = error.__cause__ or error
            free = shutil.disk_usage(folder).free
            raise OSError(f"{path} cannot be written: {cause} ({_size(free)} are free)") from error
        plain.unlink()
        if layer.names:
            _write_names(folder / f"{path.name}.aux.xml", layer)
    for suffix in (".msk", ".ovr", *([] if layer.names else [".aux.xml"])):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def check_output(path: Path, overwrite: bool) -> None:
    """Make sure that a map may be written.

    Args:
        path: Path of the map.
        overwrite: Whether an older map may be replaced.

    Raises:
        ValueError: If its suffix is not that of TIFF, or if it is a symbolic link.
        IsADirectoryError: If it is a folder.
        FileExistsError: If there is an older map, and ``overwrite`` is not set.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"{path} must end in .tif: maps are GeoTIFF")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    _refuse_link(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")


def check_separate(outputs: Mapping[str, Path], sources: Iterable[str | os.PathLike[str]]) -> None:
    """Make sure that no output replaces another one, or a file that a source is read from.

    Args:
        outputs: Paths of the files to be written, by the names of the arguments.
        sources: Paths of the rasters to be read, or names that GDAL knows.

    Raises:
        ValueError: If an output is a source, a part of one, another output or a symbolic link.
    """
    names: dict[Path, str] = {}
    for name, path in outputs.items():
        _refuse_link(path)
        other = names.setdefault(path.resolve(), name)
        if other != name:
            raise ValueError(f"{other} and {name} are the same file, {path}")
    there = [path for path in outputs.values() if path.exists()]
    if not there:
        return
    for source in sources:
        scene = Path(source)
        for path in there:
            if scene.exists() and path.samefile(scene):
                raise ValueError(f"{path} is the scene itself")
        for part in source_files(source):
            for path in there:
                if path.samefile(part):
                    raise ValueError(f"{path} is a part of the scene {os.fspath(source)}")


def _refuse_link(path: Path) -> None:
    """Raise for a symbolic link: the map would replace the link, or class names lie elsewhere."""
    if path.is_symlink():
        raise ValueError(f"{path} is a symbolic link: name the file itself, {path.resolve()}")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the map may need {_size(needed)}, {_size(free)} are free",
            str(folder.parent),
        )


def _size(number: int) -> str:
    """Return a number of bytes with a unit in which it is not 0."""
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**exponent:
            return f"{number / 1024**exponent:.1f} {unit}"
    return f"{number} bytes"


@not_georeferenced
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
        count=max(1, len(layer.bands)),
        dtype=layer.dtype,
        nodata=layer.nodata,
        bigtiff="IF_SAFER",
        **{name: value for name, value in where.items() if value},
    )
    file.update_tags(**{name: xml_text(value) for name, value in layer.tags.items()})
    for number, description in enumerate(layer.bands or [layer.description], 1):
        file.set_band_description(number, xml_text(description))
    if layer.scale != 1:
        file.scales = (layer.scale,) * file.count
    if layer.colors is not None:
        table = {i: (*color, 255) for i, color in enumerate(layer.colors.tolist())}
        file.write_colormap(1, {**table, int(layer.nodata): (0, 0, 0, 0)})
        file.colorinterp = (ColorInterp.palette,)
    return file


@not_georeferenced
def _reopen(path: Path) -> Any:
    return rasterio.open(path, "r+")


@not_georeferenced
def _is_raster(path: Path) -> bool:
    """Return whether GDAL can open a file: not if its process was killed while it created it."""
    try:
        rasterio.open(path).close()
    except RasterioError:
        return False
    return True


@not_georeferenced
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


@not_georeferenced
def _counts(path: Path) -> Counter[float]:
    counts: Counter[float] = Counter()
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            counts += _count(file.read(window=window))
    return counts


def _count(values: NDArray[Any]) -> Counter[float]:
    found, numbers = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), numbers.tolist(), strict=True)))


def _write_names(path: Path, layer: Layer) -> None:
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in layer.names:
        ElementTree.SubElement(names, "Category").text = xml_text(name)
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root) + b"\n")


def xml_text(value: str) -> str:
    """Return a text with a replacement for each character that XML cannot hold.

    Args:
        value: Text.
    """
    return "".join(
        c
        if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"
        else "\ufffd"
        for c in value
    )
