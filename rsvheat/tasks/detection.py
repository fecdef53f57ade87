# SPDX-License-Identifier: Apache-2.0
"""Detection as a Lightning module."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from rsvheat.data.sample import ImageDataset
from rsvheat.data.spec import DataSpec, Target
from rsvheat.data.tiles import Tiles
from rsvheat.evaluation import (
    BoxPanel,
    DetectionMetric,
    DetectionScores,
    WholeImages,
    WorstBoxPanels,
    box_panels_figure,
    save_figure,
)
from rsvheat.models.box_detector import BoxDetector, DetectorOutput
from rsvheat.models.detection import DetectionModel, DetectorName
from rsvheat.models.features import Fusion
from rsvheat.models.task_model import TaskModel
from rsvheat.tasks.supervised import SupervisedTask


class BoxTask(SupervisedTask):
    """Base of tasks that find boxes.

    Logs ``train/loss`` with its parts, and on other images ``val/loss`` and mean average
    precisions. Images without boxes are learned from, too; boxes that are marked as difficult are
    learned, and not counted in scores. Where images are cut into tiles, validation scores each tile
    by itself, and boxes that another tile is nearer to are difficult; a test puts the boxes of
    tiles together, see ``rsvheat.evaluation.WholeImages``, and scores whole images. TensorBoard and
    ``val_worst.png`` in the folder of a run get panels of the validation samples whose boxes are
    predicted worst.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``SupervisedTask``.
        fusion: How the features of several sensors become one at each stage, see
            ``rsvheat.models.features.FeaturePyramid``.
        modality_dropout: Probability with which a sample of several sensors loses some of them in
            training, so that any may be missing afterwards.
        model_options: Further arguments of the network.
        panels: Number of samples in panels; 0 for none.
        **options: Further arguments of ``SupervisedTask``.

    Attributes:
        worst: Panels of the samples that were predicted worst in the last test.

    Raises:
        ValueError: If an argument is not as above, or as for ``SupervisedTask``.
    """

    network: BoxDetector

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        fusion: Fusion = "gate",
        modality_dropout: float = 0.0,
        model_options: Mapping[str, Any] | None = None,
        panels: int = 4,
        **options: Any,
    ) -> None:
        own = {"fusion": fusion, "modality_dropout": modality_dropout}
        super().__init__(spec, variant, model_options={**(model_options or {}), **own}, **options)
        self.panels = panels
        self.worst: list[BoxPanel] = []
        self._worst: WorstBoxPanels | None = None
        self._whole: WholeImages | None = None

    def losses(self, output: DetectorOutput, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``SupervisedTask.losses``."""
        parts = self.network.losses(output, batch["boxes"], batch["labels"])
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def metrics(self) -> Metric:
        """See ``SupervisedTask.metrics``."""
        return DetectionMetric(len(self.spec.classes), self.target == "oriented_boxes")

    def compute_scores(self) -> DetectionScores:
        """See ``SupervisedTask.compute_scores``."""
        return DetectionScores.of(self.scored.compute(), self.spec.classes)

    def update_scores(self, output: DetectorOutput, batch: Mapping[str, Any]) -> None:
        """Add the samples of a batch that are not repeated to ``self.scored``.

        Args:
            output: Output of the network.
            batch: Batch, see ``rsvheat.data.sample``.

        Raises:
            FloatingPointError: If a value of the network is not finite.
        """
        found = self.network.detect(output)
        rows = (~batch["repeated"]).nonzero().flatten().tolist()
        for row in rows:
            if not found[row]["scores"].isfinite().all():
                raise FloatingPointError(
                    f"the network's result for {batch['keys'][row]} is not finite: the image holds "
                    "extreme values, or the weights are damaged"
                )
        if self._whole is not None:
            for row in rows:
                self._whole.add(batch["keys"][row], found[row])
        else:
            difficult = batch.get("difficult")
            self.scored.update(
                [found[row] for row in rows],
                [batch["boxes"][row] for row in rows],
                [batch["labels"][row] for row in rows],
                None if difficult is None else [difficult[row] for row in rows],
            )
        if self._worst is None:
            return
        for row in rows:
            name, place = _image_of(row, batch["index"])
            self._worst.add(
                batch["keys"][row],
                batch["images"][name][place],
                found[row],
                batch["boxes"][row],
                batch["labels"][row],
                batch["valid"][name][place],
            )

    def on_validation_epoch_start(self) -> None:
        """Start to collect panels."""
        self._worst = WorstBoxPanels(self.panels) if self.panels else None

    def on_validation_epoch_end(self) -> None:
        """Log the scores and the panels."""
        super().on_validation_epoch_end()
        worst = self._worst.gather() if self._worst is not None else []
        self._worst = None
        if worst and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self.log_figure("val/worst", box_panels_figure(worst, self.spec.classes))

    def on_test_epoch_start(self) -> None:
        """Start to collect panels, and the boxes of tiles."""
        self._worst = WorstBoxPanels(self.panels) if self.panels else None
        data = getattr(self.trainer.test_dataloaders, "dataset", None)
        if isinstance(data, ImageDataset) and isinstance(data.source, Tiles):
            self._whole = WholeImages(data.source, data.crop.size, data.labels)

    def on_test_epoch_end(self) -> None:
        """Set and log the scores; gather the panels of all processes."""
        if self._whole is not None:
            for found, truth in self._whole.images():
                boxes, labels, difficult = (torch.from_numpy(part) for part in truth)
                self.scored.update([found], [boxes], [labels], [difficult])
            self._whole = None
        super().on_test_epoch_end()
        self.worst = self._worst.gather() if self._worst is not None else []
        self._worst = None

    def save_test(
        self,
        folder: str | PathLike[str],
        name: str = "scores",
        about: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """See ``SupervisedTask.save_test``; adds the panels."""
        files = super().save_test(folder, name, about)
        if self.worst:
            path = Path(folder) / f"{name}_worst.png"
            files.append(save_figure(path, box_panels_figure(self.worst, self.spec.classes)))
        return files

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Seed torch's own generators: losses sample anchors and proposals."""
        torch.manual_seed(self.step_seed(batch_idx))


def _image_of(row: int, index: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the first modality that has a sample of a batch, and the place of its image there."""
    for name, rows in index.items():
        places = (rows == row).nonzero()
        if len(places):
            return name, int(places[0])
    raise ValueError(f"sample {row} of the batch has no image")


class DetectionTask(BoxTask):
    """Trains a network that finds horizontal boxes.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``SupervisedTask``.
        detector: Name of the detector, see ``rsvheat.models.detection.DetectionModel``.
        model_options: Further arguments of ``rsvheat.models.detection.DetectionModel``.
        **options: Further arguments of ``BoxTask`` and ``SupervisedTask``.

    Raises:
        ValueError: As for ``BoxTask``.
    """

    model: ClassVar[type[TaskModel]] = DetectionModel
    target: ClassVar[Target] = "boxes"
    monitor: ClassVar[str] = "val/map50"

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        detector: DetectorName = "faster_rcnn",
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            spec, variant, model_options={**(model_options or {}), "detector": detector}, **options
        )
