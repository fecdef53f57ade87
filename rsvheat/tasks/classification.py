# SPDX-License-Identifier: Apache-2.0
"""Scene classification as a Lightning module."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection

from rsvheat.data.spec import IGNORE_LABEL, DataSpec, Target
from rsvheat.evaluation.classification_scores import Scores, classification_metrics
from rsvheat.models.classification import Classifier
from rsvheat.models.task_model import TaskModel
from rsvheat.tasks.calibrated import CalibratedTask


class ClassificationTask(CalibratedTask):
    """Trains an encoder with its head on images with one class each.

    Logs ``train/loss`` and ``train/accuracy``, and on other images ``val/loss``, ``val/accuracy``
    (overall) and ``val/f1`` (mean over the classes).

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``CalibratedTask``.
        label_smoothing: Fraction of the target that is spread over all classes.
        mixup: Parameter of the distribution Beta(mixup, mixup) of the weights by which images are
            blended with others; 0 blends none.
        **options: Further arguments of ``CalibratedTask``.

    Raises:
        ValueError: If a value is out of its range, or as for ``CalibratedTask``.
    """

    model: ClassVar[type[TaskModel]] = Classifier
    target: ClassVar[Target] = "label"
    ignored: ClassVar[int] = IGNORE_LABEL
    monitor: ClassVar[str] = "val/accuracy"

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        **options: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1 or not 0 <= mixup < math.inf:
            raise ValueError(
                "label_smoothing must be at least 0 and below 1 and mixup at least 0, got "
                f"{label_smoothing} and {mixup}"
            )
        super().__init__(spec, variant, **options)
        self.label_smoothing = label_smoothing
        self.mixup = mixup

    def losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``CalibratedTask.losses``."""
        labels = batch["label"]
        accuracy = (output.argmax(1) == labels).float().mean()
        return {"loss": self._loss(output, labels), "accuracy": accuracy}

    def training_losses(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See ``CalibratedTask.training_losses``; blends images, if asked for."""
        if self.mixup == 0:
            return super().training_losses(batch, batch_idx)
        labels = batch["label"]
        random = np.random.default_rng(self.step_seed(batch_idx, 1))
        share = float(random.beta(self.mixup, self.mixup))
        order = torch.from_numpy(random.permutation(len(labels))).to(labels.device)
        blended = {}
        for name, images in batch["images"].items():
            if len(images) < len(labels):
                raise ValueError(f"mixup needs images of {name} for every sample of a batch")
            blended[name] = share * images + (1 - share) * images[order]
        output = self({**batch, "images": blended})
        losses = self.losses(output, batch)
        other = self._loss(output, labels[order])
        return {**losses, "loss": share * losses["loss"] + (1 - share) * other}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def validation_loss(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """See ``CalibratedTask.validation_loss``; without label smoothing."""
        return cross_entropy(output.float(), batch["label"], ignore_index=IGNORE_LABEL)

    def metrics(self) -> MetricCollection:
        """See ``CalibratedTask.metrics``."""
        return classification_metrics(len(self.spec.classes))

    def compute_scores(self) -> Scores:
        """See ``CalibratedTask.compute_scores``."""
        assert isinstance(self.scored, MetricCollection)
        return Scores.of(self.scored, self.spec.classes)
