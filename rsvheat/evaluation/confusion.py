# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices: counting over batches and processes, and a picture."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rsvheat.data.spec import IGNORE_INDEX


class ConfusionMatrix(Metric):
    """Numbers of pixels or samples by true and predicted class, summed over all processes.

    Args:
        classes: Number of classes, K.
        ignore_index: Label of what does not count.
    """

    full_state_update = False
    matrix: Tensor
    invalid: Tensor

    def __init__(self, classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.classes = classes
        self.ignore_index = ignore_index
        zeros = torch.zeros(classes, classes, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")
        self.add_state("invalid", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            predicted: Predicted classes, integers of the labels' shape (B, ...), or logits or
                probabilities (B, K, ...).
            labels: True classes, integers (B, ...).

        Raises:
            ValueError: If shapes do not fit, or on the CPU a class is out of range.
        """
        matrix, invalid = _count(predicted, labels, self.classes, self.ignore_index)
        self.matrix += matrix
        self.invalid += invalid
        # On a GPU, looking at every batch would make the host wait: compute() looks once.
        if labels.device.type == "cpu":
            _check(self.invalid, self.classes, self.ignore_index)

    def compute(self) -> Tensor:
        """Return the counts, int64 (K, K): a row by true class, a column by predicted class.

        Raises:
            ValueError: If a class was out of range.
        """
        _check(self.invalid, self.classes, self.ignore_index)
        return self.matrix


def count_confusion(
    predicted: Tensor, labels: Tensor, classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the confusion matrix of a batch of this process, int64 (K, K).

    Args:
        predicted: Predicted classes, integers of the labels' shape (B, ...), or logits or
            probabilities (B, K, ...).
        labels: True classes, integers (B, ...).
        classes: Number of classes, K.
        ignore_index: Label of what does not count.

    Raises:
        ValueError: If shapes do not fit, or a class is out of range.
    """
    matrix, invalid = _count(predicted, labels, classes, ignore_index)
    _check(invalid, classes, ignore_index)
    return matrix


def _count(
    predicted: Tensor, labels: Tensor, classes: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the confusion matrix, and the number of classes that are out of range."""
    if predicted.is_floating_point():
        if predicted.dim() < 2 or predicted.shape[1] != classes:
            raise ValueError(
                f"predicted must have shape (B, {classes}, ...), got {tuple(predicted.shape)}"
            )
        # On CPUs several times as fast as argmax, with the same result.
        predicted = predicted.max(1).indices
    if predicted.shape != labels.shape:
        raise ValueError(
            "predicted and labels must have the same shape, got "
            f"{tuple(predicted.shape)} and {tuple(labels.shape)}"
        )
    counted = labels != ignore_index
    truth, guess = labels[counted].long(), predicted[counted].long()
    known = (truth >= 0) & (truth < classes) & (guess >= 0) & (guess < classes)
    counts = torch.bincount((truth * classes + guess)[known], minlength=classes**2)
    return counts.view(classes, classes), (~known).sum()


def _check(invalid: Tensor, classes: int, ignore_index: int) -> None:
    if invalid > 0:
        raise ValueError(
            f"{int(invalid)} labels or predictions are not 0 to {classes - 1}; {ignore_index} "
            "marks labels that do not count"
        )


def confusion_figure(
    classes: Sequence[str], confusion: Any, title: str, text: str = "count"
) -> Any:
    """Draw a confusion matrix with Matplotlib, colored by the shares of each true class.

    Args:
        classes: Names of the classes.
        confusion: Counts, (K, K): a row by true class, a column by predicted class.
        title: Title of the picture.
        text: What is written in the cells: ``"count"``, or ``"percent"`` of the true class.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    side = 3 + 0.45 * count
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    matrix = torch.as_tensor(confusion, dtype=torch.float64)
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), classes, rotation=60, ha="right")
    axes.set_yticks(range(count), classes)
    axes.set(xlabel="predicted", ylabel="true")
    # Over the figure, not its axes, and small with few classes: else it would be cut off.
    figure.suptitle(title, fontsize=min(12.0, 2.4 * side))
    for i, row in enumerate(matrix.tolist()):
        for j, number in enumerate(row):
            if number:
                color = "white" if shares[i, j] > 0.5 else "black"
                cell = str(int(number)) if text == "count" else f"{100 * shares[i, j]:.3g}"
                axes.text(j, i, cell, ha="center", va="center", color=color, fontsize=8)
    return figure
