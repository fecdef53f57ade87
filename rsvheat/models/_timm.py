# SPDX-License-Identifier: Apache-2.0
"""Entry points of the variants in timm's registry; importing this module registers them."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from torch import nn

from rsvheat.models.encoder import RSVHeat
from rsvheat.models.registry import PRETRAINED, VARIANTS, WEIGHTS

# timm appends each registered name.
__all__: list[str] = []

_DEFAULT = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "stems.optical.conv1",
    "classifier": "head.fc",
    "license": "apache-2.0",
}
# Of the weights in the package: EuroSAT's row of the card's table, over 255.
_NORMALIZATION = {
    "rsvheat_nano": {"mean": (0.34675, 0.38220, 0.40894), "std": (0.20424, 0.13773, 0.11627)}
}


def _default(variant: str) -> dict[str, Any]:
    if variant not in PRETRAINED:
        return _DEFAULT
    size = PRETRAINED[variant]["img_size"]
    return {
        **_DEFAULT,
        "file": str(WEIGHTS / f"{variant}.safetensors"),
        "custom_load": True,
        "num_classes": PRETRAINED[variant]["num_classes"],
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0,
        **_NORMALIZATION[variant],
    }


default_cfgs = generate_default_cfgs({variant: _default(variant) for variant in VARIANTS})


def _build(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    stride = kwargs.pop("output_stride", 32)
    if stride != 32:
        raise ValueError(
            f"{variant} has strides 4, 8, 16 and 32 only, got output_stride={stride}: choose a "
            "decoder that takes them, such as Unet, FPN or UPerNet"
        )
    if pretrained and variant in PRETRAINED:
        kwargs.setdefault("img_size", PRETRAINED[variant]["img_size"])
    # timm's names for arguments that other architectures have, too.
    if "drop_path_rate" in kwargs:
        kwargs["drop_path"] = kwargs.pop("drop_path_rate")
    # timm fills in in_chans=3; with named stems it has no meaning.
    names = ("in_chans",) if kwargs.get("modalities") is not None else None
    model: nn.Module = build_model_with_cfg(
        RSVHeat,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        kwargs_filter=names,
        **{**VARIANTS[variant], **kwargs},
    )
    return model


def _register(variant: str) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(variant, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = variant
    entry_point.__doc__ = f"{variant}, see :class:`rsvheat.models.RSVHeat`."
    globals()[variant] = register_model(entry_point)


for _name in VARIANTS:
    _register(_name)
