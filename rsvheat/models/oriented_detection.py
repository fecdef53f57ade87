# SPDX-License-Identifier: Apache-2.0
"""Detection with oriented boxes, of images of one sensor or several."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from rsvheat.models.box_detector import BoxDetector, BoxHead
from rsvheat.models.features import Encoder
from rsvheat.models.oriented_rcnn import OrientedRCNNHead
from rsvheat.models.rotated_fcos import RotatedFCOSHead
from rsvheat.models.task_model import Output

OrientedDetectorName: TypeAlias = Literal["oriented_rcnn", "rotated_fcos"]


class OrientedDetectionModel(BoxDetector):
    """Oriented boxes by Oriented R-CNN or a rotated FCOS.

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 1 at least.
        detector: ``"oriented_rcnn"``, or ``"rotated_fcos"`` of one stage, without RoIAlign.
        **options: Further arguments of ``rsvheat.models.box_detector.BoxDetector``:
            ``channels``, ``finest``, ``fusion``, ``modality_dropout``; and of the detector, see
            ``rsvheat.models.oriented_rcnn.OrientedRCNNHead`` and
            ``rsvheat.models.rotated_fcos.RotatedFCOSHead``: ``box_loss``,
            ``score_threshold``, ``nms_threshold``, ``max_detections``, ``anchor_scale``,
            ``proposals``, ``regions``, ``balanced``, ``angle_coding``.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), downstream tasks; Oriented R-CNN (arXiv 2108.05699).
    """

    task: ClassVar[str] = "oriented_detection"
    output: ClassVar[Output] = "oriented_boxes"
    numbers: ClassVar[int] = 5
    heads: ClassVar[Mapping[str, type[BoxHead]]] = {
        "oriented_rcnn": OrientedRCNNHead,
        "rotated_fcos": RotatedFCOSHead,
    }

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        detector: OrientedDetectorName = "oriented_rcnn",
        **options: Any,
    ) -> None:
        super().__init__(encoder, num_classes, detector=detector, **options)
