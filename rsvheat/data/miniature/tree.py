# SPDX-License-Identifier: Apache-2.0
"""Description of a miniature tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class DrawnBox(NamedTuple):
    """Box of an object that was drawn.

    Attributes:
        name: Class name, as the reader is to give it.
        corners: Four corners (x, y) in pixels.
        difficult: Whether the box is marked as difficult.
    """

    name: str
    corners: tuple[tuple[float, float], ...]
    difficult: bool = False


@dataclass(frozen=True)
class Miniature:
    """A tree that was written.

    Attributes:
        root: Folder that a reader is given.
        classes: Class names in the order of the tables above.
        labeled: Keys of the samples that have both images and labels, by split.
        unlabeled: Keys of the samples that have images only, by split.
        traps: What readers stumble over, with the file or folder where it is.
        boxes: Boxes of each sample by key, in data sets of boxes.
    """

    root: Path
    classes: tuple[str, ...]
    labeled: dict[str, tuple[str, ...]]
    unlabeled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    traps: dict[str, Path] = field(default_factory=dict)
    boxes: dict[str, tuple[DrawnBox, ...]] = field(default_factory=dict)


def as_tuples(lists: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return lists as tuples.

    Args:
        lists: Lists by name.
    """
    return {name: tuple(values) for name, values in lists.items()}
