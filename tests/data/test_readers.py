# SPDX-License-Identifier: Apache-2.0
import pickle
import subprocess
import sys

import numpy as np
import pytest

from rsvheat.data import SampleError, Sensor, Window, open_image, read_image

Image = pytest.importorskip("PIL.Image")
rasterio = pytest.importorskip("rasterio")

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
    with pytest.raises(SampleError, match=r"one real type: .*complex64"):
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
