# SPDX-License-Identifier: Apache-2.0
"""Scores of trained networks, and of encoders by their frozen features."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import Trainer
from tqdm import tqdm  # type: ignore[import-untyped]

from rsvheat.checkpoint import PRETRAINING, Checkpoint, TrainedModel, load_encoder
from rsvheat.data.datamodule import DataModule
from rsvheat.data.transforms import Crop
from rsvheat.evaluation.classification_scores import Scores as ClassificationScores
from rsvheat.evaluation.probing import extract_features, knn, linear_probe
from rsvheat.models import RSVHeat, create_model
from rsvheat.tasks.detection import BoxTask
from rsvheat.tasks.segmentation import DenseTask
from rsvheat.tasks.supervised import TASKS, Scores, SupervisedTask

Method: TypeAlias = Literal["task", "knn", "linear"]


def evaluate(
    data: DataModule,
    checkpoint: str | None = None,
    variant: str | None = None,
    *,
    pretrained: bool = False,
    methods: Sequence[Method] | None = None,
    neighbors: int = 5,
    stages: Sequence[int] | None = None,
    deviation: bool = True,
    sensors: Sequence[str] | None = None,
    turns: bool = False,
    background: str | None = None,
    panels: int = 8,
    output: str | None = "runs/evaluate",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Scores]:
    """Score a trained network, or the frozen features of an encoder.

    Test samples are scored or, where there are none, those for validation. A checkpoint's network
    gets images that are cropped, resized and normalized as in its training, and its classes are
    matched by name. Nearest neighbors and the linear probe learn from the training images of
    classification, without augmentation.

    Args:
        data: Data to score on.
        checkpoint: Path of the checkpoint to score; without one, ``variant`` is scored.
        variant: Name of the encoder, where the checkpoint does not say how it is built; without a
            checkpoint ``rsvheat_nano`` by default, with random weights.
        pretrained: Whether to score the bundled weights.
        methods: ``task`` tests a trained network, ``knn`` and ``linear`` an encoder's features; by
            default the first for a checkpoint of a task, else the others.
        neighbors: Number of neighbors that vote.
        stages: Stages of the encoder whose features are pooled; all by default.
        deviation: Whether the features' standard deviations over space follow their means.
        sensors: Sensors that a network for several may see, such as [sar]; all by default. For
            classes of pixels.
        turns: Whether the predictions of the 8 flipped and rotated versions of each image are
            averaged. For classes of pixels.
        background: Class without which means over classes are given a second time; by default that
            of the training. For classes of pixels.
        panels: Number of pictures of image, truth and prediction, the worst first; 0 for none. For
            classes of pixels, and for boxes.
        output: Folder for the results of each method: scores as JSON, CSV and confusion matrix,
            and of a trained network the calibration and, for classes of pixels, panels and the
            scores of the images, the worst first. For boxes curves of precision and recall, types
            of errors and panels. None writes none.
        seed: Seed of random weights, and of the samples that the linear probe holds out.
        device: Device such as cpu, cuda or cuda:1; auto is a GPU if there is one.

    Returns:
        Scores by method; those of a trained network by the name of its task.

    Raises:
        ValueError: If there are no samples to score, or the classes are not the network's.
        CheckpointError: If the checkpoint is damaged, or does not fit.
        FileNotFoundError: If there is no such checkpoint.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    saved = None if checkpoint is None else Checkpoint.read(checkpoint)
    if saved is not None and pretrained:
        raise ValueError("give a checkpoint or pretrained, not both")
    if methods is None:
        trained = saved is not None and saved.task not in (None, PRETRAINING)
        methods = ["task"] if trained else ["knn", "linear"]
    if saved is not None and saved.spec is not None:
        data.crop = Crop(saved.spec.size[0], saved.window, augment=False)
    name = _scored_split(data)
    about = {
        "checkpoint": checkpoint,
        "variant": variant,
        "pretrained": pretrained,
        "images": name,
        "seed": seed,
    }
    scores: dict[str, Scores] = {}
    if "task" in methods:
        if saved is None:
            raise ValueError("the method task needs a checkpoint of a trained network")
        trained_model = TrainedModel.load(saved, device="cpu")
        options = {"sensors": sensors, "turns": turns, "background": background}
        task = _task(saved, trained_model, options, panels)
        _test(task, trained_model, data, device)
        assert task.scores is not None
        name_of_task = "_".join([trained_model.task, *(sensors or ())])
        scores[name_of_task] = task.scores
        if output is not None:
            given = {option: value for option, value in options.items() if value}
            task.save_test(output, name_of_task, {"method": name_of_task, **given, **about})
    if "knn" in methods or "linear" in methods:
        encoder = _encoder(data, saved, variant, pretrained, seed).to(device)
        probed = _probe(encoder, data, name, methods, neighbors, stages, deviation, seed)
        for method, (score, options) in probed.items():
            scores[method] = score
            _save(scores, method, output, {**options, **about})
    return scores


