# SPDX-License-Identifier: Apache-2.0
"""Windows of image files, as the file holds them, with the pixels that hold data."""

import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from rsvheat.data.report import SampleError

# What folders are searched for.
EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


class Window(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    top: int
    left: int
    height: int
    width: int


class Pixels(NamedTuple):
    """What a file holds of a window.

    Attributes:
        values: (C, H, W), in the file's dtype.
        valid: (C, H, W) or (1, H, W) of bool, False where the file has no data; None where all
            pixels are valid.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None


class ImageReader(ABC):
    """An image that is read by windows; a context manager that closes it.

    Attributes:
        name: What errors call it.
        bands: Number of bands, without an alpha channel: where that is 0, there is no data.
        height: In pixels.
        width: In pixels.
        dtype: Of the values.
        nodata: The value that stands for no data in the file, if it names one.
        whole: Whether any window takes as long as the whole image, since it is compressed as one.
    """

    name: str
    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    nodata: float | None = None
    whole: bool = False

    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> Pixels:
        """Read a window.

        Args:
            window: Which part; None for all of the image.
            bands: Which bands in which order, counted from 1 as they are stored; None for all but
                alpha.

        Returns:
            The values, and where they are valid: no pixel is that equals the file's nodata value,
            is masked there or transparent, is NaN or infinite. An alpha channel that is among
            ``bands`` is no mask.

        Raises:
            SampleError: If the file is damaged, or lacks one of ``bands``.
            ValueError: If the window is not within the image.
        """
        window = window or Window(0, 0, self.height, self.width)
        top, left, height, width = window
        if (
            min(top, left) < 0
            or min(height, width) < 1
            or top + height > self.height
            or left + width > self.width
        ):
            raise ValueError(
                f"{window} is not within {self.name} of {self.height} x {self.width} pixels"
            )
        chosen = self._data_bands() if bands is None else tuple(bands)
        if not chosen or min(chosen) < 1 or max(chosen) > self.stored:
            raise SampleError(
                "bands", f"{self.name} has {self.stored} bands, asked for {list(chosen)}"
            )
        values, valid = self._read(window, chosen)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                valid = finite if valid is None else valid & finite
        if valid is not None and valid.all():
            valid = None
        return Pixels(values, valid)

    @property
    def stored(self) -> int:
        """Number of bands, with an alpha channel.

        GeoTIFF of RGB and near infrared often call the fourth band alpha; so it can be read too.
        """
        return self.bands

    def _data_bands(self) -> tuple[int, ...]:
        return tuple(range(1, self.bands + 1))

    @abstractmethod
    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        """Read a window that is within the image."""

    def close(self) -> None:  # noqa: B027 - not every reader has something to close
        """Close the file; nothing can be read any more."""

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()


class ArrayReader(ImageReader):
    """An image in memory.

    Args:
        values: (C, H, W).
        valid: (C, H, W) or (1, H, W) of bool; None where all pixels are valid.
        name: What errors call it.
    """

    def __init__(
        self,
        values: NDArray[Any],
        valid: NDArray[np.bool_] | None = None,
        name: str = "an array",
    ) -> None:
        if values.ndim != 3 or values.dtype.kind not in "iuf":
            raise ValueError(f"{name} must be (C, H, W) of numbers, got {_describe(values)}")
        self._values, self._valid, self.name = values, valid, name
        self.bands, self.height, self.width = values.shape
        self.dtype = values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the values take."""
        return self._values.nbytes

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        index = [band - 1 for band in bands]
        valid = self._valid
        if valid is not None:
            valid = valid[:, rows, columns][index if len(valid) > 1 else [0]]
        return Pixels(self._values[:, rows, columns][index], valid)


class _PillowReader(ArrayReader):
    """PNG, JPEG and the like: decoded at the first read."""

    whole = True

    def __init__(self, file: Any, name: str) -> None:
        import PIL.Image

        self.name = name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                self._image = PIL.Image.open(file)
        except PIL.UnidentifiedImageError:
            raise SampleError("damaged", f"{name} is not an image") from None
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise SampleError("damaged", f"{name} cannot be opened: {_line(error)}") from error
        if self._image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
            transparent = "transparency" in self._image.info
            self._mode = "RGBA" if transparent else "RGB"
        else:
            self._mode = "L" if self._image.mode == "1" else self._image.mode
        self._alpha = self._mode in ("RGBA", "LA")
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
                self._image.load()
                image = self._image if self._image.mode == self._mode else self._convert()
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise SampleError("damaged", f"{self.name} is damaged: {_line(error)}") from error
            values = np.asarray(image)
            values = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
            self._valid = values[-1:] > 0 if self._alpha else None
            self._values = values[: self.bands].astype(self.dtype, copy=False)
            self._decoded = True
        return super()._read(window, bands)

    def _convert(self) -> Any:
        return self._image.convert(self._mode)

    def close(self) -> None:
        self._image.close()


class _RasterioReader(ImageReader):
    """GeoTIFF and what else GDAL reads; only the blocks that a window touches."""

    def __init__(self, file: str | bytes, name: str) -> None:
        import rasterio
        from rasterio.enums import ColorInterp
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        self.name = name
        self._memory = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                if isinstance(file, bytes):
                    self._memory = rasterio.MemoryFile(file)
                    self._file = self._memory.open()
                else:
                    # A dataset that threads or forked workers share would be read at two places.
                    self._file = rasterio.open(file, sharing=False)
        except (RasterioError, OSError) as error:
            self.close()
            raise SampleError("damaged", f"{name} cannot be opened: {_line(error)}") from error
        colors = self._file.colorinterp
        data = [number for number, color in enumerate(colors, 1) if color != ColorInterp.alpha]
        self._data = tuple(data)
        dtypes = set(self._file.dtypes)
        if not data or len(dtypes) > 1 or not _is_real(next(iter(dtypes))):
            self.close()
            raise SampleError("bands", f"{name} has no bands of one real type: {sorted(dtypes)}")
        self.bands = len(data)
        self.height, self.width = self._file.shape
        self.dtype = np.dtype(dtypes.pop())
        self.nodata = self._file.nodata

    @property
    def stored(self) -> int:
        """See :attr:`ImageReader.stored`."""
        return int(self._file.count)

    def _data_bands(self) -> tuple[int, ...]:
        return self._data

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        import rasterio.windows
        from rasterio.errors import RasterioError

        top, left, height, width = window
        # Masked, rasterio accounts for nodata values, mask bands and alpha.
        masked = set(bands) <= set(self._data)
        try:
            read = self._file.read(
                list(bands),
                window=rasterio.windows.Window(left, top, width, height),
                masked=masked,
            )
        except (RasterioError, OSError) as error:
            raise SampleError(
                "damaged", f"{self.name} is damaged: {_line(error.__cause__ or error)}"
            ) from error
        if masked:
            mask = np.ma.getmask(read)
            return Pixels(np.ma.getdata(read), None if mask is np.ma.nomask else ~mask)
        return Pixels(read, None if self.nodata is None else read != self.nodata)

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
        if self._memory is not None:
            self._memory.close()


class WindowReader(ImageReader):
    """A part of an image, as if it were an image.

    Args:
        reader: The image, which closes with this.
        window: The part.
    """

    def __init__(self, reader: ImageReader, window: Window) -> None:
        self._reader, self._window = reader, window
        self.name, self.bands, self.dtype = reader.name, reader.bands, reader.dtype
        self.nodata = reader.nodata
        self.height, self.width = window.height, window.width

    @property
    def stored(self) -> int:
        """See :attr:`ImageReader.stored`."""
        return self._reader.stored

    def _data_bands(self) -> tuple[int, ...]:
        return self._reader._data_bands()

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        moved = window._replace(
            top=window.top + self._window.top, left=window.left + self._window.left
        )
        return self._reader.read(moved, bands)

    def close(self) -> None:
        """Close the image."""
        self._reader.close()


def open_image(file: str | os.PathLike[str] | bytes, name: str | None = None) -> ImageReader:
    """Open an image file for reading by windows.

    What a file is is told by its content, not its name. PNG of 16 bits and several bands, TIFF and
    JPEG 2000 are read by rasterio (``pip install 'rsvheat[geo]'``), all else by Pillow.

    Args:
        file: Its path, or its content.
        name: What errors call it; by default the path.

    Returns:
        The reader.

    Raises:
        SampleError: If it is no image, or a damaged one.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the library that reads it is not installed.
    """
    if isinstance(file, bytes):
        name = name or "an image in memory"
        start = file[:32]
    else:
        file = os.fspath(file)
        name = name or file
        try:
            with open(file, "rb") as stream:
                start = stream.read(32)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SampleError(
                "damaged", f"{name} cannot be read: {error.strerror or error}"
            ) from error
    if not start:
        raise SampleError("damaged", f"{name} is empty")
    # Pillow reads PNG of 16 bits and several bands as one of 8 bits.
    deep_png = start.startswith(b"\x89PNG") and start[24:25] == b"\x10" and start[25:26] != b"\0"
    if deep_png or start.startswith(_TIFF + _JPEG2000):
        _require("rasterio", "geo", name)
        return _RasterioReader(file, name)
    _require("PIL", "train", name)
    return _PillowReader(io.BytesIO(file) if isinstance(file, bytes) else file, name)


def read_image(
    file: str | os.PathLike[str] | bytes,
    window: Window | None = None,
    bands: Sequence[int] | None = None,
) -> Pixels:
    """Read an image file, or a window of it, once.

    Args:
        file: Its path, or its content.
        window: Which part; None for all.
        bands: Which bands in which order, counted from 1; None for all.

    Returns:
        The values and where they are valid, see :meth:`ImageReader.read`.

    Raises:
        SampleError: If the file is damaged, or lacks one of ``bands``.
        FileNotFoundError: If there is no such file.
        ValueError: If the window is not within the image.
    """
    with open_image(file) as reader:
        return reader.read(window, bands)


def _require(module: str, extra: str, name: str) -> None:
    """Raise what skipping cannot hide where a library is missing: no file could be read."""
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {name} needs {error.name}: pip install 'rsvheat[{extra}]'", name=error.name
        ) from error


def _is_real(dtype: str) -> bool:
    # GDAL's complex_int16 is no dtype of NumPy.
    return not dtype.startswith("complex") and np.dtype(dtype).kind in "iuf"


def _describe(values: NDArray[Any]) -> str:
    return f"{values.shape} of {values.dtype}"


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
