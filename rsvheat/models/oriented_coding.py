# SPDX-License-Identifier: Apache-2.0
"""Codings of oriented boxes: the numbers that layers predict, and the boxes they stand for.

Boxes are CXCYWHR in the convention of ``rsvheat.ops.boxes``. A rectangle has many such values:
its angle plus 180 degrees, or plus 90 with its sides exchanged. Each coding chooses one, so
decoding gives the same rectangle, not the same numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from rsvheat.ops.box_losses import iou_loss_rotated, kld_loss_rotated, prob_iou_loss_rotated

AngleCoding: TypeAlias = Literal["direct", "vector"]
OverlapLoss: TypeAlias = Literal["iou", "kld", "probiou"]
BoxLoss: TypeAlias = Literal["smooth_l1", "iou", "kld", "probiou"]

# Largest logarithm of a ratio of sides that is decoded, as in torchvision: sides stay finite.
MOST_GROWTH = math.log(1000 / 16)
# Rounding may put a box at angle 0 to -1e-6 or 1e-6 degrees, whose codes lie at opposite ends.
_SAME_ANGLE = 1e-3


def longer_side_first(boxes: Tensor) -> Tensor:
    """Return the same rectangles with the longer side as width, and angles in [-90, 90).

    Args:
        boxes: Boxes, (..., 5).
    """
    center, width, height, angle = torch.split(boxes, [2, 1, 1, 1], -1)
    other = height > width
    sides = torch.where(other, height, width), torch.where(other, width, height)
    angle = (angle + torch.where(other, 180.0, 90.0)).remainder(180) - 90
    return torch.cat((center, *sides, angle), -1)


def encode_midpoints(
    anchors: Tensor, boxes: Tensor, deviations: Sequence[float] = (1, 1, 1, 1, 0.5, 0.5)
) -> Tensor:
    """Return the midpoint offsets of oriented boxes relative to horizontal anchors.

    The first four numbers are those of Faster R-CNN for the horizontal box around the oriented one:
    shift of the center and logarithms of the sides. The others say where on the upper side and on
    the right side the oriented box's corners lie: offsets from the midpoints, in units of the side.

    Args:
        anchors: Anchors, (N, 4) XYXY.
        boxes: Boxes, (N, 5).
        deviations: Divisors of the six numbers.

    Returns:
        (N, 6). A box at angle 0 has the last two offsets -0.5 before their division.

    Source: Oriented R-CNN (arXiv 2108.05699), section 3.1.
    """
    # In (-90, 0] degrees the first corner is the upper one and the second the right one.
    turns = (boxes[:, 4] / 90 - _SAME_ANGLE / 90).ceil()
    width, height = _exchanged(boxes, turns)
    cos, sin = _direction(boxes[:, 4] - 90 * turns)
    sin = -sin
    outer_width, outer_height = width * cos + height * sin, width * sin + height * cos
    upper = (height * sin - width * cos) / 2 / outer_width
    right = (width * sin - height * cos) / 2 / outer_height
    center, sides = _centers(anchors)
    shift = (boxes[:, :2] - center) / sides
    growth = (torch.stack((outer_width, outer_height), 1) / sides).log()
    offsets = torch.stack((upper, right), 1).clamp(-0.5, 0.5)
    codes = torch.cat((shift, growth, offsets), 1)
    return codes / codes.new_tensor(deviations)


def decode_midpoints(
    anchors: Tensor, codes: Tensor, deviations: Sequence[float] = (1, 1, 1, 1, 0.5, 0.5)
) -> Tensor:
    """Return the oriented boxes of midpoint offsets, the inverse of ``encode_midpoints``.

    Offsets that are no rectangle's give a parallelogram, whose shorter diagonal is stretched to the
    length of the longer one.

    Args:
        anchors: Anchors, (N, 4) XYXY.
        codes: Midpoint offsets, (N, 6).
        deviations: Divisors of the six numbers.

    Returns:
        Boxes (N, 5), the longer side first.
    """
    codes = codes * codes.new_tensor(deviations)
    center, sides = _centers(anchors)
    center = center + codes[:, :2] * sides
    width, height = (sides * codes[:, 2:4].clamp(max=MOST_GROWTH).exp()).unbind(1)
    upper, right = codes[:, 4:].clamp(-0.5, 0.5).unbind(1)
    first = torch.stack((upper * width, -height / 2), 1)
    second = torch.stack((width / 2, right * height), 1)
    lengths = torch.stack((first.square().sum(1), second.square().sum(1)), 1).sqrt()
    longest = lengths.amax(1, keepdim=True)
    first = first * longest / lengths[:, :1]
    second = second * longest / lengths[:, 1:]
    across, down = second - first, -first - second
    box_width, box_height = across.square().sum(1).sqrt(), down.square().sum(1).sqrt()
    angle = torch.atan2(-across[:, 1], across[:, 0]).rad2deg()
    boxes = torch.cat((center, torch.stack((box_width, box_height, angle), 1)), 1)
    return longer_side_first(boxes)


def encode_relative(
    references: Tensor, boxes: Tensor, deviations: Sequence[float] = (0.1, 0.1, 0.2, 0.2, 0.1)
) -> Tensor:
    """Return oriented boxes relative to other ones, in the frame of these.

    Of the four values of a rectangle that with the nearest angle is taken.

    Args:
        references: Boxes (N, 5) to which the numbers are relative.
        boxes: Boxes, (N, 5).
        deviations: Divisors of the five numbers.

    Returns:
        (N, 5): shift along the reference's width and height in units of these, logarithms of the
        ratios of the sides, and the turn in radians, within a quarter of pi.

    Source: Oriented R-CNN (arXiv 2108.05699), section 3.2; RoI Transformer (arXiv 1812.00155).
    """
    turn = boxes[:, 4] - references[:, 4]
    turns = (turn / 90).round()
    sides = torch.stack(_exchanged(boxes, turns), 1)
    turn = (turn - 90 * turns).deg2rad()
    shift = _along(boxes[:, :2] - references[:, :2], references[:, 4]) / references[:, 2:4]
    codes = torch.cat((shift, (sides / references[:, 2:4]).log(), turn[:, None]), 1)
    return codes / codes.new_tensor(deviations)


def decode_relative(
    references: Tensor, codes: Tensor, deviations: Sequence[float] = (0.1, 0.1, 0.2, 0.2, 0.1)
) -> Tensor:
    """Return the boxes of numbers relative to other boxes, the inverse of ``encode_relative``.

    Args:
        references: Boxes (N, 5) to which the numbers are relative.
        codes: Numbers, (N, 5).
        deviations: Divisors of the five numbers.

    Returns:
        Boxes, (N, 5).
    """
    codes = codes * codes.new_tensor(deviations)
    shift = _across(codes[:, :2] * references[:, 2:4], references[:, 4])
    sides = references[:, 2:4] * codes[:, 2:4].clamp(max=MOST_GROWTH).exp()
    angle = references[:, 4:] + codes[:, 4:].rad2deg()
    return torch.cat((references[:, :2] + shift, sides, angle), 1)


def encode_distances(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances of points to the sides of oriented boxes, and the boxes' angles.

    Args:
        points: Points, (..., 2) as x and y.
        boxes: Boxes (..., 5), broadcast against the points.

    Returns:
        Distances (..., 4) to the left, upper, right and lower side as seen along the longer side,
        which are negative outside; and angles (...,) of the longer side in [-90, 90) degrees.

    Source: Rotated FCOS of mmrotate; distances of FCOS (arXiv 1904.01355) in the box's frame.
    """
    boxes = longer_side_first(boxes)
    angle = boxes[..., 4]
    across, down = _along(points - boxes[..., :2], angle).unbind(-1)
    half_width, half_height = (boxes[..., 2:4] / 2).unbind(-1)
    distances = (half_width + across, half_height + down, half_width - across, half_height - down)
    return torch.stack(distances, -1), angle


