# SPDX-License-Identifier: Apache-2.0
"""Conversions of rotated boxes to and from corners, bounds and mmcv's conventions.

Boxes are (..., 5) in the convention of ``rsvheat.ops.boxes``: center x, center y, width, height,
angle in degrees, counter-clockwise as seen in an image, whose y points down.
"""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from rsvheat.ops import _boxes_checks, _checks

MmcvVersion: TypeAlias = Literal["oc", "le90", "le135"]

# Lowest angle in degrees of the versions whose width is the longer side.
_LOWEST = {"le90": -90.0, "le135": -45.0}
# Relative difference of areas within which the first edge of a quadrilateral gives the direction:
# more than what rounding its corners to float32 makes of a rectangle.
_SAME_AREA = 1e-3


def boxes_to_corners(boxes: Tensor) -> Tensor:
    """Return the corners of rotated boxes.

    Args:
        boxes: Boxes, (..., 5), of any floating-point dtype.

    Returns:
        Corners as x and y, (..., 4, 2): what is the top left, top right, bottom right and bottom
        left corner at angle 0, the order of torchvision's XYXYXYXY. Flattened to (..., 8) they
        are in that format. Of the dtype of ``boxes``.

    Raises:
        ValueError: If the last size is not 5.
        TypeError: If ``boxes`` is not a dense floating-point tensor.
    """
    x, y, w, h, angle = _columns("boxes", boxes, 5)
    cos, sin = _cos_sin(angle)
    across = torch.stack((w * cos, -w * sin), -1) / 2
    down = torch.stack((h * sin, h * cos), -1) / 2
    center = torch.stack((x, y), -1)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return torch.stack([center + a * across + d * down for a, d in signs], -2)


def corners_to_boxes(corners: Tensor) -> Tensor:
    """Return the smallest rotated boxes around quadrilaterals.

    The corners of a rectangle give that rectangle, with the width along the edge from the first to
    the second corner; so this is the inverse of ``boxes_to_corners``. Other quadrilaterals,
    convex or not, give their rectangle of least area, or that along their first edge if it is
    larger by less than 0.1 %. Center and sides are computed from differences in float64.

    Args:
        corners: Corners as x and y, (..., 4, 2) or (..., 8), of any floating-point dtype, in order
            around the quadrilateral, either way.

    Returns:
        Boxes, (..., 5), with angles in (-180, 180] degrees, of the dtype of ``corners``.

    Raises:
        ValueError: If the last sizes are neither 4 and 2 nor 8.
        TypeError: If ``corners`` is not a dense floating-point tensor.
    """
    corners = _boxes_checks.plain(_checks.tensor("corners", corners))
    if corners.shape[-2:] != (4, 2):
        if corners.dim() == 0 or corners.shape[-1] != 8:
            raise ValueError(
                f"corners must have shape (..., 4, 2) or (..., 8), got {tuple(corners.shape)}"
            )
        corners = corners.reshape(*corners.shape[:-1], 4, 2)
    exact = corners.to(_checks.precise_device(corners.device), torch.float64)
    origin = exact[..., :1, :]
    points = exact - origin
    # A side of the rectangle of least area lies along a side of the convex hull, hence along one of
    # the lines through two corners.
    pairs = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))
    direction = torch.stack([points[..., j, :] - points[..., i, :] for i, j in pairs], -2)
    length = direction.square().sum(-1, keepdim=True).sqrt()
    across = torch.where(length > 0, direction, torch.tensor([1.0, 0.0], device=exact.device))
    across = across / torch.where(length > 0, length, 1.0)
    down = torch.stack((-across[..., 1], across[..., 0]), -1)
    low, high = [], []
    for axis in (across, down):
        along = (axis[..., :, None, :] * points[..., None, :, :]).sum(-1)
        low.append(along.amin(-1))
        high.append(along.amax(-1))
    sides = torch.stack([b - a for a, b in zip(low, high, strict=True)], -1)
    area = sides.prod(-1)
    least, best = area.min(-1)
    best = torch.where(area[..., 0] <= least * (1 + _SAME_AREA), 0, best)[..., None]

    def chosen(values: Tensor) -> Tensor:
        index = best[..., None].expand(*best.shape, values.shape[-1])
        return values.gather(-2, index)[..., 0, :]

    middle = torch.stack([(a + b) / 2 for a, b in zip(low, high, strict=True)], -1)
    middle, axis_w, axis_h = chosen(middle), chosen(across), chosen(down)
    center = origin[..., 0, :] + middle[..., :1] * axis_w + middle[..., 1:] * axis_h
    angle = torch.atan2(-axis_w[..., 1], axis_w[..., 0]).rad2deg()
    # atan2 of -0 and -1
    angle = torch.where(angle <= -180, angle + 360, angle)
    boxes = torch.cat((center, chosen(sides), angle[..., None]), -1)
    return boxes.to(corners.device, corners.dtype)


