# SPDX-License-Identifier: Apache-2.0
"""Folders of images, of one or several modalities, and of masks."""

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from rsvheat.data.datasets.finding import find_files, hold_out
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.normalize import Sensor
from rsvheat.data.readers import EXTENSIONS
from rsvheat.data.sources import Extensions, Unmatched, check_modalities, extensions_by_name
from rsvheat.data.splits import stratified_split


class MaskFolders(DatasetReader):
    """Reads images and masks that have the same names, in a folder for each modality and for masks.

    Files that have the same path within their folders, without the suffix, belong together; images
    without a mask and masks without an image are reported. Folders may have wildcards:
    ``{"optical": "city/*/images"}`` with masks in ``city/*/masks`` joins the folders that the
    asterisk stands for, and keys begin with their names.

    Args:
        images: Folder by modality.
        masks: Folder of the masks; for binary masks, folder by class name.
        codes: Meaning of the masks' values or colors, which names the classes.
        val_images: Folder by modality of images for validation, instead of ``val_fraction``.
        val_masks: Folder, or folders by class name, of their masks.
        test_images: Folder by modality of images for testing.
        test_masks: Folder, or folders by class name, of their masks.
        stem_map: Regular expression and its replacement by modality, and for ``"mask"``, that map
            the names of files to those of their partners: ``{"mask": ("_label$", "")}``.
        extensions: Suffixes of the files to search for, the preferred one first: it is used where
            files differ in suffix alone, such as ``0.jpg`` beside ``0.png``. Or such suffixes by
            modality, and for ``"mask"``: with ``{"optical": [".jpg"], "mask": [".png"]}`` images
            and masks may lie in one folder.
        missing: Treatment of samples that lack a modality: ``"skip"`` reports them and leaves them
            out, ``"keep"`` uses those that have at least one.
        val_fraction: Fraction of the groups that is held out for validation.
        val_groups: Names of the groups that are held out, instead of a random choice.
        group: Regular expression whose groups match, in a sample's key, the name of its group: the
            scene of neighboring crops, for example. None makes each image a group.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        images: Mapping[str, str],
        masks: str | Mapping[str, str],
        codes: MaskCodes,
        *,
        val_images: Mapping[str, str] | None = None,
        val_masks: str | Mapping[str, str] | None = None,
        test_images: Mapping[str, str] | None = None,
        test_masks: str | Mapping[str, str] | None = None,
        stem_map: Mapping[str, tuple[str, str]] | None = None,
        extensions: Extensions = EXTENSIONS,
        missing: Unmatched = "skip",
        val_fraction: float = 0.2,
        val_groups: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        check_modalities(images)
        if "mask" in images:
            raise ValueError("mask cannot be the name of a modality")
        if missing not in get_args(Unmatched):
            raise ValueError(f'missing must be "skip" or "keep", got {missing!r}')
        given = {
            "train": (images, masks),
            "val": (val_images, val_masks),
            "test": (test_images, test_masks),
        }
        self._folders: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        for name, (some, theirs) in given.items():
            if (some is None) != (theirs is None):
                raise ValueError(f"{name}_images and {name}_masks must be given together")
            if some is not None and theirs is not None:
                if set(some) - set(images):
                    raise ValueError(f"{name}_images has modalities that images has not")
                self._folders[name] = (some, self._mask_folders(theirs, codes))
        unknown = set(stem_map or ()) - {*images, "mask"}
        if unknown:
            raise ValueError(f"stem_map has {sorted(unknown)}, which is no modality and not mask")
        self._extensions = extensions_by_name(extensions, (*images, "mask"))
        stratified_split([0], {"val": val_fraction})  # checks it
        self.modalities, self.codes = tuple(images), codes
        self._stem_map, self._missing = dict(stem_map or {}), missing
        self._val_fraction, self._val_groups, self._group = val_fraction, val_groups, group

    @staticmethod
    def _mask_folders(masks: str | Mapping[str, str], codes: MaskCodes) -> dict[str, str]:
        """Return folders by a name that no modality has, in the order of the binary masks."""
        if codes.binary is None:
            if not isinstance(masks, str):
                raise ValueError("masks must be one folder, since codes has no binary masks")
            return {"mask": masks}
        if isinstance(masks, str) or set(masks) != set(codes.binary):
            raise ValueError(
                f"masks must name a folder for each of {', '.join(codes.binary)}, got {masks}"
            )
        return {
            f"mask {number} ({re.sub(r'[./]', ' ', name)})": masks[name]
            for number, name in enumerate(codes.binary)
        }

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        sources = {name: self._find(*folders, scan) for name, folders in self._folders.items()}
        splits = {name: Split(source) for name, source in sources.items()}
        if "val" not in sources:
            held_out = (self._val_fraction, self._val_groups, self._group)
            splits |= hold_out(sources["train"], *held_out, scan)
        return splits

    def _find(self, images: Mapping[str, str], masks: Mapping[str, str], scan: Scan) -> MaskSource:
        stem_map = {name: change for name, change in self._stem_map.items() if name in images}
        extensions = {name: self._extensions[name] for name in images}
        extensions |= dict.fromkeys(masks, self._extensions["mask"])
        if "mask" in self._stem_map:
            stem_map |= dict.fromkeys(masks, self._stem_map["mask"])
        optional = tuple(images) if self._missing == "keep" and len(images) > 1 else ()
        folders = {**images, **masks}
        found = find_files(
            folders, scan, extensions=extensions, stem_map=stem_map, optional=optional
        )
        files = [(key, {n: p for n, p in paths.items() if n in images}) for key, paths in found]
        source = MaskSource(files, [[p[name] for name in masks] for _, p in found], self.codes)
        scan(source)
        return source

    def sensors(self) -> dict[str, Sensor]:
        """Return three bands for each modality, and one for ``"sar"``."""
        return {name: Sensor(1 if name == "sar" else 3) for name in self.modalities}
