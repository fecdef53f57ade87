# SPDX-License-Identifier: Apache-2.0
"""Scene classification as a Lightning module."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from rsvheat.data.datasets import REPEATED
from rsvheat.evaluation.classification_scores import Scores, classification_metrics
from rsvheat.models import CheckpointError, RSVHeat, create_model
from rsvheat.tasks.encoders import checkpoint_content, encoder_arguments, load_encoder
from rsvheat.training.optimization import Optimization
from rsvheat.training.task import Task

_LOGGER = logging.getLogger("rsvheat.tasks")

FINETUNING = Optimization(base_lr=5e-4, betas=(0.9, 0.999))


class ClassificationTask(Task):
    """Trains an encoder with its head on labelled images.

    Takes batches with ``image`` (B, bands, H, W) and ``label`` int64 (B,). Logs ``train/loss`` and
    ``train/accuracy``, and on other images ``val/loss``, ``val/accuracy`` (overall) and ``val/f1``
    (mean over the classes). After a test its ``scores`` are set.

    Args:
        network: The encoder with its classifier.
        classes: Their names, by label.
        modality: Which stem the images go through; the encoder's first by default.
        optimization: The optimizer and the learning rate, which is that of the head.
        layer_decay: Factor on the learning rate for each block between a parameter and the head.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Images are blended with others, with weights from Beta(mixup, mixup); 0 for none.
        seed: Of the blending.

    Raises:
        ValueError: If the classifier is not for these classes, or a value is out of its range.
    """

    def __init__(
        self,
        network: RSVHeat,
        classes: Sequence[str],
        modality: str | None = None,
        optimization: Optimization = FINETUNING,
        *,
        layer_decay: float = 1.0,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        seed: int = 0,
    ) -> None:
        if network.num_classes != len(classes):
            raise ValueError(
                f"the network has {network.num_classes} classes, and {len(classes)} are named: "
                f"{', '.join(classes)}"
            )
        if not 0 <= label_smoothing < 1 or not 0 <= mixup < math.inf:
            raise ValueError(
                "label_smoothing must be at least 0 and below 1 and mixup at least 0, got "
                f"{label_smoothing} and {mixup}"
            )
        super().__init__(network, optimization, seed)
        self.network: RSVHeat
        self.classes = tuple(classes)
        self.modality = modality or network.default_modality
        self.layer_decay = layer_decay
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.metrics = classification_metrics(len(classes))
        self.val_loss = MeanMetric()
        self.scores: Scores | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, bands, H, W)."""
        logits: Tensor = self.network(images, self.modality)
        return logits

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        images, labels = batch["image"], batch["label"]
        others, share = labels, 1.0
        if self.mixup > 0:
            random = np.random.default_rng(self.step_seed(batch_idx, 1))
            share = float(random.beta(self.mixup, self.mixup))
            order = torch.from_numpy(random.permutation(len(labels))).to(labels.device)
            images, others = share * images + (1 - share) * images[order], labels[order]
        logits = self(images)
        loss = share * self._loss(logits, labels)
        if share < 1:
            loss = loss + (1 - share) * self._loss(logits, others)
        accuracy = (logits.argmax(1) == labels).float().mean()
        values = torch.stack((loss.detach(), accuracy)).tolist()
        self.log_step(dict(zip(("loss", "accuracy"), values, strict=True)), batch_idx)
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Take a batch into account."""
        logits, labels = self(batch["image"]), batch["label"]
        self.metrics.update(logits, labels)
        own = int((labels != REPEATED).sum())
        loss = cross_entropy(logits.float(), labels, ignore_index=REPEATED, reduction="sum")
        self.val_loss.update(loss / max(own, 1), own)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        scores = Scores.of(self.metrics, self.classes)
        self.metrics.reset()
        # Lightning's own mean rounds the number of samples where processes have different ones.
        self.log("val/loss", self.val_loss.compute(), sync_dist=True)
        self.val_loss.reset()
        self.log("val/accuracy", scores.accuracy, prog_bar=True, sync_dist=True)
        self.log("val/f1", scores.mean_f1, sync_dist=True)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Take a batch into account."""
        self.metrics.update(self(batch["image"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        """Set and log the scores."""
        self.scores = Scores.of(self.metrics, self.classes)
        self.metrics.reset()
        self.log("test/accuracy", self.scores.accuracy, sync_dist=True)
        self.log("test/f1", self.scores.mean_f1, sync_dist=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters by weight decay and distance to the head."""
        groups = self.network.get_parameter_groups(
            weight_decay=self.optimization.weight_decay, layer_decay=self.layer_decay
        )
        return [{k: v for k, v in group.items() if k != "param_names"} for group in groups]

    def images_in(self, batch: Mapping[str, Any]) -> int:
        """Return how many images a batch holds."""
        return len(batch["image"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how the classifier is built."""
        checkpoint["encoder"] = encoder_arguments(self.network)
        checkpoint["classifier"] = {"classes": list(self.classes), "modality": self.modality}


def create_classification_task(
    classes: Sequence[str],
    variant: str | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    modality: str = "optical",
    bands: int = 3,
    img_size: int | Sequence[int] | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    optimization: Optimization = FINETUNING,
    layer_decay: float = 1.0,
    label_smoothing: float = 0.1,
    mixup: float = 0.0,
    seed: int = 0,
) -> ClassificationTask:
    """Build a classifier, from scratch or on a trained encoder, and the task that trains it.

    Args:
        classes: Names of the classes, by label.
        variant: As for :func:`rsvheat.create_model`; by default that of the checkpoint, and
            ``"rsvheat_nano"`` without one.
        checkpoint: Weights to start from, see :func:`rsvheat.load_checkpoint`.
        pretrained: Start from the weights that come with the package instead.
        modality: Name of the images' stem.
        bands: Of the images.
        img_size: Side in pixels, or (height, width), that the encoder's tables are made for; by
            default the checkpoint's, and 224 without one.
        encoder_options: Further arguments of :class:`~rsvheat.models.RSVHeat`.
        stems: See :func:`rsvheat.load_checkpoint`.
        inflate_stems: See :func:`rsvheat.load_checkpoint`.
        optimization: See :class:`ClassificationTask`.
        layer_decay: See :class:`ClassificationTask`.
        label_smoothing: See :class:`ClassificationTask`.
        mixup: See :class:`ClassificationTask`.
        seed: See :class:`ClassificationTask`.

    Raises:
        ValueError: If an argument is not as above, or the checkpoint does not fit.
        FileNotFoundError: If there is no such checkpoint.
    """
    arguments: dict[str, Any] = {
        "modalities": {modality: bands},
        "num_classes": len(classes),
        **({} if img_size is None else {"img_size": img_size}),
        **(encoder_options or {}),
    }
    if checkpoint is None:
        network = create_model(variant or "rsvheat_nano", pretrained=pretrained, **arguments)
    elif pretrained:
        raise ValueError("give a checkpoint or pretrained, not both")
    else:
        network, report = load_encoder(
            checkpoint, variant, stems=stems, inflate_stems=inflate_stems, **arguments
        )
        _LOGGER.info("%s", report)
    return ClassificationTask(
        network,
        classes,
        modality,
        optimization,
        layer_decay=layer_decay,
        label_smoothing=label_smoothing,
        mixup=mixup,
        seed=seed,
    )


def load_classifier(path: str | os.PathLike[str]) -> ClassificationTask:
    """Build the classifier of a checkpoint that :class:`ClassificationTask` saved.

    Args:
        path: The ``.ckpt``.

    Returns:
        The task with its weights, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or of no classifier.
    """
    about = checkpoint_content(path).get("classifier")
    if not isinstance(about, dict):
        raise CheckpointError(f"{path} is no checkpoint of fine-tuning: it has no classifier")
    network, report = load_encoder(path)
    task = ClassificationTask(network, about["classes"], about["modality"])
    if report.missing:
        raise CheckpointError(f"{path} lacks {', '.join(report.missing)}")
    return task.eval()
