# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data import images
from torch.utils.data import DataLoader

from rsvheat.data import (
    ArraySource,
    ConcatSource,
    Crop,
    DataError,
    FileSource,
    FolderSource,
    ImageDataset,
    Normalize,
    ResumableSampler,
    SampleError,
    Sensor,
    ShardSource,
    collate,
    open_image,
    write_shards,
)
from rsvheat.data.shards import _tiff

PIL = pytest.importorskip("PIL")
pytest.importorskip("PIL.Image")


def scanned(source, skips=0):
    assert len(source.scan()) == skips
    return source


def assert_same(source, other):
    """Assert that a source has the samples of another, by key."""
    assert len(source) == len(other)
    places = {source.key(index): index for index in range(len(source))}
    for index in range(len(other)):
        place = places[other.key(index)]
        assert sorted(source.present(place)) == sorted(other.present(index))
        for modality in other.present(index):
            with source.open(place, modality) as a, other.open(index, modality) as b:
                assert (a.bands, a.dtype) == (b.bands, b.dtype)
                found, expected = a.read(), b.read()
            np.testing.assert_array_equal(found.values, expected.values)
            assert (found.valid is None) == (expected.valid is None)
            if found.valid is not None:
                np.testing.assert_array_equal(found.valid.all(0), expected.valid.all(0))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_files_are_copied_into_shards_and_back(tmp_path, folders, write_tif):
    data = folders(11)
    path = Path(data["sar"], "scene004.png")
    path.unlink()
    write_tif(path.with_suffix(".tif"), np.random.default_rng(0).random((2, 16, 16)), nodata=0.5)
    source = scanned(FolderSource(data))
    report = write_shards(source, tmp_path / "shards", samples_per_shard=4)
    assert not report
    names = [f"shard-00000{n}.{suffix}" for n in range(3) for suffix in ("json", "tar")]
    assert sorted(contents(tmp_path / "shards")) == [*names, "shards.json"]
    shards = scanned(ShardSource(tmp_path / "shards"))
    assert shards.modalities == ("optical", "sar")
    assert shards.blocks == [4, 4, 3]
    assert_same(shards, source)
    with tarfile.open(tmp_path / "shards" / "shard-000001.tar") as tar:
        assert tar.getnames()[:2] == ["scene004.optical.png", "scene004.sar.tif"]
        content = tar.extractfile("scene004.sar.tif").read()
    assert content == path.with_suffix(".tif").read_bytes()


def test_the_webdataset_library_reads_them(tmp_path, folders):
    webdataset = pytest.importorskip("webdataset")
    source = scanned(FolderSource(folders(5)))
    write_shards(source, tmp_path / "shards", samples_per_shard=3)
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [source.key(i) for i in range(5)]
    for index, sample in enumerate(samples):
        with source.open(index, "optical") as reader:
            expected = reader.read().values
        np.testing.assert_array_equal(sample["optical.png"].transpose(2, 0, 1), expected)


