# SPDX-License-Identifier: Apache-2.0
"""Proposals of detectors of two stages as tensors of one shape, for programs that are traced.

Suppression leaves another number of proposals in each image. Here every image has the same number
of rows, and a mask says which of them hold a proposal.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms


class Proposals(NamedTuple):
    """Proposals of a batch by decreasing score.

    Attributes:
        boxes: Boxes, (B, P, 4) or (B, P, 5), zeros in rows without a proposal.
        valid: Rows that hold a proposal, bool (B, P).
    """

    boxes: Tensor
    valid: Tensor

    @property
    def regions(self) -> Tensor:
        """Number of the image and box of each row, (B * P, 5) or (B * P, 6)."""
        batch, count, _ = self.boxes.shape
        images = torch.arange(batch, dtype=self.boxes.dtype, device=self.boxes.device)
        numbers = images[:, None, None].expand(batch, count, 1)
        return torch.cat((numbers, self.boxes), 2).flatten(0, 1)


@torch.library.custom_op("rsvheat_models::suppress_levels", mutates_args=())
def suppress_levels(
    boxes: Tensor, scores: Tensor, counts: Sequence[int], iou_threshold: float
) -> Tensor:
    """Return which boxes stay after non-maximum suppression in each level of each image.

    An operator of its own, as its steps have results whose sizes depend on values:
    ``rsvheat.export`` writes it as ONNX's NonMaxSuppression.

    Args:
        boxes: Horizontal boxes of all levels, (B, N, 4) XYXY.
        scores: Scores, (B, N); boxes with minus infinity or NaN do not stay.
        counts: Number of boxes of each level, N in all.
        iou_threshold: Largest overlap of two boxes of a level that both stay.

    Returns:
        Mask, bool (B, N).
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        begin = 0
        for count in counts:
            rows = (scores[image, begin : begin + count] > -torch.inf).nonzero().flatten() + begin
            kept[image, rows[nms(boxes[image, rows], scores[image, rows], iou_threshold)]] = True
            begin += count
    return kept


