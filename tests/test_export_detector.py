# SPDX-License-Identifier: Apache-2.0
"""Exported detectors are run by onnxruntime and finished with NumPy, as their users do."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from rsvheat.data import DOTA, Crop, DataModule
from rsvheat.data.sample import collate
from rsvheat.export import export_detector
from rsvheat.models import RSVHeat
from rsvheat.postprocess import PostProcessing

pytest.importorskip("torchvision")

from rsvheat.models.detection import DetectionModel
from rsvheat.models.oriented_detection import OrientedDetectionModel

ONE, TWO = {"optical": 3}, {"optical": 3, "sar": 1}
CLASSES = ("car", "A/B", "café")


def build(detector, modalities=ONE, classes=3, **options):
    torch.manual_seed(0)
    oriented = detector in ("rotated_fcos", "oriented_rcnn")
    encoder = RSVHeat(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), img_size=32, modalities=modalities)
    kind = OrientedDetectionModel if oriented else DetectionModel
    options = {"channels": 8, "score_threshold": 0.0, **options}
    model = kind(encoder, classes, detector=detector, **options).eval()
    # Scores and boxes that differ by image and anchor. A second stage magnifies rounding errors.
    noise = 0.02 if "rcnn" in detector else 0.2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def same_boxes(found, expected):
    """Check that two results are the same, but for the order of boxes with equal scores."""
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) == len(other["boxes"]) > 5
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=0, atol=1e-5)
        # Boxes whose scores differ by less than that have no order.
        (boxes, labels), (others, other_labels) = (
            [np.asarray(x[name]) for name in ("boxes", "labels")] for x in (one, other)
        )
        if boxes.shape[1] == 4:
            assert (boxes[:, 2:] - boxes[:, :2] >= 0.01).all()
        apart = np.abs(boxes[:, None] - others).max(2)
        apart[labels[:, None] != other_labels] = np.inf
        assert sorted(apart.argmin(1)) == list(range(len(boxes)))
        assert apart.min(1).max() < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "modalities", "options"),
    [
        ("retinanet", ONE, {}),
        ("fcos", ONE, {}),
        ("rotated_fcos", TWO, {}),
        # More proposals than are left after suppression, and fewer.
        ("faster_rcnn", ONE, {}),
        ("faster_rcnn", TWO, {"proposals": 12}),
        ("oriented_rcnn", ONE, {}),
        ("oriented_rcnn", TWO, {"proposals": 12}),
    ],
)
def test_onnxruntime_and_numpy_find_the_boxes_of_the_model(detector, modalities, options, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(detector, modalities, **options)
    exported = export_detector(model, tmp_path / "detector.onnx", CLASSES, (32, 48))
    assert 0 < exported.error < (1e-4 if "rcnn" in detector else 1e-5)
    names = ["images"] if len(modalities) == 1 else list(modalities)
    assert exported.inputs == {
        name: ("batch", bands, 32, 48)
        for name, bands in zip(names, modalities.values(), strict=True)
    }
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    finish = PostProcessing.of(session)
    assert finish.classes == CLASSES
    assert finish.score_threshold == 0
    images = {name: torch.randn(3, bands, 32, 48) for name, bands in modalities.items()}
    inputs = {name: x.numpy() for name, x in zip(names, images.values(), strict=True)}
    with torch.no_grad():
        expected = model.predict(images)
    same_boxes(finish(*session.run(["boxes", "scores"], inputs)), expected)
    for x in inputs.values():
        x[1, 0, 3, 4] = np.nan
    broken = finish(*session.run(["boxes", "scores"], inputs))
    assert np.isnan(broken[1]["scores"]).all()
    same_boxes([broken[0], broken[2]], [expected[0], expected[2]])


@pytest.mark.parametrize(
    "detector", ["retinanet", "fcos", "rotated_fcos", "faster_rcnn", "oriented_rcnn"]
)
def test_candidates_and_numpy_give_the_boxes_of_the_model(detector):
    """What is written as ONNX, in torch: every detector, and proposals of several images."""
    model = build(detector)
    images = {"optical": torch.randn(2, 3, 40, 56)}
    with torch.no_grad():
        output = model(images)
        selection = model.head.selection([len(x) for x in model.head.anchors(output.maps)])
        finish = PostProcessing(CLASSES, model.numbers == 5, **asdict(selection))
        boxes, scores = model.head.candidates(output)
        assert scores.shape == (2, sum(selection.levels), 3)
        same_boxes(finish(boxes.numpy(), scores.numpy()), model.detect(output))


REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster_rcnn", "oriented_rcnn"])
def test_detectors_of_real_images_are_those_of_the_model(detector, tmp_path):
    """A few steps of training, so that scores and boxes are those of a detector."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = REAL / "det_dota"
    if not folder.exists():
        pytest.skip(f"there are no real images at {folder}")
    oriented = detector == "oriented_rcnn"
    data = DataModule(
        DOTA(str(folder), oriented=oriented), crop=Crop(128, 256, augment=False), overlap=0
    )
    data.setup()
    tiles = data.datasets["train_plain"]
    samples = sorted((tiles[i] for i in range(len(tiles))), key=lambda x: -len(x["boxes"]))[:4]
    batch = collate(samples)
    model = build(detector, classes=len(data.spec.classes), score_threshold=0.05, channels=16)
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        losses = model.losses(model(batch["images"]), batch["boxes"], batch["labels"])
        sum(losses.values()).backward()
        optimizer.step()
    path = tmp_path / "detector.onnx"
    exported = export_detector(model.eval(), path, data.spec.classes, 128)
    assert 0 < exported.error < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = batch["images"]["optical"]
    found = PostProcessing.of(session)(*session.run(None, {"images": images.numpy()}))
    with torch.no_grad():
        same_boxes(found, model.predict({"optical": images}))


def test_what_cannot_be_exported_is_named(tmp_path):
    pytest.importorskip("onnxscript")
    model = build("fcos")
    with pytest.raises(ValueError, match="classes must be the names of 3 classes, got 1"):
        export_detector(model, tmp_path / "x.onnx", ["car"], 32)
    with pytest.raises(TypeError, match="must be a detector with an RSVHeat encoder, got RSVHeat"):
        export_detector(model.encoder, tmp_path / "x.onnx", CLASSES, 32)
    with pytest.raises(TypeError, match=r"must be in float32 for ONNX, got torch\.float64"):
        export_detector(model.double(), tmp_path / "x.onnx", CLASSES, 32)
    assert list(tmp_path.iterdir()) == []