def test_shards_of_the_webdataset_library_are_read(tmp_path, folders):
    webdataset = pytest.importorskip("webdataset")
    source = scanned(FolderSource(folders(5)))
    pattern = str(tmp_path / "foreign-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for index in range(5):
            files = {m: Path(source.file(index, m)).read_bytes() for m in ("optical", "sar")}
            writer.write(
                {
                    "__key__": f"north/{source.key(index)}",
                    "jpg": files["optical"],
                    "s1.png": files["sar"],
                    "json": b"{}",
                }
            )
    shards = scanned(ShardSource(tmp_path, {"optical": "jpg", "sar": "s1.png"}))
    assert shards.blocks == [2, 2, 1]
    assert [shards.key(index) for index in range(5)] == [f"north/scene00{n}" for n in range(5)]
    for index in range(5):
        for modality in ("optical", "sar"):
            with shards.open(index, modality) as a, source.open(index, modality) as b:
                np.testing.assert_array_equal(a.read().values, b.read().values)
    assert scanned(ShardSource(tmp_path)).modalities == ("s1",)
    assert len(pickle.loads(pickle.dumps(shards))) == 5
    with pytest.raises(DataError, match="no sample with the given members"):
        ShardSource(tmp_path, {"optical": "tif"}).scan()


def test_members_of_own_shards_can_be_renamed(tmp_path, folders):
    write_shards(scanned(FolderSource(folders(3))), tmp_path / "shards")
    shards = scanned(ShardSource(tmp_path / "shards", {"rgb": "optical.png"}))
    assert shards.modalities == ("rgb",)
    assert shards.present(0) == ("rgb",)
    with shards.open(2, "rgb") as reader:
        assert reader.bands == 3


def test_tiles_and_arrays_are_written_without_loss(tmp_path, folders):
    pytest.importorskip("rasterio")
    rng = np.random.default_rng(0)
    gaps = rng.random((1, 16, 16)).astype(np.float32)
    gaps[0, :4] = np.nan
    arrays = ArraySource(
        [
            {"optical": rng.integers(0, 9000, (4, 16, 16)).astype(np.uint16), "sar": gaps},
            {"optical": rng.integers(0, 255, (4, 16, 16)).astype(np.uint8), "sar": gaps * 1.0},
            {"dem": rng.random((1, 16, 16))},
        ]
    )
    tiles = FolderSource(folders(2, size=40), tile=16)
    source = scanned(ConcatSource([tiles, arrays]))
    assert not write_shards(source, tmp_path / "shards", samples_per_shard=7)
    shards = scanned(ShardSource(tmp_path / "shards"))
    assert shards.key(0) == "0/scene000#0_0"
    assert_same_bits(shards, source)


def assert_same_bits(shards, source):
    # A fourth band of uint8 comes back as a band, whatever it is called.
    for index in range(len(source)):
        for modality in source.present(index):
            with source.open(index, modality) as a, shards.open(index, modality) as b:
                sensor = Sensor(a.bands)
                expected, found = sensor.read(a), sensor.read(b)
            np.testing.assert_array_equal(found.values, expected.values)
            assert found.values.dtype == expected.values.dtype
            assert (found.valid is None) == (expected.valid is None)


def test_pixels_without_data_stay_so(tmp_path, folders, write_tif):
    rasterio = pytest.importorskip("rasterio")
    data = folders(2, size=40)
    values = np.random.default_rng(0).integers(0, 9, (1, 40, 40)).astype(np.uint8)
    for number, options in enumerate(({"nodata": 3}, {})):
        path = Path(data["sar"], f"scene00{number}.png")
        path.unlink()
        path = write_tif(path.with_suffix(".tif"), values, **options)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(values[0] != 5)
    source = scanned(FolderSource(data, tile=16))
    write_shards(source, tmp_path / "shards")
    shards = scanned(ShardSource(tmp_path / "shards"))
    assert_same(shards, source)
    for index, gap in ((0, 3), (9, 5)):
        with shards.open(index, "sar") as reader:
            found, valid = reader.read()
            np.testing.assert_array_equal(valid, found != gap)


def test_what_was_interrupted_goes_on_to_the_same_bytes(tmp_path, folders):
    source = scanned(FolderSource(folders(10)))
    Path(source.file(4, "sar")).write_text("damaged")
    whole = write_shards(source, tmp_path / "whole", samples_per_shard=3)
    assert [skip.key for skip in whole] == ["scene004"]

    def stop(done, total):
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(source, tmp_path / "resumed", samples_per_shard=3, progress=stop)
    assert "shards.json" not in contents(tmp_path / "resumed")
    assert len(scanned(ShardSource(tmp_path / "resumed"))) == 5  # usable before it is complete
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "resumed").glob("*.tar")}
    (tmp_path / "resumed" / ".unfinished-killed").mkdir()
    steps = []
    write_shards(
        source, tmp_path / "resumed", samples_per_shard=3, progress=lambda *s: steps.append(s)
    )
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert scanned(ShardSource(tmp_path / "whole")).blocks == [3, 2, 3, 1]


def test_an_error_leaves_no_half_shard(tmp_path, folders):
    source = scanned(FolderSource(folders(6)))
    Path(source.file(4, "sar")).write_text("damaged")
    with pytest.raises(DataError, match=r"scene004.png is not an image \(sample scene004\)"):
        write_shards(source, tmp_path / "shards", samples_per_shard=3, on_error="raise")
    assert sorted(contents(tmp_path / "shards")) == ["shard-000000.json", "shard-000000.tar"]


def test_several_processes_share_the_work(tmp_path, folders):
    source = scanned(FolderSource(folders(10)))
    write_shards(source, tmp_path / "whole", samples_per_shard=3)
    for part in range(3):
        assert "shards.json" not in contents(tmp_path / "shared") if part else True
        write_shards(source, tmp_path / "shared", samples_per_shard=3, part=(part, 3))
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


