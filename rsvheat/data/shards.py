# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: tar files of many samples, for millions of images on shared storage.

A sample's files follow each other in the tar, named ``<key>.<modality>.<suffix>``, so that the
webdataset library can stream the shards too. Beside ``shard-000000.tar`` an index,
``shard-000000.json``, says where each file begins. With it samples are read in any order, so
shuffling, splits and resuming work as for any other source.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsvheat._files import complete_file, remove_unfinished
from rsvheat.data.readers import EXTENSIONS, ImageReader, open_image
from rsvheat.data.skip_report import (
    DataError,
    OnError,
    SampleError,
    Skip,
    SkipReport,
    is_unicode,
    printable,
)
from rsvheat.data.sources import NO_IMAGES, Indices, Source, check_modalities, without_tile

_FORMAT = "rsvheat shards 1"
_MANIFEST = "shards.json"

# Key, and by modality: suffix, offset and length in bytes.
_Entry: TypeAlias = tuple[str, dict[str, tuple[str, int, int]]]


class ShardSource(Source):
    """Samples in WebDataset shards on a local or mounted file system.

    Shards of ``write_shards`` have an index. For others, ``scan`` reads the headers once
    and keeps the index in memory.

    Args:
        folder: Folder of the ``.tar`` files.
        members: Name of the file of a sample by modality, without the key: ``{"optical": "jpg"}``
            for ``0001.jpg``. By default the modality of an image is the part of its name before the
            suffix: ``optical`` for ``0001.optical.jpg``.

    Raises:
        ValueError: If ``members`` has no usable names.
    """

    def __init__(
        self, folder: str | os.PathLike[str], members: Mapping[str, str] | None = None
    ) -> None:
        if members is not None:
            check_modalities(members)
        self._folder, self._members = Path(folder), None if members is None else dict(members)
        self.modalities = tuple(members or ())
        self._names: list[str] = []
        self._counts: dict[str, int] = {}
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)
        self._scanned: dict[str, list[_Entry]] = {}  # of shards without an index
        self._loaded: OrderedDict[str, list[_Entry]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the indices, which each process reads for itself."""
        return {**self.__dict__, "_loaded": OrderedDict()}

    def __str__(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}, for shards, is not a folder")
        known = _read_manifest(self._folder)
        names = sorted({*known, *(path.name for path in self._folder.glob("*.tar"))})
        if not names:
            raise DataError(f"{self._folder} holds no .tar file")
        skips: list[Skip] = []
        modalities = dict.fromkeys(self._members or ())
        self._counts, self._scanned = {}, {}
        self._loaded.clear()
        for name in names:
            path = self._folder / name
            if not path.exists():
                skips.append(Skip("damaged", name, f"{path} is not there"))
                continue
            expected = known.get(name)
            if expected is None:
                self._scanned[name], problems = self._read_headers(path)
                count, found = len(self._scanned[name]), self._modalities_of(self._scanned[name])
            else:
                count, found, problems = expected.samples, expected.modalities, []
                size = path.stat().st_size
                if size != expected.bytes:
                    problems = [f"{path} has {size} of {expected.bytes} bytes: copy it again"]
            skips += [Skip("damaged", name, printable(problem)) for problem in problems]
            if self._members is None:
                modalities.update(dict.fromkeys(found))
            if count:
                self._counts[name] = count
        self._names = list(self._counts)
        self.modalities = tuple(modalities)
        self._ends = np.cumsum(list(self._counts.values()), dtype=np.int64)
        if not self._counts:
            raise DataError(
                f"{self._folder} holds no sample"
                + (f"; {skips[0].reason}" if skips else " with the given members")
            )
        return skips

    @staticmethod
    def _modalities_of(entries: list[_Entry]) -> list[str]:
        return sorted(set().union(*(files for _, files in entries)))

    def _read_headers(self, path: Path) -> tuple[list[_Entry], list[str]]:
        """Return the samples of a shard that has no index, and what is wrong with it."""
        entries: dict[str, dict[str, tuple[str, int, int]]] = {}
        problems: list[str] = []
        contents: dict[str, tuple[int, int]] = {}  # for hard links
        try:
            with tarfile.open(path, "r:") as tar:
                end = 0
                for member in tar:
                    if member.size < 0 or member.offset < end:
                        raise tarfile.ReadError(f"{member.name} has a negative size")
                    end = member.offset_data
                    place = (member.offset_data, member.size)
                    if member.isfile():
                        contents[member.name] = place
                    elif member.islnk():
                        place = contents.get(member.linkname, (0, 0))
                    problem = self._enter(entries, member, place)
                    if problem is not None:
                        problems.append(f"{path}: {problem}")
                end = tar.offset
            problem = _ending(path, end)
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            problem = f"is damaged: {error}"
        if problem is not None:
            problems.insert(0, f"{path} {problem}")
        return list(entries.items()), problems

    def _enter(
        self,
        entries: dict[str, dict[str, tuple[str, int, int]]],
        member: tarfile.TarInfo,
        place: tuple[int, int],
    ) -> str | None:
        """Put a member among the samples, if it is an image; return why it cannot be used."""
        folder, _, name = member.name.rpartition("/")
        stem, _, rest = name.partition(".")
        modality, suffix = self._split(rest)
        hidden = not stem or any(part in NO_IMAGES for part in folder.split("/"))
        if member.isdir() or modality is None or hidden:
            return None
        if not (member.isfile() or member.islnk()) or member.issparse() or not place[0]:
            return f"{member.name} is no ordinary file"
        key = _decode(f"{folder}/{stem}" if folder else stem)
        if not is_unicode(key):
            return f"{member.name}: its name is not UTF-8"
        files = entries.setdefault(key, {})
        known = files.get(modality)
        # As in tar, a later file of the same name replaces an earlier one.
        if known is not None and known[0] != suffix:
            return f"{member.name}: {key}.{modality}.{known[0]} has the same name, and is used"
        files[modality] = (suffix, *place)
        return None

    def _split(self, rest: str) -> tuple[str | None, str]:
        """Return modality and suffix of a file from its name without the key."""
        if self._members is not None:
            modality = next((m for m, name in self._members.items() if name == rest), None)
            return modality, rest.rpartition(".")[2]
        modality, _, suffix = rest.rpartition(".")
        is_image = f".{suffix.lower()}" in EXTENSIONS
        return (modality or None) if is_image else None, suffix

    @property
    def blocks(self) -> Sequence[int]:
        """See ``Source.blocks``: the shards."""
        return np.diff(self._ends, prepend=0).tolist()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def _entry(self, index: int) -> tuple[str, _Entry]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index} among {len(self)}")
        shard = int(np.searchsorted(self._ends, index, "right"))
        name = self._names[shard]
        entries = self._scanned.get(name) or self._loaded.get(name)
        if entries is None:
            entries = self._loaded[name] = self._load(name)
            if len(self._loaded) > 64:
                self._loaded.popitem(last=False)
        return name, entries[index - int(self._ends[shard])]  # from the shard's end backwards

    def _load(self, name: str) -> list[_Entry]:
        path = self._folder / name
        entries = _read_index(path).samples
        if len(entries) != self._counts[name]:
            raise DataError(
                f"{path.with_suffix('.json')} has {len(entries)} samples, and "
                f"{self._folder / _MANIFEST} says {self._counts[name]}: copy both again"
            )
        if self._members is not None:
            names = {name: modality for modality, name in self._members.items()}
            entries = [
                (key, {names[n]: f for m, f in files.items() if (n := f"{m}.{f[0]}") in names})
                for key, files in entries
            ]
        return entries

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return self._entry(index)[1][0]

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return tuple(self._entry(index)[1][1])

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        shard, (key, files) = self._entry(index)
        suffix, offset, size = files[modality]
        path = self._folder / shard
        name = f"{path}:{key}.{modality}.{suffix}"
        try:
            with path.open("rb") as file:
                if offset + size > os.fstat(file.fileno()).st_size:
                    raise SampleError("damaged", f"{name} lies behind the end of the file")
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise SampleError("damaged", f"{path} cannot be read: {error.strerror}") from None
        return open_image(content, name)


def write_shards(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    indices: Indices | None = None,
    samples_per_shard: int = 1000,
    on_error: OnError = "skip",
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> SkipReport:
    """Write samples into WebDataset shards.

    Image files are copied as they are. Tiles, images in memory and images whose mask is in another
    file are written as PNG, or as deflated TIFF where PNG cannot hold them; both are lossless. Each
    image is decoded once, so that shards hold no damaged file. A shard always holds the same
    samples, and appears when it is complete: the next call keeps the shards of an interrupted one,
    and several processes can share the work.

    Args:
        source: Data to write, scanned. Its tiles become samples.
        folder: Folder of the shards; created if it does not exist.
        indices: Positions of the samples to write, in this order; None for all.
        samples_per_shard: Number of samples in a shard, before damaged ones are left out.
        on_error: ``"raise"`` a DataError at the first sample that cannot be used, or ``"skip"`` it.
        part: ``(i, n)`` writes every n-th shard from the i-th on, for n processes. When no shard is
            missing any more, ``shards.json`` is written: the folder is complete.
        progress: Function that is called with the number of shards that are done, and of all shards
            of this part.

    Returns:
        The samples that were left out of the shards that this call wrote.

    Raises:
        DataError: If the folder holds shards of other data.
        ValueError: If an argument is not as above.
        OSError: If a file cannot be written.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (i, n) with 0 <= i < n, got {part}")
    chosen = range(len(source)) if indices is None else indices
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if part == (0, 1):  # no other process is at work
        remove_unfinished(folder)
    plan = hashlib.sha256(str(samples_per_shard).encode())
    for index in chosen:
        plan.update(os.fsencode(source.key(int(index))) + b"\0")
    fingerprint = plan.hexdigest()
    starts = range(0, len(chosen), samples_per_shard)
    paths = [folder / f"shard-{number:06}.tar" for number in range(len(starts))]
    others = sorted(set(folder.glob("*.tar")) - set(paths))
    if others:
        raise DataError(f"{folder} holds other shards, {others[0].name}; choose an empty folder")
    report = SkipReport()
    mine = range(part[0], len(paths), part[1])
    for done, number in enumerate(mine):
        if progress:
            progress(done, len(mine))
        if not _complete(paths[number], fingerprint):
            samples = chosen[starts[number] : starts[number] + samples_per_shard]
            _write_shard(source, samples, paths[number], fingerprint, on_error, report)
    if progress:
        progress(len(mine), len(mine))
    if all(_complete(path, fingerprint) for path in paths):
        _write_manifest(folder, paths)
    return report


def _write_shard(
    source: Source,
    indices: Indices,
    path: Path,
    fingerprint: str,
    on_error: OnError,
    report: SkipReport,
) -> None:
    samples = []
    with complete_file(path) as temporary, tarfile.open(temporary, "w") as tar:
        for index in map(int, indices):
            key = source.key(index)
            try:
                files = {m: _encode(source, index, m) for m in source.present(index)}
            except SampleError as error:
                if on_error == "raise":
                    raise DataError(f"{error.reason} (sample {key})") from error
                report.add([Skip(error.kind, key, error.reason)])
                continue
            if without_tile(key) != source.group(index):
                key += "#0_0"  # an image whose name ends as that of a tile
            places = []
            for modality, (suffix, content) in files.items():
                member = tarfile.TarInfo(f"{_escape(key)}.{modality}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                # The header's length depends on the name's; the file's end is where it ends.
                blocks = -(-len(content) // tarfile.BLOCKSIZE)
                places.append(
                    (modality, suffix, tar.offset - blocks * tarfile.BLOCKSIZE, len(content))
                )
            samples.append((key, places))
    index_file = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "bytes": path.stat().st_size,
        "samples": samples,
    }
    with complete_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(index_file) + "\n")


def _encode(source: Source, index: int, modality: str) -> tuple[str, bytes]:
    """Return suffix and content of an image file."""
    with source.open(index, modality) as reader:
        values, valid = reader.read()
        nodata, complete = reader.nodata, reader.complete
    file = source.file(index, modality)
    if file is not None and complete and Path(file).suffix.lower() in EXTENSIONS:
        content = Path(file).read_bytes()
        return Path(file).suffix.lower().lstrip("."), content
    if values.dtype == np.uint8 and len(values) in (1, 3) and valid is None and nodata is None:
        import PIL.Image

        stream = io.BytesIO()
        image = values[0] if len(values) == 1 else np.moveaxis(values, 0, 2)
        PIL.Image.fromarray(image).save(stream, "PNG")
        return "png", stream.getvalue()
    return "tif", _tiff(values, valid, nodata)


def _tiff(values: NDArray[Any], valid: NDArray[np.bool_] | None, nodata: float | None) -> bytes:
    """Return the content of a TIFF, whose masked pixels are those that are not valid."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    if values.dtype == np.float16:  # GDAL has no such type before 3.11
        values = values.astype(np.float32)
    mask = None
    if valid is not None and values.dtype.kind == "f":
        values, nodata = np.where(valid, values, values.dtype.type(np.nan)), float("nan")
    elif valid is not None:
        valid = np.broadcast_to(valid, values.shape)
        nodata = None
        if (valid == valid[:1]).all():
            mask = valid[0]
        else:
            unused = _unused(values, valid)
            if unused is None:
                mask = valid.all(0)
            else:
                values, nodata = np.where(valid, values, unused), float(unused)
    elif nodata is not None and not _holds(values.dtype, nodata):
        nodata = None
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                count=len(values),
                height=values.shape[1],
                width=values.shape[2],
                dtype=values.dtype,
                nodata=nodata,
                compress="deflate",
                predictor=3 if values.dtype.kind == "f" else 2,
                photometric="minisblack",  # with RGB a fourth band would become alpha
                alpha="unspecified",
            ) as file:
                file.write(values)
                if mask is not None:
                    file.write_mask(mask)
            return bytes(memory.read())


def _unused(values: NDArray[Any], valid: NDArray[np.bool_]) -> np.integer[Any] | None:
    """Return an integer that no valid pixel has, and that a float holds; None without such."""
    used = np.unique(values[valid])
    limits = np.iinfo(values.dtype)
    candidates = np.arange(max(limits.min, -(2**16)), min(limits.max, 2**16) + 1)
    free = np.setdiff1d(candidates, used)
    return values.dtype.type(free[0]) if len(free) else None


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Return whether a type has a value."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max


def _complete(path: Path, fingerprint: str) -> bool:
    """Return whether a shard of this plan is there; raise if it is of another."""
    if not path.exists() or not path.with_suffix(".json").exists():
        return False
    index = _read_index(path)
    if index.fingerprint != fingerprint:
        raise DataError(f"{path} holds other data; choose an empty folder")
    return path.stat().st_size == index.bytes


def _write_manifest(folder: Path, paths: Sequence[Path]) -> None:
    shards = []
    for path in paths:
        index = _read_index(path)
        shards.append(
            {
                "name": path.name,
                "samples": len(index.samples),
                "bytes": index.bytes,
                "modalities": sorted({name for _, files in index.samples for name in files}),
            }
        )
    with complete_file(folder / _MANIFEST) as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, "shards": shards}, indent=1) + "\n")


class _Shard(NamedTuple):
    """Entry of the manifest."""

    samples: int
    bytes: int
    modalities: list[str]


class _Index(NamedTuple):
    """Content of the index of a shard."""

    fingerprint: str
    bytes: int
    samples: list[_Entry]


def _read_manifest(folder: Path) -> dict[str, _Shard]:
    path = folder / _MANIFEST
    if not path.exists():
        return {}
    shards: dict[str, _Shard] = {}
    with _read_json(path) as content:
        for shard in _list(content["shards"]):
            name = _text(shard["name"])
            if name != os.path.basename(name) or not name.endswith(".tar"):
                raise ValueError(f"{name!r} is not the name of a shard")
            shards[name] = _Shard(
                _number(shard["samples"]),
                _number(shard["bytes"]),
                [_text(modality) for modality in _list(shard["modalities"])],
            )
    return shards


def _read_index(shard: Path) -> _Index:
    with _read_json(shard.with_suffix(".json")) as content:
        index = _Index(
            _text(content["fingerprint"]),
            _number(content["bytes"]),
            [
                (
                    _text(key),
                    _members(
                        (_text(m), (_text(s), _number(o), _number(n)))
                        for m, s, o, n in _list(files)
                    ),
                )
                for key, files in map(_list, _list(content["samples"]))
            ],
        )
        for key, files in index.samples:
            if not files:
                raise ValueError(f"{key!r} has no files")
            if any(offset + size > index.bytes for _, offset, size in files.values()):
                raise ValueError(f"{key!r} lies behind the end of the shard")
        if len({key for key, _ in index.samples}) != len(index.samples):
            raise ValueError("two samples have the same key")
    return index


@contextmanager
def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    """Give the content of a JSON file, and turn the errors of using it into DataError."""
    try:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise DataError(f"{path} is not there") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise DataError(f"{path} is not an index of shards ({_FORMAT!r})")
        yield content
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path} is damaged: it has no entry {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {printable(str(error))}") from error


def _members(pairs: Iterable[tuple[str, tuple[str, int, int]]]) -> dict[str, tuple[str, int, int]]:
    members: dict[str, tuple[str, int, int]] = {}
    for modality, member in pairs:
        if modality in members:
            raise ValueError(f"a sample has two files of {modality!r}")
        members[modality] = member
    return members


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:60]!r} is where a list should be")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is where a text should be")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise TypeError(f"{str(value)[:60]} is where a number of bytes or samples should be")
    return value


def _ending(path: Path, end: int) -> str | None:
    """Return what is wrong after the last member of a tar; None if it ends as it should.

    tarfile takes a damaged header for the end.
    """
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            return "is damaged: it is cut short"
        if any(block):
            return f"is damaged: its header at byte {end} is not valid, the rest is not read"
        while block := file.read(2**20):
            if any(block):
                return "has more after its end, which is not read: was it made by cat of others?"
    return None


def _escape(key: str) -> str:
    """Return a key without dots, which would end it in a tar."""
    return key.replace("%", "%25").replace(".", "%2E")


def _decode(key: str) -> str:
    return key.replace("%2E", ".").replace("%25", "%")
