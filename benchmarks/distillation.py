# SPDX-License-Identifier: Apache-2.0
"""The second stage of pretraining: self-distillation from enlarged and turned images.

Features of a pretrained encoder classify better if the image is enlarged, and better still if they
are averaged over the 8 ways to turn and flip the image. The targets are such averages. The encoder
is trained further until it gives them for the image as it is. Crops of pairs have targets, too, by
sensor; besides, a contrastive loss brings each radar crop nearer to its own optical crop than to
the others of its scene.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fitting import BATCH, Progress, train_epochs
from image_sets import Labelled, Pairs, seeded, turned
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, normalize

from rsvheat.augmentation import RandomView
from rsvheat.models import RSVHeat, parameter_groups, pool_features
from rsvheat.training.optimization import Optimization

TEMPERATURE = 0.1
CROPS = 512  # of each scene


@dataclass(frozen=True)
class Distillation:
    """How the second stage trains; options of the commands change it."""

    sides: tuple[int, ...] = (96, 128)  # to which images are enlarged
    distillation_lr: float = 2e-3
    crops: int = 64  # of pairs in a batch
    contrast: float = 0.5  # weight of InfoNCE between sensors

    def __post_init__(self) -> None:
        """Accept a list of sides."""
        object.__setattr__(self, "sides", tuple(self.sides))


class Standardized:
    """Scales features so that those it was made from have mean 0 and deviation 1."""

    def __init__(self, values: Tensor) -> None:
        std, self.mean = torch.std_mean(values, dim=0)
        self.std = std + 1e-4

    def __call__(self, values: Tensor) -> Tensor:
        """Return features on that scale."""
        return (values - self.mean) / self.std


def features_of(encoder: RSVHeat, images: Tensor, modality: str) -> Tensor:
    """Return mean and deviation over space of all stages' channels."""
    maps = encoder.forward_intermediates(
        images, modality=modality, output_fmt="NHWC", intermediates_only=True
    )
    assert isinstance(maps, list)
    return pool_features(maps)


@torch.no_grad()
def turned_features(encoder: RSVHeat, images: Tensor, modality: str, side: int) -> Tensor:
    """Return the mean of the features of the images, enlarged to a side, over the 8 turns."""
    values = []
    for part in images.split(256):
        if side != part.shape[-1]:
            part = interpolate(part, size=(side, side), mode="bicubic", antialias=True)
        with torch.autocast("cpu", torch.bfloat16):
            views = [features_of(encoder, view, modality) for view in turned(part)]
        values.append(torch.stack(views).mean(0))
    return torch.cat(values)


def targets(encoder: RSVHeat, images: Tensor, modality: str, sides: Sequence[int]) -> Tensor:
    """Return the targets of images; each feature has mean 0 and deviation 1."""
    enlarged = [turned_features(encoder, images, modality, side) for side in sides]
    mean = torch.stack([Standardized(values)(values) for values in enlarged]).mean(0)
    return Standardized(mean)(mean)


class Paired:
    """Crops of one sensor, by scene, and their targets."""

    def __init__(
        self, encoder: RSVHeat, images: Tensor, modality: str, sides: Sequence[int]
    ) -> None:
        self.images = images  # (scenes, crops, bands, side, side)
        shape, flat = images.shape[:2], images.flatten(0, 1)
        self.target = targets(encoder, flat, modality, sides).unflatten(0, shape)
        self.own = Standardized(turned_features(encoder, flat, modality, flat.shape[-1]))


def distilled(
    encoder: RSVHeat,
    data: Labelled,
    pairs: Pairs,
    settings: Distillation,
    epochs: int,
    seed: int,
    name: str,
    kept: Path | None = None,
) -> tuple[RSVHeat, list[dict[str, Any]]]:
    """Return the encoder after the second stage on the training images, and its losses."""
    student = copy.deepcopy(encoder.eval())
    generator = seeded(seed, 5)
    progress = None
    images = data.images[data.train]
    steps = len(images) // BATCH
    if kept:
        progress = Progress(kept, f"{epochs} epochs, seed {seed}, {settings}", steps, generator)
    begin = time.process_time()
    target = targets(encoder, images, "optical", settings.sides)
    own = Standardized(turned_features(encoder, images, "optical", images.shape[-1]))
    crops = [
        pairs.of_scene(scene).crops(CROPS, 64, seeded(seed, 9, scene))
        for scene in (pairs.train.tolist() if settings.crops else ())
    ]
    paired = {
        modality: Paired(
            encoder, torch.stack([part[modality] for part in crops]), modality, settings.sides
        )
        for modality in (pairs.scenes if crops else ())
    }
    seconds = time.process_time() - begin
    told = f"{len(images)} images and {len(crops) * CROPS} pairs, {seconds:.0f} s"
    print(f"{name}: targets of {told}", flush=True)
    turn = RandomView(scale=(1, 1), ratio=(1, 1), contrast=0, brightness=0, channel_shift=0)
    rows: list[Tensor] = []

    def terms_of() -> tuple[Tensor, Mapping[str, Any]]:
        if not rows:
            order = torch.randperm(len(images), generator=generator)
            rows.extend(order.split(BATCH)[:steps])
        chosen = rows.pop()
        values = own(features_of(student, turn(images[chosen], generator), "optical"))
        terms = {"images": (values - target[chosen]).square().mean()}
        if paired:
            scene = int(torch.randint(len(crops), (), generator=generator))
            some = torch.randint(CROPS, (settings.crops,), generator=generator)
            vectors = {}
            for modality, pair in paired.items():
                view = turn(pair.images[scene, some], generator)
                values = pair.own(features_of(student, view, modality))
                terms[modality] = 0.25 * (values - pair.target[scene, some]).square().mean()
                vectors[modality] = normalize(values, dim=1)
            similar = vectors["sar"] @ vectors["optical"].T / TEMPERATURE
            number = torch.arange(settings.crops)
            both = cross_entropy(similar, number) + cross_entropy(similar.T, number)
            terms["contrastive"] = settings.contrast * both / 2
        loss = torch.stack(list(terms.values())).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    groups = parameter_groups(student, weight_decay=Optimization().weight_decay)
    history = train_epochs(
        student, groups, terms_of, epochs, steps, name, settings.distillation_lr, progress
    )
    for epoch in history:
        epoch["cpu_seconds"] += seconds
    return student.eval(), history
