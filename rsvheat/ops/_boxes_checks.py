# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of the operators on rotated boxes.

Like ``rsvheat.ops._checks``, these look at metadata only, except where it is said.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rsvheat.ops import _checks

# Samples of a bin along each axis.
MAX_SAMPLING_RATIO = 1024


def boxes(name: str, value: Any) -> Tensor:
    """Check boxes (N, 5); return them as plain float32 or float64 tensor."""
    tensor = _checks.tensor(name, value)
    if tensor.dim() != 2 or tensor.shape[1] != 5:
        raise ValueError(
            f"{name} must have shape (N, 5), center x and y, width, height and angle, "
            f"got {tuple(tensor.shape)}"
        )
    return plain(tensor).to(_dtype(tensor))


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor without the class of torchvision's tv_tensors."""
    if type(tensor) is Tensor or torch.compiler.is_compiling():
        return tensor
    is_tv_tensor = type(tensor).__module__.startswith("torchvision.tv_tensors")
    return tensor.as_subclass(Tensor) if is_tv_tensor else tensor


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def pair(boxes1: Any, boxes2: Any, aligned: Any) -> tuple[Tensor, Tensor]:
    """Check two sets of boxes; return them in one type."""
    boxes1, boxes2 = boxes("boxes1", boxes1), boxes("boxes2", boxes2)
    if not isinstance(aligned, bool):
        raise TypeError(f"aligned must be a bool, got {type(aligned).__name__}")
    same_device("boxes2", boxes2, "boxes1", boxes1)
    if aligned and boxes1.shape[0] != boxes2.shape[0]:
        raise ValueError(
            f"aligned boxes must be as many in boxes1 as in boxes2, "
            f"got {boxes1.shape[0]} and {boxes2.shape[0]}"
        )
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return boxes1.to(dtype), boxes2.to(dtype)


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors are on one device."""
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on {other_name}'s device {other.device}, got {value.device}"
        )


def suppression(
    candidates: Any, scores: Any, labels: Any, iou_threshold: Any
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Check the arguments of non-maximum suppression; return them in the kernels' types.

    The values of scores and boxes are read unless they are being traced: a NaN has no place in
    an order, and an invalid box would stay for ever.
    """
    candidates = boxes("boxes", candidates)
    scores = plain(_checks.tensor("scores", scores))
    count = candidates.shape[0]
    _one_per_box("scores", scores, count)
    same_device("scores", scores, "boxes", candidates)
    if labels is not None:
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        _one_per_box("labels", labels, count)
        same_device("labels", labels, "boxes", candidates)
        labels = plain(labels).long()
    if not _checks.is_number(iou_threshold):
        raise TypeError(f"iou_threshold must be a number, got {type(iou_threshold).__name__}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be within [0, 1], got {iou_threshold}")
    candidates, scores = candidates.detach(), scores.detach()
    if not _checks.is_fake(candidates) and count > 0:
        if bool(scores.isnan().any()):
            first = int(scores.isnan().nonzero()[0])
            raise ValueError(f"scores must not be NaN, but scores[{first}] is")
        wrong = ~(candidates.isfinite().all(1) & (candidates[:, 2:4] >= 0).all(1))
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"boxes must be finite with sides >= 0, but boxes[{first}] is "
                f"{candidates[first].tolist()}"
            )
    return candidates, scores, labels, float(iou_threshold)


def _one_per_box(name: str, value: Tensor, count: int) -> None:
    if value.dim() != 1 or value.shape[0] != count:
        raise ValueError(
            f"{name} must have one value a box, shape ({count},), got {tuple(value.shape)}"
        )


def regions(
    features: Any, rois: Any, output_size: Any, spatial_scale: Any, sampling_ratio: Any
) -> tuple[Tensor, Tensor, tuple[int, int], float, int]:
    """Check the arguments of RoIAlign; return them in the kernels' types.

    The images' numbers are read where reading is free.
    """
    features = plain(_checks.tensor("features", features))
    if features.dim() != 4:
        raise ValueError(
            f"features must have 4 dimensions (B, C, H, W), got shape {tuple(features.shape)}"
        )
    if features.shape[2] < 1 or features.shape[3] < 1:
        raise ValueError(
            f"features must have a height and width of at least 1, got {tuple(features.shape)}"
        )
    rois = plain(_checks.tensor("boxes", rois))
    if rois.dim() != 2 or rois.shape[1] != 6:
        raise ValueError(
            "boxes must have shape (K, 6), number of the image, center x and y, width, height and "
            f"angle, got {tuple(rois.shape)}"
        )
    same_device("boxes", rois, "features", features)
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    if not isinstance(size, Sequence) or not all(_is_int(n) for n in size):
        raise TypeError(f"output_size must be an int or a pair of ints, got {output_size!r}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"output_size must be one or two positive ints, got {output_size!r}")
    if not _checks.is_number(spatial_scale):
        raise TypeError(f"spatial_scale must be a number, got {type(spatial_scale).__name__}")
    if not 0 < spatial_scale < math.inf:
        raise ValueError(f"spatial_scale must be finite and positive, got {spatial_scale}")
    if not _is_int(sampling_ratio):
        raise TypeError(f"sampling_ratio must be an int, got {type(sampling_ratio).__name__}")
    if sampling_ratio > MAX_SAMPLING_RATIO:
        raise ValueError(
            f"sampling_ratio must be at most {MAX_SAMPLING_RATIO}, got {sampling_ratio}"
        )
    exact = rois.detach().to(_checks.precise_device(rois.device), torch.float64)
    if exact.device.type == "cpu" and not _checks.is_fake(exact) and exact.shape[0] > 0:
        image = exact[:, 0]
        wrong = ~((image >= 0) & (image < features.shape[0]) & (image == image.floor()))
        image, wrong = (_checks.without_transforms(t) for t in (image, wrong))
        if bool(wrong.any()):
            raise ValueError(
                f"boxes[:, 0] must be the number of an image, 0 to {features.shape[0] - 1}, "
                f"but boxes[{int(wrong.nonzero()[0, 0])}, 0] is {image[wrong][0].item()}"
            )
    return (
        features,
        exact,
        (int(size[0]), int(size[1])),
        float(spatial_scale),
        max(sampling_ratio, 0),
    )


def is_channels_last(x: Tensor) -> bool:
    """Return whether (B, C, H, W) features lie in memory as (B, H, W, C) and not as they are."""
    # torch.vmap cannot call is_contiguous(memory_format=torch.channels_last).
    return not x.is_contiguous() and x.permute(0, 2, 3, 1).is_contiguous()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
