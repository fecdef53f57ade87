# SPDX-License-Identifier: Apache-2.0
"""Rules of the native ops for ``torch.vmap``.

A rule takes the physical tensors and, for each argument, the position of the mapped axis or None.
Where a result of one entry of that axis is a part of the result of a larger batch or of more
channels, the axis is folded into these and the op called once. Elsewhere (gradients of parameters,
which are sums over the batch, and parameters that differ by entry) it is called once an entry.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rsvheat.ops import _autocast

_Dims: TypeAlias = tuple[int | None, ...]
_Result: TypeAlias = tuple[Any, Any]


def register() -> None:
    """Attach the rules to the native ops."""
    rules: dict[str, Callable[..., _Result]] = {
        "dct2d": _folded("dct2d", 1),
        "idct2d": _folded("idct2d", 1),
        "heat_conduction": _conduction("heat_conduction"),
        "apply_heat_filter": _conduction("apply_heat_filter"),
        "_heat_conduction_backward": _conduction_backward("_heat_conduction_backward"),
        "_apply_heat_filter_backward": _conduction_backward("_apply_heat_filter_backward"),
        "frequency_split": _folded("frequency_split", 3),
        "spectral_l1": _spectral_l1,
        "gated_layer_norm": _norm("gated_layer_norm"),
        "add_layer_norm": _norm("add_layer_norm"),
        "spatial_correction_conv": _folded("spatial_correction_conv", 1),
        "_gated_layer_norm_backward": _one_by_one("_gated_layer_norm_backward"),
        "_add_layer_norm_backward": _one_by_one("_add_layer_norm_backward"),
        "_spatial_correction_conv_backward": _one_by_one("_spatial_correction_conv_backward"),
        "box_iou_rotated": _box_iou_rotated,
        "_box_iou_rotated_backward": _one_by_one("_box_iou_rotated_backward"),
        "nms_rotated": _one_by_one("nms_rotated"),
        "roi_align_rotated": _roi_align("roi_align_rotated"),
        "_roi_align_rotated_backward": _roi_align("_roi_align_rotated_backward"),
    }
    for name, rule in rules.items():
        torch.library.register_vmap(f"rsvheat::{name}", _checked(name, rule))


def _checked(name: str, rule: Callable[..., _Result]) -> Callable[..., _Result]:
    def checked(info: Any, in_dims: _Dims, *args: Any) -> _Result:
        if info.batch_size == 0:
            raise ValueError(f"rsvheat::{name} cannot be mapped over an axis of size 0")
        return rule(info, in_dims, *args)

    return checked


def _op(name: str) -> Callable[..., Any]:
    op: Callable[..., Any] = getattr(torch.ops.rsvheat, name)
    return op


def _in_front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``x`` with the mapped axis first, expanded if it has none."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``x`` with the mapped axis folded into its first one."""
    return _in_front(x, dim, size).flatten(0, 1)


