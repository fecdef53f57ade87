# SPDX-License-Identifier: Apache-2.0
"""Match of anchors and annotated boxes, for region proposal networks."""

import torch
from torch import Tensor
from torchvision.ops import box_iou

# Anchors of background, and those that are neither.
BACKGROUND, BETWEEN = -1, -2
# Overlaps from which on an anchor is of a box, and below which it is background.
_HIGH, _LOW = 0.7, 0.3
# Pairs of box and anchor at a time: few enough to stay in the cache of a CPU.
_PAIRS, _PAIRS_OF_GPU = 1 << 19, 1 << 25


def match_anchors(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the number of the box that each anchor is to predict.

    It is that with the largest overlap if this is at least 0.7, or if no anchor overlaps some box
    more. The result is that of torchvision's ``Matcher``; here a part of the boxes is compared at a
    time: of 1,000 boxes and the 262,000 anchors of a window of 1024 pixels the overlaps alone would
    take 1 GB.

    Args:
        boxes: Annotated boxes, (N, 4) XYXY; N may be 0.
        anchors: Anchors, (A, 4) XYXY.

    Returns:
        Numbers, int64 (A,): ``BACKGROUND`` for overlaps below 0.3, ``BETWEEN`` for others that are
        of no box.

    Source: Ren et al. (arXiv 1506.01497), section 3.1.2.
    """
    best = anchors.new_zeros(len(anchors))
    number = torch.zeros_like(best, dtype=torch.int64)
    wanted = torch.zeros_like(best, dtype=torch.bool)
    pairs = _PAIRS_OF_GPU if anchors.is_cuda else _PAIRS
    step = max(1, pairs // max(len(anchors), 1))
    for begin in range(0, len(boxes), step):
        overlaps = box_iou(boxes[begin : begin + step], anchors)
        value, row = overlaps.max(0)
        better = value > best
        best = torch.where(better, value, best)
        number = torch.where(better, begin + row, number)
        most = overlaps.amax(1, keepdim=True)
        # A box that no anchor overlaps is of none: its largest overlap is that of all of them.
        wanted |= ((overlaps == most) & (most > 0)).any(0)
    others = torch.where(best < _LOW, BACKGROUND, BETWEEN)
    return torch.where(wanted | (best >= _HIGH), number, others)


def anchor_kinds(matched: Tensor) -> Tensor:
    """Return 1 for anchors of a box, 0 for background and -1 for others, float32 (A,).

    Args:
        matched: Result of ``match_anchors``.
    """
    return torch.where(matched >= 0, 1.0, torch.where(matched == BACKGROUND, 0.0, -1.0))
