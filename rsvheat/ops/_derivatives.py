# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the native ops, in reverse mode (backward) and in forward mode (jvp).

With W = omega_h^2 + omega_w^2, the filter E = exp(-k * W), X = dct2d(x) and A = dct2d(grad_y),
y = idct2d(E * X) is linear and self-adjoint in x, so

    grad_x = idct2d(E * A)                 grad_k = -W * E * sum_b X * A

Both are bilinear in (grad_y, x) up to E, which gives the second derivatives: for cotangents u of
grad_x and v of grad_k, and U = dct2d(u),

    to grad_y: idct2d(E * U) + idct2d(-W * E * v * X)
    to x:      idct2d(-W * E * v * A)
    to k:      -W * E * sum_b U * A + W^2 * E * v * sum_b X * A

and for tangents dx, dk and dA (of dct2d(grad_y)), with dX = dct2d(dx),

    of y:      idct2d(E * (dX - W * dk * X))
    of grad_x: idct2d(E * (dA - W * dk * A))
    of grad_k: -W * E * sum_b (dX * A + X * dA) + W^2 * E * dk * sum_b X * A

A prepared filter f takes the place of E; dE/dk = -W * E and d2E/dk2 = W^2 * E become 1 and 0.
All formulas are built from differentiable ops, so higher derivatives exist too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu

from rsvheat.ops import _autocast, _boxes_reference, _checks, reference

_Optional = Tensor | None


class Formulas(NamedTuple):
    """Derivatives of an op.

    Attributes:
        setup: ``setup(ctx, inputs, output)`` saves what the other two need.
        backward: ``backward(ctx, *grads)`` returns one gradient or None for each input. Gradients
            that are zero are None; at least one is not.
        jvp: ``jvp(ctx, saved, *tangents)`` returns one tangent or None for each output. Tangents
            that are zero are None; at least one is not.
    """

    setup: Callable[..., None]
    backward: Callable[..., tuple[Any, ...]]
    jvp: Callable[..., Any]


def _save(ctx: Any, *tensors: _Optional) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _sum(*terms: _Optional) -> _Optional:
    """Return the sum of the terms that are not None, or None."""
    total = None
    for term in terms:
        total = term if total is None else total if term is None else total + term
    return total


# ---- Transforms ---------------------------------------------------------------------------------


def _save_layout(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.channels_last = inputs[1]


def _dct2d_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    return torch.ops.rsvheat.idct2d(grad.contiguous(), ctx.channels_last), None


def _dct2d_jvp(ctx: Any, saved: Any, tangent: Tensor, _: None) -> Tensor:
    return _transformed(torch.ops.rsvheat.dct2d, tangent, ctx.channels_last)


def _idct2d_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    return torch.ops.rsvheat.dct2d(grad.contiguous(), ctx.channels_last), None


def _idct2d_jvp(ctx: Any, saved: Any, tangent: Tensor, _: None) -> Tensor:
    return _transformed(torch.ops.rsvheat.idct2d, tangent, ctx.channels_last)


def _transformed(op: Callable[..., Tensor], x: Tensor, channels_last: bool) -> Tensor:
    return op(x.contiguous(), channels_last)


def _spectrum(t: Tensor) -> Tensor:
    return _transformed(torch.ops.rsvheat.dct2d, _autocast.to_float32(t), True)


def _space(t: _Optional, like: Tensor) -> _Optional:
    if t is None:
        return None
    return _transformed(torch.ops.rsvheat.idct2d, t, True).to(like.dtype)


# ---- Heat conduction ----------------------------------------------------------------------------


class _Conduction(NamedTuple):
    """The ops of conduction by a diffusivity or by a prepared filter."""

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor]]
    by_diffusivity: bool

    def gain(self, coefficients: Tensor) -> Tensor:
        """Return E."""
        return reference.exponential_filter(coefficients) if self.by_diffusivity else coefficients

    def rate(self, coefficients: Tensor) -> _Optional:
        """Return -W, the logarithmic derivative of E; None for a prepared filter."""
        if not self.by_diffusivity:
            return None
        return -reference.omega_squared(coefficients.shape[0], coefficients.shape[1], coefficients)


