# SPDX-License-Identifier: Apache-2.0
"""WHU-OPT-SAR: land cover in pairs of optical and radar scenes."""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from rsvheat.data.datasets.finding import (
    MASK,
    DataInfo,
    Found,
    find_files,
    find_folder,
    hold_out,
    layout_error,
)
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.normalize import Sensor
from rsvheat.data.places import Places
from rsvheat.data.readers import ImageReader, Window, WindowReader, open_image
from rsvheat.data.skip_report import DataError, SampleError, Skip
from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.data.splits import stratified_split

INFO = DataInfo("WHU-OPT-SAR", "its authors (Wuhan University)", "none stated")
VALUES = {
    "farmland": 10,
    "city": 20,
    "village": 30,
    "water": 40,
    "forest": 50,
    "road": 60,
    "others": 70,
}
_TRAIN = """
    NH49E001013 NH49E002014 NH49E004013 NH49E004021 NH49E005014 NH49E005023 NH49E005024
    NH49E006011 NH49E006014 NH49E006017 NH49E006022 NH49E006024 NH49E007013 NH49E007017
    NH49E007023 NH49E007024 NH49E008014 NH49E008017 NH49E008024 NH49E009012 NH49E009014
    NH49E009023 NH49E009024 NH49E010014 NH49E010015 NH49E010016 NH49E010022 NH49E011011
    NH49E011017 NH49E012009 NH49E012017 NH49E012018 NH49E012022 NH49E013007 NH49E013018
    NH49E013021 NH49E013023 NH49E014007 NH49E014017 NH49E014021 NH49E014022 NH49E014024
    NH50E003001 NH50E006001 NH50E006007 NH50E007001 NH50E007003 NH50E007004 NH50E008003
    NH50E009001 NH50E009003 NH50E009004 NH50E009006 NH50E010001 NH50E010003 NH50E010004
    NH50E011002 NH50E011004 NH50E012001 NH50E012004 NH50E012005 NH50E012008 NH50E013001
    NH50E013002 NH50E013005 NH50E016002 NI49E021010 NI49E021011 NI49E021012 NI49E022010
    NI49E022011 NI49E022013 NI49E022014 NI49E022015 NI49E023017 NI49E024013 NI49E024017
    NI49E024018 NI49E024019 NI49E024020
"""
_TEST = """
    NH49E001014 NH49E001017 NH49E002012 NH49E002016 NH49E003014 NH49E003024 NH49E004011
    NH49E005011 NH49E005019 NH49E006019 NH49E007014 NH49E008013 NH49E009017 NH49E010020
    NH49E011024 NH49E012020 NH49E013010 NH50E007002 NH50E011005 NH50E014003
"""
SCENES = {"train": _TRAIN.split(), "test": _TEST.split()}

_LOGGER = logging.getLogger("rsvheat.data")
# Columns or rows by which files of a scene may differ; a few files lack the last column.
_NARROWER = 1
_OPTICAL, _SAR = "optical", "sar"
_FOLDERS = {_OPTICAL: ("optical", "opt"), _SAR: ("sar",), MASK: ("lbl", "label", "labels")}

TileSplit: TypeAlias = Literal["scenes", "folders"]


