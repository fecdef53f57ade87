# SPDX-License-Identifier: Apache-2.0
"""Heat in space: temperature fields of an image, and how a point of heat spreads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.explain.frequencies import diffusivity, grid_size
from rsvheat.explain.recording import Block, Place, conductions
from rsvheat.models import RSVHeat
from rsvheat.ops import heat_conduction

Quantity: TypeAlias = Literal["contrast", "mean"]


@dataclass(frozen=True)
class TemperatureField:
    """Temperature over the grid of a stage, before and after heat conduction.

    Attributes:
        place: Block of the encoder.
        before: Temperature before conduction (H, W) over the stage's grid, float64, in the
            features' own unit.
        after: Temperature after conduction, in the same form.
        quantity: Quantity that was made of the channels, see ``temperature_fields``.
    """

    place: Place
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    quantity: Quantity


def temperature_fields(
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    quantity: Quantity = "contrast",
    gsd: float | None = None,
) -> list[TemperatureField]:
    """Return the temperature over an image before and after the encoder's heat conductions.

    Heat conduction takes each channel ``u`` of its input as a plate's temperature at time 0 and
    returns that at time 1; its mean over the plate, which conduction leaves as it is, is the
    temperature in equilibrium. From the channels two quantities are made:

    - ``"contrast"``: the root mean square over channels of ``u - mean(u)``, how far a position is
      from equilibrium. Conduction brings its mean square over the plate down, and never up.
    - ``"mean"``: the mean of ``u`` over channels, with its sign.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        image: Image (bands, H, W), normalized as in the model's training.
        modality: Modality whose stem takes the image; the model's first by default.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        quantity: Quantity made of the channels, ``"contrast"`` or ``"mean"`` as above.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        One entry for each block, from first to last; see ``over_image`` for their pixels.

    Raises:
        ValueError: If an argument is not as above.

    Source: vHeat (arXiv 2405.16555), features as temperatures.
    """
    if quantity not in get_args(Quantity):
        raise ValueError(f"quantity must be one of {get_args(Quantity)}, got {quantity!r}")
    found = conductions(encoder, image, modality, stages=stages, block=block, gsd=gsd)
    return [
        TemperatureField(
            one.place, _reduce(one.before, quantity), _reduce(one.after, quantity), quantity
        )
        for one in found
    ]


def _reduce(features: Tensor, quantity: Quantity) -> NDArray[np.float64]:
    u = features[0].double()
    if quantity == "mean":
        return _array(u.mean(-1))
    return _array((u - u.mean((0, 1))).square().mean(-1).sqrt())


@dataclass(frozen=True)
class HeatSpread:
    """A unit of heat put on one position of a stage's grid, as it spreads.

    Attributes:
        place: Block of the encoder.
        point: Row and column of the grid.
        times: Times in conductions: 1 is one call of the operator.
        temperature: Temperature (times, H, W), float64, the mean over the channels; each adds up
            to 1.
    """

    place: Place
    point: tuple[int, int]
    times: tuple[float, ...]
    temperature: NDArray[np.float64]


def heat_spread(
    encoder: RSVHeat,
    size: tuple[int, int],
    point: tuple[int, int] | None = None,
    *,
    times: Sequence[float] = (1, 4, 16, 64),
    stages: Sequence[int] | None = None,
    block: Block = -1,
    channels: Sequence[int] | int | None = None,
    gsd: float | None = None,
) -> list[HeatSpread]:
    """Return how heat from a point spreads by the diffusivities of an encoder.

    At time t every channel is ``heat_conduction(impulse, t * k)`` with its own k. A k that differs
    from frequency to frequency is no plate's: temperatures may then fall below 0 beside the point.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        size: Height and width of the image in pixels.
        point: Row and column of the image; its center by default. The heat is put on the nearest
            position of each stage's grid.
        times: Times in conductions of the model, at least 0.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        channels: Numbers of the channels that are averaged, or how many of those that conduct most
            (with the largest mean k); all by default.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        One entry for each block, from first to last.

    Raises:
        ValueError: If an argument is not as above.
    """
    height, width = grid_size(size, 1)
    row, column = (height // 2, width // 2) if point is None else point
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"point must be within {height} x {width} pixels, got {row}, {column}")
    if len(times) == 0 or not all(0 <= time < float("inf") for time in times):
        raise ValueError(f"times must be numbers of at least 0, got {list(times)}")
    spreads = []
    for one in diffusivity(encoder, size, stages=stages, block=block, gsd=gsd):
        k = torch.from_numpy(one.k)[..., _channels(one.k, channels)]
        rows, columns, count = k.shape
        at = tuple(
            min((pixel + one.place.stride // 2) // one.place.stride, side - 1)
            for pixel, side in ((row, rows), (column, columns))
        )
        impulse = torch.zeros(1, rows, columns, count, dtype=torch.float64)
        impulse[0, at[0], at[1]] = 1
        spread = [heat_conduction(impulse, time * k)[0].mean(-1) for time in times]
        spreads.append(
            HeatSpread(
                one.place, (at[0], at[1]), tuple(map(float, times)), _array(torch.stack(spread))
            )
        )
    return spreads


def _channels(k: NDArray[Any], channels: Sequence[int] | int | None) -> list[int]:
    count = k.shape[-1]
    if channels is None:
        return list(range(count))
    if isinstance(channels, int):
        if channels < 1:
            raise ValueError(f"channels as a number must be at least 1, got {channels}")
        order = np.argsort(-k.mean((0, 1)), kind="stable")
        return [int(channel) for channel in order[:channels]]
    if len(channels) == 0 or not all(-count <= channel < count for channel in channels):
        raise ValueError(
            f"channels must be within {-count} to {count - 1}, got {list(channels)}; stages "
            "differ in how many they have"
        )
    return list(channels)


def over_image(
    field: NDArray[Any], size: tuple[int, int], stride: int, *, smooth: bool = True
) -> NDArray[np.float64]:
    """Return a field over a stage's grid at the pixels of the image.

    Pixel (y, x) lies at (y / stride, x / stride) of the grid, whose last row and column go on to
    the image's border.

    Args:
        field: Field (H, W) over the grid of a stage.
        size: Height and width of the image in pixels.
        stride: Pixels of the image from one position of the grid to the next, see ``Place``.
        smooth: Whether values are interpolated linearly; if not, each pixel has that of the nearest
            position.

    Returns:
        (height, width).
    """
    places = [np.arange(pixels) / stride for pixels in size]
    if not smooth:
        places = [np.floor(place + 0.5) for place in places]
    rows, columns = (
        np.stack([np.interp(place, np.arange(n), unit) for unit in np.eye(n)], axis=1)
        for n, place in zip(field.shape, places, strict=True)
    )
    result: NDArray[np.float64] = rows @ field @ columns.T
    return result


def _array(x: Tensor) -> NDArray[np.float64]:
    return x.detach().cpu().double().numpy()
