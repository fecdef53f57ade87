# SPDX-License-Identifier: Apache-2.0
"""All pictures of heat of one image on one page."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from rsvheat._files import replacing
from rsvheat._html import Page
from rsvheat._library import build_info
from rsvheat.explain.fields import heat_spread, temperature_fields
from rsvheat.explain.figures import (
    as_background,
    plot_bands,
    plot_diffusivity,
    plot_heat_spread,
    plot_receptive_field,
    plot_spectra,
    plot_temperature,
)
from rsvheat.explain.frequencies import diffusivity, spectra, split_bands
from rsvheat.explain.receptive import effective_receptive_field
from rsvheat.explain.recording import Block, Place
from rsvheat.models import RSVHeat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Channels that heat spreads by: most conduct next to nothing and would hide the others.
_CHANNELS = 8

_SECTIONS = {
    "temperature": (
        "Temperature fields",
        "Each block of the encoder takes its features as the temperature of plates, one for each "
        "channel, and lets the heat flow for one time step. Temperature contrast at a position is "
        "the root mean square over channels of the difference between a plate's temperature there "
        "and its mean, which is what it would cool down to; bright positions differ most from the "
        "rest of the scene. Every row is in units of its root mean square before conduction; "
        "blue in the last column is where heat has left, red where it has gone.",
        "Temperature contrast before and after the heat conduction of each block, over the image.",
    ),
    "diffusivity": (
        "Diffusivity k by frequency and channel",
        "Conduction multiplies the coefficient of frequency omega of a channel by the decay factor "
        "exp(-k |omega|²), where the model has learnt k for each. Frequencies are in radians per "
        "position of a stage's grid (π is the finest detail it holds, 0 the mean), k is in squared "
        "positions: a channel with k = 1 everywhere is blurred by a Gaussian of 1.4 positions. On "
        "the left k and the factor, averaged over channels, by vertical and horizontal frequency; "
        "on the right both by channel, in order of their mean k, averaged over rings of equal "
        "|omega|. Where the factor is 1 heat does not flow.",
        "Diffusivity and decay factor of each block.",
    ),
    "spread": (
        "Heat from a point",
        "One unit of heat on the position of each stage's grid next to the point, conducted for t "
        f"time steps by the {_CHANNELS} channels that conduct most, and averaged over them; a "
        "block does t = 1. Red is warmer than 0, blue colder: a k that differs between "
        "frequencies is no uniform plate's, and makes rings. Heat is reflected at the border, and "
        "each panel's total stays 1.",
        "Heat from a point, by block and time.",
    ),
    "spectra": (
        "Spectra before and after conduction",
        "Mean power (squared coefficient of the orthonormal DCT, averaged over channels) on rings "
        "of equal frequency, of the image and of what enters and leaves each heat conduction; 0, "
        "the mean, which stays, is left out. Below, the share of power that conduction leaves: "
        "dips are the frequencies that the block smooths away.",
        "Radial spectra of the image, and before and after each heat conduction.",
    ),
    "bands": (
        "Low and high band",
        "What pretraining by frequency hierarchical masking splits an image into: the low band "
        "are the coefficients within the arc, the high band all others, and both add up to the "
        "image. The high band is shown around medium gray, with more contrast as its title says.",
        "The image, its low and high band, and its spectrum.",
    ),
    "receptive_field": (
        "Effective receptive field",
        "How strongly the features in the middle of the image depend on each pixel: the squared "
        "derivative, summed over bands and channels, on a logarithmic scale. Solid and dashed "
        "circles hold 50 and 90 % of it. What lies beyond the sharp squares, which convolutions "
        "reach, comes through heat conduction; random weights show what the architecture alone "
        "would see.",
        "Effective receptive fields of the stages; the table below has their radii.",
    ),
}


def write_report(
    folder: str | os.PathLike[str],
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    background: NDArray[Any] | None = None,
    point: tuple[int, int] | None = None,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    baseline: RSVHeat | None = None,
    rgb: Sequence[int] | None = None,
    gsd: float | None = None,
    seed: int = 0,
    title: str = "Pictures of heat",
    about: Mapping[str, object] | None = None,
    figures: bool = False,
    arrays: bool = False,
) -> Path:
    """Write ``report.html``: one file that holds all pictures and opens without a network.

    Args:
        folder: Folder for the files, made if need be. Files of the same names are replaced, all or
            none.
        encoder: Encoder that is looked at; its mode stays as it was.
        image: Image (bands, H, W), normalized as in the model's training.
        modality: Modality whose stem takes the image; the model's first by default.
        background: Picture (H, W, 3) that fields are drawn over; ``display`` of the image by
            default.
        point: Row and column of the image that heat spreads from; its center by default.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; ``"all"`` for
            all.
        baseline: The same model with random weights, for comparison of receptive fields; None for
            none.
        rgb: Bands that are shown, as for ``display``.
        gsd: Ground sampling distance in meters per pixel, for models that take one.
        seed: Seed of the random probes of the receptive fields.
        title: Title of the page.
        about: Further rows of the page's first table, by name.
        figures: Whether each figure is written as a PNG file, too.
        arrays: Whether the arrays that the figures show are written to ``arrays.npz``, too.

    Returns:
        The page.

    Raises:
        ValueError: If an argument is not as above.
        OSError: If the files cannot be written.
    """
    size = image.shape[-2], image.shape[-1]
    shown = as_background(image, background, rgb)
    where: dict[str, Any] = {"stages": stages, "block": block, "gsd": gsd}
    kept: dict[str, Any] = {"image": image.cpu().numpy(), "display": shown}

    def temperature() -> "Figure":
        fields = temperature_fields(encoder, image, modality, **where)
        for one in fields:
            kept[f"temperature.{_key(one.place)}.before"] = one.before
            kept[f"temperature.{_key(one.place)}.after"] = one.after
        return plot_temperature(fields, shown)

    def diffusivities() -> "Figure":
        found = diffusivity(encoder, size, **where)
        kept.update({f"diffusivity.{_key(one.place)}": one.k for one in found})
        return plot_diffusivity(found)

    def spread() -> "Figure":
        found = heat_spread(encoder, size, point, channels=_CHANNELS, **where)
        kept["spread.times"] = np.array(found[0].times)
        kept.update({f"spread.{_key(one.place)}": one.temperature for one in found})
        return plot_heat_spread(found, size, shown)

    def power() -> "Figure":
        found = spectra(encoder, image, modality, **where)
        for one in found:
            name = "image" if one.place is None else _key(one.place)
            for part in ("omega", "before", "after"):
                kept[f"spectra.{name}.{part}"] = getattr(one, part)
        return plot_spectra(found)

    def bands() -> "Figure":
        found = split_bands(image)
        kept["bands.low"], kept["bands.high"] = found.low.cpu().numpy(), found.high.cpu().numpy()
        return plot_bands(image, found, rgb)

    radii: list[list[object]] = []

    def receptive_field() -> "Figure":
        models = {"this model": encoder, "random weights": baseline}
        rows = {
            name: effective_receptive_field(
                model, image, modality, stages=stages, gsd=gsd, seed=seed
            )
            for name, model in models.items()
            if model is not None
        }
        for name, fields in rows.items():
            for one in fields:
                kept[f"receptive_field.{name.replace(' ', '_')}.stage{one.stage}"] = one.sensitivity
                shares = [round(one.radius(share), 1) for share in (0.5, 0.9, 0.99)]
                radii.append([name, one.stage, one.stride, *shares])
        return plot_receptive_field(rows)

    parts: dict[str, Callable[[], Figure]] = {
        "temperature": temperature,
        "diffusivity": diffusivities,
        "spread": spread,
        "spectra": power,
        "bands": bands,
        "receptive_field": receptive_field,
    }
    page = Page(title)
    page.table([], [[name, value] for name, value in _about(encoder, size, about).items()])
    folder = Path(folder)
    with replacing(folder) as temporary:
        for name, draw in tqdm(parts.items(), unit="figure", disable=None, leave=False):
            heading, text, caption = _SECTIONS[name]
            page.heading(heading)
            page.paragraph(text)
            figure = draw()
            page.figure(figure, caption, dpi=130)
            if figures:
                figure.savefig(temporary / f"{name}.png", dpi=150)
        page.table(
            ["weights", "stage", "stride (px)", "50 % (px)", "90 % (px)", "99 % (px)"], radii
        )
        if arrays:
            np.savez_compressed(temporary / "arrays.npz", **kept)
        page.save(temporary / "report.html")
    return folder / "report.html"


def _key(place: Place) -> str:
    return f"stage{place.stage}_block{place.block}"


def _about(
    encoder: RSVHeat, size: tuple[int, int], about: Mapping[str, object] | None
) -> dict[str, object]:
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    blocks = ", ".join(map(str, encoder.depths))
    return {
        **(about or {}),
        "part shown": f"{size[0]} x {size[1]} pixels",
        "encoder": f"{parameters / 1e6:.2f} million parameters, {blocks} blocks in its stages",
        "rsvheat": build_info()["version"],
    }
