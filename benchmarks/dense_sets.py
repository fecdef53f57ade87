# SPDX-License-Identifier: Apache-2.0
"""Images with a class for every pixel that `dense.py` trains on, with their splits, and crops."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.augmentation import RandomView
from rsvheat.data import ChangeFolders, Crop, MaskCodes, MaskFolders, Window
from rsvheat.data.datasets.reader import DatasetReader, Scan
from rsvheat.data.tiles import image_size
from rsvheat.data.transforms import resize_image

# Colors of the masks; those in the data's own list of classes are others.
DUBAI = {
    "building": (60, 16, 152),
    "land": (132, 41, 246),
    "road": (110, 193, 228),
    "vegetation": (254, 221, 58),
    "water": (226, 169, 41),
}
DUBAI_UNLABELED = (155, 155, 155)
DRAWS = 8  # crops that are tried until one is not of a single class


class Scene(NamedTuple):
    """Images by name, (bands, H, W), normalized once the set is made, and the classes (H, W)."""

    key: str
    images: dict[str, Tensor]
    mask: Tensor


@dataclass(frozen=True)
class DenseSet:
    """Scenes to train on and to test.

    ``stems`` says which stem of the encoder the images of each name go through; images of one stem
    are normalized alike, by the mean and deviation (bands, 1, 1) in ``moments``. ``held_out`` are
    the positions of the training scenes on which settings are chosen.
    """

    name: str
    classes: tuple[str, ...]
    stems: dict[str, str]
    train: list[Scene]
    test: list[Scene]
    held_out: tuple[int, ...]
    moments: dict[str, tuple[Tensor, Tensor]]

    @property
    def change(self) -> bool:
        """Whether the images are of two dates."""
        return set(self.stems) == {"before", "after"}

    @property
    def bands(self) -> dict[str, int]:
        """Number of bands by stem."""
        return {stem: len(self.train[0].images[name]) for name, stem in self.stems.items()}

    def class_counts(self) -> list[int]:
        """Return the number of training pixels of each class."""
        counts = sum(torch.bincount(s.mask.flatten(), minlength=256) for s in self.train)
        assert isinstance(counts, torch.Tensor)
        numbers: list[int] = counts[: len(self.classes)].tolist()
        return numbers

    def validation(self) -> "DenseSet":
        """Hold out training scenes, since choices must not see the scenes reported on."""
        parts: tuple[list[Scene], list[Scene]] = ([], [])
        for i, scene in enumerate(self.train):
            parts[i in self.held_out].append(scene)
        return dataclasses.replace(self, train=parts[0], test=parts[1])

    def normalized_by(self, moments: Mapping[str, Sequence[float]]) -> "DenseSet":
        """Normalize images of three bands by other moments, those of values from 0 to 1."""
        mean, std = (255 * torch.tensor(moments[k])[:, None, None] for k in ("mean", "std"))

        def renormalized(scene: Scene) -> Scene:
            images = {}
            for name, image in scene.images.items():
                old_mean, old_std = self.moments[self.stems[name]]
                images[name] = (image * old_std + old_mean - mean) / std
            return scene._replace(images=images)

        return dataclasses.replace(
            self,
            train=[renormalized(scene) for scene in self.train],
            test=[renormalized(scene) for scene in self.test],
            moments=dict.fromkeys(self.moments, (mean, std)),
        )

    def crops(
        self,
        count: int,
        size: int,
        generator: torch.Generator,
        view: RandomView | None = None,
        scale: float = 1.0,
        window: int | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return crops of training scenes: flipped, rotated and recolored, and their classes.

        A scene is drawn with a probability proportional to its side. A crop of which one class
        takes more than three quarters is drawn again, a few times. Its side is ``window``, by
        default ``size``, times a factor from ``scale`` to 1, and it is resized to ``size``.
        """
        balance, view = Crop(cat_max=0.75), view or RandomView()
        sides = torch.tensor([math.sqrt(scene.mask.numel()) for scene in self.train])
        cut = []
        for _ in range(count):
            for _ in range(DRAWS):
                scene = self.train[int(torch.multinomial(sides, 1, generator=generator))]
                part = window or size
                if scale < 1:
                    factor = scale + (1 - scale) * float(torch.rand((), generator=generator))
                    part = round(part * factor)
                rows, columns = (
                    slice(first, first + part)
                    for side in scene.mask.shape
                    for first in torch.randint(side - part + 1, (1,), generator=generator).tolist()
                )
                mask = scene.mask[rows, columns]
                if balance.is_balanced(mask.numpy()):
                    break
            turns, flip = divmod(int(torch.randint(8, (1,), generator=generator)), 2)
            parts = {name: image[:, rows, columns] for name, image in scene.images.items()}
            parts["mask"] = mask
            if mask.shape != (size, size):
                parts = {name: resized(part, size) for name, part in parts.items()}
            if flip:
                parts = {name: part.flip(-1) for name, part in parts.items()}
            cut.append({name: part.rot90(turns, (-2, -1)) for name, part in parts.items()})
        batch = {name: torch.stack([parts[name] for parts in cut]) for name in cut[0]}
        masks = batch.pop("mask").long()
        return {name: view.recolor(x, generator) for name, x in batch.items()}, masks


