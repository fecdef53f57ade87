# SPDX-License-Identifier: Apache-2.0
"""Matching of predicted boxes with the true boxes of an image, and types of errors."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.ops import box_iou_rotated

# Thresholds of IoU from 0.5 to 0.95, as pycocotools computes them.
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
# Outcomes of a predicted box.
WRONG, RIGHT, NOT_COUNTED = 0, 1, 2
# Types of errors by number; 0 is none.
ERRORS = ("classification", "localization", "both", "duplicate", "background")
# IoU below which a predicted box has nothing to do with a true one.
BACKGROUND = 0.1
# Pairs of boxes that are compared at once: 32 MiB of float64.
_PAIRS = 2**22


class Matches(NamedTuple):
    """Outcomes of the predicted boxes of an image, and of its true boxes.

    Attributes:
        outcomes: ``WRONG``, ``RIGHT`` or ``NOT_COUNTED``, uint8 (N, columns): by COCO's matching at
            the ten ``THRESHOLDS`` and by VOC's at 0.5 for horizontal boxes, by VOC's matching at
            the ten thresholds for oriented ones.
        errors: Type of the error at IoU 0.5, uint8 (N,): 1 + the index in ``ERRORS``, or 0.
        corrected: Class of a box whose error of classification or localization is corrected, int64
            (N,), or -1 where the box is removed instead, or has another error or none.
        found: True boxes, bool (M,), that a predicted box finds at IoU 0.5.
        missed: True boxes, bool (M,), that no predicted box finds, nor would if its class or place
            was corrected; without difficult ones.
    """

    outcomes: NDArray[np.uint8]
    errors: NDArray[np.uint8]
    corrected: NDArray[np.int64]
    found: NDArray[np.bool_]
    missed: NDArray[np.bool_]


class _Pairs(NamedTuple):
    """Predicted and true boxes that overlap by ``BACKGROUND`` or more, by predicted box."""

    found: NDArray[np.int64]
    true: NDArray[np.int64]
    iou: NDArray[np.float64]

    def some(self, chosen: NDArray[Any]) -> "_Pairs":
        """Return the pairs of a mask, or of numbers in their order."""
        return _Pairs(self.found[chosen], self.true[chosen], self.iou[chosen])


def match_boxes(
    boxes: Tensor,
    scores: NDArray[Any],
    labels: NDArray[np.int64],
    true_boxes: Tensor,
    true_labels: NDArray[np.int64],
    difficult: NDArray[np.bool_],
    limit: int | None,
) -> Matches:
    """Match the boxes of an image.

    In COCO's matching, boxes take the true box of their class with the highest IoU that no box of
    a higher score has taken, if the IoU is at least the threshold. In VOC's, which DOTA's is too,
    they take the one with the highest IoU of all, if it is above the threshold, and are wrong if it
    is taken. Boxes that match difficult ones only are not counted.

    Args:
        boxes: Predicted boxes, float64: (N, 4) XYXY or (N, 5) CXCYWHR.
        scores: Scores, (N,).
        labels: Classes, (N,).
        true_boxes: True boxes, float64, (M, 4) or (M, 5).
        true_labels: Their classes, (M,).
        difficult: True boxes that are neither demanded nor wrong to find, (M,).
        limit: Number of boxes of a class, of the highest scores, that COCO's matching counts; None
            for all.

    Returns:
        The outcomes.

    Source: TIDE (arXiv 2008.08115), section 2.2, types of errors.
    """
    oriented = boxes.shape[1] == 5
    count = len(boxes)
    pairs = _overlapping(boxes, true_boxes)
    own = labels[pairs.found] == true_labels[pairs.true]
    order = np.argsort(-scores, kind="stable")
    near = pairs.some(own & (pairs.iou >= THRESHOLDS[0]))
    outcomes = np.zeros((count, 10 if oriented else 11), np.uint8)
    beyond = np.zeros(count, bool)
    if not oriented and limit is not None:
        beyond = _beyond(order, labels, limit)
        outcomes[beyond, :10] = NOT_COUNTED
    candidates: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for found, true, iou in zip(*(column.tolist() for column in near), strict=True):
        candidates[found].append((true, iou))
    taken = [bytearray(len(true_boxes)) for _ in range(outcomes.shape[1])]
    hard = difficult.tolist()
    for found in order.tolist():
        if candidates[found]:
            for column in range(outcomes.shape[1]):
                coco = not oriented and column < 10
                if coco and beyond[found]:
                    continue
                take = _coco if coco else _voc
                threshold = THRESHOLDS[column % 10]
                outcomes[found, column] = take(candidates[found], threshold, taken[column], hard)
    used = np.frombuffer(taken[0], np.uint8).astype(bool)
    demanded = ~difficult[pairs.true]
    errors, target = _error_types(pairs.some(demanded), own[demanded], outcomes[:, 0], oriented)
    corrected = np.full(count, -1, np.int64)
    findable = used.copy()
    for found in order[target[order] >= 0].tolist():
        true = target[found]
        # Of boxes that would find the same object, that of the highest score stays.
        if not findable[true]:
            findable[true] = True
            corrected[found] = true_labels[true]
    return Matches(outcomes, errors, corrected, used, ~findable & ~difficult)


def _overlapping(boxes: Tensor, true_boxes: Tensor) -> _Pairs:
    from torchvision.ops import box_iou

    ratio = box_iou_rotated if boxes.shape[1] == 5 else box_iou
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    step = max(1, _PAIRS // max(1, len(true_boxes)))
    for begin in range(0, len(boxes) if len(true_boxes) else 0, step):
        iou = ratio(boxes[begin : begin + step], true_boxes).numpy()
        found, true = np.nonzero(iou >= BACKGROUND)
        parts.append((found + begin, true, iou[found, true]))
    return _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _beyond(order: NDArray[np.int64], labels: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
    """Return which boxes have ``limit`` boxes of their class and higher scores."""
    beyond = np.zeros(len(order), bool)
    for label in np.unique(labels):
        beyond[order[labels[order] == label][limit:]] = True
    return beyond


def _coco(
    candidates: list[tuple[int, float]], threshold: float, taken: bytearray, hard: list[bool]
) -> int:
    best, most, excused = -1, threshold, False
    for true, iou in candidates:
        if hard[true]:
            excused |= iou >= threshold
        elif not taken[true] and iou >= most:
            best, most = true, iou
    if best < 0:
        return NOT_COUNTED if excused else WRONG
    taken[best] = 1
    return RIGHT


def _voc(
    candidates: list[tuple[int, float]], threshold: float, taken: bytearray, hard: list[bool]
) -> int:
    best, most = -1, threshold
    for true, iou in candidates:
        if iou > most:
            best, most = true, iou
    if best < 0 or taken[best]:
        return WRONG
    if hard[best]:
        return NOT_COUNTED
    taken[best] = 1
    return RIGHT


def _error_types(
    pairs: _Pairs, own: NDArray[np.bool_], outcomes: NDArray[np.uint8], oriented: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the type of each error, and the true box that a correction would find, or -1."""
    count = len(outcomes)
    same, same_true = _best(pairs.some(own), count)
    other, other_true = _best(pairs.some(~own), count)

    def reaches(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
        threshold = THRESHOLDS[0]
        return np.asarray(iou > threshold if oriented else iou >= threshold)

    conditions = [
        outcomes != WRONG,
        (same >= BACKGROUND) & ~reaches(same),
        reaches(other),
        reaches(same),
        np.maximum(same, other) < BACKGROUND,
    ]
    numbers = [0, *(1 + ERRORS.index(name) for name in ("localization", "classification"))]
    numbers += [1 + ERRORS.index(name) for name in ("duplicate", "background")]
    errors = np.select(conditions, numbers, 1 + ERRORS.index("both")).astype(np.uint8)
    target = np.full(count, -1, np.int64)
    for name, true in (("localization", same_true), ("classification", other_true)):
        chosen = errors == 1 + ERRORS.index(name)
        target[chosen] = true[chosen]
    return errors, target


def _best(pairs: _Pairs, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the highest IoU of each predicted box, 0 without any, and its true box or -1."""
    order = np.lexsort((-pairs.true, pairs.iou, pairs.found))
    found, true, iou = pairs.some(order)
    last = np.append(found[1:] != found[:-1], True)[: len(found)]
    most, which = np.zeros(count), np.full(count, -1, np.int64)
    most[found[last]], which[found[last]] = iou[last], true[last]
    return most, which
