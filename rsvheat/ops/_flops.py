# SPDX-License-Identifier: Apache-2.0
"""FLOP formulas for ``torch.utils.flop_counter``: importing this module registers them.

Counted are the fast transforms at 2.5 * N * log2(N) per line of N points, the cost of a real FFT
of that length, whatever algorithm a kernel uses for that N, and one for each multiplication or
addition per coefficient around them. Exponentials, signs and absolute values are not counted. The
reference implementations count as the matrix products that they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula

from rsvheat import _library

# Operations for one pair of boxes (csrc/core/boxes_math.inl).
_BOX_IOU = 250


def _register() -> None:
    """Attach the formulas to the native ops."""
    formulas: dict[str, Callable[..., int]] = {
        "dct2d": _transform,
        "idct2d": _transform,
        "heat_conduction": _filtered,
        "apply_heat_filter": _filtered,
        "_heat_conduction_backward": _heat_conduction_backward,
        "_apply_heat_filter_backward": _apply_heat_filter_backward,
        "frequency_split": _frequency_split,
        "spectral_l1": _spectral_l1,
        "spatial_correction_conv": _spatial_correction_conv,
        "_spatial_correction_conv_backward": _spatial_correction_conv_backward,
        "box_iou_rotated": _box_iou_rotated,
        "_box_iou_rotated_backward": _box_iou_rotated_backward,
        "roi_align_rotated": _roi_align_rotated,
        "_roi_align_rotated_backward": _roi_align_rotated_backward,
    }
    for name, formula in formulas.items():
        register_flop_formula(getattr(torch.ops.rsvheat, name))(formula)


def _register_products() -> None:
    """Attach formulas to fused products, of which torch knows none yet."""
    for library, name, formula in (
        (torch.ops.mkldnn, "_linear_pointwise", _linear),
        (torch.ops.mkldnn, "_convolution_pointwise", _convolution),
        (torch.ops.rsvheat, "_lowered_linear", _linear),
    ):
        packet = getattr(library, name, None)
        if packet is not None and packet not in flop_registry:
            register_flop_formula(packet)(formula)


def _linear(x: Sequence[int], *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 2 * out_shape.numel() * x[-1]


def _convolution(
    x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: torch.Size, **__: Any
) -> int:
    count: int = conv_flop_count(list(x), list(weight), list(out_shape))
    return count


def _cost(shape: Sequence[int], rows: int, transforms: float, pointwise: int) -> int:
    """Cost of transforms over axes ``rows`` and ``rows + 1`` and of pointwise work on ``shape``."""
    lines = 2.5 * math.log2(shape[rows] * shape[rows + 1])
    return round(math.prod(shape) * (transforms * lines + pointwise))


def _transform(x: Sequence[int], channels_last: bool, *_: Any, **__: Any) -> int:
    return _cost(x, 1 if channels_last else 2, 1, 0)


def _filtered(x: Sequence[int], coefficients: Sequence[int], *_: Any, **__: Any) -> int:
    return _cost(x, 1, 2, 1)


def _heat_conduction_backward(*args: Any, **_: Any) -> int:
    k = args[2]
    # dE/dk from E: a product with -|omega|^2, once for the whole batch.
    return _apply_heat_filter_backward(*args) + (2 * math.prod(k) if args[4] else 0)


def _apply_heat_filter_backward(*args: Any, **_: Any) -> int:
    x, need_x, need_coefficients = args[1], args[3], args[4]
    transforms = 1 + need_x + need_coefficients
    return _cost(x, 1, transforms, need_x + 2 * need_coefficients)


def _frequency_split(x: Sequence[int], *_: Any, **__: Any) -> int:
    return _cost(x, 2, 2, 1)


# Norms and activations count nothing, as for torch's own; the convolution counts as torch's would.
def _spatial_correction_conv(x: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * 9 * math.prod(x)


def _spatial_correction_conv_backward(grad_y: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _spatial_correction_conv(grad_y)


def _spectral_l1(
    pred: Sequence[int], target: Sequence[int], with_grad: bool, *_: Any, **__: Any
) -> int:
    return _cost(pred, 2, 2 if with_grad else 1, 3)


def _box_iou_rotated(
    boxes1: Sequence[int], boxes2: Sequence[int], aligned: bool, *_: Any, **__: Any
) -> int:
    """Count every pair, although those far apart cost less."""
    return _BOX_IOU * boxes1[0] * (1 if aligned else boxes2[0])


def _box_iou_rotated_backward(
    grad: Sequence[int],
    boxes1: Sequence[int],
    boxes2: Sequence[int],
    aligned: bool,
    *_: Any,
    **__: Any,
) -> int:
    return 2 * _box_iou_rotated(boxes1, boxes2, aligned)


def _roi_align_rotated(
    x: Sequence[int],
    boxes: Sequence[int],
    output_height: int,
    output_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
    *_: Any,
    **__: Any,
) -> int:
    """Count eight operations a point and channel; two points each way where boxes decide."""
    points = boxes[0] * output_height * output_width * (sampling_ratio or 2) ** 2
    return 8 * points * (x[3] if channels_last else x[1])


def _roi_align_rotated_backward(
    grad_y: Sequence[int],
    boxes: Sequence[int],
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    *_: Any,
    **__: Any,
) -> int:
    return 8 * math.prod(grad_y) * (sampling_ratio or 2) ** 2


if _library.native_available():
    _register()
_register_products()
