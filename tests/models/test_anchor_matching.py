# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

pytest.importorskip("torchvision")

from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from rsvheat.models import anchor_matching
from rsvheat.models.anchor_matching import (
    BACKGROUND,
    ClassBalancedSampler,
    anchor_kinds,
    match_anchors,
)
from rsvheat.models.detection_pyramid import GridAnchors


def grid():
    maps = [torch.zeros(1, 1, 96 // stride, 96 // stride) for stride in (4, 8, 16)]
    return torch.cat(GridAnchors((4, 8, 16), (4.0,), (0.5, 1.0, 2.0))(maps))


def random_boxes(count):
    center, sides = 96 * torch.rand(count, 2), 4 + 60 * torch.rand(count, 2)
    return torch.cat((center - sides / 2, center + sides / 2), 1)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_anchors_are_matched_as_by_torchvision(at_once, monkeypatch):
    torch.manual_seed(0)
    anchors, boxes = grid(), random_boxes(40)
    monkeypatch.setattr(anchor_matching, "_PAIRS", at_once * len(anchors))
    matched = match_anchors(boxes, anchors)
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    assert torch.equal(matched, expected)
    kinds = anchor_kinds(matched)
    assert set(kinds.tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(kinds == 1, expected >= 0)
    assert torch.equal(kinds == 0, expected == Matcher.BELOW_LOW_THRESHOLD)


def test_without_boxes_all_is_background():
    assert (match_anchors(torch.zeros(0, 4), grid()) == BACKGROUND).all()


def test_a_box_that_no_anchor_overlaps_takes_none():
    far = torch.tensor([[500.0, 500.0, 520.0, 520.0]])
    assert (match_anchors(far, grid()) == BACKGROUND).all()
    near = random_boxes(1)
    assert torch.equal(match_anchors(torch.cat((near, far)), grid()), match_anchors(near, grid()))


def test_every_class_is_drawn_as_often():
    torch.manual_seed(0)
    # 500 anchors of ships, 10 of piers, 1,000 of background and 90 that are neither.
    classes = torch.tensor([1] * 500 + [2] * 10 + [0] * 1000 + [-1] * 90)[torch.randperm(1600)]
    sampler, drawn = ClassBalancedSampler(64, 0.25), torch.zeros(3)
    for _ in range(200):
        (positive,), (negative,) = sampler([classes])
        assert positive.sum() == 16
        assert negative.sum() == 48
        assert (classes[negative] == 0).all()
        drawn += torch.bincount(classes[positive], minlength=3)
    # Of the 10 piers' up to 10 are drawn without replacement: nearly half of 16.
    assert drawn[0] == 0
    assert 0.3 < drawn[2] / drawn.sum() < 0.5


@pytest.mark.parametrize("classes", [[], [0, 0, -1], [1, 2, 2], [3]])
def test_what_there_is_is_drawn(classes):
    classes = torch.tensor(classes, dtype=torch.int64)
    (positive,), (negative,) = ClassBalancedSampler(8, 0.5)([classes])
    assert torch.equal(positive, classes > 0)
    assert torch.equal(negative, classes == 0)
