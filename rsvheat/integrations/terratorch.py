# SPDX-License-Identifier: Apache-2.0
"""The variants as backbones of TerraTorch: importing this module registers them.

``backbone_*`` arguments of a model factory arrive without their prefix:

    model_args = {
        "backbone": "rsvheat_tiny",
        "backbone_in_chans": 6,
        "backbone_img_size": 256,
        "backbone_ckpt_path": "pretrained.ckpt",
        "decoder": "UperNetDecoder",
        "num_classes": 5,
    }
    task = SemanticSegmentationTask(model_args, "EncoderDecoderFactory", ignore_index=-1)

For the ``terratorch`` command this import goes into ``__init__.py`` of the folder that
``custom_modules_path`` names.
"""

import os
from collections.abc import Callable
from typing import Any

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor

from rsvheat.integrations._features import FeatureMaps
from rsvheat.models import VARIANTS


class Backbone(FeatureMaps):
    """An encoder that returns a list of feature maps.

    Args:
        arch: Name of the variant, as for ``rsvheat.create_model``.
        pretrained: Whether ``ckpt_path`` has to be given; there are no weights to download.
        ckpt_path: A checkpoint: ``checkpoint`` of the next.
        **features: ``in_chans``, ``img_size``, ``out_indices`` and others of
            ``rsvheat.integrations._features.FeatureMaps``.

    Raises:
        ValueError: If ``pretrained`` is set without a checkpoint, or an argument is not as above.
    """

    def __init__(
        self,
        arch: str,
        pretrained: bool = False,
        ckpt_path: str | os.PathLike[str] | None = None,
        **features: Any,
    ) -> None:
        if pretrained and ckpt_path is None:
            raise ValueError(
                f"pretrained={pretrained} of {arch} needs ckpt_path, the file or folder of a "
                "checkpoint: there are no weights to download"
            )
        super().__init__(arch, checkpoint=ckpt_path, **features)
        self.out_channels = self.channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images.

        Args:
            x: (B, in_chans, H, W), any H and W.
        """
        return self.maps(x)


def _constructor(variant: str) -> Callable[..., Backbone]:
    def build(**kwargs: Any) -> Backbone:
        return Backbone(variant, **kwargs)

    build.__name__ = build.__qualname__ = variant  # what the registry files it under
    return build


for _variant in VARIANTS:
    TERRATORCH_BACKBONE_REGISTRY.register(_constructor(_variant))
