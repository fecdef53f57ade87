# SPDX-License-Identifier: Apache-2.0
"""A light decoder: a feature pyramid whose levels are brought to one size and added."""

from collections.abc import Sequence

from torch import Tensor, nn

from rsvheat.models.decoding import ConvBlock, DecoderNorm, enlarge, initialize


class FPNHead(nn.Module):
    """Decodes maps at strides that double, of images of any size, with few parameters.

    Every level of the pyramid goes through one convolution for each doubling that leads to the
    finest map's size, one at least; the levels are added there.

    Args:
        dims: Number of channels of each map, the finest first.
        num_classes: Number of classes.
        channels: Number of channels of the decoder.
        norm: Kind of the norms, as for ``rsvheat.models.decoding.ConvBlock``.
        dropout: Rate of channel dropout before the classifier.

    Source: Kirillov et al. (arXiv 1901.02446), section 3, figure 3; pyramid of Lin et al. (arXiv
    1612.03144).
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        channels: int = 128,
        norm: DecoderNorm = "layer",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in dims)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ConvBlock(channels, channels, 3, norm) for _ in range(max(i, 1))))
            for i in range(len(dims))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        initialize(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits at the size of the finest map, (B, num_classes, h, w).

        Args:
            maps: Feature maps (B, C, h, w), the finest first; each has half the rows and columns of
                the one before, rounded up.
        """
        sizes = [x.shape[2:] for x in maps]
        pyramid: list[Tensor] = []
        for lateral, x in zip(reversed(self.laterals), reversed(maps), strict=True):
            y = lateral(x)
            pyramid.append(y if not pyramid else y + enlarge(pyramid[-1], 2, y.shape[2:]))
        total: Tensor | None = None
        for i, (convs, y) in enumerate(zip(self.levels, reversed(pyramid), strict=True)):
            for step, conv in enumerate(convs.children(), 1):
                y = conv(y)
                if i > 0:
                    y = enlarge(y, 2, sizes[i - step])
            total = y if total is None else total + y
        logits: Tensor = self.classifier(self.dropout(total))
        return logits
