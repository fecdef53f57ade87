# SPDX-License-Identifier: Apache-2.0
"""Converters of rotated boxes: inverses, conventions, and geometry that commutes with them."""

import math

import pytest
import torch
from rotated_boxes import random_boxes, uniform
from torch import Tensor

from rsvheat import ops

VERSIONS = ("oc", "le90", "le135", None)
RANGES = {"le90": (-90.0, 90.0), "le135": (-45.0, 135.0)}


def boxes_of_all_kinds(count: int = 200) -> Tensor:
    """Return boxes with squares, thin and empty ones, and angles at the ends of every range."""
    boxes = random_boxes(count)
    boxes[::5, 3] = boxes[::5, 2]
    boxes[1::7, 2] = 1e-3
    boxes[2::11, 3] = 0
    boxes[::3, 4] = 45.0 * torch.randint(-9, 10, boxes[::3, 4].shape)
    return boxes


def same_polygons(first: Tensor, second: Tensor, atol: float = 1e-9) -> None:
    """Assert that corners (N, 4, 2) are the same points, wherever each polygon begins."""
    rolled = torch.stack([second.roll(i, 1) for i in range(4)])
    flipped = torch.cat((rolled, rolled.flip(2)))
    distance = (flipped - first).abs().amax((2, 3)).amin(0)
    assert distance.max() <= atol


def test_corners_are_torchvisions() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    boxes = boxes_of_all_kinds()
    expected = transforms.convert_bounding_box_format(
        boxes, "CXCYWHR", "XYXYXYXY", inplace=False
    ).reshape(-1, 4, 2)
    torch.testing.assert_close(ops.boxes_to_corners(boxes), expected, rtol=0, atol=1e-10)


def test_corners_by_hand() -> None:
    box = torch.tensor([10.0, 20, 4, 2, 0], dtype=torch.float64)
    upright = [[8.0, 19], [12, 19], [12, 21], [8, 21]]
    assert ops.boxes_to_corners(box).tolist() == upright
    box[4] = 90  # counter-clockwise: the right side comes up
    assert ops.boxes_to_corners(box).tolist() == [[9.0, 22], [9, 18], [11, 18], [11, 22]]
    assert ops.boxes_to_bounds(box).tolist() == [9.0, 18, 11, 22]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_corners_give_back_the_box(dtype: torch.dtype, device: torch.device) -> None:
    boxes = boxes_of_all_kinds().to(device, dtype)
    boxes = boxes[boxes[:, 2:4].amin(1) > 1]
    back = ops.corners_to_boxes(ops.boxes_to_corners(boxes))
    assert back.dtype == dtype
    assert back.device == boxes.device
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(back[:, :4], boxes[:, :4], rtol=0, atol=tolerance)
    turn = (back[:, 4] - boxes[:, 4] + 180).remainder(360) - 180
    assert turn.abs().max() <= 40 * tolerance
    assert (back[:, 4] > -180).all()
    assert (back[:, 4] <= 180).all()
    flat = ops.boxes_to_corners(boxes).flatten(1)
    assert torch.equal(ops.corners_to_boxes(flat), back)


def test_corners_of_slivers_give_the_same_polygon() -> None:
    boxes = boxes_of_all_kinds()
    corners = ops.boxes_to_corners(boxes)
    same_polygons(ops.boxes_to_corners(ops.corners_to_boxes(corners)), corners)


def test_other_quadrilaterals_get_their_smallest_rectangle() -> None:
    cv2 = pytest.importorskip("cv2")
    corners = 100 * uniform(100, 4, 2)
    boxes = ops.corners_to_boxes(corners)
    # All corners are inside.
    angle = boxes[:, 4, None].deg2rad()
    offset = corners - boxes[:, None, :2]
    across = offset[..., 0] * angle.cos() - offset[..., 1] * angle.sin()
    down = offset[..., 0] * angle.sin() + offset[..., 1] * angle.cos()
    assert (across.abs() <= boxes[:, 2:3] / 2 + 1e-9).all()
    assert (down.abs() <= boxes[:, 3:4] / 2 + 1e-9).all()
    for quad, box in zip(corners.float().numpy(), boxes, strict=True):
        _, sides, _ = cv2.minAreaRect(quad)
        assert box[2] * box[3] == pytest.approx(sides[0] * sides[1], rel=1.1e-3)


def test_points_and_lines_are_boxes_without_area() -> None:
    point = torch.full((4, 2), 7.0)
    assert ops.corners_to_boxes(point).tolist() == [7, 7, 0, 0, 0]
    line = torch.tensor([[0.0, 0], [4, 0], [4, 0], [0, 0]])
    assert ops.corners_to_boxes(line).tolist() == [2, 0, 4, 0, 0]


def test_bounds_are_those_of_the_corners(device: torch.device) -> None:
    boxes = boxes_of_all_kinds().to(device).reshape(10, 20, 5)
    corners = ops.boxes_to_corners(boxes)
    assert corners.shape == (10, 20, 4, 2)
    expected = torch.cat((corners.amin(2), corners.amax(2)), -1)
    torch.testing.assert_close(ops.boxes_to_bounds(boxes), expected, rtol=0, atol=1e-10)


