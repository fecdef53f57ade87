# SPDX-License-Identifier: Apache-2.0
"""Regression losses for rotated boxes: by exact overlap, and by Gaussian distributions.

Boxes are (N, 5) in the convention of ``rsvheat.ops.boxes``: center x, center y, width, height,
angle in degrees, counter-clockwise. All losses are computed in float32, or float64 for float64
boxes, under autocast too, and start from the difference of the centers, so that large coordinates
cost no precision.
"""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from rsvheat.ops import _autocast, _boxes_checks, _checks
from rsvheat.ops.boxes import box_iou_rotated

BoxReduction: TypeAlias = Literal["none", "mean", "sum"]

# Smallest side that the Gaussian losses divide by, in units of the boxes.
_SMALLEST_SIDE = 1e-4


def iou_loss_rotated(
    pred: Tensor,
    target: Tensor,
    *,
    scale: Literal["linear", "log"] = "linear",
    eps: float = 1e-6,
    reduction: BoxReduction = "mean",
) -> Tensor:
    """Compare rotated boxes by their exact intersection over union.

    The derivative is that of the exact area. It is zero for boxes that do not overlap, so the loss
    needs positive samples that do, or a second loss such as ``kld_loss_rotated``. Where sides
    of the two boxes coincide, the area has one-sided derivatives; the native kernel takes their
    mean, which makes the gradient of equal boxes zero.

    Args:
        pred: Predicted boxes, (N, 5).
        target: Boxes to be predicted, (N, 5).
        scale: ``"linear"`` for ``1 - iou``, ``"log"`` for ``-log(iou)``.
        eps: Smallest ratio whose logarithm is taken; below it the gradient is zero.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the boxes; the mean of no boxes is 0.

    Returns:
        Loss, 0-dim, or (N,) for ``"none"``; NaN where a box is not valid.

    Raises:
        ValueError: If a shape, a device, the scale or the reduction is not as above.
        TypeError: If an argument is not a dense floating-point tensor.

    Source: UnitBox (arXiv 1608.01471), log; rotated boxes: arXiv 1908.03851.
    """
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', got {scale!r}")
    if not _checks.is_number(eps) or not 0 < eps < 1:
        raise ValueError(f"eps must be within (0, 1), got {eps!r}")
    pred, target = _pair(pred, target)
    iou = box_iou_rotated(pred, target, aligned=True)
    return _reduce(1 - iou if scale == "linear" else -iou.clamp(min=eps).log(), reduction)


def kld_loss_rotated(
    pred: Tensor,
    target: Tensor,
    *,
    tau: float = 1.0,
    distance: Literal["log1p", "sqrt"] = "log1p",
    reduction: BoxReduction = "mean",
) -> Tensor:
    """Compare rotated boxes by the Kullback-Leibler divergence of two Gaussian distributions.

    A box stands for the distribution with its center as mean and the covariance
    ``R diag(w**2 / 4, h**2 / 4) R^T``. With ``D = KL(pred || target)`` the loss is
    ``1 - 1 / (tau + f(D))``. It has a gradient for boxes that do not overlap, too. A square has no
    direction here: the loss does not tell its angle.

    Args:
        pred: Predicted boxes, (N, 5).
        target: Boxes to be predicted, (N, 5).
        tau: Offset, at least 1; equal boxes have the loss ``1 - 1 / tau``.
        distance: ``f``: ``"log1p"`` for ``log(1 + D)``, ``"sqrt"`` for ``sqrt(D)``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the boxes; the mean of no boxes is 0.

    Returns:
        Loss, 0-dim, or (N,) for ``"none"``. Sides below 1e-4 count as 1e-4.

    Raises:
        ValueError: If a shape, a device, tau, the distance or the reduction is not as above.
        TypeError: If an argument is not a dense floating-point tensor.

    Source: KLD (arXiv 2106.01883).
    """
    if not _checks.is_number(tau) or not 1 <= tau < math.inf:
        raise ValueError(f"tau must be a finite number >= 1, got {tau!r}")
    if distance not in ("log1p", "sqrt"):
        raise ValueError(f"distance must be 'log1p' or 'sqrt', got {distance!r}")
    pred, target = _pair(pred, target)
    with _autocast.disabled(pred):
        across, up, cos, sin, w, h, target_w, target_h = _relative(pred, target)
        # In the target's frame, where its covariance is diagonal.
        spread_w = (w * cos).square() + (h * sin).square()
        spread_h = (w * sin).square() + (h * cos).square()
        apart = ((2 * across / target_w).square() + (2 * up / target_h).square()) / 2
        shape = (spread_w / target_w.square() + spread_h / target_h.square()) / 2 - 1
        shape = shape + (target_w / w).log() + (target_h / h).log()
        divergence = apart + shape.clamp(min=0)
        value = divergence.log1p() if distance == "log1p" else _root(divergence)
        return _reduce(1 - 1 / (tau + value), reduction)


