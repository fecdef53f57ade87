# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from rsvheat.models import RSVHeat
from rsvheat.models.change_detection import ChangeDetectionModel, exchange_halves
from rsvheat.models.dense import DenseLogits
from rsvheat.models.task_model import TASK_MODELS

CROSS = {"optical": 3, "sar": 1}
DATES = {"before": "optical", "after": "sar"}


def build(modalities=None, classes=2, **options):
    encoder = RSVHeat(
        dims=(8, 16, 16, 24),
        depths=(1, 1, 1, 1),
        img_size=32,
        modalities=modalities or {"optical": 3},
    )
    return ChangeDetectionModel(encoder, classes, **{"channels": 16, **options})


def pair(count=2, height=40, width=50, bands=(3, 3)):
    names = ("before", "after")
    return {
        name: torch.randn(count, band, height, width)
        for name, band in zip(names, bands, strict=True)
    }


SETTINGS = [
    ({}, (3, 3)),
    ({"difference": "concatenate"}, (3, 3)),
    ({"exchange": True}, (3, 3)),
    ({"modalities": CROSS, "dates": DATES}, (3, 1)),
    ({"modalities": CROSS, "dates": DATES, "difference": "absolute"}, (3, 1)),
    ({"modalities": {"before": 3, "after": 1}, "decoder": "fpn"}, (3, 1)),
]


def test_the_task_is_registered():
    assert TASK_MODELS["change_detection"] is ChangeDetectionModel
    assert ChangeDetectionModel.output == "mask"


