# SPDX-License-Identifier: Apache-2.0
"""Frequency hierarchical masking: views that show a part of an image's spectrum."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.ops import _checks, frequency_split

SectorShape: TypeAlias = Literal["disc", "wedge"]
Join: TypeAlias = Literal["low", "high", "either", "mosaic"]


@dataclass(frozen=True)
class FrequencyMasking:
    """Splits the DCT-II spectrum of each image by a random sector, and hides a part of it.

    The sector holds a fraction of the coefficients that is drawn for each sample. The *low* band
    are the coefficients inside, and always DC; the *high* band are the others; they add up to the
    image. ``split`` returns both, as the paper's encoder takes them; ``hide`` returns one
    image of the original size from which content is missing.

    The paper leaves the sector's radius and angles open, and how the bands are joined. The default
    is the plainest reading: the quarter disc around DC, so that low is a low-pass of the image, and
    both bands pass the encoder, each at the original size. The alternatives are the arguments:
    narrower sectors (``angle=(45, 90)``), all radii within a range of directions (``"wedge"``), one
    band alone (``join="low"`` drops the high band, ``"high"`` the sector), either by chance, or
    patches of the one beside patches of the other (``"mosaic"``).

    Args:
        ratio: Range of the fraction of coefficients in the sector, ``0 < lowest <= highest < 1``.
            Coefficients of the same radius or direction stay together, so a fraction may miss
            the drawn one by a few of them, but not exceed the highest.
        shape: Shape of the sector: ``"disc"`` draws the angles and solves for the radius that holds
            the ratio; ``"wedge"`` takes every radius and solves for the angles.
        angle: Range of the width in degrees of a ``"disc"`` sector, within 0 to 90; its direction
            is uniform. A sector too narrow for its ratio takes every radius and holds less.
        join: Band that ``hide`` shows: ``"low"``; ``"high"`` and always DC;
            ``"either"``, drawn per sample; or ``"mosaic"``, drawn per patch.
        patch: Side in pixels of the patches of a mosaic.
        probability: Chance of a sample to be masked by ``hide``.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), frequency hierarchical masking.
    """

    ratio: tuple[float, float] = (0.2, 0.3)
    shape: SectorShape = "disc"
    angle: tuple[float, float] = (90.0, 90.0)
    join: Join = "high"
    patch: int = 16
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, bound, inclusive in (("ratio", 1.0, False), ("angle", 90.0, True)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= bound:
                raise ValueError(f"{name} must be (lowest, highest) above 0, got {value}")
            if not inclusive and value[1] == bound:
                raise ValueError(f"{name} must be below {bound}, got {value}")
            object.__setattr__(self, name, tuple(value))  # recipes give lists
        for name, choices in (("shape", get_args(SectorShape)), ("join", get_args(Join))):
            if getattr(self, name) not in choices:
                got = getattr(self, name)
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {got!r}")
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, got {self.patch}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be within 0 to 1, got {self.probability}")

    def draw(
        self,
        batch: int,
        height: int,
        width: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw a sector for each sample.

        Args:
            batch: Number of samples.
            height: Height H of the images.
            width: Width W of the images.
            generator: Source of randomness; torch's own by default.
            device: Device of the result; the CPU for devices without float64.

        Returns:
            Radii (batch,) and angles (batch, 2) as ``rsvheat.ops.frequency_split`` takes them,
            float64.
        """
        if device is not None:
            device = _checks.precise_device(torch.device(device))
        total = height * width
        lowest = math.ceil(total * self.ratio[0])
        highest = max(math.floor(total * self.ratio[1]), lowest)
        spare = uniform((3, batch), generator, device)
        count = lowest + (spare[0] * (highest + 1 - lowest)).long().clamp(max=highest - lowest)
        if self.shape == "wedge" and total > 1:
            angles = self._wedge(count, highest, spare[1], height, width)
            return torch.full_like(angles[:, 0], 2.0), angles
        span = self.angle[0] + spare[1].double() * (self.angle[1] - self.angle[0])
        start = spare[2].double() * (90 - span)
        angles = torch.stack((start, start + span), dim=1)
        return self._radius(count, highest, angles, height, width), angles

    def split(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return the low and the high band of images, each of their size; low + high = x.

        Args:
            x: Images, (B, C, H, W), as for ``rsvheat.ops.frequency_split``. The channels of a
                sample share its sector.
            generator: Source of randomness; torch's own by default.
        """
        batch, _, height, width = x.shape
        return frequency_split(x, *self.draw(batch, height, width, generator, x.device))

    def hide(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images of the size of ``x`` that show one band of it, as ``join`` says.

        Args:
            x: Images, (B, C, H, W).
            generator: Source of randomness; torch's own by default.
        """
        low, high = self.split(x, generator)
        batch, _, height, width = x.shape
        shown = low
        if self.join != "low":
            rest = high + x.mean((2, 3), keepdim=True)
            shown = rest
            if self.join != "high":
                grid = (1, 1)
                if self.join == "mosaic":
                    grid = (-(-height // self.patch), -(-width // self.patch))
                bits = uniform((batch, 1, *grid), generator, x.device)
                if self.join == "mosaic":
                    bits = interpolate(bits, scale_factor=float(self.patch))
                    bits = bits[:, :, :height, :width]
                shown = torch.where(bits < 0.5, low, rest)
        if self.probability == 1:
            return shown
        masked = uniform((batch, 1, 1, 1), generator, x.device) < self.probability
        return torch.where(masked, shown, x)

    def _radius(
        self, count: Tensor, highest: int | Tensor, angles: Tensor, height: int, width: int
    ) -> Tensor:
        """Return radii that hold ``count`` coefficients between the angles, DC among them."""
        squares, directions, _ = _spectrum(height, width, count.device)
        if self.angle[0] < 90:
            inside = (directions >= angles[:, :1]) & (directions <= angles[:, 1:])
            inside[:, 0] = True
            # As many of the nearest coefficients as hold what is wanted inside the angles.
            held = inside.cumsum(1, dtype=torch.int32)
            count = highest = (held <= count[:, None]).sum(1)
        last = _whole_groups(squares, torch.zeros_like(count), count, highest)[1]
        # Half-way to the next radius, lest rounding leaves the last coefficients outside.
        following = squares[last.clamp(max=squares.numel() - 1)]
        return ((squares[last - 1] + following) / 2 / (height**2 + width**2)).sqrt()

    def _wedge(self, count: Tensor, highest: int, start: Tensor, height: int, width: int) -> Tensor:
        """Return angles between which ``count`` coefficients are, DC among them."""
        ordered = _spectrum(height, width, count.device)[2]
        total = ordered.numel()
        wanted = (count - 1).clamp(1, total)
        first = (start * (total - wanted + 1)).long().clamp(max=total - 1)
        first, last = _whole_groups(ordered, first, wanted, highest - 1)
        return torch.stack((ordered[first], ordered[(last - 1).clamp(min=0)]), dim=1)


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return values uniform in [0, 1), drawn where the generator is and moved to ``device``."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source).to(device)


def _whole_groups(
    ordered: Tensor, first: Tensor, count: Tensor, highest: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Widen ranges of a sorted list to whole groups of equal values, of ``highest`` at most.

    Returns:
        First and, exclusive, last indices.
    """
    first = torch.searchsorted(ordered, ordered[first])
    end = ordered[(first + count - 1).clamp(max=ordered.numel() - 1)]
    last = torch.searchsorted(ordered, end, right=True)
    fewer = torch.searchsorted(ordered, end)
    return first, torch.where((last - first > highest) & (fewer > first), fewer, last)


@lru_cache(maxsize=4)
def _spectrum(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return, by ascending radius, squared radii and directions; then the sorted directions.

    Directions are in degrees; that of DC, which every sector holds, is left out of the last.
    """
    with torch.inference_mode(False):  # or training could not use what validation cached
        n = torch.arange(height, dtype=torch.float64, device=device)[:, None]
        m = torch.arange(width, dtype=torch.float64, device=device)
        squares, order = (n * n + m * m).flatten().sort(stable=True)
        directions = (torch.atan2(n, m) * (180 / math.pi)).expand(height, width).flatten()
        return squares, directions[order], directions[1:].sort().values