class WhuOptSar(DatasetReader):
    """Reads WHU-OPT-SAR with its official split: 80 scenes to train, 20 to test.

    Background, value 0, is nearly empty and left out of loss and metrics, as in the papers. A scene
    of which one file lacks the last row or column is read without it.

    The release as tiles, in folders ``train``, ``val`` and ``test``, was split by chance, so that
    each scene is in all three. Its tiles are split by their scenes here unless ``tile_split`` says
    otherwise.

    Args:
        root: Folder of the data set, with ``optical``, ``sar`` and ``lbl``, or with tiles.
        tile_split: Split of the release as tiles: by official ``"scenes"``, or by ``"folders"``,
            for comparison with figures that were made so.
        val_fraction: Fraction of the training scenes that is held out for validation; the official
            split has no validation set.
        val_groups: Names of the training scenes that are held out, instead of a random choice.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        tile_split: TileSplit = "scenes",
        val_fraction: float = 0.0,
        val_groups: Sequence[str] | None = None,
    ) -> None:
        if tile_split not in get_args(TileSplit):
            raise ValueError(f'tile_split must be "scenes" or "folders", got {tile_split!r}')
        stratified_split([0], {"val": val_fraction})  # checks it
        self.root, self._tile_split = root, tile_split
        self._val_fraction, self._val_groups = val_fraction, val_groups
        self.codes = MaskCodes(values=VALUES, ignored=[0, IGNORE_INDEX])

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        parts = self._find(scan)
        splits = {}
        for split, found in parts.items():
            if found:
                splits[split] = Split(_make_source(found, self.codes, scan))
        if "train" in splits and "val" not in splits:
            held_out = (self._val_fraction, self._val_groups, r"^[^_]+")
            splits |= hold_out(splits["train"].source, *held_out, scan)
        return splits

    def _find(self, scan: Scan) -> dict[str, list[Found]]:
        scenes = self._folders("")
        if scenes is not None:
            return self._by_scene(find_files(scenes, scan, compare_places=False), scan)
        tiles = {}
        for name in ("train", "val", "test"):
            folders = self._folders(f"{name}/")
            if folders is not None:
                tiles[name] = find_files(folders, scan, compare_places=False)
        if not tiles:
            raise layout_error(
                INFO,
                self.root,
                "optical, sar and lbl with NH49E001013.tif and so on, or folders train, val and "
                "test with opt, sar and lbl",
            )
        if self._tile_split == "folders":
            _LOGGER.warning(
                "the tiles of %s are split by chance: parts of each scene are in training and test",
                self.root,
            )
            return tiles
        every = [one for found in tiles.values() for one in found]
        if len({key for key, _ in every}) != len(every):
            raise DataError(f"tiles of {self.root} have the same names in two folders")
        return self._by_scene(every, scan)

    def _folders(self, prefix: str) -> dict[str, str] | None:
        found = {
            name: find_folder(self.root, *(prefix + one for one in names))
            for name, names in _FOLDERS.items()
        }
        there = {name: str(path) for name, path in found.items() if path is not None}
        return there if len(there) == len(_FOLDERS) else None

    @staticmethod
    def _by_scene(found: Sequence[Found], scan: Scan) -> dict[str, list[Found]]:
        parts: dict[str, list[Found]] = {"train": [], "test": []}
        for key, paths in sorted(found):
            scene = key.split("_")[0]
            split = next((name for name, scenes in SCENES.items() if scene in scenes), None)
            if split is None:
                reason = f"{paths[_OPTICAL]}: {scene} is no scene of WHU-OPT-SAR"
                scan.skip([Skip("name", key, reason)])
            else:
                parts[split].append((key, paths))
        return parts

    def sensors(self) -> dict[str, Sensor]:
        """Return red, green, blue and near infrared, and one band of radar."""
        return {_OPTICAL: Sensor(4), _SAR: Sensor(1)}


class _SceneSource(MaskSource):
    """Pairs with a mask, all of them cut to a common size where they differ.

    Args:
        files: Key and files by modality of each sample.
        masks: Mask file of each sample.
        codes: Meaning of the masks' values.
        parts: Part of all files that is used, by the index of a sample whose files differ.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        masks: Sequence[str],
        codes: MaskCodes,
        parts: Mapping[int, Window],
    ) -> None:
        super().__init__(files, masks, codes)
        self._parts = dict(parts)

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        reader = super().open(index, modality)
        return WindowReader(reader, self._parts[index]) if index in self._parts else reader

    def open_masks(self, index: int) -> list[ImageReader]:
        """See ``MaskSource.open_masks``."""
        readers = super().open_masks(index)
        if index not in self._parts:
            return readers
        return [WindowReader(reader, self._parts[index]) for reader in readers]

    def file(self, index: int, modality: str) -> str | None:
        """See ``Source.file``."""
        return None if index in self._parts else super().file(index, modality)


def _make_source(found: Sequence[Found], codes: MaskCodes, scan: Scan) -> _SceneSource:
    places = Places()
    kept: list[Found] = []
    parts: dict[int, Window] = {}
    skips: list[Skip] = []
    for key, paths in found:
        try:
            part = _common_part(paths)
            size = None if part is None else (part.height, part.width)
            places.check(list(paths.values()), size)
            if part is not None:
                parts[len(kept)] = part
            kept.append((key, paths))
        except SampleError as error:
            skips.append(Skip(error.kind, key, error.reason))
    scan.skip(skips)
    if not kept:
        raise DataError(f"no scene can be used; {skips[0].reason}")
    files = [(key, {name: paths[name] for name in (_OPTICAL, _SAR)}) for key, paths in kept]
    source = _SceneSource(files, [paths[MASK] for _, paths in kept], codes, parts)
    scan(source)
    return source


def _common_part(paths: Mapping[str, str]) -> Window | None:
    """Return the part of a scene that all files have; None if they are of the same size.

    Raises:
        SampleError: If a file is damaged, or they differ by more than a row or column.
    """
    sizes = {}
    for path in paths.values():
        with open_image(path) as reader:
            sizes[path] = (reader.height, reader.width)
    if len(set(sizes.values())) == 1:
        return None
    heights, widths = zip(*sizes.values(), strict=True)
    if max(max(heights) - min(heights), max(widths) - min(widths)) > _NARROWER:
        named = ", ".join(f"{path} has {h} x {w}" for path, (h, w) in sizes.items())
        raise SampleError("size", f"the files of a scene differ in pixels: {named}")
    return Window(0, 0, min(heights), min(widths))
