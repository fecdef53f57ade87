# SPDX-License-Identifier: Apache-2.0
"""The fused steps of a block: against their definitions in float64, by NumPy and SciPy."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode
from utils import (
    FLOATS,
    HALVES,
    PARAMETER_TOLERANCE,
    assert_accurate,
    exact,
    l2,
    random,
    sum_dtype,
)

from rsvheat import ops
from rsvheat.ops import reference

# Of all results. Measured: 3e-7 and 4e-16.
TOLERANCE = PARAMETER_TOLERANCE
EPS = 1e-5


# ---- The definitions, and their gradients by hand -----------------------------------------------


class Exact(NamedTuple):
    """A result, the gradients, and the norms of what was summed to make each of them."""

    y: np.ndarray
    grads: tuple[np.ndarray, ...]
    scales: tuple[float, ...]


def unit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of mean 0 and variance 1, and the deviations that they were divided by."""
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPS)
    return centred / deviation, deviation


def through_norm(
    grad: np.ndarray, x: np.ndarray, weight: np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """Return the gradients of x, weight and bias for that of ``unit(x) * weight + bias``."""
    normed, deviation = unit(x)
    inner = grad * weight
    mean = inner.mean(-1, keepdims=True)
    slope = (inner * normed).mean(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    grads = [
        (inner - mean - normed * slope) / deviation,
        (grad * normed).sum(rows),
        grad.sum(rows),
    ]
    return grads, [l2(inner / deviation), l2(grad * normed), l2(grad)]


def exact_gated_layer_norm(
    x: np.ndarray, gate: np.ndarray, weight: np.ndarray, bias: np.ndarray, grad_y: np.ndarray
) -> Exact:
    normed = unit(x)[0] * weight + bias
    opened = scipy.special.expit(gate)
    silu = gate * opened
    (grad_x, *others), (scale_x, *scales) = through_norm(grad_y * silu, x, weight)
    grad_gate = grad_y * normed * (opened + silu * (1 - opened))
    return Exact(
        normed * silu, (grad_x, grad_gate, *others), (scale_x, l2(grad_y * normed), *scales)
    )


def exact_add_layer_norm(
    residual: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, grad_y: np.ndarray
) -> Exact:
    grads, scales = through_norm(grad_y, x, weight)
    y = residual + unit(x)[0] * weight + bias
    return Exact(y, (grad_y, *grads), (l2(grad_y), *scales))


def exact_spatial_correction_conv(
    x: np.ndarray,
    embed: np.ndarray,
    norm_weight: np.ndarray,
    norm_bias: np.ndarray,
    conv_weight: np.ndarray,
    conv_bias: np.ndarray,
    grad_y: np.ndarray,
) -> Exact:
    corrected = np.maximum(x + embed, 0)
    normed = unit(corrected)[0] * norm_weight + norm_bias
    y, grad_normed = np.empty_like(x), np.empty_like(x)
    for c, kernel in enumerate(conv_weight):
        # correlate's adjoint is convolve; (1, 3, 3) leaves the batch alone.
        y[..., c] = scipy.ndimage.correlate(normed[..., c], kernel, mode="constant") + conv_bias[c]
        grad_normed[..., c] = scipy.ndimage.convolve(grad_y[..., c], kernel, mode="constant")
    grads, scales = through_norm(grad_normed, corrected, norm_weight)
    grad_x = np.where(x + embed > 0, grads[0], 0)
    height, width = x.shape[1:3]
    framed = np.pad(normed, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = np.stack(
        [
            framed[:, i : i + height, j : j + width] * grad_y
            for i, j in itertools.product(range(3), range(3))
        ]
    )
    grad_kernel = products.sum((1, 2, 3)).T.reshape(conv_weight.shape)
    return Exact(
        y,
        (grad_x, grad_x.sum(0), *grads[1:], grad_kernel, grad_y.sum((0, 1, 2))),
        (scales[0], scales[0], *scales[1:], l2(products), l2(grad_y)),
    )


class Step(NamedTuple):
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    exact: Callable[..., Exact]
    arguments: tuple[str, ...]


STEPS = {
    "gated_layer_norm": Step(
        ops.gated_layer_norm,
        reference.gated_layer_norm,
        exact_gated_layer_norm,
        ("x", "gate", "weight", "bias"),
    ),
    "add_layer_norm": Step(
        ops.add_layer_norm,
        reference.add_layer_norm,
        exact_add_layer_norm,
        ("residual", "x", "weight", "bias"),
    ),
    "spatial_correction_conv": Step(
        ops.spatial_correction_conv,
        reference.spatial_correction_conv,
        exact_spatial_correction_conv,
        ("x", "embed", "norm_weight", "norm_bias", "conv_weight", "conv_bias"),
    ),
}
NORMS = ("gated_layer_norm", "add_layer_norm")
# Not 2: rows of two nearly equal values lose digits in float32, in whatever order they are summed.
CHANNELS = (1, 3, 8, 15, 16, 17, 37, 64, 128, 200)

every_step = pytest.mark.parametrize("name", STEPS)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def operands(
    name: str,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Return arguments of a step: features in ``dtype``, parameters in the type beside it."""
    channels, parameter = shape[-1], sum_dtype(dtype)
    x = random(shape, dtype, device)
    if name in NORMS:
        second = random(shape, dtype, device)
        return [x, second, *(random((channels,), parameter, device) for _ in range(2))]
    shapes = (shape[1:], (channels,), (channels,), (channels, 1, 3, 3), (channels,))
    return [x, *(random(s, parameter, device) for s in shapes)]


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def value_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_y: Tensor
) -> list[Tensor]:
    inputs = leaves(inputs)
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y)]


def assert_exact(
    name: str, function: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype, device
) -> None:
    inputs = operands(name, shape, dtype, device)
    grad_y = random(shape, dtype, device)
    want = STEPS[name].exact(*map(exact, inputs), exact(grad_y))
    y, *grads = value_and_gradients(function, inputs, grad_y)
    assert y.dtype == dtype
    assert_accurate(y, want.y, TOLERANCE)
    for grad, expected, scale, source in zip(grads, want.grads, want.scales, inputs, strict=True):
        assert grad.dtype == source.dtype
        assert_accurate(grad, expected, TOLERANCE, scale=scale)


def shapes(name: str, channels: int) -> list[tuple[int, ...]]:
    if name in NORMS:
        # More rows than the backward pass has blocks, fewer, one, none; any number of axes.
        sizes: list[tuple[int, ...]] = [(3, 5, 17), (130,), (7,), (), (1, 1, 1, 2), (0, 4)]
    else:
        # Lines and pixels; fewer rows than blocks, blocks of many rows; several images.
        sizes = [(2, 5, 7), (1, 1, 1), (2, 1, 9), (3, 6, 1), (1, 2, 2), (2, 41, 3), (0, 4, 5)]
    return [(*size, channels) for size in sizes]


# ---- Accuracy -----------------------------------------------------------------------------------


@every_dtype
@every_step
def test_values_and_gradients(
    name: str, dtype: torch.dtype, kernel: torch.device, one_thread: None
) -> None:
    for channels in CHANNELS:
        for shape in shapes(name, channels):
            assert_exact(name, STEPS[name].function, shape, dtype, kernel)


@every_dtype
@every_step
def test_reference_values_and_gradients(name: str, dtype: torch.dtype, one_thread: None) -> None:
    for channels in (3, 17, 64):
        for shape in shapes(name, channels):
            assert_exact(name, STEPS[name].reference, shape, dtype, "cpu")


@every_step
def test_features_of_an_encoder(name: str, kernel: torch.device, one_thread: None) -> None:
    for size, channels in ((56, 32), (28, 96), (7, 768)):
        shape = (1, size, size, channels)
        assert_exact(name, STEPS[name].function, shape, torch.float32, kernel)


@pytest.mark.usefixtures("implementation", "one_thread")
class TestArguments:
    @every_step
    def test_eps(self, name: str, device: torch.device) -> None:
        inputs = operands(name, (2, 4, 5, 6), torch.float64, device)
        # A row of equal values: only eps is left of the deviation.
        inputs[1 if name == "add_layer_norm" else 0][:, 0] = 0.5
        small, large = (STEPS[name].function(*inputs, eps) for eps in (1e-12, 1e3))
        assert not torch.allclose(small, large)
        torch.testing.assert_close(large, STEPS[name].reference(*inputs, eps=1e3))
        step = STEPS[name]
        torch.testing.assert_close(step.function(*inputs), step.reference(*inputs, EPS))
        assert small.isfinite().all()

    @every_step
    def test_parameters_are_taken_in_the_type_that_goes_with_x(
        self, name: str, device: torch.device
    ) -> None:
        features = 1 if name == "spatial_correction_conv" else 2
        for dtype, given in ((torch.float32, torch.bfloat16), (torch.float64, torch.float32)):
            inputs = operands(name, (2, 4, 5, 6), dtype, device)
            mixed = [t if i < features else t.to(given) for i, t in enumerate(inputs)]
            grad_y = random((2, 4, 5, 6), dtype, device)
            actual = value_and_gradients(STEPS[name].function, mixed, grad_y)
            plain = [t.to(dtype) for t in mixed]
            expected = value_and_gradients(STEPS[name].function, plain, grad_y)
            assert torch.equal(actual[0], expected[0])
            for got, want, source in zip(actual[1:], expected[1:], mixed, strict=True):
                assert got.dtype == source.dtype
                assert torch.equal(got, want.to(source.dtype))

    @pytest.mark.parametrize("name", NORMS)
    def test_the_second_operand_is_taken_in_the_type_of_the_first(
        self, name: str, device: torch.device
    ) -> None:
        for first, second in itertools.permutations(FLOATS, 2):
            inputs = operands(name, (2, 5, 6), first, device)
            other = random((2, 5, 6), second, device)
            y = STEPS[name].function(inputs[0], other, *inputs[2:])
            assert y.dtype == first
            assert torch.equal(
                y, STEPS[name].function(inputs[0], other.to(first), *inputs[2:])
            )  # rounded before, not after

    @every_step
    def test_strides_change_nothing(self, name: str, device: torch.device) -> None:
        def strange(t: Tensor) -> list[Tensor]:
            reversed_axes = t.permute(*reversed(range(t.dim()))).contiguous()
            spread = torch.stack((t, torch.full_like(t, math.nan)), -1)[..., 0]
            shifted = torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)
            return [reversed_axes.permute(*reversed(range(t.dim()))), spread, shifted]

        inputs = operands(name, (2, 5, 4, 6), torch.float32, device)
        grad_y = random((2, 5, 4, 6), device=device)
        expected = value_and_gradients(STEPS[name].function, inputs, grad_y)
        variants = [strange(t) for t in (*inputs, grad_y)]
        for kind in range(3):
            *args, grad = (variant[kind] for variant in variants)
            args = [t.requires_grad_() for t in args]
            y = STEPS[name].function(*args)
            grads = torch.autograd.grad(y, args, grad)
            for actual, want in zip((y.detach(), *grads), expected, strict=True):
                torch.testing.assert_close(actual, want)

    @every_step
    def test_expanded_operands_and_gradients(self, name: str, device: torch.device) -> None:
        inputs = operands(name, (3, 5, 4, 6), torch.float32, device)
        inputs[0] = inputs[0][:1, :, :1].expand(3, 5, 4, 6)
        inputs[1] = inputs[1][..., :1, :].expand_as(inputs[1])
        inputs[-1] = inputs[-1][:1].expand_as(inputs[-1])
        inputs = [t.requires_grad_() for t in inputs]
        y = STEPS[name].function(*inputs)
        ones = torch.ones((), device=device).expand_as(y)
        grads = torch.autograd.grad(y, inputs, ones)
        plain = value_and_gradients(
            STEPS[name].function, [t.detach().contiguous() for t in inputs], ones.contiguous()
        )
        for actual, want in zip((y.detach(), *grads), plain, strict=True):
            torch.testing.assert_close(actual, want)

    @every_step
    def test_empty_batches_have_zero_gradients(self, name: str, device: torch.device) -> None:
        inputs = operands(name, (0, 4, 5, 6), torch.float32, device)
        y, *grads = value_and_gradients(STEPS[name].function, inputs, torch.empty_like(inputs[0]))
        assert y.shape == (0, 4, 5, 6)
        for grad, source in zip(grads, inputs, strict=True):
            assert torch.equal(grad, torch.zeros_like(source))

    @pytest.mark.parametrize("name", NORMS)
    def test_no_channels(self, name: str, device: torch.device) -> None:
        inputs = operands(name, (2, 4, 5, 0), torch.float32, device)
        assert STEPS[name].function(*inputs).shape == (2, 4, 5, 0)


# ---- Extremes -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("offset", [10.0, 1e3, 1e5])
@pytest.mark.parametrize("name", NORMS)
def test_large_means_cost_no_more_than_rounding_them(
    name: str, offset: float, kernel: torch.device
) -> None:
    inputs = operands(name, (20, 133), torch.float32, kernel)
    x = 1 if name == "add_layer_norm" else 0
    inputs[x] += offset
    grad_y = random((20, 133), device=kernel)
    want = STEPS[name].exact(*map(exact, inputs), exact(grad_y))
    y, *grads = value_and_gradients(STEPS[name].function, inputs, grad_y)
    # The mean in float32 is off by half a unit of its last place; a sum of squares minus the
    # squared mean would be off by the square of the offset times that.
    bound = {torch.float32: 1e-6 + offset * 2.0**-23}
    assert_accurate(y, want.y, bound)
    for grad, expected, scale in zip(grads, want.grads, want.scales, strict=True):
        assert_accurate(grad, expected, bound, scale=scale)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e15])
def test_any_scale_of_features(scale: float, kernel: torch.device) -> None:
    for name in NORMS:
        inputs = operands(name, (20, 37), torch.float32, kernel)
        inputs[1 if name == "add_layer_norm" else 0] *= scale
        grad_y = random((20, 37), device=kernel)
        want = STEPS[name].exact(*map(exact, inputs), exact(grad_y))
        y, *grads = value_and_gradients(STEPS[name].function, inputs, grad_y)
        assert_accurate(y, want.y, TOLERANCE)
        for grad, expected, size in zip(grads, want.grads, want.scales, strict=True):
            assert_accurate(grad, expected, TOLERANCE, scale=size)


@every_dtype
def test_wide_open_and_closed_gates(dtype: torch.dtype, kernel: torch.device) -> None:
    x, gate, weight, bias = operands("gated_layer_norm", (40, 37), dtype, kernel)
    grad_y = random((40, 37), dtype, kernel)
    gate = gate.sign() * (100 - gate.abs())
    want = exact_gated_layer_norm(*map(exact, (x, gate, weight, bias, grad_y)))
    y, *grads = value_and_gradients(ops.gated_layer_norm, (x, gate, weight, bias), grad_y)
    assert_accurate(y, want.y, TOLERANCE)
    for grad, expected, scale in zip(grads, want.grads, want.scales, strict=True):
        assert_accurate(grad, expected, TOLERANCE, scale=scale)
    # Closed ones let through nothing that float32 could add to anything.
    shut = value_and_gradients(ops.gated_layer_norm, (x, -gate.abs(), weight, bias), grad_y)
    for value in shut:
        assert value.isfinite().all()
        assert value.float().abs().max() < 1e-30


@pytest.mark.usefixtures("one_thread")
@every_step
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_values_spread_as_in_the_reference(
    value: float, name: str, kernel: torch.device
) -> None:
    shape = (2, 5, 6, 19)
    for index in range(len(STEPS[name].arguments)):
        inputs = operands(name, shape, torch.float32, kernel)
        inputs[index].view(-1)[inputs[index].numel() // 2] = value
        grad_y = random(shape, device=kernel)
        actual = value_and_gradients(STEPS[name].function, inputs, grad_y)
        expected = value_and_gradients(STEPS[name].reference, inputs, grad_y)
        for got, want in zip(actual, expected, strict=True):
            assert torch.equal(got.isfinite(), want.isfinite()), STEPS[name].arguments[index]
            if math.isnan(value):
                assert torch.equal(got.isnan(), want.isnan())
        assert not all(got.isfinite().all() for got in actual) or value == -math.inf


@every_step
def test_nan_gradients_spread_as_in_the_reference(name: str, kernel: torch.device) -> None:
    inputs = operands(name, (2, 5, 6, 19), torch.float32, kernel)
    grad_y = random((2, 5, 6, 19), device=kernel)
    grad_y[1, 2, 3, 4] = math.nan
    actual = value_and_gradients(STEPS[name].function, inputs, grad_y)
    expected = value_and_gradients(STEPS[name].reference, inputs, grad_y)
    for got, want in zip(actual, expected, strict=True):
        assert torch.equal(got.isnan(), want.isnan())


def test_float16_overflows_to_infinity(kernel: torch.device) -> None:
    x = random((4, 16), torch.float16, kernel)
    weight = torch.full((16,), 1e5, device=kernel)
    y = ops.add_layer_norm(torch.zeros_like(x), x, weight, torch.zeros_like(weight))
    normed = (x.float() - x.float().mean(-1, keepdim=True)).sign()
    assert torch.equal(y[y.isinf()].sign().float(), normed[y.isinf()])
    assert y.isinf().any()
    assert not y.isnan().any()


# ---- Gradients ----------------------------------------------------------------------------------


def away_from_the_kink(inputs: list[Tensor]) -> list[Tensor]:
    """Keep x + embed at a distance from 0, where finite differences see both slopes."""
    x, embed, *others = inputs
    total = x + embed
    return [x + total.sign() * 0.1, embed, *others]


@pytest.mark.usefixtures("implementation", "one_thread")
class TestGradients:
    @pytest.mark.parametrize("size", [(2, 3), (1,), ()])
    @pytest.mark.parametrize("channels", [1, 4])
    @pytest.mark.parametrize("name", NORMS)
    def test_norms(self, name: str, channels: int, size: tuple[int, ...], device) -> None:
        inputs = leaves(operands(name, (*size, channels), torch.float64, device))
        assert gradcheck(STEPS[name].function, inputs)
        assert gradgradcheck(STEPS[name].function, inputs)

    @pytest.mark.parametrize("shape", [(2, 3, 2, 3), (1, 1, 1, 2), (2, 1, 4, 1), (1, 5, 1, 2)])
    def test_spatial_correction(self, shape: tuple[int, ...], device: torch.device) -> None:
        inputs = operands("spatial_correction_conv", shape, torch.float64, device)
        inputs = leaves(away_from_the_kink(inputs))
        assert gradcheck(ops.spatial_correction_conv, inputs)
        assert gradgradcheck(ops.spatial_correction_conv, inputs)

    @every_step
    def test_what_is_not_asked_for_is_not_there_and_changes_nothing(
        self, name: str, device: torch.device
    ) -> None:
        inputs = operands(name, (2, 4, 5, 6), torch.float32, device)
        grad_y = random((2, 4, 5, 6), device=device)
        _, *full = value_and_gradients(STEPS[name].function, inputs, grad_y)
        for wanted in itertools.product((False, True), repeat=len(inputs)):
            if not any(wanted):
                continue
            args = [
                t.detach().clone().requires_grad_(want)
                for t, want in zip(inputs, wanted, strict=True)
            ]
            STEPS[name].function(*args).backward(grad_y)
            for arg, want, expected in zip(args, wanted, full, strict=True):
                assert (arg.grad is not None) == want
                if want:
                    torch.testing.assert_close(arg.grad, expected, rtol=1e-5, atol=1e-5)

    @every_step
    def test_frozen_inputs_have_second_derivatives_too(
        self, name: str, device: torch.device
    ) -> None:
        inputs = operands(name, (1, 2, 3, 3), torch.float64, device)
        if name not in NORMS:
            inputs = away_from_the_kink(inputs)
        for i in range(len(inputs)):

            def alone(t: Tensor, i: int = i) -> Tensor:
                return STEPS[name].function(*inputs[:i], t, *inputs[i + 1 :])

            leaf = inputs[i].clone().requires_grad_()
            assert gradcheck(alone, leaf)
            assert gradgradcheck(alone, leaf)

    @every_step
    def test_inputs_that_depend_on_each_other(self, name: str, device: torch.device) -> None:
        # As in a block, whose branch was computed from the residual, and as with tied weights.
        first, second, *others = leaves(operands(name, (2, 3, 4, 5), torch.float64, device))

        def gradients(create_graph: bool) -> tuple[Tensor, ...]:
            other = (first.sin() * others[0])[0] if name not in NORMS else first.sin() * others[0]
            tied = [others[0], others[0].cos(), *others[2:]]
            y = STEPS[name].function(first, other + second, *tied)
            return torch.autograd.grad(
                y.square().sum(), (first, second, others[0]), create_graph=create_graph
            )

        for actual, expected in zip(gradients(True), gradients(False), strict=True):
            torch.testing.assert_close(actual, expected)

    @pytest.mark.parametrize("name", NORMS)
    def test_one_tensor_as_two_inputs(self, name: str, device: torch.device) -> None:
        x, _, weight, _ = leaves(operands(name, (3, 4), torch.float64, device))

        def twice(x: Tensor, weight: Tensor) -> Tensor:
            return STEPS[name].function(x, x, weight, weight)

        assert gradcheck(twice, (x, weight))
        assert gradgradcheck(twice, (x, weight))

    @every_step
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_second_derivatives_keep_their_types(
        self, name: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        inputs = leaves(operands(name, (2, 4, 3, 8), dtype, device))
        y = STEPS[name].function(*inputs)
        grads = torch.autograd.grad(y.float().square().sum(), inputs, create_graph=True)
        twice = torch.autograd.grad(sum(g.float().square().sum() for g in grads), inputs)
        for source, once, again in zip(inputs, grads, twice, strict=True):
            assert source.dtype == once.dtype == again.dtype


@every_step
def test_saves_its_inputs_alone(name: str, native: torch.device) -> None:
    inputs = leaves(operands(name, (2, 4, 5, 6), torch.float32, native))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        STEPS[name].function(*inputs)
    storages = {t.untyped_storage().data_ptr() for t in inputs}
    assert {t.untyped_storage().data_ptr() for t in saved} <= storages
    assert len(saved) == len(inputs) - (name == "add_layer_norm")  # not the residual


@pytest.mark.cuda
@pytest.mark.parametrize("lower", HALVES, ids=str)
@pytest.mark.parametrize("channels", [40, 37])
def test_a_narrow_branch_is_added_to_a_wide_residual(
    channels: int, lower: torch.dtype, gpu: torch.device
) -> None:
    residual, _, weight, bias = operands("add_layer_norm", (50, channels), device=gpu)
    x = random((50, channels), lower, gpu)
    grad_y = random((50, channels), device=gpu)
    actual = value_and_gradients(ops.add_layer_norm, (residual, x, weight, bias), grad_y)
    wide = value_and_gradients(ops.add_layer_norm, (residual, x.float(), weight, bias), grad_y)
    assert torch.equal(actual[0], wide[0])
    assert torch.equal(actual[2], wide[2].to(lower))
    for i in (1, 3, 4):
        torch.testing.assert_close(actual[i], wide[i])


@pytest.mark.cuda
@every_dtype
@pytest.mark.parametrize("channels", [64, 37])
def test_halves_of_one_product_are_taken_as_they_are(
    channels: int, dtype: torch.dtype, gpu: torch.device
) -> None:
    x, gate = random((40, 2 * channels), dtype, gpu).chunk(2, dim=-1)
    _, _, weight, bias = operands("gated_layer_norm", (40, channels), dtype, gpu)
    y = ops.gated_layer_norm(x, gate, weight, bias)
    assert torch.equal(y, ops.gated_layer_norm(x.contiguous(), gate.contiguous(), weight, bias))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ops.gated_layer_norm(x, gate, weight, bias)
    assert torch.cuda.max_memory_allocated() - held <= y.nbytes + 512


@every_step
def test_inputs_are_left_as_they_were(name: str, kernel: torch.device) -> None:
    inputs = operands(name, (2, 9, 5, 21), torch.float32, kernel)
    grad_y = random((2, 9, 5, 21), device=kernel)
    before = [t.clone() for t in (*inputs, grad_y)]
    value_and_gradients(STEPS[name].function, inputs, grad_y)
    for t, want in zip((*inputs, grad_y), before, strict=True):
        assert torch.equal(t, want)


# ---- Threads, batches ---------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("shape", [(3, 37, 30, 21), (40, 2, 2, 500)])
@every_step
def test_results_do_not_depend_on_threads(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, kernel: torch.device
) -> None:
    assert math.prod(shape) > 3 * 16384  # fewer elements take fewer threads
    inputs = operands(name, shape, dtype, kernel)
    grad_y = random(shape, dtype, kernel)
    torch.set_num_threads(1)
    expected = value_and_gradients(STEPS[name].function, inputs, grad_y)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for actual, want in zip(
            value_and_gradients(STEPS[name].function, inputs, grad_y), expected, strict=True
        ):
            assert torch.equal(actual, want)


@every_step
def test_results_do_not_depend_on_the_rest_of_the_batch(name: str, kernel: torch.device) -> None:
    first, second, *others = operands(name, (5, 7, 6, 20), torch.float32, kernel)
    y = STEPS[name].function(first, second, *others)
    for i in range(5):
        own = second[i : i + 1] if name in NORMS else second
        assert torch.equal(STEPS[name].function(first[i : i + 1], own, *others), y[i : i + 1])


# ---- Autocast -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("implementation")
class TestAutocast:
    @pytest.mark.parametrize("lower", HALVES, ids=str)
    @every_step
    def test_dtypes(self, name: str, lower: torch.dtype, device: torch.device) -> None:
        inputs = operands(name, (2, 4, 5, 6), torch.float32, device)
        with torch.autocast(device.type, dtype=lower):
            y = STEPS[name].function(*inputs)
        if name == "add_layer_norm":
            # The residual stream stays as it is.
            assert y.dtype == torch.float32
            torch.testing.assert_close(y, STEPS[name].function(*inputs))
            return
        assert y.dtype == lower
        # The same numbers as with the cast spelt out: the parameters stay in float32.
        features = 2 if name in NORMS else 1
        cast = [t.to(lower) if i < features else t for i, t in enumerate(inputs)]
        assert torch.equal(y, STEPS[name].function(*cast))

    @pytest.mark.parametrize("lower", HALVES, ids=str)
    @every_step
    def test_gradients(self, name: str, lower: torch.dtype, device: torch.device) -> None:
        inputs = leaves(operands(name, (2, 4, 5, 6), torch.float32, device))
        features = 2 if name in NORMS else 1
        cast = inputs
        if name != "add_layer_norm":
            cast = [t.to(lower) if i < features else t for i, t in enumerate(inputs)]
        with torch.autocast(device.type, dtype=lower):
            y = STEPS[name].function(*inputs)
        grads = torch.autograd.grad(y.float().square().sum(), inputs)
        expected = STEPS[name].function(*cast).float().square().sum()
        for grad, want in zip(grads, torch.autograd.grad(expected, inputs), strict=True):
            assert grad.dtype == torch.float32
            torch.testing.assert_close(grad, want)

    def test_a_branch_in_the_autocast_type_joins_a_float32_residual(
        self, device: torch.device
    ) -> None:
        residual, x, weight, bias = operands("add_layer_norm", (3, 8), torch.float32, device)
        x = x.bfloat16()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y = ops.add_layer_norm(residual, x, weight, bias)
            half = ops.add_layer_norm(residual.bfloat16(), x.float(), weight, bias)
        assert y.dtype == torch.float32
        assert torch.equal(y, ops.add_layer_norm(residual, x.float(), weight, bias))
        assert half.dtype == torch.bfloat16

    def test_gates_and_features_may_come_in_different_types(self, device: torch.device) -> None:
        x, gate, weight, bias = operands("gated_layer_norm", (3, 8), torch.float32, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            expected = ops.gated_layer_norm(x, gate, weight, bias)
            assert torch.equal(ops.gated_layer_norm(x.bfloat16(), gate, weight, bias), expected)
            assert torch.equal(ops.gated_layer_norm(x, gate.bfloat16(), weight, bias), expected)

    @every_step
    def test_float64_is_left_alone(self, name: str, device: torch.device) -> None:
        inputs = operands(name, (2, 4, 5, 6), torch.float64, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y = STEPS[name].function(*inputs)
        assert y.dtype == torch.float64
        torch.testing.assert_close(y, STEPS[name].function(*inputs))


# ---- Tracing ------------------------------------------------------------------------------------


def block(x: Tensor, gate: Tensor, embed: Tensor, kernels: Tensor, channels: Tensor) -> Tensor:
    """Return features that went through all steps, the norms' weights shared."""
    bias = channels.sin()
    y = ops.spatial_correction_conv(x, embed, channels, bias, kernels, bias)
    y = ops.gated_layer_norm(y, gate, channels, bias)
    return ops.add_layer_norm(x, y.transpose(1, 2).transpose(1, 2), channels, bias)


def block_inputs(shape: Sequence[int], device: torch.device) -> list[Tensor]:
    channels = shape[-1]
    sizes = (shape, shape, shape[1:], (channels, 1, 3, 3), (channels,))
    return [random(size, device=device) for size in sizes]


def assert_block_compiled_alike(compiled: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    grad_y = random(inputs[0].shape, device=inputs[0].device)
    for actual, expected in zip(
        value_and_gradients(compiled, inputs, grad_y),
        value_and_gradients(block, inputs, grad_y),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("implementation", "one_thread")
class TestTracing:
    def test_compiles_as_one_graph(self, device: torch.device) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        assert_block_compiled_alike(compiled, block_inputs((2, 6, 5, 4), device))

    def test_compiles_once_for_every_shape(self, device: torch.device) -> None:
        torch._dynamo.reset()
        graphs = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(block, fullgraph=True, backend=graphs, dynamic=True)
        assert_block_compiled_alike(compiled, block_inputs((2, 6, 5, 4), device))
        first = graphs.frame_count
        for shape in ((3, 8, 7, 5), (5, 12, 9, 16)):
            assert_block_compiled_alike(compiled, block_inputs(shape, device))
        assert graphs.frame_count == first

    @pytest.mark.slow
    def test_compiles_with_inductor(self, device: torch.device) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True)
        assert_block_compiled_alike(compiled, block_inputs((2, 6, 5, 4), device))

    def test_compiles_under_autocast(self, device: torch.device) -> None:
        def function(*inputs: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return block(*inputs)

        torch._dynamo.reset()
        inputs = block_inputs((2, 6, 5, 4), device)
        y = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, function(*inputs), rtol=1e-2, atol=1e-2)

    def test_compiled_twice_differentiable(self, device: torch.device) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="eager")
        inputs = [t.double() for t in block_inputs((1, 3, 2, 3), device)]

        def penalty(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
            args = leaves(inputs)
            (grad,) = torch.autograd.grad(
                function(*args).square().sum(), args[0], create_graph=True
            )
            return torch.autograd.grad(grad.square().sum(), args)

        torch.testing.assert_close(penalty(compiled), penalty(block))

    @pytest.mark.parametrize("strict", [False, True])
    def test_exports_with_dynamic_shapes(self, strict: bool, device: torch.device) -> None:
        class Module(torch.nn.Module):
            def forward(self, *inputs: Tensor) -> Tensor:
                return block(*inputs)

        batch = torch.export.Dim("batch", max=64)
        height, width = torch.export.Dim("height", max=4096), torch.export.Dim("width", max=4096)
        features = {0: batch, 1: height, 2: width}
        program = torch.export.export(
            Module(),
            tuple(block_inputs((2, 6, 5, 4), device)),
            dynamic_shapes=((features, features, {0: height, 1: width}, None, None),),
            strict=strict,
        )
        for shape in ((2, 6, 5, 4), (1, 9, 3, 4)):
            inputs = block_inputs(shape, device)
            torch.testing.assert_close(program.module()(*inputs), block(*inputs))

    @every_dtype
    @pytest.mark.parametrize("where", ["fake", "meta"])
    @every_step
    def test_metadata_without_data(
        self, name: str, where: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        if where == "meta" and device.type != "cpu":
            pytest.skip("meta tensors belong to no other device")
        inputs = operands(name, (2, 6, 5, 4), dtype, device)
        inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
        expected = value_and_gradients(STEPS[name].function, inputs, inputs[0])
        if where == "fake":
            with FakeTensorMode() as mode:
                fake = [mode.from_tensor(t) for t in inputs]
                actual = value_and_gradients(STEPS[name].function, fake, fake[0])
        else:
            meta = [t.to("meta") for t in inputs]
            actual = value_and_gradients(STEPS[name].function, meta, meta[0])
        for got, want in zip(actual, expected, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            if where == "fake":
                assert got.device == want.device

    def test_activation_checkpointing(self, device: torch.device) -> None:
        inputs = leaves(block_inputs((2, 6, 5, 4), device))
        expected = torch.autograd.grad(block(*inputs).square().sum(), inputs)
        y = torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), inputs), expected)


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_compiled_graphs_hold_the_native_ops_both_ways(native: torch.device) -> None:
    targets: list[set[str]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def keep(traced: torch.fx.GraphModule, _: object) -> Callable[..., object]:
            targets.append({str(node.target) for node in traced.graph.nodes})
            return make_boxed_func(traced.forward)

        return aot_autograd(fw_compiler=keep, bw_compiler=keep)(graph, inputs)

    torch._dynamo.reset()
    inputs = leaves(block_inputs((1, 4, 4, 2), native))
    torch.compile(block, fullgraph=True, backend=backend)(*inputs).sum().backward()
    forward, backward = targets
    for name in STEPS:
        assert f"rsvheat.{name}.default" in forward
        assert f"rsvheat._{name}_backward.default" in backward


# ---- What is registered -------------------------------------------------------------------------


def op_samples() -> list[tuple[str, list[Tensor], tuple[int, ...]]]:
    samples = []
    for name in STEPS:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            samples.append((name, operands(name, (2, 4, 5, 3), dtype), (2, 4, 5, 3)))
        samples.append((name, operands(name, (0, 4, 5, 3)), (0, 4, 5, 3)))
        strided = operands(name, (2, 4, 5, 3))
        strided[0] = strided[0].permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)
        samples.append((name, strided, (2, 4, 5, 3)))
    return samples


SAMPLE_IDS = [f"{i}-{name}" for i, (name, _, _) in enumerate(op_samples())]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_opcheck(index: int, requires_grad: bool, native: torch.device) -> None:
    name, inputs, _ = op_samples()[index]
    if requires_grad:
        inputs = [t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(getattr(torch.ops.rsvheat, name).default, (*inputs, EPS))


@pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_opcheck_of_backward_ops(index: int, native: torch.device) -> None:
    name, inputs, shape = op_samples()[index]
    if name == "add_layer_norm":
        inputs = inputs[1:]  # the residual's gradient is that of the sum
    grad_y = random(shape, inputs[0].dtype)
    op = getattr(torch.ops.rsvheat, f"_{name}_backward").default
    torch.library.opcheck(op, (grad_y, *inputs, EPS))


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_flops(native: torch.device) -> None:
    n = 2 * 8 * 4 * 3
    for name in NORMS:
        inputs = leaves(operands(name, (2, 8, 4, 3), device=native))
        assert flops(lambda s=STEPS[name], a=inputs: s.function(*a).sum().backward()) == 0
    inputs = leaves(operands("spatial_correction_conv", (2, 8, 4, 3), device=native))
    # Nine products and sums an element, as torch counts a depthwise convolution.
    assert flops(lambda: ops.spatial_correction_conv(*inputs)) == 2 * 9 * n
    assert flops(lambda: reference.spatial_correction_conv(*inputs)) == 2 * 9 * n


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_flops_of_the_backward_pass(native: torch.device) -> None:
    inputs = leaves(operands("spatial_correction_conv", (2, 8, 4, 3), device=native))
    y = ops.spatial_correction_conv(*inputs)
    assert flops(lambda: y.sum().backward()) == 2 * (2 * 9 * 2 * 8 * 4 * 3)


# ---- Errors -------------------------------------------------------------------------------------

SHAPE = (2, 4, 5, 3)
CASES: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {}


def case(name: str, index: int, value: object, error: type[Exception], *words: str) -> None:
    argument = STEPS[name].arguments[index]
    key = f"{name}: {argument} {len(CASES)}"

    def call() -> object:
        inputs: list[object] = list(operands(name, SHAPE))
        inputs[index] = value
        return STEPS[name].function(*inputs)

    CASES[key] = (call, error, (argument, *words))


for step, (_, _, _, arguments) in STEPS.items():
    for i, tensor in enumerate(operands(step, SHAPE)):
        for bad, got in ((None, "NoneType"), ([1.0], "list"), (2.0, "float")):
            case(step, i, bad, TypeError, "must be a torch.Tensor", f"got {got}")
        for dtype in (torch.int64, torch.bool, torch.complex64):
            case(step, i, tensor.to(dtype), TypeError, "must be float32", f"got {dtype}")
        case(step, i, tensor.to_sparse(), TypeError, "must be a dense (strided) tensor")
        longer = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
        if not (step == "spatial_correction_conv" and i == 0):
            # The features give the shape: that one names what does not fit them.
            named = i if i > 0 else 1
            if step == "add_layer_norm" and i < 2:
                named = 0
            CASES[f"{step}: {arguments[i]} longer"] = (
                lambda step=step, i=i, longer=longer: STEPS[step].function(
                    *(longer if j == i else t for j, t in enumerate(operands(step, SHAPE)))
                ),
                ValueError,
                (arguments[named], "shape", "got"),
            )
    for i in range(1, len(arguments)):
        meta = operands(step, SHAPE)[i].to("meta")
        where = "cpu", "got meta"
        if step == "add_layer_norm" and i == 1:
            continue  # below: the residual is compared with x
        case(step, i, meta, ValueError, "must be on", *where)
case("add_layer_norm", 0, torch.zeros(SHAPE, device="meta"), ValueError, "x's device cpu")
case("add_layer_norm", 0, torch.zeros(SHAPE[1:]), ValueError, "x's shape (..., C)", str(SHAPE))
case("gated_layer_norm", 1, torch.zeros(1, 4, 5, 3), ValueError, "x's shape", "got (1, 4, 5, 3)")
for step in NORMS:
    for i in (2, 3):
        for bad_shape in ((1,), (1, 3), (), (4, 5, 3)):
            bad = torch.zeros(bad_shape)
            case(step, i, bad, ValueError, "must have shape (3,)", f"got {bad_shape}")
for bad_shape in ((4, 5, 3), (2, 4, 5, 3, 1), ()):
    bad = torch.zeros(bad_shape)
    case("spatial_correction_conv", 0, bad, ValueError, "4 dimensions (B, H, W, C)")
for bad_shape, word in (((1, 0, 5, 3), "height"), ((1, 4, 4097, 3), "width")):
    bad = torch.zeros(bad_shape)
    case("spatial_correction_conv", 0, bad, ValueError, word, "1 to 4096")
for i, bad_shape, good in (
    (1, (3,), "(4, 5, 3)"),
    (1, (5, 4, 3), "(4, 5, 3)"),
    (1, (1, 4, 5, 3), "(4, 5, 3)"),
    (2, (1, 3), "(3,)"),
    (4, (3, 3, 3), "(3, 1, 3, 3)"),
    (4, (3, 3, 3, 3), "(3, 1, 3, 3)"),
    (4, (3, 1, 5, 5), "(3, 1, 3, 3)"),
    (5, (1,), "(3,)"),
):
    bad = torch.zeros(bad_shape)
    case(
        "spatial_correction_conv",
        i,
        bad,
        ValueError,
        f"must have shape {good}",
        f"got {bad_shape}",
    )


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_wrong_argument(name: str) -> None:
    call, error, words = CASES[name]
    with pytest.raises(error, match="(?s)" + ".*".join(re.escape(word) for word in words)):
        call()


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", NORMS)
def test_features_need_an_axis_of_channels(name: str) -> None:
    number = torch.zeros(())
    with pytest.raises(ValueError, match=r"shape \(\.\.\., C\)"):
        STEPS[name].function(number, number, number, number)


@pytest.mark.usefixtures("implementation")
def test_wrong_arguments_are_found_while_compiling(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.gated_layer_norm, backend="eager")
    x = random((2, 3), device=device)
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\)"):
        compiled(x, x, torch.ones(4, device=device), torch.ones(3, device=device))


X, C = torch.zeros(SHAPE), torch.ones(3)
EMBED, KERNELS = torch.zeros(SHAPE[1:]), torch.zeros(3, 1, 3, 3)


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("gated_layer_norm", (X, X[1:], C, C), r"gated_layer_norm: gate must have the shape of x"),
        ("gated_layer_norm", (X, X.half(), C, C), "gate must be of dtype Float"),
        ("gated_layer_norm", (X, X, C[1:], C), r"weight must be \(C,\) for x \(2, 4, 5, 3\)"),
        ("gated_layer_norm", (X, X, C, C.double()), "bias must be of dtype Float.*Double"),
        ("gated_layer_norm", (X.double(), X.double(), C, C), "weight must be of dtype Double"),
        ("gated_layer_norm", (X.half(), X.half(), C.half(), C), "weight must be of dtype Float"),
        ("gated_layer_norm", (X.long(), X.long(), C, C), "gated_layer_norm"),
        ("gated_layer_norm", (C.sum(), C.sum(), C, C), r"weight must be \(C,\)"),
        ("add_layer_norm", (X[1:], X, C, C), "add_layer_norm: residual must have the shape of x"),
        ("add_layer_norm", (X.half(), X, C, C), "residual must be of dtype Float"),
        ("_gated_layer_norm_backward", (X[1:], X, X, C, C), "grad_y must have the shape of x"),
        ("_gated_layer_norm_backward", (X.half(), X, X, C, C), "grad_y must be of dtype Float"),
        ("_add_layer_norm_backward", (X[1:], X, C, C), "grad_y must have the shape of x"),
        ("spatial_correction_conv", (X[0], EMBED, C, C, KERNELS, C), "x"),
        ("spatial_correction_conv", (X, EMBED[1:], C, C, KERNELS, C), r"embed must be \(H, W, C\)"),
        ("spatial_correction_conv", (X, EMBED, C[1:], C, KERNELS, C), "norm_weight must be"),
        ("spatial_correction_conv", (X, EMBED, C, C[1:], KERNELS, C), "norm_bias must be"),
        (
            "spatial_correction_conv",
            (X, EMBED, C, C, KERNELS[1:], C),
            r"conv_weight must be \(C,",
        ),
        ("spatial_correction_conv", (X, EMBED, C, C, KERNELS.half(), C), "conv_weight must be of"),
        ("spatial_correction_conv", (X, EMBED, C, C, KERNELS, C[1:]), "conv_bias must be"),
        ("spatial_correction_conv", (X, EMBED.half(), C, C, KERNELS, C), "embed must be of dtype"),
        (
            "_spatial_correction_conv_backward",
            (X[1:], X, EMBED, C, C, KERNELS, C),
            "grad_y must have the shape of x",
        ),
        (
            "_spatial_correction_conv_backward",
            (X.half(), X, EMBED, C, C, KERNELS, C),
            "grad_y must be of dtype Float",
        ),
    ],
)
def test_second_net_of_checks(
    op: str, arguments: tuple[Tensor, ...], message: str, native: torch.device
) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.rsvheat, op)(*arguments, EPS)
