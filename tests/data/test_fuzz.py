# SPDX-License-Identifier: Apache-2.0
"""Damaged images, shards and indices end in one error that names the file, whatever the damage.

Inputs are small files that are changed at random from fixed seeds: bits are flipped, parts cut out,
doubled or replaced, and checksums put right at times, so that what is behind them is reached.
``RSVHEAT_FUZZ=1000`` makes a thousand times as many.
"""

import io
import json
import os
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pytest
from data.images import png

pytest.importorskip("PIL")
pytest.importorskip("rasterio")

import PIL.Image
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning

from rsvheat.data import (
    DataError,
    FolderSource,
    SampleError,
    ShardSource,
    Window,
    image_reader,
    open_image,
    write_shards,
)
from rsvheat.data.places import Places

# rasterio cannot log messages of GDAL that hold bytes of a damaged file.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROUNDS = 30 * int(os.environ.get("RSVHEAT_FUZZ", "1"))


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch):
    """Damaged headers ask for gigabytes; the answer is the same with less."""
    monkeypatch.setattr(image_reader, "_memory", lambda: 2**26)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 2**18)


def picture(channels=3, dtype=np.uint8, side=24):
    rng = np.random.default_rng(channels)
    smooth = np.add.outer(np.arange(side), np.arange(side)) * 4
    values = smooth + rng.integers(0, 20, (channels, side, side))
    return values.astype(dtype)


def pillow(kind, channels=3, **options):
    values = picture(channels)
    image = PIL.Image.fromarray(values[0] if channels == 1 else np.moveaxis(values, 0, 2))
    stream = io.BytesIO()
    if options.pop("palette", False):
        image = image.quantize(16)
    image.save(stream, kind, **options)
    return stream.getvalue()


def gdal(driver="GTiff", channels=3, dtype=np.uint8, mask=False, **options):
    values = picture(channels, dtype)
    with rasterio.MemoryFile() as memory, rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with memory.open(
            driver=driver, count=channels, height=24, width=24, dtype=dtype, **options
        ) as file:
            file.write(values)
            if mask:
                file.write_mask(np.eye(24) > 0)
        return bytes(memory.read())


def masked_jpeg(folder):
    (folder / "masked.tif").write_bytes(gdal(mask=True))
    rasterio.shutil.copy(folder / "masked.tif", folder / "masked.jpg", driver="JPEG")
    return (folder / "masked.jpg").read_bytes()


def exif():
    tags = PIL.Image.Exif()
    tags[0x0112] = 6
    return tags


def pages():
    stream = io.BytesIO()
    first, *others = map(PIL.Image.fromarray, picture())
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


PLACED = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
IMAGES = {
    "png": lambda _: pillow("PNG"),
    "palette png": lambda _: pillow("PNG", palette=True, transparency=3),
    "gray png": lambda _: png(picture(1) % 4, 2, trns=b"\0\1"),
    "deep png": lambda _: png(picture(3, np.uint16) * 99, 16, trns=bytes(6)),
    "alpha png": lambda _: pillow("PNG", 4),
    "jpeg": lambda _: pillow("JPEG", exif=exif()),
    "progressive jpeg": lambda _: pillow("JPEG", progressive=True),
    "gray jpeg": lambda _: pillow("JPEG", 1),
    "masked jpeg": masked_jpeg,
    "bmp": lambda _: pillow("BMP"),
    "gif": lambda _: pillow("GIF", palette=True),
    "webp": lambda _: pillow("WEBP", 4, lossless=True),
    "lossy webp": lambda _: pillow("WEBP"),
    "ppm": lambda _: pillow("PPM"),
    "tiff": lambda _: gdal(),
    "placed tiff": lambda _: gdal(nodata=7, **PLACED),
    "deflated tiff": lambda _: gdal(
        channels=4, dtype=np.uint16, compress="deflate", predictor=2, tiled=True,
        blockxsize=16, blockysize=16,
    ),
    "lzw tiff": lambda _: gdal(compress="lzw", interleave="band"),
    "jpeg tiff": lambda _: gdal(compress="jpeg", photometric="ycbcr"),
    "float tiff": lambda _: gdal(channels=1, dtype=np.float32, compress="zstd", predictor=3),
    "masked tiff": lambda _: gdal(mask=True, compress="packbits"),
    "alpha tiff": lambda _: gdal(channels=5, alpha="yes", photometric="rgb"),
    "palette tiff": lambda _: gdal(channels=1, photometric="palette"),
    "big tiff": lambda _: gdal(bigtiff="yes", endianness="big"),
    "pages": lambda _: pages(),
    "jp2": lambda _: gdal("JP2OpenJPEG", quality=100, reversible="YES"),
}  # fmt: skip


