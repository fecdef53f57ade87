# SPDX-License-Identifier: Apache-2.0
"""Make the images of this folder from the datasets that they are part of.

    python examples/data/make_demo_data.py SOURCE [--out FOLDER]

SOURCE holds ``s1s2_volkov/opt`` and ``sar`` (1024 x 1024 PNG of the same names), ``eurosat_rgb``
(a folder for each class) and ``seg_dubai`` (``Tile N`` with ``images`` and ``masks``). The result
has

- ``s1s2/train/optical`` and ``sar``: tiles of 256 pixels of nine scenes, every other one as on a
  chessboard, as JPEG; the radar image in gray. Names begin with the scene.
- ``s1s2/test/optical`` and ``sar``: the tenth scene as a whole.
- ``eurosat/train`` and ``test``: 60 and 20 images of each class, drawn at random, as they are.
- ``dubai/train/images`` and ``masks``: crops of 256 pixels that cover two tiles, without those of
  one class only, as JPEG and as PNG whose palette has the colors of the classes. ``dubai/test``:
  four parts of the third tile, joined.
- ``sentinel1_harbor.jpg``, ``sentinel1_sea.jpg``: two parts of a radar scene, which do not overlap.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import PIL.Image

TEST_SCENE = "046"  # coast, hills and town
TILE = 256
QUALITY = {"optical": 85, "sar": 80}
EUROSAT = {"train": 60, "test": 20}
SOURCES = ("s1s2_volkov", "eurosat_rgb", "seg_dubai")
# Scene, and left, top, right and bottom in it.
HARBOR = {"harbor": ("101", (100, 520, 1012, 968)), "sea": ("101", (780, 300, 964, 428))}
TEST_TILE = "Tile 1"
TEST_PARTS = (5, 6, 8, 9)  # of the tile's nine: two rows of two
SAME = 0.9  # share of one class above which a crop is left out
LAND_COVER = {
    "building": (60, 16, 152),
    "land": (132, 41, 246),
    "road": (110, 193, 228),
    "vegetation": (254, 221, 58),
    "water": (226, 169, 41),
    "unlabeled": (155, 155, 155),
}


def make_pairs(source: Path, out: Path) -> None:
    """Cut the scenes."""
    for modality, folder, mode in (("optical", "opt", "RGB"), ("sar", "sar", "L")):
        for path in sorted((source / folder).glob("*.png")):
            image = PIL.Image.open(path).convert(mode)
            if path.stem == TEST_SCENE:
                save(image, out / "test" / modality / f"{path.stem}.jpg", modality)
                continue
            for top in range(0, image.height, TILE):
                for left in range(0, image.width, TILE):
                    if (top + left) // TILE % 2 == 0:
                        tile = image.crop((left, top, left + TILE, top + TILE))
                        name = f"{path.stem}_{top}_{left}.jpg"
                        save(tile, out / "train" / modality / name, modality)


def save(image: PIL.Image.Image, path: Path, modality: str) -> None:
    """Write a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY[modality], optimize=True)


def cut_harbor(source: Path, out: Path) -> None:
    """Cut parts of a radar scene."""
    for name, (scene, box) in HARBOR.items():
        image = PIL.Image.open(source / "sar" / f"{scene}.png").convert("L").crop(box)
        save(image, out / f"sentinel1_{name}.jpg", "sar")


def choose_images(source: Path, out: Path, seed: int) -> None:
    """Copy images of each class."""
    for number, folder in enumerate(sorted(path for path in source.iterdir() if path.is_dir())):
        files = sorted(folder.glob("*.jpg"))
        order = np.random.default_rng([seed, number]).permutation(len(files)).tolist()
        for part, count in EUROSAT.items():
            (out / part / folder.name).mkdir(parents=True, exist_ok=True)
            for index in order[:count]:
                shutil.copyfile(files[index], out / part / folder.name / files[index].name)
            order = order[count:]


def cut_tiles(source: Path, out: Path) -> None:
    """Cut two tiles into crops, and join parts of the third."""
    for tile in sorted(source.glob("Tile *")):
        images = sorted((tile / "images").glob("*.jpg"))
        pairs = [
            (
                PIL.Image.open(path).convert("RGB"),
                class_numbers(PIL.Image.open(tile / "masks" / f"{path.stem}.png").convert("RGB")),
            )
            for path in images
        ]
        number = tile.name.split()[1]
        if tile.name == TEST_TILE:
            chosen = [pairs[part - 1] for part in TEST_PARTS]
            image, mask = (join_parts(parts) for parts in zip(*chosen, strict=True))
            save_pair(image, mask, out / "test", f"tile{number}")
            continue
        for path, (image, mask) in zip(images, pairs, strict=True):
            for top in places(image.height):
                for left in places(image.width):
                    box = (left, top, left + TILE, top + TILE)
                    counts = np.bincount(np.asarray(mask.crop(box)).ravel())
                    if counts.max() > SAME * TILE**2:
                        continue
                    name = f"tile{number}_{path.stem[-1]}_{top}_{left}"
                    save_pair(image.crop(box), mask.crop(box), out / "train", name)


def class_numbers(colors: PIL.Image.Image) -> PIL.Image.Image:
    """Return a mask of class numbers, with the colors as its palette."""
    values = np.asarray(colors)
    numbers = np.full(values.shape[:2], len(LAND_COVER) - 1, np.uint8)
    for number, color in enumerate(LAND_COVER.values()):
        numbers[(values == color).all(2)] = number
    mask = PIL.Image.fromarray(numbers, "P")
    mask.putpalette(sum(LAND_COVER.values(), ()))
    return mask


def places(length: int) -> list[int]:
    """Return where crops begin that cover a side, evenly spread."""
    return np.linspace(0, length - TILE, -(-length // TILE)).round().astype(int).tolist()


def join_parts(parts: tuple[PIL.Image.Image, ...]) -> PIL.Image.Image:
    """Join two rows of two parts of a tile, whose sizes may differ by a pixel."""
    rows = [
        np.concatenate([np.asarray(part)[: min(p.height for p in row)] for part in row], 1)
        for row in (parts[:2], parts[2:])
    ]
    whole = np.concatenate([row[:, : min(r.shape[1] for r in rows)] for row in rows])
    joined = PIL.Image.fromarray(whole, parts[0].mode)
    if parts[0].mode == "P":
        joined.putpalette(parts[0].getpalette())
    return joined


def save_pair(image: PIL.Image.Image, mask: PIL.Image.Image, folder: Path, name: str) -> None:
    """Write an image and its mask."""
    save(image, folder / "images" / f"{name}.jpg", "optical")
    (folder / "masks").mkdir(exist_ok=True)
    mask.save(folder / "masks" / f"{name}.png", optimize=True)


def main() -> None:
    """Make the folder's images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missing = [n for n in SOURCES if not (arguments.source / n).is_dir()]
    if missing:
        parser.error(f"there is no folder {arguments.source / missing[0]}")
    make_pairs(arguments.source / "s1s2_volkov", arguments.out / "s1s2")
    cut_harbor(arguments.source / "s1s2_volkov", arguments.out)
    choose_images(arguments.source / "eurosat_rgb", arguments.out / "eurosat", arguments.seed)
    cut_tiles(arguments.source / "seg_dubai", arguments.out / "dubai")


if __name__ == "__main__":
    main()
