# SPDX-License-Identifier: Apache-2.0
"""SAR-AIRcraft-1.0: aircraft of seven types in radar images, horizontal boxes."""

from collections.abc import Mapping

from rsvheat.data.datasets.box_finding import (
    ClassNames,
    annotate,
    annotate_lists,
    box_splits,
    files_by_stem,
    find_lists,
    images_by_stem,
)
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_voc
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo(
    "SAR-AIRcraft-1.0", "the Journal of Radars (radars.ac.cn)", "research, with citation"
)
TYPES = ("A220", "A320/321", "A330", "ARJ21", "Boeing737", "Boeing787", "other")


class SARAircraft(DatasetReader):
    """Reads SAR-AIRcraft-1.0 in its official split.

    Images are in ``JPEGImages``, boxes in ``Annotations``, and names in
    ``ImageSets/Main/train.txt``, ``val.txt`` and ``test.txt``. Without these lists all images are
    for training, and a part of them is held out. Some copies hold the gray image three times: the
    first band is read.

    The data is from the Journal of Radars, free for research with citation.

    Args:
        root: Folder of the data set.
        types: Whether the types of aircraft are classes; otherwise all are of the class
            ``aircraft``.
        val_fraction: Fraction of the images that is held out where there is no list ``val``.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        types: bool = True,
        val_fraction: float = 0.0,
        modality: str = "sar",
    ) -> None:
        check_modalities([modality])
        random_split(1, {"val": val_fraction})  # checks it
        self.root, self.modality, self._val_fraction = root, modality, val_fraction
        self.names = (
            ClassNames(TYPES)
            if types
            else ClassNames(["aircraft"], dict.fromkeys(TYPES, "aircraft"))
        )

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        images, boxes = (
            find_folder(self.root, name, f"SAR-AIRcraft-1.0/{name}")
            for name in ("JPEGImages", "Annotations")
        )
        if images is None or boxes is None:
            raise layout_error(INFO, self.root, "the folders JPEGImages and Annotations")
        files, texts = images_by_stem(images, scan), files_by_stem(boxes, ".xml")
        lists = find_lists(images.parent, "train", "val", "test")
        if lists:
            found = annotate_lists(files, texts, lists, read_voc, scan, modality=self.modality)
        else:
            named = {name: {self.modality: path} for name, path in files.items()}
            found = {"train": annotate(named, texts, lambda path, _: read_voc(path), scan)}
        return box_splits(found, self.names, False, scan, val_fraction=self._val_fraction)

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(1, select=[1])}
