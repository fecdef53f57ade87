# SPDX-License-Identifier: Apache-2.0
"""Polygons as arrays: bounds, areas, intersections and the rectangles around them.

Polygons are (K, 2) as x and y in pixels, whose y points down; (N, 4, 2) for N quadrilaterals.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rsvheat.ops.box_convert import boxes_to_corners, corners_to_boxes

Points = NDArray[np.float64]


def bounds(corners: Points) -> Points:
    """Return the horizontal boxes around quadrilaterals.

    Args:
        corners: Corners (N, 4, 2).

    Returns:
        Left, top, right and bottom (N, 4).
    """
    return np.concatenate((corners.min(1), corners.max(1)), 1)


def bounds_corners(boxes: Points) -> Points:
    """Return the corners of horizontal boxes.

    Args:
        boxes: Left, top, right and bottom (N, 4).

    Returns:
        Corners (N, 4, 2): top left, top right, bottom right, bottom left.
    """
    corners: Points = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return corners


def box_corners(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners (4, 2) of one horizontal box, in the order of ``bounds_corners``.

    Args:
        left: Left side.
        top: Upper side.
        right: Right side.
        bottom: Lower side.
    """
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def rectangles(corners: Points) -> Points:
    """Return the smallest rotated boxes around quadrilaterals.

    Args:
        corners: Corners (N, 4, 2).

    Returns:
        Boxes (N, 5), see ``rsvheat.ops.box_convert.corners_to_boxes``.
    """
    boxes: Points = corners_to_boxes(torch.from_numpy(np.ascontiguousarray(corners))).numpy()
    return boxes


def rectangle_corners(boxes: Points) -> Points:
    """Return the corners of rotated boxes.

    Args:
        boxes: Boxes (N, 5): center x, center y, width, height, degrees counter-clockwise.

    Returns:
        Corners (N, 4, 2).
    """
    corners: Points = boxes_to_corners(torch.from_numpy(np.ascontiguousarray(boxes))).numpy()
    return corners


def areas(corners: Points) -> Points:
    """Return the areas of polygons that do not cross themselves.

    Args:
        corners: Corners (..., K, 2), in order around the polygon, either way.
    """
    # Large coordinates would cancel.
    x, y = np.moveaxis(corners - corners[..., :1, :], -1, 0)
    doubled = (x * np.roll(y, -1, -1) - y * np.roll(x, -1, -1)).sum(-1)
    return np.asarray(np.abs(doubled) / 2)


def areas_within(corners: Points, *regions: Points) -> Points:
    """Return the areas of the parts of convex quadrilaterals that lie in all of several regions.

    Args:
        corners: Corners (N, 4, 2), in order around each quadrilateral.
        *regions: Corners (K, 2) of a convex polygon each, in order around it.

    Returns:
        Areas (N,).
    """
    found = areas(corners)
    sides = np.concatenate([_half_planes(region) for region in regions])
    # Only quadrilaterals that the border of a region cuts are clipped one by one.
    distances = corners @ sides[:, :2].T + sides[:, 2]
    for index in np.flatnonzero((distances < 0).any((1, 2))):
        polygon = corners[index]
        for side in sides:
            polygon = _clip(polygon, side)
        found[index] = areas(polygon) if len(polygon) > 2 else 0
    return found


def _half_planes(region: Points) -> Points:
    """Return lines (K, 3) a, b, c with a x + b y + c >= 0 within a convex polygon."""
    along = np.roll(region, -1, 0) - region
    x, y = (region - region[:1]).T
    turn = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()
    normal = np.stack((-along[:, 1], along[:, 0]), 1) * (1 if turn >= 0 else -1)
    return np.column_stack((normal, -(normal * region).sum(1)))


def _clip(polygon: Points, side: Points) -> Points:
    """Return the part of a polygon on the inner side of a line (Sutherland and Hodgman)."""
    if len(polygon) == 0:
        return polygon
    distance = polygon @ side[:2] + side[2]
    kept = []
    for i in range(len(polygon)):
        before, here = distance[i - 1], distance[i]
        if (before < 0) != (here < 0):
            step = before / (before - here)
            kept.append(polygon[i - 1] + step * (polygon[i] - polygon[i - 1]))
        if here >= 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 2)


def smallest_rectangle(points: Points | Sequence[Sequence[float]]) -> Points:
    """Return the corners of the rectangle of least area around points.

    Args:
        points: Points (K, 2), at least one.

    Returns:
        Corners (4, 2), in order around the rectangle.
    """
    points = np.asarray(points, np.float64)
    hull = _hull(points)
    if len(hull) < 3:
        start, end = hull[0], hull[-1]
        return np.stack((start, end, end, start))
    along = np.roll(hull, -1, 0) - hull
    along /= np.hypot(*along.T)[:, None]
    across = np.stack((-along[:, 1], along[:, 0]), 1)
    u, v = (hull - hull[0]) @ along.T, (hull - hull[0]) @ across.T  # (points, sides)
    best = int(((u.max(0) - u.min(0)) * (v.max(0) - v.min(0))).argmin())
    low_u, high_u, low_v, high_v = u[:, best].min(), u[:, best].max(), *_range(v[:, best])
    places = ((low_u, low_v), (high_u, low_v), (high_u, high_v), (low_u, high_v))
    return np.stack([hull[0] + a * along[best] + b * across[best] for a, b in places])


def _range(values: Points) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _hull(points: Points) -> Points:
    """Return the corners of the convex hull (monotone chain of Andrew)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered
    chains: list[list[Points]] = []
    for some in (ordered, ordered[::-1]):
        chain: list[Points] = []
        for point in some:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-1] - chain[-2], point - chain[-1]
                if ax * by - ay * bx > 0:
                    break
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    return np.array(chains[0] + chains[1])
