# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional
from utils import random

from rsvheat import ops

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def images(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (2, 3, 12, 10)
    return random(shape, device=device).requires_grad_(), random(shape, device=device)


@pytest.fixture
def features(device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    shapes = ((2, 8, 6, 5), (2, 16, 3, 3))
    return tuple([random(s, device=device).requires_grad_() for s in shapes] for _ in range(2))


def test_parts_are_what_they_say(images, features) -> None:
    pred, target = images
    loss = ops.multi_domain_loss(pred, target, *features)
    torch.testing.assert_close(loss.spatial, functional.l1_loss(pred, target))
    torch.testing.assert_close(loss.spectral, ops.spectral_l1_loss(pred, target))
    levels = [
        (1 - functional.cosine_similarity(a, b, dim=1)).mean()
        for a, b in zip(*features, strict=True)
    ]
    torch.testing.assert_close(loss.cosine, torch.stack(levels).mean())
    torch.testing.assert_close(loss.total, loss.spatial + loss.spectral + loss.cosine)
    assert loss == (loss.total, loss.spatial, loss.spectral, loss.cosine)


def test_weights_act_on_the_total_alone(images, features) -> None:
    plain = ops.multi_domain_loss(*images, *features)
    loss = ops.multi_domain_loss(*images, *features, weights=(0.5, 2, 3))
    assert loss[1:] == plain[1:]
    total = 0.5 * loss.spatial + 2 * loss.spectral + 3 * loss.cosine
    torch.testing.assert_close(loss.total, total)


def test_one_tensor_is_one_level(images, features) -> None:
    (a, _), (b, _) = features
    assert ops.multi_domain_loss(*images, a, b) == ops.multi_domain_loss(*images, [a], (b,))


def test_gradient_of_the_total_is_the_weighted_sum_of_the_parts(images, features) -> None:
    pred, _ = images
    inputs = [pred, *features[0], *features[1]]
    loss = ops.multi_domain_loss(*images, *features, weights=(0.5, 2, 3))
    grads = torch.autograd.grad(loss.total, inputs, retain_graph=True)
    parts = [
        torch.autograd.grad(part, inputs, retain_graph=True, allow_unused=True) for part in loss[1:]
    ]
    for i, grad in enumerate(grads):
        terms = [w * p[i] for w, p in zip((0.5, 2, 3), parts, strict=True) if p[i] is not None]
        torch.testing.assert_close(grad, torch.stack(terms).sum(0))
    assert all(part[0] is None for part in parts[2:])  # the cosine term does not see the images


def test_target_gets_the_opposite_gradient(images) -> None:
    pred, target = images
    target = target.clone().requires_grad_()
    grads = torch.autograd.grad(ops.multi_domain_loss(pred, target).total, (pred, target))
    assert torch.equal(grads[0], -grads[1])


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 0)])
def test_missing_or_weightless_features_cost_nothing(weights, images, features) -> None:
    if weights[2] == 0:
        features = [[t * float("nan") for t in levels] for levels in features]
    else:
        features = (None, None)
    loss = ops.multi_domain_loss(*images, *features, weights=weights)
    assert loss.cosine.item() == 0
    assert not loss.cosine.requires_grad
    torch.testing.assert_close(loss.total, loss.spatial + loss.spectral)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_features_are_summed_in_float32(dtype: torch.dtype, images, device) -> None:
    # A mean over 2**16 positions in half precision would be off in the second digit.
    a, b = (random((2, 3, 256, 128), dtype, device) for _ in range(2))
    loss = ops.multi_domain_loss(*images, a, b)
    exact = ops.multi_domain_loss(*images, a.double(), b.double())
    assert loss.cosine.dtype == torch.float32
    assert loss.cosine.item() == pytest.approx(exact.cosine.item(), rel=1e-5)


def test_equal_features_agree_and_opposite_ones_do_not(images, features) -> None:
    levels = features[0]
    assert ops.multi_domain_loss(*images, levels, levels).cosine.item() == pytest.approx(
        0, abs=1e-6
    )
    opposite = [-2 * t for t in levels]
    assert ops.multi_domain_loss(*images, levels, opposite).cosine.item() == pytest.approx(2)


def test_zero_features_have_finite_gradients(images, device) -> None:
    a = torch.zeros((1, 4, 2, 2), device=device, requires_grad=True)
    loss = ops.multi_domain_loss(*images, a, torch.ones_like(a))
    (grad,) = torch.autograd.grad(loss.total, a)
    assert loss.cosine.item() == 1
    assert grad.isfinite().all()
