# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the native ops.

With W = omega_h^2 + omega_w^2, the filter E = exp(-k * W), X = dct2d(x) and A = dct2d(grad_y),
y = idct2d(E * X) is linear and self-adjoint in x, so

    grad_x = idct2d(E * A)                 grad_k = -W * E * sum_b X * A

Both are bilinear in (grad_y, x) up to E, which gives the second derivatives: for cotangents u of
grad_x and v of grad_k, and U = dct2d(u),

    to grad_y: idct2d(E * U) + idct2d(-W * E * v * X)
    to x:      idct2d(-W * E * v * A)
    to k:      -W * E * sum_b U * A + W^2 * E * v * sum_b X * A

A prepared filter f takes the place of E; dE/dk = -W * E and d2E/dk2 = W^2 * E become 1 and 0.
The second derivatives are built from differentiable ops, so higher ones exist too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rsvheat.ops import _autocast, reference

_Grad = Tensor | None


def register() -> None:
    """Attach the derivatives to the native ops."""
    for name, setup, backward in (
        ("dct2d", _save_layout, _dct2d),
        ("idct2d", _save_layout, _idct2d),
        ("heat_conduction", _save_operands, _heat_conduction),
        ("apply_heat_filter", _save_operands, _apply_heat_filter),
        ("_heat_conduction_backward", _save_all, _heat_conduction_twice),
        ("_apply_heat_filter_backward", _save_all, _apply_heat_filter_twice),
        ("frequency_split", _save_sector, _frequency_split),
        ("spectral_l1", _save_differences, _spectral_l1),
        ("gated_layer_norm", _save_inputs, _gated_layer_norm),
        ("add_layer_norm", _save_inputs, _add_layer_norm),
        ("spatial_correction_conv", _save_inputs, _spatial_correction_conv),
    ):
        torch.library.register_autograd(f"rsvheat::{name}", backward, setup_context=setup)


def _save_layout(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.channels_last = inputs[1]


def _dct2d(ctx: Any, grad: Tensor) -> tuple[_Grad, None]:
    return torch.ops.rsvheat.idct2d(grad.contiguous(), ctx.channels_last), None


def _idct2d(ctx: Any, grad: Tensor) -> tuple[_Grad, None]:
    return torch.ops.rsvheat.dct2d(grad.contiguous(), ctx.channels_last), None


def _save_operands(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, coefficients = inputs
    # grad_x needs the coefficients alone: with a frozen k, x is free to go.
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, coefficients)


def _heat_conduction(ctx: Any, grad_y: Tensor) -> tuple[_Grad, _Grad]:
    ops = torch.ops.rsvheat
    return _first_derivative(ctx, grad_y, ops.heat_conduction, ops._heat_conduction_backward)


def _apply_heat_filter(ctx: Any, grad_y: Tensor) -> tuple[_Grad, _Grad]:
    ops = torch.ops.rsvheat
    return _first_derivative(ctx, grad_y, ops.apply_heat_filter, ops._apply_heat_filter_backward)


def _first_derivative(
    ctx: Any, grad_y: Tensor, forward: Callable[..., Any], backward: Callable[..., Any]
) -> tuple[_Grad, _Grad]:
    x, coefficients = ctx.saved_tensors
    need_x, need_coefficients = ctx.needs_input_grad
    grad_y = grad_y.contiguous()
    if not need_coefficients:
        return forward(grad_y, coefficients), None
    grad_x, grad = backward(grad_y, x, coefficients, need_x, True)
    return grad_x if need_x else None, grad


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *operands, need_x, need_coefficients = inputs
    ctx.save_for_backward(*operands)
    ctx.set_materialize_grads(False)
    # What was not asked for is an empty tensor, and its cotangent no cotangent.
    ctx.mark_non_differentiable(
        *(t for t, need in zip(output, (need_x, need_coefficients), strict=True) if not need)
    )


def _heat_conduction_twice(ctx: Any, u: _Grad, v: _Grad) -> tuple[_Grad, ...]:
    _, _, k = ctx.saved_tensors
    rate = -reference.omega_squared(k.shape[0], k.shape[1], k)
    return _second_derivative(ctx, u, v, reference.exponential_filter(k), rate)


def _apply_heat_filter_twice(ctx: Any, u: _Grad, v: _Grad) -> tuple[_Grad, ...]:
    return _second_derivative(ctx, u, v, ctx.saved_tensors[2], None)


def _second_derivative(
    ctx: Any, u: _Grad, v: _Grad, gain: Tensor, rate: Tensor | None
) -> tuple[_Grad, ...]:
    """Differentiate the first derivative.

    Args:
        ctx: Holds grad_y, x and the coefficients.
        u: Cotangent of grad_x, like x.
        v: Cotangent of the coefficients' gradient, (H, W, C).
        gain: E above.
        rate: -W, the logarithmic derivative of E; None if the coefficients are the filter.
    """
    grad_y, x, _ = ctx.saved_tensors
    need_grad_y, need_x, need_coefficients = ctx.needs_input_grad[:3]
    slope = None if v is None else v if rate is None else rate * gain * v

    def spectrum(t: Tensor) -> Tensor:
        result: Tensor = torch.ops.rsvheat.dct2d(_autocast.to_float32(t).contiguous(), True)
        return result

    def space(t: Tensor) -> Tensor:
        result: Tensor = torch.ops.rsvheat.idct2d(t.contiguous(), True)
        return result.to(x.dtype)

    to_grad_y = to_x = to_coefficients = None
    if need_grad_y:
        from_u = None if u is None else gain * spectrum(u)
        total = _sum(from_u, None if slope is None else slope * spectrum(x))
        to_grad_y = None if total is None else space(total)
    if need_x and slope is not None:
        to_x = space(slope * spectrum(grad_y))
    if need_coefficients:
        from_u = None if u is None else (spectrum(u) * spectrum(grad_y)).sum(0)
        if rate is None or v is None:
            total = from_u
        else:
            total = _sum(from_u, rate * v * (spectrum(x) * spectrum(grad_y)).sum(0))
        to_coefficients = total if rate is None or total is None else rate * gain * total
    return to_grad_y, to_x, to_coefficients, None, None


def _sum(a: _Grad, b: _Grad) -> _Grad:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _save_sector(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1:])
    ctx.set_materialize_grads(False)


