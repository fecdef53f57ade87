# SPDX-License-Identifier: Apache-2.0
"""The encoder with a feature pyramid, as torchvision's detection models take it.

An example for twelve bands; torchvision's own normalization would stop at three:

    from torchvision.models.detection import MaskRCNN

    backbone = FPNBackbone("rsvheat_tiny", in_chans=12, img_size=512)
    model = MaskRCNN(
        backbone, num_classes=5, image_mean=[0.0] * 12, image_std=[1.0] * 12, min_size=512
    )
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
)

from rsvheat.integrations._features import FeatureMaps


class FPNBackbone(FeatureMaps):
    """An encoder and a feature pyramid network, for ``FasterRCNN``, ``MaskRCNN`` and the like.

    ``RetinaNet`` and ``FCOS`` take ``out_indices=(1, 2, 3)`` and
    ``extra_blocks=LastLevelP6P7(256, 256)``.

    Args:
        arch: Name of the variant, as for ``rsvheat.create_model``.
        out_channels: Channels of every level.
        extra_blocks: torchvision's block that adds coarser levels; max pooling by default.
        norm_layer: Norm of the pyramid's convolutions, a function of the channels; None for none.
        **features: ``in_chans``, ``img_size``, ``out_indices``, ``checkpoint`` and others of
            ``rsvheat.integrations._features.FeatureMaps``.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        arch: str,
        *,
        out_channels: int = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **features: Any,
    ) -> None:
        super().__init__(arch, **features)
        self.out_channels = out_channels
        self.fpn = FeaturePyramidNetwork(
            self.channels,
            out_channels,
            LastLevelMaxPool() if extra_blocks is None else extra_blocks,
            norm_layer,
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the levels of the pyramid, ``"0"`` the finest.

        Args:
            x: Images, (B, in_chans, H, W), any H and W.
        """
        maps = self.maps(x)
        levels: dict[str, Tensor] = self.fpn({str(i): y for i, y in enumerate(maps)})
        return levels
