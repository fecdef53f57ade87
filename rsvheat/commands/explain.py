# SPDX-License-Identifier: Apache-2.0
"""Draw what the heat conduction of a model does to an image, on one page."""

import re
from typing import Any, Literal

from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat explain image.tif --checkpoint runs/mine/last.ckpt --point 512,300"

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

    Images are normalised as in the checkpoint's training; where that is not known, as for the
    weights that come with the package, by mean and standard deviation.

    Args:
        image: GeoTIFF, PNG, JPEG and the like, of any size.
        checkpoint: Of training with rsvheat, or published weights with their variant; without one
            the weights that come with the package.
        variant: Name of the model, where the checkpoint does not say how it is built; without a
            checkpoint rsvheat_nano by default.
        pretrained: Without a checkpoint, take the weights that come with the package; else random
            ones.
        modalities: Bands by stem, for a variant.
        modality: Which stem takes the image; by default the first for as many bands.
        bands: Which bands of the file the model gets, from 1, such as 4,3,2; all by default.
        rgb: Which bands of the file are shown, from 1.
        window: Part of the image, as row,column,height,width in pixels.
        size: Side in pixels of the part that is taken, around the point, without a window.
        point: Where heat is put, as row,column in pixels of the file; by default in the middle.
        mean: Of each band, in the file's unit, for models without; by default the part's own.
        std: Standard deviations, likewise.
        stages: Which stages, from 0; all by default.
        block: Which block of each stage, from 0, negative from the end; or all.
        gsd: Ground sampling distance of the image in metres per pixel, of models that take one.
        output: Folder for report.html.
        figures: Write each figure as PNG, too.
        arrays: Write what the figures show as arrays.npz, too.
        seed: Of random weights, and of what receptive fields draw at random.
        device: Such as cpu, cuda or cuda:1; auto is a GPU if there is one.
    """
    import torch

    from rsvheat.explain import read_scene, write_report
    from rsvheat.models import CheckpointError, RSVHeat, create_model

    given: dict[str, Any] = {} if modalities is None else {"modalities": modalities}
    normalizers = {}
    missing: list[str] = []
    if checkpoint is None:
        name = variant or "rsvheat_nano"
        weights = f"{name}, as it comes with rsvheat" if pretrained else f"{name}, random"
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            encoder = create_model(name, pretrained=pretrained, num_classes=0, **given)
            baseline = create_model(
                name, num_classes=0, modalities=encoder.modalities, img_size=encoder.img_size
            )
    else:
        from rsvheat.tasks.encoders import encoder_arguments, load_encoder, saved_normalizers

        weights = checkpoint
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            encoder, loaded = load_encoder(checkpoint, variant, **given)
            baseline = RSVHeat(**encoder_arguments(encoder))
        normalizers, missing = saved_normalizers(checkpoint), loaded.missing
    scene = read_scene(
        image,
        encoder.modalities,
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
    if any(name.startswith(f"stems.{scene.modality}.") for name in missing):
        raise CheckpointError(f"{checkpoint} has no stem for modality {scene.modality!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    row, column, height, width = scene.window
    page = write_report(
        output,
        encoder.to(device),
        scene.image,
        scene.modality,
        background=scene.picture,
        point=scene.point,
        stages=stages,
        block=block,
        baseline=baseline.to(device) if checkpoint is not None or pretrained else None,
        rgb=scene.rgb,
        gsd=gsd,
        seed=seed,
        title=f"Pictures of heat: {image.replace(chr(92), '/').rpartition('/')[2]}",
        about={
            "image": f"{image}, {scene.size[0]} x {scene.size[1]} pixels",
            "window": f"{height} x {width} pixels from row {row}, column {column}, at full detail",
            "bands": f"{', '.join(map(str, scene.bands))}, as {scene.modality}",
            "normalised": scene.normalisation,
            "without data": f"{scene.missing:.1%}",
            "point": f"row {row + scene.point[0]}, column {column + scene.point[1]}",
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