# ---- mmcv ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_mmcvs_boxes_are_the_same_rectangles(version: str | None, device: torch.device) -> None:
    boxes = boxes_of_all_kinds().to(device)
    converted = ops.boxes_to_mmcv(boxes, version)
    x, y, w, h, angle = converted.unbind(1)
    # By mmrotate's own formula: clockwise, y downward.
    cos, sin = angle.cos(), angle.sin()
    corners = torch.stack(
        [
            torch.stack((x + u * w * cos - v * h * sin, y + u * w * sin + v * h * cos), -1)
            for u, v in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
        ],
        1,
    )
    same_polygons(corners, ops.boxes_to_corners(boxes))
    back = ops.boxes_from_mmcv(converted)
    same_polygons(ops.boxes_to_corners(back), ops.boxes_to_corners(boxes))
    if version is None:
        torch.testing.assert_close(back, boxes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("version", ["oc", "le90", "le135"])
def test_angles_are_within_the_versions_range(version: str, dtype: torch.dtype) -> None:
    boxes = boxes_of_all_kinds().to(dtype)
    edge = torch.tensor([0.0, 45, 90, 135, 180, -45, -90, -135, -180, 1e-30, -1e-30, 90 + 1e-5])
    boxes[: len(edge), 4] = edge
    _, _, w, h, angle = ops.boxes_to_mmcv(boxes, version).unbind(1)
    degrees = angle.double().rad2deg()
    if version == "oc":
        assert degrees.min() > 0
        assert degrees.max() <= 90 + 1e-5
    else:
        low, high = RANGES[version]
        assert degrees.min() >= low - 1e-5
        assert degrees.max() < high
        assert (w >= h).all()


@pytest.mark.parametrize("version", ["oc", "le90", "le135"])
def test_converting_twice_changes_nothing(version: str) -> None:
    once = ops.boxes_to_mmcv(boxes_of_all_kinds(), version)
    again = ops.boxes_to_mmcv(ops.boxes_from_mmcv(once), version)
    same = (again - once).abs().amax(1) < 1e-9
    # A square's angle at an end of the range may come out at the other one, by rounding.
    square = once[:, 2] == once[:, 3]
    end = (again[:, 4] - once[:, 4]).abs() > 1
    assert (same | square | end).all()
    assert same.float().mean() > 0.8


# ---- Geometry ------------------------------------------------------------------------------------


def _flip(points: Tensor) -> Tensor:
    return points * torch.tensor([-1.0, 1.0]) + torch.tensor([100.0, 0.0])


def _quarter(points: Tensor) -> Tensor:
    return torch.stack((points[..., 1], 100 - points[..., 0]), -1)


def _turn(points: Tensor) -> Tensor:
    angle = math.radians(30)
    x, y = points.unbind(-1)
    return torch.stack(
        (x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)), -1
    )


GEOMETRY = {
    "flip": (_flip, lambda x, y, w, h, r: (100 - x, y, w, h, -r)),
    "vertical flip": (
        lambda p: p * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 100.0]),
        lambda x, y, w, h, r: (x, 100 - y, w, h, -r),
    ),
    "resize": (lambda p: 2.5 * p, lambda x, y, w, h, r: (2.5 * x, 2.5 * y, 2.5 * w, 2.5 * h, r)),
    "crop": (
        lambda p: p - torch.tensor([13.0, 7.0]),
        lambda x, y, w, h, r: (x - 13, y - 7, w, h, r),
    ),
    "rotate by 90": (_quarter, lambda x, y, w, h, r: (y, 100 - x, w, h, r + 90)),
    "rotate by 30": (
        _turn,
        lambda x, y, w, h, r: (*_turn(torch.stack((x, y), -1)).unbind(-1), w, h, r + 30),
    ),
}


@pytest.mark.parametrize("version", [*VERSIONS, "corners"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_commutes_with_the_polygon(name: str, version: str | None) -> None:
    """Flip, resize, crop and rotate the box, or its corners: the same polygon."""
    of_points, of_box = GEOMETRY[name]
    boxes = boxes_of_all_kinds()
    if version == "corners":
        boxes = ops.corners_to_boxes(ops.boxes_to_corners(boxes))
    else:
        boxes = ops.boxes_from_mmcv(ops.boxes_to_mmcv(boxes, version))
    changed = torch.stack(of_box(*boxes.unbind(1)), 1)
    same_polygons(ops.boxes_to_corners(changed), of_points(ops.boxes_to_corners(boxes)), 1e-8)


def test_torchvisions_transforms_commute_with_the_polygon() -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    boxes = boxes_of_all_kinds()
    wrapped = tv_tensors.BoundingBoxes(
        boxes, format="CXCYWHR", canvas_size=(100, 100), clamping_mode=None
    )
    corners = ops.boxes_to_corners(wrapped)
    assert type(corners) is Tensor
    same_polygons(ops.boxes_to_corners(transforms.horizontal_flip(wrapped)), _flip(corners), 1e-8)
    resized = transforms.resize(wrapped, [250, 250])
    same_polygons(ops.boxes_to_corners(resized), 2.5 * corners, 1e-8)


# ---- Errors --------------------------------------------------------------------------------------


def test_errors_name_the_argument() -> None:
    boxes = random_boxes(3)
    for convert in (
        ops.boxes_to_corners,
        ops.boxes_to_bounds,
        ops.boxes_to_mmcv,
        ops.boxes_from_mmcv,
    ):
        with pytest.raises(ValueError, match=r"boxes must have shape \(..., 5\), got \(3, 4\)"):
            convert(boxes[:, :4])
        with pytest.raises(TypeError, match=r"boxes must be a torch\.Tensor, got list"):
            convert([1.0])
        assert convert(boxes[:0]).shape[0] == 0
    with pytest.raises(ValueError, match=r"corners must have shape \(..., 4, 2\) or \(..., 8\)"):
        ops.corners_to_boxes(boxes)
    assert ops.corners_to_boxes(torch.zeros(0, 4, 2)).shape == (0, 5)
    with pytest.raises(ValueError, match="version must be 'oc', 'le90', 'le135' or None"):
        ops.boxes_to_mmcv(boxes, "le45")
