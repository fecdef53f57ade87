# SPDX-License-Identifier: Apache-2.0
"""Change detection as a Lightning module."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rsvheat.data.spec import DataSpec
from rsvheat.evaluation import ConfusionMatrix, SegmentationScores
from rsvheat.models.change_detection import ChangeDetectionModel, Difference
from rsvheat.models.task_model import TaskModel
from rsvheat.tasks.segmentation import DenseTask


class ChangeDetectionTask(DenseTask):
    """Trains a network that finds what changed between the images ``before`` and ``after``.

    Precision, recall, F1 and IoU are those of the second class, change, over all pixels of all
    images.

    Args:
        spec: Description of the data, with the modalities ``before`` and ``after``.
        variant: Name of the encoder, see ``rsvheat.tasks.SupervisedTask``.
        dates: Name of the encoder's stem by date, for dates of different sensors: ``{before:
            optical, after: sar}``. By default dates with as many bands share the stem ``optical``.
        difference: How features are compared, see
            ``rsvheat.models.change_detection.ChangeDetectionModel``.
        exchange: Whether the dates exchange features.
        swap: Probability with which the dates of a training sample are swapped, where they share a
            stem.
        model_options: Further arguments of the network.
        **options: Further arguments of ``rsvheat.tasks.segmentation.DenseTask`` and
            ``rsvheat.tasks.SupervisedTask``.

    Raises:
        ValueError: If ``swap`` is out of range or does not fit the dates, or as for
            ``rsvheat.tasks.segmentation.DenseTask``.
    """

    model: ClassVar[type[TaskModel]] = ChangeDetectionModel
    monitor: ClassVar[str] = "val/change_f1"

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        dates: Mapping[str, str] | None = None,
        difference: Difference | None = None,
        exchange: bool = False,
        swap: float = 0.0,
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own = {"dates": dates, "difference": difference, "exchange": exchange}
        super().__init__(spec, variant, model_options={**(model_options or {}), **own}, **options)
        assert isinstance(self.network, ChangeDetectionModel)
        shared = len(set(self.network.dates.values())) == 1
        if not 0 <= swap <= 1 or (swap > 0 and not shared):
            raise ValueError(
                f"swap must be within 0 to 1, and 0 for dates of different stems, got {swap}"
            )
        self.swap = swap

    @classmethod
    def stems_of(cls, spec: DataSpec, model_options: Mapping[str, Any]) -> dict[str, int]:
        """See ``rsvheat.tasks.SupervisedTask.stems_of``."""
        return ChangeDetectionModel.stems(spec.modalities, model_options.get("dates"))

    def training_losses(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See ``rsvheat.tasks.SupervisedTask.training_losses``; swaps dates, if asked for."""
        if self.swap > 0:
            random = np.random.default_rng(self.step_seed(batch_idx, 1))
            drawn = torch.from_numpy(random.random(batch["size"]) < self.swap)
            swapped = drawn.to(batch["mask"].device)[:, None, None, None]
            before, after = batch["images"]["before"], batch["images"]["after"]
            images = {
                "before": torch.where(swapped, after, before),
                "after": torch.where(swapped, before, after),
            }
            batch = {**batch, "images": images}
        return super().training_losses(batch, batch_idx)

    def compute_scores(self) -> SegmentationScores:
        """See ``rsvheat.tasks.SupervisedTask.compute_scores``."""
        assert isinstance(self.scored, ConfusionMatrix)
        classes = self.spec.classes
        return SegmentationScores.of(self.scored, classes, change=classes[1])
