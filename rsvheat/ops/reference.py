# SPDX-License-Identifier: Apache-2.0
"""Reference implementations of the operators in pure torch, by products with the DCT matrix.

They run on any device that torch has, are differentiated by torch's autograd any number of times,
and the tests compare the native kernels with them. Each has the signature of its public function
in ``rsvheat.ops``, whose docstring applies here. One difference: the values of a tensor ``k``
are not checked, so negative ones pass.
"""

import math

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import conv2d, cosine_similarity, layer_norm, relu, silu

from rsvheat.ops import _autocast, _checks
from rsvheat.ops._types import (
    Angles,
    Features,
    Layout,
    MultiDomainLoss,
    PerSample,
    Reduction,
)

# DCT matrices by size, type and device: a model uses a few. Larger ones are rebuilt, as their cost
# is small beside that of the product.
_matrices: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
_MOST_CACHED = 16
_LARGEST_CACHED = 1024

# The comparisons of a sector's bounds are widened by this much, relative, so that boundaries
# which are exact in real arithmetic fall inside; as in csrc/core/frequency_split.h.
_SECTOR_TOLERANCE = 1e-9


def dct2d(x: Tensor, layout: Layout = "nchw") -> Tensor:
    """Compute ``rsvheat.ops.dct2d`` in pure torch."""
    _checks.layout(layout)
    _checks.image_batch("x", x, layout)
    return _transform(x, layout, inverse=False)


def idct2d(x: Tensor, layout: Layout = "nchw") -> Tensor:
    """Compute ``rsvheat.ops.idct2d`` in pure torch."""
    _checks.layout(layout)
    _checks.image_batch("x", x, layout)
    return _transform(x, layout, inverse=True)


def heat_conduction(x: Tensor, k: Tensor | float) -> Tensor:
    """Compute ``rsvheat.ops.heat_conduction`` in pure torch."""
    _checks.image_batch("x", x, "nhwc")
    return _apply(x, exponential_filter(_checks.coefficients("k", k, x)))


def apply_heat_filter(x: Tensor, filter: Tensor) -> Tensor:  # noqa: A002
    """Compute ``rsvheat.ops.apply_heat_filter`` in pure torch."""
    _checks.image_batch("x", x, "nhwc")
    return _apply(x, _checks.coefficients("filter", filter, x))


def frequency_split(
    x: Tensor, radius: PerSample, angles: Angles = (0, 90)
) -> tuple[Tensor, Tensor]:
    """Compute ``rsvheat.ops.frequency_split`` in pure torch."""
    _checks.image_batch("x", x, "nchw")
    height, width = _checks.sizes(x)[2:]
    mask = sector_mask(_checks.radius(radius, x), _checks.angles(angles, x), height, width)
    if _autocast.enabled(x):
        x = _autocast.to_float32(x)
    exact = _autocast.to_float32(x)
    kept = _transform(exact, "nchw", inverse=False) * mask[:, None].to(x.device, exact.dtype)
    low = _transform(kept, "nchw", inverse=True).to(x.dtype)
    return low, (exact - low).to(x.dtype)