def decode_distances(points: Tensor, distances: Tensor, angle: Tensor) -> Tensor:
    """Return the boxes of distances and angles, the inverse of ``encode_distances``.

    Args:
        points: Points, (N, 2).
        distances: Distances to the left, upper, right and lower side, (N, 4).
        angle: Angles in degrees, (N,).

    Returns:
        Boxes, (N, 5).
    """
    before, after = distances[:, :2], distances[:, 2:]
    center = points + _across((after - before) / 2, angle)
    return torch.cat((center, before + after, angle[:, None]), 1)


def encode_angle(angle: Tensor, coding: AngleCoding) -> Tensor:
    """Return the numbers that stand for angles of a period of 180 degrees.

    Args:
        angle: Angles in degrees, (N,).
        coding: ``"direct"`` for the angle in radians, which jumps by pi at the ends of its range;
            ``"vector"`` for cosine and sine of its double, which nowhere jump.

    Returns:
        (N, 1) or (N, 2).

    Source: double angles, as phase-shifting coders use (arXiv 2211.06368).
    """
    radians = angle.deg2rad()[:, None]
    if coding == "direct":
        return radians
    return torch.cat(((2 * radians).cos(), (2 * radians).sin()), 1)


def decode_angle(codes: Tensor, coding: AngleCoding) -> Tensor:
    """Return the angles (N,) in degrees, the inverse of ``encode_angle``.

    Args:
        codes: Numbers of the angles, (N, 1) or (N, 2), of any length in the case of vectors.
        coding: As for ``encode_angle``.
    """
    if coding == "direct":
        return codes[:, 0].rad2deg()
    return torch.atan2(codes[:, 1], codes[:, 0]).rad2deg() / 2