def mend_png(content):
    """Return a PNG with right checksums, as far as its chunks can be told apart."""
    mended, place = bytearray(content), 8
    while place + 12 <= len(mended):
        (size,) = struct.unpack(">I", mended[place : place + 4])
        end = place + 8 + size
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def damage(content, rng, others=()):
    """Return changed content."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = len(changed)
        place = int(rng.integers(min(size, 256) if rng.random() < 0.5 else size)) if size else 0
        length = int(rng.integers(1, 17))
        kind = int(rng.integers(8))
        if kind <= 2 and size:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            changed[place : place + length] = rng.bytes(length)
        elif kind == 4:
            changed[place : place + 4] = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")[
                int(rng.integers(3))
            ]
        elif kind == 5:
            del changed[place : place + length]
        elif kind == 6:
            changed[place:place] = changed[place : place + length]
        elif rng.random() < 0.5:
            del changed[place:]
        elif others:
            other = others[int(rng.integers(len(others)))]
            changed[place : place + length] = other[place : place + length]
    result = bytes(changed)
    return mend_png(result) if result.startswith(b"\x89PNG") and rng.random() < 0.7 else result


def read_all(file):
    """Read a file in all ways; an error must be of one line that names it."""
    for raw in (False, True):
        try:
            with open_image(file, "NAME", raw=raw) as reader:
                assert min(reader.bands, reader.height, reader.width) >= 1
                part = Window(0, 0, min(9, reader.height), min(9, reader.width))
                for window in (part, None):
                    values, valid = reader.read(window)
                    height, width = (window or (0, 0, reader.height, reader.width))[2:]
                    assert values.shape == (reader.bands, height, width)
                    assert values.dtype == reader.dtype
                    assert valid is None or valid.shape in (values.shape, (1, height, width))
        except SampleError as caught:
            message = str(caught)
            assert "NAME" in message
            assert message.isprintable()


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images_are_one_error(kind, tmp_path):
    rng = np.random.default_rng(len(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        content = IMAGES[kind](tmp_path)
        others = [IMAGES["png"](tmp_path), IMAGES["tiff"](tmp_path), IMAGES["jpeg"](tmp_path)]
        with open_image(content) as reader:
            assert reader.read().values.shape[1:] == (24, 24)
        suffix = {"jp2": "jp2", "big tiff": "tif"}.get(kind, "png")
        for number in range(ROUNDS):
            changed = damage(content, rng, others)
            if number % 2:
                read_all(changed)
            else:
                path = tmp_path / f"damaged.{suffix}"
                path.write_bytes(changed)
                read_all(path)


def test_damaged_files_beside_images_are_one_error(tmp_path):
    """Masks and metadata: an image is read, or the error names it."""
    rng = np.random.default_rng(0)
    (tmp_path / "a.jpg").write_bytes(IMAGES["jpeg"](tmp_path))
    (tmp_path / "masked.tif").write_bytes(gdal())
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(tmp_path / "masked.tif", "r+") as file,
    ):
        file.write_mask(np.eye(24) > 0)
    mask = (tmp_path / "masked.tif.msk").read_bytes()
    aux = (
        b"<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
        b"<Metadata><MDI key='NODATA_VALUES'>7 7 7</MDI></Metadata></PAMDataset>"
    )
    for _ in range(2 * ROUNDS):
        for name, content in (("a.jpg.msk", mask), ("a.jpg.aux.xml", aux)):
            (tmp_path / name).write_bytes(damage(content, rng))
            read_all(tmp_path / "a.jpg")
            (tmp_path / name).unlink()


def test_damaged_headers_of_pairs_are_compared_without_an_error(tmp_path):
    rng = np.random.default_rng(0)
    content = [gdal(**PLACED), gdal(bigtiff="yes", **PLACED)]
    paths = [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    for number in range(4 * ROUNDS):
        (tmp_path / "a.tif").write_bytes(content[number % 2])
        (tmp_path / "b.tif").write_bytes(damage(content[number % 2], rng))
        try:
            Places().check(paths)
        except SampleError as caught:
            told = caught
            assert told.kind in ("place", "size")
            assert "b.tif" in told.reason


def read_shards(folder, *names):
    """Read a folder of shards; errors must be of one line that names one of its files."""
    shards = ShardSource(folder)
    try:
        for skip in shards.scan():
            assert any(name in skip.reason for name in names)
            assert skip.reason.isprintable()
        for index in range(len(shards)):
            shards.key(index)
            for modality in shards.present(index):
                with shards.open(index, modality) as reader:
                    reader.read()
    except DataError as caught:
        message = str(caught)
        assert any(name in message for name in names)
        assert "\n" not in message


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_shards_are_named(tmp_path, form):
    rng = np.random.default_rng(form)
    image = IMAGES["png"](tmp_path)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("a.sar.png", "a.optical.png", "é" * 40 + ".optical.png", "b.sar.png"):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    content = path.read_bytes()
    for _ in range(2 * ROUNDS):
        path.write_bytes(mend_tar(damage(content, rng), rng))
        read_shards(tmp_path, "a.tar")


def mend_tar(content, rng):
    """Return a tar in which some damaged headers have right checksums."""
    mended = bytearray(content)
    for place in range(0, len(mended) - 511, 512):
        header = mended[place : place + 512]
        if header[257:262] == b"ustar" and rng.random() < 0.7:
            header[148:156] = b" " * 8
            mended[place + 148 : place + 156] = b"%06o\0 " % sum(header)
    return bytes(mended)


def damage_json(content, rng):
    """Return JSON content with another value somewhere, or another text."""
    if rng.random() < 0.3:
        return damage(json.dumps(content).encode(), rng)
    content = json.loads(json.dumps(content))
    place = content
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else int(rng.integers(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    values = [None, True, -1, 0, 5, 2**40, 2**70, 1e308, "", "x", "../a.tar", [], {}, [[1]]]
    place[key] = values[int(rng.integers(len(values)))]
    return json.dumps(content).encode()


@pytest.mark.parametrize("name", ["shards.json", "shard-000000.json"])
def test_damaged_indices_are_named(tmp_path, name):
    rng = np.random.default_rng(len(name))
    for number in range(3):
        for modality in ("optical", "sar"):
            path = tmp_path / modality / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(IMAGES["gray png"](tmp_path))
    source = FolderSource({"optical": tmp_path / "optical", "sar": tmp_path / "sar"})
    source.scan()
    write_shards(source, tmp_path / "shards", samples_per_shard=2)
    content = json.loads((tmp_path / "shards" / name).read_text())
    for _ in range(4 * ROUNDS):
        (tmp_path / "shards" / name).write_bytes(damage_json(content, rng))
        # A manifest may name shards that are not there.
        read_shards(tmp_path / "shards", "shards.json", "shard-00000", ".tar is not there")
