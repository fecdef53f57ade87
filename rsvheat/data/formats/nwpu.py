# SPDX-License-Identifier: Apache-2.0
"""Text files of NWPU VHR-10: two corners and the number of the class in a line."""

import os
import re
from collections.abc import Sequence

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import read_text
from rsvheat.data.polygons import box_corners
from rsvheat.data.skip_report import SampleError

_LINE = re.compile(
    r"\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)\s*,\s*\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)\s*,\s*(\d+)"
)


def read_nwpu(path: str | os.PathLike[str], classes: Sequence[str]) -> ImageBoxes:
    """Read an annotation file of NWPU VHR-10.

    Lines are ``(x1,y1),(x2,y2),class`` in pixels, with blanks anywhere.

    Args:
        path: Path of the file.
        classes: Class names by their number in the file, which counts from 1.

    Raises:
        SampleError: If the file cannot be read, or a line is something else.
    """
    corners, names = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or not 1 <= int(match[5]) <= len(classes):
            raise SampleError(
                "label",
                f"{path}, line {number}: expected (x1,y1),(x2,y2),class with a class from 1 to "
                f"{len(classes)}, got {line!r}",
            )
        corners.append(box_corners(*map(float, match.groups()[:4])))
        names.append(classes[int(match[5]) - 1])
    return ImageBoxes.of(corners, names)
