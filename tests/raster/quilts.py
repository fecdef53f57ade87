# SPDX-License-Identifier: Apache-2.0
"""Scenes whose classes are known."""

import numpy as np

SIDE = 32
# One of the names is markup if it is not escaped.
COLORS = {"Forest": (30, 90, 40), "Lake & Sea": (20, 50, 160), "Roof": (190, 70, 60)}
CLASSES = tuple(COLORS)


def patch(name: str, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """An image of a class, (3, side, side)."""
    noise = rng.normal(0, 25, (3, side, side))
    return (np.array(COLORS[name])[:, None, None] + noise).clip(1, 254).astype(np.uint8)


def quilt(labels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A scene whose windows are of these classes, (3, rows * side, columns * side)."""
    rng = np.random.default_rng(1)
    return np.concatenate(
        [np.concatenate([patch(CLASSES[i], rng, side) for i in row], 2) for row in labels], 1
    )
