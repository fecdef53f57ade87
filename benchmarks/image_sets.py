# SPDX-License-Identifier: Apache-2.0
"""Images that the benchmarks of training read, with their splits, and batches of them."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsvheat.data import FolderSource, read_image, stratified_split

HELD_OUT, SPLIT_SEED = 0.2, 0

Batches = Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]


@dataclass(frozen=True)
class Labelled:
    """Images (N, 3, 64, 64), normalised by the training part, and what is known of them."""

    images: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def eurosat(folder: Path) -> Labelled:
    """Return EuroSAT with its split: of each class a part is held out."""
    source = FolderSource({"optical": folder / "eurosat_rgb"})
    source.scan()
    names = [source.key(i).split("/")[0] for i in range(len(source))]
    classes = tuple(sorted(set(names)))
    labels = np.array([classes.index(name) for name in names])
    pixels = np.stack([read_image(source.file(i, "optical")).values for i in range(len(source))])
    parts = stratified_split(labels, {"test": HELD_OUT}, SPLIT_SEED)
    train = torch.from_numpy(parts["train"])
    images, mean, std = standardised(torch.from_numpy(pixels), train)
    return Labelled(
        images, torch.from_numpy(labels), train, torch.from_numpy(parts["test"]), classes, mean, std
    )


def standardised(
    pixels: Tensor, train: Tensor
) -> tuple[Tensor, tuple[float, ...], tuple[float, ...]]:
    """Return images of which each band has mean 0 and deviation 1 over the training part."""
    images = pixels.float()
    std, mean = torch.std_mean(images[train], dim=(0, 2, 3))
    images = (images - mean[:, None, None]) / std[:, None, None]
    return images, tuple(mean.tolist()), tuple(std.tolist())


def validation(data: Labelled) -> Labelled:
    """Hold out a part of the training images, since choices must not see those reported on."""
    inner = stratified_split(data.labels[data.train].numpy(), {"test": HELD_OUT}, 1)
    parts = {name: data.train[torch.from_numpy(inner[name])] for name in ("train", "test")}
    return dataclasses.replace(data, **parts)


@dataclass(frozen=True)
class Pairs:
    """Aligned scenes by modality, (N, bands, 1024, 1024), normalised by the training part."""

    scenes: dict[str, Tensor]
    train: Tensor
    test: Tensor
    names: tuple[str, ...]
    moments: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]

    def crops(self, count: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return crops of training scenes, by modality (count, bands, size, size)."""
        height, width = self.scenes["optical"].shape[2:]
        which = self.train[torch.randint(len(self.train), (count,), generator=generator)].tolist()
        tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
        lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
        return {
            name: torch.stack(
                [
                    scenes[i, :, top : top + size, left : left + size]
                    for i, top, left in zip(which, tops, lefts, strict=True)
                ]
            )
            for name, scenes in self.scenes.items()
        }

    def of_scene(self, scene: int) -> "Pairs":
        """Return the same with one scene to train on."""
        return dataclasses.replace(self, train=torch.tensor([scene]))

    def tiles(self, size: int) -> dict[str, Tensor]:
        """Return the held-out scenes cut into tiles, by modality (N, bands, size, size)."""
        result = {}
        for name, scenes in self.scenes.items():
            cut = scenes[self.test].unfold(2, size, size).unfold(3, size, size)
            result[name] = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return result


def volkov(folder: Path, held_out: Sequence[str]) -> Pairs:
    """Return the Sentinel-1/2 scenes; those named are held out."""
    source = FolderSource(
        {"optical": folder / "s1s2_volkov/opt", "sar": folder / "s1s2_volkov/sar"}
    )
    source.scan()
    names = tuple(source.key(i) for i in range(len(source)))
    test = [names.index(name) for name in held_out]
    train = torch.tensor([i for i in range(len(names)) if i not in test])
    scenes, moments = {}, {}
    for name, bands in (("optical", 3), ("sar", 1)):
        # Gray images are stored as three equal bands.
        pixels = [read_image(source.file(i, name)).values[:bands] for i in range(len(names))]
        scenes[name], *moment = standardised(torch.from_numpy(np.stack(pixels)), train)
        moments[name] = (moment[0], moment[1])
    return Pairs(scenes, train, torch.tensor(test), names, moments)


def turned(images: Tensor) -> Iterator[Tensor]:
    """Yield the images turned and flipped in all 8 ways."""
    for turns in range(4):
        view = images.rot90(turns, (2, 3))
        yield view
        yield view.flip(3)


def seeded(*seed: int) -> torch.Generator:
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def shuffled(images: Tensor, batch: int, seed: int) -> Batches:
    """Yield batches of optical images, epoch after epoch."""
    generator = seeded(seed, 0)
    while True:
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(batch)[: len(images) // batch]:
            yield {"optical": images[rows]}, {"optical": torch.arange(batch)}


def only_pairs(pairs: Pairs, batch: int, size: int, seed: int) -> Batches:
    """Yield batches of crops of pairs."""
    generator = seeded(seed, 3)
    while True:
        yield (
            pairs.crops(batch, size, generator),
            dict.fromkeys(("optical", "sar"), torch.arange(batch)),
        )


def with_pairs(batches: Batches, pairs: Pairs, count: int, seed: int, one_scene: bool) -> Batches:
    """Add crops of pairs to batches of optical images.

    Crops of different scenes are told apart by their colors: with ``one_scene``, those of a batch
    are from the same scene.
    """
    generator = seeded(seed, 3)
    for images, _ in batches:
        chosen = pairs
        if one_scene:
            scene = pairs.train[torch.randint(len(pairs.train), (), generator=generator)]
            chosen = pairs.of_scene(int(scene))
        crops = chosen.crops(count, 64, generator)
        single = len(images["optical"])
        both = single + torch.arange(count)
        yield (
            {"optical": torch.cat((images["optical"], crops["optical"])), "sar": crops["sar"]},
            {"optical": torch.cat((torch.arange(single), both)), "sar": both},
        )
