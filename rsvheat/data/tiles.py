# SPDX-License-Identifier: Apache-2.0
"""Large images as tiles: for evaluation at full resolution, and to size an epoch of crops."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.boxes import BOX_TARGETS, Boxes
from rsvheat.data.image_reader import ImageReader, Pixels, ReaderOfReader, Window, WindowReader
from rsvheat.data.skip_report import SampleError, Skip
from rsvheat.data.sources import Indices, Source
from rsvheat.data.spec import IGNORE_INDEX


class PaddedReader(ReaderOfReader):
    """An image that is continued to the right and below by pixels without data.

    Args:
        reader: Reader of the image.
        height: Smallest height in pixels.
        width: Smallest width in pixels.
    """

    def __init__(self, reader: ImageReader, height: int, width: int) -> None:
        super().__init__(reader, max(height, reader.height), max(width, reader.width))

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        inside = clip_window(window, self._reader.height, self._reader.width)
        shape = (len(bands), window.height, window.width)
        if inside is None:
            return Pixels(np.zeros(shape, self.dtype), np.zeros((1, *shape[1:]), bool))
        values, valid = self._reader.read(inside, bands)
        if inside == window:
            return Pixels(values, valid)
        known = np.broadcast_to(True if valid is None else valid, values.shape)
        return Pixels(pad_to(values, window, 0), pad_to(known, window, False))


def clip_window(window: Window, height: int, width: int) -> Window | None:
    """Return the part of a window that is within an image; None if there is none.

    Args:
        window: Window from an upper left corner within the image.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    rows, columns = min(window.height, height - window.top), min(window.width, width - window.left)
    return window._replace(height=rows, width=columns) if rows > 0 and columns > 0 else None


def pad_to(values: NDArray[Any], window: Window, fill: Any) -> NDArray[Any]:
    """Continue what was read of a window's part to the right and below.

    Args:
        values: Values of the part (..., H, W).
        window: The whole window.
        fill: Value of the added pixels.
    """
    more = (window.height - values.shape[-2], window.width - values.shape[-1])
    widths = [(0, 0)] * (values.ndim - 2) + [(0, more[0]), (0, more[1])]
    return np.pad(values, widths, constant_values=fill)


def read_padded_mask(
    source: Source, index: int, window: Window, height: int, width: int
) -> NDArray[np.int64]:
    """Read a sample's mask in a window that may reach beyond the image.

    Args:
        source: Source with target ``"mask"``.
        index: Index of the sample.
        window: Window of the mask.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Class numbers (H, W); ``IGNORE_INDEX`` beyond the image.
    """
    inside = clip_window(window, height, width)
    if inside is None:
        return np.full((window.height, window.width), IGNORE_INDEX, np.int64)
    return pad_to(np.array(source.read_target(index, inside), np.int64), window, IGNORE_INDEX)


def image_size(source: Source, index: int) -> tuple[int, int]:
    """Return the height and width of a sample's images in pixels.

    Args:
        source: Source of the sample.
        index: Index of the sample.

    Raises:
        SampleError: If its first image cannot be opened.
    """
    present = source.present(index)
    if not present:
        raise SampleError("unmatched", "none of the modalities is there")
    with source.open(index, present[0]) as reader:
        return reader.height, reader.width


def starts(length: int, side: int, step: int) -> list[int]:
    """Return where windows of a side begin so that they cover a length.

    Args:
        length: Length to cover in pixels.
        side: Side of the windows in pixels.
        step: Distance between windows in pixels; the last one ends with the length.
    """
    if length <= side:
        return [0]
    return [*range(0, length - side, step), length - side]