def resized(part: Tensor, size: int) -> Tensor:
    """Resize an image (bands, H, W), or classes (H, W) by the nearest pixel, to a square."""
    if part.ndim == 3:
        return resize_image(part, size)
    return interpolate(part[None, None], (size, size), mode="nearest-exact")[0, 0]


def scenes_of(reader: DatasetReader) -> dict[str, list[Scene]]:
    """Return the whole images of a data set by split; all of one split where there is only one."""
    found: dict[str, list[Scene]] = {}
    for split, part in reader.splits(Scan(on_error="raise")).items():
        source = part.source
        indices = range(len(source)) if part.indices is None else part.indices
        found[split] = []
        for index in map(int, indices):
            whole = Window(0, 0, *image_size(source, index))
            images = {}
            for name in source.present(index):
                with source.open(index, name) as image:
                    images[name] = torch.from_numpy(image.read(whole).values.astype(np.float32))
            mask = torch.from_numpy(np.array(source.read_target(index, whole), np.uint8))
            found[split].append(Scene(source.key(index), images, mask))
    return found


def make_set(
    name: str,
    classes: Sequence[str],
    stems: Mapping[str, str],
    train: Sequence[Scene],
    test: Sequence[Scene],
    held_out: Callable[[Scene], bool],
) -> DenseSet:
    """Normalize each stem's images by mean and deviation of each band over the training part."""
    moments = {}
    for stem in set(stems.values()):
        pixels = [s.images[n].flatten(1) for s in train for n in stems if stems[n] == stem]
        std, mean = torch.std_mean(torch.cat(pixels, dim=1), dim=1)
        moments[stem] = (mean[:, None, None], std[:, None, None])

    def normalized(scene: Scene) -> Scene:
        images = {}
        for image, stem in stems.items():
            mean, std = moments[stem]
            images[image] = (scene.images[image] - mean) / std
        return scene._replace(images=images)

    return DenseSet(
        name,
        tuple(classes),
        dict(stems),
        [normalized(scene) for scene in train],
        [normalized(scene) for scene in test],
        tuple(i for i, scene in enumerate(train) if held_out(scene)),
        moments,
    )


def dubai(folder: Path) -> DenseSet:
    """Return aerial land cover: tiles 2 and 5 to train on, tile 1 to test."""
    root = folder / "seg_dubai"
    codes = MaskCodes(colors=DUBAI, ignored_colors=[DUBAI_UNLABELED])
    reader = MaskFolders({"optical": f"{root}/Tile */images"}, f"{root}/Tile */masks", codes)
    scenes = [scene for part in scenes_of(reader).values() for scene in part]
    scenes.sort(key=lambda scene: scene.key)
    test = [scene for scene in scenes if scene.key.startswith("Tile 1/")]
    train = [scene for scene in scenes if not scene.key.startswith("Tile 1/")]
    # Every third image of both tiles: a single tile would be too little to train on.
    chosen = {scene.key for scene in train[::3]}
    stems = {"optical": "optical"}
    return make_set("dubai", codes.classes, stems, train, test, lambda s: s.key in chosen)


