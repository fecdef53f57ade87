# SPDX-License-Identifier: Apache-2.0
"""XML files of Pascal VOC, with horizontal or rotated boxes."""

import math
import os
import xml.etree.ElementTree as ET

import numpy as np

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import child_text, numbers, read_xml
from rsvheat.data.polygons import Points, box_corners, rectangle_corners
from rsvheat.data.skip_report import SampleError

# Eight coordinates in order around the box: those of DIOR-R, and those of SSDD and others.
_CORNERS = (
    tuple(
        f"{axis}_{place}"
        for place in ("left_top", "right_top", "right_bottom", "left_bottom")
        for axis in "xy"
    ),
    tuple(f"{axis}{number}" for number in range(1, 5) for axis in "xy"),
)
_ROTATED = ("robndbox", "rotated_bndbox", "polygon")
_BOUNDS = ("xmin", "ymin", "xmax", "ymax")
_CENTER = ("cx", "cy", "w", "h", "angle")


def read_voc(path: str | os.PathLike[str]) -> ImageBoxes:
    """Read an annotation file of Pascal VOC.

    An object's box is its ``robndbox``, ``rotated_bndbox`` or ``polygon`` where it has one, and its
    ``bndbox`` otherwise. Rotated boxes have four corners (``x_left_top`` and so on, or ``x1`` to
    ``y4``), or ``cx``, ``cy``, ``w``, ``h`` and ``angle`` in radians, clockwise as seen in the
    image, as roLabelImg writes them. Coordinates are taken as they are: some data sets count pixels
    from 1, some from 0.

    Args:
        path: Path of the file.

    Raises:
        SampleError: If the file cannot be read, or an object has no name or box.
    """
    root = read_xml(path)
    corners, names, difficult = [], [], []
    for element in root.iter("object"):
        names.append(child_text(element, "name", path))
        corners.append(_corners(element, path))
        difficult.append((element.findtext("difficult") or "0").strip() not in ("", "0"))
    return ImageBoxes.of(corners, names, difficult, _size(root))


def _size(root: ET.Element) -> tuple[int, int] | None:
    height, width = ((root.findtext(f"size/{name}") or "").strip() for name in ("height", "width"))
    return (int(height), int(width)) if height.isdigit() and width.isdigit() else None


def _corners(element: ET.Element, path: str | os.PathLike[str]) -> Points:
    where = f"{path}, {element.findtext('name')}"
    for kind in _ROTATED:
        box = element.find(kind)
        if box is None:
            continue
        for tags in _CORNERS:
            if box.find(tags[0]) is not None:
                values = numbers((child_text(box, tag, path) for tag in tags), where)
                return np.array(values).reshape(4, 2)
        if box.find(_CENTER[0]) is not None:
            *values, angle = numbers((child_text(box, tag, path) for tag in _CENTER), where)
            corners: Points = rectangle_corners(np.array([[*values, -math.degrees(angle)]]))[0]
            return corners
    box = element.find("bndbox")
    if box is None:
        raise SampleError(
            "label", f"{where}: has none of {', '.join((*_ROTATED, 'bndbox'))} that is known"
        )
    values = numbers((child_text(box, tag, path) for tag in _BOUNDS), where)
    return box_corners(*values)
