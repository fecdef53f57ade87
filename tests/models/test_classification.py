# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from rsvheat.models import RSVHeat
from rsvheat.models.classification import Classifier
from rsvheat.models.task_model import TASK_MODELS

STEMS = {"optical": 3, "sar": 1}


def encoder(**arguments):
    return RSVHeat(
        **{
            "dims": (8, 16),
            "depths": (1, 1),
            "img_size": 32,
            "modalities": STEMS,
            "num_classes": 4,
            **arguments,
        }
    )


@pytest.fixture
def images():
    return {"optical": torch.randn(2, 3, 32, 32), "sar": torch.randn(2, 1, 32, 32)}


def test_logits_are_those_of_the_encoders_head(images):
    network = Classifier(encoder(), 4).eval()
    with torch.no_grad():
        for name in STEMS:
            expected = network.encoder(images[name], name)
            assert torch.equal(network({name: images[name]}), expected)
            assert torch.equal(network.predict({name: images[name]}), expected.softmax(1))


def test_logits_of_several_modalities_are_averaged(images):
    network = Classifier(encoder(), 4).eval()
    with torch.no_grad():
        expected = (network.encoder(images["optical"]) + network.encoder(images["sar"], "sar")) / 2
        torch.testing.assert_close(network(images), expected)
        torch.testing.assert_close(network(dict(reversed(images.items()))), expected)


def test_a_named_modality_alone_is_used(images):
    network = Classifier(encoder(), 4, modality="sar").eval()
    with torch.no_grad():
        assert torch.equal(network(images), network.encoder(images["sar"], "sar"))
    with pytest.raises(ValueError, match=r"given for \['optical'\], and the network takes"):
        network({"optical": images["optical"]})


def test_a_configuration_builds_the_same_network(images):
    network = Classifier(encoder(global_pool="moments"), 4, modality="sar").eval()
    config = network.config
    assert TASK_MODELS["classification"] is Classifier
    other = TASK_MODELS["classification"].from_config(config).eval()
    assert other.config == config
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other.predict(images), network.predict(images))


def test_wrong_arguments_are_named(images):
    with pytest.raises(ValueError, match="num_classes is 3, and the encoder's head has 4"):
        Classifier(encoder(), 3)
    with pytest.raises(ValueError, match=r"modality must be one of \['optical', 'sar'\]"):
        Classifier(encoder(), 4, modality="lidar")
    network = Classifier(encoder(), 4)
    for wrong in ({}, {"lidar": images["sar"]}, {**images, "lidar": images["sar"]}):
        with pytest.raises(ValueError, match=r"images are given for .* the network takes \['opt"):
            network(wrong)
