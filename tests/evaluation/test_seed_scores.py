# SPDX-License-Identifier: Apache-2.0
import csv
import json

import numpy as np
import pytest
import torch

from rsvheat.evaluation import Scores, SeedScores, SegmentationScores


def test_spreads_are_numpys():
    labels = torch.arange(60) % 3
    runs = {}
    for seed in (3, 4, 7):
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(60, generator=generator) < 0.1 * seed
        predicted = torch.where(wrong, (labels + 1) % 3, labels)
        runs[seed] = Scores.score(predicted, labels, ["a", "b", "c"])
    spreads = SeedScores({seed: scores.to_dict() for seed, scores in runs.items()}).spreads()
    one = spreads["overall_accuracy"]
    accuracies = [scores.accuracy for scores in runs.values()]
    assert one.values == pytest.approx(accuracies)
    assert one.mean == pytest.approx(np.mean(accuracies))
    assert one.deviation == pytest.approx(np.std(accuracies, ddof=1))
    recalls = [scores.recall[1] for scores in runs.values()]
    assert spreads["classes.b.recall"].mean == pytest.approx(np.mean(recalls))
    assert "samples" not in spreads, "a count is no score"


def test_scores_that_are_not_defined_are_in_no_mean(tmp_path):
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    predicted = labels.clone()
    none = SegmentationScores.score(predicted, labels, ["land", "water"])
    predicted[0, 0, 0] = 1
    some = SegmentationScores.score(predicted, labels, ["land", "water"])
    scores = SeedScores({0: none.to_dict(), 1: some.to_dict()})
    water = scores.spreads()["classes.water.iou"]
    assert water.values == (None, 0.0)
    assert (water.mean, water.deviation) == (0.0, None)
    files = scores.save(tmp_path)
    assert [path.name for path in files] == ["seeds.json", "seeds.csv", "seeds.png"]
    content = json.loads(files[0].read_text())
    assert content["seeds"] == [0, 1]
    assert content["scores"]["mean_iou"]["values"] == [1.0, 15 / 32]
    with files[1].open(newline="") as file:
        rows = {row["score"]: row for row in csv.DictReader(file)}
    assert rows["classes.water.iou"]["seed 0"] == ""
    assert float(rows["mean_iou"]["mean"]) == pytest.approx((1 + 15 / 32) / 2)
    assert str(scores).startswith("2 seeds: overall accuracy 0.9688 ± 0.0442, ")


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="at least one seed, got none"):
        SeedScores({})
