# SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from data.images import png, source, vrt

from rsvheat.data import (
    SampleError,
    Sensor,
    Window,
    gdal_reader,
    image_reader,
    open_image,
    read_image,
)
from rsvheat.data.pillow_reader import PillowReader

Image = pytest.importorskip("PIL.Image")
rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rasterio.shutil")
_err = pytest.importorskip("rasterio._err")

RNG = np.random.default_rng(0)
WINDOW = Window(3, 5, 11, 7)


def ramp(shape, dtype):
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
def test_tiff_of_any_type_and_bands_reads_as_rasterio_reads_it(tmp_path, write_tif, dtype, bands):
    path = write_tif(tmp_path / "image.tif", ramp((bands, 20, 30), dtype))
    chosen = [bands, 1]
    with rasterio.open(path) as file:
        expected = file.read(chosen, window=rasterio.windows.Window(5, 3, 7, 11))
    with open_image(path) as reader:
        assert (reader.stored, reader.height, reader.width) == (bands, 20, 30)
        assert reader.dtype == dtype
        values, valid = reader.read(WINDOW, chosen)
    assert values.dtype == dtype
    assert valid is None
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pillow_formats_read_as_pillow_reads_them(tmp_path, suffix, mode):
    path = tmp_path / f"image.{suffix}"
    values = RNG.integers(0, 255, (20, 30, 3) if mode == "RGB" else (20, 30)).astype(np.uint8)
    Image.fromarray(values).save(path)
    with Image.open(path) as image:
        decoded = np.asarray(image)
    expected = decoded.transpose(2, 0, 1) if decoded.ndim == 3 else decoded[None]
    values, valid = read_image(path, WINDOW)
    assert valid is None
    np.testing.assert_array_equal(values, expected[:, 3:14, 5:12])


def test_content_in_memory_reads_as_the_file(tmp_path, write_tif):
    for path in (
        write_tif(tmp_path / "image.tif", ramp((2, 20, 30), "float32")),
        tmp_path / "image.png",
    ):
        if path.suffix == ".png":
            Image.fromarray(ramp((20, 30), "uint8")).save(path)
        np.testing.assert_array_equal(read_image(path.read_bytes())[0], read_image(path)[0])


def test_what_a_file_is_is_told_by_its_content(tmp_path, write_tif):
    path = write_tif(tmp_path / "image.tif", ramp((4, 20, 30), "uint16"))
    path.rename(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png")[0].shape == (4, 20, 30)


def test_deep_png_keeps_its_bits(tmp_path):
    gray = ramp((20, 30), "uint16") * 256
    Image.fromarray(gray).save(tmp_path / "gray.png")
    values, _ = read_image(tmp_path / "gray.png")
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(values[0], gray)
    colour = RNG.integers(0, 65535, (3, 20, 30)).astype(np.uint16)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="PNG", count=3, height=20, width=30, dtype="uint16") as file:
            file.write(colour)
        np.testing.assert_array_equal(read_image(bytes(memory.read()))[0], colour)


def test_palettes_become_colours_and_bits_become_bytes(tmp_path):
    image = Image.fromarray(RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)).quantize(16)
    image.save(tmp_path / "palette.png")
    values, _ = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(values, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[0][0], 255 * np.eye(8))


def test_nodata_and_nan_are_not_valid(tmp_path, write_tif):
    values = ramp((2, 20, 30), "float32")
    values[0, 0, 0] = np.nan
    values[1, 3, 4] = np.inf
    path = write_tif(tmp_path / "image.tif", values, nodata=7)
    read, valid = read_image(path)
    np.testing.assert_array_equal(valid, np.isfinite(values) & (values != 7))
    np.testing.assert_array_equal(read[valid], values[valid])
    assert read_image(path, Window(10, 10, 1, 1))[1] is None