def spectral_l1_loss(pred: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Compute ``rsvheat.ops.spectral_l1_loss`` in pure torch."""
    _checks.reduction(reduction)
    _checks.pair(pred, target)
    error = _transform(_difference(pred, target), "nchw", inverse=False).abs()
    return error.mean() if reduction == "mean" else error.sum()


def multi_domain_loss(
    pred: Tensor,
    target: Tensor,
    features_a: Features | None = None,
    features_b: Features | None = None,
    *,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> MultiDomainLoss:
    """Compute ``rsvheat.ops.multi_domain_loss`` in pure torch."""
    _checks.pair(pred, target)
    spatial = _difference(pred, target).abs().mean()
    return weigh(spatial, spectral_l1_loss(pred, target), features_a, features_b, weights)


def gated_layer_norm(
    x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Compute ``rsvheat.ops.gated_layer_norm`` in pure torch."""
    _checks.like("gate", gate, "x", x)
    if _autocast.enabled(x):
        x = _autocast.to_lower(x, x.device.type)
    normed = _layer_norm(x, weight, bias, eps)
    return (normed * silu(_autocast.to_float32(gate.to(x.dtype)))).to(x.dtype)


def add_layer_norm(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Compute ``rsvheat.ops.add_layer_norm`` in pure torch."""
    _checks.like("residual", residual, "x", x)
    normed = _layer_norm(x.to(residual.dtype), weight, bias, eps)
    return (_autocast.to_float32(residual) + normed).to(residual.dtype)


def spatial_correction_conv(
    x: Tensor,
    embed: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """Compute ``rsvheat.ops.spatial_correction_conv`` in pure torch."""
    _checks.image_batch("x", x, "nhwc")
    _checks.parameter("embed", embed, _checks.sizes(x)[1:], x)
    _checks.parameter("conv_weight", conv_weight, (_checks.sizes(x)[3], 1, 3, 3), x)
    if _autocast.enabled(x):
        x = _autocast.to_lower(x, x.device.type)
    norm_weight, norm_bias, conv_bias = _checks.channel_parameters(
        x, norm_weight=norm_weight, norm_bias=norm_bias, conv_bias=conv_bias
    )
    corrected = relu(_autocast.to_float32(x) + _checks.to_parameter_dtype(embed, x))
    normed = _layer_norm(corrected, norm_weight, norm_bias, eps).permute(0, 3, 1, 2)
    kernels = _checks.to_parameter_dtype(conv_weight, x)
    with _autocast.disabled(x):
        y = conv2d(normed, kernels, conv_bias, padding=1, groups=_checks.sizes(x)[3])
    return y.permute(0, 2, 3, 1).to(x.dtype)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the norm of ``x`` over its last axis, in float32 or float64."""
    weight, bias = _checks.channel_parameters(x, weight=weight, bias=bias)
    exact = _autocast.to_float32(x)
    if _checks.transforms_active():
        # torch's layer_norm has tangents whose gradients are wrong, as of torch 2.15.
        unit, _ = standardize(exact, eps)
        return unit * weight + bias
    with _autocast.disabled(x):
        return layer_norm(exact, _checks.sizes(x)[-1:], weight, bias, eps)


def standardize(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``x`` with mean 0 and variance 1 along its last axis, and the factor (..., 1)."""
    centered = x - x.mean(-1, keepdim=True)
    factor = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centered * factor, factor


def weigh(
    spatial: Tensor,
    spectral: Tensor,
    features_a: Features | None,
    features_b: Features | None,
    weights: tuple[float, float, float],
) -> MultiDomainLoss:
    """Add the cosine term to the two L1 terms: the last step of every multi-domain loss."""
    spatial_weight, spectral_weight, cosine_weight = _checks.loss_weights(weights)
    total = spatial_weight * spatial + spectral_weight * spectral
    if (features_a is None) != (features_b is None):
        raise ValueError("features_a and features_b must be given together, got only one of them")
    if features_a is None or features_b is None or cosine_weight == 0:
        return MultiDomainLoss(total, spatial, spectral, torch.zeros_like(spatial))
    pairs = _checks.feature_pairs(features_a, features_b)
    terms = [1 - _similarity(*pair).mean() for pair in pairs]
    cosine = torch.stack(terms).mean().to(spatial.device)
    return MultiDomainLoss(total + cosine_weight * cosine, spatial, spectral, cosine)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    with _autocast.disabled(a):
        return cosine_similarity(_autocast.to_float32(a), _autocast.to_float32(b), dim=1)


@_checks.untraced
def omega_squared(height: int, width: int, k: Tensor) -> Tensor:
    """Return omega_h^2 + omega_w^2, (H, W, 1), in the type and on the device of ``k``."""
    device = _checks.precise_device(k.device)
    # Divided by n in the tensor: pi / n of a symbolic n makes torch.compile trace twice.
    axes = [
        (torch.arange(n, dtype=torch.float64, device=device) * math.pi / n).square()
        for n in (height, width)
    ]
    return (axes[0][:, None] + axes[1])[..., None].to(k.device, k.dtype)


def exponential_filter(k: Tensor) -> Tensor:
    """Return exp(-k * |omega|^2) for a ``k`` of shape (H, W, C); 1 at omega = 0 for infinite k."""
    height, width = _checks.sizes(k)[:2]
    # Infinity times 0 would be NaN, which a NaN stays.
    finite = k.clamp(max=torch.finfo(k.dtype).max)
    return torch.exp(-finite * omega_squared(height, width, k))


def sector_mask(radius: Tensor, angles: Tensor, height: int, width: int) -> Tensor:
    """Return the coefficients that the low band keeps, (B, H, W), boolean.

    Must agree with ``rsvheat::sector_ranges`` in csrc/core/frequency_split.h to the last
    coefficient.

    Args:
        radius: Fraction of the spectrum's diagonal, (B,), float64.
        angles: Bounds of the sector in degrees, (B, 2), float64.
        height: Number of rows of the spectrum.
        width: Number of columns of the spectrum.
    """
    n = torch.arange(height, dtype=torch.float64, device=radius.device)[:, None]
    m = torch.arange(width, dtype=torch.float64, device=radius.device)
    limit = radius.square() * (height**2 + width**2) * (1 + _SECTOR_TOLERANCE)
    cos, sin = angles.deg2rad().cos(), angles.deg2rad().sin()
    # sin(atan2(n, m) - angle), scaled: positive above the angle's ray.
    above = n * cos[:, :, None, None] - m * sin[:, :, None, None]
    slack = _SECTOR_TOLERANCE * (n + m)
    inside = (above[:, 0] >= -slack) & (above[:, 1] <= slack)
    return inside & (n * n + m * m <= limit[:, None, None]) | (n + m == 0)


def _difference(pred: Tensor, target: Tensor) -> Tensor:
    return _autocast.to_float32(pred) - _autocast.to_float32(target)


def _apply(x: Tensor, gain: Tensor) -> Tensor:
    if _autocast.enabled(x):
        x = _autocast.to_lower(x, x.device.type)
    spectrum = _transform(_autocast.to_float32(x), "nhwc", inverse=False)
    return _transform(spectrum * gain, "nhwc", inverse=True).to(x.dtype)


def _transform(x: Tensor, layout: Layout, *, inverse: bool) -> Tensor:
    if _autocast.enabled(x):
        x = _autocast.to_float32(x)
    exact = _autocast.to_float32(x)
    shape = _checks.sizes(x)
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    rows, columns = _matrix(height, exact), _matrix(width, exact)
    if inverse:
        rows, columns = rows.T, columns.T
    with _autocast.disabled(x):
        if layout == "nchw":
            y = rows @ exact @ columns.T
        else:
            batch, channels = x.shape[0], shape[3]
            y = rows @ exact.reshape(batch, height, width * channels)
            y = columns @ y.reshape(batch, height, width, channels)
    return y.to(x.dtype)


@_checks.untraced
def _matrix(n: int, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or not _plain(x) or n > _LARGEST_CACHED:
        return _dct_matrix(n, x.dtype, x.device)
    key = n, x.dtype, x.device
    matrix = _matrices.get(key)
    if matrix is None:
        with torch.inference_mode(False):  # or autograd could not save it later
            matrix = _dct_matrix(n, x.dtype, x.device)
        if len(_matrices) >= _MOST_CACHED:
            _matrices.clear()
        if _plain(matrix):
            _matrices[key] = matrix
    return matrix


def _plain(x: Tensor) -> bool:
    """Return whether ``x`` has data and is of no subclass: what is made for it may be cached."""
    return type(x) in (Tensor, Parameter) and not torch._is_functional_tensor(x)


def _dct_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix, (n, n); its transpose is the DCT-III."""
    index = torch.arange(n, device=_checks.precise_device(device))
    # The angle's numerator is reduced in integers, so no accuracy is lost at large n.
    turns = (2 * index + 1) * index[:, None] % (4 * n)
    matrix = torch.cos(turns.double() * math.pi / (2 * n))
    scale = torch.where(index == 0, 1.0, 2.0).double().div(n).sqrt()
    return (matrix * scale[:, None]).to(device, dtype)
