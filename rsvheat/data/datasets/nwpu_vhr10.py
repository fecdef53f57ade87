# SPDX-License-Identifier: Apache-2.0
"""NWPU VHR-10: ten classes of objects in aerial images, horizontal boxes."""

from collections.abc import Mapping, Sequence

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.datasets.box_finding import (
    Annotated,
    annotate,
    box_source,
    files_by_stem,
    images_by_stem,
)
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_nwpu
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo(
    "NWPU VHR-10", "Gong Cheng, Northwestern Polytechnical University", "research purposes only"
)
# By their number in the files, from 1.
CLASSES = (
    "airplane",
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "harbor",
    "bridge",
    "vehicle",
)


class NWPUVHR10(DatasetReader):
    """Reads NWPU VHR-10, which has no official split.

    Images are in ``positive image set`` and ``negative image set``, boxes in ``ground truth``. The
    negative images have no objects of the ten classes.

    The data is from its authors' page at Northwestern Polytechnical University, for research
    purposes only.

    Args:
        root: Folder of the data set.
        negative: Whether to train on the negative images too; they are in no other part.
        val_fraction: Fraction of the positive images that is held out for validation, by chance.
        test_fraction: Fraction that is held out for testing.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        negative: bool = True,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        modality: str = "optical",
    ) -> None:
        check_modalities([modality])
        self.root, self.negative, self.modality = root, negative, modality
        self._fractions = {"val": val_fraction, "test": test_fraction}
        random_split(1, self._fractions)  # checks them

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        positive = find_folder(self.root, "positive image set", "positive_image_set")
        truth = find_folder(self.root, "ground truth", "ground_truth")
        if positive is None or truth is None:
            raise layout_error(INFO, self.root, "the folders positive image set and ground truth")
        images = {k: {self.modality: p} for k, p in images_by_stem(positive, scan).items()}
        found = annotate(
            images,
            files_by_stem(truth, ".txt"),
            lambda path, _: read_nwpu(path, CLASSES),
            scan,
            prefix="positive/",
        )
        parts = random_split(len(found), self._fractions, scan.seed)
        split = {name: [found[i] for i in part] for name, part in parts.items()}
        split["train"] += self._negative(scan)
        return {
            name: Split(box_source(some, CLASSES, False, scan))
            for name, some in split.items()
            if some
        }

    def _negative(self, scan: Scan) -> Sequence[Annotated]:
        folder = find_folder(self.root, "negative image set", "negative_image_set")
        if folder is None or not self.negative:
            return []
        none = ImageBoxes.of([], [])
        return [
            Annotated(f"negative/{key}", {self.modality: path}, none)
            for key, path in images_by_stem(folder, scan).items()
        ]

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
