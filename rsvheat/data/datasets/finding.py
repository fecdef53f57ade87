# SPDX-License-Identifier: Apache-2.0
"""Finds the files of samples in folders, and holds samples out; shared by the readers."""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from rsvheat.data.datasets.reader import Scan, Split
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.readers import EXTENSIONS
from rsvheat.data.skip_report import DataError, Skip
from rsvheat.data.sources import Extensions, FolderSource, Indices, Source
from rsvheat.data.splits import split_groups

# Key of a sample, and its files by modality or other name.
Found: TypeAlias = tuple[str, dict[str, str]]

MASK = "mask"

_WILD = re.compile(r"[*?[]")
_SHOWN = 8  # entries of a folder that a message lists


class DataInfo(NamedTuple):
    """Facts about a public data set that errors name.

    Attributes:
        name: Name of the data set.
        provider: Where to get it.
        terms: Terms of use.
    """

    name: str
    provider: str
    terms: str


def layout_error(info: DataInfo, root: str | os.PathLike[str], wanted: str) -> DataError:
    """Return the error for a folder that does not hold a data set.

    Args:
        info: Facts about the data set.
        root: Folder that was searched.
        wanted: Files or folders that were looked for.
    """
    return DataError(
        f"{root} does not hold {info.name}: looked for {wanted}; found {listing(root)}. The data "
        f"is from {info.provider}; terms: {info.terms}"
    )


def listing(folder: str | os.PathLike[str]) -> str:
    """Return the first names in a folder as text.

    Args:
        folder: Path of the folder.
    """
    if not os.path.isdir(folder):
        return "a file" if os.path.exists(folder) else "no such folder"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return shown + more or "an empty folder"


def find_folder(root: str | os.PathLike[str], *paths: str) -> Path | None:
    """Return the first of several folders that exists, whatever the case of its letters.

    Args:
        root: Folder that they may be in.
        *paths: Paths within ``root``, the preferred one first; ``""`` for ``root`` itself.
    """
    for path in paths:
        here = Path(root)
        for part in path.split("/") if path else ():
            if (here / part).is_dir():
                here /= part
                continue
            names = sorted(os.listdir(here)) if here.is_dir() else []
            match = next((name for name in names if name.lower() == part.lower()), part)
            here /= match
        if here.is_dir():
            return here
    return None


def find_files(
    folders: Mapping[str, str],
    scan: Scan,
    *,
    extensions: Extensions = EXTENSIONS,
    stem_map: Mapping[str, tuple[str, str]] | None = None,
    optional: Sequence[str] = (),
    compare_places: bool = True,
) -> list[Found]:
    """Return the files that have the same path within their folders, without the suffix.

    Paths may hold the wildcards ``*``, ``?`` and ``[...]``: ``tiles/*/images`` and
    ``tiles/*/masks``. Keys then begin with the parts of the path that have wildcards.

    Args:
        folders: Folder by modality or other name.
        scan: Context of the search.
        extensions: Suffixes of the files to search for, see ``FolderSource``.
        stem_map: Regular expression and its replacement by name, see
            ``rsvheat.data.FolderSource``.
        optional: Names of which all but one may be missing in a sample.
        compare_places: Whether georeferenced files of a sample must be of the same grid.

    Returns:
        Key and files by name of each sample.

    Raises:
        DataError: If there is no sample, or a file cannot be used and ``scan`` raises errors.
    """
    found: list[Found] = []
    for prefix, expanded in _expand(folders, scan).items():
        source = FolderSource(
            expanded,
            extensions=extensions,
            stem_map=stem_map,
            unmatched="keep" if optional else "skip",
            compare_places=compare_places,
        )
        skips = [skip._replace(key=prefix + skip.key) for skip in source.scan()]
        for index in range(len(source)):
            paths = {name: source.file(index, name) or "" for name in source.present(index)}
            lacking = [name for name in folders if name not in paths and name not in optional]
            if optional and not paths.keys() & set(optional):
                lacking.append(" or ".join(optional))
            key = source.key(index)
            if lacking:
                reason = f"{', '.join(paths.values())}: no {' and no '.join(lacking)} file"
                skips.append(Skip("unmatched", prefix + key, f"{reason} has this name"))
            else:
                found.append((prefix + key, paths))
        scan.skip(skips)
    if not found:
        raise DataError(
            f"no file has the same name in {', '.join(folders.values())}: should stem_map map the "
            "names of one folder to those of the other?"
        )
    return found


