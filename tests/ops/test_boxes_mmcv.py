# SPDX-License-Identifier: Apache-2.0
"""Agreement with mmcv's operators on rotated boxes, where those are right."""

import inspect

import pytest
import torch
from rotated_boxes import random_boxes, uniform

from rsvheat import ops
from rsvheat.ops import _boxes_reference as reference

NAMES = ("box_iou_rotated", "nms_rotated", "batched_nms_rotated", "roi_align_rotated")


@pytest.mark.parametrize("name", NAMES)
def test_reference_has_the_public_signature(name: str) -> None:
    public = inspect.signature(getattr(ops, name))
    assert inspect.signature(getattr(reference, name)) == public


@pytest.fixture(scope="module")
def mmcv_ops():
    return pytest.importorskip("mmcv.ops", reason="mmcv has no compiled operators here")


@pytest.mark.parametrize("version", ["oc", "le90", "le135", None])
def test_overlaps_agree(version: str | None, mmcv_ops) -> None:
    boxes1, boxes2 = random_boxes(150).float(), random_boxes(200).float()
    expected = mmcv_ops.box_iou_rotated(
        ops.boxes_to_mmcv(boxes1, version), ops.boxes_to_mmcv(boxes2, version)
    )
    iou = ops.box_iou_rotated(boxes1, boxes2)
    torch.testing.assert_close(iou, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_suppression_agrees(threshold: float, mmcv_ops) -> None:
    boxes, scores = random_boxes(800, 400.0).float(), torch.randperm(800).float()
    iou = ops.box_iou_rotated(boxes, boxes)
    assert ((iou - threshold).abs() > 1e-5).all()  # so that mmcv's rounding decides nothing
    _, kept = mmcv_ops.nms_rotated(ops.boxes_to_mmcv(boxes), scores, threshold)
    assert torch.equal(ops.nms_rotated(boxes, scores, threshold), kept)
    # Class by class: mmcv's CPU kernel does not look at labels, and its offsets cost precision.
    labels = torch.randint(0, 3, (800,))
    kept = ops.batched_nms_rotated(boxes, scores, labels, threshold)
    for label in range(3):
        chosen = (labels == label).nonzero()[:, 0]
        rows = ops.boxes_to_mmcv(boxes[chosen])
        _, of_label = mmcv_ops.nms_rotated(rows, scores[chosen], threshold)
        assert torch.equal(kept[labels[kept] == label], chosen[of_label])


@pytest.mark.parametrize("ratio", [0, 2])
def test_region_features_agree(ratio: int, mmcv_ops) -> None:
    x = torch.randn(2, 6, 30, 40).requires_grad_()
    # Inside: mmcv, like torchvision, computes positions in float32.
    boxes = random_boxes(60, 1.0, (5.0, 60.0)).float()
    boxes[:, :2] = boxes[:, :2] * torch.tensor([60.0, 40.0]) + 40
    image = torch.randint(0, 2, (60, 1)).float()
    expected = mmcv_ops.roi_align_rotated(
        x, torch.cat((image, ops.boxes_to_mmcv(boxes, None)), 1), (7, 5), 0.25, ratio, True, True
    )
    y = ops.roi_align_rotated(x, torch.cat((image, boxes), 1), (7, 5), 0.25, ratio)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)
    grad = torch.randn_like(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad), rtol=0, atol=1e-4
    )


def test_mmcv_is_wrong_where_this_is_right(mmcv_ops) -> None:
    """Keep the reason for operators of our own in view: should mmcv's become exact, this fails."""
    boxes = random_boxes(500).float()
    nearly = boxes + 1e-5 * (2 * uniform(500, 5).float() - 1)
    ours = ops.box_iou_rotated(boxes, nearly, aligned=True)
    theirs = mmcv_ops.box_iou_rotated(
        ops.boxes_to_mmcv(boxes, None), ops.boxes_to_mmcv(nearly, None), aligned=True
    )
    assert ours.min() > 0.999
    assert theirs.min() < 0.9
