# SPDX-License-Identifier: Apache-2.0
"""Fused memory-bound operators between the matrix products of the encoder's blocks.

Every function keeps its inputs for the backward pass and nothing else.
"""

import torch
from torch import Tensor

from rsvheat.ops import _checks, reference
from rsvheat.ops._backend import use_native

_HALVES = (torch.bfloat16, torch.float16)


def gated_layer_norm(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Apply a layer norm over the channels and multiply by an activated gate.

    Computes ``layer_norm(x) * silu(gate)``, the last step of the heat conduction operator.

    Args:
        x: Features, (..., C); float32, float64, bfloat16 or float16.
        gate: Gate before its activation, of the same shape; converted to the dtype of ``x``.
        weight: Weight of the layer norm, (C,). Used in float32, in float64 if ``x`` is.
        bias: Bias of the layer norm, (C,).
        eps: Constant added to the variance.

    Returns:
        Features of the same shape and dtype as ``x``, rounded once; sums are kept in float32, or
        float64 for float64. Under autocast float32 features are taken in the autocast type.

    Raises:
        ValueError: If a shape or a device is not as above.
        TypeError: If a dtype is not as above.

    Source: vHeat (arXiv 2405.16555), heat conduction operator.
    """
    _checks.like("gate", gate, "x", x)
    if not use_native(x):
        return reference.gated_layer_norm(x, gate, weight, bias, eps)
    parameters = _checks.channel_parameters(x, weight=weight, bias=bias)
    y: Tensor = torch.ops.rsvheat.gated_layer_norm(x, gate.to(x.dtype), *parameters, eps)
    return y


def add_layer_norm(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Apply a layer norm over the channels and add the result to a residual stream.

    Computes ``residual + layer_norm(x)``, the last step of a block with norms after its branches.

    Args:
        residual: Features, (..., C); float32, float64, bfloat16 or float16.
        x: Output of a branch, of the same shape; converted to the dtype of ``residual``.
        weight: Weight of the layer norm, (C,). Used in float32, in float64 if ``residual`` is.
        bias: Bias of the layer norm, (C,).
        eps: Constant added to the variance.

    Returns:
        Features of the shape and dtype of ``residual``, rounded once; sums are kept in float32, or
        float64 for float64.

    Raises:
        ValueError: If a shape or a device is not as above.
        TypeError: If a dtype is not as above.

    Source: vHeat (arXiv 2405.16555), block with post-norm.
    """
    _checks.like("residual", residual, "x", x)
    if not use_native(x):
        return reference.add_layer_norm(residual, x, weight, bias, eps)
    parameters = _checks.channel_parameters(residual, weight=weight, bias=bias)
    # CUDA's kernels widen a half type as they read it; no bit of the result differs.
    if not (x.is_cuda and x.dtype in _HALVES and residual.dtype == torch.float32):
        x = x.to(residual.dtype)
    y: Tensor = torch.ops.rsvheat.add_layer_norm(residual, x, *parameters, eps)
    return y


def overwrites(residual: Tensor) -> bool:
    """Return whether ``add_layer_norm_into`` may be called: on CUDA, without gradients."""
    return (
        residual.is_cuda
        and residual.is_contiguous()
        and not torch.is_grad_enabled()
        and use_native(residual)
    )


def add_layer_norm_into(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> None:
    """Replace ``residual`` by what ``add_layer_norm`` returns.

    Args:
        residual: Features, (..., C), of which ``overwrites`` is true.
        x: Output of a branch, of the same shape, and of the same dtype or a half type.
        weight: Weight of the layer norm, (C,).
        bias: Bias of the layer norm, (C,).
        eps: Constant added to the variance.
    """
    parameters = _checks.channel_parameters(residual, weight=weight, bias=bias)
    if not (x.dtype in _HALVES and residual.dtype == torch.float32):
        x = x.to(residual.dtype)
    torch.ops.rsvheat._add_layer_norm_into(residual, x, *parameters, eps)


def spatial_correction_conv(
    x: Tensor,
    embed: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """Add an embedding of the position, apply a layer norm and a depthwise convolution.

    Computes ``depthwise_conv3x3(layer_norm(relu(x + embed)))`` with zero padding, the first step of
    the heat conduction operator of RS-vHeat.

    Args:
        x: Features, (B, H, W, C); float32, float64, bfloat16 or float16, H and W up to 4096.
        embed: Spatial correction embedding, (H, W, C). This and all other parameters are used in
            float32, in float64 if ``x`` is.
        norm_weight: Weight of the layer norm, (C,).
        norm_bias: Bias of the layer norm, (C,).
        conv_weight: Kernels of the convolution, (C, 1, 3, 3).
        conv_bias: Bias of the convolution, (C,).
        eps: Constant added to the variance.

    Returns:
        Features of the same shape and dtype as ``x``, rounded once; sums are kept in float32, or
        float64 for float64. Under autocast float32 features are taken in the autocast type.

    Raises:
        ValueError: If a shape or a device is not as above.
        TypeError: If a dtype is not as above.

    Source: RS-vHeat (arXiv 2411.17984), spatial correction embeddings.
    """
    _checks.image_batch("x", x, "nhwc")
    _checks.parameter("embed", embed, _checks.sizes(x)[1:], x)
    _checks.parameter("conv_weight", conv_weight, (_checks.sizes(x)[3], 1, 3, 3), x)
    operands = (embed, norm_weight, norm_bias, conv_weight, conv_bias)
    if not use_native(x):
        return reference.spatial_correction_conv(x, *operands, eps)
    channels = _checks.channel_parameters(
        x, norm_weight=norm_weight, norm_bias=norm_bias, conv_bias=conv_bias
    )
    embed, conv_weight = (_checks.to_parameter_dtype(p, x) for p in (embed, conv_weight))
    y: Tensor = torch.ops.rsvheat.spatial_correction_conv(
        x, embed, *channels[:2], conv_weight, channels[2], eps
    )
    return y
