# SPDX-License-Identifier: Apache-2.0
"""Operators on rotated boxes: overlap, non-maximum suppression and RoIAlign.

A box is (center x, center y, width, height, angle), torchvision's ``BoundingBoxFormat.CXCYWHR``:
the angle in degrees, counter-clockwise as seen in an image. As y points down there, the axis of the
width is ``(cos(angle), -sin(angle))`` and that of the height ``(sin(angle), cos(angle))``.
``rsvheat.ops.box_convert`` converts from and to corners and other conventions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rsvheat.ops import _boxes_checks, _boxes_reference, _checks
from rsvheat.ops._backend import use_native


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """Compute the intersection over union of rotated boxes.

    The intersection is exact, without tolerances: to 1e-12 for float64 boxes of any size, place and
    aspect ratio, coinciding edges and corners included, and to the type's rounding for float32. The
    result does not change when the boxes are exchanged, turned by 180 degrees, or turned by 90
    degrees with their sides exchanged; equal boxes give exactly 1 and boxes without overlap exactly
    0. Differentiable in both boxes, see ``rsvheat.ops.iou_loss_rotated``.

    Args:
        boxes1: Boxes, (N, 5): center x, center y, width, height, and the angle in degrees,
            counter-clockwise as seen in an image (torchvision's CXCYWHR). float32 or float64;
            bfloat16 and float16 are converted to float32.
        boxes2: Boxes, (M, 5). If the types differ, both are taken in the wider one.
        aligned: Compare the boxes row by row, not each with each; then M must be N.

    Returns:
        Ratios in [0, 1], (N, M), or (N,) if ``aligned``; float64 if a type is float64, else
        float32, under autocast too. NaN where a box is not valid: a value is NaN or infinite, a
        side is negative or in (0, 1e-150), or a center or side is beyond 1e150. 0 where both boxes
        have no area.

    Raises:
        ValueError: If a shape or a device is not as above.
        TypeError: If an argument is not a dense tensor of one of these dtypes.
    """
    boxes1, boxes2 = _boxes_checks.pair(boxes1, boxes2, aligned)
    # Tangents are those of the reference implementation.
    if _checks.transforms_active() or not use_native(boxes1):
        return _boxes_reference.box_iou_rotated(boxes1, boxes2, aligned)
    iou: Tensor = torch.ops.rsvheat.box_iou_rotated(
        boxes1.contiguous(), boxes2.contiguous(), aligned
    )
    return iou


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Select rotated boxes by greedy non-maximum suppression.

    The boxes are taken in the order of decreasing scores, equal scores in the order of the boxes. A
    box stays unless its ``box_iou_rotated`` with an earlier one that stays exceeds
    ``iou_threshold``. Only boxes whose axis-aligned bounds touch are compared, and no (N, N) matrix
    is made.

    Args:
        boxes: Boxes, (N, 5), as for ``box_iou_rotated``.
        scores: Scores, (N,), of any floating-point dtype.
        iou_threshold: Largest overlap of two boxes that both stay, 0 to 1.

    Returns:
        Indices of the boxes that stay, int64, by decreasing score.

    Raises:
        ValueError: If a shape, a device or the threshold is not as above, a score is NaN or a box
            is not valid. Values are not checked while they are being traced.
        TypeError: If an argument is not of the type described.
    """
    return _suppress(boxes, scores, None, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """Select rotated boxes by greedy non-maximum suppression within each class.

    As ``nms_rotated``, except that only boxes of the same label suppress each other. The boxes
    are not moved apart by offsets, so no precision is lost however many classes there are.

    Args:
        boxes: Boxes, (N, 5), as for ``box_iou_rotated``.
        scores: Scores, (N,), of any floating-point dtype.
        labels: Classes, (N,), integers of any value.
        iou_threshold: Largest overlap of two boxes of a class that both stay, 0 to 1.

    Returns:
        Indices of the boxes that stay, int64, by decreasing score over all classes.

    Raises:
        ValueError: As for ``nms_rotated``.
        TypeError: As for ``nms_rotated``.
    """
    if labels is None:
        raise TypeError("labels must be a torch.Tensor, got NoneType")
    return _suppress(boxes, scores, labels, iou_threshold)


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    boxes, scores, labels, threshold = _boxes_checks.suppression(
        boxes, scores, labels, iou_threshold
    )
    if not use_native(boxes):
        return _boxes_reference.suppress(boxes, scores, labels, threshold)
    order = torch.sort(scores, stable=True, descending=True).indices
    if labels is None:
        labels = order.new_empty((0,))
    keep = torch.ops.rsvheat.nms_rotated(boxes.contiguous(), order, labels.contiguous(), threshold)
    return order[keep]


def roi_align_rotated(
    features: Tensor,
    boxes: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
) -> Tensor:
    """Resample features within rotated boxes to a grid of fixed size.

    Each box is cut into ``output_size`` bins along its own axes. The value of a bin is the mean of
    the features at regularly spaced points, interpolated linearly. Pixel (0, 0) has its center at
    (0.5, 0.5), as in torchvision's ``roi_align(aligned=True)``; at angle 0 both agree. Points up to
    one pixel outside of the features take the border's values, points beyond count as 0.

    Args:
        features: Features, (B, C, H, W), contiguous or channels-last; float32, float64, bfloat16 or
            float16. Other strides are copied. With many boxes channels-last is faster: kernels
            copy contiguous features to that layout first.
        boxes: Boxes, (K, 6): number of the image, then as for ``box_iou_rotated``. No
            gradient reaches them. A 16-bit type cannot hold every image's number and coordinate.
        output_size: Bins, (height, width), or one number for both.
        spatial_scale: Pixels of the features per unit of the boxes, such as 0.25 at stride 4.
        sampling_ratio: Points of a bin along each axis, at most 1024; 0 or less for one point a
            pixel of the features, rounded up (and at most 2^20).

    Returns:
        Features, (K, C, height, width), of the dtype of ``features``, under autocast too, and in
        its memory layout; sums are kept in float32, or float64 for float64. Differentiable in
        ``features`` any number of times. NaN for a box that is not valid.

    Raises:
        ValueError: If a shape, a size, a ratio or a device is not as above, or the number of an
            image is out of range: checked on the CPU only, CUDA gives NaN for them.
        TypeError: If an argument is not of the type described.

    Source: Mask R-CNN (arXiv 1703.06870), RoIAlign; RoI Transformer (arXiv 1812.00155), rotated.
    """
    features, rois, size, scale, ratio = _boxes_checks.regions(
        features, boxes, output_size, spatial_scale, sampling_ratio
    )
    if not use_native(features):
        return _boxes_reference.align(features, rois, size, scale, ratio)
    # CUDA reads whole lines of channels; the CPU kernel decides by the number of boxes.
    last = _boxes_checks.is_channels_last(features)
    nhwc = last or features.is_cuda
    x = features.permute(0, 2, 3, 1) if nhwc else features
    y: Tensor = torch.ops.rsvheat.roi_align_rotated(
        x.contiguous(), rois.contiguous(), *size, scale, ratio, nhwc
    )
    if not nhwc:
        return y
    y = y.permute(0, 3, 1, 2)
    return y if last else y.contiguous()
