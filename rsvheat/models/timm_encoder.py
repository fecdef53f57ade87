# SPDX-License-Identifier: Apache-2.0
"""A model of timm as the encoder of a dense task, to compare with under the same decoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

STRIDES = (4, 8, 16, 32)


class TimmEncoder(nn.Module):
    """Feature maps at strides 4 to 32 of a timm model, for one or several sensors.

    Images of any size are padded with zeros, below and on the right, to multiples of the largest
    stride, and the maps are cut to ``ceil(H / stride)`` rows, as those of
    ``rsvheat.models.RSVHeat``. Each further sensor gets a first convolution of its own, as
    RS-vHeat has a stem per sensor.

    Args:
        name: Name of a timm model with maps at strides 4, 8, 16 and 32, such as ``"resnet18"``,
            ``"convnext_tiny"`` or ``"swin_tiny_patch4_window7_224"``.
        modalities: Number of bands by modality; by default ``{"optical": 3}``.
        pretrained: Whether timm loads its weights; it fetches them.
        **options: Further arguments of ``timm.create_model``, plain values.

    Attributes:
        dims: Number of channels of each map.
        modalities: Number of bands by modality.
        model: The timm model.

    Raises:
        ValueError: If the model has no maps at these strides.
    """

    def __init__(
        self,
        name: str,
        modalities: Mapping[str, int] | None = None,
        *,
        pretrained: bool = False,
        **options: Any,
    ) -> None:
        import timm

        super().__init__()
        self.name = name
        self.modalities = dict(modalities or {"optical": 3})
        self.options = options
        if name.startswith("swin"):
            # Its attention windows are then laid out for each size anew.
            options = {"strict_img_size": False, **options}
        (_, first), *others = self.modalities.items()
        model: Any = timm.create_model(
            name, pretrained=pretrained, num_classes=0, in_chans=first, **options
        )
        info = list(model.feature_info)
        reductions = [entry["reduction"] for entry in info]
        if any(reductions.count(stride) != 1 for stride in STRIDES):
            raise ValueError(
                f"{name} has maps at strides {reductions}, an encoder needs one at each of "
                f"{list(STRIDES)}"
            )
        self._indices = [reductions.index(stride) for stride in STRIDES]
        self.dims = tuple(info[i]["num_chs"] for i in self._indices)
        # Parameters without a gradient stop DDP.
        model.prune_intermediate_layers(self._indices, prune_norm=True)
        self._first: str | None = None
        if others:
            self._first = str(model.default_cfg["first_conv"])
            first_conv = model.get_submodule(self._first)
            model.set_submodule(self._first, SensorConv(first_conv, self.modalities))
        self.model = model

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which ``build_encoder`` builds the same architecture."""
        return {"timm": self.name, "modalities": dict(self.modalities), **self.options}

    @property
    def default_modality(self) -> str:
        """The modality of a call that names none: the first."""
        return next(iter(self.modalities))

    def forward_intermediates(
        self, x: Tensor, modality: str | None = None, intermediates_only: bool = True
    ) -> list[Tensor]:
        """Return maps (B, C, ceil(H / stride), ceil(W / stride)), the finest first.

        Args:
            x: Images, (B, bands, H, W).
            modality: Name of the sensor; the first one by default.
            intermediates_only: True; there is nothing else to return.
        """
        if self._first is not None:
            self.model.get_submodule(self._first).active = modality or self.default_modality
        height, width = x.shape[2:]
        last = STRIDES[-1]
        x = pad(x, (0, -width % last, 0, -height % last))
        maps = self.model.forward_intermediates(
            x, indices=self._indices, intermediates_only=True, output_fmt="NCHW"
        )
        return [
            y[:, :, : -(-height // stride), : -(-width // stride)]
            for y, stride in zip(maps, STRIDES, strict=True)
        ]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order the parameters by depth, in timm's format.

        Args:
            coarse: Whether to group by stage instead of by block.
        """

        def nested(pattern: Any) -> Any:
            if isinstance(pattern, str):
                # timm's patterns may be alternatives: all of them are within the model.
                return f"^model\\.(?:{pattern.removeprefix('^')})"
            if isinstance(pattern, tuple):
                return (nested(pattern[0]), *pattern[1:])
            return [nested(one) for one in pattern]

        patterns = self.model.group_matcher(coarse=coarse)
        return {group: nested(pattern) for group, pattern in patterns.items()}


class SensorConv(nn.Module):
    """The first convolution of a network, one for each sensor.

    Args:
        conv: Convolution of the first sensor.
        modalities: Number of bands by modality.

    Attributes:
        active: Sensor whose convolution is applied.
    """

    def __init__(self, conv: nn.Module, modalities: Mapping[str, int]) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(f"the first layer must be a Conv2d, got {type(conv).__name__}")
        names = list(modalities)
        self.convs = nn.ModuleDict({names[0]: conv})
        for name in names[1:]:
            self.convs[name] = nn.Conv2d(
                modalities[name],
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                bias=conv.bias is not None,
            )
        self.active = names[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the active sensor's images.

        Args:
            x: Images, (B, bands, H, W).
        """
        y: Tensor = self.convs[self.active](x)
        return y