def test_masks_and_alpha_are_not_bands(tmp_path, write_tif):
    data = RNG.random((20, 30)) > 0.5
    path = write_tif(tmp_path / "masked.tif", ramp((3, 20, 30), "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(data)
    pixels = np.concatenate([ramp((3, 20, 30), "uint8"), 255 * data[None].astype(np.uint8)])
    rgba = write_tif(tmp_path / "rgba.tif", pixels, photometric="rgb", alpha="yes")
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(tmp_path / "rgba.png")
    for file in (path, rgba, tmp_path / "rgba.png"):
        values, valid = read_image(file)
        assert values.shape == (3, 20, 30)
        np.testing.assert_array_equal(np.broadcast_to(valid, values.shape), [data] * 3)


@pytest.mark.parametrize("alpha", ["no", "yes"])
def test_a_fourth_band_that_is_asked_for_is_a_band(tmp_path, write_tif, alpha):
    # rasterio, and much that is written by it, calls the fourth band of uint8 alpha by default.
    values = ramp((4, 20, 30), "uint8")
    values[3, :5] = 0
    path = write_tif(tmp_path / "image.tif", values, photometric="rgb", alpha=alpha)
    with open_image(path) as reader:
        assert reader.bands == (3 if alpha == "yes" else 4)
        pixels = Sensor(4).read(reader)
        assert pixels.valid is None
        np.testing.assert_array_equal(pixels.values, values)
        np.testing.assert_array_equal(Sensor(2, [4, 1]).read(reader).values, values[[3, 0]])


@pytest.mark.parametrize(
    "window",
    [Window(-1, 0, 5, 5), Window(0, 0, 0, 5), Window(16, 0, 5, 5), Window(0, 26, 5, 5)],
)
def test_a_window_outside_is_an_error(tmp_path, write_png, window):
    path = write_png(tmp_path / "image.png", ramp((20, 30), "uint8"))
    with pytest.raises(ValueError, match=r"not within .*image.png of 20 x 30 pixels"):
        read_image(path, window)


def test_a_band_that_is_not_there_is_named(tmp_path, write_tif):
    path = write_tif(tmp_path / "image.tif", ramp((2, 20, 30), "uint8"))
    for bands in ([3], [0], []):
        with pytest.raises(SampleError, match=r"image.tif has 2 bands, asked for") as caught:
            read_image(path, bands=bands)
        assert caught.value.kind == "bands"


def test_complex_images_are_refused(tmp_path, write_tif):
    path = write_tif(tmp_path / "image.tif", np.ones((1, 4, 4), np.complex64))
    with pytest.raises(
        SampleError, match=r"image.tif has complex values \(complex64\).*AMPLITUDE:/"
    ):
        read_image(path)


def damaged_files(folder, write_png, write_tif):
    """Give files that are damaged, by name."""
    noise = RNG.integers(0, 255, (3, 64, 64)).astype(np.uint8)
    jpeg = write_png(folder / "truncated.jpg", noise)
    png = write_png(folder / "truncated.png", noise)
    tif = write_tif(folder / "truncated.tif", noise, compress="deflate")
    header = write_tif(folder / "header.tif", noise)
    for path in (jpeg, png, tif):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    header.write_bytes(header.read_bytes()[:20])
    (folder / "text.png").write_text("this is not an image\n")
    (folder / "text.tif").write_text("neither is this\n")
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<!doctype html><title>404</title>")
    garbled = write_png(folder / "garbled.png", noise)
    content = bytearray(garbled.read_bytes())
    content[500:600] = bytes(100)
    garbled.write_bytes(bytes(content))
    return sorted(folder.iterdir())


def test_damaged_files_are_named_in_one_line(tmp_path, write_png, write_tif):
    files = damaged_files(tmp_path, write_png, write_tif)
    assert len(files) == 9
    for path in files:
        with pytest.raises(SampleError, match=path.name) as caught:
            read_image(path)
        assert caught.value.kind == "damaged"
        assert "\n" not in str(caught.value)
        with pytest.raises(SampleError, match="an image in memory"):
            read_image(path.read_bytes())


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_errors_survive_the_way_from_a_worker(tmp_path):
    error = pickle.loads(pickle.dumps(SampleError("size", "they differ")))
    assert (error.kind, str(error)) == ("size", "they differ")


def test_a_window_of_a_large_tiff_takes_little_memory(tmp_path):
    path = tmp_path / "large.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=20000, width=20000, dtype="float32",
        tiled=True, blockxsize=256, blockysize=256, sparse_ok=True,
    ) as file:  # fmt: skip
        file.write(
            np.ones((1, 256, 256), "float32"), window=rasterio.windows.Window(0, 0, 256, 256)
        )
    code = (
        "import resource, sys\n"
        "from rsvheat.data import Window, read_image\n"
        "import rasterio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "values, _ = read_image(sys.argv[1], Window(0, 0, 256, 256))\n"
        "assert values.sum() == 256 * 256\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB; the image has 1.6 GB


def test_missing_libraries_are_named(tmp_path, write_png, write_tif, monkeypatch):
    png = write_png(tmp_path / "image.png", ramp((4, 4), "uint8"))
    tif = write_tif(tmp_path / "image.tif", ramp((1, 4, 4), "uint8"))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"image.tif needs rasterio.*rsvheat\[geo\]"):
        read_image(tif)
    with pytest.raises(ModuleNotFoundError, match=r"image.png needs PIL.*rsvheat\[train\]"):
        read_image(png)


# Pixels without data.


def masked_files(folder, write_tif):
    """Write files of (3, 20, 30) whose pixels hold no data where ``data`` is False."""
    values = RNG.integers(1, 255, (3, 20, 30)).astype(np.uint8)
    data = RNG.random((20, 30)) > 0.3
    alpha = np.where(data, 255, 0).astype(np.uint8)[None]
    picture = np.moveaxis(np.concatenate([values, alpha]), 0, 2)
    zeroed = np.where(data, values, 0)
    interp = rasterio.enums.ColorInterp
    rgb = [interp.red, interp.green, interp.blue]

    def tif(name, bands, colors, **options):
        path = write_tif(folder / name, np.concatenate(bands), **options)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = colors
        return path

    def with_mask(path, write=None):
        write = write or (lambda: write_tif(path, values))
        write()
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            file.write_mask(data)
        return path

    def jpeg(name, **options):
        Image.fromarray(np.moveaxis(values, 0, 2)).save(folder / name, **options)
        return folder / name

    def beside(path):
        """Write ``.msk`` as GDAL does for a file that it cannot update."""
        with_mask(folder / "mask.tif")
        (folder / "mask.tif.msk").rename(f"{path}.msk")
        return path

    yield "alpha", tif("alpha.tif", [values, alpha], [*rgb, interp.alpha])
    more = [values, values[:1], alpha]
    yield (
        "alpha beside a further band",
        tif("further.tif", more, [*rgb, interp.undefined, interp.alpha]),
    )
    yield (
        "alpha and a nodata value",
        tif("alpha_nodata.tif", [zeroed, alpha], [*rgb, interp.alpha], nodata=0),
    )
    yield "a nodata value", write_tif(folder / "nodata.tif", zeroed, nodata=0)
    yield "tif.msk", with_mask(folder / "beside.tif")
    yield "jpg.msk", beside(jpeg("beside.jpg"))
    Image.fromarray(np.moveaxis(values, 0, 2)).save(folder / "beside.png")
    yield "png.msk", beside(folder / "beside.png")
    Image.fromarray(np.moveaxis(zeroed, 0, 2)).save(folder / "aux.png")
    band = '<PAMRasterBand band="{}"><NoDataValue>0</NoDataValue></PAMRasterBand>'
    (folder / "aux.png.aux.xml").write_text(
        f"<PAMDataset>{''.join(map(band.format, (1, 2, 3)))}</PAMDataset>"
    )
    yield "png.aux.xml", folder / "aux.png"
    with_mask(folder / "inner.tif")
    rasterio.shutil.copy(folder / "inner.tif", folder / "inner.jpg", driver="JPEG")
    (folder / "inner.jpg.aux.xml").unlink()
    assert Image.open(folder / "inner.jpg").mode == "RGB"
    yield "a mask behind the JPEG", folder / "inner.jpg"
    Image.fromarray(picture).save(folder / "alpha.png")
    yield "PNG with alpha", folder / "alpha.png"
    Image.fromarray(picture).save(folder / "alpha.webp", lossless=True, exact=True)
    yield "WebP with alpha", folder / "alpha.webp"
    (folder / "trns.png").write_bytes(png(zeroed, trns=bytes(6)))
    yield "PNG with tRNS", folder / "trns.png"
    (folder / "deep.png").write_bytes(png(zeroed * np.uint16(257), 16, trns=bytes(6)))
    yield "PNG of 16 bits with tRNS", folder / "deep.png"
    with rasterio.open(
        folder / "alpha.jp2", "w", driver="JP2OpenJPEG", count=4, height=20, width=30,
        dtype="uint8", quality=100, reversible="YES",
    ) as file:  # fmt: skip
        file.write(np.concatenate([values, alpha]))
        file.colorinterp = [*rgb, interp.alpha]
    yield "JPEG 2000 with alpha", folder / "alpha.jp2"
    yield None, data


def test_pixels_without_data_are_not_valid_whatever_says_so(tmp_path, write_tif):
    *files, (_, data) = masked_files(tmp_path, write_tif)
    assert len(files) == 14
    for kind, path in files:
        for window in (None, WINDOW):
            top, left, height, width = window or (0, 0, 20, 30)
            expected = data[top : top + height, left : left + width]
            values, valid = read_image(path, window, bands=[1, 2, 3])
            assert valid is not None, kind
            np.testing.assert_array_equal(
                np.broadcast_to(valid, values.shape), [expected] * 3, err_msg=kind
            )
        with open_image(path) as reader:
            assert reader.complete == (not {"msk", "xml"} & {kind[-3:]})


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_gray_png_of_any_depth_reads_as_gdal_masks_it(tmp_path, bits, transparent):
    values = RNG.integers(0, 2**bits, (1, 20, 30))
    color = int(values[0, 3, 5])
    content = png(values, bits, trns=struct.pack(">H", color) if transparent else b"")
    (tmp_path / "image.png").write_bytes(content)
    with rasterio.open(tmp_path / "image.png") as file:
        mask = file.dataset_mask() > 0
    assert mask.all() != transparent
    for file in (tmp_path / "image.png", content):
        read, valid = read_image(file)
        scale = 255 // (2**bits - 1) if bits < 8 else 1
        np.testing.assert_array_equal(read, values * scale)
        assert read.dtype == (np.uint16 if bits == 16 else np.uint8)
        np.testing.assert_array_equal(np.ones((20, 30), bool) if valid is None else valid[0], mask)
        with open_image(file, raw=True) as reader:
            np.testing.assert_array_equal(reader.read().values, values)


@pytest.mark.parametrize("palette", ["png", "tif", "large png"])
def test_palettes_are_colors_and_their_transparency_no_data(
    tmp_path, write_tif, palette, monkeypatch
):
    numbers = RNG.integers(0, 16, (1, 20, 30)).astype(np.uint8)
    colors = RNG.integers(0, 256, (16, 3)).astype(np.uint8)
    expected = np.moveaxis(colors[numbers[0]], 2, 0)
    if palette == "tif":
        path = write_tif(tmp_path / "image.tif", numbers, photometric="palette", nodata=5)
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {i: (*color, 255) for i, color in enumerate(colors.tolist())})
        opaque = numbers != 5
    else:
        path = tmp_path / "image.png"
        alpha = bytes([255, 0, 128, 255, 0])
        path.write_bytes(png(numbers, plte=colors.tobytes(), trns=alpha))
        opaque = ~np.isin(numbers, (1, 4))
        if palette == "large png":
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with open_image(path) as reader:
        assert (reader.bands, reader.stored, reader.dtype) == (3, 3, np.uint8)
        for window in (None, WINDOW):
            values, valid = reader.read(window)
            top, left, height, width = window or (0, 0, 20, 30)
            part = np.s_[:, top : top + height, left : left + width]
            np.testing.assert_array_equal(values, expected[part])
            np.testing.assert_array_equal(np.broadcast_to(valid, values.shape)[:1], opaque[part])
        np.testing.assert_array_equal(reader.read(bands=[3, 1]).values, expected[[2, 0]])
    with open_image(path, raw=True) as reader:  # as masks of classes need it
        values, valid = reader.read()
        np.testing.assert_array_equal(values, numbers)
        np.testing.assert_array_equal(valid, opaque)


