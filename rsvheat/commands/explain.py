# SPDX-License-Identifier: Apache-2.0
"""Draw the effect of a model's heat conduction on an image, on one page."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from rsvheat.commands._parser import run_function

if TYPE_CHECKING:
    from rsvheat.data import Normalizer

EXAMPLE = "rsvheat explain image.tif --checkpoint runs/mine/last.ckpt --point 512,300"
EXTRAS = ("explain",)

_LISTS = ("--point", "--window", "--bands", "--rgb", "--mean", "--std", "--stages")


def run(arguments: list[str]) -> None:
    """Run the command."""
    run_function(explain, _bracketed(arguments), __name__)


def explain(
    image: str,
    checkpoint: str | None = None,
    variant: str | None = None,
    pretrained: bool = True,
    modalities: dict[str, int] | None = None,
    modality: str | None = None,
    bands: list[int] | None = None,
    rgb: list[int] | None = None,
    window: tuple[int, int, int, int] | None = None,
    size: int = 256,
    point: tuple[int, int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    stages: list[int] | None = None,
    block: int | Literal["all"] = -1,
    gsd: float | None = None,
    output: str = "runs/explain",
    figures: bool = False,
    arrays: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write a page with pictures of heat.

    Images are normalized as in the checkpoint's training; where that is unknown, as for the bundled
    weights, by mean and standard deviation.

    Args:
        image: Image file of any size: GeoTIFF, PNG, JPEG and the like.
        checkpoint: Checkpoint of training with rsvheat, or published weights with their variant;
            the bundled weights by default.
        variant: Name of the model, such as vheat_tiny, for weights without a description of it;
            without a checkpoint rsvheat_nano by default.
        pretrained: Whether the bundled weights are taken without a checkpoint; if not, random ones.
        modalities: Bands by stem, such as {optical: 3}, for a variant.
        modality: Modality of the image, or stem that takes it: of a change detection before or
            after; by default the first for as many bands.
        bands: Bands of the file that the model gets, counted from 1, such as 4,3,2; all by default.
        rgb: Bands of the file that are shown, counted from 1, such as 4,3,2.
        window: Part of the image as row,column,height,width in pixels, such as 0,0,256,256.
        size: Side in pixels of the part around the point that is taken without a window.
        point: Place where heat is put, as row,column in pixels of the file; its middle by default.
        mean: Mean of each band in the file's unit, if the checkpoint does not say how images were
            normalized; by default that of the part.
        std: Standard deviation of each band, together with mean.
        stages: Numbers of the stages, from 0 on, such as 0,1; all by default.
        block: Number of the block of each stage, from 0 on, or negative from the end; or all.
        gsd: Ground sampling distance of the image in meters per pixel, for models that take one.
        output: Folder for report.html.
        figures: Write each figure as a PNG file, too.
        arrays: Write the arrays that the figures show as arrays.npz, too.
        seed: Seed of random weights, and of the random probes of receptive fields.
        device: Device to compute on, such as cpu, cuda or cuda:1; auto is a GPU if there is one.
    """
    import torch

    from rsvheat.checkpoint import Checkpoint, load_encoder
    from rsvheat.explain import read_window, write_report
    from rsvheat.models import CheckpointError, RSVHeat, create_model

    given: dict[str, Any] = {} if modalities is None else {"modalities": modalities}
    normalizers: Mapping[str, Normalizer] = {}
    stems: dict[str, str] = {}
    missing: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        if checkpoint is None:
            name = variant or "rsvheat_nano"
            weights = f"{name}, as it comes with rsvheat" if pretrained else f"{name}, random"
            encoder = create_model(name, pretrained=pretrained, num_classes=0, **given)
            baseline = create_model(
                name, num_classes=0, modalities=encoder.modalities, img_size=encoder.img_size
            )
        else:
            weights = checkpoint
            saved = Checkpoint.read(checkpoint)
            encoder, loaded = load_encoder(saved, variant, **given)
            baseline = RSVHeat(**encoder.config)
            normalizers, missing = saved.normalizers, loaded.missing
            stems = {k: stem for k, stem in saved.stems.items() if stem in encoder.modalities}
    # The images of change detection are named by date, and may share a stem.
    bands_of = {name: encoder.modalities[stem] for name, stem in stems.items()}
    bands_of |= {k: n for k, n in encoder.modalities.items() if k not in stems.values()}
    if modality in encoder.modalities and modality not in bands_of:
        modality = next(name for name, stem in stems.items() if stem == modality)
    part = read_window(
        image,
        bands_of,
        modality,
        bands=bands,
        rgb=rgb,
        window=window,
        size=size,
        point=point,
        normalizers=normalizers,
        mean=mean,
        std=std,
    )
    stem = stems.get(part.modality, part.modality)
    if any(name.startswith(f"stems.{stem}.") for name in missing):
        raise CheckpointError(f"{checkpoint} has no stem for modality {stem!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    row, column, height, width = part.window
    page = write_report(
        output,
        encoder.to(device),
        part.image,
        stem,
        background=part.picture,
        point=part.point,
        stages=stages,
        block=block,
        baseline=baseline.to(device) if checkpoint is not None or pretrained else None,
        rgb=part.rgb,
        gsd=gsd,
        seed=seed,
        title=f"Pictures of heat: {image.replace(chr(92), '/').rpartition('/')[2]}",
        about={
            "image": f"{image}, {part.size[0]} x {part.size[1]} pixels",
            "window": f"{height} x {width} pixels from row {row}, column {column}, at full detail",
            "bands": f"{', '.join(map(str, part.bands))}, as {part.modality}",
            "normalized": part.normalization,
            "without data": f"{part.missing:.1%}",
            "point": f"row {row + part.point[0]}, column {column + part.point[1]}",
            "weights": weights,
        },
        figures=figures,
        arrays=arrays,
    )
    print(page)


def _bracketed(arguments: list[str]) -> list[str]:
    """Let lists be written as 1,2,3."""
    words = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.partition("=")
        if before in _LISTS:
            word = _list(word)
        elif equals and option in _LISTS:
            word = f"{option}={_list(value)}"
        words.append(word)
    return words


def _list(value: str) -> str:
    return f"[{value}]" if re.fullmatch(r"[-+.,\deE]+", value) else value