def _scored_split(data: DataModule) -> str:
    data.prepare_data()
    data.setup("test")
    name = "test" if "test" in data.datasets else "val"
    if name not in data.datasets:
        raise ValueError("nothing is held out to be scored: set val_fraction or test_fraction")
    return name


def _save(scores: dict[str, Scores], method: str, output: str | None, about: Any) -> None:
    if output is not None:
        scores[method].save(output, method, {"method": method, **about})


def _task(
    saved: Checkpoint, trained: TrainedModel, options: Mapping[str, Any], panels: int
) -> SupervisedTask:
    """Return the task that tests a network."""
    if trained.task not in TASKS:
        raise ValueError(
            f"{trained.path} is of the task {trained.task!r}, and there is a class to test "
            f"{', '.join(TASKS)}: import the plug-in that has it (rsvheat --plugin)"
        )
    task = TASKS[trained.task].around(trained)
    if not isinstance(task, DenseTask):
        given = [name for name, value in options.items() if value]
        if given:
            raise ValueError(f"{given[0]} is for classes of pixels, and not for {trained.task}")
        if isinstance(task, BoxTask):
            task.panels = panels
        return task
    sensors, background = options["sensors"], options["background"]
    unknown = [name for name in sensors or () if name not in trained.spec.modalities]
    if unknown or sensors == []:
        raise ValueError(
            f"sensors must be some of {', '.join(trained.spec.modalities)}, got {list(sensors)}"
        )
    if background is None:
        background = (saved.content.get("hyper_parameters") or {}).get("background")
    if background is not None and background not in trained.classes:
        raise ValueError(
            f"background must be one of {', '.join(trained.classes)}, got {background!r}"
        )
    task.sensors = None if sensors is None else tuple(sensors)
    task.turns, task.background, task.panels = options["turns"], background, panels
    return task


def _test(task: SupervisedTask, trained: TrainedModel, data: DataModule, device: str) -> None:
    data.use_normalizers(trained.normalizers)
    data.use_classes(trained.classes)
    kind, _, number = device.partition(":")
    trainer = Trainer(
        accelerator=kind,
        devices=[int(number)] if number else 1,
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    # Lightning announces devices and advertises, which is not about the scores.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        trainer.test(task, datamodule=data, verbose=False)
    finally:
        logger.setLevel(level)


def _encoder(
    data: DataModule, saved: Checkpoint | None, variant: str | None, pretrained: bool, seed: int
) -> RSVHeat:
    arguments: dict[str, Any] = {"modalities": data.spec.modalities, "img_size": data.spec.size}
    if saved is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            name = variant or "rsvheat_nano"
            encoder = create_model(name, pretrained=pretrained, num_classes=0, **arguments)
        assert isinstance(encoder, RSVHeat)
        return encoder
    if variant is None:
        return load_encoder(saved)[0]
    return load_encoder(saved, variant, num_classes=0, **arguments)[0]


def _probe(
    encoder: RSVHeat,
    data: DataModule,
    name: str,
    methods: Sequence[Method],
    neighbors: int,
    stages: Sequence[int] | None,
    deviation: bool,
    seed: int,
) -> dict[str, tuple[ClassificationScores, dict[str, Any]]]:
    if data.spec.target != "label":
        raise ValueError(
            "nearest neighbors and the linear probe need images with one class each, and the data "
            f"set has annotation of the kind {data.spec.target!r}"
        )
    modality = next(iter(data.spec.modalities))
    train, test = (
        extract_features(
            encoder,
            _shown(data.loader(which), f"features of {which} images"),
            modality=modality,
            stages=stages,
            deviation=deviation,
        )
        for which in ("train_plain", name)
    )
    found: dict[str, tuple[ClassificationScores, dict[str, Any]]] = {}
    if "knn" in methods:
        predicted = knn(train, test.values, neighbors)
        scores = ClassificationScores.score(predicted, test.labels, data.spec.classes)
        found["knn"] = (scores, {"neighbors": neighbors})
    if "linear" in methods:
        predicted, strength = linear_probe(train, test.values, seed=seed)
        scores = ClassificationScores.score(predicted, test.labels, data.spec.classes)
        found["linear"] = (scores, {"regularization": strength})
    return found


def _shown(batches: Iterable[Any], what: str) -> Iterable[Any]:
    """Show progress on a terminal."""
    shown: Iterable[Any] = tqdm(batches, what, disable=None, leave=False)
    return shown