def test_bilevel_tiff_is_black_and_white_as_bilevel_png_is(tmp_path, write_tif):
    values = (RNG.random((1, 20, 30)) > 0.5).astype(np.uint8)
    for photometric in ("minisblack", "miniswhite"):
        path = write_tif(tmp_path / f"{photometric}.tif", values, nbits=1, photometric=photometric)
        white = values if photometric == "minisblack" else 1 - values
        read, valid = read_image(path)
        assert valid is None
        np.testing.assert_array_equal(read, 255 * white)
        with open_image(path, raw=True) as reader:
            np.testing.assert_array_equal(reader.read().values, values)


def test_an_alpha_band_that_is_read_masks_nothing_and_nodata_does(tmp_path, write_tif):
    values = RNG.integers(1, 255, (4, 20, 30)).astype(np.uint8)
    values[3, :5] = 0
    values[0, 7] = 9
    path = write_tif(tmp_path / "image.tif", values, photometric="rgb", alpha="yes", nodata=9)
    read, valid = read_image(path, bands=[1, 4])
    np.testing.assert_array_equal(read, values[[0, 3]])
    np.testing.assert_array_equal(valid, values[[0, 3]] != 9)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_alpha_in_any_place_and_of_any_type_is_no_band(tmp_path, write_tif, dtype):
    """Before the colors, and twice; what is partly opaque is data."""
    values = RNG.integers(1, 255, (5, 20, 30)).astype(dtype)
    values[0] = RNG.integers(0, 2, (20, 30))
    values[4] = RNG.integers(0, 2, (20, 30)) / (2 if dtype == "float32" else 1)
    path = write_tif(tmp_path / "image.tif", values, photometric="minisblack")
    interp = rasterio.enums.ColorInterp
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [interp.alpha, interp.red, interp.green, interp.blue, interp.alpha]
    with open_image(path) as reader:
        assert (reader.bands, reader.stored, reader.data_bands) == (3, 5, (2, 3, 4))
        read, valid = reader.read()
        np.testing.assert_array_equal(read, values[1:4])
        np.testing.assert_array_equal(valid[0], (values[0] > 0) & (values[4] > 0))
        np.testing.assert_array_equal(Sensor(3).read(reader, WINDOW).valid[0], valid[0, 3:14, 5:12])


