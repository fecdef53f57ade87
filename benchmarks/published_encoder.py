# SPDX-License-Identifier: Apache-2.0
"""The encoder in the formulation of the published code, on the weights of one of ours.

Features are NCHW. Norms and Linear layers of a block copy to NHWC and back, DCTs are convolutions
of width 1 over flattened lines, whose kernels are the cosine maps, and nothing is fused. The maps
and, in evaluation, the filters are prepared once for each size. Written from the description of
what the published encoders compute; the benchmark compares its logits with ours before it times
anything.
"""

import math

import torch
from formulations import dct_matrix
from torch import Tensor, nn
from torch.nn import functional

from rsvheat.models import RSVHeat, resize_map
from rsvheat.models.layers import HeatBlock


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    y = functional.layer_norm(
        x.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps
    )
    return y.permute(0, 3, 1, 2).contiguous()


def _conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, 1, conv.groups)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _pointwise(x: Tensor, layer: nn.Linear) -> Tensor:
    return functional.conv2d(x, layer.weight[..., None, None], layer.bias)


class PublishedEncoder(nn.Module):
    """See the module's docstring.

    Args:
        model: The encoder whose modules hold the weights; of table embeddings at their own size.
    """

    def __init__(self, model: RSVHeat) -> None:
        super().__init__()
        self.model = model
        self.kept: dict[tuple[int, int, int], Tensor] = {}
        self.maps: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, (B, bands, H, W)."""
        model = self.model
        stem = model.stems[model.default_modality]
        x = _norm(_conv(x, stem.conv1), stem.norm1)
        x = _norm(_conv(functional.gelu(x), stem.conv2), stem.norm2)
        for stage in model.stages:
            if stage.downsample is not None:
                x = _norm(_conv(x, stage.downsample.conv), stage.downsample.norm)
            size = x.shape[2:]
            table = resize_map(stage.freq_embed.table, *size, "bicubic")
            embed = resize_map(stage.spatial_correction_embed, *size, "bicubic").permute(2, 0, 1)
            for block in stage.blocks:
                x = self._block(x, block, table, embed)
        x = _norm(x, model.head.norm).mean((2, 3))
        return model.head.fc(x)

    def _block(self, x: Tensor, block: HeatBlock, table: Tensor, embed: Tensor) -> Tensor:
        op, scale1, scale2 = block.op, block.gamma1, block.gamma2
        y = _norm(functional.relu(x + embed), op.correction_norm)
        y = _linear(_conv(y, op.dwconv).permute(0, 2, 3, 1).contiguous(), op.linear)
        y, gate = y.chunk(2, dim=-1)
        y = op.out_norm(self._conduct(y.contiguous(), block, table)) * functional.silu(gate)
        y = _linear(y, op.out_linear).permute(0, 3, 1, 2).contiguous()
        x = x + scale1[:, None, None] * _norm(y, block.norm1)
        y = _pointwise(functional.gelu(_pointwise(x, block.mlp.fc1)), block.mlp.fc2)
        return x + scale2[:, None, None] * _norm(y, block.norm2)

    def _conduct(self, x: Tensor, block: HeatBlock, table: Tensor) -> Tensor:
        b, h, w, c = x.shape
        rows, columns = (self._map(n, x) for n in (h, w))
        y = functional.conv1d(x.view(b, h, w * c), rows[..., None])
        y = functional.conv1d(y.view(b * h, w, c), columns[..., None]).view(b, h, w, c)
        y = y * self._filter(block, table, h, w)
        y = functional.conv1d(y.view(b, h, w * c), rows.T[..., None])
        return functional.conv1d(y.view(b * h, w, c), columns.T[..., None]).view(b, h, w, c)

    def _map(self, n: int, x: Tensor) -> Tensor:
        if n not in self.maps:
            self.maps[n] = dct_matrix(n, x.float())
        return self.maps[n]

    def _filter(self, block: HeatBlock, table: Tensor, h: int, w: int) -> Tensor:
        key = (id(block), h, w)
        if key in self.kept and not self.training:
            return self.kept[key]
        omega_h = torch.arange(h, device=table.device)[:, None, None] * (math.pi / h)
        omega_w = torch.arange(w, device=table.device)[:, None] * (math.pi / w)
        k = functional.relu(block.op.to_k(table))
        gain = torch.exp(-(omega_h**2 + omega_w**2) * k)
        if not self.training:
            self.kept[key] = gain
        return gain
