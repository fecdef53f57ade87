# SPDX-License-Identifier: Apache-2.0
"""Miniature trees of data sets with masks."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.miniature.painter import Painter, write_picture, write_tiff
from rsvheat.data.miniature.tree import Miniature, as_tuples

Color = tuple[int, int, int]

POTSDAM: dict[str, Color] = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter / background": (255, 0, 0),
}
ISAID: dict[str, Color] = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "storage tank": (0, 63, 63),
    "baseball diamond": (0, 63, 0),
    "tennis court": (0, 63, 127),
    "basketball court": (0, 63, 191),
    "ground track field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large vehicle": (0, 127, 127),
    "small vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer ball field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}
AIR_POLSAR_SEG: dict[str, Color] = {
    "industrial area": (0, 0, 255),
    "natural area": (0, 255, 0),
    "water area": (0, 255, 255),
    "land use area": (255, 0, 0),
    "housing area": (255, 255, 0),
    "other area": (255, 255, 255),
}
WHU_OPT_SAR: dict[str, int] = {
    "background": 0,
    "farmland": 10,
    "city": 20,
    "village": 30,
    "water": 40,
    "forest": 50,
    "road": 60,
    "others": 70,
}
LOVEDA: dict[str, int] = {
    "background": 1,
    "building": 2,
    "road": 3,
    "water": 4,
    "barren": 5,
    "forest": 6,
    "agriculture": 7,
}


def write_potsdam(
    folder: str | os.PathLike[str], size: int = 64, seed: int = 0, *, labels_in_root: bool = True
) -> Miniature:
    """Write ISPRS Potsdam: 6 of 38 tiles in 4 and 3 bands, labels with and without boundaries.

    Traps: labels in the root or in their archive's folder; off-palette colors in 4_12 and 6_7;
    black boundaries in the other set of labels, which are no clutter; 7_10, whose official labels
    are wrong; numbers without leading zeros, 2_10 before 2_13.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of a tile in pixels (6000 in the original).
        seed: Seed of the scenes.
        labels_in_root: Whether labels lie in the root instead of ``5_Labels_all``.
    """
    root = Path(folder)
    tiles = {"train": ("2_10", "4_12", "6_7", "7_10"), "test": ("2_13", "6_13")}
    traps = {"wrong_labels": root / "4_Ortho_RGBIR" / "top_potsdam_7_10_RGBIR.tif"}
    for number, tile in enumerate(name for names in tiles.values() for name in names):
        scene = Painter(size, (seed, number), len(POTSDAM))
        scene.cover({"water": 5, "fields": 2, "forest": 3, "urban": 0})
        scene.add(1, 3, size // 5)
        scene.add(4, 8, max(size // 20, 2))
        bands = scene.picture(4)
        place = (364000 + 300 * number, 5808000, 0.05, 32633)
        name = f"top_potsdam_{tile}"
        write_tiff(root / "4_Ortho_RGBIR" / f"{name}_RGBIR.tif", bands, place)
        write_tiff(root / "2_Ortho_RGB" / f"{name}_RGB.tif", bands[:3], place)
        colors = scene.colors(POTSDAM.values())
        bounded = colors.copy()
        if tile in ("4_12", "6_7"):
            # Near to a color of the table, and far from any.
            bounded[:, 1, 1:4] = np.array([[254, 255, 252]] * 3).T
            bounded[:, 2, 1:4] = np.array([[128, 70, 30]] * 3).T
        path = root / ("" if labels_in_root else "5_Labels_all") / f"{name}_label.tif"
        write_tiff(path, bounded, place)
        if tile in ("4_12", "6_7"):
            traps[f"off_palette_{tile}"] = path
        colors[:, _edges(scene.labels)] = 0
        path = root / "5_Labels_all_noBoundary" / f"{name}_label_noBoundary.tif"
        write_tiff(path, colors, place)
        traps.setdefault("boundary", path)
    return Miniature(root, tuple(POTSDAM), tiles, traps=traps)


def write_isaid(
    folder: str | os.PathLike[str],
    size: int = 64,
    seed: int = 0,
    *,
    layout: Literal["devkit", "semantic_masks", "tiles"] = "devkit",
) -> Miniature:
    """Write iSAID: masks of class colors beside the images, in a folder of their own, or tiles.

    Traps: images of odd sizes; the color of harbor, which breaks the pattern of the others; an
    image without a mask and one without objects; instance masks beside class masks; in tiles class
    numbers instead of colors, and 255 where they reach beyond the image.

    Args:
        folder: Root of the tree; made if need be.
        size: About the side of an image in pixels, and the side of a tile.
        seed: Seed of the scenes.
        layout: ``"devkit"``: masks in ``images`` as the devkit wants them; ``"semantic_masks"``: in
            ``Semantic_masks`` as they are downloaded; ``"tiles"``: as cut by mmsegmentation.
    """
    root = Path(folder)
    numbers = {"train": (0, 1, 2, 5), "val": (3, 4), "test": (6,)}
    labeled: dict[str, list[str]] = {"train": [], "val": []}
    unlabeled: dict[str, list[str]] = {"train": [], "test": []}
    traps: dict[str, Path] = {}
    for split, some in numbers.items():
        for number in some:
            name = f"P{number:04}"
            scene = Painter((size + 3 * number + 1, size + 5), (seed, number), len(ISAID))
            empty = number == 1
            if not empty:
                for label in (1, 9, 14, 15, 2 + number % 12):
                    scene.add(label, 3, max(size // 8, 2))
            files = {name: scene.picture(3)}
            masks: dict[str, NDArray[np.uint8]] = {}
            if split != "test" and number != 2:
                masks[f"{name}_instance_color_RGB"] = scene.colors(ISAID.values())
                masks[f"{name}_instance_id_RGB"] = scene.instances()
            if layout == "tiles":
                files, masks = _isaid_tiles(name, size, files[name], scene.labels, bool(masks))
            images = root / split / "images"
            where = root / split / "Semantic_masks" if layout == "semantic_masks" else images
            for key, picture in files.items():
                write_picture(images / f"{key}.png", picture)
                (labeled if masks else unlabeled)[split].append(key)
            for key, mask in masks.items():
                write_picture(where / f"{key}.png", mask)
            first = images / f"{next(iter(files))}.png"
            if empty:
                traps["no_objects"] = first
            elif number == 2:
                traps["without_mask"] = first
            elif number == 0 and layout == "tiles":
                traps["padding"] = images / f"{list(masks)[-1]}.png"
    return Miniature(root, tuple(ISAID), as_tuples(labeled), as_tuples(unlabeled), traps)


def _isaid_tiles(
    name: str, size: int, image: NDArray[np.uint8], labels: NDArray[np.uint8], masked: bool
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.uint8]]]:
    files, masks = {}, {}
    for top in range(0, labels.shape[0], size):
        for left in range(0, labels.shape[1], size):
            key = f"{name}_{top}_{top + size}_{left}_{left + size}"
            part = np.s_[..., top : top + size, left : left + size]
            tile = np.zeros((3, size, size), np.uint8)
            mask = np.full((1, size, size), 255, np.uint8)
            height, width = labels[part].shape
            tile[:, :height, :width] = image[part]
            mask[:, :height, :width] = labels[part]
            files[key] = tile
            if masked:
                masks[f"{key}_instance_color_RGB"] = mask
    return files, masks


def write_air_polsar_seg(
    folder: str | os.PathLike[str], size: int = 64, seed: int = 0
) -> Miniature:
    """Write AIR-PolSAR-Seg version 1: four polarizations of a patch in a file each.

    Traps: the official spelling ``PolarSAR``; numbers that are not contiguous; augmented copies
    with ``-rot`` in their name, one of which is in the other split than its source; unlabeled
    pixels in black; amplitudes of 16 bits with a few very bright ones.

    Args:
        folder: Folder that gets ``Raw_AIR-PolarSAR-Seg``; made if need be.
        size: Side of a patch in pixels (512 in the original).
        seed: Seed of the scenes.
    """
    root = Path(folder, "Raw_AIR-PolarSAR-Seg")
    ids = {"train": (1, 2, 5, 12), "test": (3, 40)}
    traps: dict[str, Path] = {}
    for split, some in ids.items():
        where = root / f"{split}_set"
        for number in some:
            scene = Painter(size, (seed, number), len(AIR_POLSAR_SEG))
            scene.cover({"water": 2, "fields": 3, "forest": 1, "urban": 4})
            scene.add(0, 2, size // 5)
            scene.add(5, 2, size // 6)
            colors = scene.colors(AIR_POLSAR_SEG.values())
            colors[:, : size // 8, : size // 8] = 0
            bands = scene.polarizations()
            copies = [(where / f"AIR-PolarSAR-Seg-{number}", 0)]
            if number == 5:
                copies.append((root / "test_set" / "AIR-PolarSAR-Seg-rot90-5", 1))
            for path, turns in copies:
                for polarization, band in bands.items():
                    file = path.with_name(f"{path.name}_{polarization}.tiff")
                    write_tiff(file, np.rot90(band, turns, (1, 2)))
                truth = path.with_name(f"{path.name}_gt.png")
                write_picture(truth, np.rot90(colors, turns, (1, 2)))
            traps["augmented" if number == 5 else "unlabeled"] = truth
    keys = {split: tuple(f"AIR-PolarSAR-Seg-{n}" for n in some) for split, some in ids.items()}
    return Miniature(root, tuple(AIR_POLSAR_SEG), keys, traps=traps)


def write_whu_opt_sar(
    folder: str | os.PathLike[str],
    size: tuple[int, int] = (58, 87),
    seed: int = 0,
    *,
    tiles: bool = False,
) -> Miniature:
    """Write WHU-OPT-SAR: scenes of 4 optical bands, one SAR band and labels in steps of ten.

    Traps: labels 0, 10, ..., 70, with 0 for nothing and 255 in one file; an optical scene one
    column narrower than its SAR image and labels; as tiles, a split by chance that has parts of
    each scene in training and test. The coordinate reference system is invented.

    Args:
        folder: Root of the tree; made if need be.
        size: (height, width) of a scene in pixels, a 64th of the original's by default.
        seed: Seed of the scenes.
        tiles: Whether to write the derived release of tiles, in ``train``, ``val`` and ``test``.
    """
    root = Path(folder)
    splits = {
        "train": ("NH49E001013", "NH49E002014", "NH50E003001", "NI49E021010"),
        "test": ("NH49E001014", "NH50E014003"),
    }
    codes = np.array(list(WHU_OPT_SAR.values()), np.uint8)
    traps: dict[str, Path] = {}
    keys: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (split, name) in enumerate((s, n) for s, names in splits.items() for n in names):
        scene = Painter(size, (seed, number), len(WHU_OPT_SAR))
        scene.cover({"water": 4, "fields": 1, "forest": 5, "urban": 2})
        scene.add(3, 3, max(min(size) // 8, 2))
        scene.add(6, 2, max(min(size) // 12, 2))
        scene.add(7, 1, max(min(size) // 8, 2))
        scene.labels[:2, :2] = 0
        labels = codes[scene.labels][None]
        optical, sar = scene.picture(4), scene.radar()
        if name == "NH49E002014":
            labels[:, -2:, -2:] = 255
            optical = optical[:, :, :-1]
        place = (500000 + 5 * size[1] * number, 3400000, 5.0, 32649)
        if not tiles:
            for kind, values in (("optical", optical), ("sar", sar), ("lbl", labels)):
                write_tiff(root / kind / f"{name}.tif", values, place)
            keys[split].append(name)
            if name == "NH49E002014":
                traps["narrow"] = root / "optical" / f"{name}.tif"
                traps["label_255"] = root / "lbl" / f"{name}.tif"
            continue
        side = min(size) // 2
        for index in range(4):
            part = np.s_[:, index // 2 * side :, index % 2 * side :]
            kept = ("train", "val", "test", "train")[index]
            for kind, values in (("opt", optical), ("sar", sar), ("lbl", labels)):
                path = root / kept / kind / f"{name}_{index}.tif"
                write_tiff(path, values[part][:, :side, :side])
            keys[kept].append(f"{name}_{index}")
            if kept == "test":
                traps["leak"] = root / kept
    labeled = {split: names for split, names in keys.items() if names}
    return Miniature(root, tuple(WHU_OPT_SAR), as_tuples(labeled), traps=traps)


def write_loveda(folder: str | os.PathLike[str], size: int = 64, seed: int = 0) -> Miniature:
    """Write LoveDA: rural and urban images with masks, and test images without.

    Traps: masks count classes from 1, and 0 is no data; every split has two domains; the test split
    has no masks.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of an image in pixels (1024 in the original).
        seed: Seed of the scenes.
    """
    root = Path(folder)
    numbers = {"Train": (0, 1, 1366, 1367), "Val": (2522, 3514), "Test": (4191, 5167)}
    keys: dict[str, tuple[str, ...]] = {}
    traps: dict[str, Path] = {}
    for split, some in numbers.items():
        names = []
        for i, number in enumerate(some):
            domain = "Rural" if i < len(some) / 2 else "Urban"
            scene = Painter(size, (seed, number), len(LOVEDA))
            scene.cover({"water": 3, "fields": 6, "forest": 5, "urban": 0})
            scene.add(1, 5, size // 8)
            scene.add(2, 2, max(size // 16, 2))
            scene.add(4, 1, size // 5)
            where = root / split / domain
            write_picture(where / "images_png" / f"{number}.png", scene.picture(3))
            names.append(f"{domain}/{number}")
            if split == "Test":
                continue
            mask = scene.labels[None] + np.uint8(1)
            if number == 1:
                mask[:, -size // 6 :] = 0
                traps["no_data"] = where / "masks_png" / f"{number}.png"
            write_picture(where / "masks_png" / f"{number}.png", mask)
        keys[split.lower()] = tuple(names)
    unlabeled = {"test": keys.pop("test")}
    return Miniature(root, tuple(LOVEDA), keys, unlabeled, traps)


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a pixel's right or lower neighbor has another label."""
    edges = np.zeros(labels.shape, bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges
