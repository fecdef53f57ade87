# SPDX-License-Identifier: Apache-2.0
"""Crops, flips and turns, the same for all modalities of a sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.data.readers import Window


@dataclass(frozen=True)
class Crop:
    """A square window of each sample, resized to the size that a network takes.

    All that is random comes from the generator that the methods are given.

    Args:
        size: Side of the result in pixels.
        window: Side of the window in the image in pixels; 448 with ``size=224`` halves the
            resolution. None is the image's shorter side, which also bounds larger ones.
        scale: Range of a random factor of the window's side, at most 1.
        augment: Place the window at random, and flip and turn it by multiples of 90 degrees, each
            of the 8 ways with the same chance. If not, the window is in the centre, of the whole
            side, and upright.
        min_valid: A random window is drawn again, up to 8 times, while less than this part of its
            pixels holds data; then the best one is taken.

    Raises:
        ValueError: If an argument is not as above.
    """

    size: int = 224
    window: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    augment: bool = True
    min_valid: float = 0.5

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

    @property
    def draws(self) -> int:
        """How many windows may be tried."""
        return 8 if self.augment else 1

    def choose(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """Choose a window.

        Args:
            height: Of the image, in pixels.
            width: Likewise.
            rng: Source of randomness; not used without ``augment``.
        """
        side = min(height, width, self.window or height)
        if not self.augment:
            return Window((height - side) // 2, (width - side) // 2, side, side)
        if self.scale != (1.0, 1.0):
            side = max(1, round(side * rng.uniform(*self.scale)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        return Window(int(top), int(left), side, side)

    def finish(self, images: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        """Flip, turn and resize what was read of a window.

        Args:
            images: (C, side, side) by modality, normalised.
            rng: Source of randomness; not used without ``augment``.

        Returns:
            (C, size, size), contiguous. Resizing is bilinear and free of aliases.
        """
        flip, turns = (rng.integers(2), int(rng.integers(4))) if self.augment else (0, 0)
        result = {}
        for name, image in images.items():
            if image.shape[-1] != self.size:
                image = interpolate(
                    image[None], (self.size, self.size), mode="bilinear", antialias=True
                )[0]
            if flip:
                image = image.flip(-1)
            result[name] = torch.rot90(image, turns, (-2, -1)).contiguous()
        return result
