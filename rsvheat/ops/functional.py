# SPDX-License-Identifier: Apache-2.0
"""The public operators: they check arguments and call the native op or the reference."""

import torch
from torch import Tensor

from rsvheat.ops import _checks, reference
from rsvheat.ops._backend import use_native
from rsvheat.ops._types import Angles, Features, Layout, MultiDomainLoss, PerSample, Reduction


def dct2d(x: Tensor, layout: Layout = "nchw") -> Tensor:
    """Transform the height and width of every channel by the orthonormal DCT-II.

    The coefficient (n, m) belongs to the frequencies ``n * pi / H`` and ``m * pi / W`` in radians
    per pixel; ``norm="ortho"`` in SciPy's terms, so the transform is an isometry and its inverse
    and its adjoint are both ``idct2d`` (the DCT-III).

    Args:
        x: Images or features, (B, C, H, W) for ``layout="nchw"``, (B, H, W, C) for ``"nhwc"``;
            float32, float64, bfloat16 or float16, H and W from 1 to 4096. Strides that are not
            contiguous are copied.
        layout: Memory layout of ``x``, ``"nchw"`` or ``"nhwc"``.

    Returns:
        Coefficients of the same shape and dtype as ``x``; sums are kept in float32, or float64
        for float64. Under autocast half types are computed and returned in float32.

    Raises:
        ValueError: If the rank, H, W or the layout's name is not as above.
        TypeError: If ``x`` is not a dense tensor of one of these dtypes.
    """
    _checks.layout(layout)
    _checks.image_batch("x", x, layout)
    if not use_native(x):
        return reference.dct2d(x, layout)
    y: Tensor = torch.ops.rsvheat.dct2d(x.contiguous(), layout == "nhwc")
    return y


def idct2d(x: Tensor, layout: Layout = "nchw") -> Tensor:
    """Transform the height and width of every channel by the orthonormal DCT-III.

    The inverse, and the adjoint, of ``dct2d``; arguments, dtypes and errors are the same.

    Args:
        x: Coefficients, (B, C, H, W) for ``layout="nchw"``, (B, H, W, C) for ``"nhwc"``.
        layout: Memory layout of ``x``, ``"nchw"`` or ``"nhwc"``.

    Returns:
        Values in space, of the same shape and dtype as ``x``.

    Raises:
        ValueError: As for ``dct2d``.
        TypeError: As for ``dct2d``.
    """
    _checks.layout(layout)
    _checks.image_batch("x", x, layout)
    if not use_native(x):
        return reference.idct2d(x, layout)
    y: Tensor = torch.ops.rsvheat.idct2d(x.contiguous(), layout == "nhwc")
    return y


def heat_conduction(x: Tensor, k: Tensor | float) -> Tensor:
    """Diffuse features for one time step with Neumann boundaries.

    Computes ``idct2d(dct2d(x) * exp(-k * (omega_h**2 + omega_w**2)))`` with the orthonormal
    DCT-II and ``omega_n = n * pi / N``, so the mean of each channel is unchanged. Differentiable
    any number of times in ``x`` and ``k``; the backward pass keeps only these two.

    Args:
        x: Features, (B, H, W, C); float32, float64, bfloat16 or float16, H and W from 1 to 4096.
            Strides that are not contiguous are copied.
        k: Thermal diffusivity in pixel**2, the time step folded in, not negative: a number, or a
            tensor that broadcasts to (H, W, C), such as (H, W, C), (1, 1, C) or (C,). Used in
            float32, in float64 if ``x`` is float64. Infinity is the limit of large values: it
            removes a coefficient, except the mean, which stays as it is.

    Returns:
        Features of the same shape and dtype as ``x``; sums are kept in float32, or float64 for
        float64. Under autocast float32 features are taken and returned in the autocast type.

    Raises:
        ValueError: If rank, H, W, the shape or device of ``k``, or a number ``k`` is not as above.
        TypeError: If ``x`` is not a dense tensor of one of these dtypes, or ``k`` neither that
            nor a number.
        RuntimeError: If a tensor ``k`` holds negative or NaN values; checked by the CPU kernel
            only. Elsewhere NaN spreads over the whole channel, and negative values amplify.

    Source: vHeat (arXiv 2405.16555), heat conduction operator.
    """
    _checks.image_batch("x", x, "nhwc")
    if not use_native(x):
        return reference.heat_conduction(x, k)
    y: Tensor = torch.ops.rsvheat.heat_conduction(x.contiguous(), _checks.coefficients("k", k, x))
    return y


