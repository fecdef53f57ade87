# SPDX-License-Identifier: Apache-2.0
"""Miniature trees of data sets with oriented boxes."""

import os
from collections.abc import Sequence
from pathlib import Path

from rsvheat.data.miniature.drawing import draw_objects
from rsvheat.data.miniature.painter import Painter, write_picture, write_tiff
from rsvheat.data.miniature.tree import DrawnBox, Miniature, as_tuples

DOTA = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
    "container-crane",
    "airport",
    "helipad",
)
_FAIR1M = """
    Boeing737 Boeing747 Boeing777 Boeing787 ARJ21 C919 A220 A321 A330 A350 other-airplane
    Passenger_Ship Motorboat Fishing_Boat Tugboat other-ship Engineering_Ship Liquid_Cargo_Ship
    Dry_Cargo_Ship Warship Small_Car Bus Cargo_Truck Dump_Truck other-vehicle Van Trailer Tractor
    Excavator Truck_Tractor Baseball_Field Basketball_Court Football_Field Tennis_Court Roundabout
    Intersection Bridge
"""
FAIR1M = tuple(name.replace("_", " ") for name in _FAIR1M.split())


def write_dota(
    folder: str | os.PathLike[str], size: int = 64, seed: int = 0, *, version: str = "1.0"
) -> Miniature:
    """Write DOTA: large images of many sizes and text files.

    Traps: files with and without the lines of source and resolution; corners outside the image; a
    difficult box; an empty file; test images without boxes; a second folder of labels for version
    1.5, with other boxes.

    Args:
        folder: Root of the tree; made if need be.
        size: About the side of an image in pixels.
        seed: Seed of the scenes.
        version: Version whose labels are written: ``"1.0"``, ``"1.5"`` or ``"2.0"``.
    """
    root = Path(folder)
    classes = DOTA[: {"1.0": 15, "1.5": 16, "2.0": 18}[version]]
    numbers = {"train": (0, 1, 2, 5), "val": (3, 4), "test": (6,)}
    keys: dict[str, list[str]] = {}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    traps: dict[str, Path] = {}
    for split, some in numbers.items():
        keys[split] = [f"{split}/P{number:04}" for number in some]
        for number, key in zip(some, keys[split], strict=True):
            scene = Painter((size + 9 * number, 2 * size - 5), (seed, number), len(DOTA))
            labels = [] if number == 2 else [number, 6, len(classes) - 1]
            drawn = draw_objects(scene, DOTA, labels, oriented=True)
            name = key.partition("/")[2]
            write_picture(root / split / "images" / f"{name}.png", scene.picture(3))
            if split == "test":
                continue
            if number == 0:
                drawn[0] = drawn[0]._replace(difficult=True)
            if number == 1:
                corners = ((-12.0, 3.0), (9.0, -6.0), (15.0, 9.0), (-6.0, 18.0))
                drawn.append(DrawnBox("ship", corners))
            header = "" if number == 1 else "imagesource:GoogleEarth\ngsd:0.146343590398\n"
            labels_in = "labelTxt" if version == "1.0" else f"labelTxt-v{version}"
            path = root / split / labels_in / f"{name}.txt"
            _write_text(path, header, drawn)
            if version == "1.5":
                _write_text(root / split / "labelTxt" / f"{name}.txt", header, drawn[:1])
            boxes[key] = tuple(drawn)
            trap = {0: "difficult", 1: "without_header", 2: "no_boxes"}.get(number)
            if trap:
                traps[trap] = path
    unlabeled = {"test": tuple(keys.pop("test"))}
    return Miniature(root, classes, as_tuples(keys), unlabeled, traps, boxes)


def _write_text(path: Path, header: str, boxes: Sequence[DrawnBox]) -> None:
    lines = [
        " ".join(f"{value:.1f}" for point in box.corners for value in point)
        + f" {box.name} {int(box.difficult)}\n"
        for box in boxes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(lines))


def write_fair1m(
    folder: str | os.PathLike[str],
    size: int = 64,
    seed: int = 0,
    *,
    other_layout: bool = False,
) -> Miniature:
    """Write FAIR1M: TIFF images and XML files with closed polygons of five points.

    Traps: the encoding gb2312 with Chinese text in one file; the same numbers in both parts and in
    the validation set; a polygon whose corners are one point; an image without boxes; folders
    ``labelXml`` and ``labelXmls``; in the other layout, class names with underscores.

    Args:
        folder: Root of the tree; made if need be.
        size: Side of an image in pixels (1,000 and more in the original).
        seed: Seed of the scenes.
        other_layout: Whether to write ``train`` and ``val`` with ``labelXmls`` instead of
            ``train/part1``, ``train/part2`` and ``validation``.
    """
    root = Path(folder)
    places = (
        {"train": ("train",), "val": ("val",)}
        if other_layout
        else {"train": ("train/part1", "train/part2"), "val": ("validation",)}
    )
    keys: dict[str, list[str]] = {split: [] for split in places}
    boxes: dict[str, tuple[DrawnBox, ...]] = {}
    traps: dict[str, Path] = {}
    for split, parts in places.items():
        for order, part in enumerate(parts):
            for number in range(1, 5 if other_layout else 4):
                scene = Painter(size, (seed, order, number, split == "val"), len(FAIR1M))
                empty = part.startswith("train") and number == 3
                labels = [] if empty else [(7 * number + order) % 37, 20, 35]
                drawn = draw_objects(scene, FAIR1M, labels, oriented=True)
                write_tiff(root / part / "images" / f"{number}.tif", scene.picture(3))
                labels_in = "labelXmls" if other_layout or order or split == "val" else "labelXml"
                path = root / part / labels_in / f"{number}.xml"
                chinese = split == "train" and number == 1
                degenerate = split == "train" and number == 2
                _write_xml(path, drawn, chinese, degenerate, underscores=other_layout)
                key = f"{part}/{number}"
                keys[split].append(key)
                boxes[key] = tuple(drawn)
                if chinese:
                    traps["gb2312"] = path
                if degenerate:
                    traps["zero_area"] = path
                if empty:
                    traps["no_boxes"] = path
    return Miniature(root, FAIR1M, as_tuples(keys), traps=traps, boxes=boxes)


def _write_xml(
    path: Path, boxes: Sequence[DrawnBox], chinese: bool, degenerate: bool, *, underscores: bool
) -> None:
    objects = [(box.name, box.corners) for box in boxes]
    if degenerate:
        objects.append(("Van", ((3.0, 4.0),) * 4))
    parts = []
    for name, corners in objects:
        points = "".join(f"<point>{x:.6f},{y:.6f}</point>" for x, y in (*corners, corners[0]))
        spelled = name.replace(" ", "_") if underscores else name
        parts.append(
            "<object><coordinate>pixel</coordinate><type>rectangle</type>"
            "<description>None</description>"
            f"<possibleresult><name>{spelled}</name></possibleresult>"
            f"<points>{points}</points></object>"
        )
    encoding = "gb2312" if chinese else "utf-8"
    origin = "\u9ad8\u5206\u4e8c\u53f7" if chinese else "GF2/GF3"
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation><source>'
        f"<filename>{path.stem}.tif</filename><origin>{origin}</origin></source>"
        f"<objects>{''.join(parts)}</objects></annotation>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
