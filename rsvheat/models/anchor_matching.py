# SPDX-License-Identifier: Apache-2.0
"""Match of anchors and annotated boxes, and draws from those matched, to learn from."""

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


class ClassBalancedSampler:
    """Draws anchors or regions so that each class is as likely; called as torchvision's sampler.

    In an image of 500 ships and 5 piers, few of the anchors drawn from all would be of piers.

    Args:
        batch_size_per_image: Number of draws of an image.
        positive_fraction: Largest share of objects among them.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.count, self.share = batch_size_per_image, positive_fraction

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return masks of the objects and of the background that were drawn, of each image.

        Args:
            matched_idxs: Classes of an image's rows, int64 (N,): from 1 on of objects, 0 of
                background, below 0 of those that are not drawn.
        """
        positives, negatives = [], []
        for classes in matched_idxs:
            objects = (classes > 0).nonzero().flatten()
            kinds = classes[objects]
            chances = 1 / torch.bincount(kinds)[kinds].double()
            drawn = min(int(self.count * self.share), len(objects))
            positive = torch.zeros_like(classes, dtype=torch.bool)
            if drawn:
                positive[objects[chances.multinomial(drawn)]] = True
            background = (classes == 0).nonzero().flatten()
            order = torch.randperm(len(background), device=classes.device)
            negative = torch.zeros_like(positive)
            negative[background[order[: self.count - drawn]]] = True
            positives.append(positive)
            negatives.append(negative)
        return positives, negatives
