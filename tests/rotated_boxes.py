# SPDX-License-Identifier: Apache-2.0
"""Rotated boxes, and two judges of their overlap: shapely in float64, and 60 digits."""

from typing import NamedTuple

import numpy as np
import torch
from mpmath import mp, mpf
from torch import Tensor


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def random_boxes(
    count: int, extent: float = 100.0, sides: tuple[float, float] = (5.0, 60.0)
) -> Tensor:
    """Return boxes with centers in [0, extent] and any angle, float64."""
    low, high = sides
    return torch.cat(
        (
            extent * uniform(count, 2),
            low + (high - low) * uniform(count, 2),
            720 * uniform(count, 1) - 360,
        ),
        1,
    )


def moved(boxes: Tensor, across: Tensor | float, down: Tensor | float) -> Tensor:
    """Return boxes moved along their own axes."""
    angle = boxes[:, 4].deg2rad()
    result = boxes.clone()
    result[:, 0] += across * angle.cos() + down * angle.sin()
    result[:, 1] += down * angle.cos() - across * angle.sin()
    return result


def families(n: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return pairs of boxes of every kind that was got wrong somewhere, n of each."""
    a, b = random_boxes(n), random_boxes(n)
    half, turned, swapped, inside = a.clone(), a.clone(), a.clone(), a.clone()
    half[:, 2] /= 2
    turned[:, 4] += 180
    swapped[:, 2:4] = a[:, [3, 2]]
    swapped[:, 4] += 90 * torch.randint(-3, 4, (n,)) * 2 + 90
    inside[:, 2:4] *= 0.3
    thin, empty, eighths_a, eighths_b = a.clone(), a.clone(), a.clone(), b.clone()
    thin[:, 2] = 1e-6
    empty[:, 2] = 0
    for boxes in (eighths_a, eighths_b):
        boxes[:, 4] = 45.0 * torch.randint(-8, 9, (n,))
    crossed = thin.clone()
    crossed[:, 4] = 360 * uniform(n)
    noise = 2 * uniform(n, 5) - 1
    utm = torch.tensor([5e5, 5e6, 0, 0, 0], dtype=torch.float64)
    huge = {"extent": 2e6, "sides": (1e5, 1e6)}
    tiny = {"extent": 1e-100, "sides": (1e-101, 1e-100)}
    result = {
        "random": (a, b),
        "equal": (a, a.clone()),
        "half a turn": (a, turned),
        "quarter turn, sides exchanged": (a, swapped),
        "half the width": (a, half),
        "inside": (a, inside),
        "side in common": (a, moved(a, a[:, 2], 0.0)),
        "corner in common": (a, moved(a, a[:, 2], a[:, 3])),
        "multiples of 45 degrees": (eighths_a, eighths_b),
        "no width against boxes": (empty, b),
        "no width against itself": (empty, empty.clone()),
        "thin against boxes": (thin, b),
        "thin against itself": (thin, thin.clone()),
        "thin, jitter": (thin, thin + noise * torch.tensor([1e-7, 1e-7, 1e-7, 1, 1e-9])),
        "thin, moved along": (thin, moved(thin, 0.0, 10 * uniform(n))),
        "thin, crossed": (thin, crossed),
        "huge": (random_boxes(n, **huge), random_boxes(n, **huge)),
        "huge against small": (random_boxes(n, 100, (1e5, 1e6)), b),
        "tiny": (random_boxes(n, **tiny), random_boxes(n, **tiny)),
        "UTM": (a + utm, b + utm),
        "UTM, jitter": (a + utm, a + utm + 1e-6 * noise),
    }
    for size in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9):
        result[f"jitter {size:g}"] = (a, a + size * noise)
    return result


def shapely_iou(boxes1: Tensor, boxes2: Tensor) -> np.ndarray:
    """Return the ratios of aligned pairs by shapely, from the difference of the centers on."""
    import shapely

    first, second = boxes1.double().numpy(), boxes2.double().numpy()
    first, second = first.copy(), second.copy()
    first[:, :2] -= second[:, :2]
    second[:, :2] = 0

    def polygons(boxes: np.ndarray) -> np.ndarray:
        x, y, w, h, degrees = boxes.T
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        corners = [
            (x + u * w / 2 * cos + v * h / 2 * sin, y - u * w / 2 * sin + v * h / 2 * cos)
            for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        return shapely.polygons(np.stack([np.stack(corner, -1) for corner in corners], 1))

    p, q = polygons(first), polygons(second)
    intersection = shapely.area(shapely.intersection(p, q))
    union = first[:, 2] * first[:, 3] + second[:, 2] * second[:, 3] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


class Judgment(NamedTuple):
    """Comparison of the ratios of aligned pairs with those of shapely, and of 60 digits.

    Attributes:
        apart: Largest difference from shapely.
        doubtful: Number of pairs whose difference is larger than a bound.
        error: Largest error of up to 200 doubtful pairs, for which 60 digits decide.
    """

    apart: float
    doubtful: int
    error: float


def judge(boxes1: Tensor, boxes2: Tensor, ratios: np.ndarray, bound: float) -> Judgment:
    """Compare ratios with shapely's, and where these differ by more than a bound with 60 digits.

    shapely computes with the boxes' corners, whose rounding is much for slivers, and gives 0 for
    some nearly equal boxes.
    """
    apart = np.abs(ratios - shapely_iou(boxes1, boxes2))
    rows = np.flatnonzero(~(apart <= bound))
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 200)).astype(int)]
    exact = exact_iou(boxes1[some], boxes2[some])
    errors = [abs(float(value - ratios[k])) for value, k in zip(exact, some, strict=True)]
    return Judgment(float(apart.max()), len(rows), max(errors, default=0.0))


def exact_iou(boxes1: Tensor, boxes2: Tensor) -> list[mpf]:
    """Return the ratios of aligned pairs, by clipping polygons with 60 digits."""
    with mp.workdps(60):
        pairs = zip(boxes1.double().tolist(), boxes2.double().tolist(), strict=True)
        return [_exact_iou(first, second) for first, second in pairs]


def _exact_iou(first: list[float], second: list[float]) -> mpf:
    clipped, frame = _corners(first), _corners(second)
    for i in range(4):
        (x1, y1), (x2, y2) = frame[i], frame[(i + 1) % 4]
        sides = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in clipped]
        result = []
        for k, (x, y) in enumerate(clipped):
            (before_x, before_y), before, here = clipped[k - 1], sides[k - 1], sides[k]
            if (before >= 0) != (here >= 0):
                t = before / (before - here)
                result.append((before_x + t * (x - before_x), before_y + t * (y - before_y)))
            if here >= 0:
                result.append((x, y))
        clipped = result
    area = (
        sum(
            clipped[k - 1][0] * clipped[k][1] - clipped[k][0] * clipped[k - 1][1]
            for k in range(len(clipped))
        )
        / 2
    )
    union = mpf(first[2]) * mpf(first[3]) + mpf(second[2]) * mpf(second[3]) - area
    return area / union if union > 0 else mpf(0)


def _corners(box: list[float]) -> list[tuple[mpf, mpf]]:
    x, y, w, h, degrees = map(mpf, box)
    cos, sin = mp.cos(degrees * mp.pi / 180), mp.sin(degrees * mp.pi / 180)
    return [
        (x + u * w / 2 * cos + v * h / 2 * sin, y - u * w / 2 * sin + v * h / 2 * cos)
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
