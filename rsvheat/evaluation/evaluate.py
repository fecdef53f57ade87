# SPDX-License-Identifier: Apache-2.0
"""Scores of trained and untrained models on labelled images."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from rsvheat.evaluation.classification_scores import Scores
from rsvheat.evaluation.probing import extract_features, knn, linear_probe
from rsvheat.models import RSVHeat, create_model
from rsvheat.tasks.classification import load_classifier
from rsvheat.tasks.encoders import checkpoint_content, load_encoder, saved_normalizers

Method: TypeAlias = Literal["classifier", "knn", "linear"]


def evaluate(
    data: LightningDataModule,
    checkpoint: str | None = None,
    variant: str | None = None,
    *,
    pretrained: bool = False,
    methods: Sequence[Method] | None = None,
    neighbours: int = 5,
    stages: Sequence[int] | None = None,
    deviation: bool = True,
    output: str | None = "runs/evaluate",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Scores]:
    """Score a classifier, or what an encoder's frozen features tell.

    Test images are scored or, where there are none, those for validation. Nearest neighbours and
    the linear probe learn from the training images, without augmentation. A classifier gets images
    normalised as in its training.

    Args:
        data: Such as :class:`rsvheat.data.ImageFolderDataModule`.
        checkpoint: What is scored; without one, ``variant``, with random weights by default.
        variant: Name of the model, where the checkpoint does not say how it is built; without a
            checkpoint ``rsvheat_nano`` by default.
        pretrained: Take the weights that come with the package.
        methods: By default ``classifier`` for a checkpoint of fine-tuning, else ``knn`` and
            ``linear``.
        neighbours: How many of them vote.
        stages: Stages of the encoder whose features are pooled; all by default.
        deviation: Whether the features' standard deviations over space follow their means.
        output: Folder for the scores of each method as JSON, CSV and picture; None writes none.
        seed: Of random weights, and of what the linear probe holds out.
        device: Such as cpu, cuda or cuda:1; auto is a GPU if there is one.

    Returns:
        The scores by method.

    Raises:
        ValueError: If there are no images to score, or the classes are not the classifier's.
        CheckpointError: If the checkpoint is damaged, or does not fit.
        FileNotFoundError: If there is no such checkpoint.
    """
    data.prepare_data()
    data.setup("test")
    module: Any = data
    name = "test" if "test" in module.datasets else "val"
    if name not in module.datasets:
        raise ValueError("nothing is held out to be scored: set val_fraction or test_fraction")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if methods is None:
        trained = checkpoint is not None and "classifier" in checkpoint_content(checkpoint)
        methods = ["classifier"] if trained else ["knn", "linear"]
    scores: dict[str, Scores] = {}
    about: dict[str, dict[str, Any]] = {}
    if "classifier" in methods:
        predicted, labels = _classify(module, name, checkpoint, device)
        scores["classifier"] = Scores.score(predicted, labels, module.classes)
        about["classifier"] = {}
    if "knn" in methods or "linear" in methods:
        encoder = _encoder(module, checkpoint, variant, pretrained, seed).to(device)
        train, test = (
            extract_features(
                encoder,
                _shown(module.loader(which), f"features of {which} images"),
                modality=module.modality,
                stages=stages,
                deviation=deviation,
            )
            for which in ("train_plain", name)
        )
        if "knn" in methods:
            predicted = knn(train, test.values, neighbours)
            scores["knn"] = Scores.score(predicted, test.labels, module.classes)
            about["knn"] = {"neighbours": neighbours}
        if "linear" in methods:
            predicted, strength = linear_probe(train, test.values, seed=seed)
            scores["linear"] = Scores.score(predicted, test.labels, module.classes)
            about["linear"] = {"regularization": strength}
    if output is not None:
        of: dict[str, Any] = {
            "checkpoint": checkpoint,
            "variant": variant,
            "pretrained": pretrained,
            "images": name,
            "seed": seed,
        }
        for method, score in scores.items():
            score.save(output, method, {"method": method, **about[method], **of})
    return scores


def _encoder(
    data: Any, checkpoint: str | None, variant: str | None, pretrained: bool, seed: int
) -> RSVHeat:
    arguments = {"modalities": data.modalities, "img_size": data.datasets["train"].crop.size}
    if checkpoint is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            name = variant or "rsvheat_nano"
            encoder: RSVHeat = create_model(name, pretrained=pretrained, num_classes=0, **arguments)
        return encoder
    if pretrained:
        raise ValueError("give a checkpoint or pretrained, not both")
    if variant is None:
        return load_encoder(checkpoint)[0]
    return load_encoder(checkpoint, variant, num_classes=0, **arguments)[0]


def _classify(data: Any, name: str, checkpoint: str | None, device: str) -> tuple[Tensor, Tensor]:
    if checkpoint is None:
        raise ValueError("the method classifier needs a checkpoint of fine-tuning")
    task = load_classifier(checkpoint).to(device)
    if list(task.classes) != list(data.classes):
        raise ValueError(
            f"{checkpoint} is for the classes {', '.join(task.classes)}; the images are of "
            f"{', '.join(data.classes)}"
        )
    data.datasets[name].normalizers |= saved_normalizers(checkpoint)
    predicted, labels = [], []
    with torch.inference_mode():
        for batch in _shown(data.loader(name), f"{name} images"):
            predicted.append(task(batch["image"].to(device)).argmax(1).cpu())
            labels.append(batch["label"])
    return torch.cat(predicted), torch.cat(labels)


def _shown(batches: Iterable[Any], what: str) -> Iterable[Any]:
    """Show progress on a terminal."""
    shown: Iterable[Any] = tqdm(batches, what, disable=None, leave=False)
    return shown
