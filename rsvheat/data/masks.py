# SPDX-License-Identifier: Apache-2.0
"""Masks: image files that give each pixel a class, and sources of images with masks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.image_reader import remark
from rsvheat.data.readers import ImageReader, Pixels, Window, open_image
from rsvheat.data.skip_report import SampleError, printable
from rsvheat.data.sources import FileSource
from rsvheat.data.spec import IGNORE_INDEX, Target

Unknown: TypeAlias = Literal["raise", "ignore"]

_LOGGER = logging.getLogger("rsvheat.data")
_NONE = -1  # number of pixels whose value or color has no class
_SHOWN = 5  # values or colors that a message lists
_logged: set[str] = set()  # mask files whose unknown colors were logged


@dataclass(frozen=True)
class MaskCodes:
    """Tells which values or colors of mask files stand for which class.

    Masks give a class by ``values`` (files of one band; of a palette, the numbers and not the
    colors), by ``colors`` (files of three bands), or are ``binary`` (one file for each class). With
    both ``values`` and ``colors``, the number of bands decides, file by file. Classes are numbered
    from 0 in the order given. Pixels that the file marks as nodata or transparent are ignored.

    Args:
        values: Value or values of each class, by class name.
        colors: Color (red, green, blue) of each class, by class name.
        binary: Class names, where each class has a file of its own in which nonzero values mark the
            class. Where several classes are marked, the one named last counts.
        background: Name of the class, numbered 0, of pixels that no binary mask marks; None ignores
            these pixels.
        ignored: Values of pixels that neither loss nor metrics count.
        ignored_colors: Colors of pixels that neither loss nor metrics count.
        nearest: Whether a color that is not listed counts as the nearest listed one, as in masks
            that were saved as JPEG. Otherwise such pixels are ignored, and each file that has some
            is named in the log.
        unknown: Treatment of files with values that are not listed: ``"raise"`` an error for the
            file, or ``"ignore"`` the pixels.
        threshold: Largest value of a binary mask that does not mark the class.

    Raises:
        ValueError: If an argument is not as above, or two classes have the same value or color.
    """

    values: Mapping[str, int | Sequence[int]] | None = None
    colors: Mapping[str, Sequence[int]] | None = None
    binary: Sequence[str] | None = None
    background: str | None = None
    ignored: Sequence[int] = ()
    ignored_colors: Sequence[Sequence[int]] = ()
    nearest: bool = False
    unknown: Unknown = "raise"
    threshold: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.binary is not None and (self.values is not None or self.colors is not None):
            raise ValueError("binary excludes values and colors")
        if not (self.values or self.colors or self.binary):
            raise ValueError("one of values, colors and binary must name the classes")
        if self.values and self.colors and list(self.values) != list(self.colors):
            raise ValueError(
                "values and colors must name the same classes in the same order, got "
                f"{', '.join(self.values)} and {', '.join(self.colors)}"
            )
        if self.background is not None and self.binary is None:
            raise ValueError("background is for binary masks only")
        for name in (*(self.values or ()), *(self.colors or ()), *self.classes):
            if not isinstance(name, str):
                raise ValueError(
                    f"the name of a class must be text, got {name!r}: put it in quotes, without "
                    "which YAML reads yes, no, on, off and numbers as something else"
                )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) > IGNORE_INDEX:
            raise ValueError(
                f"classes must be at most {IGNORE_INDEX} different names, got "
                f"{', '.join(self.classes)}"
            )
        if self.unknown not in get_args(Unknown):
            raise ValueError(f'unknown must be "raise" or "ignore", got {self.unknown!r}')
        for color in (*(self.colors or {}).values(), *self.ignored_colors):
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise ValueError(f"a color is 3 numbers from 0 to 255, got {list(color)}")
        for kind, codes in (("value", self._values()), ("color", self._packed())):
            names: dict[int, str] = {}
            for code, number in codes:
                name = "the ignored ones" if number == IGNORE_INDEX else self.classes[number]
                if names.setdefault(code, name) != name:
                    shown = code if kind == "value" else _unpack(code)
                    raise ValueError(f"{names[code]} and {name} have the same {kind}, {shown}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by number."""
        if self.binary is None:
            return tuple(self.values or self.colors or ())
        return (*(() if self.background is None else (self.background,)), *self.binary)

    @property
    def files(self) -> int:
        """Number of mask files of a sample."""
        return 1 if self.binary is None else len(self.binary)

    @property
    def raw(self) -> bool:
        """Whether files are read as the numbers they store, palette numbers for example."""
        return self.values is not None

    def _values(self) -> list[tuple[int, int]]:
        """Return listed values and their class numbers."""
        codes = [(int(value), IGNORE_INDEX) for value in self.ignored]
        for number, value in enumerate((self.values or {}).values()):
            several = value if isinstance(value, Sequence) else [value]
            codes += [(int(one), number) for one in several]
        return codes

    def _packed(self) -> list[tuple[int, int]]:
        """Return listed colors, as one number each, and their class numbers."""
        codes = [(_pack(color), IGNORE_INDEX) for color in self.ignored_colors]
        return codes + [(_pack(c), number) for number, c in enumerate((self.colors or {}).values())]

    def read(self, readers: Sequence[ImageReader], window: Window) -> NDArray[np.int64]:
        """Read the class numbers of a window.

        Args:
            readers: Mask files of a sample, one or as many as there are binary masks; opened as
                ``raw`` says.
            window: Part of the masks.

        Returns:
            Class numbers (H, W), ``IGNORE_INDEX`` for ignored pixels.

        Raises:
            SampleError: If a file is damaged, has another number of bands than masks have, or holds
                values of no class.
        """
        if self.binary is not None:
            return self._read_binary(readers, window)
        reader = readers[0]
        pixels = reader.read(window)
        by_color = self.colors is not None and (self.values is None or reader.bands == 3)
        if by_color:
            numbers = self._of_colors(pixels, reader.name)
        else:
            numbers = self._of_values(pixels, reader.name)
            self._remark_nodata(reader)
        return _without_nodata(numbers, pixels)

    def _remark_nodata(self, reader: ImageReader) -> None:
        """Log once where a file calls the pixels of a class nodata."""
        number = dict(self._values()).get(int(reader.nodata)) if _is_whole(reader.nodata) else None
        if number not in (None, IGNORE_INDEX):
            remark(
                reader.name,
                f"names {reader.nodata:g} as nodata, the value of {self.classes[number]}; these "
                "pixels are ignored (gdal_edit.py -unsetnodata makes them count)",
            )

    def _read_binary(self, readers: Sequence[ImageReader], window: Window) -> NDArray[np.int64]:
        first = 0 if self.background is None else 1
        rest = IGNORE_INDEX if self.background is None else 0
        numbers = np.full((window.height, window.width), rest, np.int64)
        missing = np.zeros(numbers.shape, bool)
        for number, reader in enumerate(readers, first):
            pixels = reader.read(window)
            values = _one_band(pixels, reader.name)
            marked = values > self.threshold
            if (values[marked] != values.max()).any():
                remark(
                    reader.name,
                    f"has several values above {self.threshold}, which all mark its class",
                )
            valid = _valid(pixels)
            if valid is not None:
                marked, missing = marked & valid, missing | ~valid
            numbers[marked] = number
        # A pixel is known if some mask marks it, even where another mask has no data.
        numbers[missing & (numbers == rest)] = IGNORE_INDEX
        return numbers

    def _of_values(self, pixels: Pixels, name: str) -> NDArray[np.int64]:
        values = _one_band(pixels, name)
        valid = _valid(pixels)
        codes = self._values()
        if valid is not None:
            values = np.where(valid, values, codes[-1][0])  # NaN, for one
        if values.dtype.kind == "f":
            if (values != np.rint(values)).any():
                raise SampleError("label", f"{name} has fractions, a mask has whole numbers")
            values = values.astype(np.int64)
        if values.dtype in (np.uint8, np.uint16) and values.size > np.iinfo(values.dtype).max:
            every = np.arange(np.iinfo(values.dtype).max + 1)
            numbers: NDArray[np.int64] = _look_up(every, codes)[values]
        else:
            numbers = _look_up(values, codes)
        strange = numbers == _NONE
        if strange.any():
            if self.unknown == "raise":
                listed = ", ".join(str(code) for code in sorted(code for code, _ in codes))
                raise SampleError(
                    "label",
                    f"{name} holds the values {_few(np.unique(values[strange]).tolist())}, which "
                    f"are of no class; known are {listed}",
                )
            numbers[strange] = IGNORE_INDEX
        return numbers

    def _of_colors(self, pixels: Pixels, name: str) -> NDArray[np.int64]:
        values = pixels.values
        if len(values) != 3 or values.dtype != np.uint8:
            raise SampleError(
                "bands",
                f"{name} has {len(values)} bands of {values.dtype}; a mask of colors has 3 of "
                "uint8",
            )
        parts = values.astype(np.int64)
        packed = (parts[0] << 16) | (parts[1] << 8) | parts[2]
        codes = self._packed()
        valid = _valid(pixels)
        if valid is not None:
            packed = np.where(valid, packed, codes[-1][0])
        numbers = _look_up(packed, codes)
        strange = numbers == _NONE
        if not strange.any():
            return numbers
        if self.nearest:
            found, inverse = np.unique(packed[strange], return_inverse=True)
            known = np.array([_unpack(code) for code, _ in codes])
            there = np.array([_unpack(code) for code in found.tolist()])
            # One color at a time: a JPEG has as many colors as pixels.
            closest = [int(((known - color) ** 2).sum(1).argmin()) for color in there]
            numbers[strange] = np.array([codes[i][1] for i in closest])[inverse]
            return numbers
        few = _few([_unpack(code) for code in np.unique(packed[strange]).tolist()])
        if strange.all():
            raise SampleError(
                "label", f"{name} has none of the classes' colors in a window, but {few}"
            )
        if name not in _logged:
            _logged.add(name)
            _LOGGER.warning(
                "%s: %d of %d pixels of a window have colors of no class, such as %s; such pixels "
                "are ignored",
                printable(name),
                int(strange.sum()),
                strange.size,
                few,
            )
        numbers[strange] = IGNORE_INDEX
        return numbers


