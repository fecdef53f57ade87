# SPDX-License-Identifier: Apache-2.0
"""Boxes of images: as sources return them, and image files with annotations of boxes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.image_reader import Window
from rsvheat.data.polygons import (
    Points,
    areas,
    bounds,
    bounds_corners,
    rectangle_corners,
    rectangles,
)
from rsvheat.data.skip_report import printable
from rsvheat.data.sources import FileSource
from rsvheat.data.spec import Target

_LOGGER = logging.getLogger("rsvheat.data")

BOX_TARGETS: tuple[Target, ...] = ("boxes", "oriented_boxes")


class Boxes(NamedTuple):
    """Boxes of a window with their classes, as sources return them.

    Samples hold those that are within the window, see ``rsvheat.data.Crop``; so a source may
    return boxes that are partly or wholly outside.

    Attributes:
        boxes: (N, 4) XYXY, (N, 5) CXCYWHR (degrees, counter-clockwise) or corners (N, 4, 2), in
            pixels from the window's upper left corner.
        labels: Class of each box, int64 (N,).
        difficult: Boxes that scores neither count as found nor as missed, bool (N,); None for none.
    """

    boxes: NDArray[np.floating]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_] | None = None

    @property
    def corners(self) -> Points:
        """Corners (N, 4, 2), float64."""
        boxes = np.asarray(self.boxes, np.float64)
        if boxes.ndim == 3:
            return boxes
        return rectangle_corners(boxes) if boxes.shape[1] == 5 else bounds_corners(boxes)

    @property
    def is_difficult(self) -> NDArray[np.bool_]:
        """``difficult``, as an array in any case."""
        return np.zeros(len(self.labels), bool) if self.difficult is None else self.difficult


@dataclass(frozen=True)
class ImageBoxes:
    """Annotated boxes of one image, as a file holds them.

    Attributes:
        corners: Corners (N, 4, 2) as x and y in pixels of the image, in order around each box.
        names: Class name of each box.
        difficult: Boxes that are marked as difficult, bool (N,).
        size: Height and width of the image in pixels, where the file states them.
    """

    corners: Points
    names: tuple[str, ...]
    difficult: NDArray[np.bool_]
    size: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        corners: Sequence[object],
        names: Sequence[str],
        difficult: Sequence[bool] | None = None,
        size: tuple[int, int] | None = None,
    ) -> "ImageBoxes":
        """Return boxes of lists, which may be empty.

        Args:
            corners: Four corners of each box.
            names: Class name of each box.
            difficult: Whether each box is difficult; None for none.
            size: Height and width of the image in pixels, if they are known.
        """
        return cls(
            np.array(corners, np.float64).reshape(-1, 4, 2),
            tuple(names),
            np.zeros(len(names), bool) if difficult is None else np.array(difficult, bool),
            size,
        )

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.names)


class BoxSource(FileSource):
    """Image files by name, with annotated boxes each; images without boxes are samples too.

    Boxes are kept as corners. Those without area or with coordinates that are not finite are left
    out, which the log says.

    Args:
        files: Key and files by modality of each sample.
        boxes: Boxes of each sample.
        classes: Class names by label.
        oriented: Whether samples have oriented boxes; otherwise the horizontal ones around them.

    Raises:
        ValueError: If two samples have the same key, annotations are not as many as samples, or a
            box is of another class.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        boxes: Sequence[ImageBoxes],
        classes: Sequence[str],
        *,
        oriented: bool = False,
    ) -> None:
        super().__init__(files, classes=classes)
        if len(boxes) != len(files):
            raise ValueError(f"{len(boxes)} annotations for {len(files)} samples")
        self.target = "oriented_boxes" if oriented else "boxes"
        number = {name: label for label, name in enumerate(classes)}
        unknown = sorted({name for image in boxes for name in image.names} - number.keys())
        if unknown:
            raise ValueError(f"boxes are of {unknown}, the classes are {list(classes)}")
        used = [_usable(image.corners, oriented) for image in boxes]
        for (key, _), chosen in zip(files, used, strict=True):
            if not chosen.all():
                _LOGGER.warning(
                    "%s: %d of %d boxes have no area and are left out",
                    printable(key),
                    int((~chosen).sum()),
                    len(chosen),
                )
        # Arrays of all images: lists of small ones would be copied page by page into each worker.
        self._ends = np.cumsum([int(chosen.sum()) for chosen in used])
        self._corners = np.concatenate(
            [np.zeros((0, 4, 2)), *(b.corners[u] for b, u in zip(boxes, used, strict=True))]
        )
        self._labels = np.array(
            [
                number[name]
                for image, chosen in zip(boxes, used, strict=True)
                for name, use in zip(image.names, chosen, strict=True)
                if use
            ],
            np.int64,
        )
        self._difficult = np.concatenate(
            [np.zeros(0, bool), *(b.difficult[u] for b, u in zip(boxes, used, strict=True))]
        )

    def boxes(self, index: int) -> Boxes:
        """Return all boxes of a sample, as corners in pixels of its images.

        Args:
            index: Index of the sample.
        """
        part = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        return Boxes(self._corners[part], self._labels[part], self._difficult[part])

    def read_target(self, index: int, window: Window) -> Boxes:
        """Return the boxes of a window, and those that are partly in it, as corners.

        Args:
            index: Index of the sample.
            window: Pixels of the image that the sample shows.
        """
        found = self.boxes(index)
        corners = found.corners - np.array((window.left, window.top), np.float64)
        left, top, right, bottom = bounds(corners).T
        inside = (right > 0) & (bottom > 0) & (left < window.width) & (top < window.height)
        return Boxes(corners[inside], found.labels[inside], found.is_difficult[inside])


def _usable(corners: Points, oriented: bool) -> NDArray[np.bool_]:
    """Return which boxes have finite coordinates and an area, (N,)."""
    finite = np.logical_and.reduce(np.isfinite(corners.reshape(-1, 8)), 1)
    known = np.where(finite[:, None, None], corners, 0)
    shapes = rectangle_corners(rectangles(known)) if oriented else bounds_corners(bounds(known))
    return np.asarray(finite & (areas(shapes) > 0), bool)
