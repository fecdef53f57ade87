# SPDX-License-Identifier: Apache-2.0
"""Oriented R-CNN behind the feature pyramid: oriented proposals, and layers on each of them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    smooth_l1_loss,
)
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms

from rsvheat.models.anchor_matching import ClassBalancedSampler, anchor_kinds, match_anchors
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
from rsvheat.models.detection_pyramid import (
    Coarse,
    GridAnchors,
    Stride,
    flatten_levels,
    precise,
)
from rsvheat.models.oriented_coding import (
    BoxLoss,
    check_box_loss,
    decode_midpoints,
    decode_relative,
    encode_midpoints,
    encode_relative,
    longer_side_first,
    overlap_loss,
)
from rsvheat.models.proposals import (
    align_rotated,
    best_of_levels,
    choose_proposals,
    scores_of_valid,
    take_rows,
)
from rsvheat.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    boxes_to_bounds,
    roi_align_rotated,
)
from rsvheat.postprocess import Selection

# Overlap of the horizontal boxes around proposals from which one of two goes.
_PROPOSAL_NMS = 0.8
# Overlap with an annotated box from which on a region is of its class.
_REGION_OVERLAP = 0.5
# Side of a region, in strides of the level that it is taken from: 14 to 28, one level finer than
# the canonical 224 pixels at stride 16.
_REGION_SIDE = 14


class OrientedRCNNHead(BoxHead):
    """Oriented proposals, and the layers that classify and refine them.

    Args:
        channels: Number of channels of the pyramid.
        num_classes: Number of classes.
        strides: Stride of each level.
        anchor_scale: Square root of the anchors' areas in units of the level's stride.
        proposals: Largest number of regions of an image that are classified.
        regions: Number of regions of an image that are drawn to learn from in a step.
        balanced: Whether anchors and regions of objects are drawn so that each class of an image is
            as likely, instead of each anchor and region.
        box_loss: Loss of the refined boxes: ``"smooth_l1"`` of their codes, or of their overlap
            ``"iou"``, exact, or as Gaussian distributions, ``"kld"`` or ``"probiou"``.
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes in an image.

    Raises:
        ValueError: If an argument is not as above.

    Source: Xie et al. (arXiv 2108.05699), with the numbers of MTP's settings (arXiv 2403.13430).
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
        proposals: int = 2000,
        regions: int = 512,
        balanced: bool = False,
        box_loss: BoxLoss = "smooth_l1",
        score_threshold: float = 0.05,
        nms_threshold: float = 0.1,
        max_detections: int = 2000,
    ) -> None:
        super().__init__()
        check_thresholds(
            score_threshold,
            nms_threshold,
            proposals=proposals,
            regions=regions,
            max_detections=max_detections,
        )
        check_box_loss(box_loss)
        self.strides, self.proposals, self.box_loss = list(strides[:-1]), proposals, box_loss
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.anchors = GridAnchors(strides, (anchor_scale,), RATIOS)
        self.dense: Any = RPNHead(channels, len(RATIOS))
        self.dense.bbox_pred = nn.Conv2d(channels, 6 * len(RATIOS), 1)
        hidden = HIDDEN * channels
        self.layers = TwoMLPHead(channels * BINS**2, hidden)
        self.classes = nn.Linear(hidden, num_classes + 1)
        self.boxes = nn.Linear(hidden, 5)
        for layer, deviation in (
            (self.dense.bbox_pred, 0.01),
            (self.classes, 0.01),
            (self.boxes, 0.001),
        ):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        sampler: Any = ClassBalancedSampler if balanced else BalancedPositiveNegativeSampler
        self._sample_anchors = sampler(256, 0.5)
        self._sample_regions = sampler(regions, 0.25)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.forward``."""
        objectness, codes = self.dense(list(maps))
        return {"objectness": flatten_levels(objectness, 1), "codes": flatten_levels(codes, 6)}

    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.losses``."""
        levels = self.anchors(output.maps)
        proposals = self._propose(output, levels)
        classes, boxes = self._region_losses(output, proposals, targets)
        scores, codes = self._proposal_losses(output, torch.cat(levels), targets)
        return {
            "proposal_scores": scores,
            "proposal_boxes": codes,
            "classes": classes,
            "boxes": boxes,
        }

    def _proposal_losses(
        self, output: DetectorOutput, anchors: Tensor, targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        scores, wanted_scores, codes, wanted_codes = [], [], [], []
        for row, (boxes, labels) in enumerate(targets):
            matched = match_anchors(boxes_to_bounds(boxes), anchors)
            kinds = anchor_kinds(matched)
            classes = kinds.long()
            classes[matched >= 0] += labels[matched[matched >= 0]]
            positive, negative = (part[0].bool() for part in self._sample_anchors([classes]))
            chosen = (positive | negative).nonzero().flatten()
            scores.append(output.dense["objectness"][row, chosen, 0])
            wanted_scores.append(kinds[chosen])
            rows = positive.nonzero().flatten()
            codes.append(output.dense["codes"][row, rows])
            wanted_codes.append(encode_midpoints(anchors[rows], boxes[matched[rows]]))
        count = max(sum(map(len, scores)), 1)
        return (
            binary_cross_entropy_with_logits(
                torch.cat(scores), torch.cat(wanted_scores), reduction="sum"
            )
            / count,
            smooth_l1_loss(torch.cat(codes), torch.cat(wanted_codes), beta=1 / 9, reduction="sum")
            / count,
        )

    @torch.no_grad()
    def _propose(self, output: DetectorOutput, levels: list[Tensor]) -> list[Tensor]:
        """Return oriented proposals of each image, by decreasing score."""
        anchors, counts = torch.cat(levels), [len(x) for x in levels]
        found = []
        for objectness, codes in zip(
            output.dense["objectness"][..., 0], output.dense["codes"], strict=True
        ):
            boxes, scores, numbers = [], [], []
            begin = 0
            for number, part in enumerate(objectness.split(counts)):
                best, rows = part.topk(min(self.proposals, len(part)))
                rows = rows + begin
                boxes.append(decode_midpoints(anchors[rows], codes[rows]))
                scores.append(best)
                numbers.append(torch.full_like(rows, number))
                begin += len(part)
            all_boxes, all_scores, level = (torch.cat(x) for x in (boxes, scores, numbers))
            good = all_boxes.isfinite().all(1) & (all_boxes[:, 2:4] >= SMALLEST_SIDE).all(1)
            all_boxes, all_scores, level = all_boxes[good], all_scores[good], level[good]
            kept = batched_nms(boxes_to_bounds(all_boxes), all_scores, level, _PROPOSAL_NMS)
            found.append(all_boxes[kept[: self.proposals]])
        return found

    def _region_losses(
        self, output: DetectorOutput, proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        regions, all_labels, wanted = [], [], []
        for boxes, (true_boxes, true_labels) in zip(proposals, targets, strict=True):
            # As proposals are: regions are resampled along the width.
            true_boxes = longer_side_first(true_boxes)
            boxes = torch.cat((boxes, true_boxes))
            labels, matched = _label_regions(boxes, true_boxes, true_labels)
            positive, negative = (part[0].bool() for part in self._sample_regions([labels]))
            chosen = (positive | negative).nonzero().flatten()
            regions.append(boxes[chosen])
            all_labels.append(labels[chosen])
            wanted.append(true_boxes[matched[chosen][labels[chosen] > 0]])
        logits, codes = self._classify(output, regions)
        labels = torch.cat(all_labels)
        count = max(len(labels), 1)
        rows = (labels > 0).nonzero().flatten()
        references, codes = torch.cat(regions)[rows], codes[rows]
        true = torch.cat(wanted)
        if self.box_loss == "smooth_l1":
            boxes_loss = smooth_l1_loss(codes, encode_relative(references, true), reduction="sum")
        else:
            boxes_loss = overlap_loss(decode_relative(references, codes), true, self.box_loss).sum()
        return cross_entropy(logits, labels, reduction="sum") / count, boxes_loss / count

    def _classify(self, output: DetectorOutput, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and codes of the regions of each image, one row each."""
        boxes = torch.cat(list(regions))
        numbers = torch.cat([x.new_full((len(x), 1), i) for i, x in enumerate(regions)])
        level = self._levels(boxes)
        rows, parts = [], []
        for i, stride in enumerate(self.strides):
            chosen = (level == i).nonzero().flatten()
            rois = torch.cat((numbers, boxes), 1)[chosen]
            rows.append(chosen)
            parts.append(roi_align_rotated(precise(output.maps[i]), rois, BINS, 1 / stride, 2))
        order = torch.cat(rows).argsort()
        return self._refine(torch.cat(parts)[order].to(output.maps[0].dtype))

    def _levels(self, boxes: Tensor) -> Tensor:
        """Return the number of the level that each box's features are taken from."""
        sides = (boxes[:, 2] * boxes[:, 3]).sqrt()
        level = (sides / (_REGION_SIDE * self.strides[0])).log2().floor()
        return level.clamp(0, len(self.strides) - 1).long()

    def _refine(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and codes of regions' features."""
        features = self.layers(features)
        return precise(self.classes(features)), precise(self.boxes(features))

    def detect(self, output: DetectorOutput) -> list[Found]:
        """See ``rsvheat.models.box_detector.BoxHead.detect``."""
        proposals = self._propose(output, self.anchors(output.maps))
        logits, codes = self._classify(output, proposals)
        counts = [len(x) for x in proposals]
        found, finite = [], []
        for boxes, one_logits, one_codes in zip(
            proposals, torch.split(logits, counts), torch.split(codes, counts), strict=True
        ):
            finite.append(one_logits.sum() + one_codes.sum())
            scores = one_logits.softmax(1)[:, 1:]
            rows, labels = (scores > self.score_threshold).nonzero(as_tuple=True)
            decoded = decode_relative(boxes, one_codes)
            found.append(
                select_boxes(
                    decoded[rows],
                    scores[rows, labels],
                    labels,
                    self.nms_threshold,
                    self.max_detections,
                )
            )
        return mark_not_finite(found, *output.dense.values(), torch.stack(finite)[:, None])

    def candidates(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.candidates``."""
        levels = self.anchors(output.maps)
        objectness = output.dense["objectness"][..., 0]
        counts = [len(level) for level in levels]
        rows, counts = best_of_levels(objectness, counts, self.proposals)
        boxes = decode_midpoints(
            torch.cat(levels)[rows].flatten(0, 1),
            take_rows(output.dense["codes"], rows).flatten(0, 1),
        ).view(*rows.shape, 5)
        good = boxes.isfinite().all(2) & (boxes[..., 2:4] >= SMALLEST_SIDE).all(2)
        scores = objectness.gather(1, rows).masked_fill(~good, -torch.inf)
        bounds = boxes_to_bounds(boxes)
        proposals = choose_proposals(boxes, bounds, scores, counts, _PROPOSAL_NMS, self.proposals)
        regions = proposals.regions
        maps = output.maps[: len(self.strides)]
        level = self._levels(regions[:, 1:])
        logits, codes = self._refine(align_rotated(maps, self.strides, regions, level, BINS, 2))
        boxes = decode_relative(regions[:, 1:], codes).view(*proposals.valid.shape, 5)
        found = [
            torch.where(proposals.valid[..., None], x.view(*proposals.valid.shape, -1), 0.0)
            for x in (logits, codes)
        ]
        scores = found[0].softmax(2)[..., 1:]
        return boxes, scores_of_valid(scores, proposals.valid, *output.dense.values(), *found)

    def selection(self, anchors: Sequence[int]) -> Selection:
        """See ``rsvheat.models.box_detector.BoxHead.selection``."""
        count = min(self.proposals, sum(min(self.proposals, n) for n in anchors))
        return Selection(
            levels=(count,),
            candidates=count * (self.classes.out_features - 1),
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


def _label_regions(regions: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class of each region, from 1, 0 for background, and the number of its box.

    Args:
        regions: Regions, (R, 5).
        boxes: Annotated boxes, (N, 5); N may be 0.
        labels: Their classes, (N,), from 0.
    """
    if len(boxes) == 0:
        none = torch.zeros(len(regions), dtype=torch.int64, device=regions.device)
        return none, none
    overlap, matched = box_iou_rotated(boxes, regions).max(0)
    return torch.where(overlap >= _REGION_OVERLAP, labels[matched] + 1, 0), matched


def select_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms_threshold: float, most: int
) -> Found:
    """Return the boxes that stay after rotated non-maximum suppression in each class.

    Boxes that are not finite are dropped; callers mark their images.

    Args:
        boxes: Boxes, (N, 5).
        scores: Scores, (N,).
        labels: Numbers of the classes, (N,).
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        most: Largest number of boxes.
    """
    good = boxes.isfinite().all(1)
    boxes, scores, labels = boxes[good], scores[good], labels[good]
    kept = batched_nms_rotated(boxes, scores, labels, nms_threshold)[:most]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
