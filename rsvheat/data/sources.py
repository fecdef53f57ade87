# SPDX-License-Identifier: Apache-2.0
"""Sources of samples: lists of the images there are, and readers for them."""

import bisect
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.places import Places
from rsvheat.data.readers import (
    EXTENSIONS,
    ArrayReader,
    ImageReader,
    Window,
    WindowReader,
    open_image,
)
from rsvheat.data.skip_report import DataError, SampleError, Skip, is_unicode, printable
from rsvheat.data.spec import Target

Unmatched: TypeAlias = Literal["skip", "keep"]
Indices: TypeAlias = Sequence[int] | NDArray[np.int64]
# Suffixes of the files to search for, the preferred one first: for all folders, or by folder.
Extensions: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]

_TILE = "#"  # stands between the key of an image and that of a tile in it
_TILE_PART = re.compile(_TILE + r"\d+(_\d+)?$")
# Folders that archives and systems add, with copies of the images or none.
NO_IMAGES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
_SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
)
_IMAGES = frozenset(("image", "images", "img", "imgs", "jpegimages", "img_dir"))
_MASKS = frozenset(
    ("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "ann_dir")
)

# Key, files by modality, and the tile of them that is the sample.
_Files: TypeAlias = tuple[str, dict[str, str], Window | None]


class Source(ABC):
    """A list of samples: images of one or several modalities that show the same ground.

    Sources are small and can be pickled; they hold names, not images.

    Attributes:
        modalities: Names of the modalities that samples may have.
        target: Kind of the annotation, see ``rsvheat.data.DataSpec``.
        classes: Class names by label; known after ``scan``.
    """

    modalities: tuple[str, ...]
    target: Target = "none"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def scan(self) -> list[Skip]:
        """Find the samples; again if that was done before.

        Returns:
            The files that cannot be used, with reasons.

        Raises:
            DataError: If there is no sample at all.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples; 0 before ``scan``."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the name of a sample, which no other sample has."""

    @abstractmethod
    def present(self, index: int) -> tuple[str, ...]:
        """Return the modalities that a sample has."""

    @abstractmethod
    def open(self, index: int, modality: str) -> ImageReader:
        """Open an image.

        Args:
            index: Position of the sample.
            modality: Name of a modality that it has.

        Returns:
            The reader.

        Raises:
            SampleError: If the file is missing or damaged.
        """

    def read_target(self, index: int, window: Window) -> Any:
        """Read the annotation of a sample.

        Args:
            index: Index of the sample.
            window: Pixels of the image that the sample shows.

        Returns:
            For target ``"label"`` the class number; for ``"mask"`` class numbers as an integer
            array (H, W) of the window, ``IGNORE_INDEX`` where there is none; for boxes a
            ``rsvheat.data.Boxes``.

        Raises:
            SampleError: If a file is missing or damaged.
        """
        raise NotImplementedError(f"{type(self).__name__} has no target")

    def file(self, index: int, modality: str) -> str | None:
        """Return the path of a file that holds the image and nothing else, if there is one."""
        return None

    @property
    def blocks(self) -> Sequence[int]:
        """Numbers of consecutive samples that lie together and are best read together."""
        return ()

    def group(self, index: int, pattern: str | None = None) -> str:
        """Return the name of the whole that a sample is a part of, and should not be split from.

        Args:
            index: Position of the sample.
            pattern: Regular expression that is searched in the key. The name of the group is the
                text that the expression's groups match or, without groups, all that it matches.
                None for the image that a tile is a part of.

        Raises:
            DataError: If the key has no match.
        """
        key = self.key(index)
        if pattern is None:
            return without_tile(key)
        match = re.search(pattern, key)
        if match is None:
            raise DataError(f"the group pattern {pattern!r} is not found in the sample {key!r}")
        return "/".join(part or "" for part in match.groups()) if match.groups() else match[0]


class FileSource(Source):
    """Image files by name, optionally with a class label each.

    Args:
        files: Key and files by modality of each sample.
        labels: Class number of each sample.
        classes: Class names by label.

    Raises:
        ValueError: If two samples have the same key, a modality has no usable name, or labels are
            not as many as samples.
    """

    labels: NDArray[np.int64] | None = None

    def __init__(
        self,
        files: Sequence[tuple[str, Mapping[str, str]]],
        labels: Indices | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.modalities = tuple(sorted({name for _, paths in files for name in paths}))
        check_modalities(self.modalities)
        if len({key for key, _ in files}) != len(files):
            raise ValueError("samples must have different keys")
        self._samples: Sequence[_Files] = [(key, dict(paths), None) for key, paths in files]
        self.classes = tuple(classes)
        if labels is not None:
            if len(labels) != len(files):
                raise ValueError(f"{len(labels)} labels for {len(files)} samples")
            self.target, self.labels = "label", np.asarray(labels, np.int64)

    def __str__(self) -> str:
        """Return the number of samples."""
        return f"{len(self)} named samples"

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        return []

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return len(self._samples)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return self._samples[index][0]

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return tuple(self._samples[index][1])

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        return _open(self._samples[index][1][modality])

    def read_target(self, index: int, window: Window) -> Any:
        """See ``Source.read_target``."""
        return super().read_target(index, window) if self.labels is None else self.labels[index]

    def file(self, index: int, modality: str) -> str | None:
        """See ``Source.file``."""
        return self._samples[index][1][modality]

    def group(self, index: int, pattern: str | None = None) -> str:
        """See ``Source.group``."""
        if pattern is not None:
            return super().group(index, pattern)
        key, _, window = self._samples[index]
        return key if window is None else without_tile(key)


class FolderSource(FileSource):
    """Image files in a folder for each modality.

    Files that have the same path within their folders, without the suffix, are a pair. Where names
    differ, ``stem_map`` maps them to one: ``{"sar": ("_s1_", "_s2_")}`` for SEN1-2. Pairs that are
    georeferenced must show the same ground: same size, and corners at most half a pixel apart.
    Links to folders are followed; hidden files and folders are left out.

    Args:
        folders: Folder by modality; searched with all folders below it.
        paired: Whether files of the same name show the same ground. If not, each is a sample.
        stem_map: Regular expression and its replacement by modality, applied to paths as above.
        unmatched: Treatment of files without a partner: ``"skip"`` reports them and leaves them
            out, ``"keep"`` makes them samples of one modality.
        tile: Side of tiles in pixels, each of which becomes a sample of an image that is larger;
            those at the right and lower edge overlap their neighbors. Only the tile is read of
            GeoTIFF, but all of PNG and JPEG; for many of them, let
            ``rsvheat.data.write_shards`` cut the tiles once.
        cache: MiB of decoded PNG and JPEG that each process keeps for their next tile.
        extensions: Suffixes of the files to search for, or such suffixes by modality; others then
            have the default ones. Of files that differ in suffix alone, such as a scene and its
            preview, the one whose suffix comes first is used; the others are reported.
        compare_places: Whether georeferenced pairs are compared, as above.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        folders: Mapping[str, str | os.PathLike[str]],
        *,
        paired: bool = True,
        stem_map: Mapping[str, tuple[str, str]] | None = None,
        unmatched: Unmatched = "skip",
        tile: int | None = None,
        cache: int = 128,
        extensions: Extensions = EXTENSIONS,
        compare_places: bool = True,
    ) -> None:
        check_modalities(folders)
        self._extensions = extensions_by_name(extensions, tuple(folders))
        unknown = set(stem_map or ()) - set(folders)
        if unknown:
            raise ValueError(f"stem_map has {sorted(unknown)}, folders only {sorted(folders)}")
        for pattern, _ in (stem_map or {}).values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"stem_map: {pattern!r} is no regular expression: {error}"
                ) from None
        if (tile is not None and tile < 1) or cache < 0:
            raise ValueError(
                f"tile must be at least 1 and cache not negative, got {tile} and {cache}"
            )
        if unmatched not in ("skip", "keep"):
            raise ValueError(f'unmatched must be "skip" or "keep", got {unmatched!r}')
        self.modalities = tuple(folders)
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._paired = paired and len(folders) > 1
        self._stem_map = dict(stem_map or {})
        self._unmatched, self._tile = unmatched, tile
        self._samples = []
        self._limit = cache * 2**20
        self._compare_places = compare_places
        self._decoded: OrderedDict[str, ArrayReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images."""
        return {**self.__dict__, "_decoded": OrderedDict()}

    def __str__(self) -> str:
        """Return the folders."""
        return ", ".join(str(folder) for folder in self._folders.values())

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        skips: list[Skip] = []
        found = {name: self._files(name, skips) for name in self.modalities}
        images = self._pairs(found, skips) if self._paired else self._singles(found)
        places = Places()
        samples = []
        for key, paths in images:
            try:
                if self._compare_places and len(paths) > 1:
                    places.check(list(paths.values()))
                samples += [(key + part, paths, window) for part, window in self._tiles(paths)]
            except SampleError as error:
                skips.append(Skip(error.kind, key, error.reason))
        self._samples = samples
        if not samples:
            raise DataError(f"no image of {self} can be used; {skips[0].reason}")
        return skips

    def _singles(self, found: Mapping[str, Mapping[str, str]]) -> list[tuple[str, dict[str, str]]]:
        several = len(self.modalities) > 1
        return [
            (f"{name}/{key}" if several else key, {name: path})
            for name, files in found.items()
            for key, path in files.items()
        ]

    def _pairs(
        self, found: Mapping[str, Mapping[str, str]], skips: list[Skip]
    ) -> list[tuple[str, dict[str, str]]]:
        images, unmatched = [], []
        for key in sorted(set().union(*found.values())):
            paths = {name: files[key] for name, files in found.items() if key in files}
            if len(paths) == len(found) or self._unmatched == "keep":
                images.append((key, paths))
            else:
                lacking = " and no ".join(name for name in found if name not in paths)
                reason = f"{', '.join(paths.values())}: no {lacking} image has this name"
                unmatched.append(Skip("unmatched", key, reason))
        skips += unmatched
        if not images:
            raise DataError(
                f"no file has the same name in {self}; {unmatched[0].reason}. Should stem_map "
                "map the names of one folder to those of the other?"
            )
        return images

    def _files(self, modality: str, skips: list[Skip]) -> dict[str, str]:
        """Return the files of a folder by key; append those that cannot be used to ``skips``."""
        folder, extensions = self._folders[modality], self._extensions[modality]
        if not folder.is_dir():
            raise DataError(f"{folder}, for the {modality} images, is not a folder")
        found: dict[str, list[str]] = {}
        skipped: list[Skip] = []
        for path, problem in _walk(str(folder), extensions):
            stem = os.path.splitext(path)[0]
            key = Path(os.path.relpath(stem, folder)).as_posix()
            if modality in self._stem_map:
                key = re.sub(*self._stem_map[modality], key)
            if problem is not None:
                skipped.append(Skip("damaged", printable(key), printable(f"{path} {problem}")))
            elif not is_unicode(path):
                reason = f"{printable(path)}: its name is not UTF-8; rename it"
                skipped.append(Skip("name", printable(key), reason))
            else:
                found.setdefault(key, []).append(path)
        files = {}
        for key, paths in found.items():
            if len({os.path.splitext(path)[0] for path in paths}) > 1:
                raise DataError(f"stem_map gives {paths[0]} and {paths[1]} one name, {key!r}")
            files[key], *others = sorted(
                paths, key=lambda path: (extensions.index(_suffix(path)), path)
            )
            skipped += [
                Skip("name", key, f"{path}: {files[key]} has the same name, and is used")
                for path in others
            ]
        if not files:
            raise DataError(
                f"{folder}, for the {modality} images, holds no file that ends in "
                f"{', '.join(extensions)}" + (f"; {skipped[0].reason}" if skipped else "")
            )
        skips += skipped
        return files

    def _tiles(self, paths: Mapping[str, str]) -> list[tuple[str, Window | None]]:
        if self._tile is None:
            return [("", None)]
        sizes = {}
        for path in paths.values():
            with _open(path) as reader:
                sizes[path] = (reader.height, reader.width)
        height, width = common_size(sizes)
        tiles = tile_windows(height, width, self._tile)
        if len(tiles) == 1:
            return [("", None)]
        return [(f"{_TILE}{window.top}_{window.left}", window) for window in tiles]

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        _, paths, window = self._samples[index]
        path = paths[modality]
        if window is None:
            return _open(path)
        reader: ImageReader | None = self._decoded.get(path)
        if reader is None:
            reader = _open(path)
            if reader.whole:
                with reader:
                    reader = self._keep(path, ArrayReader(*reader.read(), name=path))
        else:
            self._decoded.move_to_end(path)
        return WindowReader(reader, window)

    def _keep(self, path: str, image: ArrayReader) -> ArrayReader:
        self._decoded[path] = image
        while sum(kept.nbytes for kept in self._decoded.values()) > self._limit:
            self._decoded.popitem(last=False)
        return image

    def file(self, index: int, modality: str) -> str | None:
        """See ``Source.file``."""
        return None if self._samples[index][2] else super().file(index, modality)


def extensions_by_name(extensions: Extensions, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return suffixes of files in lower case by the name of their folder.

    Args:
        extensions: Suffixes for all folders, or by name for some; others have ``EXTENSIONS``.
        names: Names of the folders.

    Raises:
        ValueError: If ``extensions`` has another name, or what is no suffix.
    """
    if isinstance(extensions, Mapping):
        unknown = sorted(set(extensions) - set(names))
        if unknown:
            raise ValueError(f"extensions must be for {', '.join(names)}, got {unknown}")
        given = {name: extensions.get(name, EXTENSIONS) for name in names}
    else:
        given = dict.fromkeys(names, extensions)
    for some in given.values():
        if isinstance(some, str) or not all(suffix.startswith(".") for suffix in some or [""]):
            raise ValueError(f'extensions must be suffixes such as [".tif"], got {some!r}')
    return {name: tuple(suffix.lower() for suffix in some) for name, some in given.items()}


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _open(path: str) -> ImageReader:
    try:
        return open_image(path)
    except FileNotFoundError:
        raise SampleError("damaged", f"{path} is not there any more") from None


def _walk(folder: str, extensions: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Find the files of a folder and of all below it, in the order of their names.

    Args:
        folder: Path of the folder. Links in it are followed, but not to a folder that they are in.
        extensions: Suffixes of the files.

    Yields:
        Paths of files and None, or of files and folders that cannot be read and the problem.
    """
    above: list[tuple[int, int]] = []  # the folder at hand, and those that it is in

    def walk(path: str) -> Iterator[tuple[str, str | None]]:
        try:
            status = os.stat(path)
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            yield path, f"cannot be read: {error.strerror}"
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        above.append(here)
        folders = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NO_IMAGES:
                continue
            suffix = _suffix(entry.name)
            wanted = suffix in extensions
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif wanted and entry.is_file():
                    yield entry.path, None
                # Without a suffix it may have been a folder, such as that of a class.
                elif (
                    (wanted or not suffix) and entry.is_symlink() and not os.path.exists(entry.path)
                ):
                    yield entry.path, "is a link to a file or folder that is not there"
                elif wanted:
                    yield entry.path, "is a device, socket or pipe, not a file"
            except OSError as error:  # a link to itself, or into a folder without permission
                yield entry.path, f"cannot be read: {error.strerror}"
        for folder in folders:
            yield from walk(folder)
        above.pop()

    return walk(folder)


def class_folders(root: str | os.PathLike[str]) -> list[Path]:
    """Return the folders in a folder that may be classes, by name.

    Args:
        root: Path of the folder.

    Raises:
        DataError: If it is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    return sorted(
        path for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in NO_IMAGES
    )  # fmt: skip


def check_class_folders(root: str | os.PathLike[str]) -> None:
    """Make sure that the folders in a folder are classes, and not sets for training and testing.

    Args:
        root: Folder that holds a folder of images for each class.

    Raises:
        DataError: If all of its folders, or two of them, have names such as ``train`` and
            ``test``, if they are images and masks, or if the only one holds folders itself.
    """
    root = Path(root)
    folders = class_folders(root)
    names = [path.name for path in folders]
    splits = [name for name in names if name.lower() in _SPLITS]
    longer = [name for name in names if _SPLITS & set(re.split(r"[\W_]+", name.lower()))]
    if len(longer) == len(names):  # such as train_set and test_set
        splits = longer
    if splits and (len(splits) > 1 or len(names) == 1):
        train = next((name for name in splits if "train" in name.lower()), splits[0])
        others = [f"{_root_of(name)}={root / name}" for name in splits if name != train]
        raise DataError(
            f"the folders of {root} would be classes, and are {', '.join(splits)}: give "
            f"{' and '.join([f'root={root / train}', *others])}"
        )
    lower = {name.lower() for name in names}
    if lower & _IMAGES and lower & _MASKS and lower <= _IMAGES | _MASKS:
        raise DataError(
            f"the folders of {root} would be classes, and are {' and '.join(names)}: "
            "MaskFolders reads images and their masks"
        )
    if len(folders) == 1 and any(path.is_dir() for path in folders[0].iterdir()):
        raise DataError(
            f"the only folder of {root} would be the only class: give root={folders[0]}, if its "
            "folders are the classes"
        )


def _root_of(split: str) -> str:
    """Return the argument for a set other than the training set, by the name of its folder."""
    return "test_root" if "test" in split.lower() else "val_root"


class ArraySource(Source):
    """Images in memory.

    Args:
        samples: Arrays (C, H, W) by modality, of each sample.
        keys: Names of the samples; by default they are numbered.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, NDArray[np.generic]]],
        keys: Sequence[str] | None = None,
    ) -> None:
        self.modalities = tuple(sorted(set().union(*samples)))
        check_modalities(self.modalities)
        self._samples = [dict(sample) for sample in samples]
        self._keys = [f"{i:06}" for i in range(len(samples))] if keys is None else list(keys)
        if len(set(self._keys)) != len(self._samples):
            raise ValueError(f"{len(samples)} samples need as many different keys")

    def __str__(self) -> str:
        """Return the number of samples."""
        return f"{len(self)} samples in memory"

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        return []

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return len(self._samples)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return self._keys[index]

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return tuple(self._samples[index])

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        name = f"{self.key(index)} ({modality})"
        return ArrayReader(self._samples[index][modality], name=name)


