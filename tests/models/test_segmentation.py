# SPDX-License-Identifier: Apache-2.0
import copy
import json

import pytest
import torch

from rsvheat.models import RSVHeat
from rsvheat.models.dense import DenseLogits
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.models.task_model import TASK_MODELS

SENSORS = {"optical": 3, "sar": 1}
DECODERS = ("upernet", "fpn")


def build(modalities=SENSORS, classes=4, **options):
    encoder = RSVHeat(dims=(8, 16, 16, 24), depths=(1, 1, 1, 1), img_size=32, modalities=modalities)
    return SegmentationModel(encoder, classes, **{"channels": 16, **options})


def images(count=2, height=40, width=50, modalities=SENSORS):
    return {name: torch.randn(count, bands, height, width) for name, bands in modalities.items()}


def test_the_task_is_registered():
    assert TASK_MODELS["segmentation"] is SegmentationModel
    assert SegmentationModel.output == "mask"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (33, 47), (5, 130)])
def test_logits_have_the_images_size(decoder, size):
    model = build(decoder=decoder).eval()
    logits = model(images(2, *size))
    assert logits.shape == (2, 4, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("auxiliary", [None, True, False])
def test_training_returns_the_auxiliary_logits_too(decoder, auxiliary):
    model = build(decoder=decoder, auxiliary=auxiliary)
    result = model(images())
    assert isinstance(result, DenseLogits)
    assert result.logits.shape == (2, 4, 40, 50)
    if auxiliary or (auxiliary is None and decoder == "upernet"):
        assert result.auxiliary.shape == result.logits.shape
    else:
        assert result.auxiliary is None
        assert model.auxiliary is None


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_gets_a_gradient_with_any_sensors(decoder):
    for names in (["optical"], ["sar"], list(SENSORS)):
        model = build(decoder=decoder, auxiliary=True)
        full = images()
        result = model({name: full[name] for name in names})
        (result.logits.square().sum() + result.auxiliary.square().sum()).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == []


def test_predictions_are_probabilities_in_either_mode():
    model = build(dropout=0.0)
    full = images()
    probabilities = model.eval().predict(full)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 40, 50))
    torch.testing.assert_close(probabilities, model(full).softmax(1))
    torch.testing.assert_close(model.train().predict(full), probabilities)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.eval().predict(full)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(1), torch.ones(2, 40, 50))


def test_predictions_with_a_missing_sensor():
    model = build(modality_dropout=0.5).eval()
    full = images(3)
    both = model.predict(full)
    optical = model.predict({"optical": full["optical"]})
    assert optical.shape == both.shape
    index = {"optical": torch.arange(3), "sar": torch.tensor([1])}
    mixed = model.predict({"optical": full["optical"], "sar": full["sar"][[1]]}, index, 3)
    torch.testing.assert_close(mixed[[0, 2]], optical[[0, 2]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[[1]], both[[1]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder": "fpn", "channels": 24, "fusion": "attention", "modality_dropout": 0.3},
        {"decoder_norm": "batch", "auxiliary": False, "dropout": 0.0},
    ],
)
def test_the_configuration_builds_the_same_network(options):
    model = build(**options).eval()
    config = json.loads(json.dumps(model.config))
    again = SegmentationModel.from_config(config)
    again.load_state_dict(model.state_dict())
    assert json.loads(json.dumps(again.config)) == config
    full = images()
    assert torch.equal(again.eval()(full), model(full))
    for name, value in options.items():
        assert config["options"][name] == value


def test_a_copy_is_independent():
    model = build().eval()
    copied = copy.deepcopy(model)
    full = images()
    before = model(full)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(0.1)
    assert torch.equal(model(full), before)
    assert not torch.equal(copied(full), before)


def test_the_encoder_appears_once_and_without_its_head():
    keys = list(build().state_dict())
    assert {key.split(".")[0] for key in keys} == {"encoder", "features", "decoder", "auxiliary"}
    assert not any(key.startswith("encoder.head") for key in keys)
    assert not any("encoder" in key for key in keys if not key.startswith("encoder."))


def test_encoders_with_moments_leave_nothing_unused():
    encoder = RSVHeat(
        dims=(8, 16), depths=(1, 1), img_size=32, in_chans=3, global_pool="moments", num_classes=3
    )
    model = SegmentationModel(encoder, 2, channels=8)
    result = model({"optical": torch.randn(2, 3, 32, 32)})
    (result.logits.sum() + result.auxiliary.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_sample_can_be_learned_by_heart(decoder):
    """Squares of another brightness, and of another band: 60 steps are enough."""
    model = build({"optical": 3}, classes=3, decoder=decoder, dropout=0.0)
    x = torch.zeros(2, 3, 64, 64)
    y = torch.zeros(2, 64, 64, dtype=torch.int64)
    x[0, :, 8:40, 16:48], y[0, 8:40, 16:48] = 1, 1
    x[1, 1, 24:56, 4:36], y[1, 24:56, 4:36] = 1, 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        result = model({"optical": x})
        loss = torch.nn.functional.cross_entropy(result.logits, y)
        if result.auxiliary is not None:
            loss = loss + 0.4 * torch.nn.functional.cross_entropy(result.auxiliary, y)
        loss.backward()
        optimizer.step()
    predicted = model.eval()({"optical": x}).argmax(1)
    assert (predicted == y).float().mean() > 0.97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "num_classes must be at least 2, got 1"),
        ({"decoder": "unet"}, "decoder must be one of .*, got 'unet'"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"decoder_norm": "instance"}, "decoder_norm must be one of"),
        ({"fusion": "sum"}, "fusion must be one of"),
        ({"modality_dropout": -0.1}, r"modality_dropout must be from 0 to 1, got -0\.1"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_an_encoder_of_one_stage_is_refused():
    with pytest.raises(ValueError, match="at least 2 stages, got 1"):
        SegmentationModel(RSVHeat(dims=(8,), depths=(1,), img_size=32), 2)


def test_compiles_with_one_sensor():
    model = build({"optical": 3}).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = {"optical": torch.randn(1, 3, 32, 32)}
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-4)


def test_traces_of_several_sensors_are_right():
    model = build().eval()
    names, example, other = list(SENSORS), images(2, 32, 32), images(3, 32, 32)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *x):
            return self.model(dict(zip(names, x, strict=True)))

    with torch.no_grad():
        traced = torch.jit.trace(Plain().eval(), tuple(example.values()), check_trace=False)
        torch.testing.assert_close(traced(*other.values()), model(other))
