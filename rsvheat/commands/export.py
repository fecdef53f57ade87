# SPDX-License-Identifier: Apache-2.0
"""Write a trained model as ONNX, a torch.export program or an AOTInductor package."""

import logging
from typing import Any, Literal

from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat export runs/classes/best.ckpt classes.onnx"


def run(arguments: list[str]) -> None:
    """Run the command."""
    run_function(export, arguments, __name__)


def export(
    checkpoint: str,
    output: str,
    kind: Literal["auto", "onnx", "torch", "aoti"] = "auto",
    variant: str | None = None,
    modalities: dict[str, int] | None = None,
    num_classes: int | None = None,
    img_size: list[int] | int | None = None,
    task: Literal["auto", "logits", "features"] = "auto",
    modality: str | None = None,
    gsd: float | None = None,
    batch_size: int | None = None,
    operators: Literal["native", "reference"] = "native",
    device: str = "cpu",
) -> None:
    """Write a file that runs without the training code, and compare it with the model.

    Args:
        checkpoint: Of training with rsvheat, or published weights with their variant.
        output: The file, .onnx or .pt2.
        kind: What it is; auto goes by the suffix, where .pt2 is a torch.export program.
        variant: Name of the model, where the checkpoint does not say how it is built.
        modalities: Bands by stem, for a variant.
        num_classes: Classes, for a variant.
        img_size: Side of the images in pixels, or [height, width]; the model's by default.
        task: Logits, or the feature maps of all stages; auto takes logits of what has classes.
        modality: Which stem; the model's first by default.
        gsd: Ground sampling distance of the images in metres per pixel, of models that take one.
        batch_size: Number of images; any by default.
        operators: Of torch.export programs and packages, rsvheat's or only torch's.
        device: What a package is compiled for.
    """
    from rsvheat.export import export_aoti, export_onnx, export_torch
    from rsvheat.tasks.encoders import load_encoder

    given: dict[str, Any] = {"modalities": modalities, "num_classes": num_classes}
    given = {name: value for name, value in given.items() if value is not None}
    model, report = load_encoder(checkpoint, variant, **given)
    if task == "auto":
        task = "logits" if model.num_classes else "features"
    if task == "logits" and any(name.startswith("head.") for name in report.missing):
        raise ValueError(f"{checkpoint} has no classifier for {model.num_classes} classes")
    if kind == "auto":
        kind = "onnx" if output.endswith(".onnx") else "torch"
    options: dict[str, Any] = {
        "task": task,
        "modality": modality,
        "gsd": gsd,
        "batch_size": batch_size,
    }
    if kind == "onnx":
        # It tells of every operation that it leaves as it is.
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        print(export_onnx(model, output, img_size, **options))
    else:
        write = export_torch if kind == "torch" else export_aoti
        print(write(model.to(device), output, img_size, operators=operators, **options))
