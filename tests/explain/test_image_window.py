# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from rsvheat.data import Normalizer, Window
from rsvheat.data.skip_report import SampleError
from rsvheat.explain import read_window
from rsvheat.explain.image_window import MOST_PIXELS

PIL = pytest.importorskip("PIL.Image")
MODALITIES = {"optical": 3, "sar": 1, "sentinel2": 13}


@pytest.fixture
def png(tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (40, 60, 3), np.uint8)
    PIL.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png", np.moveaxis(values, 2, 0)


def geotiff(path, values, **options):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs="EPSG:32633",
        transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10),
        **options,
    ) as file:
        file.write(values)
    return path


def test_small_images_are_taken_whole_by_their_own_moments(png):
    scene = read_window(png[0], MODALITIES)
    assert scene.modality == "optical"
    assert scene.window == Window(0, 0, 40, 60)
    assert scene.point == (20, 30)
    assert scene.bands == (1, 2, 3)
    assert scene.missing == 0
    assert "its own mean" in scene.normalization
    torch.testing.assert_close(scene.image.mean((1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scene.image.std((1, 2), correction=0), torch.ones(3))
    assert scene.picture.shape == (40, 60, 3)


def test_the_part_is_around_the_point(png):
    path, values = png
    scene = read_window(path, MODALITIES, size=16, point=(20, 50), mean=[0] * 3, std=[100] * 3)
    assert scene.window == Window(12, 42, 16, 16)
    assert scene.point == (8, 8)
    np.testing.assert_allclose(scene.image * 100, values[:, 12:28, 42:58], atol=1e-4)
    corner = read_window(path, MODALITIES, size=16, point=(39, 0))
    assert corner.window == Window(24, 0, 16, 16)
    assert corner.point == (15, 0)
    given = read_window(path, MODALITIES, window=(1, 2, 30, 9), point=(5, 7))
    assert given.window == Window(1, 2, 30, 9)
    assert given.point == (4, 5)


def test_normalization_of_the_training_goes_first(png):
    path, values = png
    normalizer = Normalizer((1.0, 2.0, 3.0), (10.0, 20.0, 30.0), 5.0)
    scene = read_window(path, MODALITIES, normalizers={"optical": normalizer}, mean=[0], std=[1])
    expected = (values - np.array([1, 2, 3])[:, None, None]) / np.array([10, 20, 30])[:, None, None]
    np.testing.assert_allclose(scene.image, np.clip(expected, -5, 5), atol=1e-5)
    assert "training" in scene.normalization
    other = read_window(path, MODALITIES, "sar", bands=[2], normalizers={"optical": normalizer})
    assert "its own" in other.normalization
    assert other.bands == (2,)
    assert other.modality == "sar"


def test_stacks_show_natural_colors(tmp_path):
    values = np.random.default_rng(0).integers(0, 10000, (13, 20, 24), np.uint16)
    scene = read_window(geotiff(tmp_path / "s2.tif", values), MODALITIES)
    assert scene.modality == "sentinel2"
    assert scene.rgb == (3, 2, 1)
    low, high = np.percentile(values[3], (2, 98))
    expected = np.clip((values[3] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scene.picture[..., 0], expected, atol=1e-4)
    chosen = read_window(tmp_path / "s2.tif", MODALITIES, bands=[8, 4, 3], rgb=[4, 3, 8])
    assert chosen.modality == "optical"
    assert chosen.rgb == (1, 2, 0)
    other = read_window(tmp_path / "s2.tif", MODALITIES, bands=[12], rgb=[4, 3, 2])
    assert other.rgb is None
    np.testing.assert_array_equal(other.picture, scene.picture)


def test_pixels_without_data_are_filled_and_gray(tmp_path):
    values = np.random.default_rng(0).normal(50, 10, (1, 20, 24)).astype(np.float32)
    values[0, :5] = -9999
    values[0, 6, 6] = np.nan
    scene = read_window(geotiff(tmp_path / "a.tif", values, nodata=-9999), MODALITIES)
    assert scene.missing == pytest.approx(121 / 480)
    assert (scene.image[0, :5] == 0).all()
    assert scene.image.isfinite().all()
    assert abs(scene.image[0, 7:].mean()) < 0.1
    assert (scene.picture[:5] == 0.5).all()
    with pytest.raises(SampleError, match=r"has no data in \(0, 0, 4, 4\)"):
        read_window(tmp_path / "a.tif", MODALITIES, window=(0, 0, 4, 4))


def test_of_large_rasters_a_window_is_read(tmp_path):
    """Ten gigabytes that are nowhere on the disk, nor may be in memory."""
    rasterio = pytest.importorskip("rasterio")
    resource = pytest.importorskip("resource")
    path = tmp_path / "large.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=50000,
        width=70000,
        dtype="uint8",
        tiled=True,
        sparse_ok=True,
        bigtiff="yes",
    ) as file:
        content = np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8)
        file.write(content, window=rasterio.windows.Window(60000, 40000, 64, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scene = read_window(
        path, MODALITIES, size=64, point=(40032, 60032), mean=[0] * 3, std=[255] * 3
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    np.testing.assert_allclose(scene.image * 255, content, atol=1e-3)
    with pytest.raises(ValueError, match=f"window may have {MOST_PIXELS} pixels a side"):
        read_window(path, MODALITIES, window=(0, 0, 50000, 70000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point": (40, 0)}, "point 40,0 .* is outside of .*a.png, which has 40 rows and 60"),
        ({"point": (0, -1)}, "is outside of"),
        ({"window": (0, 0, 8, 8), "point": (9, 0)}, "point 9,0 .* is outside of the window"),
        ({"window": (0, 50, 8, 11)}, "is not within .*a.png"),
        ({"window": (0, 0, 8)}, "window must be row, column, height, width"),
        ({"size": 0}, "size must be 1 to"),
        ({"bands": [1, 2]}, r"a.png has 2 bands, the model takes 3 \(optical\), 1 \(sar\)"),
        ({"bands": [1, 2, 4]}, r"a.png has 3 bands, asked for \[1, 2, 4\]"),
        ({"modality": "sar"}, "has 3 bands, modality 'sar' takes 1: .* --bands 1$"),
        ({"modality": "radar"}, "modality must be one of optical, sar, sentinel2"),
        ({"mean": [0, 0, 0]}, "mean and std must be given together"),
        ({"mean": [0, 0], "std": [1, 1]}, "mean must be one number or 3"),
    ],
)
def test_wrong_arguments_are_named(png, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_window(png[0], MODALITIES, **arguments)


@pytest.mark.parametrize(
    ("bands", "modalities", "message"),
    [
        (1, {"optical": 3}, r"has 1 band, the model takes 3 \(optical\)$"),
        (2, {"optical": 3, "sar": 1}, r"has 2 bands, the model takes .*: choose .* --bands 1$"),
        (5, {"optical": 3, "sar": 1}, r"has 5 bands, the model takes .*: choose .* --bands 1,2,3$"),
    ],
)
def test_bands_are_advised_that_the_file_has(tmp_path, bands, modalities, message):
    path = geotiff(tmp_path / "a.tif", np.zeros((bands, 8, 8), np.uint16))
    with pytest.raises(SampleError, match=message):
        read_window(path, modalities)


def test_damaged_images_are_named(png, tmp_path):
    content = png[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(SampleError, match=name):
            read_window(tmp_path / name, MODALITIES)
    with pytest.raises(FileNotFoundError):
        read_window(tmp_path / "none.png", MODALITIES)
