# SPDX-License-Identifier: Apache-2.0
"""ISPRS Potsdam: aerial images of a city, with six classes of land cover."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from rsvheat.data.datasets.finding import (
    DataInfo,
    Found,
    hold_out,
    layout_error,
    list_images,
    make_mask_source,
    match_masks,
    without_repeats,
)
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes
from rsvheat.data.normalize import Sensor
from rsvheat.data.skip_report import Skip
from rsvheat.data.sources import check_modalities
from rsvheat.data.splits import stratified_split

INFO = DataInfo(
    "ISPRS Potsdam",
    "ISPRS (2D Semantic Labeling Contest, on request)",
    "research, no redistribution",
)
# In the order of mmsegmentation, whose masks hold these positions, counted from 1.
COLORS = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}
BOUNDARY = (0, 0, 0)
_TRAIN = """
    2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 7_7
    7_8 7_9 7_10 7_11 7_12
"""
_TEST = """
    2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13
"""
TILES = {"train": _TRAIN.split(), "test": _TEST.split()}

_TILE = re.compile(r"top_potsdam_(\d+_\d+)_(RGB|RGBIR|label|label_noBoundary)\.tiff?")
_PATCH = re.compile(r"((\d+_\d+)(?:_\d+){4})\.png")

Clutter: TypeAlias = Literal["ignore", "class"]
Labels: TypeAlias = Literal["all", "no_boundary"]
Bands: TypeAlias = Literal["RGB", "RGBIR"]


class Potsdam(DatasetReader):
    """Reads ISPRS Potsdam with the split of the challenge: 24 tiles to train, 14 to test.

    Files are found by their names in any folder below ``root``. Where there are no tiles, patches
    as cut by mmsegmentation (``img_dir``, ``ann_dir``) are read, and split by their tile.

    Args:
        root: Folder of the data set.
        bands: ``"RGB"``, from files of three or four bands, or ``"RGBIR"``.
        labels: ``"all"`` for the complete labels, ``"no_boundary"`` for those whose borders between
            objects are not scored. Figures of the two differ by several points. Patches
            have either.
        clutter: ``"ignore"`` leaves the class clutter out of loss and metrics, as the papers do
            that report five classes; ``"class"`` makes it the sixth class.
        nearest: Whether colors that are not listed, as in the labels of the tiles 4_12 and 6_7,
            count as the nearest class; otherwise they are ignored.
        exclude: Tiles that are not used: part of the literature leaves out 7_10, whose labels are
            wrong.
        val_fraction: Fraction of the training tiles that is held out for validation; the data set
            has no validation set of its own.
        val_groups: Names of the training tiles that are held out, instead of a random choice.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        bands: Bands = "RGB",
        labels: Labels = "all",
        clutter: Clutter = "ignore",
        nearest: bool = False,
        exclude: Sequence[str] = (),
        val_fraction: float = 0.0,
        val_groups: Sequence[str] | None = None,
        modality: str = "optical",
    ) -> None:
        for name, value, choices in (
            ("bands", bands, get_args(Bands)),
            ("labels", labels, get_args(Labels)),
            ("clutter", clutter, get_args(Clutter)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        unknown = sorted(set(exclude) - {tile for tiles in TILES.values() for tile in tiles})
        if unknown:
            raise ValueError(f"exclude has {unknown[0]!r}, which is no tile such as 7_10")
        check_modalities([modality])
        stratified_split([0], {"val": val_fraction})  # checks it
        self.root, self.modality = root, modality
        self._bands, self._labels, self._exclude = bands, labels, frozenset(exclude)
        self._val_fraction, self._val_groups = val_fraction, val_groups
        classes = [name for name in COLORS if clutter == "class" or name != "clutter"]
        ignored = [name for name in COLORS if name not in classes]
        numbers = {name: number for number, name in enumerate(COLORS, 1)}
        self.codes = MaskCodes(
            values={name: numbers[name] for name in classes},
            colors={name: COLORS[name] for name in classes},
            ignored=[0, *(numbers[name] for name in ignored)],
            ignored_colors=[BOUNDARY, *(COLORS[name] for name in ignored)],
            nearest=nearest,
        )

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        found = self._find(scan)
        parts: dict[str, list[Found]] = {"train": [], "test": []}
        for key, paths in found:
            tile = "_".join(key.split("_")[:2])
            split = next((name for name, tiles in TILES.items() if tile in tiles), None)
            if split is None:
                reason = f"{', '.join(paths.values())}: {tile} is no tile of Potsdam"
                scan.skip([Skip("name", key, reason)])
            elif tile not in self._exclude:
                parts[split].append((key, paths))
        splits: dict[str, Split] = {}
        if parts["train"]:
            train = make_mask_source(parts["train"], self.codes, scan)
            held_out = (self._val_fraction, self._val_groups, r"^\d+_\d+")
            splits |= hold_out(train, *held_out, scan)
        if parts["test"]:
            splits["test"] = Split(make_mask_source(parts["test"], self.codes, scan))
        return splits

    def _find(self, scan: Scan) -> list[Found]:
        paths = list_images(self.root, scan)
        kinds: dict[str, list[tuple[str, str]]] = {}
        for path in paths:
            if match := _TILE.fullmatch(os.path.basename(path)):
                kinds.setdefault(match[2], []).append((match[1], path))
            elif match := _PATCH.fullmatch(os.path.basename(path)):
                folders = os.path.relpath(path, self.root).split(os.sep)
                for kind in ("img_dir", "ann_dir"):
                    if kind in folders:
                        kinds.setdefault(kind, []).append((match[1], path))
        mask = "label" if self._labels == "all" else "label_noBoundary"
        image: str = next((k for k in (self._bands, "RGBIR") if k in kinds), self._bands)
        wanted = f"top_potsdam_2_10_{image}.tif and top_potsdam_2_10_{mask}.tif"
        if self._bands == "RGB" and not kinds.keys() & {"RGB", "RGBIR"}:
            image, mask = "img_dir", "ann_dir"
            wanted += ", or img_dir and ann_dir with 2_10_0_0_512_512.png"
        if image not in kinds or mask not in kinds:
            there = f" (with images of the kinds {', '.join(sorted(kinds))})" if kinds else ""
            raise layout_error(INFO, self.root, f"{wanted}, and others like them{there}")
        images = without_repeats(kinds[image], scan)
        masks = without_repeats(kinds[mask], scan)
        by_modality = {key: {self.modality: path} for key, path in images.items()}
        return match_masks(by_modality, masks, scan)

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        if self._bands == "RGBIR":
            return {self.modality: Sensor(4)}
        return {self.modality: Sensor(3, [1, 2, 3])}
