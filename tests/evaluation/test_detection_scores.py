# SPDX-License-Identifier: Apache-2.0
import csv
import json
import math

import numpy as np
import pytest
import torch
from box_judges import coco_ap, overlaps_by_class, plain_ap
from torchvision import tv_tensors

from rsvheat.evaluation.box_matching import ERRORS
from rsvheat.evaluation.detection_scores import DetectionMetric, DetectionScores

CLASSES = ("car", "plane", "ship", "bridge")


def random_images(oriented, images=12, seed=0, difficult=False, ties=False):
    """Return predictions, some near true boxes and some of another class, and the truth.

    The last class has no true boxes; some images have none at all, some no prediction.
    """
    g = torch.Generator().manual_seed(seed)

    def boxes(n):
        sides = torch.rand(n, 2, generator=g) * 50 + 10
        center = torch.rand(n, 2, generator=g) * 250
        angle = torch.rand(n, 1, generator=g) * 360 - 180
        return torch.cat((center, sides, angle), 1).double()

    def form(some):
        if oriented:
            return some
        return torch.cat((some[:, :2] - some[:, 2:4] / 2, some[:, :2] + some[:, 2:4] / 2), 1)

    predictions, truth, labels, hard = [], [], [], []
    for i in range(images):
        n = 0 if i == 3 else int(torch.randint(1, 20, (), generator=g))
        true, classes = boxes(n), torch.randint(3, (n,), generator=g)
        near = [true + torch.randn(n, 5, generator=g) * 2 for _ in range(2)]
        found = torch.cat((*near, boxes(15)))
        found[:, 2:4].clamp_(min=1)
        guess = torch.cat((classes, classes, torch.randint(4, (15,), generator=g)))
        other = torch.rand(len(guess), generator=g) < 0.2
        guess[other] = torch.randint(4, (int(other.sum()),), generator=g)
        scores = torch.rand(len(guess), generator=g)
        if ties:
            scores = (scores * 10).round() / 10
        keep = torch.rand(len(guess), generator=g) < (0 if i == 5 else 0.7)
        predictions.append(
            {"boxes": form(found)[keep], "scores": scores[keep], "labels": guess[keep]}
        )
        truth.append(form(true))
        labels.append(classes)
        hard.append(torch.rand(n, generator=g) < (0.3 if difficult else 0))
    return predictions, truth, labels, hard


def score(data, oriented, limit=100):
    metric = DetectionMetric(len(CLASSES), oriented, limit)
    for one in zip(*data, strict=True):
        metric.update(*([part] for part in one))
    return DetectionScores.of(metric, CLASSES)


# ---- Horizontal boxes, judged by pycocotools -----------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "limit", "ties"),
    [(0, 100, False), (1, 100, False), (2, 3, False), (3, 100, True), (4, 3, True)],
)
def test_horizontal_scores_are_those_of_pycocotools(seed, limit, ties, capsys):
    data = random_images(oriented=False, seed=seed, ties=ties)
    scores = score(data, oriented=False, limit=limit)
    expected = coco_ap(data, CLASSES, limit)
    assert (expected[:, 3] == -1).all()
    assert 0.1 < expected[0, :3].mean() < 0.9
    for name, rows in (("map50", [0]), ("map75", [5]), ("map50_95", range(10))):
        np.testing.assert_allclose(scores.ap[name][:3], expected[rows, :3].mean(0), atol=1e-12)
        assert math.isnan(scores.ap[name][3])
        assert scores[name] == pytest.approx(expected[rows, :3].mean(), abs=1e-12)
        assert scores.measures()[name].classes == 3


# ---- Oriented boxes and VOC, judged by a plain version with shapely ------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_oriented_scores_are_those_of_a_plain_version(seed):
    data = random_images(oriented=True, seed=seed, difficult=True)
    scores = score(data, oriented=True)
    assert sum(scores.difficult) > 5
    pairs = overlaps_by_class(data, CLASSES, oriented=True)
    for kind, points in (("voc07", 11), ("area", 0)):
        expected = np.array(
            [[plain_ap(*one, t, points) for one in pairs] for t in np.linspace(0.5, 0.95, 10)]
        )
        assert 0.05 < expected[0, :3].mean() < 0.9
        for name, rows in (("map50", [0]), ("map75", [5]), ("map50_95", range(10))):
            ours = scores.ap[f"{name}_{kind}"]
            np.testing.assert_allclose(ours, expected[rows].mean(0), atol=1e-9)
            assert scores[f"{name}_{kind}"] == pytest.approx(np.nanmean(ours))


def test_voc07_of_horizontal_boxes_is_that_of_a_plain_version():
    data = random_images(oriented=False, seed=5, difficult=True)
    expected = [plain_ap(*one, 0.5, 11) for one in overlaps_by_class(data, CLASSES, oriented=False)]
    np.testing.assert_allclose(score(data, False).ap["map50_voc07"], expected, atol=1e-9)


