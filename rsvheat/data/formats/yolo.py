# SPDX-License-Identifier: Apache-2.0
"""Text files of the YOLO family: class number and normalized box or corners in a line."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import numbers, read_text
from rsvheat.data.polygons import Points, box_corners, smallest_rectangle
from rsvheat.data.skip_report import DataError, SampleError

_NAMES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")


def read_yolo(
    path: str | os.PathLike[str], classes: Sequence[str], size: tuple[int, int]
) -> ImageBoxes:
    """Read a label file of YOLO.

    Lines hold the number of the class, from 0, and parts of the image's width and height: center,
    width and height of a box; or four corners; or the corners of any other polygon, of which the
    smallest rectangle is taken.

    Args:
        path: Path of the file.
        classes: Class names by number.
        size: Height and width of the image in pixels.

    Raises:
        SampleError: If the file cannot be read, or a line is something else.
    """
    corners, names = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        values = np.array(numbers(words[1:], where))
        if not words[0].isdigit() or int(words[0]) >= len(classes):
            raise SampleError(
                "label",
                f"{where}: {words[0]!r} is no class number from 0 to {len(classes) - 1}",
            )
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise SampleError(
                "label",
                f"{where}: expected center, width and height, or corners, got {len(values)} values",
            )
        corners.append(_corners(values, size))
        names.append(classes[int(words[0])])
    return ImageBoxes.of(corners, names, size=size)


def _corners(values: Points, size: tuple[int, int]) -> Points:
    scale = np.array((size[1], size[0]), np.float64)
    if len(values) == 4:
        low, high = values[:2] - values[2:] / 2, values[:2] + values[2:] / 2
        return box_corners(*low * scale, *high * scale)
    points = values.reshape(-1, 2) * scale
    return points if len(points) == 4 else smallest_rectangle(points)


def read_yolo_names(*folders: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """Return the class names of a YOLO data set.

    Args:
        *folders: Folders that may hold ``classes.txt`` or ``obj.names``, a name in a line, or
            ``data.yaml`` or ``dataset.yaml`` with ``names``.

    Returns:
        Class names by number; None if there is no such file.

    Raises:
        DataError: If a file has no names.
    """
    for folder in folders:
        for name in _NAMES:
            path = Path(folder, name)
            if path.is_file():
                return _names(path)
    return None


def _names(path: Path) -> tuple[str, ...]:
    text = read_text(path)
    if path.suffix != ".yaml":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    # It comes with the parser of the command line, and has no type hints.
    yaml = importlib.import_module("yaml")

    try:
        names = yaml.safe_load(text)["names"]
        values = [names[i] for i in range(len(names))]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no list of names: {error}") from None
    return tuple(str(value) for value in values)
