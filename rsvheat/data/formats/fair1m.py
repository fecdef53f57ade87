# SPDX-License-Identifier: Apache-2.0
"""XML files of FAIR1M: closed polygons of five points."""

import os

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import child_text, numbers, read_xml
from rsvheat.data.skip_report import SampleError


def read_fair1m(path: str | os.PathLike[str]) -> ImageBoxes:
    """Read an annotation file of FAIR1M.

    An object has its class in ``possibleresult/name`` and its corners in five ``points/point``, of
    which the last is the first. Files are of the encodings utf-8, gb2312 and gbk.

    Args:
        path: Path of the file.

    Raises:
        SampleError: If the file cannot be read, or an object has no name or not four corners.
    """
    root = read_xml(path)
    corners, names = [], []
    for element in root.iter("object"):
        name = child_text(element, "possibleresult/name", path)
        texts = [point.text or "" for point in element.iterfind("points/point")]
        points = [numbers(text.split(","), f"{path}, {name}") for text in texts]
        if len(points) > 1 and points[0] == points[-1]:
            points.pop()
        if len(points) != 4 or any(len(point) != 2 for point in points):
            raise SampleError(
                "label",
                f"{path}, {name}: expected four corners x,y, closed by the first, got {texts}",
            )
        names.append(name)
        corners.append(points)
    return ImageBoxes.of(corners, names)
