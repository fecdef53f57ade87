# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from utils import data_module

from rsvheat.data import ClassFolders
from rsvheat.evaluation import Features, extract_features, knn, linear_probe, standardize
from rsvheat.models import create_model, pool_features


def _clusters(samples=60, dim=6, spread=0.3, seed=0):
    """Three classes around random centres, with one feature much larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, dim, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(3, (samples,), generator=generator)
    values = centres[labels] + spread * torch.randn(samples, dim, generator=generator)
    values[:, 0] = 1e3 * torch.randn(samples, generator=generator) + 1e4
    return Features(values, labels)


def test_standardised_features_have_no_mean_and_deviation_one():
    train = torch.randn(50, 3) * torch.tensor([1.0, 100.0, 1e-3]) + 5
    train = torch.cat((train, torch.full((50, 1), 7.0)), dim=1)
    x, y = standardize(train, train[:5])
    torch.testing.assert_close(x[:, :3].mean(0), torch.zeros(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(x[:, :3].std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert (x[:, 3] == 0).all()
    assert torch.equal(x[:5], y)


def test_neighbours_are_those_of_a_plain_search():
    train, test = _clusters(), _clusters(samples=40, seed=1)
    x, y = (part.numpy() for part in standardize(train.values, test.values))
    cosine = (y @ x.T) / np.linalg.norm(y, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    expected = []
    for row in cosine:
        near = np.argsort(-row)[:5]
        votes = np.bincount(train.labels.numpy()[near], minlength=3)
        sums = np.bincount(train.labels.numpy()[near], weights=row[near], minlength=3)
        expected.append(max(range(3), key=lambda c, v=votes, s=sums: (v[c], s[c])))
    for chunk in (7, 1024):
        assert knn(train, test.values, 5, chunk=chunk).tolist() == expected
    assert (knn(train, test.values, 5) == test.labels).float().mean() > 0.9


def test_of_equal_votes_the_nearer_ones_win():
    values = torch.tensor([[1.0, 0.1], [1.0, -0.9], [-1.0, 0.2], [-1.0, 0.6]])
    train = Features(values, torch.tensor([0, 1, 2, 2]))
    near_first = values[:1] + 0.01
    assert knn(train, near_first, 1).tolist() == [0]
    assert knn(train, near_first, 2).tolist() == [0]


def test_a_sample_is_its_own_nearest_neighbour():
    train = _clusters()
    assert torch.equal(knn(train, train.values, 1), train.labels)


@pytest.mark.parametrize("k", [0, 61])
def test_neighbours_are_bounded_by_the_samples(k):
    with pytest.raises(ValueError, match="k must be 1 to the 60"):
        knn(_clusters(), torch.zeros(1, 6), k)


def test_probe_separates_what_is_linearly_separable():
    train, test = _clusters(samples=300, spread=0.2), _clusters(samples=100, spread=0.2, seed=1)
    predicted, strength = linear_probe(train, test.values)
    assert (predicted == test.labels).float().mean() > 0.95
    assert strength in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    again, _ = linear_probe(train, test.values)
    assert torch.equal(predicted, again)


def test_probe_is_the_minimum_of_its_objective():
    """The gradient vanishes: cross entropy plus half the squared norm of the weights."""
    from rsvheat.evaluation.probing import _fit

    train = _clusters(samples=200)
    (x,) = standardize(train.values)
    probe = _fit(x, train.labels, 3, 0.1)
    weight, bias = probe.weight.requires_grad_(), probe.bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, train.labels)
    (loss + 0.05 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_regularization_is_chosen_on_samples_held_out():
    # Labels that have nothing to do with the features: whatever fits them is wrong elsewhere.
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 300, generator=generator)
    labels = (torch.rand(400, generator=generator) < 0.25).long()
    _, strength = linear_probe(Features(values, labels), values, regularization=(10.0, 1e-6))
    assert strength == 10.0


def test_probe_refuses_what_it_cannot_choose():
    train = Features(torch.randn(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="give one"):
        linear_probe(train, train.values)
    assert linear_probe(train, train.values, regularization=[0.1])[0].shape == (3,)
    with pytest.raises(ValueError, match="regularization must be"):
        linear_probe(train, train.values, regularization=[])


def test_features_are_pooled_from_the_stages(scenes):
    data = data_module(ClassFolders, str(scenes), size=32, batch_size=8)
    data.setup()
    encoder = create_model("rsvheat_nano", img_size=32, num_classes=0, drop_path=0.5)
    features = extract_features(encoder, data.loader("val"))
    dataset = data.datasets["val"]
    assert features.values.shape == (len(dataset), 2 * sum(encoder.dims))
    assert features.labels.tolist() == [dataset[i]["label"] for i in range(len(dataset))]
    x = torch.stack([dataset[i]["images"]["optical"] for i in range(3)])
    with torch.no_grad():
        maps = encoder.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    torch.testing.assert_close(features.values[:3], pool_features(maps))
    last = extract_features(encoder, data.loader("val"), stages=[-1], deviation=False)
    assert last.values.shape == (len(dataset), encoder.dims[-1])
    with pytest.raises(ValueError, match="no images"):
        extract_features(encoder, [])
