# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: what there is, and readers for its images."""

import bisect
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.readers import (
    EXTENSIONS,
    ArrayReader,
    ImageReader,
    Window,
    WindowReader,
    open_image,
)
from rsvheat.data.report import DataError, SampleError, Skip
from rsvheat.data.spec import Target

Unmatched: TypeAlias = Literal["skip", "keep"]
Indices: TypeAlias = Sequence[int] | NDArray[np.int64]

_TILE = "#"  # stands between the key of an image and that of a tile in it

# Key, files by modality, and the tile of them.
_Files: TypeAlias = tuple[str, dict[str, str], Window | None]


class Source(ABC):
    """A list of samples: images of one or several modalities that show the same ground.

    Sources are small and can be pickled; they hold names, not images.

    Attributes:
        modalities: Names of the modalities that samples may have.
        target: Kind of the annotation, see :class:`~rsvheat.data.DataSpec`.
        classes: Class names by label; known after :meth:`scan`.
    """

    modalities: tuple[str, ...]
    target: Target = "none"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def scan(self) -> list[Skip]:
        """Find the samples; again if that was done before.

        Returns:
            What is there and cannot be used.

        Raises:
            DataError: If there is no sample at all.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples; 0 before :meth:`scan`."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return a sample's name, which no other sample has."""

    @abstractmethod
    def present(self, index: int) -> tuple[str, ...]:
        """Return the modalities that a sample has."""

    @abstractmethod
    def open(self, index: int, modality: str) -> ImageReader:
        """Open an image.

        Args:
            index: The sample.
            modality: One that it has.

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
            :class:`~rsvheat.data.Boxes`.

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
        """Return what a sample is a part of, and should not be split from.

        Args:
            index: The sample.
            pattern: A regular expression that is searched in the key; what its groups match is the
                name, or all that it matches if it has none. None is the image of a tile.

        Raises:
            DataError: If the key has no match.
        """
        key = self.key(index)
        if pattern is None:
            return key.partition(_TILE)[0]
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
        """See :meth:`Source.scan`."""
        return []

    def __len__(self) -> int:
        """See :meth:`Source.__len__`."""
        return len(self._samples)

    def key(self, index: int) -> str:
        """See :meth:`Source.key`."""
        return self._samples[index][0]

    def present(self, index: int) -> tuple[str, ...]:
        """See :meth:`Source.present`."""
        return tuple(self._samples[index][1])

    def open(self, index: int, modality: str) -> ImageReader:
        """See :meth:`Source.open`."""
        return _open(self._samples[index][1][modality])

    def read_target(self, index: int, window: Window) -> Any:
        """See :meth:`Source.read_target`."""
        return super().read_target(index, window) if self.labels is None else self.labels[index]

    def file(self, index: int, modality: str) -> str | None:
        """See :meth:`Source.file`."""
        return self._samples[index][1][modality]


class FolderSource(FileSource):
    """Image files in a folder for each modality.

    Files that have the same path within their folders, without the suffix, are a pair. Where names
    differ, ``stem_map`` maps them to one: ``{"sar": ("_s1_", "_s2_")}`` for SEN1-2.

    Args:
        folders: By modality; searched with all folders below them.
        paired: Whether files of the same name show the same ground. If not, each is a sample.
        stem_map: A regular expression and its replacement by modality, applied to paths as above.
        unmatched: What becomes of files without a partner: reported and left out, or kept as
            samples of one modality.
        tile: Make a sample of each tile of that many pixels a side, where images are larger; those
            at the right and lower edge overlap their neighbours. Only the tile is read of GeoTIFF,
            but all of PNG and JPEG; for many of them, let :func:`~rsvheat.data.write_shards` cut
            the tiles once.
        cache: MiB of decoded PNG and JPEG that each process keeps for their next tile.

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
    ) -> None:
        check_modalities(folders)
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
        self._decoded: OrderedDict[str, ArrayReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images."""
        return {**self.__dict__, "_decoded": OrderedDict()}

    def __str__(self) -> str:
        """Return the folders."""
        return ", ".join(str(folder) for folder in self._folders.values())

    def scan(self) -> list[Skip]:
        """See :meth:`Source.scan`."""
        found = {name: self._files(name) for name in self.modalities}
        skips: list[Skip] = []
        if not self._paired:
            several = len(self.modalities) > 1
            images = [
                (f"{name}/{key}" if several else key, {name: path})
                for name, files in found.items()
                for key, path in files.items()
            ]
        else:
            images = []
            for key in sorted(set().union(*found.values())):
                paths = {name: files[key] for name, files in found.items() if key in files}
                if len(paths) == len(found) or self._unmatched == "keep":
                    images.append((key, paths))
                else:
                    lacking = [name for name in found if name not in paths]
                    skips.append(
                        Skip(
                            "unmatched",
                            key,
                            f"{', '.join(paths.values())}: no {' and no '.join(lacking)} image "
                            "has this name",
                        )
                    )
            if not images:
                raise DataError(
                    f"no file has the same name in {self}; {skips[0].reason}. Should stem_map "
                    "map the names of one folder to those of the other?"
                )
        samples = []
        for key, paths in images:
            try:
                samples += [(key + part, paths, window) for part, window in self._tiles(paths)]
            except SampleError as error:
                skips.append(Skip(error.kind, key, error.reason))
        self._samples = samples
        if not samples:
            raise DataError(f"no image of {self} can be read; {skips[0].reason}")
        return skips

    def _files(self, modality: str) -> dict[str, str]:
        folder = self._folders[modality]
        if not folder.is_dir():
            raise DataError(f"{folder}, for the {modality} images, is not a folder")
        files: dict[str, str] = {}
        for parent, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() not in EXTENSIONS or name.startswith("."):
                    continue
                path = os.path.join(parent, name)
                key = Path(os.path.relpath(os.path.join(parent, stem), folder)).as_posix()
                if modality in self._stem_map:
                    key = re.sub(*self._stem_map[modality], key)
                if key in files:
                    raise DataError(f"{files[key]} and {path} are both called {key!r}")
                files[key] = path
        if not files:
            raise DataError(
                f"{folder}, for the {modality} images, holds no file that ends in "
                f"{', '.join(EXTENSIONS)}"
            )
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
        """See :meth:`Source.open`."""
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
        """See :meth:`Source.file`."""
        return None if self._samples[index][2] else super().file(index, modality)


def _open(path: str) -> ImageReader:
    try:
        return open_image(path)
    except FileNotFoundError:
        raise SampleError("damaged", f"{path} is not there any more") from None


class ArraySource(Source):
    """Images in memory.

    Args:
        samples: For each sample (C, H, W) arrays by modality.
        keys: Their names; by default they are numbered.

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
        """See :meth:`Source.scan`."""
        return []

    def __len__(self) -> int:
        """See :meth:`Source.__len__`."""
        return len(self._samples)

    def key(self, index: int) -> str:
        """See :meth:`Source.key`."""
        return self._keys[index]

    def present(self, index: int) -> tuple[str, ...]:
        """See :meth:`Source.present`."""
        return tuple(self._samples[index])

    def open(self, index: int, modality: str) -> ImageReader:
        """See :meth:`Source.open`."""
        name = f"{self.key(index)} ({modality})"
        return ArrayReader(self._samples[index][modality], name=name)


class ConcatSource(Source):
    """Several sources, one after the other: pairs beside unpaired images, say.

    Where their targets or classes differ, samples have no target.

    Args:
        sources: The sources. With more than one, keys begin with their number.

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
        """See :meth:`Source.scan`."""
        skips = [skip for source in self._sources for skip in source.scan()]
        self._add_up()
        return skips

    def _find(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    @property
    def blocks(self) -> Sequence[int]:
        """See :attr:`Source.blocks`."""
        if not any(source.blocks for source in self._sources):
            return ()
        return [size for source in self._sources for size in source.blocks or [len(source)]]

    def __len__(self) -> int:
        """See :meth:`Source.__len__`."""
        return self._ends[-1]

    def key(self, index: int) -> str:
        """See :meth:`Source.key`."""
        number, index = self._find(index)
        key = self._sources[number].key(index)
        return f"{number}/{key}" if len(self._sources) > 1 else key

    def present(self, index: int) -> tuple[str, ...]:
        """See :meth:`Source.present`."""
        number, index = self._find(index)
        return self._sources[number].present(index)

    def open(self, index: int, modality: str) -> ImageReader:
        """See :meth:`Source.open`."""
        number, index = self._find(index)
        return self._sources[number].open(index, modality)

    def read_target(self, index: int, window: Window) -> Any:
        """See :meth:`Source.read_target`."""
        number, index = self._find(index)
        return self._sources[number].read_target(index, window)

    def file(self, index: int, modality: str) -> str | None:
        """See :meth:`Source.file`."""
        number, index = self._find(index)
        return self._sources[number].file(index, modality)


def check_modalities(names: Mapping[str, object] | Sequence[str]) -> None:
    """Raise where modalities have no usable names.

    Args:
        names: The names.

    Raises:
        ValueError: If there are none, or one is empty or holds a dot or slash.
    """
    if not names:
        raise ValueError("there must be at least one modality")
    for name in names:
        if not re.fullmatch(r"[^\W.][^./\\]*", name):
            raise ValueError(f"{name!r} cannot be the name of a modality")


def common_size(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the size of images that must be of one size.

    Args:
        sizes: (height, width) by name.

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
        height: Of the image, in pixels.
        width: Likewise.
        tile: Their side. Where the image is smaller they are as small; the last of a row or column
            is moved so that it ends with the image.
    """
    rows, columns = min(tile, height), min(tile, width)
    return [
        Window(min(top, height - rows), min(left, width - columns), rows, columns)
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]
