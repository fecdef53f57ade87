# SPDX-License-Identifier: Apache-2.0
"""torchvision's detection models on the encoder, with twelve bands and images of any size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import rsvheat
from rsvheat.integrations.torchvision import FPNBackbone

BANDS = 12
SIZES = [(64, 96), (80, 64)]


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


def images() -> list[Tensor]:
    return [torch.rand(BANDS, *size) for size in SIZES]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 8.0, 40.0, 44.0], [20.0, 10.0, 60.0, 50.0]])
    masks = [torch.zeros(2, *size, dtype=torch.uint8) for size in SIZES]
    for mask in masks:
        mask[:, 10:40, 10:40] = 1
    return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": mask} for mask in masks]


def build(model: str) -> nn.Module:
    shared: dict[str, Any] = {
        "num_classes": 3,
        "image_mean": [0.5] * BANDS,
        "image_std": [0.5] * BANDS,
        "min_size": 64,
        "max_size": 128,
    }
    if model in ("FasterRCNN", "MaskRCNN"):
        backbone = FPNBackbone("rsvheat_nano", in_chans=BANDS, img_size=64, out_channels=32)
        kind = FasterRCNN if model == "FasterRCNN" else MaskRCNN
        return kind(backbone, **shared, rpn_pre_nms_top_n_test=50, rpn_post_nms_top_n_test=20)
    backbone = FPNBackbone(
        "rsvheat_nano",
        in_chans=BANDS,
        img_size=64,
        out_indices=(1, 2, 3),
        out_channels=32,
        extra_blocks=LastLevelP6P7(32, 32),
    )
    if model == "RetinaNet":
        return RetinaNet(backbone, **shared, topk_candidates=20, score_thresh=0.0)
    anchors = AnchorGenerator(
        sizes=((8,), (16,), (32,), (64,), (128,)), aspect_ratios=((1.0,),) * 5
    )
    return FCOS(backbone, anchor_generator=anchors, **shared, topk_candidates=20, score_thresh=0.0)


@pytest.mark.parametrize("name", ["FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS"])
def test_detectors_train_and_predict(name: str) -> None:
    model = build(name)
    losses = model.train()(images(), targets())
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    for parameter, value in model.backbone.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
    assert model.backbone.encoder.stems["optical"].conv1.weight.grad.abs().sum() > 0

    predictions = model.eval()(images())
    assert len(predictions) == 2
    for prediction, (height, width) in zip(predictions, SIZES, strict=True):
        boxes = prediction["boxes"]
        assert len(boxes) == len(prediction["labels"]) == len(prediction["scores"]) > 0
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        if name == "MaskRCNN":
            assert prediction["masks"].shape == (len(boxes), 1, height, width)


def test_levels_of_any_size() -> None:
    backbone = FPNBackbone("rsvheat_nano", in_chans=2, img_size=64, out_channels=16)
    levels = backbone(torch.randn(1, 2, 75, 100))
    assert {name: tuple(y.shape) for name, y in levels.items()} == {
        "0": (1, 16, 19, 25),
        "1": (1, 16, 10, 13),
        "2": (1, 16, 5, 7),
        "3": (1, 16, 3, 4),
        "pool": (1, 16, 2, 2),
    }


def test_only_what_the_levels_need_is_kept() -> None:
    backbone = FPNBackbone("rsvheat_nano", in_chans=2, img_size=64, out_indices=(0, 2))
    assert len(backbone.encoder.stages) == 3
    sum(y.sum() for y in backbone(torch.randn(1, 2, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_checkpoints(kind: str, tmp_path: Path) -> None:
    source = rsvheat.create_model(
        "rsvheat_nano", modalities={"optical": 3, "sar": 1}, img_size=64, output_norms=True
    )
    path = tmp_path
    if kind == "file":
        path = tmp_path / "last.ckpt"
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        source.save_pretrained(path)
    backbone = FPNBackbone(
        "rsvheat_nano",
        modality="sar",
        in_chans=2,
        img_size=64,
        out_indices=(0, 1),
        checkpoint=path,
        inflate_stems=True,
    )
    report = backbone.load_report
    assert report is not None
    assert report.inflated == {"stems.sar.conv1.weight": (1, 2)}
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = source.eval().forward_intermediates(
            x, (0, 1), intermediates_only=True, modality="sar"
        )
        for a, b in zip(backbone.eval().maps(x.expand(-1, 2, -1, -1)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="no model is named 'rsvheat_huge'"):
        FPNBackbone("rsvheat_huge")
    with pytest.raises(ValueError, match="indices must be within -4 to 3"):
        FPNBackbone("rsvheat_nano", out_indices=(0, 4))
