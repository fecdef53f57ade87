# SPDX-License-Identifier: Apache-2.0
"""Text files of DOTA: four corners, class and difficulty in a line."""

import os

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.formats.text_file import numbers, read_text
from rsvheat.data.skip_report import SampleError

_HEADERS = ("imagesource", "gsd")


def read_dota(path: str | os.PathLike[str]) -> ImageBoxes:
    """Read a label file of DOTA.

    Lines are ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult`` in pixels; the last word may be missing.
    Lines that begin with ``imagesource`` and ``gsd`` may come first. The development kit marks
    objects that were cut as 2, which counts as difficult.

    Args:
        path: Path of the file.

    Raises:
        SampleError: If the file cannot be read, or a line is something else.
    """
    corners, names, difficult = [], [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words or line.lower().startswith(_HEADERS):
            continue
        where = f"{path}, line {number}"
        if len(words) < 9:
            raise SampleError(
                "label", f"{where}: expected 8 coordinates, class and difficulty, got {line!r}"
            )
        points = numbers(words[:8], where)
        marked = len(words) > 9 and words[-1].isdigit()
        corners.append(points)
        names.append(" ".join(words[8:-1] if marked else words[8:]))
        difficult.append(marked and int(words[-1]) > 0)
    return ImageBoxes.of(corners, names, difficult)