def test_deep_png_with_alpha(tmp_path):
    for bands in (1, 3):
        values = RNG.integers(0, 65536, (bands + 1, 20, 30))
        values[-1] = RNG.integers(0, 2, (20, 30))  # of 65535: hardly to be seen, and data
        (tmp_path / "image.png").write_bytes(png(values, 16))
        with open_image(tmp_path / "image.png") as reader:
            assert reader.bands == bands
            read, valid = reader.read()
        np.testing.assert_array_equal(read, values[:-1])
        np.testing.assert_array_equal(valid[0], values[-1] > 0)


def test_a_nodata_value_of_each_band(tmp_path, write_tif):
    values = RNG.integers(0, 9, (2, 20, 30)).astype(np.int16)
    tif = write_tif(tmp_path / "image.tif", values)
    bands = [f"Int16 <NoDataValue>{n}</NoDataValue>{source(tif, n)}" for n in (1, 2)]
    path = vrt(tmp_path / "image.vrt", 20, 30, *bands)
    expected = values != np.array([1, 2])[:, None, None]
    np.testing.assert_array_equal(read_image(path).valid, expected)
    np.testing.assert_array_equal(read_image(path, bands=[2]).valid, expected[1:])


def test_a_nodata_value_that_is_nan_or_outside_of_the_type(tmp_path, write_tif):
    values = RNG.random((1, 20, 30)).astype(np.float32)
    values[0, 3] = np.nan
    path = write_tif(tmp_path / "nan.tif", values, nodata=np.nan)
    np.testing.assert_array_equal(read_image(path).valid, ~np.isnan(values))
    low = float(np.finfo("float32").min)
    values[0, 4] = low
    path = write_tif(tmp_path / "low.tif", values, nodata=low)
    assert read_image(path).valid.sum() == 18 * 30
    tif = write_tif(tmp_path / "image.tif", RNG.integers(0, 9, (1, 20, 30)).astype(np.uint8))
    for nodata in ("-9999", "256", "nan", "1e300"):
        band = f"Byte <NoDataValue>{nodata}</NoDataValue>{source(tif)}"
        assert read_image(vrt(tmp_path / "out.vrt", 20, 30, band)).valid is None


