# SPDX-License-Identifier: Apache-2.0
"""Lists of scenes to predict: from folders, wildcards, text files and STAC items."""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvheat.data import DataError
from rsvheat.data.sources import NO_IMAGES
from rsvheat.raster.predictor import Source

# Formats that a folder is searched for. Any other that GDAL reads can be named.
_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg")
_WILDCARDS = ("*", "?", "[")


@dataclass(frozen=True)
class SceneFiles:
    """The files of a scene, and the name of its output.

    Attributes:
        name: Path of the output within the folder of outputs, without suffix.
        files: Path of the raster by modality.
    """

    name: str
    files: Mapping[str, str]


def is_single(sources: Sequence[Source]) -> bool:
    """Return whether sources are one raster, and not a list of them.

    Args:
        sources: As for ``work_list``.
    """
    return len(sources) == 1 and not (
        Path(sources[0]).is_dir() or _is_list(os.fspath(sources[0])) or _has_wildcard(sources[0])
    )


def work_list(
    sources: Sequence[Source],
    also: Mapping[str, Source] | None = None,
    *,
    first: str = "optical",
    assets: Mapping[str, str] | None = None,
) -> list[SceneFiles]:
    """Find the scenes that sources stand for.

    Args:
        sources: Paths of rasters, names with wildcards, folders that are searched with their
            subfolders, text files (``.txt``) with a path in each line, and STAC items or
            collections of items (``.json``, ``.geojson``) on this machine. Relative paths in a file
            are relative to its folder.
        also: Folder by modality that has the further rasters of each scene, under the path that the
            first one has in its folder, in any format.
        first: Modality of ``sources``.
        assets: Name of a STAC item's asset by modality; by default the names of the modalities, and
            the only asset of items that have one.

    Returns:
        Scenes, ordered as given and within folders by name.

    Raises:
        FileNotFoundError: If a source does not exist, or stands for no raster.
        DataError: If a list cannot be read, a scene lacks a raster, or two scenes have one name.
    """
    scenes: list[SceneFiles] = []
    for source in sources:
        found = list(_scenes(os.fspath(source), first, assets or {}))
        if not found:
            raise FileNotFoundError(f"{os.fspath(source)} has no rasters ({', '.join(_SUFFIXES)})")
        scenes += found
    if also:
        indexes = {name: _by_name(folder) for name, folder in also.items()}
        scenes = [_with_others(scene, indexes, also) for scene in scenes]
    names: dict[str, SceneFiles] = {}
    for scene in scenes:
        other = names.setdefault(scene.name, scene)
        if other is not scene:
            raise DataError(
                f"{other.files[first]} and {scene.files[first]} would both be {scene.name} among "
                "the outputs: predict them apart, or give a folder that holds both"
            )
    return scenes


def shard(scenes: Sequence[SceneFiles], number: int, count: int) -> list[SceneFiles]:
    """Return the part of a list that one of several jobs predicts.

    Args:
        scenes: The whole list, the same for all jobs.
        number: Number of the job, from 1 on.
        count: Number of jobs.

    Raises:
        ValueError: If there is no such job.
    """
    if not 1 <= number <= count:
        raise ValueError(f"shard must be within 1/{count} to {count}/{count}, got {number}/{count}")
    return list(scenes[number - 1 :: count])


def _scenes(source: str, first: str, assets: Mapping[str, str]) -> list[SceneFiles]:
    path = Path(source)
    if path.is_dir():
        names = _by_name(path)
        return [SceneFiles(name, {first: file}) for name, file in names.items()]
    if not path.exists() and _has_wildcard(source):
        files = sorted(
            file for file in glob.glob(source, recursive=True) if not os.path.isdir(file)
        )
        return [SceneFiles(Path(file).stem, {first: file}) for file in files]
    if _is_list(source):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {source}")
        return _listed(path, first) if path.suffix == ".txt" else _stac(path, first, assets)
    return [SceneFiles(path.stem, {first: source})]


def _is_list(source: str) -> bool:
    return Path(source).suffix in (".txt", ".json", ".geojson")


def _has_wildcard(source: Source) -> bool:
    return any(sign in os.fspath(source) for sign in _WILDCARDS) and not Path(source).exists()


def _by_name(folder: Source) -> dict[str, str]:
    """Return the rasters of a folder and its subfolders by their path in it, without suffix."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(folder)}")
    found: dict[str, str] = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NO_IMAGES)
        for file in sorted(files):
            path = Path(root, file)
            if path.suffix.lower() not in _SUFFIXES or file.startswith("."):
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"{found[name]} and {path} have one name: which is the scene?")
            found[name] = str(path)
    return dict(sorted(found.items()))


def _with_others(
    scene: SceneFiles, indexes: Mapping[str, Mapping[str, str]], also: Mapping[str, Source]
) -> SceneFiles:
    files = dict(scene.files)
    for name, index in indexes.items():
        if scene.name not in index:
            raise DataError(
                f"{os.fspath(also[name])} has no raster {scene.name}, which "
                f"{next(iter(scene.files.values()))} needs as its {name}"
            )
        files[name] = index[scene.name]
    return SceneFiles(scene.name, files)


def _listed(path: Path, first: str) -> list[SceneFiles]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as a list of paths: {error}") from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    files = [_relative(line, path) for line in named]
    return [SceneFiles(Path(file).stem, {first: file}) for file in files]


def _relative(name: str, to: Path) -> str:
    """Return a name as seen from here; one that is relative is relative to a file's folder."""
    beside = to.parent / name
    return str(beside) if not os.path.isabs(name) and beside.exists() else name


def _stac(path: Path, first: str, assets: Mapping[str, str]) -> list[SceneFiles]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        items = content["features"] if content["type"] == "FeatureCollection" else [content]
        return [_stac_item(item, path, first, assets) for item in items]
    except (UnicodeDecodeError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no STAC item and no collection of items: {error!r}") from error


def _stac_item(
    item: Mapping[str, Any], path: Path, first: str, assets: Mapping[str, str]
) -> SceneFiles:
    there: Mapping[str, Any] = item["assets"]
    wanted = dict(assets) or {name: name for name in there if name == first}
    if not wanted and len(there) == 1:
        wanted = {first: next(iter(there))}
    missing = [name for name in wanted.values() if name not in there]
    if missing or not wanted:
        raise DataError(
            f"{path}: item {item['id']} has no asset {', '.join(missing) or first}; it has "
            f"{', '.join(there)}: choose by --assets.{first} NAME"
        )
    files = {name: _relative(str(there[asset]["href"]), path) for name, asset in wanted.items()}
    return SceneFiles(str(item["id"]).replace("/", "_"), files)
