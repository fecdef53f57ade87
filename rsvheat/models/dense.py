# SPDX-License-Identifier: Apache-2.0
"""The base of networks that give a class to every pixel: decoder and auxiliary head."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from rsvheat.models.decoding import DecoderNorm, FCNHead, enlarge
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.features import Encoder, build_encoder, keep_maps_only
from rsvheat.models.fpn_head import FPNHead
from rsvheat.models.task_model import TaskModel
from rsvheat.models.upernet import UPerNet

DecoderName: TypeAlias = Literal["upernet", "fpn"]

_CHANNELS: dict[DecoderName, int] = {"upernet": 512, "fpn": 128}
_STRIDE = 4


class DenseLogits(NamedTuple):
    """Result of a dense model in training mode.

    Attributes:
        logits: Logits of the decoder, (B, num_classes, H, W), at the images' size.
        auxiliary: Logits of the auxiliary head, of the same shape; None without one.
    """

    logits: Tensor
    auxiliary: Tensor | None


class DenseModel(TaskModel):
    """Encoder and a decoder of its maps, with logits at the images' size.

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 2 at least.
        decoder: Name of the decoder: ``"upernet"``, or ``"fpn"`` for small encoders.
        channels: Number of channels of the decoder; 512 for UPerNet and 128 for FPN by default.
        auxiliary: Whether a second head on the last but one map is trained, too; by default for
            UPerNet.
        decoder_norm: Kind of the decoder's norms: ``"layer"``, which treats every pixel alike in
            any batch, window, mode and number of processes; ``"group"``; or ``"batch"`` as in the
            field's reference implementations.
        dropout: Rate of channel dropout before the classifiers.
        **options: Options of the subclass, plain values.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        decoder: DecoderName = "upernet",
        channels: int | None = None,
        auxiliary: bool | None = None,
        decoder_norm: DecoderNorm = "layer",
        dropout: float = 0.1,
        **options: Any,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if decoder not in get_args(DecoderName):
            raise ValueError(f"decoder must be one of {get_args(DecoderName)}, got {decoder!r}")
        if len(encoder.dims) < 2:
            raise ValueError(f"encoder must have at least 2 stages, got {len(encoder.dims)}")
        channels = _CHANNELS[decoder] if channels is None else channels
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        auxiliary = decoder == "upernet" if auxiliary is None else auxiliary
        keep_maps_only(encoder)
        # A TimmEncoder has what task models use of an encoder.
        super().__init__(
            cast(RSVHeat, encoder),
            num_classes,
            decoder=decoder,
            channels=channels,
            auxiliary=auxiliary,
            decoder_norm=decoder_norm,
            dropout=dropout,
            **options,
        )
        head = {"upernet": UPerNet, "fpn": FPNHead}[decoder]
        self.decoder = head(encoder.dims, num_classes, channels, norm=decoder_norm, dropout=dropout)
        self.auxiliary: nn.Module | None = None
        if auxiliary:
            inner = max(channels // 2, 1)
            self.auxiliary = FCNHead(encoder.dims[-2], num_classes, inner, decoder_norm, dropout)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the network with fresh weights.

        Args:
            config: Value of ``config``.
        """
        encoder = build_encoder(config["encoder"])
        return cls(encoder, config["num_classes"], **config["options"])

    @abstractmethod
    def maps(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> list[Tensor]:
        """Return what the decoder takes: maps (B, C, h, w) at strides 4 to 32.

        Args:
            images: Images by name, (n, bands, H, W), normalized.
            index: Samples that the images of each name show.
            size: Number of samples.
        """

    def forward(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> Tensor | DenseLogits:
        """Return logits at the images' size.

        Args:
            images: Images by name, (n, bands, H, W), normalized, of any H and W.
            index: Samples of the batch that the images of each name show, int64 (n,); None where
                they all show all samples.
            size: Number of samples, B; by default one more than the largest of ``index``.

        Returns:
            In evaluation mode logits (B, num_classes, H, W); in training mode
            ``DenseLogits``, which are those and the auxiliary head's.

        Raises:
            ValueError: If the images do not fit the model.
        """
        maps = self.maps(images, index, size)
        shape = next(iter(images.values())).shape[2:]
        logits = enlarge(self.decoder(maps), _STRIDE, shape)
        if not self.training:
            return logits
        if self.auxiliary is None:
            return DenseLogits(logits, None)
        stride = _STRIDE * 2 ** (len(maps) - 2)
        return DenseLogits(logits, enlarge(self.auxiliary(maps[-2]), stride, shape))

    def predict(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> Tensor:
        """Return probabilities (B, num_classes, H, W), float32 or float64.

        Args:
            images: Images as for ``forward``.
            index: Samples as for ``forward``.
            size: Number of samples as for ``forward``.
        """
        result = self(images, index, size)
        logits: Tensor = result.logits if isinstance(result, DenseLogits) else result
        with torch.autocast(logits.device.type, enabled=False):
            return (logits if logits.dtype == torch.float64 else logits.float()).softmax(1)