def test_a_mask_of_another_size_is_an_error_not_nothing(tmp_path, write_tif, write_png):
    """GDAL ignores it, and would show what is masked."""
    jpg = write_png(tmp_path / "image.jpg", RNG.integers(0, 255, (3, 20, 30)).astype(np.uint8))
    tif = write_tif(tmp_path / "image.tif", ramp((1, 20, 30), "uint8"))
    mask = write_tif(tmp_path / "mask.tif", np.zeros((1, 10, 15), np.uint8))
    for path in (jpg, tif):
        shutil.copy(mask, f"{path}.msk")
        with pytest.raises(SampleError, match=rf"{path.name}\.msk cannot be used as the mask of"):
            read_image(path)


def test_a_mask_needs_rasterio(tmp_path, write_png, monkeypatch):
    path = write_png(tmp_path / "image.png", ramp((4, 4), "uint8"))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    (tmp_path / "image.png.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    assert read_image(path).valid is None  # statistics, as QGIS writes them
    (tmp_path / "image.png.msk").write_bytes(b"II*\0anything")
    with pytest.raises(ModuleNotFoundError, match=r"image.png needs rasterio"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "bands"),
    [("alpha5.tif", [1, 2, 3]), ("alpha_nd.tif", None), ("nd0_png.png", None), ("jm.jpg", None),
     ("nd0.tif", None)],
)  # fmt: skip
def test_found_files_with_pixels_without_data(faults, name, bands):
    values, valid = read_image(faults(name), bands=bands)
    assert values.shape == (3, 256, 256)
    assert valid.all(0).mean() == pytest.approx(0.5, abs=0.01)


# Bands.


def test_found_palettes_and_pages_are_three_bands(faults):
    with rasterio.open(faults("pal.tif")) as file:
        colors = file.colormap(1)
        expected = np.array([colors[i][:3] for i in file.read(1).ravel()], np.uint8)
    values, _ = read_image(faults("pal.tif"))
    np.testing.assert_array_equal(values, expected.T.reshape(values.shape))
    values, _ = read_image(faults("pages.tif"))
    assert len(values) == 3
    with Image.open(faults("pages.tif")) as image:
        for page, band in enumerate(values):
            image.seek(page)
            np.testing.assert_array_equal(band, np.asarray(image))


def test_found_mixed_types(faults):
    values, _ = read_image(faults("mix.vrt"), bands=[1, 2, 3])
    assert values.dtype == np.uint16
    with rasterio.open(faults("u16.tif")) as file:
        np.testing.assert_array_equal(values, file.read())
    assert read_image(faults("mix.vrt"), bands=[4]).values.dtype == np.uint8


def test_found_data_sets_and_complex_values_are_told(faults):
    names = ", ".join(f"netcdf:.*three.nc:{name}" for name in ("red", "green", "blue"))
    with pytest.raises(SampleError, match=f"three.nc holds 3 data sets; choose .*: {names}$"):
        read_image(faults("three.nc"))
    assert read_image(f"netcdf:{faults('three.nc')}:green").values.shape == (1, 256, 256)
    with pytest.raises(SampleError, match=r"cint16.tif has complex values \(complex_int16\)"):
        read_image(faults("cint16.tif"))
    values, _ = read_image(f"DERIVED_SUBDATASET:AMPLITUDE:{faults('cint16.tif')}")
    assert values.dtype == np.float64
    assert (values >= 0).all()
    assert values.std() > 0


def test_bands_of_different_types_become_one_that_holds_all(tmp_path, write_tif):
    deep = write_tif(tmp_path / "deep.tif", ramp((2, 20, 30), "uint16") * 200)
    flat = write_tif(tmp_path / "flat.tif", ramp((1, 20, 30), "float32") / 7)
    path = vrt(
        tmp_path / "mixed.vrt", 20, 30,
        f"UInt16 {source(deep, 1)}", f"Float32 {source(flat)}", f"UInt16 {source(deep, 2)}",
    )  # fmt: skip
    with open_image(path) as reader:
        assert reader.dtype == np.float32
        values, _ = reader.read()
        assert values.dtype == np.float32
        assert reader.read(bands=[3, 1]).values.dtype == np.uint16
        assert reader.read(bands=[2]).values.dtype == np.float32
    deep, flat = read_image(deep).values, read_image(flat).values
    np.testing.assert_array_equal(values, [deep[0], flat[0], deep[1]])


def test_a_complex_band_beside_others_is_named(tmp_path, write_tif):
    real = write_tif(tmp_path / "real.tif", ramp((1, 20, 30), "uint8"))
    slc = write_tif(tmp_path / "slc.tif", np.ones((1, 20, 30), np.complex64))
    path = vrt(tmp_path / "both.vrt", 20, 30, f"Byte {source(real)}", f"CFloat32 {source(slc)}")
    assert read_image(path, bands=[1]).values.dtype == np.uint8
    with pytest.raises(SampleError, match=r"band 2 of .*both.vrt has complex values"):
        read_image(path)


