# SPDX-License-Identifier: Apache-2.0
"""Calibration: whether predictions of probability p are right in a share p of all cases."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.evaluation.score_files import ScoreFiles, none_for_nan
from rsvheat.losses import world_size

# Temperatures beyond these mean that the data do not determine one.
COLDEST, HOTTEST = 0.05, 20.0

# Rows of a batch that are counted at a time, to bound memory.
_ROWS = 2**18


class ConfidenceBins(Metric):
    """Pixels or samples by confidence, the probability of the predicted class, over all processes.

    Args:
        bins: Number of bins of equal width between 0 and 1.
        ignore_index: Label of what does not count.

    Raises:
        ValueError: If ``bins`` is below 1.
    """

    full_state_update = False
    count: Tensor
    confidence: Tensor
    right: Tensor

    def __init__(self, bins: int = 15, ignore_index: int = IGNORE_INDEX) -> None:
        _check_bins(bins)
        super().__init__()
        self.bins = bins
        self.ignore_index = ignore_index
        for name in ("count", "confidence", "right"):
            zeros = torch.zeros(bins, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: Probabilities, (B, K, ...).
            labels: True classes, int64 (B, ...).

        Raises:
            ValueError: If the shapes do not fit.
        """
        count, confidence, right = _bin(probabilities, labels, self.bins, self.ignore_index)
        self.count += count
        self.confidence += confidence
        self.right += right

    def compute(self) -> Tensor:
        """Return number, sum of confidences and number of right ones by bin, float64 (3, bins)."""
        return torch.stack((self.count, self.confidence, self.right))