def test_boxes_on_difficult_ones_do_not_count():
    box, far = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[50.0, 50, 60, 60]])
    found = {
        "boxes": torch.cat((far, far, box)),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 0, 0]),
    }
    truth = ([torch.cat((box, far))], [torch.tensor([0, 0])])
    metric = DetectionMetric(1, oriented=False)
    metric.update([found], *truth, [torch.tensor([False, True])])
    scores = DetectionScores.of(metric, ["car"])
    assert scores["map50"] == scores["map50_voc07"] == pytest.approx(1)
    assert (scores.truths, scores.difficult) == ((1,), (1,))
    assert all(sum(counts) == 0 for counts in scores.errors.values())
    metric.reset()
    metric.update([found], *truth)
    assert DetectionScores.of(metric, ["car"])["map50"] < 1


# ---- Types of errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("oriented", [False, True])
def test_errors_of_each_type_are_told_apart(oriented):
    """One object a type, 100 pixels apart; boxes are moved along x by a share of their width."""

    def boxes(places):
        rows = [[100 * i + 20 * shift, 0, 100 * i + 20 * shift + 20, 20] for i, shift in places]
        rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
        if not oriented:
            return rows
        center, sides = (rows[:, :2] + rows[:, 2:]) / 2, rows[:, 2:] - rows[:, :2]
        return torch.cat((center, sides, torch.zeros(len(rows), 1)), 1)

    truth = boxes([(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)])
    cases = [
        ((0, 0.0), 0, 0.9, "right"),
        ((0, 0.1), 0, 0.8, "duplicate"),
        ((1, 0.1), 1, 0.7, "classification"),
        ((2, 0.5), 0, 0.6, "localization"),  # IoU 1/3
        ((3, 0.5), 1, 0.5, "both"),
        ((4, 0.95), 0, 0.4, "background"),  # IoU 0.026
        ((2, 0.6), 0, 0.3, "localization"),  # finds the same object as one above
    ]
    found = {
        "boxes": boxes([case[0] for case in cases]),
        "labels": torch.tensor([case[1] for case in cases]),
        "scores": torch.tensor([case[2] for case in cases]),
    }
    metric = DetectionMetric(2, oriented)
    metric.update([found], [truth], [torch.zeros(6, dtype=torch.int64)])
    state = metric.compute()
    numbers = [0 if name == "right" else 1 + ERRORS.index(name) for *_, name in cases]
    assert state["outcomes"][:, -1].tolist() == numbers
    assert state["rows"][:, 2].tolist() == [-1, -1, 0, 0, -1, -1, -1]
    scores = DetectionScores.of(metric, ["car", "plane"])
    assert scores.errors == {
        "classification": (0, 1),
        "localization": (2, 0),
        "both": (0, 1),
        "duplicate": (1, 0),
        "background": (1, 0),
        "missed": (3, 0),
    }
    # Of six objects the first box finds one, so recall is 1/6 at a precision of 1. Corrections add
    # a second one in the third place, or leave three objects. The class plane does not occur.
    gains = {"classification": 2 / 3, "localization": 2 / 3, "missed": 1}
    more = 2 / 11 if oriented else 17 / 101
    for name, gain in scores.gains.items():
        assert gain == pytest.approx(more * gains.get(name, 0)), name


def test_errors_near_difficult_boxes_are_of_the_background():
    box = torch.tensor([[0.0, 0, 10, 10]])
    metric = DetectionMetric(2, oriented=False)
    found = {"boxes": box, "scores": torch.ones(1), "labels": torch.tensor([1])}
    metric.update([found], [box], [torch.tensor([0])], [torch.tensor([True])])
    assert metric.compute()["outcomes"][0, -1] == 1 + ERRORS.index("background")


# ---- The metric ----------------------------------------------------------------------------------


@pytest.mark.parametrize("oriented", [False, True])
def test_batches_of_any_size_are_the_same(oriented):
    data = random_images(oriented, seed=7)
    metric = DetectionMetric(len(CLASSES), oriented)
    metric.update(*data)
    together, one_by_one = DetectionScores.of(metric, CLASSES), score(data, oriented)
    assert json.dumps(together.to_dict()) == json.dumps(one_by_one.to_dict())
    metric.reset()
    metric.update([], [], [])
    assert metric.compute()["images"] == 0


def test_perfect_boxes_have_a_score_of_one_and_no_errors():
    for oriented in (False, True):
        _, truth, labels, _ = random_images(oriented)
        found = [
            {"boxes": b, "labels": one, "scores": torch.linspace(0.1, 1, len(b))}
            for b, one in zip(truth, labels, strict=True)
        ]
        metric = DetectionMetric(len(CLASSES), oriented)
        metric.update(found, truth, labels)
        scores = DetectionScores.of(metric, CLASSES)
        assert all(m.value == pytest.approx(1) for m in scores.measures().values())
        assert scores.best_f1[0][0] == 1
        assert all(sum(counts) == 0 for counts in scores.errors.values())
        assert all(gain == 0 for gain in scores.gains.values())