def list_images(root: str | os.PathLike[str], scan: Scan) -> list[str]:
    """Return the paths of the image files in a folder and all below it; none if there are none.

    Args:
        root: Folder to search.
        scan: Context of the search.

    Raises:
        DataError: If a file cannot be used and ``scan`` raises errors.
    """
    source = FolderSource({"image": root})
    try:
        skips = source.scan()
    except DataError:
        return []
    scan.skip(skips)
    return [source.file(index, "image") or "" for index in range(len(source))]


def match_masks(
    images: Mapping[str, Mapping[str, str]], masks: Mapping[str, str], scan: Scan
) -> list[Found]:
    """Return the samples that have images and a mask, and report what has no counterpart.

    Args:
        images: Files by modality of each sample, by key.
        masks: Mask file by key.
        scan: Context of the search.

    Returns:
        Key and files of each sample, in the order of the keys; the mask's name is ``"mask"``.

    Raises:
        DataError: If a file has no counterpart and ``scan`` raises errors.
    """
    reasons = {key: f"{', '.join(images[key].values())} has no mask" for key in images}
    reasons |= {key: f"{masks[key]} has no image" for key in masks}
    both = images.keys() & masks.keys()
    scan.skip(
        Skip("unmatched", key, reason) for key, reason in sorted(reasons.items()) if key not in both
    )
    return [(key, {**images[key], MASK: masks[key]}) for key in sorted(both)]


def make_mask_source(found: Sequence[Found], codes: MaskCodes, scan: Scan) -> MaskSource:
    """Return a scanned source of samples.

    Args:
        found: Key and files of each sample; the mask's name is ``"mask"``.
        codes: Meaning of the masks' values or colors.
        scan: Context of the search.
    """
    files = [(key, {n: path for n, path in p.items() if n != MASK}) for key, p in found]
    source = MaskSource(files, [paths[MASK] for _, paths in found], codes)
    scan(source)
    return source


def without_repeats(named: Sequence[tuple[str, str]], scan: Scan) -> dict[str, str]:
    """Return files by name, the first of each name; the others are reported.

    Args:
        named: Names and paths.
        scan: Context of the search.
    """
    files: dict[str, str] = {}
    for name, path in named:
        if name in files:
            reason = f"{path}: {files[name]} has the same name, and is used"
            scan.skip([Skip("name", name, reason)])
        else:
            files[name] = path
    return files


def hold_out(
    source: Source,
    fraction: float,
    groups: Sequence[str] | None,
    pattern: str | None,
    scan: Scan,
    indices: Indices | None = None,
) -> dict[str, Split]:
    """Split the samples of a source into those for training and those for validation.

    Args:
        source: Scanned source.
        fraction: Fraction of the groups that is held out.
        groups: Names of the groups that are held out, instead of a random choice.
        pattern: Regular expression that names the group of a sample, see ``Source.group``.
        scan: Context, which holds the seed.
        indices: Indices of the samples to split; None for all.

    Returns:
        ``"train"`` and, if samples are held out, ``"val"``.
    """
    used = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    if not groups and not fraction:
        return {"train": Split(source, used)}
    names = [source.group(int(index), pattern) for index in used]
    train, val = split_groups(names, fraction, scan.seed, groups)
    return {"train": Split(source, used[train]), "val": Split(source, used[val])}


def _expand(folders: Mapping[str, str], scan: Scan) -> dict[str, dict[str, str]]:
    """Return folders by name, for each text that wildcards stand for."""
    parts = {name: _wild_parts(folder) for name, folder in folders.items()}
    if not any(parts.values()):
        return {"": dict(folders)}
    if len(set(parts.values())) > 1:
        raise DataError(
            f"the folders {', '.join(folders.values())} must have the same parts with wildcards"
        )
    expanded: dict[str, dict[str, str]] = {}
    for name, folder in folders.items():
        places = [i for i, part in enumerate(Path(folder).parts) if _WILD.search(part)]
        for path in sorted(glob.glob(folder)):
            if os.path.isdir(path):
                prefix = "".join(f"{Path(path).parts[i]}/" for i in places)
                expanded.setdefault(prefix, {})[name] = path
    for prefix, some in list(expanded.items()):
        if len(some) < len(folders):
            lacking = [folder for name, folder in folders.items() if name not in some]
            reason = f"{', '.join(some.values())}: no folder {lacking[0]} goes with it"
            scan.skip([Skip("unmatched", prefix.rstrip("/"), reason)])
            del expanded[prefix]
    if not expanded:
        raise DataError(f"there are no folders {', '.join(folders.values())}")
    return expanded


def _wild_parts(folder: str) -> tuple[str, ...]:
    if os.path.isdir(folder):  # its name has brackets
        return ()
    return tuple(part for part in Path(folder).parts if _WILD.search(part))
