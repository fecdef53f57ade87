# SPDX-License-Identifier: Apache-2.0
"""Finds images and their files of boxes, and maps the spellings of class names to one."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rsvheat.data.boxes import BoxSource, ImageBoxes
from rsvheat.data.datasets.finding import find_folder, hold_out, list_images
from rsvheat.data.datasets.reader import Scan, Split
from rsvheat.data.formats import CocoFile
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


def annotate_lists(
    images: Mapping[str, str],
    annotations: Mapping[str, str],
    lists: Mapping[str, str | os.PathLike[str]],
    read: Callable[[str], ImageBoxes],
    scan: Scan,
    *,
    modality: str,
) -> dict[str, list[Annotated]]:
    """Read the boxes of the images that files of names list.

    Args:
        images: Image file by name.
        annotations: File of boxes by name.
        lists: File of names by split.
        read: Function of the path of a file of boxes.
        scan: Context of the search.
        modality: Modality of the images.

    Returns:
        Samples by split.

    Raises:
        DataError: If something cannot be used and ``scan`` raises errors.
    """
    found = {}
    files = {name: {modality: path} for name, path in images.items()}
    for split, path in lists.items():
        some = listed(path, files, scan)
        theirs = {name: annotations[name] for name in some if name in annotations}
        found[split] = annotate(some, theirs, lambda text, _: read(text), scan)
    return found


def find_lists(root: str | os.PathLike[str], *splits: str) -> dict[str, Path]:
    """Return the files of names in ``ImageSets/Main`` and similar folders, by split.

    Args:
        root: Folder of the data set.
        *splits: Names of the splits.
    """
    for name in ("ImageSets/Main", "ImageSets", "Main"):
        folder = find_folder(root, name)
        found = {} if folder is None else {s: folder / f"{s}.txt" for s in splits}
        there = {split: path for split, path in found.items() if path.is_file()}
        if there:
            return there
    return {}


def annotate_coco(
    files: Mapping[str, Mapping[str, str]],
    path: str | os.PathLike[str],
    content: CocoFile,
    scan: Scan,
    *,
    report_images: bool = True,
) -> list[Annotated]:
    """Join images and the content of a COCO file, by name or, if that is unique, by its last part.

    Args:
        files: Files by modality of each image, by key.
        path: Path of the COCO file, for errors.
        content: Content of the COCO file.
        scan: Context of the search.
        report_images: Whether images that the file does not list are reported.

    Returns:
        The samples, in the order of their keys.

    Raises:
        DataError: If something has no counterpart and ``scan`` raises errors.
    """
    by_name: dict[str, list[str]] = {}
    for key in files:
        by_name.setdefault(Path(key).name, []).append(key)
    found, skips = {}, []
    for name, boxes in content.images.items():
        stem = os.path.splitext(name)[0]
        keys = [stem] if stem in files else by_name.get(Path(stem).name, [])
        if len(keys) == 1:
            found[keys[0]] = Annotated(keys[0], files[keys[0]], boxes)
        else:
            skips.append(Skip("unmatched", stem, f"{name} of {path} has {len(keys)} images"))
    if report_images:
        skips += [
            Skip("unmatched", key, f"{', '.join(paths.values())} is not listed in {path}")
            for key, paths in files.items()
            if key not in found
        ]
    scan.skip(skips)
    return [found[key] for key in sorted(found)]


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


def box_splits(
    found: Mapping[str, Sequence[Annotated]],
    names: ClassNames,
    oriented: bool,
    scan: Scan,
    *,
    val_fraction: float = 0.0,
) -> dict[str, Split]:
    """Return the splits of a data set with its class names.

    Args:
        found: Samples by split.
        names: Class names of the data set.
        oriented: Whether boxes are oriented.
        scan: Context of the search.
        val_fraction: Fraction of the training images that is held out where there is no ``"val"``.

    Raises:
        DataError: If a split has no sample, or something cannot be used and ``scan`` raises errors.
    """
    splits = {
        split: Split(box_source(rename_all(some, names, scan), names.classes, oriented, scan))
        for split, some in found.items()
        if some
    }
    if val_fraction and "val" not in splits and "train" in splits:
        splits |= hold_out(splits["train"].source, val_fraction, None, None, scan)
    return splits
