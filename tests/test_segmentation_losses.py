# SPDX-License-Identifier: Apache-2.0
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional
from utils import random

from rsvheat.segmentation_losses import (
    SegmentationLoss,
    class_weights,
    cross_entropy,
    dice,
    focal,
    lovasz,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = {
    "cross_entropy": cross_entropy,
    "smoothed": partial(cross_entropy, label_smoothing=0.1),
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
}
EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0])


def batch(classes=4, ignored=0.2, dtype=torch.float32, size=(2, 7, 9)):
    logits = 2 * random((size[0], classes, *size[1:]), dtype)
    labels = torch.randint(classes, size)
    labels[torch.rand(size) < ignored] = 255
    return logits, labels


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_mean(weight, smoothing):
    logits, labels = batch()
    ours = cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    theirs = functional.cross_entropy(
        logits, labels, weight, ignore_index=255, label_smoothing=smoothing
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_focal_by_its_formula(weight):
    logits, labels = batch(dtype=torch.float64)
    p = logits.softmax(1).numpy()
    w = np.ones(4) if weight is None else weight.double().numpy()
    total = norm = 0.0
    for i, row, column in zip(*np.nonzero((labels != 255).numpy()), strict=True):
        label = labels[i, row, column]
        value = p[i, label, row, column]
        total -= w[label] * (1 - value) ** 1.5 * math.log(value)
        norm += w[label]
    assert focal(logits, labels, weight, gamma=1.5).item() == pytest.approx(total / norm, rel=1e-12)


def test_focal_with_gamma_0_is_the_cross_entropy():
    logits, labels = batch()
    for weight in (None, WEIGHT):
        torch.testing.assert_close(
            focal(logits, labels, weight, gamma=0.0), cross_entropy(logits, labels, weight)
        )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_certain_pixels_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).reshape(1, 2, 1, 2).requires_grad_()
    loss = focal(logits, torch.tensor([[[0, 0]]]), gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad.isfinite().all()


def test_focal_is_that_of_segmentation_models_pytorch():
    """Theirs has a sigmoid per class; for two classes with logits x and 0 it is the softmax."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    x, labels = batch(classes=2)
    x = torch.cat((x[:, :1], torch.zeros_like(x[:, :1])), 1)
    counted = labels != 255
    first = (labels == 0)[counted].float()
    theirs = smp.losses.FocalLoss("binary", gamma=2.0)(x[:, 0][counted], first)
    torch.testing.assert_close(focal(x, labels), theirs)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 10.0])
def test_dice_by_its_formula(smooth):
    logits, labels = batch(dtype=torch.float64)
    p, y, counted = logits.softmax(1).numpy(), labels.numpy(), (labels != 255).numpy()
    terms = []
    for number in range(4):
        own = p[:, number][counted]
        truth = y[counted] == number
        terms.append(1 - (2 * own[truth].sum() + smooth) / (own.sum() + truth.sum() + smooth))
    assert dice(logits, labels, smooth=smooth).item() == pytest.approx(np.mean(terms), rel=1e-12)
    weighted = np.average(terms, weights=WEIGHT.numpy())
    assert dice(logits, labels, WEIGHT, smooth=smooth).item() == pytest.approx(weighted, rel=1e-6)


def test_dice_and_lovasz_are_those_of_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, labels = batch()
    # Their pixels are added to the intersection itself, ours to twice the intersection.
    theirs = smp.losses.DiceLoss("multiclass", smooth=0.5, ignore_index=255)(logits, labels)
    torch.testing.assert_close(dice(logits, labels), theirs)
    theirs = smp.losses.LovaszLoss("multiclass", ignore_index=255)(logits, labels)
    torch.testing.assert_close(lovasz(logits, labels), theirs)


def test_lovasz_of_certain_predictions_is_one_minus_the_mean_iou():
    """The extension agrees with the set function at its corners."""
    predicted = torch.randint(3, (2, 20, 20))
    labels = torch.randint(3, (2, 20, 20))
    logits = 1000.0 * functional.one_hot(predicted, 3).movedim(-1, 1)
    ious = [
        ((predicted == c) & (labels == c)).sum() / ((predicted == c) | (labels == c)).sum()
        for c in range(3)
    ]
    assert lovasz(logits, labels).item() == pytest.approx(1 - sum(ious).item() / 3, rel=1e-5)


def test_lovasz_is_accurate_for_many_pixels():
    torch.manual_seed(1)
    logits = torch.randn(1, 2, 600, 600)
    labels = (torch.rand(1, 600, 600) < 0.01).long()
    exact = lovasz(logits.double(), labels).item()
    assert lovasz(logits, labels).item() == pytest.approx(exact, rel=1e-5)


def test_classes_that_do_not_occur_do_not_count():
    logits, labels = batch()
    labels[labels == 3] = 255
    for loss in (dice, lovasz):
        value = loss(logits, labels)
        assert value.item() == pytest.approx(
            loss(logits, labels, torch.tensor([1.0, 1.0, 1.0, 100.0])).item()
        )
        # Far from a mean that counts an absent class as perfect.
        assert value > 0.35


@EVERY
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_gradients_are_those_of_finite_differences(loss, weight):
    logits, labels = batch(dtype=torch.float64, size=(2, 3, 4))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, weight), logits)


@EVERY
def test_ignored_pixels_have_no_part(loss):
    logits, labels = batch()
    other = torch.where((labels == 255)[:, None], 100 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss(logits, labels), loss(other, labels))
    other.requires_grad_()
    loss(other, labels).backward()
    assert (other.grad.movedim(1, -1)[labels == 255] == 0).all()
    labels[labels == 255] = 7
    with pytest.raises(ValueError, match=r"labels must be 0 to 3 or 255, got \[7\]"):
        loss(logits, labels)
    torch.testing.assert_close(
        loss(logits, labels, ignore_index=7), loss(logits, torch.where(labels == 7, 255, labels))
    )


@EVERY
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_nothing_to_learn_is_zero_with_zero_gradients(loss, weight):
    logits, labels = batch()
    for size in (labels.shape, (0, 5, 5)):
        x = torch.randn(size[0], 4, *size[1:]).requires_grad_()
        value = loss(x, torch.full(size, 255), weight)
        value.backward()
        assert value.item() == 0
        assert torch.equal(x.grad, torch.zeros_like(x))
    assert loss(logits, labels, torch.zeros(4)).item() == 0


@EVERY
def test_float32_inside_under_autocast(loss):
    logits, labels = batch(size=(2, 32, 32))
    half = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), labels))
    value.backward()
    assert half.grad.isfinite().all()
    assert loss(logits.double(), labels).dtype == torch.float64


@EVERY
def test_minimizing_finds_the_labels(loss):
    logits, labels = batch()
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(200):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    counted = labels != 255
    assert (logits.argmax(1) == labels)[counted].float().mean() > 0.98


def test_combinations_are_weighted_sums():
    logits, labels = batch()
    loss = SegmentationLoss(
        {"cross_entropy": 1.0, "focal": 0.5, "dice": 2.0, "lovasz": 0.25},
        WEIGHT.tolist(),
        gamma=1.0,
        label_smoothing=0.05,
        smooth=3.0,
    )
    parts = loss.parts(logits, labels)
    torch.testing.assert_close(
        parts["cross_entropy"], cross_entropy(logits, labels, WEIGHT, label_smoothing=0.05)
    )
    torch.testing.assert_close(parts["focal"], focal(logits, labels, WEIGHT, gamma=1.0))
    torch.testing.assert_close(parts["dice"], dice(logits, labels, WEIGHT, smooth=3.0))
    torch.testing.assert_close(parts["lovasz"], lovasz(logits, labels, WEIGHT))
    expected = parts["cross_entropy"] + parts["focal"] / 2 + 2 * parts["dice"] + parts["lovasz"] / 4
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(SegmentationLoss("dice")(logits, labels), dice(logits, labels))
    assert loss.state_dict() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": {"hinge": 1.0}}, r"terms must be of .*, got \['hinge'\]"),
        ({"terms": {}}, r"terms must be of .*, got \[\]"),
        ({"terms": {"dice": 0.0}}, "finite factors above 0"),
        ({"class_weights": [1.0, -1.0]}, r"class_weights must be finite, .*, got \[1\.0, -1\.0\]"),
        ({"class_weights": [0.0, 0.0]}, "not all 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationLoss(**arguments)


@EVERY
def test_wrong_shapes_and_labels_are_named(loss):
    logits, labels = batch()
    for x, y, weight, message in (
        (logits, labels[:, 1:], None, r"\(2, 4, 7, 9\) and \(2, 6, 9\)"),
        (logits, labels, torch.ones(3), r"weight must have shape \(4,\), got \(3,\)"),
        (logits, labels.int(), None, "labels must be int64, got torch.int32"),
        (logits, torch.full_like(labels, -1), None, r"got \[-1\]"),
        (logits, torch.full_like(labels, 4), None, r"got \[4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(x, y, weight)


def test_exponents_and_smoothing_are_checked():
    logits, labels = batch()
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        focal(logits, labels, gamma=-1)
    with pytest.raises(ValueError, match="smooth must be at least 0, got nan"):
        dice(logits, labels, smooth=math.nan)


def test_class_weights_by_hand():
    counts = [100, 400, 100]
    assert class_weights(counts, "median") == pytest.approx([1.0, 0.25, 1.0])
    assert class_weights(counts, "inverse") == pytest.approx([4 / 3, 1 / 3, 4 / 3])
    assert class_weights(counts, "square_root") == pytest.approx([1.2, 0.6, 1.2])
    share = 1 - 1 / 200
    raw = np.array([(1 - share) / (1 - share**n) for n in counts])
    assert class_weights(counts, "effective") == pytest.approx(list(raw / raw.mean()))


@pytest.mark.parametrize("method", ["inverse", "square_root", "median", "effective"])
def test_class_weights_of_huge_and_absent_classes(method):
    weights = class_weights([10, 0, 3_000_000_000, 5_000], method)
    assert all(0 < weight < math.inf for weight in weights)
    assert weights[0] > weights[3] > weights[2]
    assert weights[1] == weights[0]
    assert class_weights([7], method) == pytest.approx([1.0])
    assert class_weights([1, 1], method) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("counts", "method", "message"),
    [
        ([0, 0], "median", r"counts must be at least 0 and not all 0, got \[0, 0\]"),
        ([], "median", "counts must be"),
        ([3, -1], "median", "counts must be"),
        ([1], "linear", r"method must be one of .*, got 'linear'"),
    ],
)
def test_class_weights_refuse_nonsense(counts, method, message):
    with pytest.raises(ValueError, match=message):
        class_weights(counts, method)
