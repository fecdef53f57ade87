# SPDX-License-Identifier: Apache-2.0
"""AIR-PolSAR-Seg (version 1): land cover in polarimetric radar images."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsvheat.data.datasets.finding import (
    DataInfo,
    find_folder,
    hold_out,
    layout_error,
    list_images,
    match_masks,
)
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.normalize import Normalize, Sensor
from rsvheat.data.readers import ImageReader, Pixels, Window, open_image
from rsvheat.data.skip_report import SampleError, Skip
from rsvheat.data.sources import check_modalities, common_size
from rsvheat.data.splits import stratified_split

INFO = DataInfo(
    "AIR-PolSAR-Seg version 1",
    "AICyberTeam (AIR-CAS)",
    "research; owned by the Chinese high-resolution earth observation program and AIR-CAS",
)
COLORS = {
    "industrial area": (0, 0, 255),
    "natural area": (0, 255, 0),
    "water area": (0, 255, 255),
    "land use area": (255, 0, 0),
    "housing area": (255, 255, 0),
    "other area": (255, 255, 255),
}
UNLABELED = (0, 0, 0)
POLARIZATIONS = ("HH", "HV", "VH", "VV")

_NAME = re.compile(r"(AIR-Pol(?:ar)?SAR-Seg-\d+)_(HH|HV|VH|VV|gt)\.(?:tiff?|png)")
_TOPS = ("Raw_AIR-PolarSAR-Seg", "Raw_AIR-PolSAR-Seg", "AIR-PolarSAR-Seg", "AIR-PolSAR-Seg")


class AirPolSARSeg(DatasetReader):
    """Reads AIR-PolSAR-Seg version 1; the bands are HH, HV, VH and VV.

    Copies that hold augmented images, with ``-rot`` in their names, are read without them: some
    are turned images of the other split.

    Args:
        root: Folder of the data set, with ``train_set`` and ``test_set``.
        val_fraction: Fraction of the training patches that is held out for validation. All patches
            are of one scene, and neighbors look alike.
        val_groups: Names of the training patches that are held out, instead of a random choice.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        *,
        val_fraction: float = 0.0,
        val_groups: Sequence[str] | None = None,
        modality: str = "sar",
    ) -> None:
        check_modalities([modality])
        stratified_split([0], {"val": val_fraction})  # checks it
        self.root, self.modality = root, modality
        self._val_fraction, self._val_groups = val_fraction, val_groups
        self.codes = MaskCodes(colors=COLORS, ignored_colors=[UNLABELED])

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        sources = {}
        for split in ("train", "test"):
            names = (f"{split}_set", split)
            inner = [f"{top}/{name}" for top in _TOPS for name in names]
            folder = find_folder(self.root, *names, *inner)
            source = self._source(str(folder), scan) if folder else None
            if source is not None:
                sources[split] = source
        if not sources:
            raise layout_error(
                INFO,
                self.root,
                "train_set and test_set with AIR-PolarSAR-Seg-1_HH.tiff, _HV, _VH, _VV and "
                "AIR-PolarSAR-Seg-1_gt.png",
            )
        splits = {split: Split(source) for split, source in sources.items()}
        if "train" in sources:
            held_out = (self._val_fraction, self._val_groups, None)
            splits |= hold_out(sources["train"], *held_out, scan)
        return splits

    def _source(self, folder: str, scan: Scan) -> "_PolarizationSource | None":
        bands: dict[str, dict[str, str]] = {}
        masks: dict[str, str] = {}
        for path in list_images(folder, scan):
            match = _NAME.fullmatch(os.path.basename(path))
            if match is None:
                continue
            if match[2] == "gt":
                masks[match[1]] = path
            else:
                bands.setdefault(match[1], {})[match[2]] = path
        whole = {}
        for key, paths in bands.items():
            lacking = [name for name in POLARIZATIONS if name not in paths]
            if lacking:
                reason = f"{', '.join(paths.values())}: no file {' and '.join(lacking)}"
                scan.skip([Skip("unmatched", key, reason)])
                masks.pop(key, None)
            else:
                whole[key] = paths
        found = match_masks(whole, masks, scan)
        if not found:
            return None
        source = _PolarizationSource(
            [(key, {self.modality: paths[POLARIZATIONS[0]]}) for key, paths in found],
            [paths["mask"] for _, paths in found],
            self.codes,
            [[paths[name] for name in POLARIZATIONS] for _, paths in found],
        )
        scan(source)
        return source

    def sensors(self) -> dict[str, Sensor]:
        """Return four bands of amplitudes, which are normalized in decibels."""
        return {self.modality: Sensor(4, normalize=Normalize(decibels="amplitude"))}


class _PolarizationSource(MaskSource):
    """Samples whose image is in several files, one for each band.

    Args:
        files: Key and first file of each sample.
        masks: Mask file of each sample.
        codes: Meaning of the masks' colors.
        bands: Files of each sample by band.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        masks: Sequence[str],
        codes: MaskCodes,
        bands: Sequence[Sequence[str]],
    ) -> None:
        super().__init__(files, masks, codes)
        self._bands = [tuple(paths) for paths in bands]

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        return BandFiles(self._bands[index])

    def file(self, index: int, modality: str) -> str | None:
        """Return None: no file holds the whole image."""
        return None


class BandFiles(ImageReader):
    """An image whose bands are in a file each.

    Args:
        paths: Path of each band's file.

    Raises:
        SampleError: If a file is missing or damaged, has several bands, or another size or type of
            values than the first one.
    """

    complete = False

    def __init__(self, paths: Sequence[str]) -> None:
        self._readers: list[ImageReader] = []
        try:
            for path in paths:
                self._readers.append(open_image(path))
            sizes = {reader.name: (reader.height, reader.width) for reader in self._readers}
            for reader in self._readers:
                if reader.bands != 1:
                    raise SampleError("bands", f"{reader.name} has {reader.bands} bands, not 1")
            self.height, self.width = common_size(sizes)
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise SampleError("damaged", f"{path} is not there any more") from None
            raise
        self.name, self.bands = paths[0], len(paths)
        self.dtype: np.dtype[Any] = np.result_type(*(reader.dtype for reader in self._readers))

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        parts = [self._readers[band - 1].read(window) for band in bands]
        values = np.concatenate([part.values for part in parts])
        if all(part.valid is None for part in parts):
            return Pixels(values, None)
        valid = [
            np.ones(part.values.shape, bool) if part.valid is None else part.valid for part in parts
        ]
        return Pixels(values, np.concatenate(valid))

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()
