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
        "spatial_correction_conv": _like_first,
        "_gated_layer_norm_backward": _like_operands,
        "_add_layer_norm_backward": _like_operands,
        "_spatial_correction_conv_backward": _like_operands,
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
