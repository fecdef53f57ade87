# SPDX-License-Identifier: Apache-2.0
"""Exported detectors are run by onnxruntime and finished with NumPy, as their users do."""

import numpy as np
import pytest
import torch

from rsvheat.export import export_detector
from rsvheat.models import RSVHeat
from rsvheat.postprocess import PostProcessing

pytest.importorskip("torchvision")

from rsvheat.models.detection import DetectionModel
from rsvheat.models.oriented_detection import OrientedDetectionModel

ONE, TWO = {"optical": 3}, {"optical": 3, "sar": 1}
CLASSES = ("car", "A/B", "café")


def build(detector, modalities=ONE):
    torch.manual_seed(0)
    oriented = detector in ("rotated_fcos", "oriented_rcnn")
    encoder = RSVHeat(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), img_size=32, modalities=modalities)
    kind = OrientedDetectionModel if oriented else DetectionModel
    model = kind(encoder, 3, detector=detector, channels=8, score_threshold=0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # scores and boxes that differ by image and anchor
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "modalities"), [("retinanet", ONE), ("fcos", ONE), ("rotated_fcos", TWO)]
)
def test_onnxruntime_and_numpy_find_the_boxes_of_the_model(detector, modalities, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(detector, modalities)
    exported = export_detector(model, tmp_path / "detector.onnx", CLASSES, (32, 48))
    assert 0 < exported.error < 1e-5
    names = ["images"] if len(modalities) == 1 else list(modalities)
    assert exported.inputs == {
        name: ("batch", bands, 32, 48)
        for name, bands in zip(names, modalities.values(), strict=True)
    }
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    finish = PostProcessing.of(session)
    assert finish.classes == CLASSES
    assert finish.nms_threshold == model.head.nms_threshold
    images = {name: torch.randn(3, bands, 32, 48) for name, bands in modalities.items()}
    inputs = {name: x.numpy() for name, x in zip(names, images.values(), strict=True)}
    found = finish(*session.run(["boxes", "scores"], inputs))
    with torch.no_grad():
        expected = model.predict(images)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) == len(other["boxes"]) > 5
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-6)
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


def test_what_cannot_be_exported_is_named(tmp_path):
    pytest.importorskip("onnxscript")
    for detector in ("faster_rcnn", "oriented_rcnn"):
        with pytest.raises(ValueError, match=f"{detector} has two stages"):
            export_detector(build(detector), tmp_path / "x.onnx", CLASSES, 32)
    model = build("fcos")
    with pytest.raises(ValueError, match="classes must be the names of 3 classes, got 1"):
        export_detector(model, tmp_path / "x.onnx", ["car"], 32)
    with pytest.raises(TypeError, match="must be a detector with an RSVHeat encoder, got RSVHeat"):
        export_detector(model.encoder, tmp_path / "x.onnx", CLASSES, 32)
    with pytest.raises(TypeError, match=r"must be in float32 for ONNX, got torch\.float64"):
        export_detector(model.double(), tmp_path / "x.onnx", CLASSES, 32)
    assert list(tmp_path.iterdir()) == []
