# SPDX-License-Identifier: Apache-2.0
import copy
import json
import re

import pytest
import torch

from rsvheat.models.change_detection import ChangeDetectionModel
from rsvheat.models.features import FeaturePyramid
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.models.timm_encoder import TimmEncoder

SENSORS = {"optical": 3, "sar": 2}
# Small relatives of what benchmarks compare with.
MODELS = {
    "resnet18": {},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 24,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 2, 2),
    },
}


@pytest.fixture(params=list(MODELS))
def name(request):
    return request.param


@pytest.mark.parametrize("size", [(64, 96), (33, 50)])
def test_maps_have_strides_4_to_32(name, size):
    encoder = TimmEncoder(name, {"optical": 3}, **MODELS[name]).eval()
    maps = encoder.forward_intermediates(torch.randn(2, 3, *size))
    for x, dim, stride in zip(maps, encoder.dims, (4, 8, 16, 32), strict=True):
        assert x.shape == (2, dim, -(-size[0] // stride), -(-size[1] // stride))


def test_only_encoders_without_batch_norms_get_norms(name):
    encoder = TimmEncoder(name, **MODELS[name])
    norms = list(FeaturePyramid(encoder).norms.parameters())
    assert bool(norms) == (name != "resnet18")


def test_segmentation_with_either_sensor(name):
    encoder = TimmEncoder(name, SENSORS, **MODELS[name])
    model = SegmentationModel(encoder, 4, decoder="fpn", channels=16)
    images = {key: torch.randn(2, bands, 64, 64) for key, bands in SENSORS.items()}
    result = model(images)
    result.logits.square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    both = model(images)
    alone = [model({key: x}) for key, x in images.items()]
    assert both.shape == (2, 4, 64, 64)
    assert (alone[0] - alone[1]).abs().max() > 1e-4
    # Training with a sensor that the batch lacks, which batch norms cannot see as an empty batch.
    model.train()({"sar": images["sar"]}).logits.sum().backward()


def test_the_configuration_builds_the_same_network(name):
    model = SegmentationModel(
        TimmEncoder(name, SENSORS, **MODELS[name]), 3, decoder="fpn", channels=16
    ).eval()
    config = json.loads(json.dumps(model.config))
    again = SegmentationModel.from_config(config).eval()
    again.load_state_dict(model.state_dict())
    images = {key: torch.randn(1, bands, 40, 40) for key, bands in SENSORS.items()}
    for part in (images, {"sar": images["sar"]}):
        assert torch.equal(again(part), model(part))
        assert torch.equal(copy.deepcopy(model)(part), model(part))


def test_change_detection():
    images = {date: torch.randn(2, 3, 64, 64) for date in ("before", "after")}
    model = ChangeDetectionModel(TimmEncoder("resnet18"), decoder="fpn", channels=16)
    model(images).logits.sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    assert model.eval()(images).shape == (2, 2, 64, 64)
    exchanging = ChangeDetectionModel(TimmEncoder("resnet18"), exchange=True, channels=16)
    with pytest.raises(ValueError, match="between the stages of RSVHeat encoders only"):
        exchanging(images)


def test_models_without_the_strides_are_refused():
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 has maps at strides \[16"):
        TimmEncoder("vit_tiny_patch16_224")


@pytest.mark.parametrize("coarse", [True, False])
def test_parameters_have_the_depth_that_timm_gives_them(name, coarse):
    import timm
    from timm.models import group_parameters

    encoder = TimmEncoder(name, SENSORS, **MODELS[name])
    plain = timm.create_model(name, num_classes=0, **MODELS[name])
    theirs = group_parameters(plain, plain.group_matcher(coarse=coarse), reverse=True)
    ours = group_parameters(encoder, encoder.group_matcher(coarse), reverse=True)
    for key, depth in ours.items():
        original = re.sub(r"^model\.|convs\.(optical|sar)\.", "", key)
        assert depth == theirs[original]
    assert len(set(ours.values())) > 4
