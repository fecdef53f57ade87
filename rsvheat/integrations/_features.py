# SPDX-License-Identifier: Apache-2.0
"""Feature maps of an encoder, for the decoders of other libraries."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rsvheat.models import LoadReport, create_model, load_checkpoint
from rsvheat.models.hub import WEIGHTS


class FeatureMaps(nn.Module):
    """Feature maps of several stages of an encoder with one modality.

    Parts that no map needs are removed: DDP fails on parameters without a gradient.

    Args:
        arch: Name of the variant, as for ``rsvheat.create_model``.
        img_size: Side in pixels, or (height, width), of the images that the frequency tables are
            made for: the size of training crops.
        in_chans: Number of bands of the images.
        out_indices: Stages whose maps are returned, in the stages' order.
        checkpoint: Path of a file for ``rsvheat.load_checkpoint``, or of a folder of
            ``save_pretrained``.
        stems: Name of the checkpoint's stem by modality, as for ``rsvheat.load_checkpoint``.
        inflate_stems: Whether a stem may be adapted to another number of bands.
        prefix: Beginning of the encoder's keys, where a checkpoint holds several encoders.
        modality: Name of the stem: ``"sar"`` to start from a checkpoint's SAR stem.
        gsd: Ground sampling distance of all images in meters per pixel, for
            ``freq_embed="implicit"``.
        output_norms: Whether every map is normed, as decoders for dense tasks expect.
        **encoder: Further arguments of ``rsvheat.models.RSVHeat``.

    Attributes:
        encoder: The ``rsvheat.models.RSVHeat``.
        channels: Number of channels of each map.
        load_report: Report of loading the checkpoint; None without one.
    """

    def __init__(
        self,
        arch: str,
        *,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        checkpoint: str | os.PathLike[str] | None = None,
        stems: Mapping[str, str] | None = None,
        inflate_stems: bool = False,
        prefix: str | None = None,
        modality: str = "optical",
        gsd: float | None = None,
        output_norms: bool = True,
        **encoder: Any,
    ) -> None:
        super().__init__()
        self.encoder = create_model(
            arch,
            img_size=img_size,
            modalities={modality: in_chans},
            num_classes=0,
            output_norms=output_norms,
            **encoder,
        )
        self.gsd = gsd
        self.load_report: LoadReport | None = None
        if checkpoint is not None:
            path = Path(checkpoint)
            self.load_report = load_checkpoint(
                self.encoder,
                path / WEIGHTS if path.is_dir() else path,
                stems=stems,
                inflate_stems=inflate_stems,
                prefix=prefix,
            )
        self.out_indices = self.encoder.prune_intermediate_layers(out_indices, prune_norm=True)
        if self.encoder.output_norms is not None:
            for i in range(len(self.encoder.output_norms)):
                if i not in self.out_indices:
                    self.encoder.output_norms[i] = nn.Identity()
        self.channels = [self.encoder.dims[i] for i in self.out_indices]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return (B, C, ceil(H / stride), ceil(W / stride)) for each of the stages.

        Args:
            x: Images, (B, in_chans, H, W), any H and W.
        """
        _, maps = self.encoder.forward_intermediates(x, self.out_indices, gsd=self.gsd)
        return list(maps)