def boxes_to_bounds(boxes: Tensor) -> Tensor:
    """Return the axis-aligned boxes around rotated boxes.

    Args:
        boxes: Boxes, (..., 5), of any floating-point dtype.

    Returns:
        Left, top, right and bottom, (..., 4), torchvision's XYXY, of the dtype of ``boxes``.

    Raises:
        ValueError: If the last size is not 5.
        TypeError: If ``boxes`` is not a dense floating-point tensor.
    """
    x, y, w, h, angle = _columns("boxes", boxes, 5)
    cos, sin = _cos_sin(angle)
    cos, sin = cos.abs(), sin.abs()
    half_x, half_y = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
    return torch.stack((x - half_x, y - half_y, x + half_x, y + half_y), -1)


def boxes_to_mmcv(boxes: Tensor, version: MmcvVersion | None = "le90") -> Tensor:
    """Convert rotated boxes to the convention of mmcv and mmrotate.

    There the angle is in radians and clockwise as seen in an image. The rectangle stays the same.

    Args:
        boxes: Boxes, (..., 5), of any floating-point dtype.
        version: Range of the angle: ``"le90"`` for [-pi/2, pi/2) and ``"le135"`` for
            [-pi/4, 3 pi/4), both of the longer side, which becomes the width; ``"oc"`` for
            (0, pi/2], where the width may be the shorter side; None keeps angle and sides.

    Returns:
        Center x, center y, width, height and angle, (..., 5), of the dtype of ``boxes``.

    Raises:
        ValueError: If the last size is not 5, or the version is not one of these.
        TypeError: If ``boxes`` is not a dense floating-point tensor.
    """
    x, y, w, h, angle = _columns("boxes", boxes, 5)
    if version not in (None, "oc", *_LOWEST):
        raise ValueError(f"version must be 'oc', 'le90', 'le135' or None, got {version!r}")
    degrees = -angle
    if version in _LOWEST:
        w, h, degrees = _exchange(h > w, w, h, degrees)
        degrees = _wrap(degrees, _LOWEST[version], 180.0)
    elif version == "oc":
        degrees = -_wrap(-degrees, -90.0, 180.0)  # (-90, 90]
        w, h, degrees = _exchange(degrees <= 0, w, h, degrees)
    return torch.stack((x, y, w, h, degrees * (math.pi / 180)), -1)


def boxes_from_mmcv(boxes: Tensor) -> Tensor:
    """Convert rotated boxes of mmcv and mmrotate, of any version, to the convention used here.

    Args:
        boxes: Center x, center y, width, height and angle in radians, clockwise as seen in an
            image, (..., 5), of any floating-point dtype.

    Returns:
        Boxes, (..., 5): the same sides, the angle in degrees, counter-clockwise.

    Raises:
        ValueError: If the last size is not 5.
        TypeError: If ``boxes`` is not a dense floating-point tensor.
    """
    x, y, w, h, angle = _columns("boxes", boxes, 5)
    return torch.stack((x, y, w, h, angle * (-180 / math.pi)), -1)


def _columns(name: str, value: Any, count: int) -> tuple[Tensor, ...]:
    value = _boxes_checks.plain(_checks.tensor(name, value))
    if value.dim() == 0 or value.shape[-1] != count:
        raise ValueError(f"{name} must have shape (..., {count}), got {tuple(value.shape)}")
    columns: tuple[Tensor, ...] = value.unbind(-1)
    return columns


def _cos_sin(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, exact at multiples of 90 degrees."""
    turns = (degrees.detach() / 90).round()
    rest = (degrees - turns * 90).deg2rad()
    cos, sin = rest.cos(), rest.sin()
    quadrant = turns.remainder(4)
    for turn in (1, 2, 3):
        at = quadrant >= turn
        cos, sin = torch.where(at, -sin, cos), torch.where(at, cos, sin)
    return cos, sin


def _exchange(where: Tensor, w: Tensor, h: Tensor, degrees: Tensor) -> tuple[Tensor, ...]:
    """Exchange the sides, with a quarter turn, so that the rectangle stays."""
    return (
        torch.where(where, h, w),
        torch.where(where, w, h),
        torch.where(where, degrees + 90, degrees),
    )


def _wrap(degrees: Tensor, lowest: float, period: float) -> Tensor:
    """Bring angles to [lowest, lowest + period)."""
    wrapped = (degrees - lowest).remainder(period) + lowest
    # A tiny negative remainder rounds up to the period.
    return torch.where(wrapped >= lowest + period, lowest, wrapped)
