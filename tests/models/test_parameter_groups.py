# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from rsvheat.models import create_model, create_pretraining_model, parameter_groups
from rsvheat.models.parameter_groups import nested_matcher


def test_embeddings_norms_and_biases_do_not_decay():
    options = {"dims": [8, 16], "depths": [1, 1], "layer_scale": 1e-5}
    network = create_pretraining_model("rsvheat_nano", img_size=32, encoder_options=options)
    network.encoder.stems["sar"].requires_grad_(False)
    decayed, others = parameter_groups(network, weight_decay=0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    assert "encoder.stages.0.freq_embed.table" in plain
    assert "encoder.stages.1.spatial_correction_embed" in plain
    assert "encoder.stages.0.blocks.0.gamma1" in plain
    every = [p for p in network.parameters() if p.requires_grad]
    assert len(decayed["params"]) + len(others["params"]) == len(every) < len(names)


def test_an_encoder_alone_has_the_same_exemptions():
    encoder = create_model("rsvheat_nano", dims=[8, 16], depths=[1, 1], num_classes=0)
    _, others = parameter_groups(encoder, weight_decay=0.1)
    assert any(parameter is encoder.stages[0].freq_embed.table for parameter in others["params"])


def test_rates_fall_with_depth():
    encoder = create_model("rsvheat_nano", dims=[8, 16], depths=[1, 2], num_classes=3)
    groups = parameter_groups(encoder, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(encoder.parameters()))
    assert rates[encoder.head.fc.weight] == 1
    for name, rate in {
        "stages.1.blocks.1.mlp.fc1.weight": 0.5,
        "stages.1.blocks.0.mlp.fc1.weight": 0.25,
        "stages.1.downsample.conv.weight": 0.25,
        "stages.1.freq_embed.table": 0.25,
        "stages.0.blocks.0.norm1.bias": 0.125,
        "stems.sar.conv1.weight": 0.0625,
    }.items():
        assert rates[encoder.get_parameter(name)] == rate, name
    # From the stem to the head; within a layer those without decay first, as saved optimizers are.
    order = [(group["lr_scale"], group["weight_decay"]) for group in groups]
    assert order == sorted(order)
    torch.optim.AdamW(groups).step()


def test_without_decay_of_rates_there_are_two_groups():
    encoder = create_model("rsvheat_nano", dims=[8, 16], depths=[1, 1], num_classes=3)
    groups = parameter_groups(encoder, weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(group["lr_scale"] == 1 and "lr" not in group for group in groups)
    (all_alike,) = parameter_groups(encoder, weight_decay=0.0)
    assert len(all_alike["params"]) == len(list(encoder.parameters()))


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.5, float("nan")])
def test_wrong_decay_is_refused(layer_decay):
    with pytest.raises(ValueError, match="layer_decay must be above 0 and at most 1"):
        parameter_groups(nn.Linear(2, 2), layer_decay=layer_decay)


def test_patterns_of_a_part_are_those_of_the_whole():
    matcher = {
        "stem": r"^stems",
        "blocks": [(r"^stages\.(\d+)", (0,)), (r"^norm", None)],
        "x": None,
    }
    assert nested_matcher(matcher, "encoder") == {
        "stem": r"^encoder\.stems",
        "blocks": [(r"^encoder\.stages\.(\d+)", (0,)), (r"^encoder\.norm", None)],
        "x": None,
    }
