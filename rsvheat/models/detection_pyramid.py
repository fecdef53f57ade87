# SPDX-License-Identifier: Apache-2.0
"""The feature pyramid of detectors, and the anchors on its levels."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rsvheat.models.decoding import enlarge

Stride: TypeAlias = Literal[4, 8]
Coarse: TypeAlias = Literal["pool", "conv"]

_FIRST_STRIDE = 4


class DetectionPyramid(nn.Module):
    """Feature pyramid network whose levels have strides that double, with coarser ones on top.

    A level of stride s has ``ceil(H / s)`` rows of an image of H, whatever H is, and its element
    (i, j) belongs to the pixels around ``((i + 0.5) * s, (j + 0.5) * s)``.

    Args:
        dims: Number of channels of the encoder's maps at strides 4, 8, 16 and so on.
        channels: Number of channels of every level.
        finest: Stride of the finest level, 4 or 8.
        coarse: How levels above the last map are made: ``"pool"`` one level by taking every other
            element, as for region proposals, ``"conv"`` two levels by convolutions of stride 2.

    Attributes:
        strides: Stride of each level.
        unused: Number of the encoder's first maps that are not used.

    Raises:
        ValueError: If an argument is not as above.

    Source: Lin et al. (arXiv 1612.03144); coarse levels as in Lin et al. (arXiv 1708.02002) and
    from the finer level as in Tian et al. (arXiv 1904.01355).
    """

    def __init__(
        self, dims: Sequence[int], channels: int, finest: Stride = 4, coarse: Coarse = "pool"
    ) -> None:
        super().__init__()
        if finest not in get_args(Stride):
            raise ValueError(f"finest must be one of {get_args(Stride)}, got {finest!r}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.unused = finest // _FIRST_STRIDE - 1
        used = list(dims)[self.unused :]
        if not used:
            raise ValueError(f"an encoder of {len(dims)} stages has no map at stride {finest}")
        self.laterals = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in used)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in used)
        self.coarse = nn.ModuleList()
        if coarse == "conv":
            self.coarse.extend(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in range(2))
        levels = len(used) + (2 if coarse == "conv" else 1)
        self.strides = [finest * 2**i for i in range(levels)]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the levels, (B, channels, ceil(H / stride), ceil(W / stride)), the finest first.

        Args:
            maps: Maps of the encoder, (B, C, h, w) at strides 4, 8, 16 and so on.
        """
        inner: list[Tensor] = []
        used = list(maps)[self.unused :]
        for lateral, x in zip(reversed(self.laterals), reversed(used), strict=True):
            y = lateral(x)
            inner.append(y if not inner else y + enlarge(inner[-1], 2, y.shape[2:]))
        levels = [conv(y) for conv, y in zip(self.outputs, reversed(inner), strict=True)]
        if not self.coarse:
            return [*levels, max_pool2d(levels[-1], 1, 2)]
        # By number: in a traced program layers are not the same objects as outside of it.
        for number, conv in enumerate(self.coarse):
            levels.append(conv(relu(levels[-1]) if number else levels[-1]))
        return levels


class GridAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors around the centers of the elements of each level.

    torchvision's own derive the stride from the image's size, which fails for sizes that are not
    multiples of it, and put anchors on the elements' corners, which is not symmetric under flips.

    Args:
        strides: Stride of each level.
        sizes: Square roots of the anchors' areas in units of the stride.
        ratios: Ratios of height to width.
    """

    def __init__(
        self, strides: Sequence[int], sizes: Sequence[float], ratios: Sequence[float]
    ) -> None:
        super().__init__(
            tuple(tuple(size * stride for size in sizes) for stride in strides),
            (tuple(ratios),) * len(strides),
        )
        self.strides = tuple(strides)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of each level, (h * w * anchors of an element, 4) XYXY in pixels.

        Args:
            maps: Levels, (B, C, h, w).
        """
        found = []
        for x, stride, cell in zip(maps, self.strides, self.cell_anchors, strict=True):
            kind: Any = {"device": x.device, "dtype": torch.float32}
            rows, columns = ((torch.arange(n, **kind) + 0.5) * stride for n in x.shape[2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centers = torch.stack((x, y, x, y), -1)
            found.append((centers[:, :, None] + cell.to(**kind)).reshape(-1, 4))
        return found


def flatten_levels(levels: Sequence[Tensor], numbers: int) -> Tensor:
    """Return what a convolution gives on each level as one row per anchor.

    Args:
        levels: Results on each level, (B, anchors of an element * numbers, h, w).
        numbers: Numbers of an anchor.

    Returns:
        (B, anchors, numbers) in the order of ``GridAnchors``, float32, or float64 if that is
        what came: coordinates in 16 bits would be off by pixels.
    """
    rows = [
        torch.unflatten(y, 1, (-1, numbers)).permute(0, 3, 4, 1, 2).reshape(y.shape[0], -1, numbers)
        for y in levels
    ]
    return precise(torch.cat(rows, 1))


def precise(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it is.

    Args:
        x: Tensor of any floating-point dtype.
    """
    return x if x.dtype == torch.float64 else x.float()
