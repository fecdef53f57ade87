# SPDX-License-Identifier: Apache-2.0
"""Scores of horizontal and oriented boxes: a metric, and average precision with its definition."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from rsvheat.evaluation.average_precision import (
    DEFINITIONS,
    Curve,
    Kind,
    average_precision,
    precision_recall,
)
from rsvheat.evaluation.box_matching import (
    ERRORS,
    NOT_COUNTED,
    RIGHT,
    THRESHOLDS,
    match_boxes,
)
from rsvheat.evaluation.detection_figures import curves_figure, errors_figure
from rsvheat.evaluation.score_files import Measure, MeasuredScores, none_for_nan

# Boxes of a class in an image that COCO's measures count.
_LIMIT = 100
# Measures by name: columns of the outcomes in ``Matches``, and the kind of average precision.
_HORIZONTAL: dict[str, tuple[range, Kind]] = {
    "map50": (range(1), "coco"),
    "map75": (range(5, 6), "coco"),
    "map50_95": (range(10), "coco"),
    "map50_voc07": (range(10, 11), "voc07"),
}
_ORIENTED: dict[str, tuple[range, Kind]] = {
    "map50_voc07": (range(1), "voc07"),
    "map50_area": (range(1), "area"),
    "map75_voc07": (range(5, 6), "voc07"),
    "map75_area": (range(5, 6), "area"),
    "map50_95_voc07": (range(10), "voc07"),
    "map50_95_area": (range(10), "area"),
}


class DetectionMetric(Metric):
    """Outcomes of predicted boxes and of true ones, of all images and processes.

    Images are matched when they are added; what is kept is a few numbers a box. Boxes of equal
    scores stay in the order of the images, which is that of one process if the images were dealt to
    the processes in turn, as samplers for evaluation do.

    Args:
        num_classes: Number of classes.
        oriented: Whether boxes are oriented, CXCYWHR, instead of horizontal, XYXY.
        limit: Number of boxes of a class and image, of the highest scores, that COCO's measures of
            horizontal boxes count; None for all. VOC's and DOTA's count all.

    Raises:
        ValueError: If a number is below 1.
    """

    full_state_update = False
    scores: list[Tensor]
    rows: list[Tensor]
    outcomes: list[Tensor]
    truths: list[Tensor]
    images: Tensor

    def __init__(self, num_classes: int, oriented: bool, limit: int | None = _LIMIT) -> None:
        super().__init__()
        if num_classes < 1 or (limit is not None and limit < 1):
            raise ValueError(
                f"num_classes and limit must be at least 1, got {num_classes} and {limit}"
            )
        self.num_classes, self.oriented, self.limit = num_classes, oriented, limit
        for name in ("scores", "rows", "outcomes", "truths"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[Mapping[str, Tensor]],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        difficult: Sequence[Tensor] | None = None,
    ) -> None:
        """Add images.

        Args:
            predictions: Tensors by name, of each image: ``boxes`` (N, 4) or (N, 5), ``scores``
                (N,) and ``labels`` (N,), integers from 0.
            boxes: True boxes of each image, (M, 4) or (M, 5), in the same pixels.
            labels: Their classes, (M,), integers from 0.
            difficult: Masks (M,) of the true boxes of each image that are not demanded, and are no
                errors if found; none by default.

        Raises:
            ValueError: If numbers or shapes do not fit, boxes have another format, a value is not
                finite, a side is negative, or a class is out of range.
        """
        if difficult is None:
            difficult = [torch.zeros(len(one), dtype=torch.bool) for one in labels]
        numbers = [len(part) for part in (predictions, boxes, labels, difficult)]
        if len(set(numbers)) != 1:
            raise ValueError(
                "predictions, boxes, labels and difficult must be of the same images, got "
                f"{', '.join(map(str, numbers))}"
            )
        for found, *truth in zip(predictions, boxes, labels, difficult, strict=True):
            self._add(found, *truth)

    def _add(
        self, found: Mapping[str, Tensor], true_boxes: Tensor, true_labels: Tensor, hard: Tensor
    ) -> None:
        truth = self._boxes("boxes", true_boxes)
        classes = self._labels("labels", true_labels, len(truth))
        difficult = hard.detach().cpu().bool().numpy()
        if difficult.shape != classes.shape:
            raise ValueError(
                f"difficult must have shape ({len(truth)},), got {tuple(difficult.shape)}"
            )
        boxes = self._boxes("predicted boxes", found["boxes"])
        labels = self._labels("predicted labels", found["labels"], len(boxes))
        scores = found["scores"].detach().float().cpu()
        if scores.shape != labels.shape or not scores.isfinite().all():
            raise ValueError(
                f"scores must be finite and of shape ({len(boxes)},), got {tuple(scores.shape)}"
            )
        matches = match_boxes(boxes, scores.numpy(), labels, truth, classes, difficult, self.limit)
        image = int(self.images)
        self.scores.append(scores.to(self.device))
        rows = np.stack((np.full_like(labels, image), labels, matches.corrected), 1)
        self.rows.append(torch.from_numpy(rows.astype(np.int32)).to(self.device))
        outcomes = np.concatenate((matches.outcomes, matches.errors[:, None]), 1)
        self.outcomes.append(torch.from_numpy(outcomes).to(self.device))
        truths = np.stack((classes, difficult, matches.missed), 1).astype(np.int32)
        self.truths.append(torch.from_numpy(truths).to(self.device))
        self.images += 1

    def _boxes(self, name: str, boxes: Tensor) -> Tensor:
        form, columns = ("CXCYWHR", 5) if self.oriented else ("XYXY", 4)
        given = getattr(boxes, "format", None)
        if given is not None and given.value != form:
            raise ValueError(f"{name} must be in the format {form}, got {given.value}")
        boxes = boxes.detach().as_subclass(Tensor).cpu().double()
        if boxes.dim() != 2 or boxes.shape[1] != columns:
            raise ValueError(
                f"{name} must have shape (N, {columns}), {form}, got {tuple(boxes.shape)}"
            )
        sides = boxes[:, 2:4] if self.oriented else boxes[:, 2:] - boxes[:, :2]
        wrong = (~boxes.isfinite().all(1) | (sides < 0).any(1)).nonzero()
        if len(wrong):
            raise ValueError(
                f"{name} must be finite, with sides of 0 or more, got {boxes[wrong[0, 0]].tolist()}"
            )
        return boxes

    def _labels(self, name: str, labels: Tensor, count: int) -> NDArray[np.int64]:
        values: NDArray[np.int64] = labels.detach().cpu().numpy()
        if values.shape != (count,):
            raise ValueError(f"{name} must have shape ({count},), got {values.shape}")
        if len(values) and not (values.min() >= 0 and values.max() < self.num_classes):
            raise ValueError(
                f"{name} must be 0 to {self.num_classes - 1}, got {values.min()} to {values.max()}"
            )
        return values.astype(np.int64)

    def sync(self, *arguments: Any, **options: Any) -> None:
        """Gather the state of all processes, also of those that got no image.

        Args:
            *arguments: Arguments of ``torchmetrics.Metric.sync``.
            **options: Further arguments of it.
        """
        # What torchmetrics sends for an empty list has another shape and type.
        for name, nothing in self._nothing().items():
            if not getattr(self, name):
                getattr(self, name).append(nothing.to(self.device))
        super().sync(*arguments, **options)

    def _nothing(self) -> dict[str, Tensor]:
        columns = 11 if self.oriented else 12
        return {
            "scores": torch.zeros(0),
            "rows": torch.zeros(0, 3, dtype=torch.int32),
            "outcomes": torch.zeros(0, columns, dtype=torch.uint8),
            "truths": torch.zeros(0, 3, dtype=torch.int32),
        }

    def compute(self) -> dict[str, Any]:
        """Return the outcomes of all images and processes, for ``DetectionScores.of``.

        Returns:
            Tensors on the CPU, of all predicted boxes: ``scores`` (N,), ``rows`` (N, 3) of image,
            class and corrected class, ``outcomes`` (N, 11 or 12) as in
            ``rsvheat.evaluation.box_matching.Matches`` with the type of the error behind
            them; of all true boxes ``truths`` (M, 3): class, whether difficult, whether missed; and
            the numbers ``images`` and ``num_classes``, and whether ``oriented``.
        """
        state: dict[str, Any] = {
            "oriented": self.oriented,
            "num_classes": self.num_classes,
            "images": int(self.images),
        }
        for name, nothing in self._nothing().items():
            # A list, or a tensor once the parts of the processes were gathered.
            kept = getattr(self, name)
            parts = [kept] if isinstance(kept, Tensor) else kept
            state[name] = torch.cat([nothing, *(part.cpu() for part in parts)])
        return state


@dataclass(frozen=True)
class DetectionScores(MeasuredScores):
    """Scores of horizontal or oriented boxes on a set of images.

    A class occurs if it has true boxes that are not difficult; means are over the classes that
    occur. Horizontal boxes have the average precision (AP) of COCO, equal to that of pycocotools,
    and of VOC07; oriented ones that of DOTA, by VOC07's 11 points and as the area. IoU is that of
    continuous coordinates, without the additional pixel of VOC's and DOTA's own tools.

    Args:
        classes: Class names by label.
        oriented: Whether boxes are oriented.
        images: Number of images.
        truths: Number of true boxes of each class that are not difficult.
        difficult: Number of difficult true boxes of each class.
        predictions: Number of predicted boxes of each class.
        ap: AP of each class by the name of the measure; NaN for classes that do not occur.
        curves: Precision and recall of each class at IoU 0.5; None for classes that do not occur.
        errors: Number of errors by their type and class: that of the predicted box, or of the true
            box that is missed.
        gains: What the first measure would gain if all errors of a type were corrected; NaN if no
            class occurs.

    Source: TIDE (arXiv 2008.08115), section 2, types of errors and their weight.
    """

    classes: tuple[str, ...]
    oriented: bool
    images: int
    truths: tuple[int, ...]
    difficult: tuple[int, ...]
    predictions: tuple[int, ...]
    ap: Mapping[str, tuple[float, ...]]
    curves: tuple[Curve | None, ...] = field(repr=False, compare=False)
    errors: Mapping[str, tuple[int, ...]]
    gains: Mapping[str, float]

    @classmethod
    def of(
        cls, state: DetectionMetric | Mapping[str, Any], classes: Sequence[str]
    ) -> "DetectionScores":
        """Return the scores of matched boxes.

        Args:
            state: The metric, of which every process has to ask for the scores, or the result of
                its ``DetectionMetric.compute``.
            classes: Class names by label.

        Raises:
            ValueError: If the number of classes is not the metric's.
        """
        content = state.compute() if isinstance(state, DetectionMetric) else state
        if content["num_classes"] != len(classes):
            raise ValueError(
                f"the boxes are of {content['num_classes']} classes, and there are the names of "
                f"{len(classes)}: {', '.join(classes)}"
            )
        found, true = _Found.of(content), _True.of(content)
        measures = _ORIENTED if content["oriented"] else _HORIZONTAL
        main = next(iter(measures.values()))[1]
        ap = {}
        for name, (columns, kind) in measures.items():
            by_column = [_by_class(found.curves(true.counted, column), kind) for column in columns]
            ap[name] = tuple(np.mean(by_column, 0).tolist())
        curves = found.curves(true.counted)
        numbers = {
            name: found.count(found.errors == 1 + number) for number, name in enumerate(ERRORS)
        }
        fixed = {name: found.corrected(name).curves(true.counted) for name in ERRORS}
        fixed["missed"] = found.curves(np.maximum(true.counted - true.missed, true.counted > 0))
        before = _mean(_by_class(curves, main))
        return cls(
            tuple(classes),
            bool(content["oriented"]),
            int(content["images"]),
            tuple(true.counted.tolist()),
            tuple(true.difficult.tolist()),
            tuple(found.count().tolist()),
            ap,
            tuple(curves),
            {name: tuple(counts.tolist()) for name, counts in numbers.items()}
            | {"missed": tuple(true.missed.tolist())},
            {name: _mean(_by_class(better, main)) - before for name, better in fixed.items()},
        )

    @property
    def classes_in_mean(self) -> int:
        """Number of classes that occur in truth, which means are over."""
        return sum(number > 0 for number in self.truths)

    @property
    def best_f1(self) -> tuple[tuple[float, float], ...]:
        """Highest F1 of each class at IoU 0.5, and the lowest score of boxes for it; or NaN."""
        return tuple((math.nan, math.nan) if c is None else c.best_f1 for c in self.curves)

    def measures(self) -> dict[str, Measure]:
        """Return the means over classes by name, each with its definition."""
        result = {}
        kinds = _ORIENTED if self.oriented else _HORIZONTAL
        absent = [name for name, n in zip(self.classes, self.truths, strict=True) if not n]
        text = f"over {self.classes_in_mean} of {len(self.classes)} classes, those that occur"
        if absent:
            text += f" ({', '.join(absent)} {'does' if len(absent) == 1 else 'do'} not)"
        for name, (columns, kind) in kinds.items():
            at = THRESHOLDS[columns[0] % 10]
            where = f"IoU {at:g}"
            if len(columns) > 1:
                where = f"IoU 0.5 to 0.95 in steps of 0.05 (mean of {len(columns)})"
            overlap = f"rotated {where}" if self.oriented else where
            matching = "VOC's matching, also used by DOTA" if kind != "coco" else "COCO's matching"
            result[name] = Measure(
                _mean(np.array(self.ap[name])),
                f"mean AP {text}; {overlap}, {DEFINITIONS[kind]}, {matching}; difficult boxes "
                "do not count",
                self.classes_in_mean,
            )
        return result

    def logged(self) -> dict[str, float]:
        """Return the values that training logs, by name; 0 where no class occurs."""
        return {name: none_for_nan(m.value) or 0.0 for name, m in self.measures().items()}

    def __str__(self) -> str:
        """Return the most important values in one line."""
        values = [f"{_title(name)} {value:.4f}" for name, value in self.logged().items()]
        return f"{', '.join(values)}, over {self.classes_in_mean} of {len(self.classes)} classes"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the curves as plain values, None for what is not defined."""
        measures = self.measures()
        rows = {
            name: {
                "boxes": self.truths[i],
                "difficult": self.difficult[i],
                "predicted": self.predictions[i],
                **{f"ap{key[3:]}": none_for_nan(ap[i]) for key, ap in self.ap.items()},
                "best_f1": none_for_nan(self.best_f1[i][0]),
                "score_of_best_f1": none_for_nan(self.best_f1[i][1]),
                **{error: counts[i] for error, counts in self.errors.items()},
            }
            for i, name in enumerate(self.classes)
        }
        return {
            **{name: none_for_nan(measure.value) for name, measure in measures.items()},
            "definitions": {name: measure.definition for name, measure in measures.items()},
            "classes_in_mean": self.classes_in_mean,
            "oriented": self.oriented,
            "images": self.images,
            "boxes": sum(self.truths),
            "difficult": sum(self.difficult),
            "predicted": sum(self.predictions),
            "errors": {
                name: {"number": sum(counts), "gain": none_for_nan(self.gains[name])}
                for name, counts in self.errors.items()
            },
            "classes": rows,
        }

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {
            ".csv": self._write_csv,
            ".png": self._write_figure,
            "_errors.png": lambda path: self.errors_figure().savefig(path, dpi=150),
        }

    def _write_csv(self, path: Path) -> None:
        rows = self.to_dict()["classes"]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["class", *next(iter(rows.values()))])
            writer.writerows([name, *row.values()] for name, row in rows.items())

    def figure(self) -> Any:
        """Return curves of precision and recall at IoU 0.5 as a Matplotlib figure."""
        name, ap = next(iter(self.ap.items()))
        measure = self.measures()[name]
        title = f"{_title(name)} {measure.value:.3f} of {measure.classes} classes"
        return curves_figure(self.classes, self.curves, ap, title)

    def errors_figure(self) -> Any:
        """Return types of errors, by their weight and by class, as a Matplotlib figure."""
        return errors_figure(self.classes, self.errors, self.gains, _title(next(iter(self.ap))))


