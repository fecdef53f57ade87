# SPDX-License-Identifier: Apache-2.0
"""Miniature trees of data sets of two dates."""

import os
from pathlib import Path

import numpy as np

from rsvheat.data.miniature.painter import Painter, write_picture
from rsvheat.data.miniature.tree import Miniature, as_tuples


def write_levir_cd(
    folder: str | os.PathLike[str], size: int = 64, seed: int = 0, *, tiles: bool = False
) -> Miniature:
    """Write LEVIR-CD: pairs of dates and changed buildings, whole or as tiles with lists.

    Traps: labels 0 and 255, where 255 is change and not the ignored label; a pair without change;
    another light at the second date; as tiles, splits that only the lists tell.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of an image in pixels (1024 in the original), even.
        seed: Seed of the scenes.
        tiles: Whether to write quarters of the images as the 256 pixel variant does.
    """
    root = Path(folder)
    counts = {"train": 4, "val": 2, "test": 2}
    keys: dict[str, list[str]] = {split: [] for split in counts}
    traps: dict[str, Path] = {}
    for number, (split, n) in enumerate(
        (s, n) for s, count in counts.items() for n in range(count)
    ):
        name = f"{split}_{n + 1}"
        before = Painter(size, (seed, number), 2)
        after = Painter(size, (seed, number), 2)
        unchanged = name == "train_2"
        if not unchanged:
            after.add(1, 4, size // 5)
        label = after.labels[None] * np.uint8(255)
        newer = (after.picture(3) * 0.85).astype(np.uint8) + np.uint8(10)
        files = {"A": before.picture(3), "B": newer, "label": label}
        if not tiles:
            for kind, picture in files.items():
                write_picture(root / split / kind / f"{name}.png", picture)
            keys[split].append(name)
        else:
            half = size // 2
            for top in (0, half):
                for left in (0, half):
                    key = f"{name}_{top:04}_{left:04}"
                    for kind, picture in files.items():
                        tile = picture[:, top : top + half, left : left + half]
                        write_picture(root / kind / f"{key}.png", tile)
                    keys[split].append(key)
        if unchanged:
            place = root / "label" if tiles else root / split / "label"
            traps["no_change"] = place / f"{keys[split][-1]}.png"
    if tiles:
        (root / "list").mkdir(parents=True, exist_ok=True)
        for split, tile_names in keys.items():
            lines = "".join(f"{name}.png\n" for name in tile_names)
            (root / "list" / f"{split}.txt").write_text(lines)
    return Miniature(root, ("no change", "change"), as_tuples(keys), traps=traps)
