# SPDX-License-Identifier: Apache-2.0
"""Folders of images of two dates, and of masks of what changed."""

from collections.abc import Collection, Mapping, Sequence

from rsvheat.data.aligned_reader import AlignedReader
from rsvheat.data.datasets.finding import Found, find_files, hold_out
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.normalize import Sensor
from rsvheat.data.places import Places
from rsvheat.data.readers import EXTENSIONS, ImageReader
from rsvheat.data.skip_report import DataError, SampleError, Skip
from rsvheat.data.sources import Extensions, extensions_by_name
from rsvheat.data.splits import stratified_split

CHANGE_CLASSES = ("no change", "change")
BEFORE, AFTER, LABEL = "before", "after", "label"


class ChangeSource(MaskSource):
    """Image files of two dates by name, with a mask of the change each.

    Args:
        files: Key and files ``"before"`` and ``"after"`` of each sample.
        masks: Mask file of each sample.
        codes: Meaning of the masks' values.
        aligned: Indices of the samples whose image ``"after"`` is resampled to the grid of
            ``"before"``.

    Raises:
        ValueError: If two samples have the same key, or masks are not as many as samples.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        masks: Sequence[str],
        codes: MaskCodes,
        aligned: Collection[int] = (),
    ) -> None:
        super().__init__(files, masks, codes)
        self.modalities = (BEFORE, AFTER)
        self.aligned = frozenset(aligned)

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        if modality == AFTER and index in self.aligned:
            before, after = (super(ChangeSource, self).file(index, n) for n in (BEFORE, AFTER))
            return AlignedReader(str(after), str(before))
        return super().open(index, modality)

    def file(self, index: int, modality: str) -> str | None:
        """See ``Source.file``."""
        resampled = modality == AFTER and index in self.aligned
        return None if resampled else super().file(index, modality)


class ChangeFolders(DatasetReader):
    """Reads images of two dates and masks of the change, in a folder each.

    Files that have the same path within their folders, without the suffix, belong together; files
    without a partner are reported. So are georeferenced images of a sample that differ in size,
    place, orientation or size of pixels. Folders may have wildcards, see
    ``rsvheat.data.MaskFolders``.

    Args:
        before: Folder of the images of the first date, the modality ``"before"``.
        after: Folder of the images of the second date, the modality ``"after"``.
        label: Folder of the masks, on the grid of the first date. Nonzero values are change.
        val: Folders ``"before"``, ``"after"`` and ``"label"`` for validation, instead of
            ``val_fraction``.
        test: Folders ``"before"``, ``"after"`` and ``"label"`` for testing.
        align: Whether georeferenced images of the second date that are not on the grid of the first
            date are resampled to it as they are read, instead of being reported.
        stem_map: Regular expression and its replacement by ``"before"``, ``"after"`` and
            ``"label"``, that map the names of files to those of their partners:
            ``{"before": ("_t1$", ""), "after": ("_t2$", "")}``.
        extensions: Suffixes of the files to search for, the preferred one first: it is used where
            files differ in suffix alone, such as ``0.jpg`` beside ``0.png``. Or such suffixes by
            ``"before"``, ``"after"`` and ``"label"``.
        threshold: Largest value of a mask that is no change; 127 for masks saved as JPEG.
        val_fraction: Fraction of the groups that is held out for validation.
        val_groups: Names of the groups that are held out, instead of a random choice.
        group: Regular expression whose groups match, in a sample's key, the name of its group: the
            scene of neighboring crops, for example. None makes each pair a group.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        before: str,
        after: str,
        label: str,
        *,
        val: Mapping[str, str] | None = None,
        test: Mapping[str, str] | None = None,
        align: bool = False,
        stem_map: Mapping[str, tuple[str, str]] | None = None,
        extensions: Extensions = EXTENSIONS,
        threshold: int = 0,
        val_fraction: float = 0.2,
        val_groups: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        names = (BEFORE, AFTER, LABEL)
        self._folders = {"train": {BEFORE: before, AFTER: after, LABEL: label}}
        for split, folders in (("val", val), ("test", test)):
            if folders is None:
                continue
            if set(folders) != set(names):
                raise ValueError(f"{split} must have {', '.join(names)}, got {sorted(folders)}")
            self._folders[split] = {name: folders[name] for name in names}
        unknown = sorted(set(stem_map or ()) - set(names))
        if unknown:
            raise ValueError(f"stem_map must be for {', '.join(names)}, got {unknown}")
        self._extensions = extensions_by_name(extensions, names)
        stratified_split([0], {"val": val_fraction})  # checks it
        self._stem_map, self._align, self._threshold = stem_map, align, threshold
        self._val_fraction, self._val_groups, self._group = val_fraction, val_groups, group

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        sources = {}
        for split, folders in self._folders.items():
            found = find_files(
                folders,
                scan,
                extensions=self._extensions,
                stem_map=self._stem_map,
                compare_places=False,
            )
            sources[split] = make_change_source(
                found, scan, align=self._align, threshold=self._threshold
            )
        splits = {split: Split(source) for split, source in sources.items()}
        if "val" not in sources:
            held_out = (self._val_fraction, self._val_groups, self._group)
            splits |= hold_out(sources["train"], *held_out, scan)
        return splits

    def sensors(self) -> dict[str, Sensor]:
        """Return three bands for each date."""
        return {BEFORE: Sensor(3), AFTER: Sensor(3)}


def make_change_source(
    found: Sequence[Found], scan: Scan, *, align: bool = False, threshold: int = 0
) -> ChangeSource:
    """Return a source of pairs, without those that do not show the same ground.

    Args:
        found: Key and files ``"before"``, ``"after"`` and ``"label"`` of each sample.
        scan: Context of the search.
        align: Whether images of the second date are resampled where need be.
        threshold: Largest value of a mask that is no change.

    Raises:
        DataError: If there is no sample, or one cannot be used and ``scan`` raises errors.
    """
    places = Places()
    kept: list[Found] = []
    aligned: list[int] = []
    skips: list[Skip] = []
    for key, paths in found:
        try:
            places.check([paths[BEFORE], paths[LABEL]])
            try:
                places.check([paths[BEFORE], paths[AFTER]])
            except SampleError as error:
                if not align:
                    raise SampleError(
                        error.kind, f"{error.reason}; align=True resamples the second date"
                    ) from None
                AlignedReader(paths[AFTER], paths[BEFORE]).close()
                aligned.append(len(kept))
            kept.append((key, paths))
        except SampleError as error:
            skips.append(Skip(error.kind, key, error.reason))
    scan.skip(skips)
    if not kept:
        raise DataError(f"no pair can be used; {skips[0].reason}")
    files = [(key, {name: paths[name] for name in (BEFORE, AFTER)}) for key, paths in kept]
    codes = MaskCodes(binary=CHANGE_CLASSES[1:], background=CHANGE_CLASSES[0], threshold=threshold)
    source = ChangeSource(files, [paths[LABEL] for _, paths in kept], codes, aligned)
    scan(source)
    return source