@pytest.mark.parametrize("oriented", [False, True])
def test_scores_of_nothing_are_not_defined(oriented, tmp_path):
    columns = 5 if oriented else 4
    none = {
        "boxes": torch.zeros(0, columns),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    metric = DetectionMetric(2, oriented)
    metric.update([none], [torch.zeros(0, columns)], [torch.zeros(0, dtype=torch.int64)])
    scores = DetectionScores.of(metric, ["a", "b"])
    assert all(math.isnan(measure.value) for measure in scores.measures().values())
    assert set(scores.logged().values()) == {0.0}
    content = json.loads(scores.save(tmp_path)[0].read_text())
    assert content["images"] == 1
    assert content["classes_in_mean"] == 0
    assert content["errors"]["missed"] == {"number": 0, "gain": None}


def test_one_box_and_nothing_found_are_scored():
    """torchmetrics takes the dimension of tensors of one value away."""
    box = torch.tensor([[0.0, 0, 10, 10]])
    metric = DetectionMetric(1, oriented=False)
    found = {"boxes": box, "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64)}
    metric.update([found], [box], [torch.tensor([0])])
    assert DetectionScores.of(metric, ["car"])["map50"] == pytest.approx(1)
    metric.reset()
    metric.update([{name: part[:0] for name, part in found.items()}], [box], [torch.tensor([0])])
    scores = DetectionScores.of(metric, ["car"])
    assert scores["map50"] == 0
    assert scores.errors["missed"] == (1,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 1]]}, r"predicted boxes must have shape \(N, 4\), XYXY"),
        ({"boxes": [[0, 0, math.nan, 1]]}, "predicted boxes must be finite"),
        ({"boxes": [[0, 0, -1, 1]]}, "with sides of 0 or more"),
        ({"scores": [math.nan]}, "scores must be finite"),
        ({"scores": [1.0, 2.0]}, r"scores must be finite and of shape \(1,\)"),
        ({"labels": [2]}, "predicted labels must be 0 to 1, got 2 to 2"),
        ({"labels": [0, 1]}, r"predicted labels must have shape \(1,\)"),
    ],
)
def test_wrong_predictions_are_named(change, message):
    found = {"boxes": [[0.0, 0, 1, 1]], "scores": [0.5], "labels": [0]}
    found = {name: torch.tensor(value) for name, value in {**found, **change}.items()}
    metric = DetectionMetric(2, oriented=False)
    with pytest.raises(ValueError, match=message):
        metric.update([found], [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])


def test_wrong_truth_is_named():
    metric = DetectionMetric(2, oriented=True)
    none = {
        "boxes": torch.zeros(0, 5),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    label = torch.tensor([0])
    other = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYWH", canvas_size=(9, 9))
    with pytest.raises(ValueError, match="boxes must be in the format CXCYWHR, got XYWH"):
        metric.update([none], [other], [label])
    with pytest.raises(ValueError, match="of the same images, got 1, 2, 1, 1"):
        metric.update([none], [torch.zeros(1, 5)] * 2, [label])
    with pytest.raises(ValueError, match=r"difficult must have shape \(1,\), got \(2,\)"):
        metric.update([none], [torch.zeros(1, 5)], [label], [torch.zeros(2)])
    with pytest.raises(ValueError, match="boxes are of 2 classes"):
        DetectionScores.of(metric, ["car"])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        DetectionMetric(0, oriented=True)


# ---- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("oriented", [False, True])
def test_files_hold_the_scores(oriented, tmp_path):
    scores = score(random_images(oriented, difficult=True), oriented)
    files = scores.save(tmp_path, "detection", {"checkpoint": "best.ckpt"})
    names = ["detection.json", "detection.csv", "detection.png", "detection_errors.png"]
    assert [file.name for file in files] == names
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    content = json.loads(files[0].read_text())
    assert content["checkpoint"] == "best.ckpt"
    for name, measure in scores.measures().items():
        assert content[name] == measure.value
        assert content["definitions"][name] == measure.definition
        assert "over 3 of 4 classes, those that occur (bridge does not)" in measure.definition
        assert ("rotated IoU" in measure.definition) == oriented
    assert content["classes_in_mean"] == 3
    with files[1].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    main = "ap50_voc07" if oriented else "ap50"
    assert float(rows[0][main]) == scores.ap["m" + main][0]
    assert rows[3][main] == ""
    assert int(rows[1]["missed"]) == scores.errors["missed"][1]


def test_the_line_names_the_definitions():
    horizontal, oriented = (str(score(random_images(o), o)) for o in (False, True))
    assert horizontal.startswith("mAP50 0.")
    assert "mAP50:95 0." in horizontal
    assert "mAP50 (VOC07) 0." in oriented
    assert "mAP50:95 (area) 0." in oriented
    assert oriented.endswith("over 3 of 4 classes")
