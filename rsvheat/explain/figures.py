# SPDX-License-Identifier: Apache-2.0
"""Figures of heat, by Matplotlib, without its global state."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.explain.fields import (
    HeatSpread,
    Quantity,
    TemperatureField,
    heat_spread,
    over_image,
    temperature_fields,
)
from rsvheat.explain.frequencies import (
    Bands,
    Diffusivity,
    Spectrum,
    diffusivity,
    frequencies,
    radial_mean,
    spectra,
    split_bands,
)
from rsvheat.explain.receptive import ReceptiveField, effective_receptive_field
from rsvheat.explain.recording import Block
from rsvheat.models import RSVHeat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a display shows of an image's values.
_SHOWN = (2.0, 98.0)
# Least of what logarithmic scales show.
_COLDEST = 1e-4
_OMEGA_TICKS = ([0, math.pi / 2, math.pi], ["0", "π/2", "π"])


def display(image: Tensor | NDArray[Any], rgb: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Return an image as people see it: each band stretched from its 2nd to its 98th percentile.

    Args:
        image: (bands, H, W), in whichever unit.
        rgb: Which bands are red, green and blue, or which one is gray, counted from 0; by default
            the first three, or the first where there are fewer.

    Returns:
        (H, W, 3), from 0 to 1.

    Raises:
        ValueError: If the image has no such bands.
    """
    return _stretch(_bands(image, rgb), *_limits(_bands(image, rgb)))


def _bands(image: Tensor | NDArray[Any], rgb: Sequence[int] | None) -> NDArray[np.float32]:
    values = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, np.float32)
    count = len(values)
    chosen = list(range(3) if count >= 3 else range(1)) if rgb is None else list(rgb)
    if values.ndim != 3 or len(chosen) not in (1, 3) or not all(0 <= i < count for i in chosen):
        raise ValueError(
            f"rgb must be one or three bands of an image of (bands, H, W), got {chosen} for "
            f"{values.shape}"
        )
    return values[chosen * (4 - len(chosen)) if len(chosen) == 1 else chosen]