def test_shards_of_other_data_are_not_mixed(tmp_path, folders):
    source = scanned(FolderSource(folders(4)))
    write_shards(source, tmp_path / "shards")
    for other, options in (
        (scanned(FolderSource(folders(5, name="other"))), {}),
        (source, {"samples_per_shard": 2}),
    ):
        with pytest.raises(DataError, match=r"holds other data; choose an empty folder"):
            write_shards(other, tmp_path / "shards", **options)
    (tmp_path / "shards" / "mine.tar").touch()
    with pytest.raises(DataError, match=r"holds other shards, mine.tar"):
        write_shards(source, tmp_path / "shards")
    for options in ({"samples_per_shard": 0}, {"part": (2, 2)}):
        with pytest.raises(ValueError, match="must be"):
            write_shards(source, tmp_path / "new", **options)


def test_truncated_and_missing_shards_are_named(tmp_path, folders):
    source = scanned(FolderSource(folders(6)))
    folder = tmp_path / "shards"
    write_shards(source, folder, samples_per_shard=2)
    (folder / "shard-000000.tar").unlink()
    cut = folder / "shard-000001.tar"
    cut.write_bytes(cut.read_bytes()[:2000])
    shards = ShardSource(folder)
    missing, truncated = shards.scan()
    assert "shard-000000.tar is not there" in missing.reason
    assert "shard-000001.tar has 2000 of " in truncated.reason
    assert len(shards) == 4
    shards.open(0, "optical").close()
    with pytest.raises(SampleError, match=r"shard-000001.tar:scene003.sar.png lies behind the end"):
        shards.open(1, "sar")
    # The same without an index.
    for path in folder.glob("*.json"):
        path.unlink()
    shards = ShardSource(folder)
    (skip,) = shards.scan()
    assert skip.kind == "damaged"
    assert "shard-000001.tar is damaged" in skip.reason
    assert {shards.key(index) for index in range(len(shards))} >= {"scene004", "scene005"}


def test_what_is_no_shard_is_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        ShardSource(tmp_path / "none").scan()
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        ShardSource(tmp_path).scan()
    (tmp_path / "a.tar").write_text("text")
    with pytest.raises(DataError, match=r"holds no sample; .*a.tar is damaged"):
        ShardSource(tmp_path).scan()
    for text, message in (("{", "is damaged"), ("{}", "is not an index of shards")):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(DataError, match=message):
            ShardSource(tmp_path).scan()


def test_dots_in_keys_survive(tmp_path, folders):
    data = folders(1)
    for modality in data:
        path = Path(data[modality], "scene000.png")
        path.rename(path.with_name("S2.v1%2E_x.png"))
    source = scanned(FolderSource(data))
    assert source.key(0) == "S2.v1%2E_x"
    write_shards(source, tmp_path / "shards")
    assert_same(scanned(ShardSource(tmp_path / "shards")), source)
    for path in (tmp_path / "shards").glob("*.json"):
        path.unlink()
    assert_same(scanned(ShardSource(tmp_path / "shards")), source)


def test_samples_of_shards_are_those_of_the_folder_for_any_number_of_workers(tmp_path, folders):
    source = scanned(FolderSource(folders(13)))
    write_shards(source, tmp_path / "shards", samples_per_shard=3)
    plain = Normalize("fixed", low=0, high=255)
    sensors = {"optical": Sensor(3), "sar": Sensor(1)}
    normalizers = {"optical": plain.resolve(3), "sar": plain.resolve(1)}
    shards = scanned(ShardSource(tmp_path / "shards"))
    folder = ImageDataset(source, sensors, normalizers, Crop(8, 8))
    packed = ImageDataset(shards, sensors, normalizers, Crop(8, 8))
    for index in range(13):
        assert torch.equal(folder[index]["images"]["optical"], packed[index]["images"]["optical"])
    assert packed.blocks == [3, 3, 3, 3, 1]
    part = ImageDataset(shards, sensors, normalizers, Crop(8, 8), indices=[0, 1, 4, 6, 12])
    assert part.blocks == [2, 1, 1, 1]
    assert folder.blocks == []

    def keys(workers):
        sampler = ResumableSampler(13, 4, blocks=packed.blocks, mix_blocks=2)
        loader = DataLoader(packed, 4, sampler=sampler, num_workers=workers, collate_fn=collate)
        return [batch["keys"] for batch in loader]

    assert keys(0) == keys(2)


