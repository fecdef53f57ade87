# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation as a Lightning module."""

import csv
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torchmetrics import Metric

from rsvheat._files import complete_file
from rsvheat.data.datamodule import DataModule
from rsvheat.data.skip_report import DataError
from rsvheat.data.spec import IGNORE_INDEX, DataSpec, Target
from rsvheat.evaluation import (
    ConfusionMatrix,
    Panel,
    SegmentationScores,
    WorstPanels,
    panels_figure,
    save_figure,
)
from rsvheat.losses import world_size
from rsvheat.models.dense import DecoderName, DenseLogits
from rsvheat.models.features import Fusion
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.models.task_model import TaskModel
from rsvheat.prediction import averaged_turns
from rsvheat.segmentation_losses import SegmentationLoss, Term, Weighting, class_weights
from rsvheat.tasks.calibrated import CalibratedTask

AbsentClasses: TypeAlias = Literal["warn", "raise", "ignore"]

_AUXILIARY = 0.4


class ImageScore(NamedTuple):
    """Scores of one image of a test, or of one tile of it.

    Attributes:
        key: Name of the sample.
        pixels: Number of its pixels that count.
        mean_iou: Mean IoU over the classes that occur in it.
        overall_accuracy: Share of its pixels that are right.
    """

    key: str
    pixels: int
    mean_iou: float
    overall_accuracy: float


