# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: tar files of many samples, for millions of images on shared storage.

A sample's files follow each other in the tar, named ``<key>.<modality>.<suffix>``, so that the
webdataset library can stream the shards too. Beside ``shard-000000.tar`` an index,
``shard-000000.json``, says where each file begins. With it samples are read in any order, so
shuffling, splits and resuming are those of any other source.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsvheat._files import complete_file, remove_unfinished
from rsvheat.data.readers import ImageReader, open_image
from rsvheat.data.report import DataError, OnError, SampleError, Skip, SkipReport
from rsvheat.data.sources import Indices, Source, check_modalities

_FORMAT = "rsvheat shards 1"
_MANIFEST = "shards.json"

# Key, and by modality: suffix, offset and length in bytes.
_Entry: TypeAlias = tuple[str, dict[str, tuple[str, int, int]]]


class ShardSource(Source):
    """Samples in WebDataset shards on a local or mounted file system.

    Shards of :func:`write_shards` come with an index. Of others the headers are read once at
    :meth:`scan`, and the index is kept in memory.

    Args:
        folder: Where the ``.tar`` files are.
        members: The files of a sample by modality, without the key: ``{"optical": "jpg"}`` for
            ``0001.jpg``. By default a modality is what stands before the suffix: ``optical`` for
            ``0001.optical.jpg``.

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
        self._ends: NDArray[np.int64] = np.zeros(0, np.int64)
        self._scanned: dict[str, list[_Entry]] = {}  # of shards without an index
        self._loaded: OrderedDict[str, list[_Entry]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each process reads for itself."""
        return {**self.__dict__, "_loaded": OrderedDict()}

    def __str__(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def scan(self) -> list[Skip]:
        """See :meth:`Source.scan`."""
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}, for shards, is not a folder")
        known = _read_manifest(self._folder)
        names = sorted({*known, *(path.name for path in self._folder.glob("*.tar"))})
        if not names:
            raise DataError(f"{self._folder} holds no .tar file")
        skips: list[Skip] = []
        modalities = dict.fromkeys(self._members or ())
        counts: list[int] = []
        self._names, self._scanned = [], {}
        self._loaded.clear()
        for name in names:
            path = self._folder / name
            if not path.exists():
                skips.append(Skip("damaged", name, f"{path} is not there"))
                continue
            expected = known.get(name)
            if expected is None:
                self._scanned[name], problem = self._read_headers(path)
                count, found = len(self._scanned[name]), self._modalities_of(self._scanned[name])
            else:
                count, found = expected["samples"], expected["modalities"]
                size = path.stat().st_size
                problem = (
                    f"{path} has {size} of {expected['bytes']} bytes: copy it again"
                    if size != expected["bytes"]
                    else None
                )
            if problem:
                skips.append(Skip("damaged", name, problem))
            if self._members is None:
                modalities.update(dict.fromkeys(found))
            if count:
                self._names.append(name)
                counts.append(count)
        self.modalities = tuple(modalities)
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not counts:
            raise DataError(
                f"{self._folder} holds no sample"
                + (f"; {skips[0].reason}" if skips else " with the given members")
            )
        return skips

    @staticmethod
    def _modalities_of(entries: list[_Entry]) -> list[str]:
        return sorted(set().union(*(files for _, files in entries)))

    def _read_headers(self, path: Path) -> tuple[list[_Entry], str | None]:
        """Return the samples of a shard that has no index, and what is wrong with it."""
        entries: dict[str, dict[str, tuple[str, int, int]]] = {}
        problem = None
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, rest = name.partition(".")
                    modality, suffix = self._split(rest)
                    if not member.isfile() or modality is None:
                        continue
                    key = _decode(f"{folder}/{stem}" if folder else stem)
                    entries.setdefault(key, {})[modality] = (
                        suffix,
                        member.offset_data,
                        member.size,
                    )
            # tarfile takes a header that is cut short for the end.
            with path.open("rb") as file:
                file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
                if any(file.read()):
                    problem = f"{path} is damaged: it is cut short"
        except (tarfile.TarError, OSError) as error:
            problem = f"{path} is damaged: {error}"
        return list(entries.items()), problem

    def _split(self, rest: str) -> tuple[str | None, str]:
        """Return modality and suffix of a file from its name without the key."""
        if self._members is not None:
            modality = next((m for m, name in self._members.items() if name == rest), None)
            return modality, rest.rpartition(".")[2]
        modality, _, suffix = rest.rpartition(".")
        return modality or None, suffix

    @property
    def blocks(self) -> Sequence[int]:
        """See :attr:`Source.blocks`: the shards."""
        return np.diff(self._ends, prepend=0).tolist()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        """See :meth:`Source.__len__`."""
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
        entries: list[_Entry] = [
            (key, {m: (suffix, offset, size) for m, suffix, offset, size in files})
            for key, files in _read_index(self._folder / name)["samples"]
        ]
        if self._members is not None:
            names = {name: modality for modality, name in self._members.items()}
            entries = [
                (key, {names[n]: f for m, f in files.items() if (n := f"{m}.{f[0]}") in names})
                for key, files in entries
            ]
        return entries

    def key(self, index: int) -> str:
        """See :meth:`Source.key`."""
        return self._entry(index)[1][0]

    def present(self, index: int) -> tuple[str, ...]:
        """See :meth:`Source.present`."""
        return tuple(self._entry(index)[1][1])

    def open(self, index: int, modality: str) -> ImageReader:
        """See :meth:`Source.open`."""
        shard, (key, files) = self._entry(index)
        suffix, offset, size = files[modality]
        path = self._folder / shard
        name = f"{path}:{key}.{modality}.{suffix}"
        try:
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise SampleError("damaged", f"{path} cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise SampleError("damaged", f"{name} lies behind the end of the file")
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

    Files are copied as they are; tiles and images in memory are written as PNG, or as deflated
    TIFF where PNG cannot hold them; both are lossless. Each image is decoded once, so that shards
    hold no damaged file. A shard holds always the same samples, and appears when it is complete:
    what an interrupted call wrote is kept by the next, and several processes can share the work.

    Args:
        source: The data, scanned. Its tiles become samples.
        folder: Where the shards go; made if need be.
        indices: Which samples in which order; None for all.
        samples_per_shard: Samples in a shard, before damaged ones are left out.
        on_error: ``"raise"`` a DataError at the first sample that cannot be used.
        part: ``(i, n)`` writes every n-th shard from the i-th on, for n processes. When no shard is
            missing any more, ``shards.json`` is written: the folder is complete.
        progress: Called with how many shards are done, and how many there will be in this part.

    Returns:
        What was left out, of the shards that this call wrote.

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
        plan.update(source.key(int(index)).encode() + b"\0")
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
        nodata = reader.nodata
    file = source.file(index, modality)
    if file is not None:
        content = Path(file).read_bytes()
        return Path(file).suffix.lower().lstrip("."), content
    if values.dtype == np.uint8 and len(values) in (1, 3) and valid is None and nodata is None:
        import PIL.Image

        stream = io.BytesIO()
        PIL.Image.fromarray(np.moveaxis(values, 0, 2).squeeze()).save(stream, "PNG")
        return "png", stream.getvalue()
    return "tif", _tiff(values, valid, nodata)


def _tiff(values: NDArray[Any], valid: NDArray[np.bool_] | None, nodata: float | None) -> bytes:
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    if nodata is None and valid is not None and values.dtype.kind == "f":
        values, nodata, valid = np.where(valid, values, np.nan), float("nan"), None
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
                if nodata is None and valid is not None:
                    file.write_mask(valid.all(0))
            return bytes(memory.read())


def _complete(path: Path, fingerprint: str) -> bool:
    """Return whether a shard of this plan is there; raise if it is of another."""
    if not path.exists() or not path.with_suffix(".json").exists():
        return False
    index = _read_index(path)
    if index["fingerprint"] != fingerprint:
        raise DataError(f"{path} holds other data; choose an empty folder")
    return bool(path.stat().st_size == index["bytes"])


def _write_manifest(folder: Path, paths: Sequence[Path]) -> None:
    shards = []
    for path in paths:
        index = _read_index(path)
        shards.append(
            {
                "name": path.name,
                "samples": len(index["samples"]),
                "bytes": index["bytes"],
                "modalities": sorted({file[0] for _, files in index["samples"] for file in files}),
            }
        )
    with complete_file(folder / _MANIFEST) as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, "shards": shards}, indent=1) + "\n")


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _MANIFEST
    if not path.exists():
        return {}
    return {shard["name"]: shard for shard in _read_json(path)["shards"]}


def _read_index(shard: Path) -> dict[str, Any]:
    return _read_json(shard.with_suffix(".json"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path} is not an index of shards ({_FORMAT!r})")
    return content


def _escape(key: str) -> str:
    """Return a key without the dots that would end it in a tar."""
    return key.replace("%", "%25").replace(".", "%2E")


def _decode(key: str) -> str:
    return key.replace("%2E", ".").replace("%25", "%")
