# SPDX-License-Identifier: Apache-2.0
"""Images that are read by windows: their interface, and images in memory."""

import functools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from rsvheat.data.skip_report import SampleError, printable

# More bands than this are a damaged header, or take GDAL hours to read together.
_MOST_BANDS = 4096

_LOGGER = logging.getLogger("rsvheat.data")
_remarked: set[str] = set()


class Window(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    top: int
    left: int
    height: int
    width: int


class Pixels(NamedTuple):
    """Content of a window of a file.

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
        name: Name of the image in errors.
        bands: Number of bands, without alpha channels: where alpha is 0, there is no data.
        height: Number of rows.
        width: Number of columns.
        dtype: Type of the values of all bands; where bands differ in type, one that holds them all.
        nodata: Value that stands for no data in the file, if it names one.
        whole: Whether any window takes as long as the whole image, since it is compressed as one.
        complete: Whether the file itself holds all that is read of it; False where its mask or
            nodata value is in another file beside it.
    """

    name: str
    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    nodata: float | None = None
    whole: bool = False
    complete: bool = True

    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> Pixels:
        """Read a window.

        Values are those that the file stores: scale and offset tags are not applied, and a warning
        in the log says so.

        Args:
            window: Part of the image; None for all of it.
            bands: Numbers of the bands in the order wanted, counted from 1 as they are stored; None
                for all but alpha. Bands of different types become one type that holds all values.

        Returns:
            The values, and where they are valid. A pixel is not valid where GDAL's mask is 0 (which
            is from nodata values and mask bands, also in ``.msk`` and ``.aux.xml`` beside the
            file), where an alpha channel is 0, and where a value is NaN or infinite. If an alpha
            channel is among ``bands``, alpha masks nothing.

        Raises:
            SampleError: If the file is damaged, lacks one of ``bands``, has complex values or more
                bands than can be read together, or if the window is larger than the memory.
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
        if bands is None and self.bands > _MOST_BANDS:
            raise SampleError(
                "bands", f"{self.name} has {self.bands} bands: name those that are to be read"
            )
        chosen = self.data_bands if bands is None else tuple(bands)
        if not chosen or min(chosen) < 1 or max(chosen) > self.stored:
            raise SampleError(
                "bands", f"{self.name} has {self.stored} bands, asked for {list(chosen)}"
            )
        # Values, their float32 copy and masks: with less memory nothing can be done with them.
        needed = len(chosen) * height * width * (self.dtype.itemsize + 5)
        try:
            if needed > (_memory() or needed):
                raise MemoryError
            values, valid = self._read(window, chosen)
        except MemoryError:
            raise SampleError(
                "size",
                f"{self.name}: {height} x {width} pixels of {len(chosen)} bands need "
                f"{needed / 2**30:.1f} GiB, more than the memory of this machine: read parts of "
                "it, by the options tile or window",
            ) from None
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                valid = finite if valid is None else valid & finite
        if valid is not None and valid.all():
            valid = None
        return Pixels(values, valid)

    @property
    def stored(self) -> int:
        """Number of bands, with alpha channels.

        GeoTIFF of RGB and near infrared often call the fourth band alpha; so it can be read too.
        """
        return self.bands

    @property
    def data_bands(self) -> tuple[int, ...]:
        """Numbers of the bands that are no alpha channel, counted from 1."""
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
        values: Values (C, H, W).
        valid: (C, H, W) or (1, H, W) of bool; None where all pixels are valid.
        name: Name of the image in errors.
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


class ReaderOfReader(ImageReader):
    """A part or an extension of an image, as if it were an image.

    Args:
        reader: Reader of the image, which closes with this.
        height: Height in pixels.
        width: Width in pixels.
    """

    def __init__(self, reader: ImageReader, height: int, width: int) -> None:
        self._reader = reader
        self.name, self.bands, self.dtype = reader.name, reader.bands, reader.dtype
        self.nodata, self.complete = reader.nodata, reader.complete
        self.height, self.width = height, width

    @property
    def stored(self) -> int:
        """See ``ImageReader.stored``."""
        return self._reader.stored

    @property
    def data_bands(self) -> tuple[int, ...]:
        """See ``ImageReader.data_bands``."""
        return self._reader.data_bands

    def close(self) -> None:
        """Close the image."""
        self._reader.close()


class WindowReader(ReaderOfReader):
    """A part of an image, as if it were an image.

    Args:
        reader: Reader of the image, which closes with this.
        window: Part of it.
    """

    def __init__(self, reader: ImageReader, window: Window) -> None:
        super().__init__(reader, window.height, window.width)
        self._window = window

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        moved = window._replace(
            top=window.top + self._window.top, left=window.left + self._window.left
        )
        return self._reader.read(moved, bands)


def remark(name: str, text: str) -> None:
    """Log what users should know of a file's values, once in a process for files like it."""
    if text not in _remarked:
        _remarked.add(text)
        _LOGGER.warning("%s, and perhaps other files, %s", printable(name), text)


def require(module: str, extra: str, name: str) -> None:
    """Raise an error that skipping cannot hide if a library is missing: no file could be read."""
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {name} needs {error.name}: pip install 'rsvheat[{extra}]'", name=error.name
        ) from error


def reason_of(error: OSError | ValueError) -> str:
    """Return an error of the operating system without its number and the file's name."""
    return (isinstance(error, OSError) and error.strerror) or line_of(error)


def line_of(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


@functools.cache
def _memory() -> int | None:
    """Return the bytes of memory that this machine or container has; None if that is unknown."""
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # not POSIX
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        # There may be no control group, or one that says "max".
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))
    return min(limits, default=None)


def _describe(values: NDArray[Any]) -> str:
    return f"{values.shape} of {values.dtype}"