@dataclass(frozen=True)
class Calibration(ScoreFiles):
    """Confidence and accuracy by bins of confidence.

    Attributes:
        count: Number of pixels or samples in each bin; bin m of M holds confidences above m / M and
            up to (m + 1) / M.
        confidence: Mean confidence of each bin; NaN where it is empty.
        accuracy: Share of each bin that is right; NaN where it is empty.
    """

    file_name = "calibration"

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @classmethod
    def of(cls, bins: ConfidenceBins) -> "Calibration":
        """Return the calibration of counted predictions.

        Args:
            bins: The metric, of which every process has to ask for the result.
        """
        return cls._of(bins.compute())

    @classmethod
    def _of(cls, sums: Tensor) -> "Calibration":
        count, confidence, right = sums
        return cls(
            tuple(int(number) for number in count.tolist()),
            tuple((confidence / count).tolist()),
            tuple((right / count).tolist()),
        )

    @classmethod
    def score(
        cls,
        probabilities: Tensor,
        labels: Tensor,
        bins: int = 15,
        ignore_index: int = IGNORE_INDEX,
    ) -> "Calibration":
        """Return the calibration of predictions of this process.

        Args:
            probabilities: Probabilities, (B, K, ...).
            labels: True classes, int64 (B, ...).
            bins: Number of bins of equal width.
            ignore_index: Label of what does not count.

        Raises:
            ValueError: If an argument is not as above.
        """
        _check_bins(bins)
        return cls._of(_bin(probabilities, labels, bins, ignore_index))

    @property
    def expected_error(self) -> float:
        """Expected calibration error; NaN for nothing.

        The mean over all predictions of the distance between accuracy and confidence of their bin.

        Source: Guo et al. (arXiv 1706.04599), eq. 3; Naeini et al. (AAAI 2015).
        """
        total = sum(self.count)
        return sum(n * gap for n, gap in self._gaps()) / total if total else math.nan

    @property
    def largest_error(self) -> float:
        """Largest distance between accuracy and confidence of a bin; NaN for nothing."""
        return max((gap for _, gap in self._gaps()), default=math.nan)

    def _gaps(self) -> list[tuple[int, float]]:
        rows = zip(self.count, self.confidence, self.accuracy, strict=True)
        return [(n, abs(accuracy - confidence)) for n, confidence, accuracy in rows if n]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, None for what is not defined."""
        return {
            "expected_calibration_error": none_for_nan(self.expected_error),
            "largest_calibration_error": none_for_nan(self.largest_error),
            "definition": (
                f"{len(self.count)} bins of equal width over the probability of the predicted "
                "class; mean, and maximum, of |accuracy - confidence| over the predictions"
            ),
            "count": list(self.count),
            "confidence": [none_for_nan(value) for value in self.confidence],
            "accuracy": [none_for_nan(value) for value in self.accuracy],
        }

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {".png": self._write_figure}

    def figure(self) -> Any:
        """Return the reliability diagram, and the share of predictions below, with Matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5, 5.5), layout="constrained")
        axes, shares = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        width = 1 / len(self.count)
        centers = [(m + 0.5) * width for m in range(len(self.count))]
        total = max(sum(self.count), 1)
        filled = [m for m, n in enumerate(self.count) if n]
        axes.bar(
            [centers[m] for m in filled],
            [self.accuracy[m] for m in filled],
            width,
            edgecolor="black",
            label="accuracy",
        )
        axes.plot((0, 1), (0, 1), "--", color="gray", label="perfect")
        axes.plot(
            [self.confidence[m] for m in filled],
            [self.accuracy[m] for m in filled],
            ".",
            color="black",
            label="mean confidence",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        axes.set_title(f"expected calibration error {self.expected_error:.3f}")
        axes.legend(loc="upper left")
        shares.bar(centers, [n / total for n in self.count], width, edgecolor="black")
        shares.set(xlabel="confidence", ylabel="share")
        return figure


def fit_temperature(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> float:
    """Return the temperature T for which ``softmax(logits / T)`` fits the labels best.

    It minimizes the mean negative log likelihood, which is convex in 1 / T, and changes no
    prediction. Fit it on images that were not trained on; a sample of their pixels is enough, see
    ``sample_pixels``.

    Args:
        logits: Logits, (B, K, ...).
        labels: True classes, int64 (B, ...).
        ignore_index: Label of what does not count.

    Returns:
        T between 0.05 and 20; a bound where every prediction is right, or they are no better than
        chance.

    Raises:
        ValueError: If the shapes do not fit, nothing is labeled, or a logit is not finite.

    Source: Guo et al. (arXiv 1706.04599), section 4.2, temperature scaling.
    """
    rows, truth = _rows(logits, labels, ignore_index)
    if len(rows) == 0:
        raise ValueError("no label counts: a temperature needs at least one")
    rows = rows.double()
    if not rows.isfinite().all():
        raise ValueError("logits must be finite")
    own = rows.gather(1, truth[:, None])[:, 0]

    def slope(inverse: float) -> float:
        """Return the derivative of the loss by 1 / T, which grows with it."""
        weights = (inverse * rows).softmax(1)
        return float(((weights * rows).sum(1) - own).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return 1 / math.sqrt(low * high)


def sample_pixels(
    logits: Tensor,
    labels: Tensor,
    count: int,
    generator: torch.Generator,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[Tensor, Tensor]:
    """Return logits (n, K) and labels (n,) of random pixels that count, ``count`` at most.

    Args:
        logits: Logits, (B, K, ...).
        labels: True classes, int64 (B, ...).
        count: Largest number of pixels.
        generator: Source of randomness, on the CPU.
        ignore_index: Label of what does not count.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_shapes(logits, labels)
    places = (labels != ignore_index).flatten().nonzero()[:, 0]
    if len(places) > count:
        # With replacement: a permutation of millions of pixels takes as long as the network.
        drawn = torch.randint(len(places), (count,), generator=generator)
        places = places[drawn.to(places.device)]
    values = logits.reshape(*logits.shape[:2], -1)
    sample, pixel = places // values.shape[2], places % values.shape[2]
    return values[sample, :, pixel], labels.flatten()[places]


class LogitSample:
    """Logits of random pixels or samples of a validation, to which a temperature is fitted.

    Args:
        count: Largest number of pixels that are kept in a process; each batch gives the same
            number, and of all those a random part is kept.
        ignore_index: Label of what does not count.
    """

    def __init__(self, count: int = 2**14, ignore_index: int = IGNORE_INDEX) -> None:
        self.count = count
        self.ignore_index = ignore_index
        self._rows = torch.empty(0)
        self._truth = torch.empty(0, dtype=torch.int64)
        self._keys = torch.empty(0)

    def add(self, logits: Tensor, labels: Tensor, seed: int) -> None:
        """Take pixels of a batch.

        Args:
            logits: Logits, (B, K, ...).
            labels: True classes, int64 (B, ...).
            seed: Seed of the choice; another one for each batch and process.

        Raises:
            ValueError: If the shapes do not fit.
        """
        generator = torch.Generator().manual_seed(seed)
        some = sample_pixels(
            logits.detach(), labels, self.count // 16 or 1, generator, self.ignore_index
        )
        rows, truth = some[0].cpu().float(), some[1].cpu()
        keys = torch.rand(len(rows), generator=generator)
        if len(self._rows):
            rows = torch.cat((self._rows, rows))
        truth, keys = torch.cat((self._truth, truth)), torch.cat((self._keys, keys))
        # The smallest keys are a random choice among all that was ever added.
        kept = keys.argsort(stable=True)[: self.count]
        self._rows, self._truth, self._keys = rows[kept], truth[kept], keys[kept]

    def fit(self) -> float | None:
        """Return the temperature for the pixels of all processes, each of which has to call it.

        Returns:
            The temperature, see ``fit_temperature``; None if nothing was labeled, or a logit is
            not finite.
        """
        parts: list[Any] = [(self._rows, self._truth)]
        if world_size() > 1:
            parts = [None] * world_size()
            distributed.all_gather_object(parts, (self._rows, self._truth))
        parts = [part for part in parts if len(part[1])]
        if not parts:
            return None
        rows, truth = (torch.cat(values) for values in zip(*parts, strict=True))
        if not rows.isfinite().all():
            return None
        return fit_temperature(rows, truth, self.ignore_index)


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")


def _bin(probabilities: Tensor, labels: Tensor, bins: int, ignore_index: int) -> Tensor:
    """Return number, sum of confidences and number of right ones by bin, float64 (3, bins)."""
    _check_shapes(probabilities, labels)
    largest, predicted = probabilities.max(1)
    counted = labels != ignore_index
    truth, predicted, confidence = labels[counted], predicted[counted], largest[counted].double()
    _check_range(truth, probabilities.shape[1], ignore_index)
    # Bin m holds confidences above m / bins and up to (m + 1) / bins.
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    right = (predicted == truth).double()
    if index.device.type == "cpu":
        sums = [torch.bincount(index, weights, bins) for weights in (None, confidence, right)]
        return torch.stack([values.double() for values in sums])
    values = torch.stack((torch.ones_like(confidence), confidence, right))
    total = torch.zeros(3, bins, dtype=torch.float64, device=index.device)
    # Products with one-hot rows: sums by index add in random order on CUDA.
    for start in range(0, len(index), _ROWS):
        part = slice(start, start + _ROWS)
        total += values[:, part] @ torch.nn.functional.one_hot(index[part], bins).double()
    return total


def _rows(values: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return values (n, K) and labels (n,) of what counts."""
    _check_shapes(values, labels)
    counted = labels != ignore_index
    truth = labels[counted]
    _check_range(truth, values.shape[1], ignore_index)
    return values.movedim(1, -1)[counted], truth


def _check_shapes(values: Tensor, labels: Tensor) -> None:
    if values.dim() < 2 or labels.shape != (values.shape[0], *values.shape[2:]):
        raise ValueError(
            "values must have shape (B, K, ...) and labels (B, ...), got "
            f"{tuple(values.shape)} and {tuple(labels.shape)}"
        )


def _check_range(truth: Tensor, classes: int, ignore_index: int) -> None:
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1} or {ignore_index}, got "
            f"{int(truth.min())} to {int(truth.max())}"
        )
