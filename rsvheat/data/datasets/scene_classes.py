# SPDX-License-Identifier: Apache-2.0
"""AID and NWPU-RESISC45 by the papers' protocol: a random part of each class to train."""

from collections.abc import Sequence
from typing import ClassVar

from rsvheat.data.datasets.class_folders import Labeled, LabeledFiles
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error, listing
from rsvheat.data.datasets.reader import Scan
from rsvheat.data.skip_report import DataError
from rsvheat.data.sources import FolderSource
from rsvheat.data.splits import stratified_split


class SceneClasses(LabeledFiles):
    """Base of the readers of public data sets of scenes without an official split.

    Args:
        root: Folder of the data set, whose folders are the classes.
        train_fraction: Fraction of each class that is for training; the rest is for testing. The
            seed of the data module makes the choice.
        val_fraction: Fraction of each class that is held out of the training part for validation.
        label_fraction: Fraction of each class's training images that is used, at least one image.
        modality: Modality of the images, the name of the network's stem.

    Attributes:
        info: Facts about the data set.
        names: Class names.
        folder: Name of the data set's own folder, which ``root`` may hold.

    Raises:
        ValueError: If an argument is not as above.
    """

    info: ClassVar[DataInfo]
    names: ClassVar[Sequence[str]]
    folder: ClassVar[str]

    def __init__(
        self,
        root: str,
        train_fraction: float = 0.2,
        *,
        val_fraction: float = 0.0,
        label_fraction: float = 1.0,
        modality: str = "optical",
    ) -> None:
        super().__init__(modality, label_fraction)
        if not 0 < train_fraction < 1 or not 0 <= val_fraction < 1:
            raise ValueError(
                "train_fraction must be above 0 and below 1, val_fraction at least 0 and below 1, "
                f"got {train_fraction} and {val_fraction}"
            )
        self.root, self._train, self._val = root, train_fraction, val_fraction

    def find(self, scan: Scan) -> tuple[list[str], dict[str, list[Labeled]]]:
        """See ``LabeledFiles.find``."""
        images = self._images(scan)
        classes = list(self.names)
        labels = [classes.index(label) for _, _, label in images]
        parts = stratified_split(labels, {"test": 1 - self._train}, scan.seed)
        found = {name: [images[i] for i in part] for name, part in parts.items()}
        if self._val:
            labels = [classes.index(label) for _, _, label in found["train"]]
            inner = stratified_split(labels, {"val": self._val}, scan.seed)
            train = found["train"]
            found |= {name: [train[i] for i in part] for name, part in inner.items()}
        for name in ("train", "test"):
            some = {label for _, _, label in found[name]}
            lacking = [label for label in classes if label not in some]
            if lacking:
                raise DataError(
                    f"the class {lacking[0]} has too few images for a {name} part with "
                    f"train_fraction={self._train}"
                )
        return classes, found

    def _images(self, scan: Scan) -> list[Labeled]:
        """Return the images of all classes; the case of a folder's letters does not matter."""
        place = find_folder(self.root, self.folder, "")
        folders = {path.name.lower(): path for path in place.iterdir()} if place else {}
        lacking = [name for name in self.names if name.lower() not in folders]
        if place is None or lacking:
            few = ", ".join(lacking[:5])
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            inner = "" if place is None else f" (searched {place}: {listing(place)})"
            raise layout_error(self.info, self.root, f"folders {few}{more}{inner}")
        images: list[Labeled] = []
        for name in self.names:
            source = FolderSource({self.modality: folders[name.lower()]})
            scan(source)
            images += [
                (f"{name}/{source.key(index)}", source.file(index, self.modality) or "", name)
                for index in range(len(source))
            ]
        return images
