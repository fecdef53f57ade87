# SPDX-License-Identifier: Apache-2.0
import copy
import json

import pytest
import torch

pytest.importorskip("torchvision")

from box_scenes import learn

from rsvheat.models import RSVHeat, create_model, rotated_fcos
from rsvheat.models.oriented_detection import OrientedDetectionModel
from rsvheat.models.task_model import TASK_MODELS
from rsvheat.ops import boxes_to_corners

SENSORS = {"optical": 3, "sar": 1}
DETECTORS = ("oriented_rcnn", "rotated_fcos")
LOSSES = ("smooth_l1", "iou", "kld", "probiou")
NOTHING = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
SOME = torch.tensor([[16.0, 16, 24, 20, 30], [15, 27, 10, 34, 90], [50, 20, 20, 20, -45]])


def build(modalities=SENSORS, classes=3, dims=(8, 16, 16, 24), **options):
    encoder = RSVHeat(dims=dims, depths=(1, 1, 1, 1), img_size=32, modalities=modalities)
    if options.get("detector") != "rotated_fcos":
        options = {"proposals": 100, **options}
    return OrientedDetectionModel(encoder, classes, **{"channels": 16, **options})


def images(count=2, height=45, width=70, modalities=SENSORS):
    return {name: torch.randn(count, bands, height, width) for name, bands in modalities.items()}


def test_the_task_is_registered():
    assert TASK_MODELS["oriented_detection"] is OrientedDetectionModel
    assert OrientedDetectionModel.output == "oriented_boxes"
    model = create_model("rsvheat_nano", task="oriented_detection", classes=["a"], channels=8)
    assert isinstance(model, OrientedDetectionModel)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (5, 130)])
def test_images_of_any_size_give_oriented_boxes(detector, size):
    model = build(detector=detector, score_threshold=0.0, max_detections=7).eval()
    found = model.predict(images(2, *size))
    assert len(found) == 2
    for one in found:
        count = len(one["scores"])
        assert 0 < count <= 7
        assert one["boxes"].shape == (count, 5)
        assert one["labels"].shape == (count,)
        assert one["labels"].dtype == torch.int64
        assert ((one["scores"] >= 0) & (one["scores"] <= 1)).all()
        assert (one["scores"].diff() <= 0).all()
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        assert (one["boxes"][:, 2:4] > 0).all()


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("box_loss", LOSSES)
@pytest.mark.parametrize("empty", [False, True])
def test_every_parameter_gets_a_gradient(detector, box_loss, empty):
    targets = [NOTHING if empty else (SOME, torch.tensor([0, 2, 1])), NOTHING]
    for names in (["optical"], list(SENSORS)):
        model = build(detector=detector, box_loss=box_loss)
        full = images()
        output = model({name: full[name] for name in names})
        losses = model.losses(output, *zip(*targets, strict=True))
        assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        if not empty:
            assert all(loss > 0 for loss in losses.values())
            for name, part in (
                ("encoder", model.encoder),
                ("pyramid", model.pyramid),
                ("head", model.head),
            ):
                largest = max(p.grad.abs().max() for p in part.parameters())
                assert largest > 0, name


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("box_loss", LOSSES)
def test_losses_do_not_depend_on_how_a_rectangle_is_written(detector, box_loss):
    """Half a turn, and a quarter with the sides exchanged, give the same rectangle."""
    model = build({"optical": 3}, detector=detector, box_loss=box_loss)
    output = model(images(1, modalities={"optical": 3}))
    labels = [torch.tensor([0, 2, 1])]
    # A square has no longer side: where the angle itself is learned, the ways differ.
    some = SOME + torch.tensor([[0.0] * 5, [0.0] * 5, [0, 0, 2, 0, 0]])
    expected = None
    for quarters in (0, 1, 2, -1):
        sides = [0, 1, 3, 2, 4] if quarters % 2 else [0, 1, 2, 3, 4]
        boxes = some[:, sides] + torch.tensor([0, 0, 0, 0, 90.0 * quarters])
        torch.manual_seed(0)
        losses = model.losses(output, [boxes], labels)
        expected = expected or losses
        for name, value in losses.items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_mirrored_boxes_are_learned_alike(detector):
    """Maps of zeros give the same numbers everywhere, so losses tell the targets alone."""
    model = build({"optical": 3}, detector=detector)
    output = model(images(1, 64, 96, {"optical": 3}))
    maps = [torch.zeros_like(x) for x in output.maps]
    output = output._replace(maps=maps, dense=model.head(maps))
    labels = [torch.tensor([0, 2, 1])]
    expected = model.losses(output, [SOME], labels)
    x, y, w, h, angle = SOME.unbind(1)
    for flipped in (
        torch.stack((96 - x, y, w, h, -angle), 1),
        torch.stack((x, 64 - y, w, h, -angle), 1),
    ):
        losses = model.losses(output, [flipped], labels)
        names = ("classes", "centerness") if detector == "rotated_fcos" else ("proposal_scores",)
        for name in names:
            torch.testing.assert_close(losses[name], expected[name])


