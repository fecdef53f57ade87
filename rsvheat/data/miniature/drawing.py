# SPDX-License-Identifier: Apache-2.0
"""Draws objects with known boxes on small scenes."""

from collections.abc import Sequence

import numpy as np

from rsvheat.data.miniature.painter import Painter
from rsvheat.data.miniature.tree import DrawnBox


def draw_objects(
    scene: Painter, names: Sequence[str], labels: Sequence[int], *, oriented: bool
) -> list[DrawnBox]:
    """Draw one object of each label at a random place.

    Args:
        scene: Scene to draw on.
        names: Class names by label.
        labels: Label of each object.
        oriented: Whether objects are rotated by any angle.

    Returns:
        Box of each object, with whole coordinates, clockwise as seen.
    """
    height, width = scene.labels.shape
    shortest = min(height, width)
    drawn = []
    for label in labels:
        center = scene.rng.uniform(0.2, 0.8, 2) * (width, height)
        sides = scene.rng.uniform(shortest / 6, shortest / 3, 2)
        angle = scene.rng.uniform(0, np.pi) if oriented else 0.0
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-np.sin(angle), np.cos(angle)])
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        corners = np.array(
            [center + (a * sides[0] * along + b * sides[1] * across) / 2 for a, b in signs]
        ).round()
        scene.add_polygon(label, corners)
        drawn.append(DrawnBox(names[label], tuple((float(x), float(y)) for x, y in corners)))
    return drawn


def bounds_of(box: DrawnBox) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box.

    Args:
        box: Box of an object.
    """
    x, y = zip(*box.corners, strict=True)
    return min(x), min(y), max(x), max(y)


def horizontal(name: str, left: float, top: float, right: float, bottom: float) -> DrawnBox:
    """Return a horizontal box of no object.

    Args:
        name: Class name.
        left: Left side.
        top: Upper side.
        right: Right side.
        bottom: Lower side.
    """
    return DrawnBox(name, ((left, top), (right, top), (right, bottom), (left, bottom)))
