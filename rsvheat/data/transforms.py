# SPDX-License-Identifier: Apache-2.0
"""Crops, flips, rotations and resizing, the same for images, masks and boxes of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.data.boxes import Boxes
from rsvheat.data.polygons import (
    Points,
    areas_within,
    bounds,
    bounds_corners,
    rectangle_corners,
    rectangles,
)
from rsvheat.data.readers import Window
from rsvheat.data.spec import IGNORE_INDEX, Target

_DRAWS = 8


class Motion(NamedTuple):
    """Flip and rotation of a square window, in this order.

    Attributes:
        flip: Whether left and right are exchanged.
        turns: Number of rotations by 90 degrees, counter-clockwise as seen in the image.
        angle: Further rotation in degrees, counter-clockwise.
    """

    flip: bool = False
    turns: int = 0
    angle: float = 0.0

    def move(self, points: Points, side: float) -> Points:
        """Return where points of a window come to lie.

        Args:
            points: Points (..., 2) as x and y from the window's upper left corner.
            side: Side of the window, in the unit of the points.
        """
        x, y = np.moveaxis(points - side / 2, -1, 0)
        if self.flip:
            x = -x
        for _ in range(self.turns % 4):
            x, y = y, -x
        if self.angle:
            cos, sin = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
            x, y = cos * x + sin * y, cos * y - sin * x
        return np.stack((x, y), -1) + side / 2


@dataclass(frozen=True)
class Crop:
    """Crops a square window of each sample and resizes it to the size that a network takes.

    All randomness comes from the generator that the methods are given.

    Args:
        size: Side of the result in pixels.
        window: Side of the window in the image in pixels; 448 with ``size=224`` halves the
            resolution. None takes the image's shorter side, which also limits larger values; of
            images with boxes it takes the longer side, and they are padded to a square.
        scale: Range of a random factor on the window's side, at most 1.
        augment: Place the window at random, and flip and rotate it by multiples of 90 degrees, each
            of the 8 orientations with the same probability. Otherwise the window is in the center,
            of the whole side, and upright.
        min_valid: Smallest part of a random window's pixels that hold data. A window with less is
            drawn again, up to 8 times; then the best one is taken. So is a window of masks in which
            no pixel has a class; if the best one has none either, the sample is skipped.
        cat_max: Largest part of a random window's labeled pixels that one class may take, for
            masks: 0.75 avoids windows of background only. A window with more is drawn again in
            the same way.
        rotation: Largest angle in degrees of a random rotation either way, 180 for any angle;
            further to the above. Corners that it uncovers hold no data.
        rotation_rate: Part of the samples that are rotated so.
        min_inside: Smallest part of a box, by its area within the image, that must be in the window
            for the box to be kept; 0 keeps all that are partly in it. 0.7 is that of DOTA's
            development kit. Horizontal boxes are clipped to the window; oriented ones keep their
            shape, as a part of a rotated rectangle is none.
        focus: Part of the random windows that contain the center of a box, of a class that is drawn
            uniformly from those in the image: rare classes are seen more often.

    Raises:
        ValueError: If an argument is not as above.
    """

    size: int = 224
    window: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    augment: bool = True
    min_valid: float = 0.5
    cat_max: float = 1.0
    rotation: float = 0.0
    rotation_rate: float = 0.5
    min_inside: float = 0.7
    focus: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("size", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be 0 < lowest <= highest <= 1, got {self.scale}")
        for name in ("min_valid", "rotation_rate", "min_inside", "focus"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be within 0 to 180 degrees, got {self.rotation}")
        if not 0 < self.cat_max <= 1:
            raise ValueError(f"cat_max must be above 0 and at most 1, got {self.cat_max}")

    @property
    def draws(self) -> int:
        """Number of windows that may be tried."""
        return _DRAWS if self.augment else 1

    def choose(
        self,
        height: int,
        width: int,
        rng: np.random.Generator,
        around: tuple[float, float] | None = None,
    ) -> Window:
        """Choose a window.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            rng: Source of randomness; not used without ``augment``.
            around: Point (y, x) that a random window contains, if it is in the image.
        """
        side = min(height, width, self.window or height)
        if not self.augment:
            return Window((height - side) // 2, (width - side) // 2, side, side)
        if self.scale != (1.0, 1.0):
            side = max(1, round(side * rng.uniform(*self.scale)))
        if around is None:
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        else:
            top, left = (
                rng.integers(*_starts(point, side, length), endpoint=True)
                for point, length in zip(around, (height, width), strict=True)
            )
        return Window(int(top), int(left), side, side)

    def is_balanced(self, mask: NDArray[np.int64]) -> bool:
        """Return whether no class takes more than ``cat_max`` of a mask's labeled pixels."""
        labeled = mask[mask != IGNORE_INDEX]
        return bool(len(labeled) and np.bincount(labeled).max() <= self.cat_max * len(labeled))

    def draw_motion(self, rng: np.random.Generator) -> Motion:
        """Draw the flip and rotation of a sample.

        Args:
            rng: Source of randomness; not used without ``augment``.
        """
        if not self.augment:
            return Motion()
        flip, turns = bool(rng.integers(2)), int(rng.integers(4))
        if self.rotation and rng.random() < self.rotation_rate:
            return Motion(flip, turns, float(rng.uniform(-self.rotation, self.rotation)))
        return Motion(flip, turns)

    def finish(
        self,
        entries: Mapping[str, Any],
        motion: Motion,
        fills: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Resize, flip and rotate what was read of a window.

        Args:
            entries: Images (C, side, side) as tensors and masks (1, side, side) as ``tv_tensors``,
                by name.
            motion: Flip and rotation.
            fills: Value of an image's pixels that a rotation uncovers, 0 by default. Those of masks
                are ``IGNORE_INDEX`` and True.

        Returns:
            Entries of ``size`` pixels a side. Images are resized and rotated bilinearly, resized
            with antialiasing; masks by the nearest pixel.
        """
        result = {}
        for name, entry in entries.items():
            transform = _transform_image if type(entry) is Tensor else _transform_mask
            moved = transform(entry, self.size, motion.flip, motion.turns)
            if motion.angle:
                fill = (fills or {}).get(name, 0.0)
                moved = _rotate(moved, motion.angle, fill)
            result[name] = moved.contiguous()
        return result

    def move_boxes(
        self, found: Boxes, window: Window, size: tuple[int, int], motion: Motion, target: Target
    ) -> Boxes:
        """Resize, flip and rotate boxes with their window, and leave out those outside.

        A box of an image is scaled alike in both directions, and a rectangle stays one.

        Args:
            found: Boxes in pixels of the window.
            window: The window, whose sides are equal.
            size: Height and width of the image in pixels.
            motion: Flip and rotation.
            target: ``"boxes"`` for horizontal boxes, ``"oriented_boxes"`` for oriented ones.

        Returns:
            Boxes XYXY or CXCYWHR, float32, in pixels of the sample.
        """
        scale = self.size / window.width
        left, top = -window.left, -window.top
        image = np.array([[left, top, left + size[1], top + size[0]]], np.float64)
        frame = np.array([[0, 0, window.width, window.height]], np.float64)
        corners = motion.move(found.corners * scale, self.size)
        whole, seen = (
            motion.move(bounds_corners(box)[0] * scale, self.size) for box in (image, frame)
        )
        canvas = bounds_corners(np.array([[0, 0, self.size, self.size]], np.float64))[0]
        if target == "boxes":
            boxes = bounds(corners)
            shapes = bounds_corners(boxes)
        else:
            boxes = rectangles(corners)
            shapes = rectangle_corners(boxes)
        inside, there = areas_within(shapes, whole, seen, canvas), areas_within(shapes, whole)
        kept = (inside > 0) & (inside >= self.min_inside * there)
        if target == "boxes":
            limits = bounds(np.stack((whole, seen, canvas)))
            low, high = limits[:, :2].max(0), limits[:, 2:].min(0)
            boxes = boxes.clip(np.tile(low, 2), np.tile(high, 2))
        return Boxes(boxes[kept].astype(np.float32), found.labels[kept], found.is_difficult[kept])


def _starts(point: float, side: int, length: int) -> tuple[int, int]:
    """Return the first and last start of windows that contain a point of a line, if any does."""
    last = length - side
    place = int(np.floor(point))
    return min(max(place - side + 1, 0), last), min(max(place, 0), last)


def resize_image(image: Tensor, size: int) -> Tensor:
    """Resize an image bilinearly with antialiasing.

    Args:
        image: Image (C, H, W).
        size: Side of the result in pixels.
    """
    if image.shape[-2:] == (size, size):
        return image
    return interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]


def _transform_image(image: Tensor, size: int, flip: bool, turns: int) -> Tensor:
    """Return what torchvision.transforms.v2 computes, without the seconds of its import.

    Prediction, which has neither masks nor boxes, starts without torchvision.
    """
    image = resize_image(image, size)
    return torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))


def _transform_mask(mask: Any, size: int, flip: bool, turns: int) -> Any:
    from torchvision.transforms.v2 import functional

    if functional.get_size(mask) != [size, size]:
        mask = functional.resize(mask, [size, size])
    if flip:
        mask = functional.horizontal_flip(mask)
    return functional.rotate(mask, 90.0 * turns) if turns else mask


def _rotate(entry: Any, angle: float, fill: float) -> Any:
    """Rotate an image, bilinearly, or a mask, by the nearest pixel."""
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import InterpolationMode, functional

    if not isinstance(entry, tv_tensors.Mask):
        return functional.rotate(entry, angle, InterpolationMode.BILINEAR, fill=[fill] * len(entry))
    # Class numbers up to 2**24 and truth values are exact in float32, as the rotation computes.
    fill = 1 if entry.dtype == torch.bool else IGNORE_INDEX
    return functional.rotate(entry, angle, fill=[fill])