def write_pages(path, *pages):
    first, *others = [
        Image.fromarray(page if page.ndim == 2 else np.moveaxis(page, 0, 2)) for page in pages
    ]
    first.save(path, save_all=True, append_images=others)
    return path


def test_pages_of_a_band_each_are_bands(tmp_path):
    values = ramp((13, 20, 30), "uint8")
    path = write_pages(tmp_path / "pages.tif", *values)
    for file in (path, path.read_bytes()):
        with open_image(file) as reader:
            assert (reader.bands, reader.stored) == (13, 13)
            np.testing.assert_array_equal(reader.read().values, values)
            np.testing.assert_array_equal(
                reader.read(WINDOW, [4, 13, 1]).values, values[[3, 12, 0], 3:14, 5:12]
            )


def test_pages_that_are_other_images_are_told(tmp_path):
    color = RNG.integers(0, 255, (3, 20, 30)).astype(np.uint8)
    small = np.ascontiguousarray(color[:, :10, :15])
    # Previews and the levels of a pyramid.
    path = write_pages(tmp_path / "preview.tif", color, small)
    np.testing.assert_array_equal(read_image(path).values, color)
    for pages in ((color, color[::-1]), (small, color), (color[0], color)):
        path = write_pages(tmp_path / "pages.tif", *pages)
        with pytest.raises(SampleError, match=r"holds 2 images as pages.*GTIFF_DIR:1:/.*pages.tif"):
            read_image(path)
        assert read_image(f"GTIFF_DIR:2:{path}").values.shape[1:] == pages[1].shape[-2:]


def test_values_are_as_stored_and_scale_tags_are_told_once(tmp_path, write_tif, caplog):
    image_reader._remarked.clear()
    values = ramp((2, 20, 30), "uint16")
    for name in ("a.tif", "b.tif"):
        path = write_tif(tmp_path / name, values)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (1e-4, 1e-4), (-0.1, -0.1)
        with caplog.at_level("WARNING", "rsvheat.data"):
            np.testing.assert_array_equal(read_image(path).values, values)
    (message,) = caplog.messages
    assert "a.tif, and perhaps other files, has the scale 0.0001 and the offset -0.1" in message


def test_white_as_zero_rotation_tags_and_animations_are_told(tmp_path, write_tif, caplog):
    image_reader._remarked.clear()
    values = ramp((3, 20, 30), "uint8")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.moveaxis(values, 0, 2)).save(tmp_path / "rotated.jpg", exif=exif)
    white = write_tif(tmp_path / "white.tif", values[:1], photometric="miniswhite")
    first, *others = map(Image.fromarray, values)
    for name in ("moving.png", "moving.webp"):
        first.save(tmp_path / name, save_all=True, append_images=others, lossless=True)
    with caplog.at_level("WARNING", "rsvheat.data"):
        assert read_image(tmp_path / "rotated.jpg").values.shape == (3, 20, 30)
        np.testing.assert_array_equal(read_image(white).values, values[:1])
        for name in ("moving.png", "moving.webp"):
            np.testing.assert_array_equal(read_image(tmp_path / name).values[0], values[0])
    assert (
        "rotated.jpg, and perhaps other files, is to be rotated by its EXIF" in caplog.messages[0]
    )
    assert "white.tif, and perhaps other files, stores white as 0" in caplog.messages[1]
    assert "moving.png, and perhaps other files, is animated; its first" in caplog.messages[2]
    assert len(caplog.messages) == 3


# Kinds of files.


@pytest.mark.parametrize("options", [{"endianness": "big"}, {"bigtiff": "yes"},
                                     {"endianness": "big", "bigtiff": "yes"}])  # fmt: skip
def test_tiff_of_either_byte_order_and_size(tmp_path, write_tif, options):
    values = ramp((2, 20, 30), "uint16") * 200
    path = write_tif(tmp_path / "image.tif", values, **options)
    assert path.read_bytes()[:2] == (b"MM" if "endianness" in options else b"II")
    np.testing.assert_array_equal(read_image(path).values, values)