def test_manifests_count(tmp_path, folders):
    write_shards(scanned(FolderSource(folders(5))), tmp_path / "shards", samples_per_shard=3)
    content = json.loads((tmp_path / "shards" / "shards.json").read_text())
    assert [shard["samples"] for shard in content["shards"]] == [3, 2]
    assert content["shards"][0]["modalities"] == ["optical", "sar"]


# Damaged shards and indices.


def foreign(folder, count=4):
    """Write a shard without an index; return its path and where its headers are."""
    path = folder / "foreign.tar"
    headers = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            content = io.BytesIO()
            PIL.Image.fromarray(np.full((8, 8), number, np.uint8)).save(content, "PNG")
            member = tarfile.TarInfo(f"{number:04}.optical.png")
            member.size = len(content.getvalue())
            headers.append(tar.offset)
            content.seek(0)
            tar.addfile(member, content)
        end = tar.offset
    return path, headers, end


def test_one_flipped_bit_in_any_header_is_damage(tmp_path):
    path, headers, _ = foreign(tmp_path)
    content = path.read_bytes()
    assert ShardSource(tmp_path).scan() == []
    flips = np.random.default_rng(0).integers(0, 8 * tarfile.BLOCKSIZE, 60)
    for header in headers:
        for flip in flips.tolist():
            damaged = bytearray(content)
            damaged[header + flip // 8] ^= 1 << flip % 8
            path.write_bytes(damaged)
            shards = ShardSource(tmp_path)
            if header == 0:
                with pytest.raises(DataError, match=r"foreign.tar is damaged"):
                    shards.scan()
                continue
            skip, *_ = shards.scan()
            assert skip.kind == "damaged"
            assert (
                f"foreign.tar is damaged: its header at byte {header} is not valid" in skip.reason
            )
            assert len(shards) == headers.index(header)


def test_shards_that_end_early_or_late_are_named(tmp_path):
    path, headers, end = foreign(tmp_path)
    content = path.read_bytes()
    for size, problem in (
        (end, "cut short"), (end + 100, "cut short"), (headers[2] + 100, "cut short"),
        (headers[2], "cut short"), (headers[2] + 600, "unexpected end of data"),
    ):  # fmt: skip
        path.write_bytes(content[:size])
        (skip,) = ShardSource(tmp_path).scan()
        assert f"foreign.tar is damaged: {problem}" in skip.reason.replace("it is ", "")
    path.write_bytes(content + content)
    shards = ShardSource(tmp_path)
    (skip,) = shards.scan()
    assert "has more after its end, which is not read" in skip.reason
    assert len(shards) == 4
    path.write_bytes(content[: end + 2 * tarfile.BLOCKSIZE])  # without padding
    assert ShardSource(tmp_path).scan() == []


def test_members_of_other_kinds_are_named(tmp_path):
    path, _, _ = foreign(tmp_path, 1)
    with tarfile.open(path) as tar:
        image = tar.extractfile("0000.optical.png").read()

    def member(name, kind=tarfile.REGTYPE, content=b"", link=""):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, link, len(content)
        return entry, io.BytesIO(content)

    with tarfile.open(path, "w") as tar:
        for entry, content in (
            member("a.optical.png", content=image),
            member("b.optical.png", tarfile.LNKTYPE, link="a.optical.png"),
            member("c.optical.png", tarfile.SYMTYPE, link="a.optical.png"),
            member("d.optical.png", tarfile.LNKTYPE, link="nothing.png"),
            member("a.optical.jpg", content=image),
            member("a.optical.json", content=b"{}"),
            member("a.cls", content=b"1"),
            member("._a.optical.png", content=b"AppleDouble"),
            member("__MACOSX/a.optical.png", content=b"AppleDouble"),
            member("folder", tarfile.DIRTYPE),
            member(os.fsdecode(b"\xe9.optical.png"), content=image),
        ):
            tar.addfile(entry, content)
    shards = ShardSource(tmp_path)
    reasons = [skip.reason for skip in shards.scan()]
    assert [shards.key(index) for index in range(len(shards))] == ["a", "b"]
    assert shards.modalities == ("optical",)
    for index in range(2):
        with shards.open(index, "optical") as reader:
            assert reader.read().values.shape == (1, 8, 8)
    assert reasons == [
        f"{path}: c.optical.png is no ordinary file",
        f"{path}: d.optical.png is no ordinary file",
        f"{path}: a.optical.jpg: a.optical.png has the same name, and is used",
        rf"{path}: \udce9.optical.png: its name is not UTF-8",
    ]


def changed(content, *path, value):
    """Return a copy of JSON content with another value somewhere."""
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def used(folder):
    """Read all of a folder of shards; return the error, or what was skipped."""
    shards = ShardSource(folder)
    try:
        skips = shards.scan()
        for index in range(len(shards)):
            shards.key(index)
            for modality in shards.present(index):
                shards.open(index, modality).close()
    except DataError as error:
        return str(error)
    return "".join(skip.reason for skip in skips)


WRONG = [KeyError, None, True, -1, 2**70, 1e300, "text", [], [1], {}, [[]], [None], [[1, 2]]]


def test_an_index_that_names_a_modality_twice_is_damaged(tmp_path, folders):
    """Otherwise the sample would have one modality without a word."""
    write_shards(scanned(FolderSource(folders(2))), tmp_path / "shards")
    path = tmp_path / "shards" / "shard-000000.json"
    path.write_text(path.read_text().replace('"optical"', '"sar"'))
    assert "damaged: a sample has two files of 'sar'" in used(tmp_path / "shards")


@pytest.mark.parametrize("value", WRONG, ids=str)
def test_indices_of_wrong_content_are_one_error_that_names_the_file(tmp_path, folders, value):
    folder = tmp_path / "shards"
    write_shards(scanned(FolderSource(folders(4))), folder, samples_per_shard=2)
    places = {
        "shard-000000.json": [
            ("fingerprint",), ("bytes",), ("samples",), ("samples", 0), ("samples", 0, 0),
            ("samples", 0, 1), ("samples", 0, 1, 0), ("samples", 0, 1, 0, 0),
            ("samples", 0, 1, 0, 1), ("samples", 0, 1, 0, 2), ("samples", 0, 1, 0, 3),
        ],
        "shards.json": [
            ("shards",), ("shards", 0), ("shards", 0, "name"), ("shards", 0, "samples"),
            ("shards", 0, "bytes"), ("shards", 0, "modalities"), ("shards", 0, "modalities", 0),
        ],
    }  # fmt: skip
    for name, paths in places.items():
        path = folder / name
        content = json.loads(path.read_text())
        for place in paths:
            other = changed(content, *place, value=value)
            if other == content:
                continue
            path.write_text(json.dumps(other))
            told = used(folder)
            # Other names, no modalities, and fewer files or shards are possible.
            possible = place[-1] in {
                "text": (0, 1, "fingerprint"), "[]": ("modalities", "shards"), str(KeyError): (0,),
            }.get(str(value), ())  # fmt: skip
            assert told or possible, (place, value)
            assert not told or name in told or "shard-000000" in told
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is damaged: maximum recursion"),
        ("\0", "is damaged"),
        ('{"format": "rsvheat shards 1", "shards": [{"name": "../a.tar", "samples": 1}]}',
         r"is damaged: '../a.tar' is not the name of a shard"),
        ('{"format": "rsvheat shards 1"}', "is damaged: it has no entry 'shards'"),
        ('{"format": "rsvheat shards 1", "shards": ' + "9" * 5000 + "}", "is damaged"),
        ("[]", "is not an index of shards"),
    ],
)  # fmt: skip
def test_manifests_of_strangers_are_one_error(tmp_path, text, message):
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(DataError, match=f"shards.json {message}") as caught:
        ShardSource(tmp_path).scan()
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_folders_named_as_an_index(tmp_path, folders):
    folder = tmp_path / "shards"
    write_shards(scanned(FolderSource(folders(2))), folder)
    for path in folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    shards = scanned(ShardSource(folder))
    assert shards.key(1) == "scene001"
    (folder / "shard-000000.json").unlink()
    (folder / "shard-000000.json").mkdir()
    with pytest.raises(DataError, match=r"shard-000000.json cannot be read: Is a directory"):
        scanned(ShardSource(folder)).key(0)


