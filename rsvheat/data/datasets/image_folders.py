# SPDX-License-Identifier: Apache-2.0
"""Images without annotation, for pretraining."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.readers import EXTENSIONS
from rsvheat.data.shards import ShardSource
from rsvheat.data.sources import ConcatSource, Extensions, FolderSource, Source, Unmatched
from rsvheat.data.splits import split_groups


class ImageFolders(DatasetReader):
    """Reads optical and radar images for pretraining: pairs, images of one sensor, or both.

    The images come from ``folders``, ``shards``, any ``sources``, or several of them.

    Args:
        folders: Folder by modality, see ``rsvheat.data.FolderSource``.
        shards: Folder of shards written by ``rsvheat shards``, see
            ``rsvheat.data.ShardSource``.
        sources: Other sources.
        paired: Whether files of the same name in ``folders`` show the same ground.
        stem_map: Regular expression and replacement by modality that map the names of files to
            those of their partners, see ``rsvheat.data.FolderSource``.
        unmatched: ``"skip"`` or ``"keep"`` files without a partner.
        tile: Side of the tiles in pixels that larger images are cut into; None for whole images.
        extensions: Suffixes of the files to search for, the preferred one first: it is used where
            files differ in suffix alone, such as ``0.jpg`` beside ``0.png``. Or such suffixes by
            modality.
        compare_places: Whether georeferenced pairs must show the same ground: same size, and
            corners at most half a pixel apart.
        val_fraction: Fraction of the groups that is held out for validation.
        val_groups: Names of the groups that are held out, instead of a random choice.
        group: Regular expression whose groups match, in a sample's key, the name of its group: the
            scene of overlapping patches, say. None makes each image a group.
        val_folders: Other folders for validation; then nothing is held out of the data.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        folders: Mapping[str, str] | None = None,
        shards: str | None = None,
        sources: Sequence[Source] | None = None,
        *,
        paired: bool = True,
        stem_map: Mapping[str, tuple[str, str]] | None = None,
        unmatched: Unmatched = "skip",
        tile: int | None = None,
        extensions: Extensions = EXTENSIONS,
        compare_places: bool = True,
        val_fraction: float = 0.05,
        val_groups: Sequence[str] | None = None,
        group: str | None = None,
        val_folders: Mapping[str, str] | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "paired": paired,
            "stem_map": stem_map,
            "unmatched": unmatched,
            "tile": tile,
            "extensions": extensions,
            "compare_places": compare_places,
        }
        found: list[Source] = list(sources or ())
        if folders:
            found.append(FolderSource(folders, **options))
        if shards:
            found.append(ShardSource(shards))
        if not found:
            raise ValueError("one of folders, shards and sources must be given")
        self.source = ConcatSource(found)
        self._val_source = FolderSource(val_folders, **options) if val_folders else None
        self._val_fraction, self._val_groups, self._group = val_fraction, val_groups, group

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        source = scan(self.source)
        if self._val_source is not None:
            return {"train": Split(source), "val": Split(scan(self._val_source))}
        if not self._val_groups and not self._val_fraction:
            return {"train": Split(source)}
        groups = [source.group(index, self._group) for index in range(len(source))]
        train, val = split_groups(groups, self._val_fraction, scan.seed, self._val_groups)
        splits = {"train": Split(source, train)}
        return {**splits, "val": Split(source, np.asarray(val))} if len(val) else splits