def test_cmyk_is_rgb(tmp_path):
    picture = Image.fromarray(np.moveaxis(ramp((3, 32, 32), "uint8"), 0, 2)).convert("CMYK")
    picture.save(tmp_path / "image.jpg", quality=95)
    picture.save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.jpg") as image:
        expected = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "image.jpg").values, expected)
    assert read_image(tmp_path / "image.tif").values.shape == (3, 32, 32)


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "RGBA", "P", "LA", "I;16"])
def test_pictures_that_are_too_large_for_pillow_are_read_by_gdal(tmp_path, monkeypatch, kind):
    values = RNG.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    if kind == "I;16":
        image = Image.fromarray(values[..., 0] * np.uint16(257))
    else:
        image = Image.fromarray(values).convert("RGB" if kind in ("P", "1") else "RGBA")
        image = image.quantize(9) if kind == "P" else image.convert(kind)
    image.save(tmp_path / "image.png")
    expected = read_image(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for file in (tmp_path / "image.png", (tmp_path / "image.png").read_bytes()):
        with open_image(file) as reader:
            assert not isinstance(reader, PillowReader)
            assert not reader.whole
            values, valid = reader.read()
            part = reader.read(WINDOW).values
        np.testing.assert_array_equal(values, expected.values)
        np.testing.assert_array_equal(part, expected.values[:, 3:14, 5:12])
        assert (valid is None) == (expected.valid is None)
        if valid is not None:
            np.testing.assert_array_equal(valid, expected.valid)


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp"])
def test_large_pictures_of_other_formats(tmp_path, write_png, monkeypatch, suffix):
    values = np.full((3, 20, 30), 100, np.uint8)
    path = write_png(tmp_path / f"image.{suffix}", values)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_allclose(read_image(path).values.astype(int), values, atol=3)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ModuleNotFoundError, match=r"image.* needs rasterio"):
        read_image(path)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_large_png_that_is_cut_short_is_damaged(tmp_path, monkeypatch, part):
    """GDAL's fast path takes it for one whose last rows are dark."""
    noise = RNG.integers(1, 255, (3, 200, 300)).astype(np.uint8)
    content = png(noise)
    (tmp_path / "image.png").write_bytes(content[: int(len(content) * part)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SampleError, match=r"image.png is damaged"):
        read_image(tmp_path / "image.png")


def test_a_png_of_13500_pixels_a_side_is_read_by_windows(tmp_path):
    side = 13_500
    row = (np.arange(side) % 251).astype(np.uint8)
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(b"\0" + np.roll(row, i).tobytes()) for i in range(side))
    content = png(np.zeros((1, 1, 1), np.uint8))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)

    def chunk(name, inner):
        checksum = struct.pack(">I", zlib.crc32(name + inner))
        return struct.pack(">I", len(inner)) + name + inner + checksum

    path = tmp_path / "large.png"
    path.write_bytes(
        content[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", body + packer.flush())
        + chunk(b"IEND", b"")
    )  # fmt: skip
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with open_image(path) as reader:
        assert (reader.bands, reader.height, reader.width) == (1, side, side)
        for top in (0, 1000, 300):
            values = reader.read(Window(top, 200, 3, 400)).values[0]
            np.testing.assert_array_equal(values[2], np.roll(row, top + 2)[200:600])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
         r"is not an image but a Git LFS pointer: git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", r"is not an image but a web page"),
        (b"<HTML></HTML>", r"is not an image but a web page"),
        (b"PK\3\4rest", r"is not an image but an archive: unpack it, or name .*/vsizip/"),
        (b"\x1f\x8b\x08rest", r"is not an image but an archive"),
        (b'<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>',
         r"is not an image but a virtual raster, whose name must end in \.vrt"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"is not an image$"),
        (b"", r"is empty"),
        (b"\0", r"is not an image"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told(tmp_path, content, message):
    for suffix in ("png", "tif", "JPG"):
        path = tmp_path / f"image.{suffix}"
        path.write_bytes(content)
        with pytest.raises(SampleError, match=rf"image\.{suffix} {message}"):
            open_image(path)
    with pytest.raises(SampleError, match=f"in memory {message}"):
        open_image(content)


def test_content_does_not_choose_a_format_that_reads_other_files(tmp_path, write_tif):
    """A data set from elsewhere must not read files of this machine, or the net."""
    secret = write_tif(tmp_path / "secret.tif", ramp((1, 20, 30), "uint8"))
    path = vrt(tmp_path / "image.vrt", 20, 30, f"Byte {source(secret)}")
    assert read_image(path).values.shape == (1, 20, 30)  # a user's own choice
    with pytest.raises(SampleError, match="is not an image but a virtual raster"):
        read_image(path.read_bytes())
    for name in ("image.tif", "image.png"):
        with pytest.raises(SampleError, match=f"{name} is not an image but a virtual raster"):
            read_image(path.rename(tmp_path / name))
        path = tmp_path / name
    picture = tmp_path / "picture.jpg"
    Image.new("L", (30, 20)).save(picture)
    shutil.copy(path, f"{picture}.msk")
    with pytest.raises(SampleError, match=r"picture.jpg.msk is not a mask as GDAL writes it"):
        read_image(picture)
    tiff = b"II*\0" + path.read_bytes()
    (tmp_path / "image.tif").write_bytes(tiff)
    for file in (tiff, tmp_path / "image.tif"):
        with pytest.raises(SampleError, match="cannot be opened"):
            read_image(file)


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    (tmp_path / "broken.tif").symlink_to(tmp_path / "nothing.tif")
    (tmp_path / "file").touch()
    for name, message in (
        ("folder.tif", "is a folder, not a file"),
        ("pipe.tif", "is a device, socket or pipe"),
        ("loop.tif", "cannot be read: Too many levels"),
        ("file/image.tif", "cannot be read: Not a directory"),
        ("null\0.tif", r"null\\x00.tif cannot be read: embedded null"),
        ("x" * 300 + ".tif", "cannot be read: File name too long"),
    ):
        with pytest.raises(SampleError, match=message):
            open_image(tmp_path / name)
    with pytest.raises(SampleError, match="is a device, socket or pipe"):
        open_image("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "broken.tif")


def test_a_file_without_permission_is_named(tmp_path, write_png, monkeypatch):
    path = write_png(tmp_path / "image.png", ramp((4, 4), "uint8"))

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", arguments[0])

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SampleError, match=r"image.png cannot be read: Permission denied$"):
        open_image(path)


@pytest.mark.parametrize(
    "name",
    ["a b#1.tif", "a?b.tif", "a:b.tif", "zip:c.tif", "x!y.tif", "%20.tif", "[a].tif", "é.tif"],
)
def test_odd_names_are_files(tmp_path, write_tif, name, monkeypatch):
    values = ramp((2, 20, 30), "uint8")
    write_tif(tmp_path / "image.tif", values).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        np.testing.assert_array_equal(read_image(path).values, values)


def test_a_name_that_is_not_utf8_is_named(tmp_path, write_tif, write_png):
    name = os.fsdecode(b"\xe9t\xe9")
    values = ramp((1, 20, 30), "uint8")
    write_tif(tmp_path / "a.tif", values).rename(tmp_path / f"{name}.tif")
    with pytest.raises(SampleError, match=r"\\udce9t\\udce9\.tif cannot be opened") as caught:
        read_image(tmp_path / f"{name}.tif")
    str(caught.value).encode()
    write_png(tmp_path / "a.png", values).rename(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png").values, values)


def test_names_of_gdal_are_read(tmp_path, write_tif):
    values = ramp((2, 20, 30), "uint8")
    path = write_tif(tmp_path / "image.tif", values)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(path, "in/image.tif")
    name = f"/vsizip/{tmp_path}/archive.zip/in/image.tif"
    np.testing.assert_array_equal(read_image(name).values, values)
    for missing in (name + "f", f"/vsizip/{tmp_path}/none.zip/image.tif", "nodriver:image.tif"):
        with pytest.raises(SampleError, match=f"{re.escape(missing)} cannot be opened"):
            read_image(missing)


def test_jpeg_2000_of_many_bands(tmp_path):
    values = ramp((5, 64, 64), "uint16") * 200
    path = tmp_path / "image.jp2"
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=5, height=64, width=64, dtype="uint16",
        quality=100, reversible="YES",
    ) as file:  # fmt: skip
        file.write(values)
    np.testing.assert_array_equal(read_image(path).values, values)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SampleError, match=r"image.jp2"):
        read_image(path)


