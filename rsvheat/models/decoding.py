# SPDX-License-Identifier: Apache-2.0
"""Parts that the decoders of dense tasks share."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsvheat.models.layers import NORM_EPS, LayerNorm

DecoderNorm: TypeAlias = Literal["layer", "group", "batch"]

# Groups of the group norms: at most so many, of at least so many channels. A group of one channel
# would lose its mean over the image, which is all that a uniform image has.
_MOST_GROUPS, _LEAST_CHANNELS = 32, 8


class ConvBlock(nn.Sequential):
    """A convolution without bias, a norm and a ReLU.

    Args:
        in_dim: Number of input channels.
        out_dim: Number of output channels.
        kernel: Side of the kernel, odd; the map keeps its size.
        norm: ``"layer"`` for layer norms over the channels of each position, ``"group"`` for group
            norms over the image, ``"batch"`` for batch norms.

    Raises:
        ValueError: If ``norm`` is none of these.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int = 3, norm: DecoderNorm = "layer"
    ) -> None:
        super().__init__(
            nn.Conv2d(in_dim, out_dim, kernel, padding=kernel // 2, bias=False),
            build_norm(norm, out_dim),
            nn.ReLU(),
        )


class MapNorm(LayerNorm):
    """Layer norm over the channels of a map (B, C, h, w).

    Args:
        dim: Number of channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed map.

        Args:
            x: Map, (B, C, h, w).
        """
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FCNHead(nn.Module):
    """A convolution and a classifier on the map of one stage: the auxiliary head of a decoder.

    Args:
        in_dim: Number of channels of the map.
        num_classes: Number of classes.
        channels: Number of channels between.
        norm: Kind of the norm, as for ``ConvBlock``.
        dropout: Rate of channel dropout before the classifier.

    Source: Long et al. (arXiv 1411.4038); as an auxiliary head, Zhao et al. (arXiv 1612.01105),
    section 3.3.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        channels: int = 256,
        norm: DecoderNorm = "layer",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = ConvBlock(in_dim, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, num_classes, h, w).

        Args:
            x: Feature map, (B, in_dim, h, w).
        """
        y: Tensor = self.classifier(self.dropout(self.conv(x)))
        return y


def build_norm(kind: DecoderNorm, dim: int) -> nn.Module:
    """Return a norm of maps (B, dim, h, w).

    Args:
        kind: Kind of the norm, as for ``ConvBlock``.
        dim: Number of channels.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind == "layer":
        return MapNorm(dim)
    if kind == "batch":
        return nn.BatchNorm2d(dim)
    if kind != "group":
        raise ValueError(f"decoder_norm must be one of {get_args(DecoderNorm)}, got {kind!r}")
    most = min(_MOST_GROUPS, max(dim // _LEAST_CHANNELS, 1))
    return nn.GroupNorm(max(n for n in range(1, most + 1) if dim % n == 0), dim)


def enlarge(x: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Enlarge a map by a whole factor, bilinearly, and cut off what lies beyond the image.

    A map of stride s has ``ceil(H / s)`` rows, as if the image had been padded below and on the
    right. Scaling it to exactly H rows would shift its content by up to a stride; the same pixel
    would get other logits in a window of another size.

    Args:
        x: Map, (B, C, h, w).
        factor: Factor on both sides.
        size: (H, W) of the result, at most ``factor`` times that of ``x``.

    Returns:
        (B, C, H, W).
    """
    if factor > 1:
        x = interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return x[:, :, : size[0], : size[1]]


def initialize(module: nn.Module) -> None:
    """Set fresh weights of a decoder: He's for convolutions, small ones for the classifier.

    Args:
        module: Decoder with an attribute ``classifier``.

    Source: He et al. (arXiv 1502.01852); the classifier's deviation of 0.01 as in Long et al.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    classifier = module.classifier
    if isinstance(classifier, nn.Conv2d):
        nn.init.normal_(classifier.weight, std=0.01)
