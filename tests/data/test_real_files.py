# SPDX-License-Identifier: Apache-2.0
"""Files of many sensors, as they were published, from a folder beside the checkout."""

import json

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("PIL")
import PIL.Image
import rasterio

from rsvheat.data import (
    Crop,
    FolderSource,
    ImageDataset,
    Normalize,
    Sensor,
    Window,
    compute_statistics,
    open_image,
    read_image,
)


@pytest.mark.parametrize(
    "name",
    [
        "geotiff/naip/m_4709963_se_14_1_20090818.tif",
        "geotiff/naip/m_4709963_se_14_1_20150926.tif",
        "geotiff/naip/m_4709963_se_14_1_20200831.tif",
        "geotiff/port_la_s1/2021-01-05.tif",
        "geotiff/pyrosar_s1/S1A__IW___A_20150309T173017_VV_grd_mli_geo_norm_db.tif",
        "geotiff/rasterio/RGB.byte.tif",
        "geotiff/rasterio/cogeo.tif",
        "geotiff/rasterio/goes.tif",
        "geotiff/rasterio/shade.tif",
    ],
)
def test_geotiff_reads_as_rasterio_reads_it(shared, name):
    path = shared(name)
    window = Window(101, 53, 99, 97)
    with rasterio.open(path) as file:
        expected = file.read(masked=True)
        part = file.read(window=rasterio.windows.Window(53, 101, 97, 99), masked=True)
    with open_image(path) as reader:
        assert (reader.bands, reader.height, reader.width) == expected.shape
        for (values, valid), masked in ((reader.read(), expected), (reader.read(window), part)):
            assert values.dtype == masked.dtype
            np.testing.assert_array_equal(values, masked.data)
            mask = np.ma.getmaskarray(masked)
            assert mask.any() == (valid is not None)
            if valid is not None:
                np.testing.assert_array_equal(np.broadcast_to(valid, mask.shape), ~mask)


def test_every_image_of_every_folder_can_be_read(shared):
    root = shared("README.md").parent
    read = 0
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".png", ".jpg", ".bmp", ".tif") and "eurosat" not in str(path):
            with open_image(path) as reader:
                values, _ = reader.read(Window(0, 0, min(64, reader.height), min(64, reader.width)))
                assert values.shape[0] == reader.bands
            read += 1
    assert read > 300
    for path in sorted((root / "eurosat_rgb").rglob("*.jpg"))[::100]:
        assert read_image(path).values.shape == (3, 64, 64)


def test_pillow_files_read_as_pillow_reads_them(shared):
    for name in (
        "s1s2_volkov/opt/003.png",
        "s1s2_volkov/sar/003.png",
        "sen1-2_pairs/trainA/ROIs1868_summer_s1_59_p2.png",
        "hetero_cd/shuguang_1.bmp",
        "eurosat_rgb/Forest/Forest_1.jpg",
    ):
        with PIL.Image.open(shared(name)) as image:
            expected = np.asarray(image)
        expected = expected.transpose(2, 0, 1) if expected.ndim == 3 else expected[None]
        np.testing.assert_array_equal(read_image(shared(name)).values, expected)


def one_sample(source, sensors, crop, **options):
    assert source.scan() == []
    statistics = compute_statistics(source, sensors)
    normalizers = {
        name: sensor.normalize.resolve(sensor.bands, statistics[name])
        for name, sensor in sensors.items()
    }
    data = ImageDataset(source, sensors, normalizers, crop, on_error="raise", **options)
    return [data[index] for index in range(len(data))]


def test_four_bands_of_naip(shared):
    samples = one_sample(
        FolderSource({"optical": shared("geotiff/naip")}, tile=512),
        {"optical": Sensor(4)},
        Crop(64, 128),
    )
    assert len(samples) == 3 * 4
    assert all(sample["images"]["optical"].shape == (4, 64, 64) for sample in samples)


def test_nodata_of_landsat_becomes_the_fill(shared, tmp_path):
    (tmp_path / "RGB.byte.tif").symlink_to(shared("geotiff/rasterio/RGB.byte.tif"))
    sensors = {"optical": Sensor(3, normalize=Normalize("percentile", 0, 100, fill=-9))}
    (sample,) = one_sample(FolderSource({"optical": tmp_path}), sensors, Crop(718, augment=False))
    with rasterio.open(tmp_path / "RGB.byte.tif") as file:
        window = rasterio.windows.Window((791 - 718) // 2, 0, 718, 718)
        masked = file.read(window=window, masked=True)
    np.testing.assert_array_equal(sample["images"]["optical"].eq(-9).numpy(), masked.mask)
    assert sample["images"]["optical"][~masked.mask].abs().max() <= 1


@pytest.mark.parametrize("folder", ["geotiff/port_la_s1", "geotiff/pyrosar_s1"])
def test_radar_in_decibels_is_left_in_decibels(shared, folder):
    source = FolderSource({"sar": shared(folder)})
    sensors = {"sar": Sensor(1)}
    (sample,) = one_sample(source, sensors, Crop(64, 200))
    statistics = compute_statistics(source, sensors)["sar"]
    assert -20 < statistics.mean[0] < -3
    assert sample["images"]["sar"].isfinite().all()
    assert 0.3 < sample["images"]["sar"].std() < 2


def test_names_of_sen12_pairs_are_mapped(shared):
    folders = {
        "optical": shared("sen1-2_pairs/trainB"),
        "sar": shared("sen1-2_pairs/trainA"),
    }
    source = FolderSource(folders, stem_map={"sar": ("_s1_", "_s2_")})
    assert source.scan() == []
    assert len(source) == 100
    groups = {source.group(index, r"(ROIs\d+_\w+?)_s2_(\d+)") for index in range(100)}
    assert groups == {
        "ROIs1868_summer/59", "ROIs1970_fall/11", "ROIs1970_fall/2", "ROIs1970_fall/8",
    }  # fmt: skip
    for index in (0, 42, 99):
        names = [source.file(index, name) for name in ("optical", "sar")]
        assert names[0].replace("trainB", "").replace("_s2_", "_s1_") == names[1].replace(
            "trainA", ""
        )


def test_bigearthnet_bands_are_read(shared):
    root = shared("bigearthnet_s1s2")
    radar = sorted((root / "BigEarthNet-S1-Example").rglob("*.tif"))
    assert len(radar) == 12
    for path in radar:
        values, valid = read_image(path)
        assert (values.shape, values.dtype) == ((1, 120, 120), np.float32)
        assert valid is None
        assert -40 < values.mean() < 0
    optical = sorted((root / "BigEarthNet-S2-Example").rglob("*.tif"))
    assert len(optical) == 72
    for path in optical:
        values, _ = read_image(path)
        assert values.dtype == np.uint16
        assert values.shape[1] in (20, 60, 120)
    patch = optical[0].parent.name
    labels = json.loads((optical[0].parent / f"{patch}_labels_metadata.json").read_text())
    assert labels["labels"]
