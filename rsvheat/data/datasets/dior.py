# SPDX-License-Identifier: Apache-2.0
"""DIOR: horizontal boxes of 20 classes in aerial images."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from rsvheat.data.datasets.box_finding import (
    Annotated,
    ClassNames,
    annotate,
    annotate_lists,
    box_splits,
    files_by_stem,
    find_lists,
    images_by_stem,
)
from rsvheat.data.datasets.dota import TrainOn
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_voc
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities

CLASSES = (
    "airplane",
    "airport",
    "baseballfield",
    "basketballcourt",
    "bridge",
    "chimney",
    "dam",
    "Expressway-Service-area",
    "Expressway-toll-station",
    "golffield",
    "groundtrackfield",
    "harbor",
    "overpass",
    "ship",
    "stadium",
    "storagetank",
    "tenniscourt",
    "trainstation",
    "vehicle",
    "windmill",
)

_IMAGES = {
    "trainval": ("JPEGImages-trainval", "JPEGImages_trainval"),
    "test": ("JPEGImages-test", "JPEGImages_test"),
    "all": ("JPEGImages", "images"),
}


class DIOR(DatasetReader):
    """Reads DIOR in its official split.

    Images are in ``JPEGImages-trainval`` and ``JPEGImages-test`` or all in ``JPEGImages``, boxes in
    ``Annotations/Horizontal Bounding Boxes``, and names in ``ImageSets/Main/train.txt``,
    ``val.txt`` and ``test.txt``; underscores may stand for hyphens and blanks. Without these lists
    the two folders of images are the split. Figures in papers are of networks that were trained on
    both ``train`` and ``val``.

    The data is from the DIOR project of Northwestern Polytechnical University, CC-BY-NC-4.0.

    Args:
        root: Folder of the data set.
        train_on: ``"train"``, or ``"trainval"`` for both parts; then nothing is validated on.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    oriented = False
    info = DataInfo(
        "DIOR", "the DIOR project of Northwestern Polytechnical University", "CC-BY-NC-4.0"
    )
    annotations: tuple[str, ...] = (
        "Annotations/Horizontal Bounding Boxes",
        "Annotations/Horizontal_Bounding_Boxes",
        "Annotations",
    )

    def __init__(
        self, root: str, *, train_on: TrainOn = "train", modality: str = "optical"
    ) -> None:
        if train_on not in get_args(TrainOn):
            raise ValueError(f'train_on must be "train" or "trainval", got {train_on!r}')
        check_modalities([modality])
        self.root, self.train_on, self.modality = root, train_on, modality

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        folders = {kind: find_folder(self.root, *names) for kind, names in _IMAGES.items()}
        boxes = find_folder(self.root, *self.annotations)
        images = {kind: images_by_stem(f, scan) for kind, f in folders.items() if f is not None}
        if boxes is None or not any(images.values()):
            raise layout_error(
                self.info,
                self.root,
                f"JPEGImages-trainval, JPEGImages-test and {self.annotations[0]}",
            )
        texts = {Path(key).name: path for key, path in files_by_stem(boxes, ".xml").items()}
        found = self._annotate(images, texts, scan)
        if self.train_on == "trainval":
            both = [*found.get("train", ()), *found.pop("val", ())]
            found["train"] = both
        return box_splits(found, ClassNames(CLASSES), self.oriented, scan)

    def _annotate(
        self, images: Mapping[str, Mapping[str, str]], texts: Mapping[str, str], scan: Scan
    ) -> dict[str, list[Annotated]]:
        lists = find_lists(self.root, "train", "val", "test", "trainval")
        if {"train", "val"} <= lists.keys():
            lists.pop("trainval", None)
        elif "trainval" in lists:
            lists["train"] = lists.pop("trainval")
        if lists:
            every = {name: path for some in images.values() for name, path in some.items()}
            return annotate_lists(every, texts, lists, read_voc, scan, modality=self.modality)
        parts = {"trainval": "train", "test": "test", "all": "train"}
        found: dict[str, list[Annotated]] = {}
        for kind, some in images.items():
            files = {name: {self.modality: path} for name, path in some.items()}
            theirs = {name: texts[name] for name in files if name in texts}
            found[parts[kind]] = annotate(files, theirs, lambda path, _: read_voc(path), scan)
        return found

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