@suppress_levels.register_fake
def _(boxes: Tensor, scores: Tensor, counts: Sequence[int], iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def best_of_levels(scores: Tensor, counts: Sequence[int], most: int) -> tuple[Tensor, list[int]]:
    """Return the rows of the highest scores of each level.

    Args:
        scores: Scores of all levels, (B, N).
        counts: Number of scores of each level, N in all.
        most: Largest number of rows of a level.

    Returns:
        Rows of ``scores`` (B, M), and their number in each level.
    """
    rows, begin = [], 0
    for part in torch.split(scores, list(counts), 1):
        rows.append(part.topk(min(most, part.shape[1]), 1).indices + begin)
        begin += part.shape[1]
    return torch.cat(rows, 1), [min(most, count) for count in counts]


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return rows (B, M, numbers) of values (B, N, numbers).

    Args:
        values: Values.
        rows: Rows that are taken of each image, (B, M).
    """
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def choose_proposals(
    boxes: Tensor,
    bounds: Tensor,
    scores: Tensor,
    counts: Sequence[int],
    iou_threshold: float,
    most: int,
) -> Proposals:
    """Return the proposals of the highest scores after suppression in each level.

    Args:
        boxes: Boxes of all levels, (B, N, 4) or (B, N, 5).
        bounds: Horizontal boxes around them, (B, N, 4) XYXY, whose overlap counts.
        scores: Scores, (B, N); minus infinity for boxes that are no proposals.
        counts: Number of boxes of each level, N in all.
        iou_threshold: Largest overlap of two boxes of a level that both stay.
        most: Largest number of proposals of an image.
    """
    kept = suppress_levels(bounds, scores, counts, iou_threshold)
    best, rows = scores.masked_fill(~kept, -torch.inf).topk(min(most, sum(counts)), 1)
    valid = best > -torch.inf
    return Proposals(torch.where(valid[..., None], take_rows(boxes, rows), 0.0), valid)


def scores_of_valid(scores: Tensor, valid: Tensor, *values: Tensor) -> Tensor:
    """Return scores (B, P, classes) that are 0 in rows without a proposal.

    All scores of an image are NaN if one of its values is not finite.

    Args:
        scores: Scores of the classes, (B, P, classes).
        valid: Rows that hold a proposal, bool (B, P).
        *values: Values of the network, (B, ...).
    """
    # 0 for finite values and NaN for others; a sum of the values themselves could overflow.
    nothing = [(x * 0).flatten(1).sum(1) for x in values]
    return scores.masked_fill(~valid[..., None], 0.0) + torch.stack(nothing).sum(0)[:, None, None]


def align_rotated(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    regions: Tensor,
    level: Tensor,
    bins: int,
    ratio: int,
) -> Tensor:
    """Return the features of rotated regions, each resampled from the map of its level.

    The result is that of ``rsvheat.ops.roi_align_rotated`` for each level. Here all levels are one
    table, from which rows are gathered: no step has a result whose size depends on values, and ONNX
    has an operator for each.

    Args:
        maps: Levels of the feature pyramid, (B, C, h, w).
        strides: Stride of each level.
        regions: Numbers of images and boxes, (K, 6).
        level: Number of the level of each region, int64 (K,).
        bins: Bins along each side.
        ratio: Points of a bin along each side.

    Returns:
        Features, (K, C, bins, bins).
    """
    channels = maps[0].shape[1]
    table = torch.cat([x.flatten(2) for x in maps], 2)
    elements = table.shape[2]
    table = table.transpose(1, 2).reshape(-1, channels)
    sizes = [(x.shape[2], x.shape[3]) for x in maps]
    begins = [0, *accumulate(height * width for height, width in sizes)]
    facts = [
        (height, width, begin, 1 / stride)
        for (height, width), begin, stride in zip(sizes, begins[:-1], strides, strict=True)
    ]
    # Positions in float32 would be off by 1e-5 pixels.
    exact: Any = {"dtype": torch.float64, "device": regions.device}
    chosen = torch.tensor(facts, **exact).index_select(0, level)[:, :, None, None]
    height, width, begin, scale = chosen.unbind(1)
    image, x, y, w, h, angle = regions.double()[:, :, None, None].unbind(1)
    radians = angle * (math.pi / 180)
    sin, cos = radians.sin(), (radians + math.pi / 2).sin()
    count = bins * ratio
    steps = (torch.arange(count, **exact) + 0.5) / count - 0.5
    across, down = scale * w * steps, scale * h * steps[:, None]
    at_x = scale * x - 0.5 + across * cos + down * sin
    at_y = scale * y - 0.5 - across * sin + down * cos
    inside = (at_y >= -1) & (at_y <= height) & (at_x >= -1) & (at_x <= width)
    share = inside.double() / ratio**2
    first = image * elements + begin
    corners = []
    for at, most in ((at_y, height - 1), (at_x, width - 1)):
        at = torch.minimum(torch.where(inside, at, 0.0).clamp(min=0), most)
        low = at.floor()
        corners.append(((low, 1 - at + low), (torch.minimum(low + 1, most), at - low)))

    def points(values: Tensor) -> Tensor:
        """Return values (K, count, count) as (ratio ** 2, K * bins ** 2)."""
        parts = torch.unflatten(torch.unflatten(values, 2, (bins, ratio)), 1, (bins, ratio))
        return parts.permute(2, 4, 0, 1, 3).reshape(ratio**2, -1)

    total = torch.zeros_like(table[:1])
    for row, row_share in corners[0]:
        for column, column_share in corners[1]:
            rows = points(first + row * width + column).long()
            weights = points(share * row_share * column_share).to(table.dtype)
            # Point by point: all at once would be large.
            for point in range(ratio**2):
                total = total + table.index_select(0, rows[point]) * weights[point][:, None]
    return torch.unflatten(total.view(-1, bins**2, channels).transpose(1, 2), 2, (bins, bins))
