# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN, RetinaNet and FCOS behind the feature pyramid, of torchvision's parts.

torchvision's own models scale and normalize images of three bands, and give losses in training mode
only; their parts are used without that here.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align
from torchvision.ops.poolers import initLevelMapper

from rsvheat.models.anchor_matching import anchor_kinds, match_anchors
from rsvheat.models.box_detector import (
    BINS,
    HIDDEN,
    RATIOS,
    SMALLEST_SIDE,
    BoxHead,
    DetectorOutput,
    Found,
    Target,
    check_thresholds,
    mark_not_finite,
)
from rsvheat.models.decoding import build_norm
from rsvheat.models.detection_pyramid import (
    Coarse,
    GridAnchors,
    Stride,
    flatten_levels,
    precise,
)
from rsvheat.models.proposals import (
    best_of_levels,
    choose_proposals,
    scores_of_valid,
    take_rows,
)
from rsvheat.postprocess import Selection

_norm = partial(build_norm, "group")


class FasterRCNNHead(BoxHead):
    """Region proposals, and the layers that classify and refine them.

    Args:
        channels: Number of channels of the pyramid.
        num_classes: Number of classes.
        strides: Stride of each level.
        anchor_scale: Square root of the anchors' areas in units of the level's stride.
        proposals: Largest number of regions of an image that are classified.
        regions: Number of regions of an image that are drawn to learn from in a step.
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes in an image.

    Raises:
        ValueError: If an argument is not as above.

    Source: Ren et al. (arXiv 1506.01497) with the pyramid of Lin et al. (arXiv 1612.03144).
    """

    coarse: ClassVar[Coarse] = "pool"
    finest: ClassVar[Stride] = 4
    stages: ClassVar[int] = 2

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        anchor_scale: float = 8.0,
        proposals: int = 1000,
        regions: int = 512,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        super().__init__()
        check_thresholds(
            score_threshold,
            nms_threshold,
            proposals=proposals,
            regions=regions,
            max_detections=max_detections,
        )
        before = {"training": 2 * proposals, "testing": 2 * proposals}
        after = {"training": proposals, "testing": proposals}
        self.anchors = GridAnchors(strides, (anchor_scale,), RATIOS)
        self.rpn: Any = RegionProposalNetwork(
            self.anchors,
            RPNHead(channels, len(RATIOS)),
            0.7,
            0.3,
            256,
            0.5,
            before,
            after,
            0.7,
        )
        names = [str(i) for i in range(len(strides) - 1)]
        pool = MultiScaleRoIAlign(names, BINS, 2)
        # Deriving these from the images' size fails for small or narrow images.
        pool.scales = [1 / stride for stride in strides[:-1]]
        exponents = [int(math.log2(stride)) for stride in strides[:-1]]
        pool.map_levels = initLevelMapper(exponents[0], exponents[-1], 224, 4)
        hidden = HIDDEN * channels
        self.regions: Any = RoIHeads(
            pool,
            TwoMLPHead(channels * BINS**2, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            0.5,
            0.5,
            regions,
            0.25,
            None,
            score_threshold,
            nms_threshold,
            max_detections,
        )

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.forward``."""
        objectness, deltas = self.rpn.head(list(maps))
        return {"objectness": flatten_levels(objectness, 1), "deltas": flatten_levels(deltas, 4)}

    def _proposals(self, output: DetectorOutput, levels: list[Tensor]) -> list[Tensor]:
        batch = len(output.maps[0])
        anchors = [torch.cat(levels)] * batch
        deltas = output.dense["deltas"].detach()
        boxes = self.rpn.box_coder.decode(deltas.reshape(-1, 4), anchors).view(batch, -1, 4)
        found: list[Tensor] = self.rpn.filter_proposals(
            boxes, output.dense["objectness"], [output.shape] * batch, [len(x) for x in levels]
        )[0]
        return found

    def _classify(self, output: DetectorOutput, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        maps = {str(i): precise(x) for i, x in enumerate(output.maps)}
        features = self.regions.box_roi_pool(maps, proposals, [output.shape] * len(proposals))
        features = self.regions.box_head(features.to(output.maps[0].dtype))
        logits, deltas = self.regions.box_predictor(features)
        return precise(logits), precise(deltas)

    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.losses``."""
        levels = self.anchors(output.maps)
        anchors = [torch.cat(levels)] * len(targets)
        given = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in targets]
        labels, matched = self._assign(anchors[0], targets)
        objectness, rpn_boxes = self.rpn.compute_loss(
            output.dense["objectness"].reshape(-1, 1),
            output.dense["deltas"].reshape(-1, 4),
            labels,
            self.rpn.box_coder.encode(matched, anchors),
        )
        proposals = self._proposals(output, levels)
        proposals, _, labels, wanted = self.regions.select_training_samples(proposals, given)
        logits, deltas = self._classify(output, proposals)
        classes, boxes = fastrcnn_loss(logits, deltas, labels, wanted)
        return {
            "proposal_scores": objectness,
            "proposal_boxes": rpn_boxes,
            "classes": classes,
            "boxes": boxes,
        }

    @staticmethod
    def _assign(anchors: Tensor, targets: Sequence[Target]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the kind of each anchor and its box, of each image."""
        kinds, wanted = [], []
        for boxes, _ in targets:
            matched = match_anchors(boxes, anchors)
            kinds.append(anchor_kinds(matched))
            wanted.append(boxes[matched.clamp(min=0)] if len(boxes) else torch.zeros_like(anchors))
        return kinds, wanted

    def detect(self, output: DetectorOutput) -> list[Found]:
        """See ``rsvheat.models.box_detector.BoxHead.detect``."""
        proposals = self._proposals(output, self.anchors(output.maps))
        logits, deltas = self._classify(output, proposals)
        rows = self.regions.postprocess_detections(
            logits, deltas, proposals, [output.shape] * len(proposals)
        )
        found = [
            {"boxes": boxes, "scores": scores, "labels": labels - 1}
            for boxes, scores, labels in zip(*rows, strict=True)
        ]
        counts = [len(one) for one in proposals]
        total = torch.stack([part.sum() for part in torch.split(logits, counts)])
        return mark_not_finite(found, *output.dense.values(), total[:, None])

    def candidates(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.candidates``."""
        levels = self.anchors(output.maps)
        objectness = output.dense["objectness"][..., 0]
        counts = [len(level) for level in levels]
        rows, counts = best_of_levels(objectness, counts, self.rpn.pre_nms_top_n())
        deltas = take_rows(output.dense["deltas"], rows)
        boxes = self.rpn.box_coder.decode_single(
            deltas.flatten(0, 1), torch.cat(levels)[rows].flatten(0, 1)
        )
        boxes = clip_boxes_to_image(boxes.view(*rows.shape, 4), output.shape)
        filled = (boxes[..., 2:] - boxes[..., :2] >= self.rpn.min_size).all(2)
        scores = objectness.gather(1, rows).sigmoid().masked_fill(~filled, -torch.inf)
        most = self.rpn.post_nms_top_n()
        proposals = choose_proposals(boxes, boxes, scores, counts, self.rpn.nms_thresh, most)
        regions = proposals.regions
        features = self.regions.box_head(self._pool(output.maps, regions))
        logits, deltas = self.regions.box_predictor(features)
        boxes = self.regions.box_coder.decode_single(deltas, regions[:, 1:])
        shape = *proposals.valid.shape, logits.shape[1]
        boxes = clip_boxes_to_image(boxes.view(*shape, 4)[:, :, 1:], output.shape)
        logits = logits.view(shape)
        found = torch.where(proposals.valid[..., None], logits, 0.0)
        scores = logits.softmax(2)[..., 1:]
        return boxes, scores_of_valid(scores, proposals.valid, *output.dense.values(), found)

    def _pool(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Return the features of regions, as ``MultiScaleRoIAlign`` gives them for lists."""
        pool = self.regions.box_roi_pool
        level = pool.map_levels([regions[:, 1:]])
        features = regions.new_zeros(())
        for number, scale in enumerate(pool.scales):
            # Of every level for all regions: sizes that depend on values cannot be traced.
            part = roi_align(maps[number], regions, BINS, scale, 2)
            features = torch.where((level == number)[:, None, None, None], part, features)
        return features

    def selection(self, anchors: Sequence[int]) -> Selection:
        """See ``rsvheat.models.box_detector.BoxHead.selection``."""
        most = sum(min(self.rpn.pre_nms_top_n(), count) for count in anchors)
        count = min(self.rpn.post_nms_top_n(), most)
        classes = self.regions.box_predictor.cls_score.out_features - 1
        return Selection(
            levels=(count,),
            candidates=count * classes,
            score_threshold=self.regions.score_thresh,
            nms_threshold=self.regions.nms_thresh,
            max_detections=self.regions.detections_per_img,
            per_class=True,
        )


class _DenseHead(BoxHead):
    """Base of one-stage detectors, which are torchvision's without their images' transform."""

    coarse: ClassVar[Coarse] = "conv"
    finest: ClassVar[Stride] = 8

    def __init__(self, detector: Any, anchors: GridAnchors) -> None:
        super().__init__()
        del detector.transform
        self.anchors = anchors
        self.detector = detector

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.forward``."""
        return {name: precise(x) for name, x in self.detector.head(list(maps)).items()}

    def detect(self, output: DetectorOutput) -> list[Found]:
        """See ``rsvheat.models.box_detector.BoxHead.detect``."""
        levels = self.anchors(output.maps)
        batch, counts = len(output.maps[0]), [len(x) for x in levels]
        split = {name: list(torch.split(x, counts, 1)) for name, x in output.dense.items()}
        found = self.detector.postprocess_detections(
            split, [levels] * batch, [output.shape] * batch
        )
        # What lies beyond the image is clipped to nothing.
        filled = [
            (one["boxes"][:, 2:] - one["boxes"][:, :2] >= SMALLEST_SIDE).all(1) for one in found
        ]
        found = [
            {name: x[chosen] for name, x in one.items()}
            for one, chosen in zip(found, filled, strict=True)
        ]
        return mark_not_finite(found, *output.dense.values())

    def candidates(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.candidates``."""
        anchors = torch.cat(self.anchors(output.maps))
        boxes = self._decode(output.dense["bbox_regression"], anchors)
        return clip_boxes_to_image(boxes, output.shape), self._scores(output.dense)

    def selection(self, anchors: Sequence[int]) -> Selection:
        """See ``rsvheat.models.box_detector.BoxHead.selection``."""
        return Selection(
            levels=tuple(anchors),
            candidates=self.detector.topk_candidates,
            score_threshold=self.detector.score_thresh,
            nms_threshold=self.detector.nms_thresh,
            max_detections=self.detector.detections_per_img,
        )

    @abstractmethod
    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """Return boxes (B, anchors, 4) of what the layers predict, relative to anchors."""

    @abstractmethod
    def _scores(self, dense: Mapping[str, Tensor]) -> Tensor:
        """Return scores (B, anchors, classes)."""

    def _targets(self, targets: Sequence[Target]) -> list[dict[str, Tensor]]:
        return [one._asdict() for one in targets]


class AnchorHead(_DenseHead):
    """Dense anchors, of which most are background that the focal loss weighs little.

    Args:
        channels: Number of channels of the pyramid.
        num_classes: Number of classes.
        strides: Stride of each level.
        anchor_scale: Square root of the smallest anchors' areas in units of the level's stride; two
            more lie within the octave.
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes in an image.

    Raises:
        ValueError: If an argument is not as above.

    Source: Lin et al. (arXiv 1708.02002).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        anchor_scale: float = 4.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        check_thresholds(score_threshold, nms_threshold, max_detections=max_detections)
        sizes = [anchor_scale * 2 ** (i / 3) for i in range(3)]
        anchors = GridAnchors(strides, sizes, RATIOS)
        number = len(sizes) * len(RATIOS)
        detector = RetinaNet(
            _Backbone(channels),
            num_classes,
            anchor_generator=anchors,
            # Without norms, torchvision's small weights would damp few channels to nothing.
            head=RetinaNetHead(channels, number, num_classes, norm_layer=_norm),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        super().__init__(detector, anchors)

    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.losses``."""
        anchors = [torch.cat(self.anchors(output.maps))] * len(targets)
        losses = self.detector.compute_loss(self._targets(targets), output.dense, anchors)
        return {"classes": losses["classification"], "boxes": losses["bbox_regression"]}

    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        batch = codes.shape[0]
        boxes: Tensor = self.detector.box_coder.decode_single(
            codes.reshape(-1, 4), anchors.repeat(batch, 1)
        )
        return boxes.view(batch, -1, 4)

    def _scores(self, dense: Mapping[str, Tensor]) -> Tensor:
        return dense["cls_logits"].sigmoid()


class PointHead(_DenseHead):
    """Distances to a box's sides at every element within it, without anchors.

    Args:
        channels: Number of channels of the pyramid.
        num_classes: Number of classes.
        strides: Stride of each level.
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes in an image.

    Raises:
        ValueError: If an argument is not as above.

    Source: Tian et al. (arXiv 1904.01355).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        max_detections: int = 300,
    ) -> None:
        check_thresholds(score_threshold, nms_threshold, max_detections=max_detections)
        anchors = GridAnchors(strides, (1.0,), (1.0,))
        head = FCOSHead(32, 1, num_classes)
        # FCOSHead itself has norms of 32 groups, and so takes no other multiples.
        head.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, norm_layer=_norm
        )
        head.regression_head = FCOSRegressionHead(channels, 1, norm_layer=_norm)
        detector = FCOS(
            _Backbone(channels),
            num_classes,
            anchor_generator=anchors,
            head=head,
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        super().__init__(detector, anchors)

    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.losses``."""
        levels = self.anchors(output.maps)
        anchors, counts = [torch.cat(levels)] * len(targets), [len(x) for x in levels]
        losses = self.detector.compute_loss(self._targets(targets), output.dense, anchors, counts)
        return {
            "classes": losses["classification"],
            "boxes": losses["bbox_regression"],
            "centerness": losses["bbox_ctrness"],
        }

    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.detector.box_coder.decode(codes, anchors.expand_as(codes))
        return boxes

    def _scores(self, dense: Mapping[str, Tensor]) -> Tensor:
        return (dense["cls_logits"].sigmoid() * dense["bbox_ctrness"].sigmoid()).sqrt()


class _Backbone(nn.Module):
    """Number of channels, which is all that torchvision's detectors need of a backbone here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
