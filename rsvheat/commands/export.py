# SPDX-License-Identifier: Apache-2.0
"""Write a trained model as ONNX, a torch.export program or an AOTInductor package."""

import logging
from typing import Any, Literal

from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat export runs/classes/best.ckpt classes.onnx"
EXTRAS = ("export",)


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
        checkpoint: Checkpoint of training with rsvheat, or published weights with their variant.
        output: File to write, .onnx or .pt2.
        kind: Kind of the file; auto takes ONNX for .onnx and a torch.export program for .pt2.
        variant: Name of the model, such as vheat_tiny, for weights without a description of it.
        modalities: Bands by stem, such as {optical: 3}, for a variant.
        num_classes: Number of classes, for a variant.
        img_size: Side of the images in pixels, such as 256, or [height, width]; by default the
            model's.
        task: Logits, or feature maps of all stages; auto takes logits of a model with classes, and
            of a detector the boxes before suppression.
        modality: Stem that takes the images; by default the model's first.
        gsd: Ground sampling distance of the images in meters per pixel, for models that take one.
        batch_size: Number of images, if the file shall take just that; any by default.
        operators: Operators of programs and packages; reference needs no rsvheat, and is slower.
        device: Device that a package is compiled for, cpu or cuda.
    """
    from rsvheat.checkpoint import Checkpoint, TrainedModel, load_encoder
    from rsvheat.export import export_aoti, export_detector, export_onnx, export_torch

    saved = Checkpoint.read(checkpoint)
    # At lower levels it reports every operation that it leaves as it is.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    if task == "auto" and saved.task in ("detection", "oriented_detection"):
        if kind not in ("auto", "onnx") or not output.endswith(".onnx"):
            raise ValueError(f"detectors can be exported as ONNX only, *.onnx, got {output}")
        trained = TrainedModel.load(saved, device="cpu")
        size = img_size or trained.spec.size
        network: Any = trained.network
        print(export_detector(network, output, trained.classes, size, batch_size=batch_size))
        return
    given: dict[str, Any] = {"modalities": modalities, "num_classes": num_classes}
    given = {name: value for name, value in given.items() if value is not None}
    model, report = load_encoder(saved, variant, **given)
    if saved.task not in (None, "pretraining", "classification") and task != "features":
        raise ValueError(
            f"{checkpoint} is of the task {saved.task}, of which only the encoder can be exported: "
            "--task features"
        )
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
        print(export_onnx(model, output, img_size, **options))
    else:
        write = export_torch if kind == "torch" else export_aoti
        print(write(model.to(device), output, img_size, operators=operators, **options))