def _limits(bands: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = np.nanpercentile(bands, _SHOWN, axis=(1, 2), keepdims=True)
    return low, np.where(high > low, high - low, 1)


def _stretch(
    bands: NDArray[np.float32], low: NDArray[Any], span: NDArray[Any]
) -> NDArray[np.float32]:
    shown = np.clip((np.nan_to_num(bands) - low) / span, 0, 1)
    result: NDArray[np.float32] = np.moveaxis(shown, 0, 2).astype(np.float32)
    return result


def draw_temperature(
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    background: NDArray[Any] | None = None,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    quantity: Quantity = "contrast",
    gsd: float | None = None,
) -> "Figure":
    """Draw :func:`temperature_fields` over the image: a row for each block.

    Each row is in units of its own root mean square before conduction, so that all share one
    scale, and 1 is what a position has in the mean.

    Args:
        encoder: As for :func:`temperature_fields`.
        image: Likewise.
        modality: Likewise.
        background: The image as people see it, (H, W, 3) in [0, 1] or of 8 bits; by default
            :func:`display` of what the model takes.
        stages: As for :func:`temperature_fields`.
        block: Likewise.
        quantity: Likewise.
        gsd: Likewise.

    Returns:
        The figure; notebooks show it as the value of a cell.
    """
    fields = temperature_fields(
        encoder, image, modality, stages=stages, block=block, quantity=quantity, gsd=gsd
    )
    return plot_temperature(fields, _background(image, background))


def plot_temperature(fields: Sequence[TemperatureField], background: NDArray[Any]) -> "Figure":
    """Draw temperature fields over an image, see :func:`draw_temperature`.

    Args:
        fields: What :func:`temperature_fields` returned.
        background: The image as people see it, (H, W, 3).
    """
    from matplotlib.colors import Normalize

    size = background.shape[0], background.shape[1]
    units = [math.sqrt(float(np.square(field.before).mean())) or 1.0 for field in fields]
    drawn = [
        (
            over_image(field.before / unit, size, field.place.stride),
            over_image(field.after / unit, size, field.place.stride),
        )
        for field, unit in zip(fields, units, strict=True)
    ]
    lowest = min(0.0, *(float(np.percentile(one, 0.5)) for pair in drawn for one in pair))
    highest = max(float(np.percentile(one, 99.5)) for pair in drawn for one in pair)
    change = max(float(np.percentile(abs(after - before), 99.5)) for before, after in drawn)
    scales = Normalize(lowest, highest), Normalize(-(change or 1), change or 1)
    figure, axes = _grid(len(fields), 4, size, header=0.9)
    gray = background.mean(-1)
    for row, field, unit, (before, after) in zip(axes, fields, units, drawn, strict=True):
        row[0].imshow(background)
        shown = ((before, "inferno", 0), (after, "inferno", 0), (after - before, "RdBu_r", 1))
        for axis, (values, colors, scale) in zip(row[1:], shown, strict=True):
            axis.imshow(gray, cmap="gray", vmin=0, vmax=_white(background))
            axis.imshow(values, cmap=colors, norm=scales[scale], alpha=0.7)
        left = math.sqrt(float(np.square(field.after).mean())) / unit
        row[1].set_title("before: root mean square 1", fontsize=9)
        row[2].set_title(f"after: root mean square {left:.3f}", fontsize=9)
        row[3].set_title("after - before", fontsize=9)
        row[0].set_ylabel(
            f"{field.place}\ngrid of {field.before.shape[0]} x {field.before.shape[1]}"
        )
    axes[0, 0].set_title("image", fontsize=9)
    _bar(
        figure,
        axes[:, 1:3],
        axes[0, 1].images[1],
        "temperature contrast, 1 = root mean square before",
    )
    _bar(figure, axes[:, 3:], axes[0, 3].images[1], "change of it")
    return figure


def draw_diffusivity(
    encoder: RSVHeat,
    size: tuple[int, int],
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> "Figure":
    """Draw :func:`diffusivity`: a row for each block.

    From left to right: k in the mean over channels, on the plane of frequencies; the factor
    ``exp(-k * |omega|**2)`` likewise; both by channel, those that conduct most on top, against
    |omega|.

    Args:
        encoder: As for :func:`diffusivity`.
        size: Likewise.
        stages: Likewise.
        block: Likewise.
        gsd: Likewise.

    Returns:
        The figure.
    """
    return plot_diffusivity(diffusivity(encoder, size, stages=stages, block=block, gsd=gsd))


def plot_diffusivity(found: Sequence[Diffusivity]) -> "Figure":
    """Draw diffusivities, see :func:`draw_diffusivity`.

    Args:
        found: What :func:`diffusivity` returned.
    """
    from matplotlib.colors import Normalize, PowerNorm

    figure, axes = _grid(len(found), 4, (1, 1), header=0.9)
    largest = max(float(one.k.mean(-1).max()) for one in found) or 1.0
    peak = max(float(radial_mean(one.k)[1].max()) for one in found) or 1.0
    norms = PowerNorm(0.5, 0, largest), PowerNorm(0.5, 0, peak), Normalize(0, 1)
    for row, one in zip(axes, found, strict=True):
        height, width, channels = one.k.shape
        order = np.argsort(-one.k.mean((0, 1)), kind="stable")
        step_h, step_w = math.pi / height, math.pi / width
        plane = (-step_w / 2, math.pi - step_w / 2, math.pi - step_h / 2, -step_h / 2)
        row[0].imshow(one.k.mean(-1), cmap="viridis", norm=norms[0], extent=plane)
        row[1].imshow(one.decay.mean(-1), cmap="magma", norm=norms[2], extent=plane)
        for axis, values, colors, norm in (
            (row[2], one.k, "viridis", norms[1]),
            (row[3], one.decay, "magma", norms[2]),
        ):
            omega, rings = radial_mean(values)
            edges = np.concatenate(([0], (omega[1:] + omega[:-1]) / 2, [math.sqrt(2) * math.pi]))
            axis.pcolormesh(
                edges,
                np.arange(channels + 1),
                rings[:, order].T,
                cmap=colors,
                norm=norm,
                rasterized=True,
            )
            axis.invert_yaxis()
            axis.set_box_aspect(1)
            axis.set_xticks(*_OMEGA_TICKS)
            axis.set(ylabel="channel, by mean k")
        for axis in row[:2]:
            axis.set_box_aspect(1)
            axis.set_xticks(*_OMEGA_TICKS)
            axis.set_yticks(*_OMEGA_TICKS)
            axis.set(ylabel="$\\omega_h$")
        row[0].set_ylabel(f"{one.place}\n{height} x {width}, {channels} channels\n$\\omega_h$")
    for axis in axes[-1, :2]:
        axis.set(xlabel="$\\omega_w$ (rad per position)")
    for axis in axes[-1, 2:]:
        axis.set(xlabel="$|\\omega|$ (rad per position)")
    for column, label in enumerate(
        (
            "mean k (positions²)",
            "mean of exp(-k $|\\omega|^2$)",
            "k (positions²)",
            "exp(-k $|\\omega|^2$)",
        )
    ):
        mappable = axes[0, column].images or axes[0, column].collections
        _bar(figure, axes[:, column : column + 1], mappable[0], label)
    return figure


def draw_heat_spread(
    encoder: RSVHeat,
    size: tuple[int, int],
    point: tuple[int, int] | None = None,
    *,
    background: NDArray[Any] | None = None,
    times: Sequence[float] = (0, 1, 4, 16, 64),
    stages: Sequence[int] | None = None,
    block: Block = -1,
    channels: Sequence[int] | int | None = None,
    gsd: float | None = None,
) -> "Figure":
    """Draw :func:`heat_spread`: a row for each block, a column for each time.

    Args:
        encoder: As for :func:`heat_spread`.
        size: Likewise.
        point: Likewise.
        background: The image as people see it, (H, W, 3), shown with the point; None for none.
        times: As for :func:`heat_spread`.
        stages: Likewise.
        block: Likewise.
        channels: Likewise.
        gsd: Likewise.

    Returns:
        The figure.
    """
    spreads = heat_spread(
        encoder, size, point, times=times, stages=stages, block=block, channels=channels, gsd=gsd
    )
    return plot_heat_spread(spreads, size, background)


def plot_heat_spread(
    spreads: Sequence[HeatSpread], size: tuple[int, int], background: NDArray[Any] | None = None
) -> "Figure":
    """Draw heat from a point, see :func:`draw_heat_spread`.

    Args:
        spreads: What :func:`heat_spread` returned.
        size: (height, width) of the image, in pixels.
        background: The image as people see it, (H, W, 3); None for none.
    """
    from matplotlib.colors import LogNorm

    times = spreads[0].times
    first = 0 if background is None else 1
    figure, axes = _grid(len(spreads), len(times) + first, size, header=0.9)
    norm = LogNorm(_COLDEST, 1)
    for row, one in zip(axes, spreads, strict=True):
        stride = one.place.stride
        if background is not None:
            row[0].imshow(background)
            row[0].plot(
                one.point[1] * stride,
                one.point[0] * stride,
                "+",
                color="cyan",
                markersize=12,
                markeredgewidth=2,
            )
        rows, columns = one.temperature.shape[1:]
        extent = (-stride / 2, (columns - 0.5) * stride, (rows - 0.5) * stride, -stride / 2)
        for axis, time, field in zip(row[first:], times, one.temperature, strict=True):
            axis.imshow(np.maximum(field, _COLDEST), cmap="inferno", norm=norm, extent=extent)
            axis.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
            axis.set_title(f"t = {time:g}: {field[one.point]:.3f} at the point", fontsize=9)
        row[0].set_ylabel(f"{one.place}\ngrid of {rows} x {columns}")
    _bar(
        figure,
        axes[:, first:],
        axes[0, -1].images[0],
        "temperature, 1 = all heat on one position",
        extend="min",
    )
    return figure


def draw_spectra(
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> "Figure":
    """Draw :func:`spectra`: the image's, and each block's before and after heat conduction.

    Args:
        encoder: As for :func:`spectra`.
        image: Likewise.
        modality: Likewise.
        stages: Likewise.
        block: Likewise.
        gsd: Likewise.

    Returns:
        The figure.
    """
    return plot_spectra(spectra(encoder, image, modality, stages=stages, block=block, gsd=gsd))


def plot_spectra(found: Sequence[Spectrum]) -> "Figure":
    """Draw spectra, see :func:`draw_spectra`.

    Args:
        found: What :func:`spectra` returned.
    """
    from matplotlib.figure import Figure

    columns = min(len(found), 5)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis, one in zip(axes.flat, found, strict=False):
        if one.place is None:
            axis.plot(one.omega, one.before, color="0.2")
            axis.set(title="image")
        else:
            axis.plot(one.omega, one.before, color="#d55e00", label="before")
            axis.plot(one.omega, one.after, color="#0072b2", label="after")
            axis.fill_between(one.omega, one.after, one.before, color="#d55e00", alpha=0.15)
            axis.set(title=str(one.place))
            axis.legend(fontsize=8, frameon=False)
        axis.set(yscale="log", xlim=(0, math.sqrt(2) * math.pi))
        axis.set_xticks(*_OMEGA_TICKS)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set(ylabel="mean power of a coefficient")
    figure.supxlabel(
        "$|\\omega|$ (rad per pixel of the image, per position of a stage's grid)", fontsize=9
    )
    return figure


def draw_bands(image: Tensor, ratio: float = 0.25, *, rgb: Sequence[int] | None = None) -> "Figure":
    """Draw :func:`split_bands`: image, low band, high band, and the spectrum with the border.

    Args:
        image: As for :func:`split_bands`.
        ratio: Likewise.
        rgb: As for :func:`display`.

    Returns:
        The figure.
    """
    return plot_bands(image, split_bands(image, ratio), rgb)


def plot_bands(image: Tensor, bands: Bands, rgb: Sequence[int] | None = None) -> "Figure":
    """Draw an image and its bands, see :func:`draw_bands`.

    Args:
        image: (bands, H, W).
        bands: What :func:`split_bands` returned.
        rgb: As for :func:`display`.
    """
    from matplotlib.colors import LogNorm

    from rsvheat.ops import dct2d

    height, width = image.shape[1:]
    shown = _bands(image, rgb)
    low, span = _limits(shown)
    figure, axes = _grid(1, 4, (height, width))
    row = axes[0]
    row[0].imshow(_stretch(shown, low, span))
    row[1].imshow(_stretch(_bands(bands.low, rgb), low, span))
    # The high band has no mean: it is shown around mid-gray, on the image's scale.
    row[2].imshow(_stretch(_bands(bands.high, rgb), -span / 2, span))
    power = dct2d(image.detach().cpu().double()[None])[0].square().mean(0).numpy()
    top = float(power.max()) or 1.0
    floor = max(float(np.percentile(power, 1)), top * 1e-12)
    plane = (0, math.pi, math.pi, 0)
    picture = row[3].imshow(
        np.maximum(power, floor),
        cmap="magma",
        norm=LogNorm(floor, top),
        extent=plane,
        aspect=height / width,
        interpolation="antialiased",
    )
    kept = frequencies(height, width) <= bands.radius * (1 + 1e-9)
    row[3].contour(
        np.linspace(0, math.pi, width, endpoint=False),
        np.linspace(0, math.pi, height, endpoint=False),
        kept,
        [0.5],
        colors="cyan",
        linewidths=1.5,
    )
    row[3].set_xticks(*_OMEGA_TICKS)
    row[3].set_yticks(*_OMEGA_TICKS)
    row[3].set(xlabel="$\\omega_w$ (rad per pixel)", ylabel="$\\omega_h$ (rad per pixel)")
    _bar(figure, axes[:, 3:], picture, "mean power over bands")
    share = float(bands.low.double().square().sum() / image.double().square().sum())
    titles = (
        "image",
        f"low: {bands.ratio:.0%} of the coefficients",
        "high: the rest, around mid-gray",
        f"low holds {share:.1%} of the power",
    )
    for axis, title in zip(row, titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def draw_receptive_field(
    encoder: RSVHeat,
    images: Tensor,
    modality: str | None = None,
    *,
    baseline: RSVHeat | None = None,
    stages: Sequence[int] | None = None,
    probes: int = 8,
    gsd: float | None = None,
    seed: int = 0,
) -> "Figure":
    """Draw :func:`effective_receptive_field`, a column for each stage.

    Args:
        encoder: As for :func:`effective_receptive_field`.
        images: Likewise.
        modality: Likewise.
        baseline: Another model for a second row, such as the same with random weights.
        stages: As for :func:`effective_receptive_field`.
        probes: Likewise.
        gsd: Likewise.
        seed: Likewise.

    Returns:
        The figure.
    """
    rows = {}
    for name, model in (("this model", encoder), ("random weights", baseline)):
        if model is not None:
            rows[name] = effective_receptive_field(
                model, images, modality, stages=stages, probes=probes, gsd=gsd, seed=seed
            )
    return plot_receptive_field(rows)


def plot_receptive_field(rows: dict[str, list[ReceptiveField]]) -> "Figure":
    """Draw receptive fields, see :func:`draw_receptive_field`.

    Args:
        rows: What :func:`effective_receptive_field` returned, by the name of the model.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle

    some = next(iter(rows.values()))
    size = some[0].sensitivity.shape
    figure, axes = _grid(len(rows), len(some), (size[0], size[1]))
    norm = LogNorm(1e-6, 1)
    for row, (name, fields) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, field in zip(row, fields, strict=True):
            relative = field.sensitivity / field.sensitivity.max()
            axis.imshow(np.maximum(relative, 1e-6), cmap="inferno", norm=norm)
            half, most = field.radius(0.5), field.radius(0.9)
            row_, column = field.centre
            for radius, style in ((half, "-"), (most, "--")):
                axis.add_patch(
                    Circle((column, row_), radius, fill=False, edgecolor="cyan", linestyle=style)
                )
            axis.set_title(
                f"stage {field.stage}: 50 % in {half:.0f} px, 90 % in {most:.0f} px", fontsize=9
            )
            axis.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    _bar(figure, axes, axes[0, 0].images[0], "sensitivity, 1 = largest", extend="min")
    return figure


def _background(image: Tensor, background: NDArray[Any] | None) -> NDArray[Any]:
    if background is None:
        return display(image)
    size = tuple(image.shape[-2:])
    if background.ndim != 3 or background.shape[:2] != size or background.shape[2] not in (3, 4):
        raise ValueError(f"background must be {(*size, 3)}, got {background.shape}")
    return background[..., :3]


def _white(background: NDArray[Any]) -> float:
    return 255.0 if background.dtype.kind == "u" else 1.0


def _grid(
    rows: int, columns: int, size: tuple[int, int], header: float = 0.5
) -> tuple["Figure", NDArray[Any]]:
    """Return a figure of panels with the proportions of an image, without ticks."""
    from matplotlib.figure import Figure

    width = 2.5
    height = width * min(max(size[0] / size[1], 0.4), 2.5)
    figure = Figure(
        figsize=(columns * width + 0.8, rows * (height + 0.35) + header), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure, axes


def _bar(
    figure: "Figure", axes: NDArray[Any], mappable: Any, label: str, extend: str = "neither"
) -> None:
    figure.colorbar(
        mappable,
        ax=list(axes.flat),
        label=label,
        location="bottom",
        extend=extend,
        pad=0.02,
        aspect=30,
        shrink=0.9,
    )
