# SPDX-License-Identifier: Apache-2.0
"""DOTA: oriented boxes of 15, 16 or 18 classes in large aerial images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from rsvheat.data.datasets.box_finding import (
    Annotated,
    ClassNames,
    annotate,
    box_splits,
    files_by_stem,
    images_by_stem,
)
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_dota
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo("DOTA", "the DOTA project of Wuhan University", "academic, non-commercial")
CLASSES = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
    "container-crane",  # from version 1.5 on
    "airport",  # from version 2.0 on
    "helipad",
)
Version: TypeAlias = Literal["1.0", "1.5", "2.0"]
TrainOn: TypeAlias = Literal["train", "trainval"]

_COUNTS = {"1.0": 15, "1.5": 16, "2.0": 18}


class DOTA(DatasetReader):
    """Reads DOTA; the boxes of its test set are not public.

    Images are in ``train/images`` and ``val/images``, boxes in ``labelTxt``, ``labelTxt-v1.5`` and
    so on beside them. A folder with ``images`` and ``labelTxt`` alone is for training, and a part
    of it is held out. Results on the validation set are not those of the test server, for which
    networks are trained on both parts.

    The data is from the DOTA project of Wuhan University, for academic, non-commercial use; images
    of Google Earth are under its terms.

    Args:
        root: Folder of the data set.
        version: Version of the labels: ``"1.0"`` of 15 classes, ``"1.5"`` of 16, ``"2.0"`` of 18.
        train_on: ``"train"``, or ``"trainval"`` for both parts; then nothing is validated on.
        oriented: Whether boxes are oriented, or the horizontal ones around them.
        val_fraction: Fraction of the images that is held out where there is no ``val``.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        version: Version = "1.0",
        train_on: TrainOn = "train",
        oriented: bool = True,
        val_fraction: float = 0.0,
        modality: str = "optical",
    ) -> None:
        if version not in get_args(Version):
            raise ValueError(f"version must be one of {get_args(Version)}, got {version!r}")
        if train_on not in get_args(TrainOn):
            raise ValueError(f'train_on must be "train" or "trainval", got {train_on!r}')
        check_modalities([modality])
        random_split(1, {"val": val_fraction})  # checks it
        self.root, self.version, self.train_on = root, version, train_on
        self.oriented, self.modality = oriented, modality
        self.classes = CLASSES[: _COUNTS[version]]
        self._val_fraction = val_fraction

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        found = {name: self._find(name, scan) for name in ("train", "val")}
        if not any(found.values()):
            found = {"train": self._find("", scan)}
        if not any(found.values()):
            raise layout_error(
                INFO,
                self.root,
                f"images and one of {', '.join(self._label_folders())} in folders train and val, "
                "or in the folder itself",
            )
        if self.train_on == "trainval":
            found = {"train": [sample for some in found.values() for sample in some]}
        return box_splits(
            found, ClassNames(self.classes), self.oriented, scan, val_fraction=self._val_fraction
        )

    def _find(self, split: str, scan: Scan) -> list[Annotated]:
        place = find_folder(self.root, split, f"DOTA/{split}") if split else Path(self.root)
        if place is None:
            return []
        images = find_folder(place, "images")
        labels = find_folder(place, *self._label_folders())
        if images is None or labels is None:
            return []
        files = {Path(k).name: {self.modality: p} for k, p in images_by_stem(images, scan).items()}
        texts = {Path(key).name: path for key, path in files_by_stem(labels, ".txt").items()}
        prefix = f"{split}/" if split else ""
        return annotate(files, texts, lambda path, _: read_dota(path), scan, prefix=prefix)

    def _label_folders(self) -> tuple[str, ...]:
        return (f"labelTxt-v{self.version}", f"labelTxt_v{self.version}", "labelTxt")

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
