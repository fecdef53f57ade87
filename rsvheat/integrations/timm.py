# SPDX-License-Identifier: Apache-2.0
"""The variants as models of timm: importing this module registers them.

``import rsvheat`` does that as soon as timm is imported, too.
"""

import re
from collections.abc import Mapping
from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from torch import Tensor, nn

from rsvheat.models.checkpoints import adapt_weights
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.variants import NORMALIZATION, PRETRAINED, VARIANTS, WEIGHTS

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

# As this project and the published code name it.
_CLASSIFIER = re.compile(r"(^|\.)(head\.fc|classifier\.3)\.(weight|bias)$")


def _default(variant: str) -> dict[str, Any]:
    if variant not in PRETRAINED:
        return _DEFAULT
    size = PRETRAINED[variant]["img_size"]
    return {
        **_DEFAULT,
        "file": str(WEIGHTS / f"{variant}.safetensors"),
        "num_classes": PRETRAINED[variant]["num_classes"],
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0,
        **NORMALIZATION[variant],
    }


default_cfgs = generate_default_cfgs({variant: _default(variant) for variant in VARIANTS})


def _adapt(state: dict[str, Tensor], model: RSVHeat) -> dict[str, Tensor]:
    """Return weights that timm has read, under the model's names and in its sizes.

    Stems of the same names are taken and adapted to other numbers of bands, as timm does for every
    model. ``load_report`` of the model says what became of each parameter.

    Args:
        state: Tensors of the file.
        model: Model that timm loads them into.

    Raises:
        CheckpointError: If the weights are of another architecture.
    """
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # set by timm
    source = next(filter(None, map(config.get, ("file", "hf_hub_id", "url"))), "the weights")
    if model.num_classes != config["num_classes"]:  # timm would remove the classifier afterwards
        state = {key: value for key, value in state.items() if not _CLASSIFIER.search(key)}
    weights, model.load_report = adapt_weights(model, state, str(source), inflate_stems=True)
    return weights


def _build(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    stride = kwargs.pop("output_stride", 32)
    if stride != 32:
        raise ValueError(
            f"{variant} has strides 4, 8, 16 and 32 only, got output_stride={stride}: choose a "
            "decoder that takes them, such as Unet, FPN or UPerNet"
        )
    if pretrained and variant in PRETRAINED:
        kwargs.setdefault("img_size", PRETRAINED[variant]["img_size"])
    # timm's name for an argument that other architectures have, too.
    if "drop_path_rate" in kwargs:
        kwargs["drop_path"] = kwargs.pop("drop_path_rate")
    # By its own name timm would adapt the stem again, by a formula that does not keep the mean.
    bands = kwargs.pop("in_chans", None)
    if kwargs.get("modalities") is None:
        kwargs["modalities"] = {"optical": 3 if bands is None else bands}
    model: nn.Module = build_model_with_cfg(
        RSVHeat,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        kwargs_filter=("in_chans",),
        pretrained_filter_fn=_adapt,
        # What a file may lack, _adapt decides.
        pretrained_strict=False,
        **{**VARIANTS[variant], **kwargs},
    )
    return model


def _register(variant: str) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(variant, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = variant
    entry_point.__doc__ = f"{variant}, see ``rsvheat.models.RSVHeat``."
    globals()[variant] = register_model(entry_point)


for _name in VARIANTS:
    _register(_name)
