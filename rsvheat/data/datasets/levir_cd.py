# SPDX-License-Identifier: Apache-2.0
"""LEVIR-CD: buildings that appeared or vanished between two dates."""

import os
from collections.abc import Mapping
from pathlib import Path

from rsvheat.data.datasets.change_folders import AFTER, BEFORE, LABEL, make_change_source
from rsvheat.data.datasets.finding import DataInfo, Found, find_files, find_folder, layout_error
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.normalize import Sensor
from rsvheat.data.skip_report import Skip

INFO = DataInfo("LEVIR-CD", "the LEVIR laboratory of Beihang University", "research")
SPLITS = ("train", "val", "test")

_FOLDERS = {BEFORE: "A", AFTER: "B", LABEL: "label"}


class LevirCD(DatasetReader):
    """Reads LEVIR-CD in its official split, as whole images or as tiles.

    Three layouts are read: ``train/A``, ``train/B`` and ``train/label`` and so on; ``A``, ``B`` and
    ``label`` with file names in ``list/train.txt`` and so on; and the same three folders without
    lists, where the beginning of a file name (``train_1.png``) tells its split.

    Args:
        root: Folder of the data set.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        splits = {}
        for split, found in self._find(scan).items():
            if found:
                splits[split] = Split(make_change_source(found, scan))
        if not splits:
            raise layout_error(
                INFO,
                self.root,
                "A, B and label in folders train, val and test, or in the folder itself with "
                "lists of names in list/train.txt or with names such as train_1.png",
            )
        return splits

    def _find(self, scan: Scan) -> dict[str, list[Found]]:
        by_split: dict[str, list[Found]] = {}
        for split in SPLITS:
            folders = self._triple(f"{split}/")
            if folders is not None:
                by_split[split] = find_files(folders, scan, compare_places=False)
        flat = self._triple("") if not by_split else None
        if flat is None:
            return by_split
        found = dict(find_files(flat, scan, compare_places=False))
        lists = find_folder(self.root, "list")
        if lists is None:
            unused = [key for key in found if not key.startswith(tuple(f"{s}_" for s in SPLITS))]
            reason = "its name begins with none of train_, val_ and test_"
            scan.skip(Skip("name", key, f"{found[key][BEFORE]}: {reason}") for key in unused)
            return {
                split: [(key, paths) for key, paths in found.items() if key.startswith(f"{split}_")]
                for split in SPLITS
            }
        for split in SPLITS:
            path = lists / f"{split}.txt"
            if path.is_file():
                by_split[split] = self._listed(path, found, scan)
        return by_split

    def _triple(self, prefix: str) -> dict[str, str] | None:
        folders = {n: find_folder(self.root, prefix + part) for n, part in _FOLDERS.items()}
        there = {name: str(path) for name, path in folders.items() if path is not None}
        return there if len(there) == len(_FOLDERS) else None

    def _listed(self, path: Path, found: Mapping[str, dict[str, str]], scan: Scan) -> list[Found]:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        keys = [os.path.splitext(name)[0] for name in names if name]
        scan.skip(
            Skip("unmatched", key, f"{key} of {path} is not in A, B and label")
            for key in keys
            if key not in found
        )
        return [(key, found[key]) for key in dict.fromkeys(keys) if key in found]

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {BEFORE: Sensor(3), AFTER: Sensor(3)}