def test_an_index_and_a_manifest_that_disagree_are_named(tmp_path, folders):
    folder = tmp_path / "shards"
    write_shards(scanned(FolderSource(folders(3))), folder)
    path = folder / "shard-000000.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(changed(content, "samples", value=content["samples"][:2])))
    with pytest.raises(DataError, match=r"000000.json has 2 samples, and .*shards.json says 3"):
        scanned(ShardSource(folder)).key(2)


# What is written.


def test_masks_that_lie_beside_files_are_in_shards(tmp_path, write_png, write_tif):
    """Copied files would lose them."""
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(1, 255, (3, 16, 16)).astype(np.uint8)
    data = values[0] > 100
    write_png(tmp_path / "in" / "a.png", np.where(data, values, 0))
    band = '<PAMRasterBand band="{}"><NoDataValue>0</NoDataValue></PAMRasterBand>'
    (tmp_path / "in" / "a.png.aux.xml").write_text(
        f"<PAMDataset>{''.join(map(band.format, (1, 2, 3)))}</PAMDataset>"
    )
    path = write_tif(tmp_path / "in" / "b.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(data)
    source = scanned(FolderSource({"optical": tmp_path / "in"}))
    write_shards(source, tmp_path / "shards")
    shards = scanned(ShardSource(tmp_path / "shards"))
    for index in range(2):
        with shards.open(index, "optical") as reader:
            found, valid = reader.read()
        np.testing.assert_array_equal(np.broadcast_to(valid, found.shape), [data] * 3)
        np.testing.assert_array_equal(found[:, data], values[:, data])


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]
)
@pytest.mark.parametrize("per_band", [False, True])
def test_tiles_keep_what_is_valid_whatever_says_so(tmp_path, write_tif, dtype, per_band):
    """A nodata value and alpha, or a nodata value of each band."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (3, 20, 30)).astype(dtype)
    alpha = rng.integers(0, 2, (1, 20, 30)).astype(dtype)
    if per_band:
        tif = write_tif(tmp_path / "image.tif", values)
        names = {"uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16",
                 "int32": "Int32", "float32": "Float32", "float64": "Float64"}  # fmt: skip
        bands = [
            f"{names[dtype]} <NoDataValue>{n}</NoDataValue>{images.source(tif, n)}"
            for n in (1, 2, 3)
        ]
        path = images.vrt(tmp_path / "image.vrt", 20, 30, *bands)
        expected = values != np.array([1, 2, 3])[:, None, None]
    else:
        path = write_tif(
            tmp_path / "image.tif", np.concatenate([values, alpha]), nodata=7,
            photometric="rgb", alpha="yes",
        )  # fmt: skip
        expected = (values != 7) & (alpha > 0)
    write_shards(FileSource([("a", {"optical": str(path)})]), tmp_path / "copied")
    with open_image(path) as reader:
        pixels = reader.read()
    content = _tiff(*pixels, 7.0)
    with open_image(content) as reader:
        found, valid = reader.read()
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(found[valid], values[expected])
    assert found.dtype == dtype
    with scanned(ShardSource(tmp_path / "copied")).open(0, "optical") as reader:
        np.testing.assert_array_equal(reader.read().valid, expected)


def test_images_of_one_row_or_column_and_half_precision_are_written(tmp_path):
    arrays = [
        {"optical": np.arange(9, dtype=np.uint8).reshape(1, 1, 9)},
        {"optical": np.arange(9, dtype=np.uint8).reshape(1, 9, 1)},
        {"optical": np.arange(27, dtype=np.uint8).reshape(3, 1, 9)},
        {"optical": np.arange(9, dtype=np.float16).reshape(1, 3, 3)},
    ]
    write_shards(ArraySource(arrays), tmp_path / "shards")
    shards = scanned(ShardSource(tmp_path / "shards"))
    for index, array in enumerate(arrays):
        with shards.open(index, "optical") as reader:
            np.testing.assert_array_equal(reader.read().values, array["optical"])


def test_number_signs_in_names_are_no_tiles_of_shards(tmp_path, write_png):
    for name in ("scene #1", "scene #2", "north#1_2", "north#1_3"):
        write_png(tmp_path / "in" / f"{name}.png", np.zeros((8, 12), np.uint8))
    for tile in (None, 8):
        source = scanned(FolderSource({"optical": tmp_path / "in"}, tile=tile))
        folder = tmp_path / f"shards{tile}"
        write_shards(source, folder)
        for path in (None, *folder.glob("*.json")):
            if path is not None:
                path.unlink()
        shards = scanned(ShardSource(folder))
        assert len(shards) == len(source)
        assert [shards.group(i) for i in range(len(shards))] == [
            source.group(i) for i in range(len(source))
        ]
