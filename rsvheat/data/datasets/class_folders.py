# SPDX-License-Identifier: Apache-2.0
"""Images in a folder for each class."""

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.normalize import Sensor
from rsvheat.data.readers import EXTENSIONS
from rsvheat.data.skip_report import DataError, Skip, printable
from rsvheat.data.sources import FileSource, FolderSource, check_class_folders, class_folders
from rsvheat.data.splits import label_subset, load_split, save_split, stratified_split

_LOGGER = logging.getLogger("rsvheat.data")

# Key, path and class of an image.
Labeled: TypeAlias = tuple[str, str, str]


class LabeledFiles(DatasetReader):
    """Base of the readers of image files with a class each; subclasses find the files.

    Args:
        modality: Modality of the images, the name of the network's stem.
        label_fraction: Fraction of each class's training images that is used, at least one image.
            With one seed, a smaller fraction is within each larger one.

    Raises:
        ValueError: If ``label_fraction`` is not above 0 and at most 1.
    """

    def __init__(self, modality: str, label_fraction: float) -> None:
        label_subset([0], label_fraction)  # checks it
        self.modality, self.label_fraction = modality, label_fraction

    def find(self, scan: Scan) -> tuple[list[str], dict[str, list[Labeled]]]:
        """Return the classes, and key, path and class of each image by split."""
        raise NotImplementedError

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        classes, found = self.find(scan)
        number = {name: label for label, name in enumerate(classes)}
        splits = {}
        for name in ("train", "val", "test"):
            if not found.get(name):
                continue
            files = [(key, {self.modality: path}) for key, path, _ in found[name]]
            labels = [number[label] for _, _, label in found[name]]
            used = label_subset(labels, self.label_fraction, scan.seed) if name == "train" else None
            splits[name] = Split(FileSource(files, labels, classes), used=used)
        return splits

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}


class ClassFolders(LabeledFiles):
    """Reads images in a folder for each class.

    Args:
        root: Folder whose subfolders are the classes, in alphabetical order; they are searched
            with all folders below them.
        val_root: Such a folder for validation, instead of ``val_fraction``.
        test_root: Such a folder for testing, instead of ``test_fraction``.
        val_fraction: Fraction of each class that is held out for validation.
        test_fraction: Fraction of each class that is held out for testing.
        split: Path of a JSON file that keeps the split. If the file exists, its split is used.
        label_fraction: Fraction of each class's training images that is used, at least one image.
            With one seed, a smaller fraction is within each larger one.
        modality: Modality of the images, the name of the network's stem.
        extensions: Suffixes of the files to search for, the preferred one first: it is used where
            files differ in suffix alone, such as ``0.jpg`` beside ``0.png``.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        val_root: str | None = None,
        test_root: str | None = None,
        *,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        split: str | None = None,
        label_fraction: float = 1.0,
        modality: str = "optical",
        extensions: Sequence[str] = EXTENSIONS,
    ) -> None:
        super().__init__(modality, label_fraction)
        self._extensions = extensions
        self.roots = {"train": root, "val": val_root, "test": test_root}
        held_out = {"val": (val_root, val_fraction), "test": (test_root, test_fraction)}
        self._fractions = {n: part for n, (folder, part) in held_out.items() if folder is None}
        stratified_split([0], self._fractions)  # checks them
        self._split_file = split

    def find(self, scan: Scan) -> tuple[list[str], dict[str, list[Labeled]]]:
        """See ``LabeledFiles.find``."""
        found = {
            name: self._images(folder, scan)
            for name, folder in self.roots.items()
            if folder is not None
        }
        classes = sorted({label for _, _, label in found["train"]})
        for name, images in found.items():
            unknown = sorted({label for _, _, label in images} - set(classes))
            if unknown:
                raise DataError(
                    f"{self.roots[name]} has the class {unknown[0]!r}, {self.roots['train']} "
                    "does not"
                )
        images = found["train"]
        if self._split_file is not None and Path(self._split_file).exists():
            return classes, {**found, **self._saved(self._split_file, images, classes, scan)}
        parts = stratified_split(
            [classes.index(label) for _, _, label in images], self._fractions, scan.seed
        )
        found |= {name: [images[i] for i in part] for name, part in parts.items()}
        if self._split_file is not None:
            labels = [classes.index(label) for _, _, label in found["train"]]
            used = label_subset(labels, self.label_fraction, scan.seed)
            save_split(
                self._split_file,
                {name: [key for key, _, _ in images] for name, images in found.items()},
                classes=classes,
                seed=scan.seed,
                label_fraction=self.label_fraction,
                labelled=[found["train"][int(index)][0] for index in used],
            )
        return classes, found

    def _images(self, root: str, scan: Scan) -> list[Labeled]:
        check_class_folders(root)
        source = FolderSource({self.modality: root}, extensions=self._extensions)
        scan(source)
        images = []
        for index in range(len(source)):
            key, path = source.key(index), source.file(index, self.modality)
            label, _, name = key.partition("/")
            if not name:
                raise DataError(f"{path} is not in the folder of a class")
            images.append((key, path or "", label))
        self._report_empty(root, {label for _, _, label in images}, scan)
        return images

    def _report_empty(self, root: str, classes: Collection[str], scan: Scan) -> None:
        """Report folders without any image: the classes would be fewer without a word."""
        scan.skip(
            Skip("unmatched", printable(path.name), f"{printable(str(path))} holds no usable image")
            for path in class_folders(root)
            if path.name not in classes
        )

    def _saved(
        self, path: str, images: Sequence[Labeled], classes: Sequence[str], scan: Scan
    ) -> dict[str, list[Labeled]]:
        """Return the sets of the split file, from the images that are there."""
        content = load_split(path)
        if content["classes"] != list(classes):
            raise DataError(f"{path} is of other classes: {content['classes']}")
        there = {image[0]: image for image in images}
        names = ["train", *self._fractions]
        sets = {name: content["sets"].get(name, []) for name in names}
        wanted = list(itertools.chain.from_iterable(sets.values()))
        scan.skip(
            Skip("damaged", key, f"{key} of {path} is not there")
            for key in wanted
            if key not in there
        )
        if new := len(there.keys() - set(wanted)):
            _LOGGER.warning("%d images are not in %s and not used", new, path)
        return {n: [there[key] for key in keys if key in there] for n, keys in sets.items()}