def _by_diffusivity() -> _Conduction:
    ops = torch.ops.rsvheat
    return _Conduction(ops.heat_conduction, ops._heat_conduction_backward, True)


def _by_filter() -> _Conduction:
    ops = torch.ops.rsvheat
    return _Conduction(ops.apply_heat_filter, ops._apply_heat_filter_backward, False)


def _save_operands(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, coefficients = inputs
    # grad_x needs the coefficients alone: with a frozen k, x is free to go.
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, coefficients)
    ctx.save_for_forward(x, coefficients)


def _conduction(kind: Callable[[], _Conduction]) -> Formulas:
    def backward(ctx: Any, grad_y: Tensor) -> tuple[_Optional, ...]:
        x, coefficients = ctx.saved_tensors
        need_x, need_coefficients = ctx.needs_input_grad[:2]
        grad_y = grad_y.contiguous()
        if not need_coefficients:
            return kind().forward(grad_y, coefficients), None
        grad_x, grad = kind().backward(grad_y, x, coefficients, need_x, True)
        return grad_x if need_x else None, grad

    def jvp(ctx: Any, saved: list[Tensor], tangent_x: _Optional, tangent: _Optional) -> Tensor:
        x, coefficients = saved
        ops = kind()
        from_x = None if tangent_x is None else ops.forward(tangent_x.contiguous(), coefficients)
        slope = _slope(ops, coefficients, tangent)
        from_coefficients = None if slope is None else _space(slope * _spectrum(x), x)
        total = _sum(from_x, from_coefficients)
        assert total is not None
        return total

    return Formulas(_save_operands, backward, jvp)


def _slope(ops: _Conduction, coefficients: Tensor, direction: _Optional) -> _Optional:
    """Return the derivative of the filter in a direction of its coefficients."""
    rate = ops.rate(coefficients)
    if direction is None or rate is None:
        return direction
    return rate * ops.gain(coefficients) * direction


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *operands, need_x, need_coefficients = inputs
    _save(ctx, *operands)
    ctx.needs = need_x, need_coefficients
    # An output that was not asked for is an empty tensor.
    ctx.mark_non_differentiable(*(t for t, need in zip(output, ctx.needs, strict=True) if not need))


def _conduction_backward(kind: Callable[[], _Conduction]) -> Formulas:
    def backward(ctx: Any, u: _Optional, v: _Optional) -> tuple[_Optional, ...]:
        """Differentiate the first derivative.

        Args:
            ctx: Context with grad_y, x and the coefficients.
            u: Cotangent of grad_x, (B, H, W, C).
            v: Cotangent of the gradient of the coefficients, (H, W, C).
        """
        ops = kind()
        grad_y, x, coefficients = ctx.saved_tensors
        need_grad_y, need_x, need_coefficients = ctx.needs_input_grad[:3]
        gain, rate = ops.gain(coefficients), ops.rate(coefficients)
        slope = _slope(ops, coefficients, v)
        to_grad_y = to_x = to_coefficients = None
        if need_grad_y:
            from_u = None if u is None else gain * _spectrum(u)
            from_v = None if slope is None else slope * _spectrum(x)
            to_grad_y = _space(_sum(from_u, from_v), x)
        if need_x and slope is not None:
            to_x = _space(slope * _spectrum(grad_y), x)
        if need_coefficients:
            from_u = None if u is None else (_spectrum(u) * _spectrum(grad_y)).sum(0)
            from_v = None
            if rate is not None and v is not None:
                from_v = rate * v * (_spectrum(x) * _spectrum(grad_y)).sum(0)
            to_coefficients = _slope(ops, coefficients, _sum(from_u, from_v))
        return to_grad_y, to_x, to_coefficients, None, None

    def jvp(
        ctx: Any,
        saved: list[Tensor],
        tangent_grad_y: _Optional,
        tangent_x: _Optional,
        tangent: _Optional,
        *_: None,
    ) -> tuple[_Optional, _Optional]:
        ops = kind()
        grad_y, x, coefficients = saved
        need_x, need_coefficients = ctx.needs
        gain, rate = ops.gain(coefficients), ops.rate(coefficients)
        of_grad_x = of_coefficients = None
        if need_x:
            slope = _slope(ops, coefficients, tangent)
            of_grad_x = _sum(
                None if tangent_grad_y is None else gain * _spectrum(tangent_grad_y),
                None if slope is None else slope * _spectrum(grad_y),
            )
        if need_coefficients:
            products = _sum(
                None if tangent_x is None else _spectrum(tangent_x) * _spectrum(grad_y),
                None if tangent_grad_y is None else _spectrum(x) * _spectrum(tangent_grad_y),
            )
            from_operands = None if products is None else products.sum(0)
            from_coefficients = None
            if rate is not None and tangent is not None:
                from_coefficients = rate * tangent * (_spectrum(x) * _spectrum(grad_y)).sum(0)
            of_coefficients = _slope(ops, coefficients, _sum(from_operands, from_coefficients))
        return _space(of_grad_x, x), of_coefficients

    return Formulas(_save_all, backward, jvp)