class Tile(NamedTuple):
    """Place of a tile.

    Attributes:
        sample: Index of the sample whose images it is cut from.
        size: Height and width of these images in pixels.
        window: Pixels of the images that the tile shows; it may reach beyond them.
        rows: Rows of the tile that no other tile is nearer to; open at the border of the images.
        columns: Columns of that kind.
    """

    sample: int
    size: tuple[int, int]
    window: Window
    rows: slice
    columns: slice

    def answers_for(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points (N,) no other tile is nearer to.

        Args:
            points: Points (N, 2) as x and y in pixels of the tile; they may lie beyond the border
                of the images.
        """
        inside = np.ones(len(points), bool)
        for along, part in zip(points.T, (self.columns, self.rows), strict=True):
            if part.start is not None:
                inside &= along >= part.start
            if part.stop is not None:
                inside &= along < part.stop
        return inside


class Tiles(Source):
    """Cuts the images of a source with masks or boxes into overlapping tiles, for evaluation.

    Every pixel of the images counts once: a tile's mask is ignored where another tile is nearer to
    the pixel, so that a network predicts pixels with context on all sides, at the cost of overlap.
    Every box counts once, too: in the tile that is nearest to its center; in other tiles that hold
    a part of it, it is difficult. Smaller images are padded.

    Args:
        source: Scanned source with target ``"mask"``, ``"boxes"`` or ``"oriented_boxes"``.
        indices: Indices of the source's samples; None for all.
        side: Side of the tiles in pixels.
        overlap: Overlap of neighboring tiles in pixels, below ``side``.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self, source: Source, indices: Indices | None, side: int, overlap: int = 0
    ) -> None:
        if source.target not in ("mask", *BOX_TARGETS):
            raise ValueError(
                f"tiles are of images with masks or boxes, got target {source.target!r}"
            )
        if not 0 <= overlap < side:
            raise ValueError(f"overlap must be at least 0 and below {side}, got {overlap}")
        self.source = source
        self.modalities, self.target, self.classes = (
            source.modalities,
            source.target,
            source.classes,
        )
        self._indices = range(len(source)) if indices is None else [int(i) for i in indices]
        self._side, self._overlap = side, overlap
        self._tiles: list[Tile] = []

    def __str__(self) -> str:
        """Return the source."""
        return f"tiles of {self.source}"

    def scan(self) -> list[Skip]:
        """See ``Source.scan``; opens every image to find its size."""
        skips: list[Skip] = []
        self._tiles = []
        for index in self._indices:
            try:
                size = image_size(self.source, index)
            except SampleError as error:
                skips.append(Skip(error.kind, self.source.key(index), error.reason))
                continue
            lines = [starts(length, self._side, self._side - self._overlap) for length in size]
            for row, top in enumerate(lines[0]):
                for column, left in enumerate(lines[1]):
                    window = Window(top, left, self._side, self._side)
                    rows = _core(lines[0], row, self._side)
                    columns = _core(lines[1], column, self._side)
                    self._tiles.append(Tile(index, size, window, rows, columns))
        return skips

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return len(self._tiles)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        tile = self._tiles[index]
        return f"{self.source.key(tile.sample)}@{tile.window.top}_{tile.window.left}"

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return self.source.present(self._tiles[index].sample)

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        tile = self._tiles[index]
        reader = self.source.open(tile.sample, modality)
        if (reader.height, reader.width) != tile.size:
            reader.close()
            raise SampleError(
                "size",
                f"{reader.name} has {reader.height} x {reader.width} pixels, expected "
                f"{tile.size[0]} x {tile.size[1]}",
            )
        padded = PaddedReader(reader, tile.window.top + self._side, tile.window.left + self._side)
        return WindowReader(padded, tile.window)

    def tile(self, index: int) -> Tile:
        """Return where a tile is.

        Args:
            index: Index of the tile.
        """
        return self._tiles[index]

    def read_target(self, index: int, window: Window) -> Any:
        """See ``Source.read_target``."""
        tile = self._tiles[index]
        if self.target != "mask":
            found: Boxes = self.source.read_target(tile.sample, tile.window)
            corners = found.corners
            counts = tile.answers_for((corners.min(1) + corners.max(1)) / 2)
            corners = corners - np.array((window.left, window.top), np.float64)
            return Boxes(corners, found.labels, found.is_difficult | ~counts)
        mask = read_padded_mask(self.source, tile.sample, tile.window, *tile.size)
        counted = np.full_like(mask, IGNORE_INDEX)
        core = tile.rows, tile.columns
        counted[core] = mask[core]
        rows = slice(window.top, window.top + window.height)
        return counted[rows, window.left : window.left + window.width]


def _core(begins: Sequence[int], number: int, side: int) -> slice:
    """Return the part of a window, of several in a line, that no other one is nearer to.

    It is open at the ends of the line.
    """
    # Neighbors share their overlap in the middle.
    middles = [(one + side + next_) // 2 for one, next_ in pairwise(begins)]
    first = middles[number - 1] - begins[number] if number else None
    last = middles[number] - begins[number] if number < len(middles) else None
    return slice(first, last)
