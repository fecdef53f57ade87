# SPDX-License-Identifier: Apache-2.0
import csv
import json
import math

import numpy as np
import pytest
import torch

from rsvheat.evaluation.confusion import ConfusionMatrix
from rsvheat.evaluation.segmentation_scores import SegmentationScores

CLASSES = ("land", "water", "road")


def random_maps(classes=5, size=(3, 20, 30), seed=0):
    """Return predictions of which half are right, and labels of which some are 255."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, size, generator=generator)
    other = torch.randint(classes, size, generator=generator)
    predicted = torch.where(torch.rand(size, generator=generator) < 0.5, labels, other)
    labels[torch.rand(size, generator=generator) < 0.1] = 255
    return predicted, labels


def by_hand(predicted, labels, number):
    counted = labels != 255
    p, t = (predicted == number) & counted, labels == number
    return int((p & t).sum()), int((p & ~t).sum()), int((t & ~p).sum())


def test_scores_are_those_counted_by_hand():
    # true:      land x4, water x3, road x1; one pixel does not count
    labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 255]])
    predicted = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 1, 2]])
    scores = SegmentationScores.score(predicted, labels, CLASSES)
    assert scores.confusion == ((3, 1, 0), (1, 2, 0), (0, 1, 0))
    assert scores.pixels == 8
    assert scores.support == (4, 3, 1)
    assert scores.iou == pytest.approx((3 / 5, 2 / 5, 0))
    assert scores.f1 == pytest.approx((6 / 8, 4 / 7, 0))
    assert scores.recall == pytest.approx((3 / 4, 2 / 3, 0))
    assert scores.precision[:2] == pytest.approx((3 / 4, 2 / 4))
    assert math.isnan(scores.precision[2])
    assert scores["overall_accuracy"] == pytest.approx(5 / 8)
    assert scores["mean_iou"] == pytest.approx((3 / 5 + 2 / 5) / 3)
    assert scores["mean_f1"] == pytest.approx((6 / 8 + 4 / 7) / 3)
    assert scores["mean_recall"] == pytest.approx((3 / 4 + 2 / 3) / 3)
    chance = (4 * 4 + 3 * 4 + 1 * 0) / 64
    assert scores["kappa"] == pytest.approx((5 / 8 - chance) / (1 - chance))


@pytest.mark.parametrize("present", [5, 4, 2])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(present, seed):
    """Also where some of the five classes occur in neither, or in the prediction only."""
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, labels = random_maps(present, seed=seed)
    if present == 4:
        labels[labels == 1] = 255
    scores = SegmentationScores.score(predicted, labels, tuple("abcde"))
    counted = labels != 255
    t, p = labels[counted].numpy(), predicted[counted].numpy()
    every = {"labels": range(5), "average": None, "zero_division": np.nan}
    for name, function in (
        ("iou", metrics.jaccard_score),
        ("f1", metrics.f1_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
    ):
        if name == "iou":
            # scikit-learn has no NaN for the Jaccard score of classes that do not occur.
            theirs = function(t, p, labels=range(5), average=None, zero_division=0)
            absent = [i for i in range(5) if i not in {*t.tolist(), *p.tolist()}]
            theirs[absent] = np.nan
        else:
            theirs = function(t, p, **every)
        np.testing.assert_allclose(getattr(scores, name), theirs, rtol=1e-12)
    # Their macro means are over the classes that occur in truth or prediction.
    assert scores["mean_iou"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"))
    assert scores["mean_f1"] == pytest.approx(metrics.f1_score(t, p, average="macro"))
    assert scores["mean_recall"] == pytest.approx(metrics.balanced_accuracy_score(t, p))
    assert scores["overall_accuracy"] == pytest.approx(metrics.accuracy_score(t, p))
    assert scores["kappa"] == pytest.approx(metrics.cohen_kappa_score(t, p))
    assert np.array_equal(scores.confusion, metrics.confusion_matrix(t, p, labels=range(5)))


def test_absent_classes_are_in_no_mean():
    """All correct with two of four classes present is perfect, not one half."""
    labels = torch.tensor([[0, 0, 1, 1]])
    scores = SegmentationScores.score(labels, labels, ("a", "b", "c", "d"))
    measures = scores.measures()
    for name in ("mean_iou", "mean_f1", "mean_recall"):
        assert measures[name].value == 1
        assert measures[name].classes == 2
        assert "over 2 of 4 classes, those that occur" in measures[name].definition
        assert "(c, d do not)" in measures[name].definition


def test_a_class_that_is_only_predicted_counts_as_wrong():
    scores = SegmentationScores.score(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), ("a", "b"))
    assert scores["mean_iou"] == pytest.approx(0.25)
    assert scores["mean_recall"] == pytest.approx(0.5)
    assert scores.measures()["mean_recall"].classes == 1


def test_two_means_with_and_without_background():
    """As iSAID's: pixels of the background stay, predictions there are errors."""
    predicted, labels = random_maps(4)
    scores = SegmentationScores.score(
        predicted, labels, ("background", "ship", "plane", "harbor"), background="background"
    )
    ious = []
    for number in range(4):
        found, false, missed = by_hand(predicted, labels, number)
        ious.append(found / (found + false + missed))
    assert scores["mean_iou"] == pytest.approx(sum(ious) / 4)
    assert scores["mean_iou_without_background"] == pytest.approx(sum(ious[1:]) / 3)
    measure = scores.measures()["mean_iou_without_background"]
    assert measure.classes == 3
    assert "over 3 of 3 classes (without background)" in measure.definition


