# SPDX-License-Identifier: Apache-2.0
"""Heat in the spectrum: diffusivities, spectra before and after conduction, and image bands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.explain.recording import Block, Place, as_batch, conductions, places
from rsvheat.masking import FrequencyMasking
from rsvheat.models import RSVHeat
from rsvheat.ops import dct2d, frequency_split
from rsvheat.ops.reference import sector_mask


def frequencies(height: int, width: int) -> NDArray[np.float64]:
    """Return |omega| of the DCT-II's coefficients, in radians per position of the grid.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        (height, width); ``sqrt(omega_h**2 + omega_w**2)`` with ``omega_n = n * pi / N``.
    """
    rows, columns = (np.arange(n) * (math.pi / n) for n in (height, width))
    result: NDArray[np.float64] = np.hypot(rows[:, None], columns)
    return result


def radial_mean(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average the values of a spectrum over rings of equal frequency.

    A ring is as wide as the finer of the two axes' steps; the first holds DC alone.

    Args:
        values: Values (H, W, ...) by frequency.

    Returns:
        The mean |omega| of each ring, (rings,), and the mean of the values on it, (rings, ...);
        rings without a coefficient are left out.
    """
    height, width = values.shape[:2]
    omega = frequencies(height, width)
    ring = np.rint(omega * (max(height, width) / math.pi)).astype(np.int64).ravel()
    counts = np.bincount(ring)
    flat = values.reshape(height * width, -1)
    sums = np.zeros((len(counts), flat.shape[1]))
    np.add.at(sums, ring, flat)
    filled = counts > 0
    radius = np.bincount(ring, omega.ravel())[filled] / counts[filled]
    means = sums[filled] / counts[filled][:, None]
    return radius, means.reshape(-1, *values.shape[2:])


@dataclass(frozen=True)
class Diffusivity:
    """Thermal diffusivity of a block's heat conduction, by frequency and channel.

    Attributes:
        place: Block of the encoder.
        k: Diffusivity (H, W, C), float64, in squared positions of the stage's grid, the time step
            folded in; entry (n, m) belongs to ``omega = (n * pi / H, m * pi / W)``.
    """

    place: Place
    k: NDArray[np.float64]

    @property
    def decay(self) -> NDArray[np.float64]:
        """The factor ``exp(-k * |omega|**2)`` on each coefficient, (H, W, C), above 0 up to 1."""
        result: NDArray[np.float64] = np.exp(
            -self.k * frequencies(*self.k.shape[:2])[..., None] ** 2
        )
        return result


def diffusivity(
    encoder: RSVHeat,
    size: tuple[int, int],
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> list[Diffusivity]:
    """Return the diffusivities of an encoder for images of a size.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        size: Height and width of the image in pixels.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        One entry for each block, from first to last.

    Raises:
        ValueError: If an argument is not as above.
    """
    if gsd is not None and (encoder.freq_embed != "implicit" or not 0 < gsd < math.inf):
        raise ValueError(
            "gsd must be above 0, and only models with freq_embed='implicit' take one: got "
            f"{gsd} for a model with {encoder.freq_embed!r}"
        )
    scale = 1.0 if gsd is None else gsd / encoder.reference_gsd
    found = []
    for place, operator in places(encoder, stages, block):
        embedding: Any = encoder.stages[place.stage].freq_embed
        with torch.no_grad():
            k = operator.diffusivity(embedding, *grid_size(size, place.stride), scale)
        found.append(Diffusivity(place, k.cpu().double().numpy()))
    return found


def grid_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return rows and columns of a stage's grid.

    Args:
        size: Height and width of the image in pixels.
        stride: Pixels of the image from one position of the grid to the next.

    Raises:
        ValueError: If the image has no pixel.
    """
    if min(size) < 1:
        raise ValueError(f"size must be at least 1 x 1 pixel, got {size}")
    return -(-size[0] // stride), -(-size[1] // stride)


@dataclass(frozen=True)
class Spectrum:
    """Mean power over rings of equal frequency, before and after heat conduction.

    Power is the square of an orthonormal DCT-II coefficient, averaged over a ring's coefficients
    and over channels; times the number of coefficients it adds up to the features' sum of squares.

    Attributes:
        place: Block of the encoder; None for the image itself.
        omega: Mean |omega| of each ring, (rings,), in radians per position of the stage's grid; of
            the image, per pixel.
        before: Mean power before conduction (rings,).
        after: Mean power after conduction (rings,); the same for the image.
    """

    place: Place | None
    omega: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def spectra(
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> list[Spectrum]:
    """Return the spectrum of an image, and those before and after the heat conductions on it.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        image: Image (bands, H, W), normalized as in the model's training.
        modality: Modality whose stem takes the image; the model's first by default.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        The image's, then one entry for each block, from first to last.

    Raises:
        ValueError: If an argument is not as above.
    """
    omega, power = _power(as_batch(encoder, image, modality).permute(0, 2, 3, 1))
    found = [Spectrum(None, omega, power, power)]
    for one in conductions(encoder, image, modality, stages=stages, block=block, gsd=gsd):
        omega, before = _power(one.before)
        found.append(Spectrum(one.place, omega, before, _power(one.after)[1]))
    return found


def _power(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    coefficients = dct2d(x.cpu().double(), "nhwc")[0]
    return radial_mean(coefficients.square().mean(-1).numpy())


@dataclass(frozen=True)
class Bands:
    """Low and high band of an image; they add up to it.

    Attributes:
        low: Image (bands, H, W) of the coefficients in the quarter disc around DC.
        high: Image (bands, H, W) of all other coefficients.
        kept: Mask (H, W) of the coefficients in the low band. The disc is one in the plane of their
            numbers, as the masking's; in that of frequencies only where the image is square.
    """

    low: Tensor
    high: Tensor
    kept: NDArray[np.bool_]


def split_bands(image: Tensor, ratio: float = 0.25) -> Bands:
    """Split an image into a low and a high band, as pretraining does.

    Args:
        image: Image (bands, H, W), normalized as in the model's training.
        ratio: Fraction of the spectrum's coefficients in the low band, above 0 and below 1; by
            default one that ``rsvheat.masking.FrequencyMasking`` draws by default.

    Returns:
        The bands.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), frequency hierarchical masking.
    """
    if image.dim() != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ValueError(
            f"image must be (bands, H, W) of floating-point values, got {tuple(image.shape)} "
            f"of {image.dtype}"
        )
    height, width = image.shape[1:]
    # The generator only chooses directions, of which a full quarter has one.
    sector = FrequencyMasking(ratio=(ratio, ratio)).draw(1, height, width, torch.Generator())
    low, high = (band[0] for band in frequency_split(image[None], *sector))
    return Bands(low, high, sector_mask(*sector, height, width)[0].numpy())
