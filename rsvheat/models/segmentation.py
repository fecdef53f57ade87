# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: a class for every pixel, from one sensor or several."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rsvheat.models.dense import DenseModel
from rsvheat.models.features import Encoder, FeaturePyramid, Fusion
from rsvheat.models.task_model import Output


class SegmentationModel(DenseModel):
    """Semantic segmentation of images of one or several sensors, any of which may be missing.

    One encoder with a stem per sensor; the sensors' maps are fused at each stage. ``images`` are
    named by the encoder's modalities. A sensor may be left out of them, or have images of some
    samples, which ``index`` says. With ``modality_dropout`` the network is trained for that.

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 2 at least.
        fusion: How the maps of several sensors become one: ``"gate"``, ``"attention"`` or
            ``"mean"``, as for ``rsvheat.models.features.FeaturePyramid``. Floods seen by
            Sentinel-1 and 2, IoU with both sensors, optical and radar alone: attention 55.5, 44.1
            and 41.2, gate 53.8, 42.3 and 41.2 (three seeds), mean 50.6, 44.9 and 40.4 (one seed),
            trained with ``modality_dropout=0.5``; attention without it 54.6, 45.1 and 39.8
            (``benchmarks/results/dense.md``).
        modality_dropout: Probability with which a sample of several sensors loses some of them in
            training, as for ``rsvheat.models.features.FeaturePyramid``.
        **options: Further arguments of ``rsvheat.models.dense.DenseModel``: ``decoder``,
            ``channels``, ``auxiliary``, ``decoder_norm``, ``dropout``.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), downstream tasks; UPerNet, Xiao et al. (arXiv 1807.10221).
    """

    task: ClassVar[str] = "segmentation"
    output: ClassVar[Output] = "mask"

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        fusion: Fusion = "attention",
        modality_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(
            encoder, num_classes, fusion=fusion, modality_dropout=modality_dropout, **options
        )
        self.features = FeaturePyramid(encoder, fusion, modality_dropout)

    def maps(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> list[Tensor]:
        """Return the fused maps, (B, C, h, w) at strides 4 to 32.

        Args:
            images: Images by modality, (n, bands, H, W), normalized.
            index: Samples that the images of each modality show.
            size: Number of samples.
        """
        maps: list[Tensor] = self.features(self.encoder, images, index, size)
        return maps
