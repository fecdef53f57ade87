# SPDX-License-Identifier: Apache-2.0
"""Images that Pillow reads: PNG, JPEG, BMP, WebP, GIF and PPM."""

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.gdal_reader import GdalReader
from rsvheat.data.image_reader import ArrayReader, Pixels, Window, line_of, remark, require
from rsvheat.data.skip_report import SampleError

PNG = b"\x89PNG"
JPEG = b"\xff\xd8\xff"
_DRIVERS = {
    PNG: "PNG",
    JPEG: "JPEG",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    **{b"P%d" % number: "PNM" for number in range(1, 7)},
}
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer: git lfs pull fetches the file"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<vrtdataset", "a virtual raster, whose name must end in .vrt"),
    (b"pk\3\4", "an archive: unpack it, or name a file in it as /vsizip/a.zip/b.tif"),
    (b"\x1f\x8b", "an archive: unpack it, or name a file in it as /vsitar/a.tar.gz/b.tif"),
)
# Decoders that a file may choose by its content. Pillow has more, among them one that starts
# Ghostscript.
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM")
# Modes that Pillow's images are converted to; without an entry they are read as they are.
_CONVERTED = {
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
    "HSV": "RGB",
}
_KEPT = ("L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises for damaged files, by fuzzing and by its source.
_PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError,
    AttributeError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip

_ORIENTATION = 0x0112  # number of the EXIF tag


class PillowReader(ArrayReader):
    """PNG, JPEG and the like, decoded at the first read.

    Args:
        file: Path or content.
        name: Name of the image in errors.
        start: First bytes of the file.
        raw: See ``open_image``.
        masked: Whether GDAL knows a mask that Pillow does not.

    Raises:
        SampleError: If the file is damaged.
        PIL.Image.DecompressionBombError: If it is so large that Pillow refuses it.
    """

    whole = True

    def __init__(self, file: str | bytes, name: str, start: bytes, raw: bool, masked: bool) -> None:
        import PIL.Image

        self.name, self._source, self._masked = name, file, masked
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._image = PIL.Image.open(
                    io.BytesIO(file) if isinstance(file, bytes) else file, formats=_PILLOW_FORMATS
                )
        except PIL.UnidentifiedImageError:
            raise SampleError("damaged", f"{name} is not an image{_instead(start)}") from None
        except PIL.Image.DecompressionBombError:
            raise
        except _PILLOW_ERRORS as error:
            raise SampleError("damaged", f"{name} cannot be opened: {line_of(error)}") from error
        mode = self._image.mode
        # Gray of less than 8 bits is spread over 0 to 255; the tRNS chunk is not.
        gray_png = start.startswith(PNG) and start[25:26] == b"\0"
        self._factor = {1: 255, 2: 85, 4: 17}.get(start[24], 1) if gray_png else 1
        self._raw = raw
        if raw and mode == "P":
            self._mode = "P"
        elif mode == "P" and "transparency" in self._image.info:
            self._mode = "RGBA"
        else:
            self._mode = _CONVERTED.get(mode, mode)
        if self._mode not in (*_KEPT, "P"):
            self.close()
            raise SampleError("bands", f"{name} has pixels of a kind that is not read: {mode}")
        self.bands = {"RGB": 3, "RGBA": 3}.get(self._mode, 1)
        self.width, self.height = self._image.size
        # Pillow's modes of 16 bits a pixel begin so; I is int32 and F float32.
        names = {"I": "int32", "F": "float32"}
        self.dtype = np.dtype(
            "uint16" if self._mode.startswith("I;16") else names.get(self._mode, "uint8")
        )
        self._decoded = False

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        if not self._decoded:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._values, self._valid = self._decode()
            except _PILLOW_ERRORS as error:
                raise SampleError("damaged", f"{self.name} is damaged: {line_of(error)}") from error
            if self._masked:
                valid = _gdal_mask(self._source, self.name, self.bands)
                if valid is not None:
                    self._valid = valid if self._valid is None else valid & self._valid
            self._decoded = True
        return super()._read(window, bands)

    def _decode(self) -> Pixels:
        self._image.load()
        if self._image.getexif().get(_ORIENTATION, 1) != 1:
            remark(self.name, "is to be rotated by its EXIF tag; it is read as it is stored")
        # The further images of a JPEG (MPO) are previews.
        if self._image.format != "MPO" and getattr(self._image, "is_animated", False):
            remark(self.name, "is animated; its first picture is read")
        same = self._image.mode == self._mode
        values = np.asarray(self._image if same else self._image.convert(self._mode))
        values = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        transparent = self._image.info.get("transparency")
        valid: NDArray[np.bool_] | None = None
        if self._mode in ("LA", "RGBA"):
            valid = values[-1:] > 0
        elif self._mode == "P" and transparent is not None:
            valid = np.asarray(self._image.convert("RGBA"))[None, :, :, 3] > 0
        elif isinstance(transparent, int | tuple):
            color = np.array(transparent).reshape(-1, 1, 1)
            # Pillow gives the stored number for 2 and 4 bits, and 0 or 255 for one bit.
            color = np.where(color * self._factor <= 255, color * self._factor, color)
            valid = (values != color).any(0, keepdims=True)
        values = values[: self.bands].astype(self.dtype, copy=False)
        return Pixels(values // self._factor if self._raw and self._factor > 1 else values, valid)

    def close(self) -> None:
        """Close the file."""
        self._image.close()


def _gdal_mask(file: str | bytes, name: str, bands: int) -> NDArray[np.bool_] | None:
    """Return GDAL's mask of an image that Pillow reads, (1, H, W) or (bands, H, W)."""
    require("rasterio", "geo", name)
    with GdalReader(file, name, raw=True) as reader:
        valid = reader.read().valid
    if valid is None or len(valid) in (1, bands):
        return valid
    return np.logical_and.reduce(valid, 0, keepdims=True)


def driver_of(start: bytes) -> str | None:
    """Return the GDAL driver for a format that Pillow reads, or None for other formats.

    Args:
        start: First bytes of the file.
    """
    return next((driver for magic, driver in _DRIVERS.items() if start.startswith(magic)), None)


def _instead(start: bytes) -> str:
    """Return what a file is that is no image, for an error."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((f" but {what}" for magic, what in _OTHERS if text.startswith(magic)), "")