def test_more_bands_than_can_be_read_together_are_named(tmp_path, monkeypatch, write_tif):
    monkeypatch.setattr(image_reader, "_MOST_BANDS", 4)
    path = write_tif(tmp_path / "image.tif", ramp((5, 20, 30), "uint8"))
    with pytest.raises(SampleError, match=r"image.tif has 5 bands: name those that are to be read"):
        read_image(path)
    assert read_image(path, bands=[1, 2, 3, 4, 5]).values.shape == (5, 20, 30)


# What GDAL raises.


def test_damage_within_a_tiff_is_named(tmp_path, write_tif):
    """GDAL's errors come as RasterioError or, in places, as its own exceptions."""
    noise = RNG.integers(0, 255, (3, 128, 128)).astype(np.uint8)
    path = write_tif(tmp_path / "image.tif", noise, compress="deflate", tiled=True, blockxsize=16,
                     blockysize=16)  # fmt: skip
    content = path.read_bytes()
    for place in range(1000, len(content) - 16, len(content) // 8):
        path.write_bytes(content[:place] + b"\xff" * 16 + content[place + 16 :])
        with pytest.raises(SampleError, match=r"image.tif (is damaged|cannot be opened)"):
            read_image(path)


@pytest.mark.parametrize(
    "error",
    [_err.CPLE_AppDefinedError(3, 1, "no luck"), _err.CPLE_OutOfMemoryError(3, 2, "no luck"),
     ValueError("no luck"), IndexError("no luck"), SystemError("no luck")],
)  # fmt: skip
def test_whatever_rasterio_raises_names_the_file(tmp_path, write_tif, monkeypatch, error):
    path = write_tif(tmp_path / "image.tif", ramp((1, 20, 30), "uint8"))

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(gdal_reader.GdalReader, "_values", fail)
    with pytest.raises(SampleError, match=r"image.tif is damaged: .*no luck"):
        read_image(path)
    monkeypatch.setattr(rasterio, "open", fail)
    with pytest.raises(SampleError, match=r"image.tif cannot be opened: .*no luck"):
        read_image(path)


def test_an_image_that_is_larger_than_the_memory_is_told(tmp_path, monkeypatch):
    path = tmp_path / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=100_000, width=100_000, dtype="float64",
        tiled=True, blockxsize=2048, blockysize=2048, sparse_ok=True, bigtiff="yes",
    ):  # fmt: skip
        pass
    message = (
        r"sparse.tif: 100000 x 100000 pixels of 3 bands need \d+.\d GiB, more than the memory "
        ".*tile or window"
    )
    with pytest.raises(SampleError, match=message) as caught:
        read_image(path)
    assert caught.value.kind == "size"
    monkeypatch.setattr(image_reader, "_memory", lambda: None)
    monkeypatch.setattr(gdal_reader.GdalReader, "_values", _no_memory)
    with pytest.raises(SampleError, match=message):
        read_image(path)
    monkeypatch.undo()
    assert read_image(path, Window(5, 5, 10, 10)).values.shape == (3, 10, 10)


def _no_memory(*arguments):
    raise MemoryError
