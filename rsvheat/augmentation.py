# SPDX-License-Identifier: Apache-2.0
"""Random views of batches of images, computed where the images are and seeded by a generator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from rsvheat.masking import uniform


@dataclass(frozen=True)
class RandomView:
    """A crop at another scale, rotated and flipped, with its brightness and colors changed.

    Each sample gets its own. The geometry is one bilinear resampling. Colors are signal in remote
    sensing, so their changes are shifts and gains of normalized values and nothing is turned gray.

    Args:
        size: Side in pixels, or (height, width), of the views; None for that of the images.
        scale: Range of the crop's area over the image's, above 0 and at most 1.
        ratio: Range of the crop's width over its height, relative to the image's, above 0.
        dihedral: Whether views are flipped and turned by multiples of 90 degrees; images that are
            not square are only flipped.
        contrast: Largest change of the deviations from a channel's mean: a factor within
            ``1 - contrast`` to ``1 + contrast`` for the sample.
        brightness: Largest shift of a sample, in the unit of normalized images: a standard
            deviation.
        channel_shift: Largest shift of each channel by itself, in the same unit.

    Raises:
        ValueError: If an argument is not as above.
    """

    size: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    dihedral: bool = True
    contrast: float = 0.2
    brightness: float = 0.2
    channel_shift: float = 0.1

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, bound in (("scale", 1.0), ("ratio", math.inf)):
            value = tuple(getattr(self, name))
            if len(value) != 2 or not 0 < value[0] <= value[1] <= bound:
                raise ValueError(
                    f"{name} must be (lowest, highest) within 0 to {bound}, got {value}"
                )
            object.__setattr__(self, name, value)  # recipes give lists
        for name in ("contrast", "brightness", "channel_shift"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.size is not None:
            size = (self.size,) * 2 if isinstance(self.size, int) else tuple(self.size)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"size must be a side or (height, width), got {self.size}")

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one view of each image.

        Args:
            x: Normalized images, (B, C, H, W), floating point.
            generator: Source of randomness; torch's own by default.

        Returns:
            (B, C, H', W') of the wanted size, of the dtype of ``x``.
        """
        return self.recolor(self.crop(x, generator), generator)

    def crop(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return crops of ``x``, rotated and flipped; arguments as for a call."""
        batch, channels, height, width = x.shape
        r = uniform((7, batch), generator, x.device)
        area = self.scale[0] + r[0] * (self.scale[1] - self.scale[0])
        stretch = math.log(self.ratio[1] / self.ratio[0])
        ratio = self.ratio[0] * (r[1] * stretch).exp()
        h, w = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
        # In units of half the image, as affine_grid takes them: output (u, v) shows the image at
        # x = w * u + shift, or at x = w * v + shift where the view is transposed.
        matrix = torch.zeros(batch, 2, 3, device=x.device)
        matrix[:, 0, 2] = (2 * r[2] - 1) * (1 - w)
        matrix[:, 1, 2] = (2 * r[3] - 1) * (1 - h)
        if self.dihedral:
            w = torch.where(r[4] < 0.5, -w, w)
            h = torch.where(r[5] < 0.5, -h, h)
        turned = (r[6] < 0.5) & (self.dihedral and height == width)
        matrix[:, 0, 0], matrix[:, 0, 1] = w * ~turned, w * turned
        matrix[:, 1, 1], matrix[:, 1, 0] = h * ~turned, h * turned
        size = self.size or (height, width)
        size = (size, size) if isinstance(size, int) else size
        grid = affine_grid(matrix, [batch, channels, *size], align_corners=False)
        y = grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False)
        return y.to(x.dtype)

    def recolor(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ``x`` with other contrast, brightness and colors; arguments as for a call."""
        batch, channels = x.shape[:2]
        r = 2 * uniform((batch, channels + 2, 1, 1), generator, x.device) - 1
        mean = x.mean((2, 3), keepdim=True)
        shift = r[:, 1:2] * self.brightness + r[:, 2:] * self.channel_shift
        return ((x - mean) * (1 + r[:, :1] * self.contrast) + mean + shift).to(x.dtype)
