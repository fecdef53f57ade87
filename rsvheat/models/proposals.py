# SPDX-License-Identifier: Apache-2.0
"""Proposals of detectors of two stages as tensors of one shape, for programs that are traced.

Suppression leaves another number of proposals in each image. Here every image has the same number
of rows, and a mask says which of them hold a proposal.
"""

from collections.abc import Sequence
from typing import NamedTuple

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
    for part in scores.split(list(counts), 1):
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