def angle_numbers(coding: AngleCoding) -> int:
    """Return how many numbers stand for an angle.

    Args:
        coding: As for ``encode_angle``.

    Raises:
        ValueError: If there is no such coding.
    """
    if coding not in get_args(AngleCoding):
        raise ValueError(f"angle_coding must be one of {get_args(AngleCoding)}, got {coding!r}")
    return 1 if coding == "direct" else 2


def check_box_loss(box_loss: BoxLoss) -> None:
    """Check the name of a loss.

    Args:
        box_loss: Name of the loss.

    Raises:
        ValueError: If there is no such loss.
    """
    if box_loss not in get_args(BoxLoss):
        raise ValueError(f"box_loss must be one of {get_args(BoxLoss)}, got {box_loss!r}")


def overlap_loss(boxes: Tensor, wanted: Tensor, kind: OverlapLoss) -> Tensor:
    """Return a loss of each pair of boxes, (N,), by exact overlap or by Gaussian distributions.

    Args:
        boxes: Predicted boxes, (N, 5).
        wanted: Annotated boxes, (N, 5).
        kind: Name of the loss.
    """
    losses: dict[OverlapLoss, Callable[..., Tensor]] = {
        "iou": iou_loss_rotated,
        "kld": kld_loss_rotated,
        "probiou": prob_iou_loss_rotated,
    }
    return losses[kind](boxes, wanted, reduction="none")


def _direction(angle: Tensor) -> tuple[Tensor, Tensor]:
    radians = angle.deg2rad()
    return radians.cos(), radians.sin()


def _exchanged(boxes: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sides, exchanged where a box is turned by an odd number of quarters."""
    odd = turns.remainder(2) == 1
    width, height = boxes[:, 2], boxes[:, 3]
    return torch.where(odd, height, width), torch.where(odd, width, height)


def _centers(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def _along(shift: Tensor, angle: Tensor) -> Tensor:
    """Return shifts of the image in the frame of boxes at an angle."""
    cos, sin = _direction(angle)
    x, y = shift.unbind(-1)
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1)


def _across(shift: Tensor, angle: Tensor) -> Tensor:
    """Return shifts in the frame of boxes at an angle as those of the image."""
    return _along(shift, -angle)
