# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation as a Lightning module."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics import Metric

from rsvheat.data.datamodule import DataModule
from rsvheat.data.spec import DataSpec, Target
from rsvheat.evaluation import ConfusionMatrix, SegmentationScores, WorstPanels, panels_figure
from rsvheat.models.dense import DecoderName, DenseLogits
from rsvheat.models.features import Fusion
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.models.task_model import TaskModel
from rsvheat.segmentation_losses import SegmentationLoss, Term, Weighting, class_weights
from rsvheat.tasks.supervised import SupervisedTask

_AUXILIARY = 0.4


class DenseTask(SupervisedTask):
    """Base of tasks that give a class to every pixel.

    Logs ``train/loss`` with its parts, and on other images ``val/loss``, overall accuracy, mean IoU
    and mean F1. Validation and tests see whole images in tiles that count every pixel once, see
    :class:`~rsvheat.data.tiles.Tiles`. TensorBoard gets panels of image, truth and prediction of
    the validation samples that are predicted worst.

    Args:
        spec: Description of the data, from :attr:`rsvheat.data.DataModule.spec`.
        variant: Name of the encoder, see :class:`SupervisedTask`.
        decoder: Name of the decoder, ``"upernet"``, or ``"fpn"`` for small encoders.
        model_options: Further arguments of the network.
        losses: Loss or losses with their factors, see
            :class:`~rsvheat.segmentation_losses.SegmentationLoss`.
        class_weights: Weight of each class in the loss, or the rule by which weights are computed
            from the training masks, see :func:`~rsvheat.segmentation_losses.class_weights`.
        background: Class without which means over classes are given a second time.
        turns: Whether a test averages the predictions of each sample's 8 flipped and rotated
            versions.
        panels: Number of validation samples in TensorBoard's panels; 0 for none.
        **options: Further arguments of :class:`SupervisedTask`.

    Raises:
        ValueError: If an argument is not as above, or as for :class:`SupervisedTask`.
    """

    target: ClassVar[Target] = "mask"
    monitor: ClassVar[str] = "val/mean_iou"

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        decoder: DecoderName = "upernet",
        model_options: Mapping[str, Any] | None = None,
        losses: Mapping[str, float] | Term = "cross_entropy",
        class_weights: Sequence[float] | Weighting | None = None,
        background: str | None = None,
        turns: bool = False,
        panels: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(
            spec,
            variant,
            model_options={**(model_options or {}), "decoder": decoder},
            **options,
        )
        if background is not None and background not in self.spec.classes:
            raise ValueError(
                f"background must be one of {', '.join(self.spec.classes)}, got {background!r}"
            )
        self.background, self.turns, self.panels = background, turns, panels
        self._terms, self._weighting = losses, class_weights
        weights = None if isinstance(class_weights, str) else class_weights
        self.loss = SegmentationLoss(losses, weights)
        self._worst: WorstPanels | None = None

    def setup(self, stage: str) -> None:
        """Compute class weights from the training masks, if a rule is given."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(self._weighting, str) and isinstance(data, DataModule):
            weights = class_weights(data.class_counts(), self._weighting)
            self.loss = SegmentationLoss(self._terms, weights).to(self.device)

    def losses(self, output: Tensor | DenseLogits, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """See :meth:`SupervisedTask.losses`."""
        if not isinstance(output, DenseLogits):
            return {"loss": self.loss(output, batch["mask"])}
        parts = {"decoder": self.loss(output.logits, batch["mask"])}
        total = parts["decoder"]
        if output.auxiliary is not None:
            parts["auxiliary"] = self.loss(output.auxiliary, batch["mask"])
            total = total + _AUXILIARY * parts["auxiliary"]
        return {"loss": total, **parts}

    def metrics(self) -> Metric:
        """See :meth:`SupervisedTask.metrics`."""
        return ConfusionMatrix(len(self.spec.classes))

    def compute_scores(self) -> SegmentationScores:
        """See :meth:`SupervisedTask.compute_scores`."""
        assert isinstance(self.scored, ConfusionMatrix)
        return SegmentationScores.of(self.scored, self.spec.classes, background=self.background)

    def on_validation_epoch_start(self) -> None:
        """Start to collect panels."""
        self._worst = WorstPanels(self.spec.classes, self.panels) if self.panels else None

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add a batch to the scores, the loss and the panels."""
        output = self(batch)
        self.update_scores(output, batch)
        own = int((~batch["repeated"]).sum())
        if own:
            self.val_loss.update(self.validation_loss(output, batch), own)
        if self._worst is None:
            return
        predicted = output.argmax(1)
        for row, key in enumerate(batch["keys"]):
            images = {
                name: images[int((batch["index"][name] == row).nonzero()[0])]
                for name, images in batch["images"].items()
                if (batch["index"][name] == row).any()
            }
            self._worst.add(key, images, batch["mask"][row], predicted[row])

    def on_validation_epoch_end(self) -> None:
        """Log the scores and the panels."""
        super().on_validation_epoch_end()
        worst = self._worst.gather() if self._worst is not None else []
        if not worst or not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                figure = panels_figure(worst, self.spec.classes)
                logger.experiment.add_figure("val/worst", figure, self.global_step)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add a batch to the scores."""
        output = self._turned(batch) if self.turns else self(batch)
        self.update_scores(output, batch)

    def _turned(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the mean probabilities of the 8 flipped and rotated versions of a batch."""
        total = None
        for flip in (False, True):
            for turns in range(4):
                images = {
                    name: torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
                    for name, x in batch["images"].items()
                }
                output = torch.rot90(self({**batch, "images": images}).softmax(1), -turns, (-2, -1))
                output = output.flip(-1) if flip else output
                total = output if total is None else total + output
        assert total is not None
        return total


class SegmentationTask(DenseTask):
    """Trains a network that gives each pixel a class, from one sensor or several.

    Args:
        spec: Description of the data, from :attr:`rsvheat.data.DataModule.spec`.
        variant: Name of the encoder, see :class:`SupervisedTask`.
        fusion: How the features of several sensors become one at each stage, see
            :class:`~rsvheat.models.segmentation.SegmentationModel`.
        modality_dropout: Probability with which a sample of several sensors loses some of them in
            training, so that any may be missing afterwards.
        model_options: Further arguments of :class:`~rsvheat.models.segmentation.SegmentationModel`.
        **options: Further arguments of :class:`DenseTask` and :class:`SupervisedTask`.

    Raises:
        ValueError: As for :class:`DenseTask`.
    """

    model: ClassVar[type[TaskModel]] = SegmentationModel

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        fusion: Fusion = "gate",
        modality_dropout: float = 0.0,
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own = {"fusion": fusion, "modality_dropout": modality_dropout}
        super().__init__(spec, variant, model_options={**(model_options or {}), **own}, **options)