class DenseTask(CalibratedTask):
    """Base of tasks that give a class to every pixel.

    Logs ``train/loss`` with its parts, and on other images ``val/loss``, overall accuracy, mean IoU
    and mean F1. Validation and tests see whole images in tiles that count every pixel once, see
    ``rsvheat.data.tiles.Tiles``. TensorBoard and ``val_worst.png`` in the folder of a run
    get panels of image, truth and prediction of the validation samples that are predicted worst.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``CalibratedTask``.
        decoder: Name of the decoder, ``"upernet"``, or ``"fpn"`` for small encoders.
        model_options: Further arguments of the network.
        losses: Loss or losses with their factors, see
            ``rsvheat.segmentation_losses.SegmentationLoss``.
        class_weights: Weight of each class in the loss, or the rule by which weights are computed
            from the training masks, see ``rsvheat.segmentation_losses.class_weights``.
        background: Class without which means over classes are given a second time.
        turns: Whether a test averages the predictions of each sample's 8 flipped and rotated
            versions.
        panels: Number of samples in panels; 0 for none.
        absent_classes: Treatment of classes of which the first epoch's training samples have no
            pixel: ``"warn"`` names them, ``"raise"`` ends the run with an error that names them,
            ``"ignore"`` says nothing.
        **options: Further arguments of ``CalibratedTask``.

    Attributes:
        sensors: Sensors that a test may see, to score each alone; None for all.
        worst: Panels of the samples that were predicted worst in the last test.
        images: Scores of the samples of the last test, the worst first.

    Raises:
        ValueError: If an argument is not as above, or as for ``CalibratedTask``.
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
        absent_classes: AbsentClasses = "warn",
        **options: Any,
    ) -> None:
        if absent_classes not in get_args(AbsentClasses):
            raise ValueError(
                f"absent_classes must be one of {get_args(AbsentClasses)}, got {absent_classes!r}"
            )
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
        self.absent_classes = absent_classes
        self._terms, self._weighting = losses, class_weights
        weights = None if isinstance(class_weights, str) else class_weights
        self.loss = SegmentationLoss(losses, weights)
        self.sensors: tuple[str, ...] | None = None
        self.worst: list[Panel] = []
        self.images: list[ImageScore] = []
        self._worst: WorstPanels | None = None
        self._images: list[ImageScore] = []
        self._seen = torch.zeros(len(self.spec.classes), dtype=torch.bool)
        self._from_start = False

    def setup(self, stage: str) -> None:
        """Compute class weights from the training masks, if a rule is given."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(self._weighting, str) and isinstance(data, DataModule):
            weights = class_weights(data.class_counts(), self._weighting)
            self.loss = SegmentationLoss(self._terms, weights).to(self.device)

    def training_losses(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See ``CalibratedTask.training_losses``; notes which classes occur."""
        if batch_idx == 0:
            self._seen = torch.zeros(len(self.spec.classes), dtype=torch.bool)
            self._from_start = True
        if self.current_epoch == 0:
            counts = torch.bincount(batch["mask"].flatten(), minlength=IGNORE_INDEX + 1)
            self._seen = self._seen.to(counts.device) | (counts[: len(self._seen)] > 0)
        return super().training_losses(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Look for classes that no sample of the first epoch has: nothing was learned of them.

        Raises:
            DataError: If there is one and ``absent_classes`` is ``"raise"``.
        """
        if self.current_epoch > 0 or self.absent_classes == "ignore":
            return
        # A run that resumed within the epoch, or ends within it, has not seen all of them.
        if not (self._from_start and self.trainer.is_last_batch):
            return
        seen = self.trainer.strategy.reduce(self._seen.float().to(self.device), reduce_op="sum")
        pairs = zip(self.spec.classes, (seen > 0).tolist(), strict=True)
        absent = [name for name, occurs in pairs if not occurs]
        if not absent:
            return
        found = f"no pixel of the first epoch's training samples is of {', '.join(absent)}"
        if self.absent_classes == "raise":
            raise DataError(f'{found}; absent_classes="warn" trains all the same')
        rank_zero_warn(f"{found}: the network learns never to predict this")

    def losses(self, output: Tensor | DenseLogits, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``CalibratedTask.losses``."""
        if not isinstance(output, DenseLogits):
            return {"loss": self.loss(output, batch["mask"])}
        parts = {"decoder": self.loss(output.logits, batch["mask"])}
        total = parts["decoder"]
        if output.auxiliary is not None:
            parts["auxiliary"] = self.loss(output.auxiliary, batch["mask"])
            total = total + _AUXILIARY * parts["auxiliary"]
        return {"loss": total, **parts}

    def metrics(self) -> Metric:
        """See ``CalibratedTask.metrics``."""
        return ConfusionMatrix(len(self.spec.classes))

    def compute_scores(self) -> SegmentationScores:
        """See ``CalibratedTask.compute_scores``."""
        assert isinstance(self.scored, ConfusionMatrix)
        return SegmentationScores.of(self.scored, self.spec.classes, background=self.background)

    def validation_weight(self, batch: Mapping[str, Any]) -> int:
        """Return the weight of a validation batch's loss: the pixels that count."""
        return int((batch["mask"] != IGNORE_INDEX).sum())

    def on_validation_epoch_start(self) -> None:
        """Start to collect logits and panels."""
        super().on_validation_epoch_start()
        self._worst = WorstPanels(self.spec.classes, self.panels) if self.panels else None

    def add_validation(self, output: Tensor, batch: Mapping[str, Any], batch_idx: int) -> None:
        """See ``CalibratedTask.add_validation``; adds the panels."""
        super().add_validation(output, batch, batch_idx)
        if self._worst is not None:
            self._add_panels(self._worst, output, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and the panels."""
        super().on_validation_epoch_end()
        worst = self._worst.gather() if self._worst is not None else []
        if worst and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self.log_figure("val/worst", panels_figure(worst, self.spec.classes))

    def on_test_epoch_start(self) -> None:
        """Start to collect panels, and the scores of images."""
        self._worst = WorstPanels(self.spec.classes, self.panels) if self.panels else None
        self._images = []

    def test_output(self, batch: Mapping[str, Any]) -> Tensor:
        """See ``CalibratedTask.test_output``."""
        if self.sensors is not None:
            parts = {
                part: {name: batch[part][name] for name in self.sensors if name in batch[part]}
                for part in ("images", "index")
            }
            batch = {**batch, **parts}
        return self._turned(batch) if self.turns else super().test_output(batch)

    def add_test(self, output: Tensor, batch: Mapping[str, Any]) -> None:
        """See ``CalibratedTask.add_test``; adds the images."""
        super().add_test(output, batch)
        worst = self._worst or WorstPanels(self.spec.classes, 1)
        self._images += self._add_panels(worst, output, batch)

    def on_test_epoch_end(self) -> None:
        """Set and log the scores; gather the images of all processes."""
        super().on_test_epoch_end()
        self.worst = self._worst.gather() if self._worst is not None else []
        parts: list[Any] = [self._images]
        if world_size() > 1:
            parts = [None] * world_size()
            distributed.all_gather_object(parts, self._images)
        found = {image.key: image for part in parts for image in part}
        self.images = sorted(found.values(), key=lambda image: (image.mean_iou, image.key))

    def _add_panels(
        self, worst: WorstPanels, output: Tensor, batch: Mapping[str, Any]
    ) -> list[ImageScore]:
        """Add a batch to the panels; return the scores of the images of which pixels count."""
        scored, predicted = [], output.max(1).indices
        for row, key in enumerate(batch["keys"]):
            images, valid = {}, {}
            for name, index in batch["index"].items():
                where = (index == row).nonzero()
                if len(where):
                    images[name] = batch["images"][name][int(where[0])]
                    valid[name] = batch["valid"][name][int(where[0])]
            mask = batch["mask"][row]
            score = worst.add(key, images, mask, predicted[row], valid)
            if not math.isnan(score):
                counted = mask != IGNORE_INDEX
                right = int((predicted[row] == mask)[counted].sum())
                pixels = int(counted.sum())
                scored.append(ImageScore(key, pixels, score, right / pixels))
        return scored

    def save_test(
        self,
        folder: str | PathLike[str],
        name: str = "scores",
        about: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """See ``CalibratedTask.save_test``; adds panels and a table of images, worst first."""
        files = super().save_test(folder, name, about)
        table = Path(folder) / f"{name}_images.csv"
        with (
            complete_file(table) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["image", *ImageScore._fields[1:]])
            writer.writerows(self.images)
        files.append(table)
        if self.worst:
            path = Path(folder) / f"{name}_worst.png"
            files.append(save_figure(path, panels_figure(self.worst, self.spec.classes)))
        return files

    def _turned(self, batch: Mapping[str, Any]) -> Tensor:
        """Return logits of the mean probabilities of a batch's 8 flipped and rotated versions."""

        def predict(images: Mapping[str, Tensor]) -> Tensor:
            logits: Tensor = self({**batch, "images": images}).float()
            return logits.softmax(1)

        mean = averaged_turns(predict, batch["images"])
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class SegmentationTask(DenseTask):
    """Trains a network that gives each pixel a class, from one sensor or several.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``CalibratedTask``.
        fusion: How the features of several sensors become one at each stage, see
            ``rsvheat.models.segmentation.SegmentationModel``.
        modality_dropout: Probability with which a sample of several sensors loses some of them in
            training, so that any may be missing afterwards.
        model_options: Further arguments of ``rsvheat.models.segmentation.SegmentationModel``.
        **options: Further arguments of ``DenseTask`` and ``CalibratedTask``.

    Raises:
        ValueError: As for ``DenseTask``.
    """

    model: ClassVar[type[TaskModel]] = SegmentationModel

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        fusion: Fusion = "attention",
        modality_dropout: float = 0.0,
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own = {"fusion": fusion, "modality_dropout": modality_dropout}
        super().__init__(spec, variant, model_options={**(model_options or {}), **own}, **options)