def heat_filter(k: Tensor | float, height: int, width: int) -> Tensor:
    """Prepare the filter of ``heat_conduction`` for ``apply_heat_filter``.

    At inference ``k`` is constant: preparing the filter once saves its exponentials on every call.

    Args:
        k: Thermal diffusivity in pixel**2, not negative, infinity as for ``heat_conduction``:
            a number, or a tensor that broadcasts to (H, W, C). The values are read here (unless
            they are being traced), so that an error shows at construction.
        height: H of the features, 1 to 4096.
        width: W of the features, 1 to 4096.

    Returns:
        ``exp(-k * (omega_h**2 + omega_w**2))``, (H, W, C), or (H, W, 1) for a scalar ``k``;
        float64 if ``k`` is, else float32; on the device of ``k``. Differentiable in ``k``.

    Raises:
        ValueError: If a value of ``k`` is negative or NaN, or a size does not fit.
        TypeError: If ``k`` is neither a number nor a dense floating-point tensor.

    Source: vHeat (arXiv 2405.16555), heat conduction operator.
    """
    height, width = _checks.filter_size("height", height), _checks.filter_size("width", width)
    k = _checks.filter_diffusivity(k, height, width)
    channels = _checks.sizes(k)[-1] if k.dim() > 0 else 1
    return reference.exponential_filter(k.expand(height, width, channels))


def apply_heat_filter(x: Tensor, filter: Tensor) -> Tensor:  # noqa: A002
    """Multiply the DCT-II coefficients of features by a prepared filter and transform back.

    Args:
        x: Features, (B, H, W, C), as for ``heat_conduction``.
        filter: Result of ``heat_filter``, or any tensor that broadcasts to (H, W, C). Used in
            float32, in float64 if ``x`` is float64.

    Returns:
        Features of the same shape and dtype as ``x``, as from ``heat_conduction``.

    Raises:
        ValueError: If rank, H, W, or the shape or device of ``filter`` is not as above.
        TypeError: If either is not a dense floating-point tensor.

    Source: vHeat (arXiv 2405.16555), heat conduction operator.
    """
    _checks.image_batch("x", x, "nhwc")
    if not use_native(x):
        return reference.apply_heat_filter(x, filter)
    y: Tensor = torch.ops.rsvheat.apply_heat_filter(
        x.contiguous(), _checks.coefficients("filter", filter, x)
    )
    return y


def frequency_split(
    x: Tensor, radius: PerSample, angles: Angles = (0, 90)
) -> tuple[Tensor, Tensor]:
    """Split images into a low and a high band that add up to them.

    The low band keeps the DCT-II coefficients (n, m), n along the height, of the sector around DC
    with ``n**2 + m**2 <= radius**2 * (H**2 + W**2)`` and ``angle_0 <= atan2(n, m) <= angle_1``,
    bounds included, and always DC; the high band is the rest.

    Args:
        x: Images, (B, C, H, W); float32, float64, bfloat16 or float16, H and W from 1 to 4096.
        radius: Fraction of the spectrum's diagonal ``sqrt(H**2 + W**2)``, finite and at least 0;
            from 1 on, every radius passes. A number, or one per sample: a sequence or (B,) tensor.
        angles: Pair (angle_0, angle_1) in degrees, 0 <= angle_0 <= angle_1 <= 90, each a number or
            one per sample; or a (B, 2) tensor. A sequence of length 2 is always such a pair.

    Returns:
        ``low`` and ``high``, each of the shape and dtype of ``x``; high is ``x`` minus low as
        rounded to that dtype. Under autocast half types are computed and returned in
        float32. Differentiable in ``x``, not in radius and angles.

    Raises:
        ValueError: If a shape or a value is not as above. Values in tensors are read only if these
            live on the CPU and are not being traced.
        TypeError: If ``x`` is not a dense tensor of one of these dtypes, or radius or angles are
            not real numbers.

    Source: RS-vHeat (arXiv 2411.17984), frequency hierarchical masking.
    """
    _checks.image_batch("x", x, "nchw")
    if not use_native(x):
        return reference.frequency_split(x, radius, angles)
    low, high = torch.ops.rsvheat.frequency_split(
        x.contiguous(), _checks.radius(radius, x).contiguous(), _checks.angles(angles, x)
    )
    return low, high


