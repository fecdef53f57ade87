# SPDX-License-Identifier: Apache-2.0
"""Average precision of a class, by the definitions of COCO and Pascal VOC."""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["coco", "voc07", "area"]

# As pycocotools and the devkits compute them: 0.3, 0.6 and 0.7 of the second are a little higher.
_RECALLS = {"coco": np.linspace(0.0, 1.0, 101), "voc07": np.arange(0.0, 1.1, 0.1)}

DEFINITIONS = {
    "coco": "COCO's 101 points",
    "voc07": "VOC07's 11 points",
    "area": "area under the curve of precision made monotone, as VOC since 2010",
}


class Curve(NamedTuple):
    """Precision and recall at the score of each box of a class, from the highest score on.

    Attributes:
        recall: Share of the true boxes that are found, (N,).
        precision: Share of the boxes that are right, (N,).
        scores: Scores, (N,).
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def best_f1(self) -> tuple[float, float]:
        """Highest F1, and the lowest score of the boxes for it; 0 and NaN if none is right."""
        total = self.recall + self.precision
        right = total > 0
        if not right.any():
            return 0.0, math.nan
        f1 = 2 * self.recall[right] * self.precision[right] / total[right]
        best = int(f1.argmax())
        return float(f1[best]), float(self.scores[right][best])


def precision_recall(right: NDArray[np.bool_], scores: NDArray[np.float64], true: int) -> Curve:
    """Return the curve of a class.

    Args:
        right: Whether boxes are right, (N,), by decreasing score.
        scores: Their scores, (N,).
        true: Number of true boxes, at least 1.
    """
    hits = np.cumsum(right, dtype=np.float64)
    return Curve(hits / true, hits / np.arange(1, len(right) + 1), scores)


def average_precision(curve: Curve, kind: Kind) -> float:
    """Return the average precision of a class.

    Args:
        curve: Precision and recall.
        kind: ``"coco"`` for the mean of the precision at 101 recalls, ``"voc07"`` at 11 recalls,
            ``"area"`` for the area under the curve; in each, precision at a recall is the highest
            at this recall or above.
    """
    highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
    if kind == "area":
        return float((np.diff(curve.recall, prepend=0.0) * highest).sum())
    places = np.searchsorted(curve.recall, _RECALLS[kind], side="left")
    return float(np.append(highest, 0.0)[places].mean())