class MaskSource(FileSource):
    """Image files by name, with a mask each.

    Args:
        files: Key and files by modality of each sample.
        masks: Mask file of each sample; with binary masks, the files of the classes in turn.
        codes: Meaning of the masks' values or colors.

    Raises:
        ValueError: If two samples have the same key, or masks are not as many as samples.
    """

    target: Target = "mask"

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        masks: Sequence[str | Sequence[str]],
        codes: MaskCodes,
    ) -> None:
        super().__init__(files, classes=codes.classes)
        self.codes = codes
        self._masks = [(mask,) if isinstance(mask, str) else tuple(mask) for mask in masks]
        if len(self._masks) != len(files):
            raise ValueError(f"{len(masks)} masks for {len(files)} samples")
        if any(len(mask) != codes.files for mask in self._masks):
            raise ValueError(f"each sample must have {codes.files} mask files")
        self._checked: set[int] = set()
        # A crop reads several windows of one mask in turn; PNG decodes as a whole each time.
        self._kept: tuple[int, list[ImageReader]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the masks."""
        return {**self.__dict__, "_kept": None}

    def masks(self, index: int) -> tuple[str, ...]:
        """Return the paths of a sample's mask files.

        Args:
            index: Index of the sample.
        """
        return self._masks[index]

    def open_masks(self, index: int) -> list[ImageReader]:
        """Open the mask files of a sample.

        Args:
            index: Index of the sample.

        Raises:
            SampleError: If a file is missing or damaged.
        """
        readers: list[ImageReader] = []
        try:
            for path in self._masks[index]:
                readers.append(open_image(path, raw=self.codes.raw))
        except BaseException as error:
            _close(readers)
            if isinstance(error, FileNotFoundError):
                raise SampleError("damaged", f"{path} is not there any more") from None
            raise
        return readers

    def read_target(self, index: int, window: Window) -> NDArray[np.int64]:
        """See ``Source.read_target``."""
        if self._kept is not None and self._kept[0] == index:
            return self.codes.read(self._kept[1], window)
        if self._kept is not None:
            _close(self._kept[1])
            self._kept = None
        readers = self.open_masks(index)
        keep = all(reader.whole for reader in readers)
        try:
            self._check_size(index, readers)
            numbers = self.codes.read(readers, window)
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                _close(readers)
        if keep:
            self._kept = (index, readers)
        return numbers

    def _check_size(self, index: int, readers: Sequence[ImageReader]) -> None:
        """Compare the size of the masks with that of the first image; once in a process."""
        if index in self._checked:
            return
        with self.open(index, self.present(index)[0]) as image:
            for mask in readers:
                if (mask.height, mask.width) != (image.height, image.width):
                    raise SampleError(
                        "size",
                        f"the mask {mask.name} has {mask.height} x {mask.width} pixels, its image "
                        f"{image.name} {image.height} x {image.width}",
                    )
        self._checked.add(index)


def _look_up(values: NDArray[Any], codes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the class numbers of values, ``_NONE`` for those that are not listed."""
    known = np.array(sorted(dict(codes).items()), np.int64)
    place = np.searchsorted(known[:, 0], values).clip(max=len(known) - 1)
    return np.where(known[place, 0] == values, known[place, 1], _NONE)


def _one_band(pixels: Pixels, name: str) -> NDArray[Any]:
    """Return the only band of a mask, or one of three equal ones."""
    values = pixels.values
    if len(values) == 1 or (len(values) == 3 and (values == values[:1]).all()):
        band: NDArray[Any] = values[0]
        return band
    raise SampleError(
        "bands", f"{name} has {len(values)} bands that differ; a mask of class numbers has 1 band"
    )


def _valid(pixels: Pixels) -> NDArray[np.bool_] | None:
    """Return where all bands of a mask have data, (H, W); None for everywhere."""
    return None if pixels.valid is None else np.logical_and.reduce(pixels.valid, 0)


def _without_nodata(numbers: NDArray[np.int64], pixels: Pixels) -> NDArray[np.int64]:
    valid = _valid(pixels)
    return numbers if valid is None else np.where(valid, numbers, IGNORE_INDEX)


def _is_whole(number: float | None) -> TypeGuard[float]:
    return number is not None and float(number).is_integer()


def _close(readers: Sequence[ImageReader]) -> None:
    for reader in readers:
        reader.close()


def _pack(color: Sequence[int]) -> int:
    return (int(color[0]) << 16) | (int(color[1]) << 8) | int(color[2])


def _unpack(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


def _few(found: Sequence[object]) -> str:
    listed = ", ".join(str(one) for one in found[:_SHOWN])
    return f"{listed} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else listed
