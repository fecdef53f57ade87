# SPDX-License-Identifier: Apache-2.0
import csv
import json

import pytest
import torch

from rsvheat.evaluation import Scores

CLASSES = ("forest", "lake", "road")
# true:      forest x4, lake x3, road x1
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
PREDICTED = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1])


@pytest.fixture
def scores():
    return Scores.score(PREDICTED, LABELS, CLASSES)


def test_scores_are_those_counted_by_hand(scores):
    assert scores.accuracy == pytest.approx(5 / 8)
    assert scores.confusion == ((3, 1, 0), (1, 2, 0), (0, 1, 0))
    assert scores.support == (4, 3, 1)
    assert scores.precision == pytest.approx((3 / 4, 2 / 4, 0))
    assert scores.recall == pytest.approx((3 / 4, 2 / 3, 0))
    assert scores.f1 == pytest.approx((3 / 4, 4 / 7, 0))
    assert scores.mean_f1 == pytest.approx((3 / 4 + 4 / 7) / 3)


def test_classes_that_do_not_occur_are_in_no_mean():
    labels = torch.tensor([0, 0, 1, 1])
    scores = Scores.score(labels, labels, ("a", "b", "c", "d"))
    assert scores.mean_f1 == 1
    assert scores.mean_recall == 1
    assert scores.classes_in_mean == 2
    # A class that is only predicted counts for F1, but has no samples to be found.
    scores = Scores.score(torch.tensor([0, 0, 1, 3]), labels, ("a", "b", "c", "d"))
    assert scores.classes_in_mean == 3
    assert scores.mean_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores.mean_recall == pytest.approx((1 + 1 / 2) / 2)
    content = scores.to_dict()
    assert content["classes_in_mean"] == 3
    assert content["mean_recall"] == scores.mean_recall


def test_means_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = torch.randint(6, (2, 40))
    predicted[labels == 2] = 2  # a perfect class
    labels[labels == 4] = 3  # one that is only predicted
    scores = Scores.score(predicted, labels, tuple("abcdefg"))  # and one that does not occur
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores.mean_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recalls = metrics.recall_score(labels, predicted, labels=[0, 1, 2, 3, 5], average=None)
    assert scores.mean_recall == pytest.approx(recalls.mean())


def test_files_say_the_same(scores, tmp_path):
    files = scores.save(tmp_path / "new", "mine", {"seed": 3})
    assert [file.name for file in files] == ["mine.json", "mine.csv", "mine.png"]
    content = json.loads(files[0].read_text())
    assert content["seed"] == 3
    assert content["overall_accuracy"] == scores.accuracy
    assert content["samples"] == 8
    assert content["classes"]["lake"]["support"] == 3
    assert content["confusion"] == [list(row) for row in scores.confusion]
    with files[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert float(rows[1]["recall"]) == pytest.approx(2 / 3)
    assert rows[2]["predicted lake"] == "1"
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "mine.csv",
        "mine.json",
        "mine.png",
    ]


def test_files_appear_together_or_not_at_all(scores, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("no picture")

    monkeypatch.setattr(Scores, "figure", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        scores.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
