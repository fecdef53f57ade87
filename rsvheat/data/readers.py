# SPDX-License-Identifier: Apache-2.0
"""Opens image files for reading by windows."""

import io
import os
import re
import stat
from collections.abc import Sequence
from typing import BinaryIO

from rsvheat.data.gdal_reader import GdalReader, PaletteReader
from rsvheat.data.image_reader import (
    ArrayReader,
    ImageReader,
    Pixels,
    Window,
    WindowReader,
    reason_of,
    require,
)
from rsvheat.data.pillow_reader import JPEG, PNG, PillowReader, driver_of
from rsvheat.data.skip_report import SampleError

# Suffixes of the files that folders are searched for.
EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
# Names that only GDAL understands: /vsizip/a.zip/b.tif, netcdf:a.nc:b, s3://a/b.tif.
_GDAL_NAME = re.compile(r"/vsi|[A-Za-z][A-Za-z0-9_+.-]+:")


def open_image(
    file: str | os.PathLike[str] | bytes, name: str | None = None, *, raw: bool = False
) -> ImageReader:
    """Open an image file for reading by windows.

    The content of a file decides how it is read, not its name. TIFF, JPEG 2000, PNG of 16 bits with
    several bands, and PNG and JPEG that are too large for Pillow, are read by rasterio
    (``pip install 'rsvheat[geo]'``); other PNG, JPEG, BMP, WebP, GIF and PPM by Pillow. Files whose
    suffix is not in ``EXTENSIONS``, and names of GDAL such as ``/vsizip/a.zip/b.tif`` or
    ``netcdf:a.nc:b``, may have any format of GDAL. A palette becomes the colors red, green and
    blue; the pages of a TIFF that has one band a page become bands; orientation in EXIF tags is
    not applied.

    Args:
        file: Path, name that GDAL knows, or content of the file.
        name: Name of the image in errors; by default the path.
        raw: Whether to return the numbers that the file stores, as masks of classes need them: the
            numbers of a palette instead of its colors, and those of PNG with 1, 2 or 4 bits of gray
            without spreading them over 0 to 255.

    Returns:
        The reader.

    Raises:
        SampleError: If the file is no image, or a damaged one.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the library that reads it is not installed.
    """
    if isinstance(file, bytes):
        name = name or "an image in memory"
        start, masked = file[:64], _has_mask(io.BytesIO(file), file[:64], len(file))
        anything = False
    else:
        path = os.fspath(file)
        name = name or path
        try:
            status = os.stat(path)
        except FileNotFoundError:
            if not _GDAL_NAME.match(path):
                raise
            return _open_by_gdal(path, name, raw)
        except (OSError, ValueError) as error:  # ValueError: a null character
            raise SampleError("damaged", f"{name} cannot be read: {reason_of(error)}") from error
        anything = os.path.splitext(path)[1].lower() not in EXTENSIONS
        if stat.S_ISDIR(status.st_mode) and anything:
            return _open_by_gdal(path, name, raw)
        if not stat.S_ISREG(status.st_mode):  # reading a FIFO would wait for ever
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, socket or pipe"
            raise SampleError("damaged", f"{name} is {kind}, not a file")
        try:
            with open(path, "rb") as stream:
                start = stream.read(64)
                masked = _has_mask(stream, start, status.st_size)
        except OSError as error:
            raise SampleError("damaged", f"{name} cannot be read: {reason_of(error)}") from error
        # A relative path such as "zip:a.tif" would be a name of GDAL.
        file = os.path.abspath(path)
    if not start:
        raise SampleError("damaged", f"{name} is empty")
    beside = not isinstance(file, bytes) and _mask_beside(file)
    # Pillow reads PNG of 16 bits and several bands as one of 8 bits.
    deep_png = start.startswith(PNG) and start[24:25] == b"\x10" and start[25:26] != b"\0"
    reader: ImageReader
    if start.startswith(_TIFF):
        reader = _open_by_gdal(file, name, raw, "GTiff")
    elif deep_png:
        reader = _open_by_gdal(file, name, raw, "PNG")
    elif start.startswith(_JPEG2000) or (anything and driver_of(start) is None):
        reader = _open_by_gdal(file, name, raw)
    else:
        require("PIL", "train", name)
        import PIL.Image

        try:
            reader = PillowReader(file, name, start, raw, masked or beside)
        except PIL.Image.DecompressionBombError:
            reader = _open_by_gdal(file, name, raw, None if anything else driver_of(start))
    reader.complete = not beside
    return reader


def read_image(
    file: str | os.PathLike[str] | bytes,
    window: Window | None = None,
    bands: Sequence[int] | None = None,
) -> Pixels:
    """Read an image file, or a window of it, once.

    Args:
        file: Path, name that GDAL knows, or content of the file.
        window: Part of the image; None for all of it.
        bands: Numbers of the bands in the order wanted, counted from 1; None for all but alpha.

    Returns:
        The values and where they are valid, see ``ImageReader.read``.

    Raises:
        SampleError: If the file is damaged, or lacks one of ``bands``.
        FileNotFoundError: If there is no such file.
        ValueError: If the window is not within the image.
    """
    with open_image(file) as reader:
        return reader.read(window, bands)


def _open_by_gdal(
    file: str | bytes, name: str, raw: bool, driver: str | None = None
) -> ImageReader:
    require("rasterio", "geo", name)
    reader = GdalReader(file, name, driver, raw)
    return reader if reader.palette is None else PaletteReader(reader, reader.palette, raw)


def _has_mask(stream: BinaryIO, start: bytes, size: int) -> bool:
    """Return whether a JPEG has a mask that GDAL put behind it.

    The file's last four bytes are then the length of the JPEG proper.
    """
    if not start.startswith(JPEG) or size < 8:
        return False
    stream.seek(size - 4)
    end = int.from_bytes(stream.read(4), "little")
    if not size // 2 <= end <= size - 4:
        return False
    stream.seek(end - 2)
    return stream.read(2) == b"\xff\xd9"


def _mask_beside(path: str) -> bool:
    """Return whether a file beside an image says where the image has data, as GDAL reads it."""
    mask = _content_beside(path + ".msk", 4)
    # GDAL would open any format, also one that reads other files or the network.
    if mask is not None and not mask.startswith(_TIFF):
        raise SampleError("damaged", f"{path}.msk is not a mask as GDAL writes it: it is no TIFF")
    metadata = _content_beside(path + ".aux.xml") or b""
    return mask is not None or b"NoDataValue" in metadata or b"NODATA_VALUES" in metadata


def _content_beside(path: str, size: int = -1) -> bytes | None:
    """Return the first bytes of a file; None if there is no such file."""
    try:
        with open(path, "rb") as stream:
            return stream.read(size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SampleError("damaged", f"{path} cannot be read: {reason_of(error)}") from error


__all__ = [
    "EXTENSIONS",
    "ArrayReader",
    "ImageReader",
    "Pixels",
    "Window",
    "WindowReader",
    "open_image",
    "read_image",
]
