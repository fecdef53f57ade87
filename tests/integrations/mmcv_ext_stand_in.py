# SPDX-License-Identifier: Apache-2.0
"""Stands in for the compiled operators of mmcv, which mmcv-lite lacks, with torchvision's.

For tests only: what Faster R-CNN and RetinaNet need on a CPU. Everything else can be looked up, as
mmcv does when it is imported, and raises when it is called.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

NAME = "mmcv._ext"


def install() -> bool:
    """Put the stand-in in place unless mmcv has its own operators; return whether it is there."""
    if NAME not in sys.modules and find_spec(NAME) is None:
        module = _StandIn(NAME)
        module.__spec__ = ModuleSpec(NAME, None)
        sys.modules[NAME] = module
    return isinstance(sys.modules.get(NAME), _StandIn)


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(f"the stand-in for mmcv's operators has no {name}")

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        assert offset == 0
        return nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(
        x: Tensor,
        rois: Tensor,
        output: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        *,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        assert pool_mode == 1  # average
        size = (aligned_height, aligned_width)
        output.copy_(roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned))

    @staticmethod
    def roi_align_backward(
        grad: Tensor,
        rois: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        grad_x: Tensor,
        *,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        size = (aligned_height, aligned_width)
        with torch.enable_grad():
            x = torch.zeros_like(grad_x, requires_grad=True)
            y = roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned)
        grad_x.copy_(torch.autograd.grad(y, x, grad)[0])