def prob_iou_loss_rotated(
    pred: Tensor,
    target: Tensor,
    *,
    scale: Literal["linear", "log"] = "linear",
    reduction: BoxReduction = "mean",
) -> Tensor:
    """Compare rotated boxes by ProbIoU, the overlap of two Gaussian distributions.

    A box stands for the distribution with its center as mean and the covariance of a uniform
    distribution over it, ``R diag(w**2 / 12, h**2 / 12) R^T``. With their Bhattacharyya distance
    ``B``, ProbIoU is ``1 - sqrt(1 - exp(-B))``.

    Args:
        pred: Predicted boxes, (N, 5).
        target: Boxes to be predicted, (N, 5).
        scale: ``"linear"`` for ``1 - ProbIoU``, whose gradient vanishes for boxes far apart;
            ``"log"`` for ``B`` itself, ``-log(1 - (1 - ProbIoU)**2)``, whose gradient does not:
            for the first epochs.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over the boxes; the mean of no boxes is 0.

    Returns:
        Loss, 0-dim, or (N,) for ``"none"``. Sides below 1e-4 count as 1e-4.

    Raises:
        ValueError: If a shape, a device, the scale or the reduction is not as above.
        TypeError: If an argument is not a dense floating-point tensor.

    Source: ProbIoU (arXiv 2106.06072).
    """
    if scale not in ("linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', got {scale!r}")
    pred, target = _pair(pred, target)
    with _autocast.disabled(pred):
        across, up, cos, sin, w, h, target_w, target_h = _relative(pred, target)
        # Sum of the covariances in the target's frame, divided by the target's sides and times 12,
        # so that nothing overflows.
        w, h, aspect = w / target_w, h / target_h, target_h / target_w
        first = 1 + (w * cos).square() + (h * aspect * sin).square()
        second = 1 + (w * sin / aspect).square() + (h * cos).square()
        mixed = (w.square() / aspect - h.square() * aspect) * cos * sin
        # first * second - mixed**2, without its cancellation
        determinant = first + second - 1 + (w * h).square()
        x, y = across / target_w, up / target_h
        form = second * x.square() + first * y.square() - 2 * mixed * x * y
        distance = 3 * form.clamp(min=0) / determinant
        distance = distance + (determinant / (4 * w * h)).log().clamp(min=0) / 2
        if scale == "log":
            return _reduce(distance, reduction)
        return _reduce(_root(-torch.expm1(-distance)), reduction)


def _pair(pred: Any, target: Any) -> tuple[Tensor, Tensor]:
    pred, target = _boxes_checks.boxes("pred", pred), _boxes_checks.boxes("target", target)
    _boxes_checks.same_device("target", target, "pred", pred)
    if pred.shape[0] != target.shape[0]:
        raise ValueError(
            f"target must have as many boxes as pred, {pred.shape[0]}, got {target.shape[0]}"
        )
    dtype = torch.promote_types(pred.dtype, target.dtype)
    return pred.to(dtype), target.to(dtype)


def _relative(pred: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Return the prediction's place in the target's frame, its direction, and both boxes' sides."""
    dx, dy, _, _, turn = (pred - target).unbind(1)
    w, h = pred[:, 2:4].clamp(min=_SMALLEST_SIDE).unbind(1)
    target_w, target_h = target[:, 2:4].clamp(min=_SMALLEST_SIDE).unbind(1)
    angle = target[:, 4].deg2rad()
    cos, sin = angle.cos(), angle.sin()
    turn = turn.deg2rad()
    return (
        dx * cos - dy * sin,
        -dx * sin - dy * cos,
        turn.cos(),
        turn.sin(),
        w,
        h,
        target_w,
        target_h,
    )


def _root(value: Tensor) -> Tensor:
    """Return the square root, with a bounded slope at 0."""
    smallest = 1e-7
    return (value.clamp(min=0) + smallest).sqrt() - math.sqrt(smallest)


def _reduce(loss: Tensor, reduction: Any) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / max(loss.shape[0], 1)
    raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
