# SPDX-License-Identifier: Apache-2.0
"""Losses on a class per pixel.

All take logits (B, K, H, W) of any floating-point type and labels int64 (B, H, W), compute in
float32 or float64 also under autocast, and leave out pixels of the ignored label. Where no pixel is
left, the loss is zero and so is its gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsvheat.data.spec import IGNORE_INDEX

Term: TypeAlias = Literal["cross_entropy", "focal", "dice", "lovasz"]
Weighting: TypeAlias = Literal["inverse", "square_root", "median", "effective"]


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the mean cross entropy of the pixels.

    Args:
        logits: Logits, (B, K, H, W).
        labels: Class of each pixel, int64 (B, H, W).
        weight: Weight of each class, (K,); the mean is weighted by those of the pixels' classes.
        label_smoothing: Share of the target that is spread evenly over all classes.
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: If shapes do not fit, or on the CPU a label is out of range.
    """
    logits = _check(logits, labels, weight, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        weight = None if weight is None else weight.to(logits)
        # Summed here: on CUDA, cross_entropy's own sum over pixels adds in random order.
        losses = functional.cross_entropy(
            logits,
            labels,
            weight,
            ignore_index=ignore_index,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        weights = _pixel_weights(labels, weight, ignore_index, logits)
        return losses.sum() / _at_least_one(weights.sum())


def focal(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the mean of ``-(1 - p)**gamma * log(p)``, p the probability of the pixel's class.

    With ``gamma`` 0 it is the cross entropy.

    Args:
        logits: Logits, (B, K, H, W).
        labels: Class of each pixel, int64 (B, H, W).
        weight: Weight of each class, (K,), as for ``cross_entropy``; alpha in the source.
        gamma: Exponent, at least 0, that turns the loss to pixels that are not yet right.
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: As for ``cross_entropy``, or if ``gamma`` is negative.

    Source: Lin et al. (arXiv 1708.02002), section 3.2, for several classes by the softmax, and
    with the mean over pixels in place of the sum over anchors.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    logits = _check(logits, labels, weight, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        known = torch.where(labels == ignore_index, 0, labels)
        log_p = logits.log_softmax(1).gather(1, known[:, None])[:, 0]
        # The power has no finite derivative at 0 for gamma below 1.
        miss = -torch.expm1(log_p).clamp(max=-torch.finfo(log_p.dtype).tiny)
        weights = _pixel_weights(labels, weight, ignore_index, logits)
        return -(weights * miss**gamma * log_p).sum() / _at_least_one(weights.sum())


def dice(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    smooth: float = 1.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return one minus the mean soft Dice coefficient of the classes that occur in the labels.

    For each class ``(2 * sum(p * y) + smooth) / (sum(p) + sum(y) + smooth)``, with sums over all
    pixels of the batch, p the class's probability and y 1 where it is the label.

    Args:
        logits: Logits, (B, K, H, W).
        labels: Class of each pixel, int64 (B, H, W).
        weight: Weight of each class in the mean, (K,).
        smooth: Number of pixels added on both sides of the fraction, at least 0.
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: As for ``cross_entropy``, or if ``smooth`` is negative.

    Source: Milletari et al. (arXiv 1606.04797), section 3, without squares; Sudre et al. (arXiv
    1707.03237), eq. 3, for several classes.
    """
    if not smooth >= 0:
        raise ValueError(f"smooth must be at least 0, got {smooth}")
    logits = _check(logits, labels, weight, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        counted = (labels != ignore_index)[:, None]
        known = torch.where(labels == ignore_index, 0, labels)
        truth = functional.one_hot(known, logits.shape[1]).movedim(-1, 1) * counted
        probability = logits.softmax(1) * counted
        both = (probability * truth).sum((0, 2, 3))
        size = truth.sum((0, 2, 3))
        sums = probability.sum((0, 2, 3)) + size + smooth
        coefficient = (2 * both + smooth) / sums.clamp(min=torch.finfo(sums.dtype).tiny)
        return _mean_of_classes(1 - coefficient, size > 0, weight)


def lovasz(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the Lovász-softmax loss: a convex surrogate of one minus the mean IoU.

    The mean is over the classes that occur in the labels; the IoU is that of all pixels of the
    batch.

    Args:
        logits: Logits, (B, K, H, W).
        labels: Class of each pixel, int64 (B, H, W).
        weight: Weight of each class in the mean, (K,).
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: As for ``cross_entropy``.

    Source: Berman et al. (arXiv 1705.08790), sections 2 and 3, algorithm 1.
    """
    logits = _check(logits, labels, weight, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        counted = labels != ignore_index
        probability = logits.softmax(1).movedim(1, -1)[counted]  # (pixels, K)
        classes = labels[counted]
        losses, present = [], []
        for number in range(logits.shape[1]):
            inside = classes == number
            errors = (inside.to(probability.dtype) - probability[:, number]).abs()
            errors, order = errors.sort(descending=True, stable=True)
            slopes = _lovasz_slopes(inside[order]).to(errors.dtype)
            losses.append((errors * slopes).sum())
            present.append(inside.any())
        return _mean_of_classes(torch.stack(losses), torch.stack(present), weight)


def _lovasz_slopes(inside: Tensor) -> Tensor:
    """Return by how much each next error, of pixels in or outside the class, lowers the IoU.

    These are the differences of the source's ``1 - intersection / union`` in closed form: those of
    rounded fractions would be noise for millions of pixels.
    """
    size = inside.sum()
    taken = inside.cumsum(0)
    intersection = (size - taken).double()
    union = (size + torch.arange(1, len(inside) + 1, device=inside.device) - taken).double()
    outside = intersection / (union * (union - 1).clamp(min=1))
    return torch.where(inside, 1 / union.clamp(min=1), outside)


class SegmentationLoss(nn.Module):
    """A weighted sum of losses.

    Args:
        terms: Factor of each loss by name: ``"cross_entropy"``, ``"focal"``, ``"dice"``,
            ``"lovasz"``; a single name has factor 1.
        class_weights: Weight of each class; equal ones by default. See ``class_weights``.
        gamma: Exponent of the focal loss.
        label_smoothing: Share of the cross entropy's target that is spread over all classes.
        smooth: Number of pixels added on both sides of Dice's fraction.
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: If an argument is not as above.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        terms: Mapping[str, float] | Term = "cross_entropy",
        class_weights: Sequence[float] | None = None,
        *,
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        smooth: float = 1.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        self.terms: dict[str, float] = {terms: 1.0} if isinstance(terms, str) else dict(terms)
        unknown = [name for name in self.terms if name not in get_args(Term)]
        if unknown or not self.terms:
            raise ValueError(f"terms must be of {get_args(Term)}, got {list(self.terms)}")
        if not all(0 < factor < float("inf") for factor in self.terms.values()):
            raise ValueError(f"terms must have finite factors above 0, got {self.terms}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 1, got {label_smoothing}"
            )
        weights = None
        if class_weights is not None:
            weights = torch.tensor(list(class_weights), dtype=torch.float32)
            if not (weights.isfinite().all() and (weights >= 0).all() and (weights > 0).any()):
                raise ValueError(
                    "class_weights must be finite, at least 0 and not all 0, got "
                    f"{list(class_weights)}"
                )
        # Made anew from the arguments, so no part of a checkpoint.
        self.register_buffer("class_weights", weights, persistent=False)
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.smooth = smooth
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum, 0-dim.

        Args:
            logits: Logits, (B, K, H, W).
            labels: Class of each pixel, int64 (B, H, W).

        Raises:
            ValueError: As for ``cross_entropy``.
        """
        parts = self.parts(logits, labels)
        return torch.stack([self.terms[name] * part for name, part in parts.items()]).sum()

    def parts(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return each loss by name, without its factor.

        Args:
            logits: Logits, (B, K, H, W).
            labels: Class of each pixel, int64 (B, H, W).

        Raises:
            ValueError: As for ``cross_entropy``.
        """
        given = (logits, labels, self.class_weights)
        index = self.ignore_index
        values: dict[str, Tensor] = {}
        for name in self.terms:
            if name == "cross_entropy":
                smoothing = self.label_smoothing
                values[name] = cross_entropy(*given, label_smoothing=smoothing, ignore_index=index)
            elif name == "focal":
                values[name] = focal(*given, gamma=self.gamma, ignore_index=index)
            elif name == "dice":
                values[name] = dice(*given, smooth=self.smooth, ignore_index=index)
            else:
                values[name] = lovasz(*given, ignore_index=index)
        return values


def class_weights(counts: Sequence[int], method: Weighting = "median") -> list[float]:
    """Return weights that raise rare classes, from the number of pixels of each class.

    The weight before scaling, with n pixels of the class:

    - ``inverse``: ``1 / n``
    - ``square_root``: ``1 / sqrt(n)``
    - ``median``: ``median of all n / n``: Eigen and Fergus (arXiv 1411.4734), section 6.3.2
    - ``effective``: ``(1 - b) / (1 - b**n)``, ``b = 1 - 1 / mean of all n``: Cui et al. (arXiv
      1901.05555), eq. 12

    All but the median's are scaled to a mean of 1. A class without pixels gets the largest weight
    of the others.

    Args:
        counts: Number of pixels of each class; one at least must be above 0.
        method: Name of the rule.

    Raises:
        ValueError: If an argument is not as above.
    """
    if method not in get_args(Weighting):
        raise ValueError(f"method must be one of {get_args(Weighting)}, got {method!r}")
    numbers = torch.tensor(list(counts), dtype=torch.float64)
    if not len(numbers) or (numbers < 0).any() or not (numbers > 0).any():
        raise ValueError(f"counts must be at least 0 and not all 0, got {list(counts)}")
    some = numbers[numbers > 0]
    if method == "inverse":
        weights = 1 / some
    elif method == "square_root":
        weights = 1 / some.sqrt()
    elif method == "median":
        weights = some.quantile(0.5) / some
    else:
        kept = torch.log1p(-1 / some.mean().clamp(min=1 + 1e-9))
        weights = torch.expm1(kept) / torch.expm1(kept * some)
    if method != "median":
        weights = weights / weights.mean()
    result = torch.full_like(numbers, float(weights.max()))
    result[numbers > 0] = weights
    values: list[float] = result.tolist()
    return values


def _check(logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """Check shapes and labels; return the logits in float32 or float64."""
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "logits must have shape (B, K, H, W) and labels (B, H, W), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    classes = logits.shape[1]
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"weight must have shape ({classes},), got {tuple(weight.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
    # CUDA kernels check labels themselves; looking here would make the host wait.
    if labels.device.type == "cpu":
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
        if wrong.any():
            raise ValueError(
                f"labels must be 0 to {classes - 1} or {ignore_index}, got "
                f"{sorted(set(labels[wrong].tolist()))[:10]}"
            )
    return logits if logits.dtype == torch.float64 else logits.float()


def _pixel_weights(
    labels: Tensor, weight: Tensor | None, ignore_index: int, like: Tensor
) -> Tensor:
    """Return the weight of each pixel's class, 0 for ignored ones."""
    counted = labels != ignore_index
    if weight is None:
        return counted.to(like.dtype)
    return weight.to(like)[torch.where(counted, labels, 0)] * counted


def _at_least_one(total: Tensor) -> Tensor:
    """Return a divisor: 1 where there is nothing to divide."""
    return torch.where(total > 0, total, 1)


def _mean_of_classes(losses: Tensor, present: Tensor, weight: Tensor | None) -> Tensor:
    shares = present.to(losses.dtype)
    if weight is not None:
        shares = shares * weight.to(losses)
    return (losses * shares).sum() / _at_least_one(shares.sum())
