# SPDX-License-Identifier: Apache-2.0
"""JSON files of COCO: the boxes of all images of a data set."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import read_text
from rsvheat.data.polygons import Points, box_corners, smallest_rectangle
from rsvheat.data.skip_report import DataError


@dataclass(frozen=True)
class CocoFile:
    """Content of a COCO file.

    Attributes:
        classes: Class names in the order of their numbers.
        images: Boxes by the file name of each image, as the file states it.
    """

    classes: tuple[str, ...]
    images: dict[str, ImageBoxes]


def read_coco(path: str | os.PathLike[str], *, oriented: bool = False) -> CocoFile:
    """Read an annotation file of COCO.

    Boxes ``[x, y, width, height]`` are in pixels, ``iscrowd`` and ``ignore`` are difficult. The
    numbers of images and categories may be any.

    Args:
        path: Path of the file.
        oriented: Whether to take the corners of ``segmentation`` where it is a quadrilateral, or
            the smallest rectangle around its polygons, instead of ``bbox``.

    Raises:
        DataError: If the file cannot be read, or an entry lacks something.
    """
    try:
        content = json.loads(read_text(path))
        classes = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {
            entry["id"]: (str(entry["file_name"]), _size(entry)) for entry in content["images"]
        }
        boxes: dict[Any, list[tuple[Points, str, bool]]] = {number: [] for number in images}
        for entry in content["annotations"]:
            if entry["image_id"] not in boxes or entry["category_id"] not in classes:
                raise DataError(
                    f"{path}: the annotation {entry.get('id')} is of the image "
                    f"{entry['image_id']} and the category {entry['category_id']}, which are not "
                    "both listed"
                )
            hard = bool(entry.get("iscrowd") or entry.get("ignore"))
            name = classes[entry["category_id"]]
            boxes[entry["image_id"]].append((_corners(entry, oriented, path), name, hard))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a file of COCO: {error!r}") from None
    names = [name for name, _ in images.values()]
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists a file name twice")
    ordered = tuple(dict.fromkeys(classes[number] for number in sorted(classes)))
    found = {}
    for number, (file, size) in images.items():
        corners, labels, difficult = (
            zip(*boxes[number], strict=True) if boxes[number] else ((),) * 3
        )
        found[file] = ImageBoxes.of(corners, labels, difficult, size)
    return CocoFile(ordered, found)


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    return (int(entry["height"]), int(entry["width"])) if "height" in entry else None


def _corners(entry: dict[str, Any], oriented: bool, path: str | os.PathLike[str]) -> Points:
    polygons = entry.get("segmentation")
    if oriented:
        if not isinstance(polygons, list) or not polygons:
            raise DataError(
                f"{path}: the annotation {entry.get('id')} has no polygon in segmentation, which "
                "oriented boxes are from"
            )
        points = np.concatenate([np.array(one, np.float64).reshape(-1, 2) for one in polygons])
        return points if len(points) == 4 else smallest_rectangle(points)
    x, y, width, height = (float(value) for value in entry["bbox"])
    return box_corners(x, y, x + width, y + height)
