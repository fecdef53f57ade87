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
        if predicted.is_floating_point():
            if predicted.dim() < 2 or predicted.shape[1] != self.classes:
                raise ValueError(
                    f"predicted must have shape (B, {self.classes}, ...), got "
                    f"{tuple(predicted.shape)}"
                )
            predicted = predicted.argmax(1)
        if predicted.shape != labels.shape:
            raise ValueError(
                "predicted and labels must have the same shape, got "
                f"{tuple(predicted.shape)} and {tuple(labels.shape)}"
            )
        counted = labels != self.ignore_index
        truth, guess = labels[counted].long(), predicted[counted].long()
        known = (truth >= 0) & (truth < self.classes) & (guess >= 0) & (guess < self.classes)
        self.invalid += (~known).sum()
        # On a GPU, looking at every batch would make the host wait: compute() looks once.
        if labels.device.type == "cpu":
            self._check()
        pairs = (truth * self.classes + guess)[known]
        counts = torch.bincount(pairs, minlength=self.classes**2)
        self.matrix += counts.view(self.classes, self.classes)

    def compute(self) -> Tensor:
        """Return the counts, int64 (K, K): a row by true class, a column by predicted class.

        Raises:
            ValueError: If a class was out of range.
        """
        self._check()
        return self.matrix

    def _check(self) -> None:
        if self.invalid > 0:
            raise ValueError(
                f"{int(self.invalid)} labels or predictions are not 0 to {self.classes - 1}; "
                f"{self.ignore_index} marks labels that do not count"
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
    axes.set_title(title)
    for i, row in enumerate(matrix.tolist()):
        for j, number in enumerate(row):
            if number:
                color = "white" if shares[i, j] > 0.5 else "black"
                cell = str(int(number)) if text == "count" else f"{100 * shares[i, j]:.3g}"
                axes.text(j, i, cell, ha="center", va="center", color=color, fontsize=8)
    return figure
