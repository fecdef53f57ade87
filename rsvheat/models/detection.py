# SPDX-License-Identifier: Apache-2.0
"""Detection with horizontal boxes, of images of one sensor or several."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from rsvheat.models.box_detector import BoxDetector, BoxHead
from rsvheat.models.features import Encoder
from rsvheat.models.horizontal_heads import AnchorHead, FasterRCNNHead, PointHead
from rsvheat.models.task_model import Output

DetectorName: TypeAlias = Literal["faster_rcnn", "retinanet", "fcos"]


class DetectionModel(BoxDetector):
    """Horizontal boxes by Faster R-CNN, RetinaNet or FCOS, on torchvision's parts.

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 1 at least.
        detector: ``"faster_rcnn"``, ``"retinanet"`` or ``"fcos"``.
        **options: Further arguments of ``rsvheat.models.box_detector.BoxDetector``:
            ``channels``, ``finest``, ``fusion``, ``modality_dropout``; and of the detector, see
            ``rsvheat.models.horizontal_heads``: ``score_threshold``, ``nms_threshold``,
            ``max_detections``, ``anchor_scale``, ``proposals``, ``regions``.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), downstream tasks: Faster R-CNN on DIOR.
    """

    task: ClassVar[str] = "detection"
    output: ClassVar[Output] = "boxes"
    numbers: ClassVar[int] = 4
    heads: ClassVar[Mapping[str, type[BoxHead]]] = {
        "faster_rcnn": FasterRCNNHead,
        "retinanet": AnchorHead,
        "fcos": PointHead,
    }

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        detector: DetectorName = "faster_rcnn",
        **options: Any,
    ) -> None:
        super().__init__(encoder, num_classes, detector=detector, **options)
