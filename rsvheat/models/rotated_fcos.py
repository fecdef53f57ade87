# SPDX-License-Identifier: Apache-2.0
"""Rotated FCOS behind the feature pyramid: one stage, without anchors and without RoIAlign."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import sigmoid_focal_loss

from rsvheat.models.box_detector import (
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
from rsvheat.models.oriented_coding import (
    MOST_GROWTH,
    AngleCoding,
    BoxLoss,
    angle_numbers,
    check_box_loss,
    decode_angle,
    decode_distances,
    encode_angle,
    encode_distances,
    overlap_loss,
)
from rsvheat.models.oriented_rcnn import select_boxes
from rsvheat.postprocess import Selection

# Points of a box are those within so many strides of its center.
_RADIUS = 1.5
# The farthest side of a box is up to so many strides of its level away, and half as many at least.
_REACH = 8
# Boxes of an image that are compared with all points at once: bounds the memory.
_CHUNK = 64
# Boxes of a level before non-maximum suppression.
_CANDIDATES = 2000


class RotatedFCOSHead(BoxHead):
    """Distances to a box's sides in its own frame, and its angle, at every element within it.

    Args:
        channels: Number of channels of the pyramid.
        num_classes: Number of classes.
        strides: Stride of each level.
        box_loss: Loss of the boxes: of their overlap ``"iou"``, exact, or as Gaussian
            distributions, ``"kld"`` or ``"probiou"``; or ``"smooth_l1"`` of their codes.
        angle_coding: Numbers that stand for the angle: ``"direct"``, the angle itself, or
            ``"vector"``, cosine and sine of its double, which have no jump.
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes in an image.

    Raises:
        ValueError: If an argument is not as above.

    Source: Tian et al. (arXiv 1904.01355); Rotated FCOS of mmrotate.
    """

    coarse: ClassVar[Coarse] = "conv"
    finest: ClassVar[Stride] = 8

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        box_loss: BoxLoss = "iou",
        angle_coding: AngleCoding = "vector",
        score_threshold: float = 0.05,
        nms_threshold: float = 0.1,
        max_detections: int = 2000,
    ) -> None:
        super().__init__()
        check_thresholds(score_threshold, nms_threshold, max_detections=max_detections)
        check_box_loss(box_loss)
        numbers = angle_numbers(angle_coding)
        self.num_classes, self.box_loss, self.angle_coding = num_classes, box_loss, angle_coding
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.anchors = GridAnchors(strides, (1.0,), (1.0,))
        norm = partial(build_norm, "group")
        self.classes: Any = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
        self.sides: Any = FCOSRegressionHead(channels, 1, norm_layer=norm)
        self.angle = nn.Conv2d(channels, numbers, 3, padding=1)
        nn.init.normal_(self.angle.weight, std=0.01)
        # A vector of length 1: the derivative of its angle has the inverse length.
        self.angle.bias = nn.Parameter(torch.tensor([1.0, 0.0] if numbers == 2 else [0.0]))
        self.scales = nn.Parameter(torch.ones(len(strides)))

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.forward``."""
        shared = [self.sides.conv(x) for x in maps]
        sides = [
            self.sides.bbox_reg(x) * scale for x, scale in zip(shared, self.scales, strict=True)
        ]
        return {
            "logits": precise(self.classes(list(maps))),
            "sides": flatten_levels(sides, 4),
            "angle": flatten_levels([self.angle(x) for x in shared], self.angle.out_channels),
            "centerness": flatten_levels([self.sides.bbox_ctrness(x) for x in shared], 1),
        }

    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.losses``."""
        points, strides, lowest, highest = self._points(output.maps)
        logits = output.dense["logits"]
        wanted_logits = torch.zeros_like(logits)
        images, rows, true = [], [], []
        for number, (boxes, labels) in enumerate(targets):
            matched = _assign(points, strides, lowest, highest, boxes)
            chosen = (matched >= 0).nonzero().flatten()
            wanted_logits[number, chosen, labels[matched[chosen]]] = 1.0
            images.append(torch.full_like(chosen, number))
            rows.append(chosen)
            true.append(boxes[matched[chosen]])
        image, row = torch.cat(images), torch.cat(rows)
        wanted = torch.cat(true)
        count = max(len(row), 1)
        distances, _angle = encode_distances(points[row], wanted)
        centerness = _centerness(distances)
        boxes_loss = self._box_losses(output, image, row, points, strides, wanted)
        return {
            "classes": sigmoid_focal_loss(logits, wanted_logits, reduction="sum") / count,
            "boxes": (boxes_loss * centerness).sum() / centerness.sum().clamp(min=1e-6),
            "centerness": binary_cross_entropy_with_logits(
                output.dense["centerness"][image, row, 0], centerness, reduction="sum"
            )
            / count,
        }

    def _box_losses(
        self,
        output: DetectorOutput,
        image: Tensor,
        row: Tensor,
        points: Tensor,
        strides: Tensor,
        wanted: Tensor,
    ) -> Tensor:
        """Return the loss of the box at each of the chosen points."""
        sides, codes = output.dense["sides"][image, row], output.dense["angle"][image, row]
        if self.box_loss != "smooth_l1":
            boxes = self._decode(points[row], strides[row], sides, codes)
            return overlap_loss(boxes, wanted, self.box_loss)
        distances, angle = encode_distances(points[row], wanted)
        wanted_sides = (distances / strides[row, None]).log()
        wanted_codes = encode_angle(angle, self.angle_coding)
        return smooth_l1_loss(
            torch.cat((sides, codes), 1),
            torch.cat((wanted_sides, wanted_codes), 1),
            beta=1 / 9,
            reduction="none",
        ).sum(1)

    def _decode(self, points: Tensor, strides: Tensor, sides: Tensor, codes: Tensor) -> Tensor:
        distances = sides.clamp(max=MOST_GROWTH).exp() * strides[:, None]
        return decode_distances(points, distances, decode_angle(codes, self.angle_coding))

    def _points(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return all points, the strides of their levels, and the range of distances of these."""
        levels = self.anchors(maps)
        points = torch.cat([(x[:, :2] + x[:, 2:]) / 2 for x in levels])
        reach = [_REACH * float(stride) for stride in self.anchors.strides]
        rows = [
            points.new_tensor(values).expand(len(level), 3)
            for level, *values in zip(
                levels,
                self.anchors.strides,
                [0.0, *reach[:-1]],
                [*reach[:-1], torch.inf],
                strict=True,
            )
        ]
        strides, lowest, highest = torch.cat(rows).unbind(1)
        return points, strides, lowest, highest

    def candidates(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """See ``rsvheat.models.box_detector.BoxHead.candidates``."""
        points, strides, _, _ = self._points(output.maps)
        sides, codes = output.dense["sides"], output.dense["angle"]
        batch = sides.shape[0]
        boxes = self._decode(
            points.repeat(batch, 1), strides.repeat(batch), sides.flatten(0, 1), codes.flatten(0, 1)
        ).view(batch, -1, 5)
        logits, centerness = output.dense["logits"], output.dense["centerness"]
        return boxes, (logits.sigmoid() * centerness.sigmoid()).sqrt()

    def selection(self, anchors: Sequence[int]) -> Selection:
        """See ``rsvheat.models.box_detector.BoxHead.selection``."""
        return Selection(
            levels=tuple(anchors),
            candidates=_CANDIDATES,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    def detect(self, output: DetectorOutput) -> list[Found]:
        """See ``rsvheat.models.box_detector.BoxHead.detect``."""
        points, strides, _, _ = self._points(output.maps)
        counts = [x.shape[2] * x.shape[3] for x in output.maps]
        found = []
        for logits, sides, codes, centerness in zip(*output.dense.values(), strict=True):
            scores = (logits.sigmoid() * centerness.sigmoid()).sqrt()
            boxes, kept, labels = [], [], []
            begin = 0
            for part in scores.split(counts):
                values = part.flatten()
                best, places = values.topk(min(_CANDIDATES, len(values)))
                places = places[best > self.score_threshold]
                rows = begin + places.div(self.num_classes, rounding_mode="floor")
                boxes.append(self._decode(points[rows], strides[rows], sides[rows], codes[rows]))
                kept.append(values[places])
                labels.append(places % self.num_classes)
                begin += len(part)
            found.append(
                select_boxes(
                    torch.cat(boxes),
                    torch.cat(kept),
                    torch.cat(labels),
                    self.nms_threshold,
                    self.max_detections,
                )
            )
        return mark_not_finite(found, *output.dense.values())


def _assign(
    points: Tensor, strides: Tensor, lowest: Tensor, highest: Tensor, boxes: Tensor
) -> Tensor:
    """Return the smallest box that each point is to predict, -1 for none.

    Args:
        points: Points, (P, 2).
        strides: Stride of each point's level, (P,).
        lowest: Distance to the farthest side from which a point's level has boxes, (P,).
        highest: Distance up to which it has them, (P,).
        boxes: Boxes, (N, 5).
    """
    matched = torch.full(points.shape[:1], -1, dtype=torch.int64, device=points.device)
    smallest = points.new_full(points.shape[:1], torch.inf)
    for begin in range(0, len(boxes), _CHUNK):
        part = boxes[begin : begin + _CHUNK]
        distances, _ = encode_distances(points[:, None], part[None])
        inside = distances.amin(2) > 0
        shift = (distances[..., :2] - distances[..., 2:]).abs().amax(2) / 2
        inside &= shift < _RADIUS * strides[:, None]
        farthest = distances.amax(2)
        inside &= (farthest > lowest[:, None]) & (farthest <= highest[:, None])
        areas = (part[:, 2] * part[:, 3]).expand_as(farthest).masked_fill(~inside, torch.inf)
        area, number = areas.min(1)
        better = area < smallest
        matched = torch.where(better, begin + number, matched)
        smallest = torch.where(better, area, smallest)
    return matched


def _centerness(distances: Tensor) -> Tensor:
    """Return how close to the center a point is, (N,), from its distances to the sides (N, 4)."""
    before, after = distances[:, :2], distances[:, 2:]
    ratio = torch.minimum(before, after) / torch.maximum(before, after)
    return ratio.clamp(min=0).prod(1).sqrt()
