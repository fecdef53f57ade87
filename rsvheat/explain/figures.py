# SPDX-License-Identifier: Apache-2.0
"""Figures of heat, by Matplotlib, without its global state."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsvheat._display import display, limits, pick_bands, stretch
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
    radial_mean,
    spectra,
    split_bands,
)
from rsvheat.explain.receptive import ReceptiveField, effective_receptive_field
from rsvheat.explain.recording import Block, Place
from rsvheat.models import RSVHeat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Smallest value that logarithmic scales show.
_LEAST = 1e-5
_BEFORE, _AFTER = "#d55e00", "#0072b2"  # told apart by color-blind readers, too
_OMEGA_TICKS = ([0, math.pi / 2, math.pi], ["0", "π/2", "π"])
# The last coefficient of a coarse grid is well below π.
_COARSE_TICKS = ([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4], ["0", "π/4", "π/2", "3π/4"])
_OMEGA = "$|\\omega|$ (rad per position)"
_OMEGA_H, _OMEGA_W = "$\\omega_h$ (rad per position)", "$\\omega_w$ (rad per position)"


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
    """Draw ``temperature_fields`` over the image: a row for each block.

    Each row is in units of its own root mean square before conduction, so that all share one
    scale, and 1 is what a position has in the mean.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        image: Image (bands, H, W), normalized as in the model's training.
        modality: Modality whose stem takes the image; the model's first by default.
        background: Picture of the image (H, W, 3), in [0, 1] or of 8 bits; by default
            ``display`` of the image.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        quantity: Quantity made of the channels, ``"contrast"`` or ``"mean"``, as for
            ``temperature_fields``.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        The figure; notebooks show it as the value of a cell.
    """
    fields = temperature_fields(
        encoder, image, modality, stages=stages, block=block, quantity=quantity, gsd=gsd
    )
    return plot_temperature(fields, as_background(image, background))


def plot_temperature(fields: Sequence[TemperatureField], background: NDArray[Any]) -> "Figure":
    """Draw temperature fields over an image, see ``draw_temperature``.

    Args:
        fields: Fields that ``temperature_fields`` returned.
        background: Picture of the image (H, W, 3).
    """
    from matplotlib.colors import Normalize

    signed = fields[0].quantity == "mean"
    size = background.shape[0], background.shape[1]
    units = [_root_mean_square(field.before) or 1.0 for field in fields]
    drawn = [
        [over_image(part / unit, size, field.place.stride) for part in (field.before, field.after)]
        for field, unit in zip(fields, units, strict=True)
    ]
    highest = max(float(np.percentile(abs(one), 99.5)) for pair in drawn for one in pair) or 1.0
    change = max(float(np.percentile(abs(after - before), 99.5)) for before, after in drawn) or 1.0
    levels = Normalize(-highest if signed else 0, highest)
    colors = "PuOr_r" if signed else "inferno"
    figure, axes = _grid(len(fields), 4, size, header=0.9)
    gray = background.mean(-1) / _white(background)
    for row, field, unit, (before, after) in zip(axes, fields, units, drawn, strict=True):
        row[0].imshow(background)
        panels = (
            (before, colors, levels),
            (after, colors, levels),
            (after - before, "RdBu_r", Normalize(-change, change)),
        )
        for axis, (values, palette, norm) in zip(row[1:], panels, strict=True):
            # Of little contrast, so that the colors over it can be read.
            axis.imshow(gray, cmap="gray", vmin=-0.5, vmax=1.5)
            axis.imshow(values, cmap=palette, norm=norm, alpha=0.7)
        titles = (
            "image",
            "before: root mean square 1",
            f"after: root mean square {_root_mean_square(field.after) / unit:.3f}",
            "after - before",
        )
        _titles(row, titles)
        row[0].set_ylabel(_grid_label(field.place, field.before.shape))
    name = "mean temperature" if signed else "temperature contrast"
    _bar(figure, axes[:, 1:3], axes[0, 1].images[1], f"{name} (1 = root mean square before)")
    _bar(figure, axes[:, 3:], axes[0, 3].images[1], "change")
    return figure


def draw_diffusivity(
    encoder: RSVHeat,
    size: tuple[int, int],
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> "Figure":
    """Draw ``diffusivity``: a row for each block.

    From left to right: the mean over channels of k and of the factor ``exp(-k * |omega|**2)``, on
    the plane of frequencies; then both by channel, those that conduct most on top, against |omega|.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        size: Height and width of the image in pixels.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        The figure.
    """
    return plot_diffusivity(diffusivity(encoder, size, stages=stages, block=block, gsd=gsd))


def plot_diffusivity(found: Sequence[Diffusivity]) -> "Figure":
    """Draw diffusivities, see ``draw_diffusivity``.

    Args:
        found: Diffusivities that ``diffusivity`` returned.
    """
    from matplotlib.colors import Normalize, PowerNorm

    figure, axes = _grid(len(found), 4, (1, 1), header=1.2)
    plane = max(float(one.k.mean(-1).max()) for one in found) or 1.0
    ring = max(float(radial_mean(one.k)[1].max()) for one in found) or 1.0
    factor = Normalize(0, 1)
    for row, one in zip(axes, found, strict=True):
        height, width, channels = one.k.shape
        steps = math.pi / height, math.pi / width
        extent = (-steps[1] / 2, math.pi - steps[1] / 2, math.pi - steps[0] / 2, -steps[0] / 2)
        images = (one.k, "viridis", PowerNorm(0.5, 0, plane)), (one.decay, "magma", factor)
        for axis, (values, palette, norm) in zip(row[:2], images, strict=True):
            axis.imshow(values.mean(-1), cmap=palette, norm=norm, extent=extent)
            axis.set_xticks(*_COARSE_TICKS)
            axis.set_yticks(*_COARSE_TICKS)
            axis.set(xlim=extent[:2], ylim=extent[2:], xlabel=_OMEGA_W, ylabel=_OMEGA_H)
            axis.set_aspect("auto")
        order = np.argsort(-one.k.mean((0, 1)), kind="stable")
        images = (one.k, "viridis", PowerNorm(0.5, 0, ring)), (one.decay, "magma", factor)
        for axis, (values, palette, norm) in zip(row[2:], images, strict=True):
            omega, rings = radial_mean(values)
            edges = np.concatenate(([0], (omega[1:] + omega[:-1]) / 2, [math.sqrt(2) * math.pi]))
            axis.pcolormesh(
                edges,
                np.arange(channels + 1),
                rings[:, order].T,
                cmap=palette,
                norm=norm,
                rasterized=True,
            )
            axis.set_xticks(*_OMEGA_TICKS)
            axis.set_yticks([0, channels])
            axis.set(ylim=(channels, 0), xlabel=_OMEGA, ylabel="channel, by mean k")
        for axis in row:
            axis.set_box_aspect(1)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel(f"{_grid_label(one.place, one.k.shape[:2])}\n{_OMEGA_H}")
        damping = float((one.decay.min((0, 1)) < 0.9).mean())
        titles = (
            f"mean {one.k.mean():.3g}",
            f"mean {one.decay.mean():.3f}",
            f"{channels} channels",
            f"{damping:.0%} of them damp a frequency",
        )
        _titles(row, titles)
    labels = ("mean k (positions²)", "mean decay factor", "k (positions²)", "decay factor")
    for column, label in enumerate(labels):
        drawn = axes[0, column].images or axes[0, column].collections
        _bar(figure, axes[:, column : column + 1], drawn[0], label)
    return figure


def draw_heat_spread(
    encoder: RSVHeat,
    size: tuple[int, int],
    point: tuple[int, int] | None = None,
    *,
    background: NDArray[Any] | None = None,
    times: Sequence[float] = (1, 4, 16, 64),
    stages: Sequence[int] | None = None,
    block: Block = -1,
    channels: Sequence[int] | int | None = None,
    gsd: float | None = None,
) -> "Figure":
    """Draw ``heat_spread``: a row for each block, a column for each time.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        size: Height and width of the image in pixels.
        point: Row and column of the image that the heat is put on; its center by default.
        background: Picture of the image (H, W, 3), shown with the point; None for none.
        times: Times in conductions of the model, at least 0.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        channels: Numbers of the channels that are averaged, or how many of those that conduct most
            (with the largest mean k); all by default.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

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
    """Draw heat from a point, see ``draw_heat_spread``.

    Args:
        spreads: Temperatures that ``heat_spread`` returned.
        size: Height and width of the image in pixels.
        background: Picture of the image (H, W, 3); None for none.
    """
    from matplotlib.colors import SymLogNorm

    times = spreads[0].times
    first = 0 if background is None else 1
    figure, axes = _grid(len(spreads), len(times) + first, size, header=0.9)
    norm = SymLogNorm(1e-2, vmin=-1, vmax=1)
    for row, one in zip(axes, spreads, strict=True):
        stride = one.place.stride
        if background is not None:
            row[0].imshow(background)
            row[0].plot(
                one.point[1] * stride,
                one.point[0] * stride,
                "o",
                color="none",
                markersize=10,
                markeredgewidth=2,
                markeredgecolor="#00e5ff",
            )
            row[0].set_title("the point", fontsize=9)
        for axis, time, field in zip(row[first:], times, one.temperature, strict=True):
            axis.imshow(over_image(field, size, stride, smooth=False), cmap="RdBu_r", norm=norm)
            axis.set_title(f"t = {time:g}: {field[one.point]:.3f} at the point", fontsize=9)
        row[0].set_ylabel(_grid_label(one.place, one.temperature.shape[1:]))
    _bar(
        figure, axes[:, first:], axes[0, -1].images[0], "temperature (1 = all heat at one position)"
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
    """Draw ``spectra``: the image's, and each block's before and after heat conduction.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        image: Image (bands, H, W), normalized as in the model's training.
        modality: Modality whose stem takes the image; the model's first by default.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        gsd: Ground sampling distance in meters per pixel, for models that take one.

    Returns:
        The figure.
    """
    return plot_spectra(spectra(encoder, image, modality, stages=stages, block=block, gsd=gsd))


def plot_spectra(found: Sequence[Spectrum]) -> "Figure":
    """Draw spectra, see ``draw_spectra``.

    Args:
        found: Spectra that ``spectra`` returned.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = min(len(found), 5)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.5, 3.9 * lines), layout="constrained")
    axes = figure.subplots(
        2 * lines, columns, squeeze=False, height_ratios=[2, 1] * lines, sharex=True
    )
    for axis in axes.flat:
        axis.set_visible(False)
    least = min(
        float(np.min(one.after / one.before, initial=1, where=one.before > 0)) for one in found
    )
    for i, one in enumerate(found):
        power, share = axes[2 * (i // columns) :, i % columns][:2]
        # DC, which conduction leaves as it is, would squeeze all else together.
        omega, before, after = one.omega[1:], one.before[1:], one.after[1:]
        power.set(visible=True, yscale="log", title="image", xlim=(0, math.sqrt(2) * math.pi))
        power.plot(omega, before, color=_BEFORE if one.place else "0.25", label="before")
        shown = [power]
        if one.place is not None:
            power.plot(omega, after, color=_AFTER, label="after")
            power.set_title(str(one.place))
            power.legend(fontsize=8, frameon=False)
            left = np.divide(after, before, out=np.ones_like(after), where=before > 0)
            share.plot(omega, left, color=_AFTER)
            share.fill_between(omega, left, 1, color=_BEFORE, alpha=0.2)
            share.set(visible=True, ylim=(min(least, 0.9) - 0.02, 1.02), xlabel=_OMEGA)
            shown.append(share)
        else:
            power.set(xlabel="$|\\omega|$ (rad per pixel)")
            power.tick_params(labelbottom=True)
        power.yaxis.set_minor_formatter(NullFormatter())
        for axis in shown:
            axis.set_xticks(*_OMEGA_TICKS)
            axis.tick_params(labelsize=8)
            axis.title.set_fontsize(9)
            axis.grid(alpha=0.25)
        if i % columns == 0:
            power.set_ylabel("mean power")
        if i == 1 or (columns == 1 and i):
            share.set_ylabel("after / before")
    return figure


def draw_bands(image: Tensor, ratio: float = 0.25, *, rgb: Sequence[int] | None = None) -> "Figure":
    """Draw ``split_bands``: image, low band, high band, and the spectrum with the border.

    Args:
        image: Image (bands, H, W), normalized as in the model's training.
        ratio: Share of the coefficients in the low band, above 0 and below 1.
        rgb: Bands that are shown, as for ``display``.

    Returns:
        The figure.
    """
    return plot_bands(image, split_bands(image, ratio), rgb)


def plot_bands(image: Tensor, bands: Bands, rgb: Sequence[int] | None = None) -> "Figure":
    """Draw an image and its bands, see ``draw_bands``.

    Args:
        image: Image (bands, H, W), normalized as in the model's training.
        bands: Bands that ``split_bands`` returned.
        rgb: Bands that are shown, as for ``display``.
    """
    from matplotlib.colors import LogNorm

    from rsvheat.ops import dct2d

    height, width = image.shape[1:]
    shown, high = pick_bands(image, rgb), pick_bands(bands.high, rgb)
    low, span = limits(shown)
    # Fine detail is faint: it gets as much contrast as the image has, and the title says how much.
    gain = 1 / max(2 * float(np.nanpercentile(abs(high) / span, 99.5)), 1e-6)
    power = dct2d(image.detach().cpu().double()[None])[0].square().mean(0).numpy()
    top = float(power.max()) or 1.0
    floor = max(float(np.percentile(power, 1)), top * 1e-12)
    figure, axes = _grid(1, 4, (height, width), header=0.35)
    row = axes[0]
    row[0].imshow(stretch(shown, low, span))
    row[1].imshow(stretch(pick_bands(bands.low, rgb), low, span))
    row[2].imshow(stretch(high * gain, -span / 2, span))
    spectrum = row[3].imshow(
        np.maximum(power, floor),
        cmap="magma",
        norm=LogNorm(floor, top),
        extent=(0, math.pi, math.pi, 0),
        aspect=height / width,
        interpolation="antialiased",
    )
    if height > 1 and width > 1:
        row[3].contour(
            *(np.linspace(0, math.pi, n, endpoint=False) for n in (width, height)),
            bands.kept,
            [0.5],
            colors="cyan",
            linewidths=1.5,
        )
    row[3].set_xticks(*_OMEGA_TICKS)
    row[3].set_yticks(*_OMEGA_TICKS)
    row[3].tick_params(labelsize=8)
    row[3].set(xlabel="$\\omega_w$ (rad per pixel)", ylabel="$\\omega_h$ (rad per pixel)")
    figure.colorbar(spectrum, ax=row[3], label="mean power", aspect=25, shrink=0.7)
    total = float(image.double().square().sum()) or 1.0
    share = float(bands.low.double().square().sum()) / total
    _titles(
        row,
        (
            "image",
            f"low: {bands.kept.mean():.0%} of the coefficients",
            f"high: the rest, contrast x {gain:.2g}",
            f"low holds {share:.1%} of the power",
        ),
    )
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
    """Draw ``effective_receptive_field``, a column for each stage.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        images: Image (bands, H, W), or several (N, bands, H, W), normalized as in the model's
            training.
        modality: Modality whose stem takes the image; the model's first by default.
        baseline: Encoder for a second row, such as the same with random weights; None for none.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        probes: Number of backward passes for each image and stage.
        gsd: Ground sampling distance in meters per pixel, for models that take one.
        seed: Seed of the random signs of the probes.

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
    """Draw receptive fields, see ``draw_receptive_field``.

    Args:
        rows: Receptive fields that ``effective_receptive_field`` returned, by the name of the
            model.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle

    some = next(iter(rows.values()))
    size = some[0].sensitivity.shape
    figure, axes = _grid(len(rows), len(some), (size[0], size[1]), header=0.9)
    norm = LogNorm(_LEAST, 1)
    for row, (name, fields) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axis, field in zip(row, fields, strict=True):
            relative = field.sensitivity / field.sensitivity.max()
            axis.imshow(np.maximum(relative, _LEAST), cmap="inferno", norm=norm)
            half, most = field.radius(0.5), field.radius(0.9)
            for radius, style in ((half, "-"), (most, "--")):
                axis.add_patch(
                    Circle(
                        field.center[::-1], radius, fill=False, edgecolor="cyan", linestyle=style
                    )
                )
            axis.set_title(
                f"stage {field.stage}\n50 % within {half:.0f} px, 90 % within {most:.0f} px",
                fontsize=9,
            )
            axis.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    _bar(figure, axes, axes[0, 0].images[0], "sensitivity (1 = largest)", extend="min")
    return figure


def as_background(
    image: Tensor, background: NDArray[Any] | None, rgb: Sequence[int] | None = None
) -> NDArray[Any]:
    """Return the picture that fields are drawn over.

    Args:
        image: Image (bands, H, W), normalized as in the model's training.
        background: Picture (H, W, 3), or (H, W, 4) with an alpha channel that is left out; None
            makes one of the image.
        rgb: Bands that are shown if ``background`` is None, as for ``display``.

    Raises:
        ValueError: If the background is of another size.
    """
    if background is None:
        return display(image, rgb)
    size = tuple(image.shape[-2:])
    if background.ndim != 3 or background.shape[:2] != size or background.shape[2] not in (3, 4):
        raise ValueError(f"background must be {(*size, 3)}, got {background.shape}")
    return background[..., :3]


def _white(background: NDArray[Any]) -> float:
    return 255.0 if background.dtype.kind == "u" else 1.0


def _root_mean_square(values: NDArray[Any]) -> float:
    return math.sqrt(float(np.square(values).mean()))


def _grid_label(place: Place, shape: Sequence[int]) -> str:
    return f"{place}\ngrid of {shape[0]} x {shape[1]}"


def _titles(axes: Sequence[Any] | NDArray[Any], titles: Sequence[str]) -> None:
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)


def _grid(
    rows: int, columns: int, size: tuple[int, int], header: float = 0.5
) -> tuple["Figure", NDArray[Any]]:
    """Return a figure of panels with the proportions of an image, without ticks."""
    from matplotlib.figure import Figure

    width = 2.5
    height = width * min(max(size[0] / size[1], 0.4), 2.5)
    figure = Figure(
        figsize=(columns * width + 0.8, rows * (height + 0.35) + header), layout="compressed"
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