def _unfold(outputs: Any, size: int) -> _Result:
    """Return the output or outputs with the mapped axis first, and the positions of that axis."""
    if isinstance(outputs, Tensor):
        return outputs.reshape(size, outputs.shape[0] // size, *outputs.shape[1:]), 0
    return tuple(_unfold(y, size)[0] for y in outputs), (0,) * len(outputs)


def _folded(name: str, batched: int) -> Callable[..., _Result]:
    """Return the rule of an op whose first ``batched`` arguments begin with an axis of samples."""
    one_by_one = _one_by_one(name)

    def rule(info: Any, in_dims: _Dims, *args: Any) -> _Result:
        if any(dim is not None for dim in in_dims[batched:]):
            return one_by_one(info, in_dims, *args)
        size = info.batch_size
        pairs = zip(args[:batched], in_dims[:batched], strict=True)
        folded = [_fold(x, dim, size) for x, dim in pairs]
        return _unfold(_op(name)(*folded, *args[batched:]), size)

    return rule


def _norm(name: str) -> Callable[..., _Result]:
    """Return the rule of a norm of features (..., C), which take any number of leading axes."""
    one_by_one = _one_by_one(name)

    def rule(info: Any, in_dims: _Dims, *args: Any) -> _Result:
        if any(dim is not None for dim in in_dims[2:]):
            return one_by_one(info, in_dims, *args)
        pairs = zip(args[:2], in_dims[:2], strict=True)
        features = (_in_front(x, dim, info.batch_size) for x, dim in pairs)
        return _op(name)(*features, *args[2:]), 0

    return rule


def _one_by_one(name: str) -> Callable[..., _Result]:
    def rule(info: Any, in_dims: _Dims, *args: Any) -> _Result:
        pairs = list(zip(args, in_dims, strict=True))
        results = [
            _op(name)(*(arg if dim is None else arg.select(dim, i) for arg, dim in pairs))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        outputs = tuple(map(torch.stack, zip(*results, strict=True)))
        return outputs, (0,) * len(outputs)

    return rule


def _into_channels(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``x``, (..., C), with the mapped axis folded into the channels, (..., size * C)."""
    moved = x.unsqueeze(-2) if dim is None else x.movedim(dim, -2)
    return moved.expand(*moved.shape[:-2], size, moved.shape[-1]).flatten(-2)


def _out_of_channels(x: Tensor, size: int) -> Tensor:
    return x.reshape(*x.shape[:-1], size, x.shape[-1] // size)


def _conduction(name: str) -> Callable[..., _Result]:
    def rule(info: Any, in_dims: _Dims, x: Tensor, coefficients: Tensor) -> _Result:
        size = info.batch_size
        if in_dims[1] is None:
            return _unfold(_op(name)(_fold(x, in_dims[0], size), coefficients), size)
        pairs = zip((x, coefficients), in_dims, strict=True)
        operands = (_into_channels(t, dim, size) for t, dim in pairs)
        return _out_of_channels(_op(name)(*operands), size), 3

    return rule


def _conduction_backward(name: str) -> Callable[..., _Result]:
    def rule(info: Any, in_dims: _Dims, *args: Any) -> _Result:
        # The gradient of the coefficients is a sum over the batch, not over the channels.
        *operands, need_x, need_coefficients = args
        pairs = zip(operands, in_dims[:3], strict=True)
        folded = (_into_channels(t, dim, info.batch_size) for t, dim in pairs)
        grad_x, grad = _op(name)(*folded, need_x, need_coefficients)
        return (
            _out_of_channels(grad_x, info.batch_size) if need_x else grad_x,
            _out_of_channels(grad, info.batch_size) if need_coefficients else grad,
        ), (3 if need_x else None, 2 if need_coefficients else None)

    return rule


def _spectral_l1(
    info: Any, in_dims: _Dims, pred: Tensor, target: Tensor, with_grad: bool
) -> _Result:
    # The op sums over all samples; here each entry of the mapped axis has sums of its own.
    size, dtype = info.batch_size, pred.dtype
    pred, target = (
        _autocast.to_float32(_in_front(t, dim, size))
        for t, dim in zip((pred, target), in_dims[:2], strict=True)
    )
    difference = pred - target
    spectrum = _op("dct2d")(difference.flatten(0, 1), False)
    sums = [t.abs().reshape(size, -1).sum(1) for t in (difference, spectrum)]
    if not with_grad:
        return (*sums, torch.empty(0, dtype=dtype, device=pred.device)), (0, 0, None)
    grad = _op("idct2d")(spectrum.sign(), False).to(dtype)
    return (*sums, grad.reshape(difference.shape)), (0, 0, 0)


def _box_iou_rotated(
    info: Any, in_dims: _Dims, boxes1: Tensor, boxes2: Tensor, aligned: bool
) -> _Result:
    size, (dim1, dim2) = info.batch_size, in_dims[:2]
    op = _op("box_iou_rotated")
    if aligned:
        return _unfold(op(_fold(boxes1, dim1, size), _fold(boxes2, dim2, size), True), size)
    if dim2 is None:
        return _unfold(op(_fold(boxes1, dim1, size), boxes2, False), size)
    if dim1 is None:
        iou = op(boxes1, _fold(boxes2, dim2, size), False)
        return iou.reshape(iou.shape[0], size, iou.shape[1] // size), 1
    return _one_by_one("box_iou_rotated")(info, in_dims, boxes1, boxes2, aligned)


def _roi_align(name: str) -> Callable[..., _Result]:
    one_by_one = _one_by_one(name)

    def rule(info: Any, in_dims: _Dims, x: Tensor, boxes: Tensor, *options: Any) -> _Result:
        dim, size = in_dims[0], info.batch_size
        if in_dims[1] is not None or dim is None:
            return one_by_one(info, in_dims, x, boxes, *options)
        # Channels do not depend on each other.
        if options[-1]:
            y = _op(name)(_into_channels(x, dim, size), boxes, *options)
            return _out_of_channels(y, size), 3
        y = _op(name)(x.movedim(dim, 1).flatten(1, 2), boxes, *options)
        return y.reshape(y.shape[0], size, y.shape[1] // size, *y.shape[2:]), 1

    return rule
