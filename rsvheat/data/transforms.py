# SPDX-License-Identifier: Apache-2.0
"""Crops, flips, rotations and resizing, the same for images, masks and boxes of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.data.readers import Window
from rsvheat.data.spec import IGNORE_INDEX

_DRAWS = 8


@dataclass(frozen=True)
class Crop:
    """Crops a square window of each sample and resizes it to the size that a network takes.

    All randomness comes from the generator that the methods are given.

    Args:
        size: Side of the result in pixels.
        window: Side of the window in the image in pixels; 448 with ``size=224`` halves the
            resolution. None takes the image's shorter side, which also limits larger values.
        scale: Range of a random factor on the window's side, at most 1.
        augment: Place the window at random, and flip and rotate it by multiples of 90 degrees, each
            of the 8 orientations with the same probability. Otherwise the window is in the center,
            of the whole side, and upright.
        min_valid: Smallest part of a random window's pixels that hold data. A window with less is
            drawn again, up to 8 times; then the best one is taken.
        cat_max: Largest part of a random window's labeled pixels that one class may take, for
            masks: 0.75 avoids windows of background only. A window with more is drawn again in
            the same way.

    Raises:
        ValueError: If an argument is not as above.
    """

    size: int = 224
    window: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    augment: bool = True
    min_valid: float = 0.5
    cat_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("size", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be 0 < lowest <= highest <= 1, got {self.scale}")
        if not 0 <= self.min_valid <= 1:
            raise ValueError(f"min_valid must be within 0 to 1, got {self.min_valid}")
        if not 0 < self.cat_max <= 1:
            raise ValueError(f"cat_max must be above 0 and at most 1, got {self.cat_max}")

    @property
    def draws(self) -> int:
        """Number of windows that may be tried."""
        return _DRAWS if self.augment else 1

    def choose(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """Choose a window.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            rng: Source of randomness; not used without ``augment``.
        """
        side = min(height, width, self.window or height)
        if not self.augment:
            return Window((height - side) // 2, (width - side) // 2, side, side)
        if self.scale != (1.0, 1.0):
            side = max(1, round(side * rng.uniform(*self.scale)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        return Window(int(top), int(left), side, side)

    def is_balanced(self, mask: NDArray[np.int64]) -> bool:
        """Return whether no class takes more than ``cat_max`` of a mask's labeled pixels."""
        labeled = mask[mask != IGNORE_INDEX]
        return bool(len(labeled) and np.bincount(labeled).max() <= self.cat_max * len(labeled))

    def finish(self, entries: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Resize, flip and rotate what was read of a window.

        Args:
            entries: Images (C, side, side) as tensors, masks and boxes as ``tv_tensors``, by name.
            rng: Source of randomness; not used without ``augment``.

        Returns:
            Entries of ``size`` pixels a side. Images are resized bilinearly with antialiasing,
            masks by the nearest pixel.
        """
        flip, turns = (rng.integers(2), int(rng.integers(4))) if self.augment else (0, 0)
        result = {}
        for name, entry in entries.items():
            transform = _transform_image if type(entry) is Tensor else _transform_annotation
            result[name] = transform(entry, self.size, bool(flip), turns).contiguous()
        return result


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


def _transform_annotation(entry: Any, size: int, flip: bool, turns: int) -> Any:
    from torchvision.transforms.v2 import functional

    if functional.get_size(entry) != [size, size]:
        entry = functional.resize(entry, [size, size], antialias=True)
    if flip:
        entry = functional.horizontal_flip(entry)
    return functional.rotate(entry, 90.0 * turns) if turns else entry
