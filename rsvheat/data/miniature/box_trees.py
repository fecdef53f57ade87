# SPDX-License-Identifier: Apache-2.0
"""Miniature trees of data sets with horizontal boxes, some with oriented ones too."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsvheat.data.miniature.drawing import bounds_of, draw_objects, horizontal
from rsvheat.data.miniature.painter import Painter, write_picture
from rsvheat.data.miniature.tree import DrawnBox, Miniature, as_tuples

DIOR = (
    "airplane",
    "airport",
    "baseballfield",
    "basketballcourt",
    "bridge",
    "chimney",
    "dam",
    "Expressway-Service-area",
    "Expressway-toll-station",
    "golffield",
    "groundtrackfield",
    "harbor",
    "overpass",
    "ship",
    "stadium",
    "storagetank",
    "tenniscourt",
    "trainstation",
    "vehicle",
    "windmill",
)
SAR_AIRCRAFT = ("A220", "A320/321", "A330", "ARJ21", "Boeing737", "Boeing787", "other")
NWPU_VHR10 = (
    "airplane",
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "harbor",
    "bridge",
    "vehicle",
)
SHIP = ("ship",)


def write_dior(
    folder: str | os.PathLike[str],
    size: int = 64,
    seed: int = 0,
    *,
    oriented: bool = False,
    other_spelling: bool = False,
) -> Miniature:
    """Write DIOR, or DIOR-R: images for training and testing apart, files of VOC, lists of names.

    Traps: class names with capitals, in lower case in one file; an image without boxes, one with a
    box without area, and one with a box that reaches beyond the image.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of an image in pixels (800 in the original).
        seed: Seed of the scenes.
        oriented: Whether to write the boxes of DIOR-R.
        other_spelling: Whether folders have underscores, and all images are in ``JPEGImages``.
    """
    root = Path(folder)
    kind = f"{'Oriented' if oriented else 'Horizontal'} Bounding Boxes"
    where = root / "Annotations" / (kind.replace(" ", "_") if other_spelling else kind)
    numbers = {"train": (1, 2, 3, 4), "val": (5, 6), "test": (11726, 11727)}
    keys: dict[str, list[str]] = {}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    traps: dict[str, Path] = {}
    for split, some in numbers.items():
        keys[split] = [f"{number:05}" for number in some]
        for number, key in zip(some, keys[split], strict=True):
            scene = Painter(size, (seed, number), len(DIOR))
            labels = [] if number == 2 else [number % 20, 7, 13]
            drawn = draw_objects(scene, DIOR, labels, oriented=oriented)
            written = list(drawn)
            if number == 3:
                written.append(horizontal("ship", 5, 6, 5, 20))
            if number == 4:
                drawn.append(horizontal("ship", size - 10, 4, size + 20, 12))
                written.append(drawn[-1])
            images = "trainval" if split != "test" else "test"
            place = root / ("JPEGImages" if other_spelling else f"JPEGImages-{images}")
            write_picture(place / f"{key}.jpg", scene.picture(3))
            path = where / f"{key}.xml"
            _write_voc(path, f"{key}.jpg", size, written, oriented, lower=number == 1)
            boxes[key] = tuple(drawn)
            trap = {1: "spelling", 2: "no_boxes", 3: "zero_area", 4: "outside"}.get(number)
            if trap:
                traps[trap] = path
    _write_lists(root, keys)
    return Miniature(root, DIOR, as_tuples(keys), traps=traps, boxes=boxes)


def write_sar_aircraft(folder: str | os.PathLike[str], size: int = 64, seed: int = 0) -> Miniature:
    """Write SAR-AIRcraft-1.0: gray images in a layout of VOC.

    Traps: a class name with a slash; an image that holds the gray values three times; an image
    without boxes; images of two sizes.

    Args:
        folder: Folder that gets ``SAR-AIRcraft-1.0``; made if need be.
        size: Side of an image in pixels (800 and more in the original).
        seed: Seed of the scenes.
    """
    root = Path(folder, "SAR-AIRcraft-1.0")
    numbers = {"train": (1, 2, 3, 4), "val": (5, 6), "test": (7, 8)}
    keys = {split: [f"{number:07}" for number in some] for split, some in numbers.items()}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    for number, key in enumerate((key for some in keys.values() for key in some), 1):
        side = size if number % 3 else size + 12
        scene = Painter(side, (seed, number), len(SAR_AIRCRAFT))
        labels = [] if number == 3 else [1, number % 7]
        drawn = draw_objects(scene, SAR_AIRCRAFT, labels, oriented=False)
        radar = scene.radar()
        write_picture(
            root / "JPEGImages" / f"{key}.jpg", radar.repeat(3, 0) if number == 2 else radar
        )
        _write_voc(root / "Annotations" / f"{key}.xml", f"{key}.jpg", side, drawn, False)
        boxes[key] = tuple(drawn)
    _write_lists(root, keys)
    traps = {
        "slash": root / "Annotations" / "0000001.xml",
        "three_bands": root / "JPEGImages" / "0000002.jpg",
        "no_boxes": root / "Annotations" / "0000003.xml",
    }
    return Miniature(root, SAR_AIRCRAFT, as_tuples(keys), traps=traps, boxes=boxes)


def write_ssdd(
    folder: str | os.PathLike[str],
    size: int = 64,
    seed: int = 0,
    *,
    oriented: bool = False,
    layout: str = "official",
) -> Miniature:
    """Write SSDD: ships, with horizontal or oriented boxes in files of VOC.

    Traps: oblong images of three equal bands; numbers that end in 1 and 9 are for testing.

    Args:
        folder: Root of the tree; made if need be.
        size: Width of an image in pixels (about 500 in the original).
        seed: Seed of the scenes.
        oriented: Whether to write oriented boxes.
        layout: ``"official"``, ``"numbered"`` folders 01 and 02, or ``"flat"``.
    """
    root = Path(folder)
    style = "RBox_SSDD" if oriented else "BBox_SSDD"
    base = {
        "official": root / style / "voc_style",
        "numbered": root / ("VOCOBB" if oriented else "VOC"),
        "flat": root,
    }[layout]
    ends = {
        "official": {"train": "_train", "test": "_test"},
        "numbered": {"train": "01", "test": "02"},
        "flat": {"train": "", "test": ""},
    }[layout]
    keys: dict[str, list[str]] = {"train": [], "test": []}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    for number in (2, 3, 4, 6, 9, 11):
        split = "test" if number % 10 in (1, 9) else "train"
        key = f"{number:06}"
        scene = Painter((size * 3 // 4, size), (seed, number), len(SHIP))
        drawn = draw_objects(scene, SHIP, [0] * (number % 3 + 1), oriented=oriented)
        picture = scene.radar().repeat(3, 0)
        write_picture(base / f"JPEGImages{ends[split]}" / f"{key}.jpg", picture)
        path = base / f"Annotations{ends[split]}" / f"{key}.xml"
        _write_voc(path, f"{key}.jpg", size, drawn, oriented, tag="rotated_bndbox")
        keys[split].append(key)
        boxes[key] = tuple(drawn)
    return Miniature(root, SHIP, as_tuples(keys), boxes=boxes)


def write_hrsid(folder: str | os.PathLike[str], size: int = 64, seed: int = 0) -> Miniature:
    """Write HRSID: ships in files of COCO, with outlines.

    Traps: numbers of images and categories that do not begin at 0 or 1; an image without boxes; a
    crowd, which is difficult.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of an image in pixels (800 in the original).
        seed: Seed of the scenes.
    """
    root = Path(folder)
    numbers = {"train": (1, 2, 3, 4), "test": (5, 6)}
    keys: dict[str, list[str]] = {}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    for split, some in numbers.items():
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "ship", "supercategory": "none"}],
        }
        keys[split] = [f"P{number:04}_0_800_0_800" for number in some]
        for number, key in zip(some, keys[split], strict=True):
            scene = Painter(size, (seed, number), len(SHIP))
            count = 0 if number == 2 else 2
            drawn = draw_objects(scene, SHIP, [0] * count, oriented=True)
            if number == 3:
                drawn[0] = drawn[0]._replace(difficult=True)
            write_picture(root / "JPEGImages" / f"{key}.jpg", scene.radar())
            content["images"].append(
                {"id": 20180000 + number, "file_name": f"{key}.jpg", "height": size, "width": size}
            )
            for box in drawn:
                left, top, right, bottom = bounds_of(box)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 20180000 + number,
                        "category_id": 7,
                        "bbox": [left, top, right - left, bottom - top],
                        "segmentation": [[value for point in box.corners for value in point]],
                        "iscrowd": int(box.difficult),
                        "area": (right - left) * (bottom - top),
                    }
                )
            boxes[key] = tuple(drawn)
        path = root / "annotations" / f"{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return Miniature(root, SHIP, as_tuples(keys), boxes=boxes)


def write_nwpu_vhr10(folder: str | os.PathLike[str], size: int = 64, seed: int = 0) -> Miniature:
    """Write NWPU VHR-10: text files with the numbers of classes, and images without objects.

    Traps: blanks anywhere in a line; oblong images; images without objects in a folder of their
    own.

    Args:
        folder: Root of the tree; made if need be.
        size: Height of an image in pixels (about 600 in the original).
        seed: Seed of the scenes.
    """
    root = Path(folder)
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    keys = []
    truth = root / "ground truth"
    truth.mkdir(parents=True, exist_ok=True)
    for number in range(1, 11):
        scene = Painter((size, size + 16), (seed, number), len(NWPU_VHR10))
        labels = [number - 1, 9]
        drawn = draw_objects(scene, NWPU_VHR10, labels, oriented=False)
        write_picture(root / "positive image set" / f"{number:03}.jpg", scene.picture(3))
        blank = " " * (number % 3)
        lines = []
        for label, box in zip(labels, drawn, strict=True):
            left, top, right, bottom = (round(value) for value in bounds_of(box))
            lines.append(f"({blank}{left},{blank}{top}),({right},{bottom}{blank}),{label + 1} ")
        (truth / f"{number:03}.txt").write_text("\r\n".join(lines) + "\r\n")
        keys.append(f"positive/{number:03}")
        boxes[keys[-1]] = tuple(drawn)
    for number in (1, 2):
        picture = Painter(size, (seed, 100 + number), len(NWPU_VHR10)).picture(3)
        write_picture(root / "negative image set" / f"{number:03}.jpg", picture)
        keys.append(f"negative/{number:03}")
        boxes[keys[-1]] = ()
    return Miniature(root, NWPU_VHR10, {"all": tuple(keys)}, boxes=boxes)


def _write_lists(root: Path, keys: dict[str, list[str]]) -> None:
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for split, names in keys.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _write_voc(
    path: Path,
    image: str,
    size: int,
    boxes: Sequence[DrawnBox],
    oriented: bool,
    *,
    tag: str = "robndbox",
    lower: bool = False,
) -> None:
    """Write a file of VOC; coordinates have the tags of DIOR-R, or those of SSDD."""
    places = ("left_top", "right_top", "right_bottom", "left_bottom")
    parts = []
    for box in boxes:
        if oriented:
            points = np.array(box.corners).astype(int)
            names = places if tag == "robndbox" else (1, 2, 3, 4)
            between = "_" if tag == "robndbox" else ""
            values = "".join(
                f"<x{between}{name}>{x}</x{between}{name}><y{between}{name}>{y}</y{between}{name}>"
                for name, (x, y) in zip(names, points, strict=True)
            )
            shape = f"<{tag}>{values}</{tag}>"
        else:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), bounds_of(box), strict=True)
            shape = "".join(f"<{name}>{int(value)}</{name}>" for name, value in sides)
            shape = f"<bndbox>{shape}</bndbox>"
        name = box.name.lower() if lower else box.name
        parts.append(f"<object><name>{name}</name><difficult>0</difficult>{shape}</object>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{image}</filename><size><width>{size}</width><height>{size}</height>"
        f"<depth>3</depth></size>{''.join(parts)}</annotation>"
    )
