# SPDX-License-Identifier: Apache-2.0
"""Boxes of whole images, put together from those that a network finds in tiles."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from rsvheat.data.boxes import Boxes
from rsvheat.data.image_reader import Window
from rsvheat.data.tiles import Tile, Tiles
from rsvheat.data.transforms import Crop, Motion
from rsvheat.found_boxes import FoundBoxes, merge
from rsvheat.losses import world_size


class WholeImages:
    """Puts the boxes of an image's tiles together, as ``rsvheat predict`` does on a scene.

    A tile's box is kept if no other tile is nearer to its center. A box that reaches over a seam is
    merged with the box that the neighbor found for the same object.

    Args:
        tiles: Tiles of the images.
        size: Side in pixels that tiles are resized to for the network.
        labels: New number of each class of the tiles' boxes; None leaves them.
    """

    def __init__(self, tiles: Tiles, size: int, labels: NDArray[np.int64] | None = None) -> None:
        self._tiles, self._size, self._labels = tiles, size, labels
        self._numbers = {tiles.key(index): index for index in range(len(tiles))}
        # By image and tile: boxes within the tile's own part, and boxes that reach over a seam.
        self._found: dict[int, dict[int, tuple[FoundBoxes, FoundBoxes]]] = {}

    def add(self, key: str, found: Mapping[str, Tensor]) -> None:
        """Add the boxes of a tile.

        Args:
            key: Name of the tile, which is in one process only.
            found: Tensors ``boxes``, ``scores`` and ``labels`` in pixels of the resized tile.
        """
        number = self._numbers[key]
        tile = self._tiles.tile(number)
        boxes = found["boxes"].detach().as_subclass(Tensor).cpu().double()
        boxes[:, :4] *= tile.window.width / self._size
        every = FoundBoxes.of({**found, "boxes": boxes}, tile.window, 0.0)
        own = every[self._answers(tile, every.centers)]
        low, high = np.split(own.extents, 2, 1)
        inner = self._answers(tile, low) & self._answers(tile, high)
        self._found.setdefault(tile.sample, {})[number] = own[inner], own[~inner]

    @staticmethod
    def _answers(tile: Tile, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points of an image a tile answers for."""
        return tile.answers_for(points - (tile.window.left, tile.window.top))

    def images(self) -> Iterator[tuple[dict[str, Tensor], Boxes]]:
        """Yield this process's share of the images of which some tile was added in any process.

        Every process has to call it.

        Yields:
            Tensors ``boxes``, ``scores`` and ``labels`` of an image, and its true boxes, XYXY or
            CXCYWHR, in pixels of the image.
        """
        parts: list[Any] = [self._found]
        if world_size() > 1:
            parts = [None] * world_size()
            distributed.all_gather_object(parts, self._found)
        rank = distributed.get_rank() if world_size() > 1 else 0
        samples = sorted({sample for part in parts for sample in part})
        sizes = {t.sample: t.size for t in map(self._tiles.tile, range(len(self._tiles)))}
        for sample in samples[rank :: world_size()]:
            by_tile = {n: found for part in parts for n, found in part.get(sample, {}).items()}
            # Equal scores rank by this order, which must not depend on the processes.
            tiles = [found for _, found in sorted(by_tile.items())]
            inner, crossing = (self._joined(found) for found in zip(*tiles, strict=True))
            objects, _ = merge(crossing, sizes[sample])
            both = inner + objects
            found = {
                "boxes": torch.from_numpy(both.boxes),
                "scores": torch.from_numpy(both.scores),
                "labels": torch.from_numpy(both.labels),
            }
            yield found, self._truth(sample, sizes[sample])

    def _joined(self, parts: Sequence[FoundBoxes]) -> FoundBoxes:
        joined = FoundBoxes.none(5 if self._tiles.target == "oriented_boxes" else 4)
        for part in parts:
            joined = joined + part
        return joined

    def _truth(self, sample: int, size: tuple[int, int]) -> Boxes:
        side = max(size)
        whole = Window(0, 0, side, side)
        found: Boxes = self._tiles.source.read_target(sample, whole)
        crop = Crop(side, augment=False, min_inside=0.0)
        boxes = crop.move_boxes(found, whole, size, Motion(), self._tiles.target)
        labels = boxes.labels if self._labels is None else self._labels[boxes.labels]
        return boxes._replace(labels=labels)