class ConcatSource(Source):
    """Several sources, one after the other, such as pairs and unpaired images.

    Where their targets or classes differ, samples have no target.

    Args:
        sources: Sources to join. With more than one, keys begin with their number.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise ValueError("sources must not be empty")
        self._sources = list(sources)
        self._add_up()

    def __str__(self) -> str:
        """Return the sources."""
        return "; ".join(str(source) for source in self._sources)

    def _add_up(self) -> None:
        names = itertools.chain.from_iterable(source.modalities for source in self._sources)
        self.modalities = tuple(dict.fromkeys(names))
        targets = {(source.target, source.classes) for source in self._sources}
        self.target, self.classes = targets.pop() if len(targets) == 1 else ("none", ())
        self._ends = list(itertools.accumulate(len(source) for source in self._sources))

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        skips = [skip for source in self._sources for skip in source.scan()]
        self._add_up()
        return skips

    def _find(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    @property
    def blocks(self) -> Sequence[int]:
        """See ``Source.blocks``."""
        if not any(source.blocks for source in self._sources):
            return ()
        return [size for source in self._sources for size in source.blocks or [len(source)]]

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return self._ends[-1]

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        number, index = self._find(index)
        key = self._sources[number].key(index)
        return f"{number}/{key}" if len(self._sources) > 1 else key

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        number, index = self._find(index)
        return self._sources[number].present(index)

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        number, index = self._find(index)
        return self._sources[number].open(index, modality)

    def read_target(self, index: int, window: Window) -> Any:
        """See ``Source.read_target``."""
        number, index = self._find(index)
        return self._sources[number].read_target(index, window)

    def file(self, index: int, modality: str) -> str | None:
        """See ``Source.file``."""
        number, index = self._find(index)
        return self._sources[number].file(index, modality)

    def group(self, index: int, pattern: str | None = None) -> str:
        """See ``Source.group``."""
        if pattern is not None:
            return super().group(index, pattern)
        number, index = self._find(index)
        group = self._sources[number].group(index)
        return f"{number}/{group}" if len(self._sources) > 1 else group


def without_tile(key: str) -> str:
    """Return the key of the image that a tile is a part of.

    Args:
        key: Key of a tile, such as ``scene#0_256``; other keys are returned as they are.
    """
    return _TILE_PART.sub("", key)


def check_modalities(names: Mapping[str, object] | Sequence[str]) -> None:
    """Make sure that modalities have usable names.

    Args:
        names: Names of the modalities.

    Raises:
        ValueError: If there is no name, or if one is empty or holds a dot or slash.
    """
    if not names:
        raise ValueError("there must be at least one modality")
    for name in names:
        if not re.fullmatch(r"[^\W.][^./\\]*", name):
            raise ValueError(f"{name!r} cannot be the name of a modality")


def common_size(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the size of images that must be of one size.

    Args:
        sizes: Height and width by name.

    Raises:
        SampleError: If they differ.
    """
    if len(set(sizes.values())) != 1:
        named = ", ".join(f"{name} has {h} x {w}" for name, (h, w) in sizes.items())
        raise SampleError("size", f"the modalities differ in pixels: {named}")
    return next(iter(sizes.values()))


def tile_windows(height: int, width: int, tile: int) -> list[Window]:
    """Return windows that cover an image, row by row.

    Args:
        height: Number of rows of the image.
        width: Number of columns of the image.
        tile: Side of the windows in pixels. Where the image is smaller they are as small; the last
            one of a row or column is moved so that it ends with the image.
    """
    rows, columns = min(tile, height), min(tile, width)
    return [
        Window(min(top, height - rows), min(left, width - columns), rows, columns)
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]
