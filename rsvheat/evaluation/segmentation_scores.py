# SPDX-License-Identifier: Apache-2.0
"""Scores of a class per pixel, all from one confusion matrix, each with its definition."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.evaluation.confusion import ConfusionMatrix, confusion_figure, count_confusion
from rsvheat.evaluation.score_files import Measure, MeasuredScores, none_for_nan


@dataclass(frozen=True)
class SegmentationScores(MeasuredScores):
    """Scores of a segmentation or change detection on a set of images.

    With TP, FP and FN the pixels of a class that are found, falsely found and missed, IoU is
    ``TP / (TP + FP + FN)``, F1 ``2 TP / (2 TP + FP + FN)``, precision ``TP / (TP + FP)`` and recall
    (the accuracy of the class) ``TP / (TP + FN)``, each NaN where the denominator is 0. Counts are
    over all pixels of all images, so no score is a mean of scores of images. Means leave out
    classes that are NaN, and say over how many they are.

    Args:
        classes: Class names by label.
        confusion: Numbers of pixels, a row by true class, a column by predicted class.
        ignored: Classes whose true pixels do not count at all, such as Potsdam's clutter; they are
            in no mean. Predicting one elsewhere is an error of the true class.
        background: Class without which the means are given a second time, such as iSAID's
            background. Its pixels count all the same: where another class is predicted there, that
            is an error of the other class.
        change: Class whose scores are given by themselves, such as the change of a pair of dates.

    Raises:
        ValueError: If the matrix does not fit the classes, or a class is unknown.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    ignored: tuple[str, ...] = ()
    background: str | None = None
    change: str | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        count = len(self.classes)
        if len(self.confusion) != count or any(len(row) != count for row in self.confusion):
            raise ValueError(f"confusion must be {count} x {count} for classes {self.classes}")
        named = [*self.ignored, *filter(None, (self.background, self.change))]
        unknown = [name for name in named if name not in self.classes]
        if unknown:
            raise ValueError(f"there is no class {unknown[0]!r} among {', '.join(self.classes)}")

    @classmethod
    def of(
        cls,
        confusion: ConfusionMatrix | Tensor,
        classes: Sequence[str],
        *,
        ignored: Sequence[str] = (),
        background: str | None = None,
        change: str | None = None,
    ) -> "SegmentationScores":
        """Return the scores of counted pixels.

        Args:
            confusion: The metric, of which every process has to ask for the scores, or counts,
                (K, K).
            classes: Class names by label.
            ignored: Classes whose true pixels do not count.
            background: Class without which the means are given a second time.
            change: Class whose scores are given by themselves.

        Raises:
            ValueError: As for the class, or if a predicted or true class was out of range.
        """
        counts = confusion if isinstance(confusion, Tensor) else confusion.compute()
        rows = tuple(tuple(int(number) for number in row) for row in counts.tolist())
        return cls(tuple(classes), rows, tuple(ignored), background, change)

    @classmethod
    def score(
        cls, predicted: Tensor, labels: Tensor, classes: Sequence[str], **options: Any
    ) -> "SegmentationScores":
        """Return the scores of predictions of this process.

        Args:
            predicted: Predicted classes, integers (B, H, W), or logits (B, K, H, W).
            labels: True classes, integers (B, H, W); 255 for pixels that do not count.
            classes: Class names by label.
            **options: Further arguments of ``of``.

        Raises:
            ValueError: As for ``of``.
        """
        return cls.of(count_confusion(predicted, labels, len(classes)), classes, **options)

    @property
    def _counted(self) -> Tensor:
        """The confusion matrix without true pixels of ignored classes, float64."""
        matrix = torch.tensor(self.confusion, dtype=torch.float64)
        for name in self.ignored:
            matrix[self.classes.index(name)] = 0
        return matrix

    @property
    def pixels(self) -> int:
        """Number of pixels that count."""
        return int(self._counted.sum())

    @property
    def support(self) -> tuple[int, ...]:
        """Number of true pixels of each class; 0 for ignored ones."""
        return tuple(int(number) for number in self._counted.sum(1))

    @property
    def iou(self) -> tuple[float, ...]:
        """IoU of each class; NaN where it occurs neither in truth nor in prediction."""
        return self._by_class(1, 1)

    @property
    def f1(self) -> tuple[float, ...]:
        """F1 of each class; NaN where it occurs neither in truth nor in prediction."""
        return self._by_class(0.5, 0.5)

    @property
    def precision(self) -> tuple[float, ...]:
        """Precision of each class; NaN where it is never predicted."""
        return self._by_class(1, 0)

    @property
    def recall(self) -> tuple[float, ...]:
        """Recall of each class; NaN where it has no pixels."""
        return self._by_class(0, 1)

    def _by_class(self, false: float, missed: float) -> tuple[float, ...]:
        matrix = self._counted
        found = matrix.diagonal()
        false_found, misses = matrix.sum(0) - found, matrix.sum(1) - found
        scores = found / (found + false * false_found + missed * misses)
        values: list[float] = scores.tolist()
        return tuple(
            math.nan if name in self.ignored else value
            for name, value in zip(self.classes, values, strict=True)
        )

    def measures(self) -> dict[str, Measure]:
        """Return all scores that are not of a single class, and those of change, by name."""
        counts = "pixels labeled " + " or ".join([str(IGNORE_INDEX), *self.ignored])
        tail = f"; {counts} do not count"
        result = {
            "overall_accuracy": Measure(
                _ratio(float(self._counted.trace()), self.pixels),
                f"share of the pixels that are right{tail}",
            ),
            "kappa": Measure(
                self._kappa(),
                "Cohen's kappa: (accuracy - chance) / (1 - chance), chance from the numbers of "
                f"true and predicted pixels of each class{tail}",
            ),
        }
        without = [None] if self.background is None else [None, self.background]
        for left_out in without:
            suffix = "" if left_out is None else "_without_background"
            scores = {
                "mean_iou": ("IoU", self.iou, "in truth or prediction"),
                "mean_f1": ("F1", self.f1, "in truth or prediction"),
                "mean_recall": ("recall", self.recall, "in truth"),
            }
            for name, (title, values, where) in scores.items():
                result[name + suffix] = self._mean(title, values, where, left_out, tail)
        if self.change is not None:
            index = self.classes.index(self.change)
            for name in ("precision", "recall", "f1", "iou"):
                value = getattr(self, name)[index]
                result[f"change_{name}"] = Measure(
                    value, f"{name} of {self.change}, over all pixels of all images{tail}"
                )
        return result

    def _mean(
        self, title: str, values: Sequence[float], where: str, left_out: str | None, tail: str
    ) -> Measure:
        candidates = [
            (name, value)
            for name, value in zip(self.classes, values, strict=True)
            if name != left_out and name not in self.ignored
        ]
        occurring = [value for _, value in candidates if not math.isnan(value)]
        absent = [name for name, value in candidates if math.isnan(value)]
        text = f"mean {title} over {len(occurring)} of {len(candidates)} classes"
        if left_out is not None:
            text += f" (without {left_out})"
        text += f", those that occur {where}"
        if absent:
            text += f" ({', '.join(absent)} {'does' if len(absent) == 1 else 'do'} not)"
        return Measure(_ratio(sum(occurring), len(occurring)), text + tail, len(occurring))

    def _kappa(self) -> float:
        matrix = self._counted
        total = float(matrix.sum())
        if total == 0:
            return math.nan
        accuracy = float(matrix.trace()) / total
        chance = float((matrix.sum(0) / total) @ (matrix.sum(1) / total))
        # One class in truth and prediction: chance alone is perfect.
        return math.nan if chance == 1 else (accuracy - chance) / (1 - chance)

    def logged(self) -> dict[str, float]:
        """Return the values that training logs, by name; 0 for what is not defined."""
        names = ["overall_accuracy", "mean_iou", "mean_f1"]
        names += ["change_f1", "change_iou"] if self.change is not None else []
        measures = self.measures()
        return {name: none_for_nan(measures[name].value) or 0.0 for name in names}

    def __str__(self) -> str:
        """Return the most important values in one line."""
        return ", ".join(f"{n.replace('_', ' ')} {v:.4f}" for n, v in self.logged().items())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, None for what is not defined."""
        measures = self.measures()
        columns = ("iou", "f1", "precision", "recall")
        by_class = {
            name: {
                "pixels": self.support[i],
                **{column: none_for_nan(getattr(self, column)[i]) for column in columns},
            }
            for i, name in enumerate(self.classes)
        }
        return {
            **{name: none_for_nan(measure.value) for name, measure in measures.items()},
            "definitions": {name: measure.definition for name, measure in measures.items()},
            "classes_in_mean": {
                name: measure.classes
                for name, measure in measures.items()
                if measure.classes is not None
            },
            "pixels": self.pixels,
            "ignored": list(self.ignored),
            "background": self.background,
            "change": self.change,
            "classes": by_class,
            "confusion": [list(row) for row in self.confusion],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SegmentationScores":
        """Return the scores that ``to_dict`` described.

        Args:
            content: Result of ``to_dict``, also from a JSON file of ``save``.
        """
        return cls(
            tuple(content["classes"]),
            tuple(tuple(row) for row in content["confusion"]),
            tuple(content["ignored"]),
            content["background"],
            content["change"],
        )

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {".csv": self._write_csv, ".png": self._write_figure}

    def _write_csv(self, path: Path) -> None:
        columns = ("iou", "f1", "precision", "recall")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            predicted = [f"predicted {name}" for name in self.classes]
            writer.writerow(["class", "pixels", *columns, *predicted])
            for i, name in enumerate(self.classes):
                scores = [none_for_nan(getattr(self, column)[i]) for column in columns]
                writer.writerow([name, self.support[i], *scores, *self.confusion[i]])

    def figure(self) -> Any:
        """Return the confusion matrix as a Matplotlib figure, percent of each true class."""
        measures = self.measures()
        mean = measures["mean_iou"]
        title = (
            f"overall accuracy {measures['overall_accuracy'].value:.3f}, mean IoU "
            f"{mean.value:.3f} of {mean.classes} classes"
        )
        if self.change is not None:
            title += f"\n{self.change}: F1 {measures['change_f1'].value:.3f}"
        return confusion_figure(self.classes, self.confusion, title, "percent")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
