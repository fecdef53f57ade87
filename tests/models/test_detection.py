# SPDX-License-Identifier: Apache-2.0
import copy
import json

import pytest
import torch

pytest.importorskip("torchvision")

import torchvision
from box_scenes import SIZE, learn

from rsvheat.models import RSVHeat, create_model
from rsvheat.models.detection import DetectionModel
from rsvheat.models.detection_pyramid import DetectionPyramid, GridAnchors
from rsvheat.models.task_model import TASK_MODELS
from rsvheat.models.timm_encoder import TimmEncoder

SENSORS = {"optical": 3, "sar": 1}
DETECTORS = ("faster_rcnn", "retinanet", "fcos")
NOTHING = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)


def build(modalities=SENSORS, classes=3, output_norms=False, **options):
    encoder = RSVHeat(
        dims=(8, 16, 16, 24),
        depths=(1, 1, 1, 1),
        img_size=32,
        modalities=modalities,
        output_norms=output_norms,
    )
    return DetectionModel(encoder, classes, **{"channels": 16, **options})


def images(count=2, height=45, width=70, modalities=SENSORS):
    return {name: torch.randn(count, bands, height, width) for name, bands in modalities.items()}


def test_the_task_is_registered():
    assert TASK_MODELS["detection"] is DetectionModel
    assert DetectionModel.output == "boxes"
    model = create_model("rsvheat_nano", task="detection", classes=["a", "b"], channels=8)
    assert isinstance(model, DetectionModel)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (5, 130)])
def test_images_of_any_size_give_boxes_within_them(detector, size):
    model = build(detector=detector, score_threshold=0.0, max_detections=7).eval()
    found = model.predict(images(2, *size))
    assert len(found) == 2
    for one in found:
        count = len(one["scores"])
        assert count <= 7
        assert one["boxes"].shape == (count, 4)
        assert one["labels"].shape == (count,)
        assert one["labels"].dtype == torch.int64
        assert ((one["scores"] >= 0) & (one["scores"] <= 1)).all()
        assert (one["scores"].diff() <= 0).all()
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        low, high = one["boxes"][:, :2], one["boxes"][:, 2:]
        assert (low >= 0).all()
        assert (high <= torch.tensor([size[1], size[0]])).all()
        assert (high >= low).all()


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("finest", [4, 8])
@pytest.mark.parametrize("empty", [False, True])
def test_every_parameter_gets_a_gradient_with_any_sensors(detector, finest, empty):
    boxes = torch.tensor([[4.0, 4, 30, 30], [10, 10, 20, 44]]), torch.tensor([0, 2])
    targets = [NOTHING if empty else boxes, NOTHING]
    for names in (["optical"], list(SENSORS)):
        model = build(detector=detector, finest=finest, output_norms=finest == 8)
        full = images()
        output = model({name: full[name] for name in names})
        losses = model.losses(output, *zip(*targets, strict=True))
        assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
        sum(losses.values()).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == []
        if not empty:
            assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize("detector", DETECTORS)
