# SPDX-License-Identifier: Apache-2.0
"""Operators of RS-vHeat: DCTs, heat conduction, frequency masking, losses, rotated boxes.

Each function runs a native kernel where one is loaded for the tensor's device. Elsewhere, and
within ``use_reference``, it runs the reference implementation of the same signature in
``rsvheat.ops.reference``, in pure torch.
"""

from rsvheat.ops import _registration  # noqa: F401  (attaches autograd, fakes, autocast, FLOPs)
from rsvheat.ops._backend import use_reference
from rsvheat.ops._types import MultiDomainLoss
from rsvheat.ops.box_convert import (
    boxes_from_mmcv,
    boxes_to_bounds,
    boxes_to_corners,
    boxes_to_mmcv,
    corners_to_boxes,
)
from rsvheat.ops.box_losses import iou_loss_rotated, kld_loss_rotated, prob_iou_loss_rotated
from rsvheat.ops.boxes import (
    batched_nms_rotated,
    box_iou_rotated,
    nms_rotated,
    roi_align_rotated,
)
from rsvheat.ops.functional import (
    apply_heat_filter,
    dct2d,
    frequency_split,
    heat_conduction,
    heat_filter,
    idct2d,
    multi_domain_loss,
    spectral_l1_loss,
)
from rsvheat.ops.fused import (
    add_layer_norm,
    gated_layer_norm,
    spatial_correction_conv,
)

__all__ = [
    "MultiDomainLoss",
    "add_layer_norm",
    "apply_heat_filter",
    "batched_nms_rotated",
    "box_iou_rotated",
    "boxes_from_mmcv",
    "boxes_to_bounds",
    "boxes_to_corners",
    "boxes_to_mmcv",
    "corners_to_boxes",
    "dct2d",
    "frequency_split",
    "gated_layer_norm",
    "heat_conduction",
    "heat_filter",
    "idct2d",
    "iou_loss_rotated",
    "kld_loss_rotated",
    "multi_domain_loss",
    "nms_rotated",
    "prob_iou_loss_rotated",
    "roi_align_rotated",
    "spatial_correction_conv",
    "spectral_l1_loss",
    "use_reference",
]