def spectral_l1_loss(pred: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Compare images by the absolute differences of their orthonormal DCT-II coefficients.

    The transform is linear, so this is ``dct2d(pred - target).abs()`` with a single transform; a
    gradient takes one inverse transform more.

    Args:
        pred: Images, (B, C, H, W); float32, float64, bfloat16 or float16, H and W from 1 to 4096.
        target: Images of the same shape and dtype.
        reduction: Reduction over all coefficients, ``"mean"`` or ``"sum"``.

    Returns:
        0-dim float32 tensor, float64 for float64. Differentiable in ``pred`` and ``target``; the
        sign's derivative counts as zero.

    Raises:
        ValueError: If a shape, a device or the reduction's name is not as above.
        TypeError: If a dtype is not as above.

    Source: RS-vHeat (arXiv 2411.17984), multi-domain reconstruction loss.
    """
    _checks.reduction(reduction)
    _checks.pair(pred, target)
    if not use_native(pred):
        return reference.spectral_l1_loss(pred, target, reduction)
    _, spectral = _l1_sums(pred, target)
    return spectral / pred.numel() if reduction == "mean" else spectral


def multi_domain_loss(
    pred: Tensor,
    target: Tensor,
    features_a: Features | None = None,
    features_b: Features | None = None,
    *,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> MultiDomainLoss:
    """Compare a reconstruction in space and in frequency, and the features of two views.

    ``spatial`` is the mean of ``|pred - target|``, ``spectral`` the mean of their
    ``spectral_l1_loss``, ``cosine`` the mean of one minus the cosine similarity of
    ``features_a`` and ``features_b`` along the channels, averaged over levels.

    Args:
        pred: Reconstructed images, (B, C, H, W), as for ``spectral_l1_loss``.
        target: Images of the same shape and dtype.
        features_a: Features of one view, (N, C, ...), or a sequence with one such tensor a level.
        features_b: Features of the other view, of the same shapes.
        weights: Weights of the spatial, spectral and cosine terms in ``total``, at least 0.

    Returns:
        ``total`` and its unweighted parts, 0-dim; sums are kept in float32, or float64 for
        float64. ``cosine`` is zero, and not computed, without features or with weight 0.

    Raises:
        ValueError: If a shape, a device or a weight is not as above, or only one view is given.
        TypeError: If a dtype is not as above.

    Source: RS-vHeat (arXiv 2411.17984), pretraining objective.
    """
    _checks.pair(pred, target)
    if not use_native(pred):
        return reference.multi_domain_loss(pred, target, features_a, features_b, weights=weights)
    spatial, spectral = (total / pred.numel() for total in _l1_sums(pred, target))
    return reference.weigh(spatial, spectral, features_a, features_b, weights)


def _l1_sums(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum |d| and sum |dct2d(d)| of d = pred - target."""
    with_grad = torch.is_grad_enabled() and (pred.requires_grad or target.requires_grad)
    spatial, spectral, _ = torch.ops.rsvheat.spectral_l1(
        pred.contiguous(), target.contiguous(), with_grad
    )
    return spatial, spectral
