# SPDX-License-Identifier: Apache-2.0
"""Scores of a classifier, as numbers, tables and pictures."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from rsvheat.data.spec import IGNORE_LABEL
from rsvheat.evaluation.confusion import confusion_figure
from rsvheat.evaluation.score_files import ScoreFiles


def classification_metrics(classes: int) -> MetricCollection:
    """Return the metrics that ``Scores.of`` takes, to be fed with predictions and labels."""
    by_class: dict[str, Any] = {"average": None, "ignore_index": IGNORE_LABEL}
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE_LABEL),
            "precision": MulticlassPrecision(classes, **by_class),
            "recall": MulticlassRecall(classes, **by_class),
            "f1": MulticlassF1Score(classes, **by_class),
            "confusion": MulticlassConfusionMatrix(classes, ignore_index=IGNORE_LABEL),
        }
    )


@dataclass(frozen=True)
class Scores(ScoreFiles):
    """Scores of a classifier on a set of samples.

    Attributes:
        classes: Class names, in the order of everything below.
        accuracy: Overall accuracy: the share of samples that are right.
        precision: Share of the samples predicted as a class that are of it; 0 where none is.
        recall: Share of the samples of a class that are predicted as it; 0 where there are none.
        f1: Harmonic mean of both; 0 for classes that do not occur, which the mean leaves out.
        confusion: Numbers of samples, a row by true class, a column by predicted class.
    """

    classes: tuple[str, ...]
    accuracy: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, metrics: MetricCollection, classes: Sequence[str]) -> "Scores":
        """Return the scores that metrics of ``classification_metrics`` have found."""
        values: dict[str, Tensor] = metrics.compute()
        by_class = {name: tuple(values[name].tolist()) for name in ("precision", "recall", "f1")}
        confusion = tuple(tuple(int(n) for n in row) for row in values["confusion"].tolist())
        return cls(tuple(classes), float(values["accuracy"]), confusion=confusion, **by_class)

    @classmethod
    def score(cls, predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> "Scores":
        """Return the scores of predicted labels, int64 (N,), N of at least 1."""
        metrics = classification_metrics(len(classes))
        metrics.update(predicted, labels)
        return cls.of(metrics, classes)

    @property
    def support(self) -> tuple[int, ...]:
        """Samples of each class."""
        return tuple(sum(row) for row in self.confusion)

    @property
    def _occurring(self) -> list[int]:
        """Classes that occur in truth or prediction."""
        predicted = [sum(column) for column in zip(*self.confusion, strict=True)]
        return [i for i, own in enumerate(self.support) if own or predicted[i]]

    @property
    def classes_in_mean(self) -> int:
        """Number of classes that occur in truth or prediction: those in the mean F1."""
        return len(self._occurring)

    @property
    def mean_f1(self) -> float:
        """Mean F1 over the classes that occur in truth or prediction; 0 if none does."""
        occurring = self._occurring
        return sum(self.f1[i] for i in occurring) / max(len(occurring), 1)

    @property
    def mean_recall(self) -> float:
        """Mean recall over the classes that have samples; 0 if none has."""
        present = [recall for recall, own in zip(self.recall, self.support, strict=True) if own]
        return sum(present) / max(len(present), 1)

    def logged(self) -> dict[str, float]:
        """Return the values that training logs, by name."""
        return {"accuracy": self.accuracy, "f1": self.mean_f1}

    def __str__(self) -> str:
        """Return the most important values in one line."""
        return f"overall accuracy {self.accuracy:.4f}, mean F1 {self.mean_f1:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        names = ("precision", "recall", "f1", "support")
        rows = zip(self.precision, self.recall, self.f1, self.support, strict=True)
        by_class = [dict(zip(names, row, strict=True)) for row in rows]
        return {
            "overall_accuracy": self.accuracy,
            "mean_recall": self.mean_recall,
            "mean_f1": self.mean_f1,
            "classes_in_mean": self.classes_in_mean,
            "samples": sum(self.support),
            "classes": dict(zip(self.classes, by_class, strict=True)),
            "confusion": [list(row) for row in self.confusion],
        }

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {".csv": self._write_csv, ".png": self._write_figure}

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            predicted = [f"predicted {name}" for name in self.classes]
            writer.writerow(["class", "support", "precision", "recall", "f1", *predicted])
            for i, name in enumerate(self.classes):
                scores = [self.precision[i], self.recall[i], self.f1[i]]
                writer.writerow([name, self.support[i], *scores, *self.confusion[i]])

    def figure(self) -> Any:
        """Return the confusion matrix as a Matplotlib figure, shares of each true class."""
        title = (
            f"overall accuracy {self.accuracy:.3f}, mean F1 {self.mean_f1:.3f} of "
            f"{self.classes_in_mean} classes"
        )
        return confusion_figure(self.classes, self.confusion, title)
