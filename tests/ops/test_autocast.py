# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from utils import diffusivity, random

from rsvheat import ops

pytestmark = pytest.mark.usefixtures("implementation")

LOWER = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("lower", LOWER, ids=str)
def test_heat_conduction_runs_in_the_autocast_type(
    lower: torch.dtype, device: torch.device
) -> None:
    x = random((2, 8, 9, 4), device=device).requires_grad_()
    k = diffusivity((4,), device=device).requires_grad_()
    with torch.autocast(device.type, dtype=lower):
        y = ops.heat_conduction(x, k)
        z = ops.apply_heat_filter(x, ops.heat_filter(k, 8, 9))
    assert y.dtype == z.dtype == lower
    # The same numbers as with the cast spelt out: k and the filter stay in float32.
    expected = ops.heat_conduction(x.to(lower), k)
    assert torch.equal(y, expected)
    assert torch.equal(z, ops.apply_heat_filter(x.to(lower), ops.heat_filter(k, 8, 9)))
    grads = torch.autograd.grad(y.float().square().sum(), (x, k))
    for grad, want in zip(
        grads, torch.autograd.grad(expected.float().square().sum(), (x, k)), strict=True
    ):
        assert grad.dtype == torch.float32
        assert torch.equal(grad, want)


@pytest.mark.parametrize("lower", LOWER, ids=str)
def test_spectra_bands_and_sums_run_in_float32(lower: torch.dtype, device: torch.device) -> None:
    def outputs(x: Tensor) -> list[Tensor]:
        bands = ops.frequency_split(x, 0.4)
        return [ops.dct2d(x), ops.idct2d(x, "nhwc"), *bands, ops.spectral_l1_loss(x, x.flip(0))]

    x = random((2, 8, 9, 4), lower, device)
    with torch.autocast(device.type, dtype=lower):
        halves, singles = outputs(x), outputs(x.float())
    for half, single, expected in zip(halves, singles, outputs(x.float()), strict=True):
        assert half.dtype == single.dtype == torch.float32
        torch.testing.assert_close(half, expected)
        torch.testing.assert_close(single, expected)


def test_losses_keep_their_precision(device: torch.device) -> None:
    pred = random((2, 3, 16, 16), torch.bfloat16, device).requires_grad_()
    target = random((2, 3, 16, 16), torch.bfloat16, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = ops.multi_domain_loss(pred, target, pred, target)
    expected = ops.multi_domain_loss(*(t.detach().float() for t in (pred, target, pred, target)))
    for part, want in zip(loss, expected, strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, want, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(loss.total, pred)
    assert grad.dtype == torch.bfloat16


def test_float64_is_left_alone(device: torch.device) -> None:
    x = random((2, 8, 9, 4), torch.float64, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for y in (
            ops.heat_conduction(x, 0.5),
            ops.apply_heat_filter(x, ops.heat_filter(0.5, 8, 9).to(device)),
            ops.dct2d(x),
            *ops.frequency_split(x, 0.5),
            ops.spectral_l1_loss(x, x.flip(0)),
        ):
            assert y.dtype == torch.float64
        y = ops.heat_conduction(x, 0.5)
    assert torch.equal(y, ops.heat_conduction(x, 0.5))


def test_compiles_under_autocast(device: torch.device) -> None:
    def function(x: Tensor, k: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return ops.heat_conduction(x, k).float() + ops.dct2d(x.bfloat16(), "nhwc")

    torch._dynamo.reset()
    x = random((2, 8, 9, 4), device=device).requires_grad_()
    k = diffusivity((4,), device=device).requires_grad_()
    y = torch.compile(function, fullgraph=True, backend="aot_eager")(x, k)
    expected = function(x, k)
    torch.testing.assert_close(y, expected)
    for grad, want in zip(
        torch.autograd.grad(y.sum(), (x, k)),
        torch.autograd.grad(expected.sum(), (x, k)),
        strict=True,
    ):
        torch.testing.assert_close(grad, want)


def test_gradient_scaling_reaches_small_gradients(device: torch.device) -> None:
    pred = random((2, 3, 64, 64), torch.float16, device).requires_grad_()
    loss = ops.spectral_l1_loss(pred, torch.zeros_like(pred))
    (grad,) = torch.autograd.grad(loss * 2.0**14, pred)
    exact = pred.detach().float().requires_grad_()
    loss = ops.spectral_l1_loss(exact, torch.zeros_like(exact))
    (want,) = torch.autograd.grad(loss * 2.0**14, exact)
    torch.testing.assert_close(grad.float(), want, rtol=4e-3, atol=1e-3)
