# SPDX-License-Identifier: Apache-2.0
"""SSDD: ships in radar images, horizontal or oriented boxes."""

from collections.abc import Mapping
from pathlib import Path

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
from rsvheat.data.formats import read_voc
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo(
    "SSDD", "the authors of the official release of SSDD (Zhang et al., 2021)", "research"
)
CLASSES = ("ship",)

_BASES = {
    False: ("BBox_SSDD/voc_style", "BBox_SSDD", "VOC", ""),
    True: ("RBox_SSDD/voc_style", "RBox_SSDD", "VOCOBB", ""),
}
# Ends of the folders' names by split, in two releases.
_ENDS = ({"train": "_train", "test": "_test"}, {"train": "01", "test": "02"})


class SSDD(DatasetReader):
    """Reads SSDD in its official split, where images whose number ends in 1 or 9 are for testing.

    Files of VOC are in ``BBox_SSDD/voc_style`` or ``VOC`` for horizontal boxes, and in
    ``RBox_SSDD/voc_style`` or ``VOCOBB`` for oriented ones: ``JPEGImages_train``,
    ``Annotations_train`` and so on, ``JPEGImages01`` and ``02``, or all in ``JPEGImages`` and
    ``Annotations``, where the numbers tell the split.

    The data is from the authors of its official release, for research.

    Args:
        root: Folder of the data set.
        oriented: Whether boxes are oriented.
        val_fraction: Fraction of the training images that is held out for validation.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        oriented: bool = False,
        val_fraction: float = 0.0,
        modality: str = "sar",
    ) -> None:
        check_modalities([modality])
        random_split(1, {"val": val_fraction})  # checks it
        self.root, self.oriented, self.modality = root, oriented, modality
        self._val_fraction = val_fraction

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        found: dict[str, list[Annotated]] = {}
        for base in _BASES[self.oriented]:
            place = find_folder(self.root, base)
            found = self._find(place, scan) if place is not None else {}
            if found:
                break
        if not found:
            raise layout_error(
                INFO,
                self.root,
                f"JPEGImages_train and Annotations_train, JPEGImages01 and Annotations01, or "
                f"JPEGImages and Annotations in {', '.join(_BASES[self.oriented][:-1])}",
            )
        return box_splits(
            found, ClassNames(CLASSES), self.oriented, scan, val_fraction=self._val_fraction
        )

    def _find(self, place: Path, scan: Scan) -> dict[str, list[Annotated]]:
        for ends in _ENDS:
            found = {split: self._read(place, end, scan) for split, end in ends.items()}
            if any(found.values()):
                return found
        every = self._read(place, "", scan)
        tested = [sample for sample in every if sample.key[-1] in "19"]
        trained = [sample for sample in every if sample.key[-1] not in "19"]
        return {"train": trained, "test": tested} if every else {}

    def _read(self, place: Path, end: str, scan: Scan) -> list[Annotated]:
        images, boxes = (find_folder(place, kind + end) for kind in ("JPEGImages", "Annotations"))
        if images is None or boxes is None:
            return []
        files = {name: {self.modality: p} for name, p in images_by_stem(images, scan).items()}
        return annotate(files, files_by_stem(boxes, ".xml"), lambda path, _: read_voc(path), scan)

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(1, select=[1])}
