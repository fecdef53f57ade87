# SPDX-License-Identifier: Apache-2.0
"""Finds images and their files of boxes, and maps the spellings of class names to one."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rsvheat.data.boxes import BoxSource, ImageBoxes
from rsvheat.data.datasets.finding import list_images
from rsvheat.data.datasets.reader import Scan
from rsvheat.data.formats.text_file import read_text
from rsvheat.data.skip_report import DataError, SampleError, Skip

_SUFFIX = re.compile(r"\.(jpe?g|png|tiff?|bmp)$", re.IGNORECASE)
_IGNORED = re.compile(r"[\s_/-]+")


class Annotated(NamedTuple):
    """One sample with boxes.

    Attributes:
        key: Name of the sample.
        files: Image files by modality.
        boxes: Boxes of the image.
    """

    key: str
    files: Mapping[str, str]
    boxes: ImageBoxes


class ClassNames:
    """Class names of a data set, whose copies spell them in several ways.

    Capitals, blanks, hyphens, underscores and slashes do not matter.

    Args:
        classes: Class names by label.
        groups: Class that stands for each name in the files; None where they are the same.
    """

    def __init__(self, classes: Sequence[str], groups: Mapping[str, str] | None = None) -> None:
        self.classes = tuple(classes)
        names = {name: name for name in classes} if groups is None else groups
        self._names = {_plain(name): label for name, label in names.items()}

    def rename(self, boxes: ImageBoxes, where: str) -> ImageBoxes:
        """Return boxes with the names of ``classes``.

        Args:
            boxes: Boxes with the names of a file.
            where: File, for errors.

        Raises:
            SampleError: If a name is of no class.
        """
        unknown = sorted({name for name in boxes.names if _plain(name) not in self._names})
        if unknown:
            raise SampleError(
                "label",
                f"{where}: {', '.join(map(repr, unknown))} is of no class; known are "
                f"{', '.join(self.classes)}",
            )
        names = tuple(self._names[_plain(name)] for name in boxes.names)
        return ImageBoxes(boxes.corners, names, boxes.difficult, boxes.size)


def _plain(name: str) -> str:
    return _IGNORED.sub("", name.lower())


def images_by_stem(folder: str | os.PathLike[str], scan: Scan) -> dict[str, str]:
    """Return the image files of a folder and all below it, by path without suffix.

    Args:
        folder: Folder to search.
        scan: Context of the search.

    Raises:
        DataError: If a file cannot be used and ``scan`` raises errors.
    """
    paths = list_images(folder, scan)
    return {Path(os.path.relpath(os.path.splitext(p)[0], folder)).as_posix(): p for p in paths}


def files_by_stem(folder: str | os.PathLike[str], *suffixes: str) -> dict[str, str]:
    """Return the files of a folder and all below it that have one of several suffixes.

    Args:
        folder: Folder to search.
        *suffixes: Suffixes in lower case, the preferred one first.

    Returns:
        Paths by path within the folder, without suffix.
    """
    found: dict[str, str] = {}
    for suffix in reversed(suffixes):
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix.lower() == suffix and path.is_file():
                found[path.relative_to(folder).with_suffix("").as_posix()] = str(path)
    return found


def annotate(
    images: Mapping[str, Mapping[str, str]],
    annotations: Mapping[str, str],
    read: Callable[[str, Mapping[str, str]], ImageBoxes],
    scan: Scan,
    *,
    prefix: str = "",
    without: bool = False,
) -> list[Annotated]:
    """Read the boxes of images, and report what has no counterpart or cannot be read.

    Args:
        images: Files by modality of each image, by key.
        annotations: File of boxes by key.
        read: Function of the path of a file of boxes and the files of the image.
        scan: Context of the search.
        prefix: Beginning of the keys of samples.
        without: Whether images without a file of boxes have no boxes, instead of being left out.

    Returns:
        The samples, in the order of their keys.

    Raises:
        DataError: If something cannot be used and ``scan`` raises errors.
    """
    found, skips = [], []
    for key in sorted(images.keys() | annotations.keys()):
        if key not in images:
            reason = f"{annotations[key]} has no image"
            skips.append(Skip("unmatched", prefix + key, reason))
        elif key in annotations:
            try:
                boxes = read(annotations[key], images[key])
            except SampleError as error:
                skips.append(Skip(error.kind, prefix + key, error.reason))
            else:
                found.append(Annotated(prefix + key, images[key], boxes))
        elif without:
            found.append(Annotated(prefix + key, images[key], ImageBoxes.of([], [])))
        else:
            reason = f"{', '.join(images[key].values())} has no file of boxes"
            skips.append(Skip("unmatched", prefix + key, reason))
    scan.skip(skips)
    return found


def rename_all(samples: Iterable[Annotated], names: ClassNames, scan: Scan) -> list[Annotated]:
    """Return samples with the class names of a data set, and report those of other classes.

    Args:
        samples: Samples with the names of their files.
        names: Class names of the data set.
        scan: Context of the search.

    Raises:
        DataError: If a name is of no class and ``scan`` raises errors.
    """
    found = []
    for sample in samples:
        try:
            boxes = names.rename(sample.boxes, ", ".join(sample.files.values()))
        except SampleError as error:
            scan.skip([Skip(error.kind, sample.key, error.reason)])
        else:
            found.append(sample._replace(boxes=boxes))
    return found


def listed(
    path: str | os.PathLike[str], samples: Mapping[str, Mapping[str, str]], scan: Scan
) -> dict[str, Mapping[str, str]]:
    """Return the images that a file of names lists, and report those that are not there.

    Args:
        path: File with a name in each line, with or without suffix.
        samples: Files by modality of each image, by key.
        scan: Context of the search.

    Raises:
        DataError: If the file cannot be read, or an image is not there and ``scan`` raises errors.
    """
    # Lists of VOC may have a number after each name.
    words = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    names = [_SUFFIX.sub("", word) for word in words]
    scan.skip(
        Skip("unmatched", name, f"{name} of {path} has no image")
        for name in names
        if name not in samples
    )
    return {name: samples[name] for name in dict.fromkeys(names) if name in samples}


def box_source(
    samples: Sequence[Annotated], classes: Sequence[str], oriented: bool, scan: Scan
) -> BoxSource:
    """Return a scanned source of samples.

    Args:
        samples: Samples with boxes of these classes.
        classes: Class names by label.
        oriented: Whether boxes are oriented.
        scan: Context of the search.

    Raises:
        DataError: If there is no sample.
    """
    if not samples:
        raise DataError("none of the images has boxes that can be read")
    source = BoxSource(
        [(sample.key, sample.files) for sample in samples],
        [sample.boxes for sample in samples],
        classes,
        oriented=oriented,
    )
    scan(source)
    return source
