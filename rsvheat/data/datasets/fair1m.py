# SPDX-License-Identifier: Apache-2.0
"""FAIR1M: oriented boxes of 37 fine classes in 5 groups, in satellite images."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from rsvheat.data.datasets.box_finding import (
    Annotated,
    ClassNames,
    annotate,
    box_splits,
    files_by_stem,
    images_by_stem,
)
from rsvheat.data.datasets.dota import TrainOn
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_fair1m
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo(
    "FAIR1M",
    "the Aerospace Information Research Institute (gaofen-challenge.com)",
    "CC-BY-NC-SA-3.0",
)
GROUPS = {
    "Airplane": (
        "Boeing737",
        "Boeing747",
        "Boeing777",
        "Boeing787",
        "ARJ21",
        "C919",
        "A220",
        "A321",
        "A330",
        "A350",
        "other-airplane",
    ),
    "Ship": (
        "Passenger Ship",
        "Motorboat",
        "Fishing Boat",
        "Tugboat",
        "other-ship",
        "Engineering Ship",
        "Liquid Cargo Ship",
        "Dry Cargo Ship",
        "Warship",
    ),
    "Vehicle": (
        "Small Car",
        "Bus",
        "Cargo Truck",
        "Dump Truck",
        "other-vehicle",
        "Van",
        "Trailer",
        "Tractor",
        "Excavator",
        "Truck Tractor",
    ),
    "Court": ("Baseball Field", "Basketball Court", "Football Field", "Tennis Court"),
    "Road": ("Roundabout", "Intersection", "Bridge"),
}
CLASSES = tuple(name for names in GROUPS.values() for name in names)

Version: TypeAlias = Literal["1.0", "2.0"]
Level: TypeAlias = Literal["fine", "groups"]

_PARTS = {"train": ("train/part1", "train/part2", "train"), "val": ("validation", "val")}
_LABELS = ("labelXml", "labelXmls", "labelxml")


class FAIR1M(DatasetReader):
    """Reads FAIR1M; the boxes of its test set are not public.

    Images and boxes are in ``images`` and ``labelXml`` or ``labelXmls``, in ``train/part1`` and
    ``train/part2`` or ``train``, and in ``validation`` or ``val``. Version 1.0 has no validation
    set: a part of the training images is held out, and a folder ``validation`` is not read. Numbers
    of images repeat between folders, which keys name.

    The data is from gaofen-challenge.com, CC-BY-NC-SA-3.0. Name the version beside any result: the
    two differ in their test sets.

    Args:
        root: Folder of the data set.
        version: Version of the data set, ``"1.0"`` or ``"2.0"``.
        level: ``"fine"`` for 37 classes, ``"groups"`` for Airplane, Ship, Vehicle, Court and Road.
        train_on: ``"train"``, or ``"trainval"`` for both parts of version 2.0; then nothing is
            validated on.
        val_fraction: Fraction of the training images that is held out where there is no validation
            set.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        version: Version,
        level: Level = "fine",
        train_on: TrainOn = "train",
        val_fraction: float = 0.1,
        modality: str = "optical",
    ) -> None:
        for name, value, known in (
            ("version", version, get_args(Version)),
            ("level", level, get_args(Level)),
            ("train_on", train_on, get_args(TrainOn)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        check_modalities([modality])
        random_split(1, {"val": val_fraction})  # checks it
        self.root, self.version, self.train_on, self.modality = root, version, train_on, modality
        self._val_fraction = val_fraction
        group_of = {name: group for group, names in GROUPS.items() for name in names}
        self.names = ClassNames(CLASSES) if level == "fine" else ClassNames(tuple(GROUPS), group_of)

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        found: dict[str, list[Annotated]] = {}
        for split, parts in _PARTS.items():
            if split == "val" and self.version == "1.0":
                continue
            some = [sample for part in parts for sample in self._find(part, scan)]
            if some:
                found[split] = some
        if not found:
            raise layout_error(
                INFO, self.root, f"images and one of {', '.join(_LABELS)} in train/part1 or train"
            )
        fraction = self._val_fraction
        if self.train_on == "trainval":
            found, fraction = {"train": [s for some in found.values() for s in some]}, 0.0
        return box_splits(found, self.names, True, scan, val_fraction=fraction)

    def _find(self, part: str, scan: Scan) -> list[Annotated]:
        place = find_folder(self.root, part, f"FAIR1M/{part}")
        images = find_folder(place, "images") if place else None
        labels = find_folder(place, *_LABELS) if place else None
        if images is None or labels is None:
            return []
        files = {name: {self.modality: p} for name, p in images_by_stem(images, scan).items()}
        texts = files_by_stem(labels, ".xml")
        return annotate(files, texts, lambda path, _: read_fair1m(path), scan, prefix=f"{part}/")

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
