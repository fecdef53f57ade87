# SPDX-License-Identifier: Apache-2.0
"""Oriented detection as a Lightning module."""

from collections.abc import Mapping
from typing import Any, ClassVar

from rsvheat.data.spec import DataSpec, Target
from rsvheat.models.oriented_coding import BoxLoss
from rsvheat.models.oriented_detection import OrientedDetectionModel, OrientedDetectorName
from rsvheat.models.task_model import TaskModel
from rsvheat.tasks.detection import BoxTask


class OrientedDetectionTask(BoxTask):
    """Trains a network that finds oriented boxes.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, see ``rsvheat.tasks.SupervisedTask``.
        detector: Name of the detector, see
            ``rsvheat.models.oriented_detection.OrientedDetectionModel``.
        box_loss: Loss of the boxes: ``"smooth_l1"`` of their codes, or of their overlap ``"iou"``,
            exact, or as Gaussian distributions, ``"kld"`` or ``"probiou"``; that of the detector by
            default.
        model_options: Further arguments of
            ``rsvheat.models.oriented_detection.OrientedDetectionModel``.
        **options: Further arguments of ``rsvheat.tasks.detection.BoxTask`` and
            ``rsvheat.tasks.SupervisedTask``.

    Raises:
        ValueError: As for ``rsvheat.tasks.detection.BoxTask``.
    """

    model: ClassVar[type[TaskModel]] = OrientedDetectionModel
    target: ClassVar[Target] = "oriented_boxes"
    monitor: ClassVar[str] = "val/map50_area"

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        detector: OrientedDetectorName = "oriented_rcnn",
        box_loss: BoxLoss | None = None,
        model_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own: dict[str, Any] = {"detector": detector}
        if box_loss is not None:
            own["box_loss"] = box_loss
        super().__init__(spec, variant, model_options={**(model_options or {}), **own}, **options)