def _title(name: str) -> str:
    """Return the name of a measure for people: ``map50_95_voc07`` is "mAP50:95 (VOC07)"."""
    title = name.replace("map", "mAP").replace("50_95", "50:95")
    title, _, kind = title.partition("_")
    return f"{title} ({kind.replace('voc', 'VOC')})" if kind else title


def _by_class(curves: Sequence[Curve | None], kind: Kind) -> NDArray[np.float64]:
    return np.array([math.nan if c is None else average_precision(c, kind) for c in curves])


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean over classes that are not NaN; NaN if there is none."""
    occurring = values[~np.isnan(values)]
    return float(occurring.mean()) if len(occurring) else math.nan


class _True(NamedTuple):
    """Numbers of true boxes by class."""

    counted: NDArray[np.int64]
    difficult: NDArray[np.int64]
    missed: NDArray[np.int64]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "_True":
        labels, difficult, missed = content["truths"].numpy().T
        chosen = (difficult == 0, difficult == 1, missed == 1)
        return cls(*(np.bincount(labels[c], minlength=content["num_classes"]) for c in chosen))


@dataclass(frozen=True)
class _Found:
    """Predicted boxes of all images, by decreasing score.

    Attributes:
        classes: Number of classes.
        scores: Scores, (N,).
        labels: Classes, (N,).
        corrections: Corrected classes, (N,), or -1.
        outcomes: Outcomes, (N, columns).
        errors: Types of errors, (N,).
    """

    classes: int
    scores: NDArray[np.float64]
    labels: NDArray[np.int32]
    corrections: NDArray[np.int32]
    outcomes: NDArray[np.uint8]
    errors: NDArray[np.uint8]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "_Found":
        # torchmetrics takes the dimension of a single score away.
        scores = content["scores"].reshape(-1).double().numpy()
        images, labels, corrections = content["rows"].numpy().T
        # Of equal scores the first image comes first, as in pycocotools. The n-th images of all
        # processes have the same number.
        order = np.lexsort((images, -scores))
        outcomes = content["outcomes"].numpy()[order]
        return cls(
            content["num_classes"],
            scores[order],
            labels[order],
            corrections[order],
            outcomes[:, :-1],
            outcomes[:, -1],
        )

    def count(self, chosen: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.int64]:
        """Return the number of boxes of each class."""
        return np.bincount(self.labels[chosen], minlength=self.classes)

    def curves(self, true: NDArray[np.int64], column: int = 0) -> list[Curve | None]:
        """Return the curve of each class, None without true boxes."""
        outcomes = self.outcomes[:, column]
        curves: list[Curve | None] = []
        for label, number in enumerate(true.tolist()):
            own = (self.labels == label) & (outcomes != NOT_COUNTED)
            right = outcomes[own] == RIGHT
            curves.append(precision_recall(right, self.scores[own], number) if number else None)
        return curves

    def corrected(self, error: str) -> "_Found":
        """Return the boxes with all errors of a type corrected or removed."""
        wrong = self.errors == 1 + ERRORS.index(error)
        saved = wrong & (self.corrections >= 0)
        outcomes = self.outcomes[:, :1].copy()
        outcomes[wrong], outcomes[saved] = NOT_COUNTED, RIGHT
        labels = np.where(saved, self.corrections, self.labels)
        return replace(self, labels=labels, outcomes=outcomes)
