# SPDX-License-Identifier: Apache-2.0
"""HRSID: ships in radar images, horizontal boxes or the rectangles around their outlines."""

from collections.abc import Mapping
from pathlib import Path

from rsvheat.data.datasets.box_finding import (
    Annotated,
    ClassNames,
    annotate,
    annotate_coco,
    box_splits,
    images_by_stem,
)
from rsvheat.data.datasets.finding import DataInfo, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import read_coco, read_instance_mask
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import random_split

INFO = DataInfo("HRSID", "github.com/chaozhong2010/HRSID", "GPL-3.0")
CLASSES = ("ship",)

_FILES = {"train": "train2017.json", "test": "test2017.json"}
_MASK, _COLORS = "_instance_id_RGB", "_instance_color_RGB"


class HRSID(DatasetReader):
    """Reads HRSID in its official split.

    Images are in ``JPEGImages``, boxes in ``annotations/train2017.json`` and ``test2017.json``.
    With another JSON file alone, in ``annotations`` or beside it, all images are for training. So
    are they where ``*_instance_id_RGB.png``, masks in which every ship has a color of its own, lie
    beside the images, as in the examples of its repository.

    The data is from its authors' repository chaozhong2010/HRSID, GPL-3.0.

    Args:
        root: Folder of the data set.
        oriented: Whether boxes are the smallest rectangles around the ships' outlines.
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
        base = find_folder(self.root, "HRSID_JPG", "HRSID", "") or Path(self.root)
        images = find_folder(base, "JPEGImages", "images")
        texts = self._texts(base)
        found: dict[str, list[Annotated]] = {}
        if images is None or not texts:
            found = {"train": self._masked(base, scan)}
            if not found["train"]:
                raise layout_error(
                    INFO,
                    self.root,
                    "JPEGImages, annotations/train2017.json and test2017.json, or images beside "
                    f"their masks *{_MASK}.png",
                )
            return self._splits(found, scan)
        files = {name: {self.modality: p} for name, p in images_by_stem(images, scan).items()}
        for split, path in texts.items():
            content = read_coco(path, oriented=self.oriented)
            found[split] = annotate_coco(files, path, content, scan, report_images=len(texts) == 1)
        return self._splits(found, scan)

    def _splits(self, found: Mapping[str, list[Annotated]], scan: Scan) -> Mapping[str, Split]:
        return box_splits(
            found, ClassNames(CLASSES), self.oriented, scan, val_fraction=self._val_fraction
        )

    def _masked(self, base: Path, scan: Scan) -> list[Annotated]:
        """Return the images that have a mask of their ships beside them."""
        paths = images_by_stem(base, scan)
        masks = {k.removesuffix(_MASK): p for k, p in paths.items() if k.endswith(_MASK)}
        if not masks:
            return []
        files = {
            key: {self.modality: path}
            for key, path in paths.items()
            if not key.endswith((_MASK, _COLORS))
        }
        return annotate(
            files,
            masks,
            lambda path, _: read_instance_mask(path, CLASSES[0], oriented=self.oriented),
            scan,
        )

    @staticmethod
    def _texts(base: Path) -> dict[str, Path]:
        folders = [folder for folder in (find_folder(base, "annotations"), base) if folder]
        for folder in folders:
            found = {split: folder / name for split, name in _FILES.items()}
            there = {split: path for split, path in found.items() if path.is_file()}
            if there:
                return there
        for folder in folders:
            others = sorted(folder.glob("*.json"))
            if len(others) == 1:
                return {"train": others[0]}
        return {}

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(1, select=[1])}
