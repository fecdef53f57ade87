# SPDX-License-Identifier: Apache-2.0
"""Decoders of segmentation_models_pytorch on ``tu-rsvheat_*``, with six bands and H != W."""

from pathlib import Path
from typing import Any

import pytest
import torch

import rsvheat
from rsvheat.models import RSVHeat

smp = pytest.importorskip("segmentation_models_pytorch")

DECODERS = [
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "UPerNet",
    "Linknet",
    "MAnet",
    "PSPNet",
    "Segformer",
    "DPT",
]


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


def encoder(model: torch.nn.Module) -> RSVHeat:
    """Return the encoder in a model of smp, from timm's features-only wrapper if it is in one."""
    (found,) = (module for module in model.modules() if isinstance(module, RSVHeat))
    return found


def build(decoder: str, name: str = "tu-rsvheat_nano", **kwargs: Any) -> torch.nn.Module:
    if decoder == "DPT":
        kwargs["decoder_readout"] = "ignore"  # of transformers' class tokens
    arguments = {"in_channels": 6, "classes": 4, "encoder_weights": None, "img_size": (64, 96)}
    return getattr(smp, decoder)(name, **{**arguments, **kwargs})


def test_weights_of_the_package() -> None:
    model = build("FPN", in_channels=3, img_size=64, encoder_weights=True)
    own = rsvheat.create_model("rsvheat_nano", pretrained=True).state_dict()
    weights = encoder(model).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in weights.items())


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_train_and_predict(decoder: str) -> None:
    model = build(decoder)
    assert encoder(model).img_size == (64, 96)
    x = torch.randn(2, 6, 64, 96)
    y = torch.randint(4, (2, 64, 96))
    logits = model(x)
    assert logits.shape == (2, 4, 64, 96)
    torch.nn.functional.cross_entropy(logits, y).backward()
    gradient = encoder(model).stems["optical"].conv1.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert model.predict(x).shape == (2, 4, 64, 96)


@pytest.mark.parametrize("decoder", ["DeepLabV3", "DeepLabV3Plus", "PAN"])
def test_dilated_decoders_are_refused_by_name(decoder: str) -> None:
    with pytest.raises(ValueError, match=r"rsvheat_nano has strides 4, 8, 16 and 32 only, got out"):
        build(decoder)


def test_pan_at_stride_32() -> None:
    # Its decoder halves the last map three times.
    model = build("PAN", encoder_output_stride=32, img_size=(256, 320))
    assert model(torch.randn(2, 6, 256, 320)).shape == (2, 4, 256, 320)


def test_fewer_stages() -> None:
    model = build("Unet", encoder_depth=4, decoder_channels=(64, 32, 16, 8))
    assert len(encoder(model).stages) == 3
    model(torch.randn(2, 6, 64, 96)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_checkpoints_load_into_the_encoder(tmp_path: Path) -> None:
    source = rsvheat.create_model("rsvheat_nano", modalities={"optical": 3}, img_size=64)
    torch.save(source.state_dict(), tmp_path / "pretrained.pth")
    model = build("UPerNet")
    report = rsvheat.load_checkpoint(
        model.encoder.model.model, tmp_path / "pretrained.pth", inflate_stems=True
    )
    assert report.inflated == {"stems.optical.conv1.weight": (3, 6)}
    assert not report.missing
