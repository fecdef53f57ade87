# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, silu

from rsvheat.ops._backend import use_native
from rsvheat.ops.recomputed import gated_norm_linear, lowered_layer_norm, recomputed_mlp

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def operands(dtype: torch.dtype, parameter: torch.dtype | None = None) -> list[Tensor]:
    shapes = ((2, 3, 6), (8, 6), (8,), (5, 8), (5,))
    torch.manual_seed(0)
    return [
        torch.randn(shape, dtype=parameter if i and parameter else dtype, requires_grad=True)
        for i, shape in enumerate(shapes)
    ]


def plain(x: Tensor, *parameters: Tensor) -> Tensor:
    weight1, bias1, weight2, bias2 = (p.to(x.dtype) for p in parameters)
    return linear(gelu(linear(x, weight1, bias1)), weight2, bias2)


@pytest.mark.parametrize("parameter", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_the_plain_mlp(
    dtype: torch.dtype, parameter: torch.dtype | None
) -> None:
    leaves = operands(dtype, parameter)
    actual, expected = recomputed_mlp(*leaves), plain(*leaves)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    tolerance = TOLERANCES[dtype]
    for got, want, leaf in zip(
        torch.autograd.grad(actual, leaves, grad),
        torch.autograd.grad(expected, leaves, grad),
        leaves,
        strict=True,
    ):
        assert got.dtype == leaf.dtype
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_what_needs_no_gradient_gets_none() -> None:
    for needed in range(5):
        leaves = [
            t.detach().requires_grad_(i == needed) for i, t in enumerate(operands(torch.float64))
        ]
        (got,) = torch.autograd.grad(recomputed_mlp(*leaves).square().sum(), leaves[needed])
        (want,) = torch.autograd.grad(plain(*leaves).square().sum(), leaves[needed])
        torch.testing.assert_close(got, want)


def test_gradients_of_gradients() -> None:
    assert torch.autograd.gradgradcheck(recomputed_mlp, operands(torch.float64))


def test_only_operands_are_kept() -> None:
    leaves, kept = operands(torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        recomputed_mlp(*leaves)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in leaves}


def norm_operands(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(1)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    x, gate = torch.randn(2, 2, 3, 8, dtype=dtype)
    norm_weight, norm_bias = torch.randn(2, 8, dtype=wide)
    weight, bias = torch.randn(5, 8, dtype=wide), torch.randn(5, dtype=wide)
    return [t.clone().requires_grad_() for t in (x, gate, norm_weight, norm_bias, weight, bias)]


def gated(*operands: Tensor) -> Tensor:
    return gated_norm_linear(*operands, 1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
def test_gradients_of_a_gated_norm_and_a_linear_layer(dtype: torch.dtype) -> None:
    operands = norm_operands(dtype)
    if not use_native(operands[0]):
        pytest.skip("the native operators are not loaded")
    x, gate, norm_weight, norm_bias, weight, bias = (t.double() for t in operands)
    normed = layer_norm(x, (8,), norm_weight, norm_bias, 1e-5) * silu(gate)
    expected = linear(normed, weight, bias)
    actual = gated(*operands)
    assert actual.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.randn_like(actual)
    found = torch.autograd.grad(actual, operands, grad)
    wanted = torch.autograd.grad(expected, operands, grad.double())
    for got, want, operand in zip(found, wanted, operands, strict=True):
        assert got.dtype == operand.dtype
        torch.testing.assert_close(got, want, rtol=5 * tolerance, atol=5 * tolerance)
    if dtype == torch.float64:
        assert torch.autograd.gradgradcheck(gated, operands)


def test_a_gated_norm_keeps_its_operands_alone() -> None:
    operands, kept = norm_operands(torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated(*operands)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in operands}


def test_a_lowered_norm_is_that_of_float32_rounded_once() -> None:
    x, _, weight, bias = norm_operands(torch.bfloat16)[:4]
    actual = lowered_layer_norm(x, weight, bias, 1e-5)
    expected = layer_norm(x.float(), (8,), weight, bias, 1e-5).bfloat16()
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    for create_graph in (False, True):
        found = torch.autograd.grad(actual, (x, weight, bias), grad, True, create_graph)
        wanted = torch.autograd.grad(expected, (x, weight, bias), grad, True)
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        lowered_layer_norm(x, weight, bias, 1e-5)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, weight, bias)}
