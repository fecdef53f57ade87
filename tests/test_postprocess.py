# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from rsvheat import ops, postprocess
from rsvheat.postprocess import METADATA, PostProcessing, nms


def random_boxes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([200.0, 200, 60, 60, 720], dtype=torch.float64)
    low = torch.tensor([0.0, 0, 1, 1, -360], dtype=torch.float64)
    return torch.rand(n, 5, generator=g, dtype=torch.float64) * scale + low


def families():
    """Return pairs of boxes, of which some are equal, nearly so, or share an edge or corner."""
    a = random_boxes(200)
    turned, quarter, half, beside, corner, empty = (a.clone() for _ in range(6))
    turned[:, 4] += 180
    quarter[:, 2:4], quarter[:, 4] = a[:, [3, 2]], a[:, 4] + 90
    half[:, 2] /= 2
    cos, sin = a[:, 4].deg2rad().cos(), a[:, 4].deg2rad().sin()
    beside[:, 0], beside[:, 1] = a[:, 0] + a[:, 2] * cos, a[:, 1] - a[:, 2] * sin
    corner[:, 0] = beside[:, 0] + a[:, 3] * sin
    corner[:, 1] = beside[:, 1] + a[:, 3] * cos
    empty[:, 2] = 0
    pairs = {
        "random": random_boxes(200, 1),
        "equal": a,
        "half a turn": turned,
        "quarter turn": quarter,
        "half the width": half,
        "edge in common": beside,
        "corner in common": corner,
        "no width": empty,
    }
    for size in (1e-3, 1e-6, 1e-9):
        pairs[f"jitter {size:g}"] = a + size * (random_boxes(200, 2) / 200)
    return {name: (a, b) for name, b in pairs.items()}


@pytest.mark.parametrize("family", families())
def test_overlaps_are_those_of_the_operator(family):
    a, b = families()[family]
    expected = ops.box_iou_rotated(a, b).numpy()
    found = postprocess.box_iou_rotated(a, b)
    np.testing.assert_allclose(found, expected, atol=1e-11)
    assert expected.max() > (0.01 if family != "no width" else -1)


def test_boxes_without_an_area_overlap_nothing():
    empty = [[5.0, 5, 0, 3, 30]]
    assert postprocess.box_iou_rotated(empty, empty) == 0


@pytest.mark.parametrize("oriented", [False, True])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_suppression_is_that_of_the_operator(oriented, threshold):
    boxes = random_boxes(400, 3)
    if not oriented:
        boxes = ops.boxes_to_bounds(boxes)
    scores, labels = (torch.arange(400) % 37) / 40, torch.arange(400) % 3
    suppress = ops.batched_nms_rotated if oriented else batched_nms
    expected = suppress(boxes, scores.double(), labels, threshold)
    assert 20 < len(expected) < 380
    found = nms(boxes, scores, labels, threshold)
    assert np.array_equal(scores[found], scores[expected])
    assert set(found.tolist()) == set(expected.tolist())
    if oriented:  # the other is not stable
        assert np.array_equal(found, expected)


def test_nothing_is_suppressed_among_no_boxes():
    assert nms(np.zeros((0, 5)), np.zeros(0), np.zeros(0), 0.5).tolist() == []


def settings(**changes):
    values = {
        "classes": ("car", "plane"),
        "oriented": True,
        "levels": (30, 10),
        "candidates": 15,
        "score_threshold": 0.3,
        "nms_threshold": 0.1,
        "max_detections": 8,
    }
    return PostProcessing(**{**values, **changes})


def chosen_by_torch(boxes, scores, given):
    """Return what the heads of detectors choose, in torch."""
    parts = []
    begin = 0
    for count in given.levels:
        values = scores[begin : begin + count].flatten()
        best, places = values.topk(min(given.candidates, len(values)))
        places = places[best > given.score_threshold]
        parts.append(begin * len(given.classes) + places)
        begin += count
    places = torch.cat(parts)
    rows, labels = places.div(len(given.classes), rounding_mode="floor"), places % 2
    values = scores.flatten()[places]
    if given.oriented:
        kept = ops.batched_nms_rotated(boxes[rows], values, labels, given.nms_threshold)
    else:
        kept = batched_nms(boxes[rows], values, labels, given.nms_threshold)
    kept = kept[: given.max_detections]
    return boxes[rows][kept], values[kept], labels[kept]


@pytest.mark.parametrize("oriented", [False, True])
@pytest.mark.parametrize("most", [8, 100])
def test_boxes_are_those_chosen_in_torch(oriented, most):
    given = settings(oriented=oriented, max_detections=most)
    boxes = torch.stack([random_boxes(40, seed) for seed in (0, 1)])
    if not oriented:
        boxes = ops.boxes_to_bounds(boxes)
    scores = torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(0)).double()
    found = given(boxes.numpy(), scores.numpy())
    for one, *expected in zip(found, boxes, scores, strict=True):
        expected = chosen_by_torch(*expected, given)
        assert len(one["boxes"]) == len(expected[0]) > 5
        assert len(one["boxes"]) <= most
        for part, other in zip(one.values(), expected, strict=True):
            assert np.array_equal(part, other)


def test_values_that_are_not_finite_do_not_pass_for_no_objects():
    scores = np.zeros((2, 40, 2))
    scores[1, 3, 1] = np.nan
    nothing, broken = settings()(np.zeros((2, 40, 5)), scores)
    assert len(nothing["boxes"]) == 0
    assert np.isnan(broken["boxes"]).all()
    assert np.isnan(broken["scores"]).all()
    assert broken["boxes"].shape == (1, 5)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"boxes must have shape \(B, 40, 5\), got \(1, 40, 4\)"):
        settings()(np.zeros((1, 40, 4)), np.zeros((1, 40, 2)))
    with pytest.raises(ValueError, match=r"scores must have shape \(1, 40, 2\), got \(1, 40, 3\)"):
        settings()(np.zeros((1, 40, 5)), np.zeros((1, 40, 3)))


def test_settings_travel_in_the_metadata_of_a_file():
    given = settings(classes=("A/B", "café"))

    def session(**metadata):
        return SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=metadata))

    assert PostProcessing.of(session(**{METADATA: given.to_json()})) == given
    with pytest.raises(ValueError, match=r"no entry 'rsvheat\.postprocess'"):
        PostProcessing.of(session())


def test_it_needs_no_torch():
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'typing_extensions'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from rsvheat.postprocess import nms\n"
        "assert len(nms([[5, 5, 4, 2, 0], [5, 5, 4, 2, 180]], [1, 2], [0, 0], 0.5)) == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_two_judges_agree():
    a = ops.boxes_to_bounds(random_boxes(30))
    upright = torch.cat(((a[:, :2] + a[:, 2:]) / 2, a[:, 2:] - a[:, :2], torch.zeros(30, 1)), 1)
    found = postprocess.box_iou_rotated(upright, upright)
    np.testing.assert_allclose(found, box_iou(a, a).numpy(), atol=1e-12)
