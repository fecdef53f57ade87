# SPDX-License-Identifier: Apache-2.0
"""Masks in which every object has a color of its own."""

import os

import numpy as np

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.image_reader import Window
from rsvheat.data.polygons import box_corners, smallest_rectangle
from rsvheat.data.readers import open_image
from rsvheat.data.skip_report import SampleError


def read_instance_mask(
    path: str | os.PathLike[str], name: str, *, oriented: bool = False
) -> ImageBoxes:
    """Read the boxes around the objects of a mask, whose colors are the objects and black is none.

    Pixels of one color are one object, also where another object parts them. Pixels without data,
    such as transparent ones, are none.

    Args:
        path: Path of the mask, of one band or three.
        name: Class name of the objects.
        oriented: Whether to take the smallest rectangle around an object's pixels instead of the
            horizontal one.

    Returns:
        Boxes in the order of the colors as numbers. Coordinates are those of the pixels' borders.

    Raises:
        SampleError: If the file cannot be read, or has another number of bands or type of values.
    """
    with open_image(path, raw=True) as reader:
        height, width = reader.height, reader.width
        pixels = reader.read(Window(0, 0, height, width))
    values = pixels.values
    if len(values) not in (1, 3) or values.dtype.kind != "u":
        raise SampleError(
            "bands",
            f"{path} has {len(values)} bands of {values.dtype}; a mask of objects has 1 or 3 bands "
            "of unsigned integers",
        )
    numbers = np.zeros((height, width), np.int64)
    for band in values:
        numbers = numbers << 8 * values.itemsize | band
    if pixels.valid is not None:
        numbers[~pixels.valid.all(0)] = 0
    found, places = np.unique(numbers, return_inverse=True)
    # Pixels by object: comparing the whole mask with each number would read it once an object.
    order = np.argsort(places.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(places.ravel(), minlength=len(found)))
    corners = []
    for number, chosen in zip(found, np.split(order, ends[:-1]), strict=True):
        if number:
            y, x = np.divmod(chosen, width)
            if oriented:
                points = [np.stack((x + i, y + j), 1) for i in (0, 1) for j in (0, 1)]
                corners.append(smallest_rectangle(np.concatenate(points)))
            else:
                corners.append(box_corners(x.min(), y.min(), x.max() + 1, y.max() + 1))
    return ImageBoxes.of(corners, [name] * len(corners), size=(height, width))