def test_ignored_classes_do_not_count():
    """As Potsdam's clutter: the mean is over five classes, its pixels are left out altogether."""
    names = ("surface", "building", "vegetation", "tree", "car", "clutter")
    predicted, labels = random_maps(6)
    scores = SegmentationScores.score(predicted, labels, names, ignored=["clutter"])
    masked = torch.where(labels == 5, 255, labels)
    expected = []
    for number in range(5):
        found, false, missed = by_hand(predicted, masked, number)
        expected.append(2 * found / (2 * found + false + missed))
    assert scores["mean_f1"] == pytest.approx(sum(expected) / 5)
    measure = scores.measures()["mean_f1"]
    assert measure.classes == 5
    assert measure.definition.endswith("pixels labeled 255 or clutter do not count")
    right = ((predicted == masked) & (masked != 255)).sum() / (masked != 255).sum()
    assert scores["overall_accuracy"] == pytest.approx(right.item())
    assert math.isnan(scores.f1[5])
    assert scores.support[5] == 0
    assert sum(scores.support) == scores.pixels == int((masked != 255).sum())


def test_change_has_scores_of_its_own():
    predicted, labels = random_maps(2)
    scores = SegmentationScores.score(predicted, labels, ("unchanged", "changed"), change="changed")
    found, false, missed = by_hand(predicted, labels, 1)
    assert scores["change_precision"] == pytest.approx(found / (found + false))
    assert scores["change_recall"] == pytest.approx(found / (found + missed))
    assert scores["change_f1"] == pytest.approx(2 * found / (2 * found + false + missed))
    assert scores["change_iou"] == pytest.approx(found / (found + false + missed))
    assert "f1 of changed, over all pixels of all images" in (
        scores.measures()["change_f1"].definition
    )


def test_scores_of_nothing_are_not_defined(tmp_path):
    labels = torch.full((1, 2, 2), 255)
    scores = SegmentationScores.score(torch.zeros_like(labels), labels, CLASSES, change="road")
    assert all(math.isnan(measure.value) for measure in scores.measures().values())
    content = json.loads(scores.save(tmp_path)[0].read_text())
    assert content["mean_iou"] is None
    assert content["classes_in_mean"]["mean_iou"] == 0
    one = SegmentationScores.score(torch.zeros(1, 1, 1).long(), torch.zeros(1, 1, 1), CLASSES)
    assert math.isnan(one["kappa"])
    assert one["mean_iou"] == 1


def test_batches_add_up_and_logits_are_predictions():
    predicted, labels = random_maps()
    metric = ConfusionMatrix(5)
    for p, t in zip(predicted, labels, strict=True):
        metric.update(p[None], t[None])
    logits = torch.nn.functional.one_hot(predicted, 5).movedim(-1, 1).float()
    other = ConfusionMatrix(5)
    other.update(logits, labels)
    assert torch.equal(metric.compute(), other.compute())
    assert metric.compute().sum() == (labels != 255).sum()
    metric.reset()
    assert metric.compute().sum() == 0


def test_counts_are_exact_beyond_the_integers_of_float32():
    metric = ConfusionMatrix(2)
    metric.matrix += torch.tensor([[2**40, 0], [0, 2**40 + 1]])
    metric.update(torch.tensor([1]), torch.tensor([1]))
    assert metric.compute().tolist() == [[2**40, 0], [0, 2**40 + 2]]
    scores = SegmentationScores.of(metric, ("a", "b"))
    assert scores.support == (2**40, 2**40 + 2)


def test_files_say_the_same(tmp_path):
    predicted, labels = random_maps(3)
    scores = SegmentationScores.score(
        predicted, labels, CLASSES, background="land", change="water", ignored=("road",)
    )
    files = scores.save(tmp_path / "new", "mine", {"seed": 3})
    assert [file.name for file in files] == ["mine.json", "mine.csv", "mine.png"]
    content = json.loads(files[0].read_text())
    assert content["seed"] == 3
    for name, measure in scores.measures().items():
        assert content[name] == measure.value
        assert content["definitions"][name] == measure.definition
    assert content["classes"]["water"]["iou"] == scores.iou[1]
    assert content["classes"]["road"]["iou"] is None
    assert SegmentationScores.from_dict(content) == scores
    with files[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert float(rows[1]["recall"]) == pytest.approx(scores.recall[1])
    assert rows[2]["recall"] == ""
    assert rows[2]["predicted water"] == str(scores.confusion[2][1])
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignored": ["cloud"]}, "there is no class 'cloud' among land, water, road"),
        ({"background": "sky"}, "there is no class 'sky'"),
        ({"change": "new"}, "there is no class 'new'"),
    ],
)
def test_unknown_classes_are_named(options, message):
    predicted, labels = random_maps(3)
    with pytest.raises(ValueError, match=message):
        SegmentationScores.score(predicted, labels, CLASSES, **options)


def test_what_does_not_fit_is_named():
    metric = ConfusionMatrix(3)
    zeros = torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 4, 4\) and \(1, 4, 5\)"):
        metric.update(zeros, torch.zeros(1, 4, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must have shape \(B, 3, \.\.\.\), got \(1, 4, 4, 4\)"):
        metric.update(torch.zeros(1, 4, 4, 4), zeros)
    for predicted, labels in ((zeros + 3, zeros), (zeros, zeros + 3), (zeros, zeros - 1)):
        with pytest.raises(ValueError, match="16 labels or predictions are not 0 to 2"):
            ConfusionMatrix(3).update(predicted, labels)
    with pytest.raises(ValueError, match="confusion must be 2 x 2"):
        SegmentationScores(("a", "b"), ((1, 2, 3), (1, 2, 3)))
    scores = SegmentationScores.score(zeros, zeros, CLASSES)
    with pytest.raises(KeyError, match="no score is named 'miou'; there are overall_accuracy"):
        scores["miou"]