def _frequency_split(ctx: Any, grad_low: _Grad, grad_high: _Grad) -> tuple[_Grad, None, None]:
    # low(x) = P x and high(x) = x - P x with a symmetric projection P.
    split = torch.ops.rsvheat.frequency_split
    if grad_high is None:
        grad = None if grad_low is None else split(grad_low.contiguous(), *ctx.saved_tensors)[0]
    elif grad_low is None:
        grad = split(grad_high.contiguous(), *ctx.saved_tensors)[1]
    else:
        difference = (grad_low - grad_high).contiguous()
        grad = split(difference, *ctx.saved_tensors)[0] + grad_high
    return grad, None, None


def _save_differences(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pred, target, ctx.with_grad = inputs
    grad = output[2]
    # pred and target are references for sign(pred - target); only grad is new memory.
    ctx.save_for_backward(pred, target, grad)
    ctx.mark_non_differentiable(grad)
    ctx.set_materialize_grads(False)


def _spectral_l1(
    ctx: Any, grad_spatial: _Grad, grad_spectral: _Grad, _: _Grad
) -> tuple[_Grad, _Grad, None]:
    pred, target, grad_of_spectral = ctx.saved_tensors
    if grad_spectral is not None and not ctx.with_grad:
        raise RuntimeError("rsvheat::spectral_l1 was called with with_grad=False")
    grad = _sum(
        None if grad_spatial is None else grad_spatial * torch.sign(pred - target),
        None if grad_spectral is None else grad_spectral * grad_of_spectral,
    )
    if grad is None:
        return None, None, None
    need_pred, need_target, _ = ctx.needs_input_grad
    return grad if need_pred else None, -grad if need_target else None, None


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gated_layer_norm(ctx: Any, grad: Tensor) -> tuple[_Grad, ...]:
    if torch.is_grad_enabled():
        return _through_twin(ctx, grad, reference.gated_layer_norm)
    grads = torch.ops.rsvheat._gated_layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps)
    return *grads, None


def _add_layer_norm(ctx: Any, grad: Tensor) -> tuple[_Grad, ...]:
    if torch.is_grad_enabled():
        return _through_twin(ctx, grad, reference.add_layer_norm)
    _, x, weight, bias = ctx.saved_tensors
    grads = torch.ops.rsvheat._add_layer_norm_backward(grad, x, weight, bias, ctx.eps)
    return grad, *grads, None


def _spatial_correction_conv(ctx: Any, grad: Tensor) -> tuple[_Grad, ...]:
    if torch.is_grad_enabled():
        return _through_twin(ctx, grad, reference.spatial_correction_conv)
    grads = torch.ops.rsvheat._spatial_correction_conv_backward(grad, *ctx.saved_tensors, ctx.eps)
    return *grads, None


def _through_twin(ctx: Any, grad: Tensor, twin: Callable[..., Tensor]) -> tuple[_Grad, ...]:
    """Return the gradients by the twin's derivatives, which have derivatives themselves."""
    # Aliases: where one input was computed from another, as x from residual, the gradient of the
    # latter must not take the way through the former.
    inputs = [t.view_as(t) for t in ctx.saved_tensors]
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:-1]) if needed]
    found = torch.autograd.grad(
        twin(*inputs, ctx.eps), [inputs[i] for i in wanted], grad, create_graph=True
    )
    grads: list[_Grad] = [None] * len(ctx.needs_input_grad)
    for i, value in zip(wanted, found, strict=True):
        grads[i] = value
    return tuple(grads)
