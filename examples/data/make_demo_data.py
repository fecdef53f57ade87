# SPDX-License-Identifier: Apache-2.0
"""Make the images of this folder from the datasets that they are part of.

    python examples/data/make_demo_data.py SOURCE [--out FOLDER]

SOURCE holds ``s1s2_volkov/opt`` and ``sar`` (1024 x 1024 PNG of the same names) and ``eurosat_rgb``
(a folder for each class). The result has

- ``s1s2/train/optical`` and ``sar``: tiles of 256 pixels of nine scenes, every other one as on a
  chessboard, as JPEG; the radar image in gray. Names begin with the scene.
- ``s1s2/test/optical`` and ``sar``: the tenth scene as a whole.
- ``eurosat/train`` and ``test``: 60 and 20 images of each class, drawn at random, as they are.
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


def main() -> None:
    """Make the folder's images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missing = [n for n in ("s1s2_volkov", "eurosat_rgb") if not (arguments.source / n).is_dir()]
    if missing:
        parser.error(f"there is no folder {arguments.source / missing[0]}")
    make_pairs(arguments.source / "s1s2_volkov", arguments.out / "s1s2")
    choose_images(arguments.source / "eurosat_rgb", arguments.out / "eurosat", arguments.seed)


if __name__ == "__main__":
    main()