@pytest.mark.parametrize(("options", "bands"), SETTINGS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
def test_logits_have_the_images_size(options, bands, size):
    model = build(**options).eval()
    logits = model(pair(2, *size, bands=bands))
    assert logits.shape == (2, 2, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("options", "bands"), SETTINGS)
def test_every_parameter_gets_a_gradient(options, bands):
    model = build(auxiliary=True, **options)
    result = model(pair(bands=bands))
    assert isinstance(result, DenseLogits)
    (result.logits.square().sum() + result.auxiliary.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("options", "bands"), SETTINGS)
def test_the_configuration_builds_the_same_network(options, bands):
    model = build(**options).eval()
    config = json.loads(json.dumps(model.config))
    again = ChangeDetectionModel.from_config(config)
    again.load_state_dict(model.state_dict())
    images = pair(bands=bands)
    assert torch.equal(again.eval()(images), model(images))
    assert json.loads(json.dumps(again.config)) == config


def test_the_absolute_difference_is_symmetric_and_zero_for_equal_dates():
    model = build().eval()
    images = pair()
    swapped = {"before": images["after"], "after": images["before"]}
    torch.testing.assert_close(model(images), model(swapped), atol=1e-5, rtol=1e-4)
    same = dict.fromkeys(images, images["before"])
    assert all((x == 0).all() for x in model.maps(same))
    assert any((x != 0).any() for x in model.maps(images))


def test_the_concatenation_tells_the_order_of_the_dates():
    model = build(difference="concatenate").eval()
    images = pair()
    swapped = {"before": images["after"], "after": images["before"]}
    assert (model.maps(images)[0] - model.maps(swapped)[0]).abs().max() > 1e-3


def test_different_sensors_get_a_learned_comparison_by_default():
    assert build().options["difference"] == "absolute"
    assert build(CROSS, dates=DATES).options["difference"] == "concatenate"
    assert build({"before": 3, "after": 3}).dates == {"before": "before", "after": "after"}


def test_maps_are_those_of_the_encoder():
    model = build(CROSS, dates=DATES, difference="absolute").eval()
    images = pair(bands=(3, 1))
    before = model.encoder.forward_intermediates(
        images["before"], modality="optical", intermediates_only=True
    )
    after = model.encoder.forward_intermediates(
        images["after"], modality="sar", intermediates_only=True
    )
    for norm, a, b, x in zip(model.norms, before, after, model.maps(images), strict=True):
        torch.testing.assert_close(x, (norm(a) - norm(b)).abs(), atol=1e-5, rtol=1e-4)


def test_exchange_swaps_columns_then_channels():
    a, b = torch.zeros(2, 3, 4, 6), torch.ones(2, 3, 4, 6)
    x = torch.cat((a, b))
    assert torch.equal(exchange_halves(0, x), x)
    columns = exchange_halves(1, x)
    assert columns[0, 0, :, 0].tolist() == [1, 0, 1, 0]
    assert columns[2, 0, :, 0].tolist() == [0, 1, 0, 1]
    for stage in (2, 3):
        channels = exchange_halves(stage, x)
        assert channels[0, 0, 0].tolist() == [1, 0, 1, 0, 1, 0]
        assert channels[3, 2, 3].tolist() == [0, 1, 0, 1, 0, 1]
    for stage in range(4):
        noise = torch.randn(4, 5, 7, 3)
        assert torch.equal(exchange_halves(stage, exchange_halves(stage, noise)), noise)


def test_exchange_changes_what_later_stages_see():
    model = build(exchange=True).eval()
    plain = build().eval()
    plain.load_state_dict(model.state_dict())
    images = pair(height=64, width=64)
    differences = [
        (a - b).abs().max() for a, b in zip(model.maps(images), plain.maps(images), strict=True)
    ]
    # The absolute difference does not see a swap of the maps themselves.
    assert differences[0] < 1e-5
    assert differences[1] < 1e-5
    assert differences[2] > 1e-2
    assert differences[3] > 1e-2


def test_the_stems_of_the_encoder_follow_from_the_bands():
    stems = ChangeDetectionModel.stems
    assert stems({"before": 3, "after": 3}) == {"optical": 3}
    assert stems({"before": 3, "after": 1}) == {"before": 3, "after": 1}
    assert stems({"after": 1, "before": 3}, DATES) == CROSS
    assert stems({"before": 2, "after": 2}, {"before": "sar", "after": "sar"}) == {"sar": 2}
    with pytest.raises(ValueError, match="share the stem 'sar', but have"):
        stems({"before": 3, "after": 1}, {"before": "sar", "after": "sar"})
    with pytest.raises(ValueError, match=r"needs images of \('before', 'after'\), got"):
        stems({"optical": 3})
    for bands in ({"before": 3, "after": 3}, {"before": 3, "after": 1}):
        build(stems(bands))


def test_images_in_another_order_are_paired_by_the_index():
    model = build(difference="concatenate").eval()
    images = pair(3)
    order = torch.tensor([2, 0, 1])
    shuffled = {"before": images["before"], "after": images["after"][order]}
    index = {"before": torch.arange(3), "after": order}
    assert torch.equal(model(shuffled, index), model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": CROSS}, r"dates must say which of the stems \['optical', 'sar'\]"),
        ({"dates": {"before": "optical"}}, "dates must name the stems of"),
        ({"dates": {"before": "optical", "after": "sar"}}, "names the stem 'sar', the encoder"),
        (
            {"modalities": CROSS, "dates": {"before": "sar", "after": "sar"}},
            r"no date goes through the encoder's stems \['optical'\]: build it with "
            r"modalities=\{'sar': 1\}",
        ),
        ({"difference": "ratio"}, "difference must be one of .*, got 'ratio'"),
        ({"modalities": CROSS, "dates": DATES, "exchange": True}, "exchange is for dates that"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("change", "index", "size", "message"),
    [
        ({"after": None}, None, None, r"must hold \('before', 'after'\), got \('before',\)"),
        ({"after": torch.zeros(2, 1, 40, 50)}, None, None, r"images\['after'\] must have shape"),
        ({"after": torch.zeros(2, 3, 40, 51)}, None, None, "must agree in number and size"),
        ({"after": torch.zeros(1, 3, 40, 50)}, None, None, "must agree in number and size"),
        ({}, None, 3, "both dates of all 3 samples are needed, got 2"),
        ({}, {"before": torch.arange(2)}, None, r"index\['after'\] must have shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, index, size, message):
    images = {name: x for name, x in {**pair(), **change}.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        build().eval()(images, index, size)


def test_a_change_can_be_learned_by_heart():
    model = build(dropout=0.0)
    before = torch.rand(2, 3, 64, 64)
    after = before.clone()
    y = torch.zeros(2, 64, 64, dtype=torch.int64)
    after[0, :, 8:40, 16:48], y[0, 8:40, 16:48] = 2, 1
    images = {"before": before, "after": after}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        result = model(images)
        loss = torch.nn.functional.cross_entropy(result.logits, y)
        loss = loss + 0.4 * torch.nn.functional.cross_entropy(result.auxiliary, y)
        loss.backward()
        optimizer.step()
    predicted = model.eval()(images).argmax(1)
    assert (predicted == y).float().mean() > 0.97
