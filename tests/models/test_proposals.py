# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from rotated_boxes import random_boxes
from torchvision.ops import nms

from rsvheat.models.proposals import (
    align_rotated,
    best_of_levels,
    choose_proposals,
    scores_of_valid,
    suppress_levels,
)
from rsvheat.ops import boxes_to_bounds, roi_align_rotated

COUNTS = [30, 12, 1]


def levels(seed=0):
    """Return boxes, their bounds and scores of two images; some scores leave their box out."""
    torch.manual_seed(seed)
    boxes = torch.stack([random_boxes(sum(COUNTS)).float() for _ in range(2)])
    scores = torch.rand(2, sum(COUNTS))
    scores[0, 3:8], scores[1, 5] = -torch.inf, torch.nan
    return boxes, boxes_to_bounds(boxes), scores


def plain(bounds, scores):
    """Return the rows that stay, level by level, by decreasing score."""
    kept, begin = [], 0
    for count in COUNTS:
        rows = [i for i in range(begin, begin + count) if scores[i] > -torch.inf]
        kept += [rows[i] for i in nms(bounds[rows], scores[rows], 0.3).tolist()]
        begin += count
    return sorted(kept, key=lambda i: -float(scores[i]))


@pytest.mark.parametrize("most", [10, 100])
def test_proposals_are_those_of_each_image_by_itself(most):
    boxes, bounds, scores = levels()
    found = choose_proposals(boxes, bounds, scores, COUNTS, 0.3, most)
    mask = suppress_levels(bounds, scores, COUNTS, 0.3)
    assert found.boxes.shape == (2, min(most, sum(COUNTS)), 5)
    for image in range(2):
        rows = plain(bounds[image], scores[image])
        assert mask[image].nonzero().flatten().tolist() == sorted(rows)
        chosen = boxes[image, rows[:most]]
        assert 5 < len(rows) < 35
        assert torch.equal(found.boxes[image, : len(chosen)], chosen)
        assert found.valid[image].sum() == len(chosen)
        assert not found.boxes[image, len(chosen) :].any()
    regions = found.regions.view(2, -1, 6)
    assert torch.equal(regions[..., 1:], found.boxes)
    assert (regions[1, :, 0] == 1).all()


def test_the_operator_can_be_traced():
    _, bounds, scores = levels()
    torch.library.opcheck(
        suppress_levels, (bounds, scores.nan_to_num(0), COUNTS, 0.3), test_utils="test_faketensor"
    )


def test_rows_of_the_highest_scores_of_each_level():
    scores = torch.tensor([[1.0, 3, 2, 9, 8]])
    rows, counts = best_of_levels(scores, [3, 2], 2)
    assert (rows.tolist(), counts) == ([[1, 2, 3, 4]], [2, 2])


def test_scores_of_an_image_are_nan_if_one_value_is_not_finite():
    scores, valid = torch.ones(3, 4, 2), torch.tensor([True, True, False, False]).expand(3, 4)
    values = torch.full((3, 5), 3e38)
    values[1, 2], values[2, 0] = torch.inf, torch.nan
    found = scores_of_valid(scores, valid, values, torch.zeros(3, 1))
    assert found[0].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert found[1:].isnan().all()


def test_regions_of_several_levels_are_resampled_as_the_operator_does():
    torch.manual_seed(0)
    strides = (4, 8, 16)
    maps = [torch.randn(2, 5, 48 // s, 72 // s, dtype=torch.float64) for s in strides]
    boxes = random_boxes(60, 80.0)  # beyond the maps too
    boxes[:4, 2:4] = torch.tensor([[0.0, 0.0], [0.0, 9.0], [300.0, 2.0], [1e-3, 1e-3]])
    boxes[4:12, 4] = 90.0 * torch.arange(8)
    regions = torch.cat((torch.randint(2, (60, 1)).double(), boxes), 1)
    level = torch.randint(3, (60,))
    found = align_rotated(maps, strides, regions, level, 7, 2)
    for number, stride in enumerate(strides):
        rows = (level == number).nonzero().flatten()
        expected = roi_align_rotated(maps[number], regions[rows], 7, 1 / stride, 2)
        np.testing.assert_allclose(found[rows], expected, atol=1e-12)
