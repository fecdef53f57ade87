# SPDX-License-Identifier: Apache-2.0
"""Pairs of layers that keep for the backward pass what goes in, not what lies between.

What lies between is computed again. For GPUs, where training is short of memory first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from rsvheat.ops import _checks
from rsvheat.ops.fused import gated_layer_norm

_Gradients = tuple[Tensor | None, ...]


def recomputed_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Return ``linear(gelu(linear(x, weight1, bias1)), weight2, bias2)``.

    Only ``x`` and the parameters are saved for the backward pass, which computes the first product
    and the GELU again: one product more than the six of a training step.

    Args:
        x: Features, (..., C), of the type to compute in.
        weight1: (hidden, C); parameters may be of another type.
        bias1: (hidden,).
        weight2: (C', hidden).
        bias2: (C',).
    """
    y: Tensor = _RecomputedMlp.apply(x, weight1, bias1, weight2, bias2)
    return y


def _mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    hidden = gelu(linear(x, weight1.to(x.dtype), bias1.to(x.dtype)))
    return linear(hidden, weight2.to(x.dtype), bias2.to(x.dtype))


class _RecomputedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        ctx.save_for_backward(*operands)
        return _mlp(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        if torch.is_grad_enabled() or _checks.transforms_active():
            return _differentiable_gradients(ctx, _mlp, grad)
        x, weight1, bias1, weight2, bias2 = ctx.saved_tensors
        need_x, need_weight1, need_bias1 = ctx.needs_input_grad[:3]
        grad_x = grad_weight1 = grad_bias1 = None
        flat, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        hidden = linear(flat, weight1.to(x.dtype), bias1.to(x.dtype))
        needs = ctx.needs_input_grad[3:]
        # First, so that the GELU is gone before the gradient of the hidden features is there.
        between = gelu(hidden) if needs[0] else None
        second = _linear_gradients(needs, flat_grad, between, weight2, bias2)
        del between
        grad_hidden = flat_grad @ weight2.to(x.dtype)
        torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
        del hidden
        if need_weight1:
            grad_weight1 = (grad_hidden.t() @ flat).to(weight1.dtype)
        if need_bias1:
            grad_bias1 = grad_hidden.sum(0).to(bias1.dtype)
        if need_x:
            grad_x = (grad_hidden @ weight1.to(x.dtype)).view(x.shape)
        return grad_x, grad_weight1, grad_bias1, *second


def gated_norm_linear(
    x: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """Return ``linear(gated_layer_norm(x, gate, norm_weight, norm_bias, eps), weight, bias)``.

    The operands alone are saved for the backward pass, which computes the norm again.

    Args:
        x: Features, (..., C), of the type to compute in.
        gate: Gate before its activation, of the same shape and type.
        norm_weight: Weight of the layer norm, (C,), in float32, in float64 if ``x`` is.
        norm_bias: Bias of the layer norm, (C,).
        weight: (C', C); the linear layer's parameters may be of another type.
        bias: (C',).
        eps: Constant added to the variance.
    """
    y: Tensor = _GatedNormLinear.apply(x, gate, norm_weight, norm_bias, weight, bias, eps)
    return y


class _GatedNormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *operands, ctx.eps = arguments
        ctx.save_for_backward(*operands)
        return _norm_linear(*operands, ctx.eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        if torch.is_grad_enabled() or _checks.transforms_active():
            gradients = _differentiable_gradients(ctx, lambda *t: _norm_linear(*t, ctx.eps), grad)
            return *gradients, None
        *norm, weight, bias = ctx.saved_tensors
        flat_grad = grad.reshape(-1, grad.shape[-1])
        needs = ctx.needs_input_grad[4:6]
        between = None
        if needs[0]:
            between = torch.ops.rsvheat.gated_layer_norm(*norm, ctx.eps).flatten(0, -2)
        second = _linear_gradients(needs, flat_grad, between, weight, bias)
        del between
        grad_normed = (flat_grad @ weight.to(grad.dtype)).view(norm[0].shape)
        first = torch.ops.rsvheat._gated_layer_norm_backward(grad_normed, *norm, ctx.eps)
        return *first, *second, None


def _norm_linear(*arguments: Any) -> Tensor:
    x, gate, norm_weight, norm_bias, weight, bias, eps = arguments
    normed = gated_layer_norm(x, gate, norm_weight, norm_bias, eps)
    return linear(normed, weight.to(normed.dtype), bias.to(normed.dtype))


def lowered_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return ``layer_norm(x.float(), ...)`` in the type of ``x``, of which alone a copy is kept.

    torch's own layer norm keeps its input in float32 under autocast.

    Args:
        x: Features, (..., C), of a half type.
        weight: Weight of the layer norm, (C,), in float32.
        bias: Bias of the layer norm, (C,).
        eps: Constant added to the variance.
    """
    y: Tensor = _LoweredNorm.apply(x, weight, bias, eps)
    return y


class _LoweredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, factor = torch.native_layer_norm(x.float(), x.shape[-1:], weight, bias, eps)
        ctx.save_for_backward(x, weight, bias)
        ctx.moments, ctx.eps = (mean, factor), eps
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        if torch.is_grad_enabled() or _checks.transforms_active():
            gradients = _differentiable_gradients(
                ctx, lambda *operands: _lowered_norm(*operands, ctx.eps), grad
            )
            return *gradients, None
        x, weight, bias = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad.float(), x.float(), x.shape[-1:], *ctx.moments, weight, bias,
            list(ctx.needs_input_grad[:3]),
        )  # fmt: skip
        return None if grad_x is None else grad_x.to(x.dtype), grad_weight, grad_bias, None


def _lowered_norm(*arguments: Any) -> Tensor:
    x, weight, bias, eps = arguments
    return layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


def _linear_gradients(
    needs: tuple[bool, ...], grad: Tensor, x: Tensor | None, weight: Tensor, bias: Tensor
) -> _Gradients:
    """Return the gradients of a linear layer's weight, which needs the input, and of its bias."""
    return (
        None if x is None else (grad.t() @ x).to(weight.dtype),
        grad.sum(0).to(bias.dtype) if needs[1] else None,
    )


def _differentiable_gradients(
    ctx: Any, function: Callable[..., Tensor], grad: Tensor
) -> _Gradients:
    operands = ctx.saved_tensors
    needs = ctx.needs_input_grad[: len(operands)]
    needed = [t for t, need in zip(operands, needs, strict=True) if need]
    with torch.enable_grad():
        y = function(*operands)
    found = iter(torch.autograd.grad(y, needed, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if need else None for need in needs)
