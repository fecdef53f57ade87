# SPDX-License-Identifier: Apache-2.0
"""Fake kernels: the outputs' metadata, for tracing. Arguments were checked by the public layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def register() -> None:
    """Attach the fake kernels to the native ops."""
    fakes: dict[str, Callable[..., Any]] = {
        "dct2d": _transform,
        "idct2d": _transform,
        "heat_conduction": _like_first,
        "apply_heat_filter": _like_first,
        "_heat_conduction_backward": _backward,
        "_apply_heat_filter_backward": _backward,
        "frequency_split": _frequency_split,
        "spectral_l1": _spectral_l1,
        "gated_layer_norm": _like_first,
        "add_layer_norm": _like_first,
        "_add_layer_norm_into": lambda *_: None,
        "spatial_correction_conv": _like_first,
        "_gated_layer_norm_backward": _like_operands,
        "_add_layer_norm_backward": _like_operands,
        "_spatial_correction_conv_backward": _like_operands,
        "box_iou_rotated": _box_iou_rotated,
        "_box_iou_rotated_backward": _box_iou_rotated_backward,
        "nms_rotated": _nms_rotated,
        "roi_align_rotated": _roi_align_rotated,
        "_roi_align_rotated_backward": _roi_align_rotated_backward,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"rsvheat::{name}", fake)


def _transform(x: Tensor, channels_last: bool) -> Tensor:
    return x.new_empty(x.shape)


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_operands(grad_y: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in operands if isinstance(t, Tensor))


def _backward(
    grad_y: Tensor, x: Tensor, coefficients: Tensor, need_x: bool, need_coefficients: bool
) -> tuple[Tensor, Tensor]:
    grad_x = x.new_empty(x.shape if need_x else (0,))
    grad = coefficients.new_empty(coefficients.shape if need_coefficients else (0,))
    return grad_x, grad


def _frequency_split(x: Tensor, radius: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _spectral_l1(pred: Tensor, target: Tensor, with_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if pred.dtype == torch.float64 else torch.float32
    grad = pred.new_empty(pred.shape if with_grad else (0,))
    return pred.new_empty((), dtype=dtype), pred.new_empty((), dtype=dtype), grad


def _box_iou_rotated(boxes1: Tensor, boxes2: Tensor, aligned: bool) -> Tensor:
    shape = (boxes1.shape[0],) if aligned else (boxes1.shape[0], boxes2.shape[0])
    return boxes1.new_empty(shape)


def _box_iou_rotated_backward(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, aligned: bool
) -> Tensor:
    return boxes1.new_empty(boxes1.shape)


def _nms_rotated(boxes: Tensor, order: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty((boxes.shape[0],), dtype=torch.bool)


def _roi_align_rotated(
    x: Tensor,
    boxes: Tensor,
    output_height: int,
    output_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    if channels_last:
        return x.new_empty((boxes.shape[0], output_height, output_width, x.shape[3]))
    return x.new_empty((boxes.shape[0], x.shape[1], output_height, output_width))


def _roi_align_rotated_backward(
    grad_y: Tensor,
    boxes: Tensor,
    batch: int,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    channels_last: bool,
) -> Tensor:
    if channels_last:
        return grad_y.new_empty((batch, height, width, grad_y.shape[3]))
    return grad_y.new_empty((batch, grad_y.shape[1], height, width))
