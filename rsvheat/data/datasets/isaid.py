# SPDX-License-Identifier: Apache-2.0
"""iSAID: objects in aerial images, of 15 classes."""

import os
import re
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from rsvheat.data.datasets.finding import (
    DataInfo,
    find_folder,
    layout_error,
    list_images,
    make_mask_source,
    match_masks,
    without_repeats,
)
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities
from rsvheat.data.spec import IGNORE_INDEX

INFO = DataInfo(
    "iSAID",
    "the iSAID project (masks) and DOTA-v1.0 (images)",
    "those of DOTA: academic, non-commercial",
)
# In the order of the numbers that tiles hold.
COLORS = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "storage tank": (0, 63, 63),
    "baseball diamond": (0, 63, 0),
    "tennis court": (0, 63, 127),
    "basketball court": (0, 63, 191),
    "ground track field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large vehicle": (0, 127, 127),
    "small vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer ball field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}

_IMAGE = re.compile(r"(P\d+(?:_\d+_\d+_\d+_\d+)?)\.png")
_MASK = re.compile(r"(P\d+(?:_\d+_\d+_\d+_\d+)?)_instance_color_RGB\.png")

Background: TypeAlias = Literal["class", "ignore"]


class ISAID(DatasetReader):
    """Reads iSAID's class masks; the labels of its test set are not public.

    Files are found by their names in any folder below ``train`` and ``val``: masks of colors beside
    the images or in ``Semantic_masks``, and tiles of class numbers as cut by mmsegmentation, also
    in ``img_dir/train`` and ``ann_dir/train``.

    Args:
        root: Folder of the data set.
        background: ``"class"`` makes the background a class, as in figures that average over 16
            classes; ``"ignore"`` leaves it out of loss and metrics.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self, root: str, *, background: Background = "class", modality: str = "optical"
    ) -> None:
        if background not in get_args(Background):
            raise ValueError(f'background must be "class" or "ignore", got {background!r}')
        check_modalities([modality])
        self.root, self.modality = root, modality
        classes = [name for name in COLORS if background == "class" or name != "background"]
        numbers = {name: number for number, name in enumerate(COLORS)}
        ignored = [name for name in COLORS if name not in classes]
        self.codes = MaskCodes(
            values={name: numbers[name] for name in classes},
            colors={name: COLORS[name] for name in classes},
            # Tiles that reach beyond the image.
            ignored=[IGNORE_INDEX, *(numbers[name] for name in ignored)],
            ignored_colors=[COLORS[name] for name in ignored],
        )

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        splits = {}
        for split in ("train", "val"):
            images: list[tuple[str, str]] = []
            masks: list[tuple[str, str]] = []
            for folder in (split, f"img_dir/{split}", f"ann_dir/{split}"):
                place = find_folder(self.root, folder, f"iSAID/{folder}")
                for path in list_images(place, scan) if place else ():
                    for pattern, named in ((_IMAGE, images), (_MASK, masks)):
                        if match := pattern.fullmatch(os.path.basename(path)):
                            named.append((match[1], path))
            if images and masks:
                files = without_repeats(images, scan)
                by_modality = {key: {self.modality: path} for key, path in files.items()}
                found = match_masks(by_modality, without_repeats(masks, scan), scan)
                if found:
                    splits[split] = Split(make_mask_source(found, self.codes, scan))
        if not splits:
            raise layout_error(
                INFO,
                self.root,
                "P0000.png and P0000_instance_color_RGB.png in folders below train and val",
            )
        return splits

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
