# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
import torch

from rsvheat.evaluation import calibration
from rsvheat.evaluation.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    ConfidenceBins,
    LogitSample,
    fit_temperature,
    sample_pixels,
)


def batch(classes=4, size=(2, 40, 50), sharpness=2.0):
    logits = sharpness * torch.randn(size[0], classes, *size[1:])
    labels = torch.distributions.Categorical(logits=(logits / 2).movedim(1, -1)).sample()
    labels[torch.rand(size) < 0.1] = 255
    return logits, labels


def test_bins_by_hand():
    probabilities = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.5, 0.5], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    result = Calibration.score(probabilities, labels, bins=4)
    # Bins end at 0.25, 0.5, 0.75 and 1, their upper ends included.
    assert result.count == (0, 1, 2, 2)
    assert result.confidence[1:] == pytest.approx((0.5, 0.65, 0.95))
    assert result.accuracy[1:] == pytest.approx((1, 0.5, 1))
    assert math.isnan(result.accuracy[0])
    assert result.expected_error == pytest.approx((0.5 + 2 * 0.15 + 2 * 0.05) / 5)
    assert result.largest_error == pytest.approx(0.5)


@pytest.mark.parametrize("norm", ["l1", "max"])
def test_errors_are_those_of_torchmetrics(norm):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = batch()
    p = logits.softmax(1)
    theirs = multiclass_calibration_error(p, labels, 4, n_bins=15, norm=norm, ignore_index=255)
    ours = Calibration.score(p, labels)
    error = ours.expected_error if norm == "l1" else ours.largest_error
    assert error == pytest.approx(theirs.item(), rel=1e-5)


def test_batches_add_up(monkeypatch):
    monkeypatch.setattr(calibration, "_ROWS", 100)
    logits, labels = batch()
    p = logits.softmax(1)
    metric = ConfidenceBins()
    for i in range(2):
        metric.update(p[[i]], labels[[i]])
    together, alone = Calibration.of(metric), Calibration.score(p, labels)
    assert together.count == alone.count
    np.testing.assert_allclose(together.confidence, alone.confidence)
    np.testing.assert_allclose(together.accuracy, alone.accuracy)
    assert sum(alone.count) == (labels != 255).sum()


def test_a_calibrated_model_has_no_error():
    torch.manual_seed(5)
    logits = torch.randn(200_000, 3)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert Calibration.score(logits.softmax(1), labels).expected_error < 0.006
    assert Calibration.score((3 * logits).softmax(1), labels).expected_error > 0.1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_logits_is_found(temperature):
    torch.manual_seed(5)
    logits = torch.randn(100_000, 3)
    labels = torch.distributions.Categorical(logits=logits).sample()
    fitted = fit_temperature(temperature * logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.02)


def test_the_temperature_minimizes_the_likelihood():
    logits, labels = batch()
    best = fit_temperature(logits, labels)

    def loss(t):
        return torch.nn.functional.cross_entropy(logits.double() / t, labels, ignore_index=255)

    assert loss(best) < loss(0.999 * best)
    assert loss(best) < loss(1.001 * best)
    scaled = Calibration.score((logits / best).softmax(1), labels)
    assert scaled.expected_error < Calibration.score(logits.softmax(1), labels).expected_error


def test_temperatures_without_a_minimum_end_at_the_bounds():
    labels = torch.arange(3)
    assert fit_temperature(torch.eye(3), labels) == COLDEST
    assert fit_temperature(-torch.eye(3), labels) == HOTTEST
    assert fit_temperature(torch.zeros(3, 3), labels) == HOTTEST


def test_sampled_pixels_count_and_follow_the_seed():
    logits, labels = batch()
    rows, truth = sample_pixels(logits, labels, 500, torch.Generator().manual_seed(1))
    assert rows.shape == (500, 4)
    assert (truth != 255).all()
    again, _ = sample_pixels(logits, labels, 500, torch.Generator().manual_seed(1))
    assert torch.equal(rows, again)
    every, _ = sample_pixels(logits, labels, 10**9, torch.Generator())
    assert len(every) == (labels != 255).sum()
    # Rows are those of pixels, with their labels.
    places = {tuple(row.tolist()): int(t) for row, t in zip(rows, truth, strict=True)}
    for row, label in zip(
        logits.movedim(1, -1).flatten(0, 2).tolist(), labels.flatten().tolist(), strict=True
    ):
        assert places.pop(tuple(row), label) == label
    assert not places


def test_files_say_the_same(tmp_path):
    logits, labels = batch()
    result = Calibration.score(logits.softmax(1), labels)
    files = result.save(tmp_path, about={"temperature": 1.5})
    content = json.loads(files[0].read_text())
    assert content["temperature"] == 1.5
    assert content["expected_calibration_error"] == result.expected_error
    assert content["count"] == list(result.count)
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_nothing_to_count_is_not_defined(tmp_path):
    result = Calibration.score(torch.rand(1, 2, 4, 4), torch.full((1, 4, 4), 255))
    assert math.isnan(result.expected_error)
    assert json.loads(result.save(tmp_path)[0].read_text())["expected_calibration_error"] is None


def test_what_does_not_fit_is_named():
    p, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 4\) and \(2, 4\)"):
        Calibration.score(p, labels[:, 0])
    with pytest.raises(ValueError, match="labels must be 0 to 2 or 255, got 0 to 3"):
        Calibration.score(p, labels.index_fill(1, torch.tensor([0]), 3))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        ConfidenceBins(0)
    with pytest.raises(ValueError, match="at least one"):
        fit_temperature(p, labels + 255)
    with pytest.raises(ValueError, match="logits must be finite"):
        fit_temperature(p / 0, labels)


def test_a_sample_of_all_batches_finds_their_temperature():
    torch.manual_seed(6)
    sample, again = LogitSample(4000), LogitSample(4000)
    for seed in range(40):
        logits = torch.randn(2, 3, 30, 40)
        labels = torch.distributions.Categorical(logits=logits.movedim(1, -1)).sample()
        labels[:, :10] = 255
        for each in (sample, again):
            each.add((2.0 * logits).to(torch.bfloat16), labels, seed)
    assert sample.fit() == pytest.approx(2.0, rel=0.1)
    assert again.fit() == sample.fit()
    assert len(sample._rows) == 4000


def test_a_sample_of_nothing_has_no_temperature():
    sample = LogitSample()
    assert sample.fit() is None
    sample.add(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 255), 0)
    assert sample.fit() is None
    sample.add(torch.full((1, 3, 4, 4), torch.nan), torch.zeros(1, 4, 4, dtype=torch.int64), 0)
    assert sample.fit() is None
