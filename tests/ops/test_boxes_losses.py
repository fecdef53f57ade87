# SPDX-License-Identifier: Apache-2.0
"""Losses for rotated boxes: values by other means, derivatives, behaviour at extremes."""

import math

import numpy as np
import pytest
import torch
from rotated_boxes import families, random_boxes
from torch import Tensor

from rsvheat import ops

LOSSES = {
    "iou": ops.iou_loss_rotated,
    "iou log": lambda p, t, **k: ops.iou_loss_rotated(p, t, scale="log", **k),
    "kld": ops.kld_loss_rotated,
    "kld sqrt": lambda p, t, **k: ops.kld_loss_rotated(p, t, distance="sqrt", tau=2.0, **k),
    "prob iou": ops.prob_iou_loss_rotated,
    "prob iou log": lambda p, t, **k: ops.prob_iou_loss_rotated(p, t, scale="log", **k),
}


def covariances(boxes: Tensor, share: float) -> np.ndarray:
    """Return R diag(w^2, h^2) R^T * share in image coordinates, (N, 2, 2)."""
    w, h, degrees = boxes[:, 2].numpy(), boxes[:, 3].numpy(), boxes[:, 4].numpy()
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    sides = np.zeros_like(turn)
    sides[:, 0, 0], sides[:, 1, 1] = w**2, h**2
    return share * turn @ sides @ turn.transpose(0, 2, 1)


def close_pairs(count: int) -> tuple[Tensor, Tensor]:
    return random_boxes(count, 30.0), random_boxes(count, 30.0)


def test_iou_losses_are_of_the_exact_ratio(implementation: str, device: torch.device) -> None:
    pred, target = (boxes.to(device) for boxes in close_pairs(50))
    iou = ops.box_iou_rotated(pred, target, aligned=True)
    none = ops.iou_loss_rotated(pred, target, reduction="none")
    assert torch.equal(none, 1 - iou)
    logarithm = ops.iou_loss_rotated(pred, target, scale="log", reduction="none")
    torch.testing.assert_close(logarithm, -iou.clamp(min=1e-6).log())


@pytest.mark.parametrize("distance", ["log1p", "sqrt"])
def test_kld_is_the_divergence_of_the_gaussians(distance: str) -> None:
    pred, target = close_pairs(50)
    p, t = covariances(pred, 1 / 4), covariances(target, 1 / 4)
    inverse = np.linalg.inv(t)
    d = (pred - target)[:, :2].numpy()
    divergence = 0.5 * (
        np.einsum("nij,nji->n", inverse, p)
        + np.einsum("ni,nij,nj->n", d, inverse, d)
        - 2
        + np.log(np.linalg.det(t) / np.linalg.det(p))
    )
    value = np.log1p(divergence) if distance == "log1p" else np.sqrt(divergence)
    found = ops.kld_loss_rotated(pred, target, tau=2.0, distance=distance, reduction="none")
    np.testing.assert_allclose(found.numpy(), 1 - 1 / (2 + value), atol=1e-4)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_prob_iou_is_the_hellinger_distance_of_the_gaussians(scale: str) -> None:
    pred, target = close_pairs(50)
    p, t = covariances(pred, 1 / 12), covariances(target, 1 / 12)
    mean = (p + t) / 2
    d = (pred - target)[:, :2].numpy()
    distance = np.einsum("ni,nij,nj->n", d, np.linalg.inv(mean), d) / 8 + 0.5 * np.log(
        np.linalg.det(mean) / np.sqrt(np.linalg.det(p) * np.linalg.det(t))
    )
    expected = distance if scale == "log" else np.sqrt(1 - np.exp(-distance))
    found = ops.prob_iou_loss_rotated(pred, target, scale=scale, reduction="none")
    np.testing.assert_allclose(found.numpy(), expected, atol=4e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name: str, implementation: str, device: torch.device) -> None:
    pred, target = (boxes[:4].to(device) for boxes in close_pairs(4))
    torch.autograd.gradcheck(
        lambda p, t: LOSSES[name](p, t, reduction="sum"),
        (pred.requires_grad_(), target.requires_grad_()),
        eps=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name: str) -> None:
    loss, (pred, target) = LOSSES[name], close_pairs(7)
    none = loss(pred, target, reduction="none")
    assert none.shape == (7,)
    torch.testing.assert_close(loss(pred, target, reduction="sum"), none.sum())
    torch.testing.assert_close(loss(pred, target), none.mean())
    assert loss(pred[:0], target[:0]) == 0
    leaf = pred[:0].clone().requires_grad_()
    loss(leaf, target[:0]).backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("name", LOSSES)