def test_points_belong_to_the_smallest_box_around_them(monkeypatch):
    """Against a loop over points and boxes."""
    monkeypatch.setattr(rotated_fcos, "_CHUNK", 7)
    torch.manual_seed(0)
    boxes = torch.rand(30, 5) * torch.tensor([96, 96, 60, 30, 360.0]) + torch.tensor(
        [0, 0, 2, 2, 0]
    )
    rows = []
    for stride, low, high in ((8, 0.0, 32.0), (16, 32.0, torch.inf)):
        for y in range(stride // 2, 96, stride):
            rows += [[x, y, stride, low, high] for x in range(stride // 2, 96, stride)]
    table = torch.tensor(rows, dtype=torch.float32)
    found = rotated_fcos._assign(table[:, :2], table[:, 2], table[:, 3], table[:, 4], boxes)
    corners = boxes_to_corners(boxes)
    for (x, y, stride, low, high), number in zip(table.tolist(), found.tolist(), strict=True):
        best, area = -1, torch.inf
        for i, (box, shape) in enumerate(zip(boxes, corners, strict=True)):
            edges = shape.roll(-1, 0) - shape
            to = torch.tensor([x, y]) - shape
            # Distance to each edge, positive within.
            inner = (edges[:, 0] * to[:, 1] - edges[:, 1] * to[:, 0]) / edges.norm(dim=1)
            near = max(abs(float(inner[0] - inner[2])), abs(float(inner[1] - inner[3]))) / 2
            fits = float(inner.min()) > 0 and low < float(inner.max()) <= high
            if fits and near < 1.5 * stride and float(box[2] * box[3]) < area:
                best, area = i, float(box[2] * box[3])
        assert number == best
    assert (found >= 0).sum() > 20


@pytest.mark.parametrize("detector", DETECTORS)
def test_values_that_are_not_finite_are_not_silent(detector):
    model = build({"optical": 3}, detector=detector).eval()
    full = images(2, modalities={"optical": 3})
    full["optical"][1, 0, 3, 3] = torch.nan
    first, second = model.predict(full)
    assert first["boxes"].isfinite().all()
    assert second["scores"].isnan().all()
    assert second["boxes"].shape == (1, 5)
    if detector == "oriented_rcnn":
        with torch.no_grad():
            model.head.boxes.bias[0] = torch.nan
        full = images(2, modalities={"optical": 3})
        assert all(one["scores"].isnan().all() for one in model.predict(full))


@pytest.mark.parametrize("detector", DETECTORS)
def test_half_precision_keeps_coordinates(detector):
    model = build({"optical": 3}, detector=detector, score_threshold=0.0).eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(1, 520, 32, {"optical": 3}))
        found = model.detect(output)[0]
    assert all(value.dtype == torch.float32 for value in output.dense.values())
    assert (found["boxes"] - found["boxes"].bfloat16().float()).abs().max() > 0.5
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(output, [SOME], [torch.tensor([0, 1, 2])])
    assert all(loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_missing_sensor_of_some_samples(detector):
    model = build(detector=detector, score_threshold=0.0, max_detections=20).eval()
    full = images(3)
    both, optical = model.predict(full), model.predict({"optical": full["optical"]})
    index = {"optical": torch.arange(3), "sar": torch.tensor([1])}
    mixed = model.predict({"optical": full["optical"], "sar": full["sar"][[1]]}, index, 3)
    for one, expected in zip(mixed, (optical[0], both[1], optical[2]), strict=True):
        torch.testing.assert_close(one["scores"], expected["scores"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"detector": "oriented_rcnn", "finest": 8, "box_loss": "kld"},
        {"balanced": True},
        {"detector": "rotated_fcos", "finest": 4, "angle_coding": "direct", "max_detections": 9},
    ],
)
def test_the_configuration_builds_the_same_network(options):
    model = build(**options).eval()
    config = json.loads(json.dumps(model.config))
    again = OrientedDetectionModel.from_config(config)
    again.load_state_dict(model.state_dict())
    assert json.loads(json.dumps(again.config)) == config
    full = images()
    for one, other in zip(model.predict(full), again.eval().predict(full), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    copied = copy.deepcopy(model)
    assert torch.equal(copied.predict(full)[0]["boxes"], model.predict(full)[0]["boxes"])


@pytest.mark.parametrize("detector", DETECTORS)
def test_an_image_is_learned_by_heart(detector):
    torch.manual_seed(0)
    options = {"proposals": 60} if detector == "oriented_rcnn" else {}
    dims = (8, 16, 16, 16)
    model = build({"optical": 3}, 2, dims, detector=detector, finest=4, **options)
    assert learn(model, 150, 1e-2, oriented=True) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"box_loss": loss} for loss in LOSSES])
@pytest.mark.parametrize("detector", DETECTORS)
def test_an_image_is_learned_by_heart_with_any_loss(detector, options):
    torch.manual_seed(0)
    dims = (8, 16, 16, 16)
    model = build({"optical": 3}, 2, dims, detector=detector, finest=4, **options)
    assert learn(model, 150, 1e-2, oriented=True) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "num_classes must be at least 1, got 0"),
        ({"detector": "fcos"}, "detector must be one of oriented_rcnn, rotated_fcos, got 'fcos'"),
        ({"box_loss": "l2"}, "box_loss must be one of .*, got 'l2'"),
        ({"detector": "rotated_fcos", "angle_coding": "bins"}, "angle_coding must be one of"),
        ({"nms_threshold": -0.1}, r"nms_threshold must be within 0 to 1, got -0\.1"),
        ({"proposals": 0}, "proposals must be at least 1, got 0"),
        ({"detector": "rotated_fcos", "max_detections": 0}, "max_detections must be at least 1"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_horizontal_annotation_is_refused():
    model = build({"optical": 3})
    output = model(images(1, modalities={"optical": 3}))
    with pytest.raises(ValueError, match=r"shape \(N, 5\) .* got \(1, 4\)"):
        model.losses(output, [torch.zeros(1, 4)], [torch.zeros(1, dtype=torch.int64)])