# ---- Frequency split ----------------------------------------------------------------------------


def _save_sector(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _save(ctx, *inputs[1:])


def _frequency_split_backward(
    ctx: Any, grad_low: _Optional, grad_high: _Optional
) -> tuple[_Optional, ...]:
    # low(x) = P x and high(x) = x - P x with a symmetric projection P.
    split = torch.ops.rsvheat.frequency_split
    sector = ctx.saved_tensors
    if grad_low is None:
        assert grad_high is not None
        grad = split(grad_high.contiguous(), *sector)[1]
    elif grad_high is None:
        grad = split(grad_low.contiguous(), *sector)[0]
    else:
        grad = split((grad_low - grad_high).contiguous(), *sector)[0] + grad_high
    return grad, None, None


def _frequency_split_jvp(
    ctx: Any, saved: list[Tensor], tangent: _Optional, *_: _Optional
) -> tuple[_Optional, _Optional]:
    # Whether a coefficient is kept does not change with a small step of radius and angles.
    if tangent is None:
        return None, None
    low, high = torch.ops.rsvheat.frequency_split(tangent.contiguous(), *saved)
    return low, high


# ---- Spectral loss ------------------------------------------------------------------------------


def _save_differences(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pred, target, with_grad = inputs
    grad = output[2]
    # pred and target are references for sign(pred - target); only grad is new memory.
    _save(ctx, pred, target, grad if with_grad else None)
    ctx.mark_non_differentiable(grad)


def _gradient_of_spectral(pred: Tensor, target: Tensor, computed: _Optional) -> Tensor:
    """Return the derivative of sum |dct2d(pred - target)|, which the forward pass may have."""
    if computed is not None:
        return computed
    ops = torch.ops.rsvheat
    difference = _autocast.to_float32(pred) - _autocast.to_float32(target)
    signs = _transformed(ops.dct2d, difference, False).sign()
    return _transformed(ops.idct2d, signs, False).to(pred.dtype)


def _spectral_l1_backward(
    ctx: Any, grad_spatial: _Optional, grad_spectral: _Optional, _: None
) -> tuple[_Optional, ...]:
    pred, target, computed = ctx.saved_tensors
    grad = _sum(
        None if grad_spatial is None else grad_spatial * torch.sign(pred - target),
        None
        if grad_spectral is None
        else grad_spectral * _gradient_of_spectral(pred, target, computed),
    )
    assert grad is not None
    need_pred, need_target = ctx.needs_input_grad[:2]
    return grad if need_pred else None, -grad if need_target else None, None


def _spectral_l1_jvp(
    ctx: Any, saved: list[Any], tangent_pred: _Optional, tangent_target: _Optional, _: None
) -> tuple[_Optional, _Optional, None]:
    pred, target, computed = saved
    tangent = _sum(tangent_pred, None if tangent_target is None else -tangent_target)
    assert tangent is not None
    exact = _autocast.to_float32(tangent)
    spatial = (torch.sign(pred - target) * exact).sum()
    spectral = (_gradient_of_spectral(pred, target, computed) * exact).sum()
    return spatial, spectral, None


# ---- Fused steps of a block ---------------------------------------------------------------------


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps = inputs
    _save(ctx, *tensors)


def _native_backward() -> bool:
    """Return whether the ops for the backward pass do: they have no derivatives themselves."""
    return not torch.is_grad_enabled() and not _checks.transforms_active()


def _gated_layer_norm_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    if not _native_backward():
        return _through_reference(ctx, grad, reference.gated_layer_norm)
    grads = torch.ops.rsvheat._gated_layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps)
    return *grads, None


def _save_added(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    # The sum does not depend on the residual's value: under autocast it is the widest tensor.
    _, *tensors, ctx.eps = inputs
    ctx.dtype = inputs[0].dtype
    _save(ctx, *tensors)


def _add_layer_norm_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    if not _native_backward():
        # residual + norm(x) with a residual of zeros, whose gradient is that of the result.
        def function(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
            zeros = torch.zeros_like(x, dtype=ctx.dtype)
            return reference.add_layer_norm(zeros, x, weight, bias, eps)

        needs = ctx.needs_input_grad[1:4]
        grads = _pulled_back(ctx, grad, function, needs)
        return grad if ctx.needs_input_grad[0] else None, *grads, None
    grads = torch.ops.rsvheat._add_layer_norm_backward(grad, *ctx.saved_tensors, ctx.eps)
    return grad, *grads, None


def _spatial_correction_conv_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    if not _native_backward():
        return _through_reference(ctx, grad, reference.spatial_correction_conv)
    grads = torch.ops.rsvheat._spatial_correction_conv_backward(grad, *ctx.saved_tensors, ctx.eps)
    return *grads, None


def _through_reference(
    ctx: Any, grad: Tensor, function: Callable[..., Tensor]
) -> tuple[_Optional, ...]:
    """Return the gradients of the reference implementation, which have derivatives themselves."""
    needs = ctx.needs_input_grad[: len(ctx.saved_tensors)]
    return *_pulled_back(ctx, grad, function, needs), None


def _pulled_back(
    ctx: Any, grad: Tensor, function: Callable[..., Tensor], needs: tuple[bool, ...]
) -> tuple[_Optional, ...]:
    # torch.autograd.grad would follow the dependence of one input on another, as of x on residual.
    pullback = torch.func.vjp(lambda *x: function(*x, ctx.eps), *ctx.saved_tensors)[1]
    # Some of torch's formulas, as that of silu, are differentiable in this mode alone.
    with torch.enable_grad():
        grads = pullback(grad)
    return tuple(g if need else None for g, need in zip(grads, needs, strict=True))


class _Dual(NamedTuple):
    """A value and its tangent, None if that is zero."""

    value: Tensor
    tangent: _Optional


def _norm_dual(x: _Dual, weight: _Dual, bias: _Dual, eps: float) -> _Dual:
    """Return the layer norm of ``x`` over its last axis."""
    unit, factor = reference.standardize(x.value, eps)
    from_x = None
    if x.tangent is not None:
        change = x.tangent - x.tangent.mean(-1, keepdim=True)
        slope = (unit * x.tangent).mean(-1, keepdim=True)
        from_x = (change - unit * slope) * factor * weight.value
    from_weight = None if weight.tangent is None else unit * weight.tangent
    from_bias = None if bias.tangent is None else bias.tangent.expand_as(unit)
    return _Dual(unit * weight.value + bias.value, _sum(from_x, from_weight, from_bias))


def _duals(saved: list[Tensor], tangents: tuple[_Optional, ...]) -> list[_Dual]:
    """Pair values and tangents, in float32 or float64."""
    return [
        _Dual(_autocast.to_float32(value), None if t is None else _autocast.to_float32(t))
        for value, t in zip(saved, tangents[: len(saved)], strict=True)
    ]


def _gated_layer_norm_jvp(ctx: Any, saved: list[Tensor], *tangents: _Optional) -> Tensor:
    x, gate, weight, bias = _duals(saved, tangents)
    normed = _norm_dual(x, weight, bias, ctx.eps)
    opened = torch.sigmoid(gate.value)
    total = _sum(
        None if normed.tangent is None else normed.tangent * silu(gate.value),
        None
        if gate.tangent is None
        else normed.value * opened * (1 + gate.value * (1 - opened)) * gate.tangent,
    )
    assert total is not None
    return total.to(saved[0].dtype)


def _add_layer_norm_jvp(ctx: Any, saved: list[Tensor], *tangents: _Optional) -> Tensor:
    residual = None if tangents[0] is None else _autocast.to_float32(tangents[0])
    x, weight, bias = _duals(saved, tangents[1:])
    total = _sum(residual, _norm_dual(x, weight, bias, ctx.eps).tangent)
    assert total is not None
    return total.to(ctx.dtype)


def _spatial_correction_conv_jvp(ctx: Any, saved: list[Tensor], *tangents: _Optional) -> Tensor:
    x, embed, norm_weight, norm_bias, kernels, bias = _duals(saved, tangents)
    corrected = x.value + embed.value
    change = _sum(x.tangent, None if embed.tangent is None else embed.tangent.expand_as(corrected))
    if change is not None:
        change = torch.where(corrected > 0, change, 0)
    normed = _norm_dual(_Dual(corrected.relu(), change), norm_weight, norm_bias, ctx.eps)

    def convolved(features: Tensor, kernels: Tensor) -> Tensor:
        channels = features.shape[3]
        y = conv2d(features.permute(0, 3, 1, 2), kernels, padding=1, groups=channels)
        return y.permute(0, 2, 3, 1)

    total = _sum(
        None if normed.tangent is None else convolved(normed.tangent, kernels.value),
        None if kernels.tangent is None else convolved(normed.value, kernels.tangent),
        None if bias.tangent is None else bias.tangent.expand_as(corrected),
    )
    assert total is not None
    return total.to(saved[0].dtype).contiguous()


# ---- Rotated boxes ------------------------------------------------------------------------------


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *boxes, ctx.aligned = inputs
    _save(ctx, *boxes)


def _box_iou_rotated_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    boxes1, boxes2 = ctx.saved_tensors
    need1, need2 = ctx.needs_input_grad[:2]
    if not _native_backward():
        pullback = torch.func.vjp(
            lambda b1, b2: _boxes_reference.box_iou_rotated(b1, b2, ctx.aligned), boxes1, boxes2
        )[1]
        with torch.enable_grad():
            grad1, grad2 = pullback(grad)
        return grad1 if need1 else None, grad2 if need2 else None, None
    backward = torch.ops.rsvheat._box_iou_rotated_backward
    # The ratio is symmetric in its arguments.
    transposed = grad if ctx.aligned else grad.t()
    return (
        backward(grad.contiguous(), boxes1, boxes2, ctx.aligned) if need1 else None,
        backward(transposed.contiguous(), boxes2, boxes1, ctx.aligned) if need2 else None,
        None,
    )


def _save_regions(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, boxes, _, _, *ctx.options = inputs
    _save(ctx, boxes)
    channels_last = ctx.options[-1]
    ctx.image_shape = x.shape[0], *(x.shape[1:3] if channels_last else x.shape[2:])
    ctx.size = inputs[2:4]


def _roi_align_rotated_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    (boxes,) = ctx.saved_tensors
    grad_x = torch.ops.rsvheat._roi_align_rotated_backward(
        grad.contiguous(), boxes, *ctx.image_shape, *ctx.options
    )
    return grad_x, None, None, None, None, None, None


def _roi_align_rotated_jvp(
    ctx: Any, saved: list[Tensor], tangent: _Optional, *_: _Optional
) -> _Optional:
    # Linear in the features; boxes have no derivative.
    if tangent is None:
        return None
    y: Tensor = torch.ops.rsvheat.roi_align_rotated(
        tangent.contiguous(), *saved, *ctx.size, *ctx.options
    )
    return y


def _save_regions_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad_y, boxes, _, _, _, *ctx.options = inputs
    _save(ctx, boxes)
    channels_last = ctx.options[-1]
    ctx.size = grad_y.shape[1:3] if channels_last else grad_y.shape[2:]
    ctx.image_shape = inputs[2:5]


def _roi_align_rotated_backward_backward(ctx: Any, grad: Tensor) -> tuple[_Optional, ...]:
    # Both ops are linear, and each other's transposes.
    (boxes,) = ctx.saved_tensors
    y = torch.ops.rsvheat.roi_align_rotated(grad.contiguous(), boxes, *ctx.size, *ctx.options)
    return y, None, None, None, None, None, None, None


def _roi_align_rotated_backward_jvp(
    ctx: Any, saved: list[Tensor], tangent: _Optional, *_: _Optional
) -> _Optional:
    if tangent is None:
        return None
    grad_x: Tensor = torch.ops.rsvheat._roi_align_rotated_backward(
        tangent.contiguous(), *saved, *ctx.image_shape, *ctx.options
    )
    return grad_x


def _refuse(name: str, what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(f"rsvheat::{name} has no {what}")

    return refuse


def _not_differentiable(name: str) -> Formulas:
    refuse = _refuse(
        name,
        "derivatives; call the function of rsvheat.ops, whose backward pass is differentiable",
    )
    return Formulas(lambda ctx, inputs, output: None, refuse, refuse)


FORMULAS = {
    "dct2d": Formulas(_save_layout, _dct2d_backward, _dct2d_jvp),
    "idct2d": Formulas(_save_layout, _idct2d_backward, _idct2d_jvp),
    "heat_conduction": _conduction(_by_diffusivity),
    "apply_heat_filter": _conduction(_by_filter),
    "_heat_conduction_backward": _conduction_backward(_by_diffusivity),
    "_apply_heat_filter_backward": _conduction_backward(_by_filter),
    "frequency_split": Formulas(_save_sector, _frequency_split_backward, _frequency_split_jvp),
    "spectral_l1": Formulas(_save_differences, _spectral_l1_backward, _spectral_l1_jvp),
    "gated_layer_norm": Formulas(_save_inputs, _gated_layer_norm_backward, _gated_layer_norm_jvp),
    "add_layer_norm": Formulas(_save_added, _add_layer_norm_backward, _add_layer_norm_jvp),
    "spatial_correction_conv": Formulas(
        _save_inputs, _spatial_correction_conv_backward, _spatial_correction_conv_jvp
    ),
    "box_iou_rotated": Formulas(
        _save_pair,
        _box_iou_rotated_backward,
        _refuse("box_iou_rotated", "tangents; call rsvheat.ops.box_iou_rotated, which has"),
    ),
    "roi_align_rotated": Formulas(
        _save_regions, _roi_align_rotated_backward, _roi_align_rotated_jvp
    ),
    "_roi_align_rotated_backward": Formulas(
        _save_regions_backward,
        _roi_align_rotated_backward_backward,
        _roi_align_rotated_backward_jvp,
    ),
    **{
        name: _not_differentiable(name)
        for name in (
            "_gated_layer_norm_backward",
            "_add_layer_norm_backward",
            "_spatial_correction_conv_backward",
            "_box_iou_rotated_backward",
            "nms_rotated",
        )
    },
}