def test_boxes_without_area_are_left_out(detector):
    model = build(detector=detector)
    output = model(images(1))
    good = torch.tensor([[4.0, 4, 30, 30]])
    both = torch.tensor([[4.0, 4, 30, 30], [9, 9, 9, 20]])
    torch.manual_seed(0)
    expected = model.losses(output, [good], [torch.tensor([1])])
    torch.manual_seed(0)
    assert model.losses(output, [both], [torch.tensor([1, 2])]) == expected


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (torch.zeros(1, 5), torch.zeros(1), r"shape \(N, 4\) .* got \(1, 5\)"),
        (torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([3]), "within 0 to 2, got 3 to 3"),
        (torch.tensor([[0.0, torch.nan, 9, 9]]), torch.tensor([1]), "finite"),
    ],
)
def test_wrong_annotation_is_refused(boxes, labels, message):
    model = build()
    output = model(images(1))
    with pytest.raises(ValueError, match=message):
        model.losses(output, [boxes], [labels])
    with pytest.raises(ValueError, match="of 1 images, got 0 and 1"):
        model.losses(output, [], [labels])


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_missing_sensor_of_some_samples(detector):
    model = build(detector=detector, score_threshold=0.0, max_detections=20).eval()
    full = images(3)
    both, optical = model.predict(full), model.predict({"optical": full["optical"]})
    index = {"optical": torch.arange(3), "sar": torch.tensor([1])}
    mixed = model.predict({"optical": full["optical"], "sar": full["sar"][[1]]}, index, 3)
    for one, expected in zip(mixed, (optical[0], both[1], optical[2]), strict=True):
        torch.testing.assert_close(one["scores"], expected["scores"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_values_that_are_not_finite_are_not_silent(detector):
    model = build({"optical": 3}, detector=detector).eval()
    full = images(2, modalities={"optical": 3})
    full["optical"][1, 0, 3, 3] = torch.nan
    first, second = model.predict(full)
    assert first["boxes"].isfinite().all()
    assert second["scores"].isnan().all()
    assert second["boxes"].shape == (1, 4)


def test_damaged_layers_on_regions_are_not_silent():
    model = build({"optical": 3}).eval()
    with torch.no_grad():
        model.head.regions.box_predictor.cls_score.bias[0] = torch.nan
    assert all(
        one["scores"].isnan().all() for one in model.predict(images(2, 40, 40, {"optical": 3}))
    )


@pytest.mark.parametrize("detector", DETECTORS)
def test_half_precision_keeps_coordinates(detector):
    """Coordinates near 500 would be off by up to 2 pixels in bfloat16."""
    model = build({"optical": 3}, detector=detector, score_threshold=0.0).eval()
    x = images(1, 520, 32, {"optical": 3})
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        found = model.detect(output)[0]
    assert all(value.dtype == torch.float32 for value in output.dense.values())
    assert found["boxes"].dtype == torch.float32
    rounded = found["boxes"].bfloat16().float()
    assert (found["boxes"] - rounded).abs().max() > 0.5


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("options", [{}, {"finest": 4, "fusion": "mean", "max_detections": 9}])
def test_the_configuration_builds_the_same_network(detector, options):
    model = build(detector=detector, **options).eval()
    config = json.loads(json.dumps(model.config))
    again = DetectionModel.from_config(config)
    again.load_state_dict(model.state_dict())
    assert json.loads(json.dumps(again.config)) == config
    full = images()
    for one, other in zip(model.predict(full), again.eval().predict(full), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    copied = copy.deepcopy(model)
    assert torch.equal(copied.predict(full)[0]["boxes"], model.predict(full)[0]["boxes"])


def test_timm_encoders_take_part():
    pytest.importorskip("timm")
    model = DetectionModel(TimmEncoder("resnet10t", {"optical": 3}), 2, channels=8)
    again = DetectionModel.from_config(json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    output = again(images(2, modalities={"optical": 3}))
    losses = again.losses(output, [NOTHING[0]] * 2, [NOTHING[1]] * 2)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in again.parameters())


@pytest.mark.parametrize("coarse", ["pool", "conv"])
def test_levels_of_any_size_cover_the_image(coarse):
    pyramid = DetectionPyramid((8, 16, 16, 24), 4, 4, coarse)
    for height, width in ((1, 1), (45, 70), (64, 33)):
        maps = [
            torch.randn(1, dim, -(-height // s), -(-width // s))
            for dim, s in zip((8, 16, 16, 24), (4, 8, 16, 32), strict=True)
        ]
        levels = pyramid(maps)
        assert len(levels) == len(pyramid.strides) == (5 if coarse == "pool" else 6)
        for y, stride in zip(levels, pyramid.strides, strict=True):
            assert y.shape == (1, 4, -(-height // stride), -(-width // stride))


def test_anchors_are_symmetric_under_flips():
    anchors = GridAnchors((4, 8), (2.0, 3.0), (0.5, 1.0, 2.0))
    for level, stride in zip(
        anchors([torch.zeros(1, 1, 6, 10), torch.zeros(1, 1, 3, 5)]), (4, 8), strict=True
    ):
        flipped = torch.stack((40 - level[:, 2], level[:, 1], 40 - level[:, 0], level[:, 3]), 1)
        rows, columns = 24 // stride, 40 // stride
        order = level.view(rows, columns, 6, 4).flip(1).reshape(-1, 4)
        assert torch.equal(order, flipped)
        areas = torchvision.ops.box_area(level).view(-1, 3, 2)
        torch.testing.assert_close(
            areas.mean((0, 1)).sqrt(), stride * torch.tensor([2.0, 3.0]), rtol=0.1, atol=0.0
        )


@pytest.mark.parametrize("detector", DETECTORS)
def test_mirrored_boxes_are_learned_alike(detector):
    """Maps of zeros give the same numbers everywhere, so losses tell the targets alone."""
    model = build({"optical": 3}, detector=detector)
    output = model(images(1, 64, 96, {"optical": 3}))
    maps = [torch.zeros_like(x) for x in output.maps]
    output = output._replace(maps=maps, dense=model.head(maps))
    labels = [torch.tensor([0, 2])]
    boxes = torch.tensor([[3.0, 5, 31, 20], [40, 17, 50, 60]])
    expected = model.losses(output, [boxes], labels)
    across, down = boxes[:, [2, 1, 0, 3]], boxes[:, [0, 3, 2, 1]]
    across, down = across * torch.tensor([-1, 1, -1, 1]), down * torch.tensor([1, -1, 1, -1])
    for mirrored in (across + torch.tensor([96, 0, 96, 0]), down + torch.tensor([0, 64, 0, 64])):
        losses = model.losses(output, [mirrored], labels)
        for name, value in losses.items():
            # Proposals of equal scores have no order of their own.
            if name.startswith("proposal") or detector != "faster_rcnn":
                torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("detector", DETECTORS)
def test_an_image_is_learned_by_heart(detector):
    torch.manual_seed(0)
    model = DetectionModel(
        RSVHeat(
            dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), img_size=SIZE, modalities={"optical": 3}
        ),
        2,
        detector=detector,
        channels=16,
        finest=4,
        **({"proposals": 60} if detector == "faster_rcnn" else {}),
    )
    assert learn(model, 180, 1e-2, oriented=False) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "num_classes must be at least 1, got 0"),
        ({"detector": "yolo"}, "detector must be one of faster_rcnn, retinanet, fcos, got 'yolo'"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"finest": 2}, r"finest must be one of \(4, 8\), got 2"),
        ({"score_threshold": 1.5}, "score_threshold must be within 0 to 1, got 1.5"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
        ({"proposals": 0}, "proposals must be at least 1, got 0"),
        ({"fusion": "sum"}, "fusion must be one of"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
