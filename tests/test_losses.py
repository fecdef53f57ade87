# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from utils import random

from rsvheat import losses

pytestmark = pytest.mark.usefixtures("one_thread")


def _numpy_info_nce(z: np.ndarray, samples: list[int], temperature: float) -> float:
    """Return the loss term by term, as the docstring's formula reads."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    anchors = []
    for i, sample in enumerate(samples):
        others = [k for k in range(len(z)) if k != i]
        total = sum(math.exp(z[i] @ z[k] / temperature) for k in others)
        positives = [k for k in others if samples[k] == sample]
        if positives:
            terms = [math.log(math.exp(z[i] @ z[k] / temperature) / total) for k in positives]
            anchors.append(-sum(terms) / len(terms))
    return sum(anchors) / len(anchors)


def test_info_nce_is_what_its_formula_says():
    z = random((9, 5), torch.float64)
    samples = [0, 1, 2, 0, 1, 2, 1, 3, 3 + 2**40]  # three views of sample 1, two lone images
    for temperature in (0.07, 0.2, 1.0):
        loss = losses.info_nce(z, torch.tensor(samples), temperature)
        expected = _numpy_info_nce(z.numpy(), samples, temperature)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_info_nce_of_two_orthogonal_pairs_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    loss = losses.info_nce(z, torch.tensor([0, 1, 0, 1]), 0.5)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-6)


def test_info_nce_of_collapsed_embeddings_is_chance():
    z = torch.ones(12, 4)
    assert losses.info_nce(z, torch.arange(12) // 2, 0.1).item() == pytest.approx(math.log(11))


def test_info_nce_falls_with_its_gradient():
    z = random((32, 8)).requires_grad_()
    samples = torch.arange(16).repeat(2)
    start = losses.info_nce(z, samples)
    optimizer = torch.optim.SGD([z], lr=5.0)
    for _ in range(50):
        optimizer.zero_grad()
        losses.info_nce(z, samples).backward()
        optimizer.step()
    assert losses.info_nce(z, samples) < 0.3 * start


@pytest.mark.parametrize("count", [0, 1, 3])
def test_info_nce_without_positives_is_zero_with_zero_gradient(count):
    z = random((count, 4)).requires_grad_()
    loss = losses.info_nce(z, torch.arange(count))
    assert loss == 0
    loss.backward()
    assert torch.equal(z.grad, torch.zeros(count, 4))


def test_info_nce_has_finite_gradients_under_autocast():
    z = random((8, 16), torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.info_nce(z, torch.arange(4).repeat(2), 0.05)
    assert loss.dtype == torch.float32
    loss.backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "samples", "temperature", "message"),
    [
        ((4,), (4,), 0.2, "embeddings must be"),
        ((4, 2), (3,), 0.2, "got .4, 2. and .3,."),
        ((4, 2), (4,), 0.0, "temperature must be above 0, got 0.0"),
        ((4, 2), (4,), math.nan, "temperature must be above 0, got nan"),
    ],
)
def test_info_nce_names_wrong_arguments(shape, samples, temperature, message):
    with pytest.raises(ValueError, match=message):
        losses.info_nce(torch.zeros(shape), torch.zeros(samples, dtype=torch.int64), temperature)


def test_cosine_consistency_is_one_minus_the_mean_cosine_by_position():
    levels = [(3, 4, 5, 8), (3, 2, 2, 16)]
    a = [random(shape, torch.float64) for shape in levels]
    b = [random(shape, torch.float64) for shape in levels]
    expected = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = x.numpy(), y.numpy()
        cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
        expected += (1 - cosine).mean() / len(levels)
    assert losses.cosine_consistency(a, b).item() == pytest.approx(expected, rel=1e-12)
    assert losses.cosine_consistency(a, [3 * x for x in a]).item() == pytest.approx(0, abs=1e-12)
    assert losses.cosine_consistency(a, [-x for x in a]).item() == pytest.approx(2)


def test_cosine_consistency_of_no_pairs_is_zero_with_a_gradient():
    a = torch.zeros(0, 2, 2, 4, requires_grad=True)
    loss = losses.cosine_consistency([a], [torch.zeros(0, 2, 2, 4)])
    assert loss == 0
    loss.backward()
    assert a.grad.shape == a.shape


def test_cosine_consistency_names_wrong_arguments():
    with pytest.raises(ValueError, match="same number of levels, at least 1, got 1 and 0"):
        losses.cosine_consistency([torch.zeros(2, 4)], [])
    with pytest.raises(ValueError, match="features_b must have features_a's shape"):
        losses.cosine_consistency([torch.zeros(2, 4)], [torch.zeros(2, 5)])


def _features(kind: str) -> torch.Tensor:
    noise = random((256, 32), torch.float64)
    if kind == "isotropic":
        return noise
    if kind == "one direction":  # spread, but along a line: dimensional collapse
        return noise[:, :1] * random((1, 32), torch.float64)
    return random((1, 32), torch.float64) + 1e-3 * noise  # all images alike


def test_collapse_shows_in_the_statistics():
    std = {k: losses.feature_std(_features(k)).item() for k in ("isotropic", "alike")}
    assert std["isotropic"] == pytest.approx(1, abs=0.05)
    assert std["alike"] < 0.01
    rank = {k: losses.effective_rank(_features(k)).item() for k in ("isotropic", "one direction")}
    assert rank["isotropic"] > 25
    assert rank["one direction"] == pytest.approx(1, abs=1e-6)
    constant = torch.full((64, 32), 0.3)
    assert losses.feature_std(constant) < 1e-3
    assert losses.effective_rank(constant) == 0


def test_statistics_know_neither_scale_nor_gradient():
    x = _features("isotropic").requires_grad_()
    for statistic in (losses.feature_std, losses.effective_rank):
        assert not statistic(x).requires_grad
        torch.testing.assert_close(statistic(1000 * x), statistic(x))


def test_effective_rank_counts_equal_eigenvalues():
    basis = torch.linalg.qr(random((64, 64), torch.float64)).Q
    samples = torch.cat((basis[:7], -basis[:7])) * 5 + 2  # seven directions, a common offset
    assert losses.effective_rank(samples).item() == pytest.approx(7)
    wide = torch.cat((torch.eye(3), -torch.eye(3))).double().repeat(40, 1)  # N > D
    assert losses.effective_rank(wide).item() == pytest.approx(3)


def test_variance_hinge_is_high_for_collapse_and_undoes_it():
    assert losses.variance_hinge(_features("alike")).item() > 0.95
    assert losses.variance_hinge(_features("isotropic")).item() < 0.1
    x = (1 + 0.01 * random((64, 16))).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        losses.variance_hinge(x).backward()
        optimizer.step()
    assert losses.feature_std(x) > 0.8


@pytest.mark.parametrize("count", [0, 1])
def test_terms_on_too_few_samples_are_zero_with_a_gradient(count):
    x = random((count, 4)).requires_grad_()
    loss = losses.variance_hinge(x)
    assert loss == 0
    loss.backward()
    assert torch.equal(x.grad, torch.zeros(count, 4))
    assert losses.feature_std(x) == 0
    assert losses.effective_rank(x) == 0


def test_gathering_in_one_process_changes_nothing():
    x = random((3, 4))
    assert losses.gather_samples(x) is x
    assert losses.world_size() == 1
