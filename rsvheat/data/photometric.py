# SPDX-License-Identifier: Apache-2.0
"""Random changes of brightness, contrast and noise, for any sensor and any number of bands."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Photometric:
    """Changes brightness, contrast and noise of each image of a sample, by itself.

    Changes are gains and shifts of normalized values, so that they fit radar in decibels and
    twelve bands as well as red, green and blue; nothing is turned to gray or to another hue, since
    the colors of land cover are what tells it. Masks, boxes and pixels without data stay as they
    are. A data module takes it among its ``transforms``; in a recipe:

        data:
          transforms:
          - class_path: rsvheat.data.Photometric
            init_args: {brightness: 0.2, contrast: 0.2}

    Args:
        brightness: Largest shift of an image, in units of normalized images: a standard deviation.
        contrast: Largest change of the deviations from a band's mean: a factor within
            ``1 - contrast`` to ``1 + contrast`` for the image.
        band_shift: Largest shift of each band by itself, in the unit of ``brightness``.
        noise: Largest standard deviation of noise of each pixel, in the same unit. Speckle of radar
            in decibels is noise of this kind.
        probability: Probability with which an image is changed.

    Raises:
        ValueError: If a value is negative or not finite, or the probability is above 1.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    band_shift: float = 0.1
    noise: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in vars(self).items():
            if not 0 <= value < math.inf or (name == "probability" and value > 1):
                most = " and at most 1" if name == "probability" else ""
                raise ValueError(f"{name} must be at least 0{most}, got {value}")

    def __call__(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Return a sample with changed images; torch's generator is the source of randomness.

        Args:
            entries: Entries of a sample by name, see ``rsvheat.data.ImageDataset``.
        """
        changed = dict(entries)
        for name, entry in entries.items():
            group, _, modality = name.partition(".")
            if group == "images" and bool(torch.rand(()) < self.probability):
                image = entry.as_subclass(Tensor)
                missing = entries.get(f"missing.{modality}")
                result = self._changed(image)
                if missing is not None:
                    result = torch.where(missing.as_subclass(Tensor) != 0, image, result)
                changed[name] = result.as_subclass(type(entry))
        return changed

    def _changed(self, image: Tensor) -> Tensor:
        draws = 2 * torch.rand(len(image) + 2, 1, 1) - 1
        mean = image.mean((1, 2), keepdim=True)
        shift = draws[0] * self.brightness + draws[2:] * self.band_shift
        result = (image - mean) * (1 + draws[1] * self.contrast) + mean + shift
        if self.noise:
            result = result + self.noise * torch.rand(()) * torch.randn_like(result)
        return result