def ombria(folder: Path, sensors: Sequence[str]) -> DenseSet:
    """Return floods seen by one sensor or both, after the event; the data's own split."""
    root = folder / "optsar_ombria"
    files = {"optical": "S2", "sar": "S1"}

    def folders(split: str) -> tuple[dict[str, str], str]:
        images = {name: f"{root}/Ombria{files[name]}/{split}/AFTER" for name in sensors}
        return images, f"{root}/OmbriaS1/{split}/MASK"

    codes = MaskCodes(values={"no flood": 0, "flood": 255})
    train, train_masks = folders("train")
    test, test_masks = folders("test")
    reader = MaskFolders(
        train,
        train_masks,
        codes,
        test_images=test,
        test_masks=test_masks,
        stem_map=dict.fromkeys((*sensors, "mask"), ("^S[12]_[a-z]+_", "")),
    )
    found = scenes_of(reader)
    name = f"ombria_{'_'.join(sensors)}"
    return with_every_fourth(name, codes.classes, {s: s for s in sensors}, found)


def ombria_change(folder: Path, before: str, after: str) -> DenseSet:
    """Return floods as change between two dates, of one sensor or two; the data's own split."""
    root = folder / "optsar_ombria"
    files = {"optical": "S2", "sar": "S1"}
    parts = {
        split: {
            "before": f"{root}/Ombria{files[before]}/{split}/BEFORE",
            "after": f"{root}/Ombria{files[after]}/{split}/AFTER",
            "label": f"{root}/OmbriaS1/{split}/MASK",
        }
        for split in ("train", "test")
    }
    reader = ChangeFolders(
        parts["train"]["before"],
        parts["train"]["after"],
        parts["train"]["label"],
        test=parts["test"],
        stem_map=dict.fromkeys(("before", "after", "label"), ("^S[12]_[a-z]+_", "")),
    )
    name = f"change_{before}" if before == after else f"change_{before}_{after}"
    stems = {"before": before, "after": after}
    return with_every_fourth(name, ("no change", "change"), stems, scenes_of(reader))


def with_every_fourth(
    name: str, classes: Sequence[str], stems: Mapping[str, str], found: Mapping[str, list[Scene]]
) -> DenseSet:
    train = sorted((*found["train"], *found["val"]), key=lambda scene: scene.key)
    chosen = {scene.key for scene in train[::4]}
    return make_set(name, classes, stems, train, found["test"], lambda s: s.key in chosen)


def levir(folder: Path) -> DenseSet:
    """Return building change across tiles: tiles 1 and 3 and crops to train on, tile 2 to test."""
    scenes = []
    for name in ("levir_cd", "cd_levir256", "cd_dsifn256"):
        root = folder / name
        reader = ChangeFolders(f"{root}/A", f"{root}/B", f"{root}/label", val_fraction=0.0)
        for part in scenes_of(reader).values():
            scenes += [scene._replace(key=f"{name}/{scene.key}") for scene in part]
    test = [scene for scene in scenes if scene.key == "levir_cd/test_2"]
    # Two of the crops lie inside of tile 2.
    train = [scene for scene in scenes if "test_2" not in scene.key]
    train.sort(key=lambda scene: scene.key)
    stems = {"before": "optical", "after": "optical"}
    return make_set(
        "levir", ("no change", "change"), stems, train, test, lambda s: s.key == "levir_cd/test_3"
    )


SETS: dict[str, Callable[[Path], DenseSet]] = {
    "dubai": dubai,
    "ombria_optical": lambda folder: ombria(folder, ("optical",)),
    "ombria_sar": lambda folder: ombria(folder, ("sar",)),
    "ombria_optical_sar": lambda folder: ombria(folder, ("optical", "sar")),
    "change_optical": lambda folder: ombria_change(folder, "optical", "optical"),
    "change_sar": lambda folder: ombria_change(folder, "sar", "sar"),
    "change_optical_sar": lambda folder: ombria_change(folder, "optical", "sar"),
    "levir": levir,
}