def test_equal_boxes_are_the_minimum(name: str, native: torch.device) -> None:
    target = random_boxes(40).to(native)
    leaf = target.clone().requires_grad_()
    best = LOSSES[name](leaf, target, reduction="none")
    (grad,) = torch.autograd.grad(best.sum(), leaf)
    assert grad.isfinite().all()
    start = 0.5 if name == "kld sqrt" else 0.0
    torch.testing.assert_close(best, torch.full_like(best, start), rtol=0, atol=1e-9)
    for size in (1e-2, 1.0, 10.0):
        worse = LOSSES[name](target + size * torch.rand_like(target), target, reduction="none")
        assert (worse >= best - 1e-9).all()


@pytest.mark.parametrize("name", LOSSES)
def test_turning_and_moving_both_changes_nothing(name: str, native: torch.device) -> None:
    pred, target = (boxes.to(native) for boxes in close_pairs(40))
    loss = LOSSES[name](pred, target, reduction="none")
    shift = torch.tensor([5e5, 5e6, 0, 0, 0], device=native)
    torch.testing.assert_close(
        LOSSES[name](pred + shift, target + shift, reduction="none"), loss, rtol=1e-6, atol=1e-8
    )
    angle = math.radians(33)
    cos, sin = math.cos(angle), math.sin(angle)

    def turned(boxes: Tensor) -> Tensor:
        x, y, w, h, degrees = boxes.unbind(1)
        return torch.stack((x * cos + y * sin, y * cos - x * sin, w, h, degrees + 33), 1)

    torch.testing.assert_close(
        LOSSES[name](turned(pred), turned(target), reduction="none"), loss, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_everything_stays_finite(name: str, dtype: torch.dtype, native: torch.device) -> None:
    for family, (first, second) in families(20).items():
        # What float16 cannot hold: coordinates, and the gradient of slivers.
        if dtype == torch.float16 and any(w in family for w in ("huge", "UTM", "thin", "width")):
            continue
        pred = first.to(native, dtype).requires_grad_()
        with torch.autocast(native.type, dtype=torch.bfloat16):
            loss = LOSSES[name](pred, second.to(native, dtype))
        assert loss.dtype == torch.float32
        (grad,) = torch.autograd.grad(loss, pred)
        assert loss.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["kld", "prob iou log", "kld sqrt"])
def test_boxes_far_apart_are_pulled_together(name: str, native: torch.device) -> None:
    target = torch.tensor([[50.0, 50, 40, 20, 30]], device=native)
    pred = torch.tensor([[450.0, 250, 30, 25, -20]], device=native).requires_grad_()
    (grad,) = torch.autograd.grad(LOSSES[name](pred, target), pred)
    assert (grad[0, :2] > 0).all()


def test_fitting_by_the_exact_ratio_converges(native: torch.device) -> None:
    target = random_boxes(20).float().to(native)
    offset = torch.tensor([6.0, -5.0, 3.0, -2.0, 12.0], device=native)
    pred = (target + offset).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.5)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * (1 - step / 150)
        optimizer.zero_grad()
        ops.iou_loss_rotated(pred, target, reduction="sum").backward()
        optimizer.step()
    assert ops.box_iou_rotated(pred, target, aligned=True).median() > 0.95


def test_compiles_as_one_graph(native: torch.device) -> None:
    def function(pred: Tensor, target: Tensor) -> Tensor:
        return sum(loss(pred, target) for loss in LOSSES.values())

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    pred, target = (boxes.to(native) for boxes in close_pairs(5))
    pred.requires_grad_()
    value, expected = compiled(pred, target), function(pred, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, pred), torch.autograd.grad(expected, pred)
    )


def test_errors_name_the_argument() -> None:
    pred, target = close_pairs(3)
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="target must have as many boxes as pred, 3, got 2"):
            loss(pred, target[:2])
        with pytest.raises(ValueError, match=r"pred must have shape \(N, 5\)"):
            loss(pred[:, :4], target)
        with pytest.raises(TypeError, match=r"target must be a torch\.Tensor, got list"):
            loss(pred, [])
        with pytest.raises(ValueError, match="reduction must be 'none', 'mean' or 'sum'"):
            loss(pred, target, reduction="max")
        with pytest.raises(ValueError, match="target must be on pred's device cpu"):
            loss(pred, target.to("meta"))
    for call, message in (
        (lambda: ops.iou_loss_rotated(pred, target, scale="cube"), "scale must be 'linear' or"),
        (lambda: ops.iou_loss_rotated(pred, target, eps=0.0), r"eps must be within \(0, 1\)"),
        (lambda: ops.kld_loss_rotated(pred, target, tau=0.5), "tau must be a finite number >= 1"),
        (lambda: ops.kld_loss_rotated(pred, target, distance="l2"), "distance must be 'log1p'"),
        (lambda: ops.prob_iou_loss_rotated(pred, target, scale=""), "scale must be 'linear' or"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
