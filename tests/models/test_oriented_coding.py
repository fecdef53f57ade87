# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

pytest.importorskip("torchvision")

from rsvheat.models.oriented_coding import (
    angle_numbers,
    decode_angle,
    decode_distances,
    decode_midpoints,
    decode_relative,
    encode_angle,
    encode_distances,
    encode_midpoints,
    encode_relative,
)
from rsvheat.ops import box_iou_rotated, boxes_to_corners

# Ends of the ranges of all conventions, and a little to either side of them.
ANGLES = [k * 45.0 + jitter for k in range(-8, 9) for jitter in (0, 1e-4, -1e-4, 1, -1)]
SIDES = [(30.0, 10.0), (10.0, 30.0), (20.0, 20.0), (60.0, 1.0), (20.0, 20.0 + 1e-9)]


def boxes(count=200, dtype=torch.float64):
    """Random boxes, and squares and others at the ends of the angles' ranges."""
    torch.manual_seed(0)
    drawn = torch.rand(count, 5, dtype=dtype) * torch.tensor([90, 90, 60, 60, 720.0])
    drawn += torch.tensor([0, 0, 1, 1, -360.0])
    ends = [[50.0, 40.0, *sides, angle] for sides in SIDES for angle in ANGLES]
    return torch.cat((drawn, torch.tensor(ends, dtype=dtype)))


def anchors(count):
    torch.manual_seed(1)
    corner, sides = torch.rand(2, count, 2, dtype=torch.float64) * 60
    return torch.cat((corner, corner + sides + 4), 1)


def assert_same_rectangles(found, expected, tolerance=1e-9):
    """The corners are the same, from whichever the order begins and whichever way it goes."""
    corners, wanted = boxes_to_corners(found), boxes_to_corners(expected)
    orders = [torch.roll(torch.arange(4), k) for k in range(4)]
    gaps = torch.stack([(corners[:, order] - wanted).abs().amax((1, 2)) for order in orders])
    assert gaps.amin(0).max() < tolerance


def test_midpoint_offsets_come_back():
    given = boxes()
    around = anchors(len(given))
    codes = encode_midpoints(around, given)
    assert codes.shape == (len(given), 6)
    assert (codes[:, 4:] * 0.5).abs().max() <= 0.5 + 1e-4
    # Angles within 0.001 degree above a multiple of 90 are taken as the multiple's own.
    assert_same_rectangles(decode_midpoints(around, codes), given, 2e-3)
    plain = encode_midpoints(around, given, (1,) * 6)
    torch.testing.assert_close(plain[:, 4:], codes[:, 4:] / 2)
    exact = boxes()[:200]
    again = decode_midpoints(around[:200], encode_midpoints(around[:200], exact))
    assert_same_rectangles(again, exact)


def test_midpoint_offsets_are_those_of_the_horizontal_box():
    """A box at 0 or 90 degrees is its own horizontal box, whatever rounding does to the angle."""
    around = torch.tensor([[0.0, 0, 20, 10]])
    for angle in (0.0, 1e-6, -1e-6, 180.0, -180.0, 360.0):
        codes = encode_midpoints(around, torch.tensor([[13.0, 4, 40, 5, angle]]), (1,) * 6)
        expected = torch.tensor([[0.15, -0.1, 0.6931, -0.6931, -0.5, -0.5]])
        torch.testing.assert_close(codes, expected, atol=1e-4, rtol=0.0)


def test_midpoint_offsets_decode_to_rectangles_whatever_comes():
    torch.manual_seed(0)
    around = anchors(100)
    codes = torch.randn(100, 6, dtype=torch.float64) * 3
    found = decode_midpoints(around, codes)
    assert found.isfinite().all()
    assert (found[:, 2:4] >= 0).all()
    codes[:, :4] = 0
    center = decode_midpoints(around, codes)[:, :2]
    torch.testing.assert_close(center, (around[:, :2] + around[:, 2:]) / 2)


def test_relative_codes_come_back_and_are_the_smallest():
    given = boxes()
    references = boxes().flip(0)
    codes = encode_relative(references, given)
    assert_same_rectangles(decode_relative(references, codes), given)
    assert codes[:, 4].abs().max() * 0.1 <= torch.pi / 4 + 1e-12
    same = encode_relative(given, given)
    assert torch.equal(same, torch.zeros_like(same))
    turned = given[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, 90.0])
    torch.testing.assert_close(encode_relative(given, turned), same)


def test_distances_come_back():
    given = boxes()
    points = given[:, :2] + torch.rand(len(given), 2, dtype=torch.float64) * 10
    distances, angle = encode_distances(points, given)
    assert ((angle >= -90) & (angle < 90)).all()
    assert_same_rectangles(decode_distances(points, distances, angle), given)
    center, _ = encode_distances(given[:, :2], given)
    torch.testing.assert_close(center[:, :2], center[:, 2:])
    longest = torch.maximum(given[:, 2], given[:, 3])
    torch.testing.assert_close(center[:, 0] + center[:, 2], longest)


@pytest.mark.parametrize("coding", ["direct", "vector"])
def test_angles_come_back(coding):
    angle = boxes()[:, 4]
    codes = encode_angle(angle, coding)
    assert codes.shape == (len(angle), angle_numbers(coding))
    difference = (decode_angle(codes, coding) - angle + 90).remainder(180) - 90
    assert difference.abs().max() < 1e-9
    if coding == "vector":
        assert (
            (decode_angle(7 * codes, coding) - angle + 90).remainder(180) - 90
        ).abs().max() < 1e-9
        ends = encode_angle(torch.tensor([-90.0, 89.999]), coding)
        assert (ends[0] - ends[1]).abs().max() < 1e-4  # no jump


def mirrored(given, width=100.0):
    """Boxes in the image that is flipped from left to right."""
    x, y, w, h, angle = given.unbind(1)
    return torch.stack((width - x, y, w, h, -angle), 1)


def test_codes_of_mirrored_boxes_are_mirrored():
    given, references = boxes(), boxes().flip(0)
    codes = encode_relative(references, given)
    flipped = encode_relative(mirrored(references), mirrored(given))
    inner = codes[:, 4].abs() * 0.1 < torch.pi / 4 - 1e-3  # at the ends either side may be taken
    sign = torch.tensor([-1.0, 1, 1, 1, -1], dtype=torch.float64)
    torch.testing.assert_close(flipped[inner], (codes * sign)[inner])
    points = given[:, :2] + 3
    distances, angle = encode_distances(points, given)
    beyond = torch.stack((100 - points[:, 0], points[:, 1]), 1)
    other, other_angle = encode_distances(beyond, mirrored(given))
    again = decode_distances(beyond, other, other_angle)
    expected = mirrored(decode_distances(points, distances, angle))
    assert_same_rectangles(again, expected)
    same = box_iou_rotated(again, expected, aligned=True)
    torch.testing.assert_close(same, torch.ones_like(same))


def test_codings_in_single_precision():
    given = boxes(dtype=torch.float32)[:200]
    around = anchors(200).float()
    found = decode_midpoints(around, encode_midpoints(around, given))
    assert_same_rectangles(found.double(), given.double(), 1e-3)


def test_unknown_codings_are_refused():
    with pytest.raises(ValueError, match=r"angle_coding must be one of .*, got 'bins'"):
        angle_numbers("bins")
