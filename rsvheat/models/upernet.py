# SPDX-License-Identifier: Apache-2.0
"""UPerNet: pyramid pooling of the last map, a feature pyramid, and all levels together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsvheat.models.decoding import ConvBlock, DecoderNorm, enlarge, initialize


class UPerNet(nn.Module):
    """Decodes maps at strides that double, of images of any size.

    Args:
        dims: Number of channels of each map, the finest first.
        num_classes: Number of classes.
        channels: Number of channels of the decoder.
        pool_scales: Sides of the grids to which the coarsest map is averaged.
        norm: Kind of the norms, as for ``rsvheat.models.decoding.ConvBlock``.
        dropout: Rate of channel dropout before the classifier.

    Source: Xiao et al. (arXiv 1807.10221), section 3.1; pyramid pooling of Zhao et al. (arXiv
    1612.01105), section 3.2.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: DecoderNorm = "layer",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pool_scales = tuple(pool_scales)
        self.pools = nn.ModuleList(ConvBlock(dims[-1], channels, 1, norm) for _ in pool_scales)
        self.bottleneck = ConvBlock(dims[-1] + len(self.pools) * channels, channels, 3, norm)
        self.laterals = nn.ModuleList(ConvBlock(dim, channels, 1, norm) for dim in dims[:-1])
        self.smooths = nn.ModuleList(ConvBlock(channels, channels, 3, norm) for _ in dims[:-1])
        self.fuse = ConvBlock(len(dims) * channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits at the size of the finest map, (B, num_classes, h, w).

        Args:
            maps: Feature maps (B, C, h, w), the finest first; each has half the rows and columns of
                the one before, rounded up.
        """
        last = maps[-1]
        pooled = [
            interpolate(conv(average(last, scale)), last.shape[2:], mode="bilinear")
            for scale, conv in zip(self.pool_scales, self.pools, strict=True)
        ]
        levels = [self.bottleneck(torch.cat((last, *pooled), dim=1))]
        for lateral, x in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            levels.append(lateral(x) + enlarge(levels[-1], 2, x.shape[2:]))
        finest_first = levels[::-1]
        smooth = [conv(x) for conv, x in zip(self.smooths, finest_first[:-1], strict=True)]
        size = maps[0].shape[2:]
        same = [enlarge(x, 2**i, size) for i, x in enumerate((*smooth, finest_first[-1]))]
        y: Tensor = self.classifier(self.dropout(self.fuse(torch.cat(same, dim=1))))
        return y


def average(x: Tensor, scale: int) -> Tensor:
    """Average a map over the cells of a square grid.

    The result is that of ``adaptive_avg_pool2d``, whose backward pass on CUDA adds in random order
    and which ONNX cannot express for sizes that are no multiple of the grid's.

    Args:
        x: Map, (B, C, h, w).
        scale: Side of the grid.

    Returns:
        (B, C, scale, scale).
    """
    rows, columns = (_shares(side, scale, x) for side in x.shape[2:])
    return rows @ x @ columns.T


def _shares(side: int, scale: int, like: Tensor) -> Tensor:
    """Return the weight of each row in each cell, (scale, side)."""
    cell = torch.arange(scale, device=like.device)
    row = torch.arange(side, device=like.device)
    start, end = cell * side // scale, -((cell + 1) * side // -scale)
    within = (row >= start[:, None]) & (row < end[:, None])
    weights: Tensor = within.to(like.dtype) / (end - start)[:, None].to(like.dtype)
    return weights
