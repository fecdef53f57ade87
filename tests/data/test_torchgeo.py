# SPDX-License-Identifier: Apache-2.0
"""TorchGeo's datasets, on small trees of files laid out as they are."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsvheat.data import (
    DataError,
    SampleError,
    SEN12MSSource,
    ShardSource,
    SSL4EOS12Source,
    write_shards,
)

pytest.importorskip("torchgeo")
pytest.importorskip("lightning")

from utils import data_module

from rsvheat.data import DataSpec, ImageFolders, Sensor, TorchGeoClasses

RNG = np.random.default_rng(0)
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@pytest.fixture
def sen12ms(tmp_path, write_tif):
    root = tmp_path / "sen12ms"
    for season in ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"):
        (root / season).mkdir(parents=True)
    names = [f"ROIs1158_spring_s2_{scene}_p{patch}.tif" for scene in (1, 8) for patch in (30, 31)]
    for number, name in enumerate(names):
        season, scene = name[:15], name.split("_")[3]
        for sensor, values in (
            ("lc", np.ones((4, 8, 8), np.uint16)),
            ("s1", RNG.normal(-12, 4, (2, 8, 8)).astype(np.float32)),
            ("s2", RNG.integers(0, 4000, (13, 8, 8)).astype(np.uint16) + 1000 * number),
        ):
            path = root / season / f"{sensor}_{scene}" / name.replace("_s2_", f"_{sensor}_")
            write_tif(path, values)
    (root / "train_list.txt").write_text("\n".join(names) + "\n")
    (root / "test_list.txt").write_text(names[0] + "\n")
    return root


def read(source, index):
    images = {}
    for modality in source.present(index):
        with source.open(index, modality) as reader:
            images[modality] = reader.read()
    return images


def test_sen12ms_gives_pairs(sen12ms, write_tif):
    rasterio = pytest.importorskip("rasterio")
    source = SEN12MSSource(sen12ms, optical=("B04", "B02"), sar=("VH", "VV"))
    assert len(source) == 0
    assert source.scan() == []
    assert len(source) == 4
    assert source.key(3) == "ROIs1158_spring_s2_8_p31.tif"
    assert source.group(3, r"(ROIs\d+_\w+?)_s2_(\d+)_") == "ROIs1158_spring/8"
    images = read(pickle.loads(pickle.dumps(source)), 3)
    folder = sen12ms / "ROIs1158_spring"
    with rasterio.open(folder / "s2_8" / "ROIs1158_spring_s2_8_p31.tif") as file:
        np.testing.assert_array_equal(images["optical"].values, file.read([4, 2]))
    with rasterio.open(folder / "s1_8" / "ROIs1158_spring_s1_8_p31.tif") as file:
        np.testing.assert_array_equal(images["sar"].values, file.read([2, 1]))
    (folder / "s1_1" / "ROIs1158_spring_s1_1_p30.tif").write_text("damaged")
    (folder / "s2_1" / "ROIs1158_spring_s2_1_p31.tif").unlink()
    for index in (0, 1):
        with pytest.raises(SampleError, match=r"ROIs1158_spring_s._1_p3"):
            source.open(index, "optical")


def test_sen12ms_trains_without_its_damaged_files(sen12ms):
    (sen12ms / "ROIs1158_spring" / "s1_1" / "ROIs1158_spring_s1_1_p30.tif").write_text("damaged")
    data = data_module(
        ImageFolders,
        sources=[SEN12MSSource(sen12ms)],
        size=8,
        window=8,
        batch_size=2,
        num_workers=1,
        val_groups=["ROIs1158_spring/8"],
        group=r"(ROIs\d+_\w+?)_s2_(\d+)_",
    )
    data.setup()
    assert [len(data.datasets[name]) for name in ("train", "val")] == [2, 2]
    (batch,) = data.train_dataloader()
    assert batch["images"]["optical"].shape == (2, 3, 8, 8)
    assert batch["images"]["sar"].shape == (2, 1, 8, 8)
    assert set(batch["keys"]) == {"ROIs1158_spring_s2_1_p31.tif"}
    assert data.report.kinds == {"damaged": 1}


@pytest.fixture
def ssl4eo(tmp_path, write_tif):
    root = tmp_path / "ssl4eo"
    dates = ("20200108", "20200406", "20200710", "20201013")
    for location in (0, 3):
        # Written out of order: folders come as the file system likes.
        for season in (2, 0, 3, 1):
            date = dates[season]
            for split, name, bands in (
                ("s1", f"S1A_IW_GRDH_1SDV_{date}T054012_x", ("VV", "VH")),
                ("s2c", f"{date}T101031_y", [f"B{n}" for n in range(1, 13)] + ["B8A"]),
            ):
                for number, band in enumerate(bands):
                    value = 1000 * location + 100 * season + number
                    values = np.full((1, 264, 264), value, np.float32 if split == "s1" else "u2")
                    write_tif(root / split / f"{location:07}" / name / f"{band}.tif", values)
    return root


def test_ssl4eo_gives_pairs_of_one_season(ssl4eo, tmp_path):
    shutil.copytree(ssl4eo / "s1" / "0000003", ssl4eo / "s1" / "0000007")
    source = SSL4EOS12Source(ssl4eo, optical=("B4", "B2"), sar=("VH",))
    (skip,) = source.scan()
    assert (skip.kind, skip.key) == ("unmatched", "0000007")
    assert [source.key(index) for index in (0, 5)] == ["0000000#0", "0000003#1"]
    assert source.group(5) == "0000003"
    for index in (0, 5, 6, 1):
        location, season = (0, 3)[index // 4], index % 4
        images = read(source, index)
        assert images["optical"].values.shape == (2, 264, 264)
        base = 1000 * location + 100 * season
        assert images["optical"].values[:, 0, 0].tolist() == [base + 3, base + 1]
        assert images["sar"].values[:, 0, 0].tolist() == [base + 1]
    write_shards(source, tmp_path / "shards", indices=[5, 2])
    shards = ShardSource(tmp_path / "shards")
    assert shards.scan() == []
    np.testing.assert_array_equal(
        read(shards, 0)["optical"].values, read(source, 5)["optical"].values
    )
    shutil.rmtree(next((ssl4eo / "s2c" / "0000000").iterdir()))
    fresh = pickle.loads(pickle.dumps(source))
    with pytest.raises(SampleError, match="location 0"):
        fresh.open(0, "optical")


def test_what_is_not_there_is_named(tmp_path, ssl4eo):
    for source in (SEN12MSSource(tmp_path / "none"), SSL4EOS12Source(tmp_path / "none")):
        with pytest.raises(DataError, match=r"none does not hold S.* in `root="):
            source.scan()
    with pytest.raises(DataError, match="has no sar band 'HH'"):
        SSL4EOS12Source(ssl4eo, sar=("HH",)).scan()


def test_eurosat_by_name(tmp_path, write_tif):
    folder = tmp_path / "ds" / "images" / "remote_sensing" / "otherDatasets" / "sentinel_2" / "tif"
    for label in ("Forest", "River"):
        for number in range(6):
            values = np.tile(np.arange(13).reshape(13, 1, 1), (1, 64, 64)) * 100 + number
            write_tif(folder / label / f"{label}_{number}.tif", values.astype(np.uint16))
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4, 5))):
        names = [f"{label}_{number}.jpg" for label in ("Forest", "River") for number in numbers]
        (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(names))
    data = data_module(TorchGeoClasses, "EuroSAT", str(tmp_path), size=64, batch_size=2)
    data.prepare_data()
    data.setup()
    assert data.spec == DataSpec({"optical": 3}, "label", ["Forest", "River"], (64, 64))
    assert {n: len(d) for n, d in data.datasets.items()} == {
        "train": 6, "train_plain": 6, "val": 2, "test": 4,
    }  # fmt: skip
    assert data.statistics["optical"].mean == (301, 201, 101)  # B04, B03, B02
    batch = next(iter(data.loader("test")))
    assert batch["images"]["optical"].shape == (2, 3, 64, 64)
    assert batch["keys"] == ["Forest/Forest_4", "Forest/Forest_5"]
    all_bands = data_module(TorchGeoClasses, "EuroSAT", str(tmp_path), bands=["B8A", "B01"])
    all_bands.setup()
    assert all_bands.statistics["optical"].mean == (1201, 1)
    for arguments, message in (
        (("EuroSat", "x"), "name must be"),
        (("RESISC45", "x"), "has no bands"),
        (("EuroSAT", "x"), "no band 'B99'"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchGeoClasses(*arguments, bands=["B99"])
    with pytest.raises(DataError, match="nowhere does not hold EuroSAT"):
        data_module(TorchGeoClasses, "EuroSAT", str(tmp_path / "nowhere")).setup()


def test_resisc45_by_name(tmp_path, write_png):
    for label in ("airport", "beach"):
        for number in range(3):
            values = RNG.integers(0, 255, (3, 32, 32)).astype(np.uint8)
            write_png(tmp_path / "NWPU-RESISC45" / label / f"{label}_{number:03}.jpg", values)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{label}_{number:03}.jpg" for label in ("airport", "beach")]
        (tmp_path / f"resisc45-{split}.txt").write_text("\n".join(names))
    data = data_module(TorchGeoClasses, "RESISC45", str(tmp_path), size=16, batch_size=2)
    data.setup()
    (batch,) = data.test_dataloader()
    assert batch["keys"] == ["airport/airport_002", "beach/beach_002"]
    assert batch["label"].tolist() == [0, 1]
    assert batch["images"]["optical"].shape == (2, 3, 16, 16)


def test_torchgeo_is_named_where_it_is_missing(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchgeo", None)
    monkeypatch.setitem(sys.modules, "torchgeo.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchgeo.*rsvheat\[torchgeo\]"):
        SEN12MSSource(tmp_path).scan()


def test_paths_may_be_paths(sen12ms):
    assert SEN12MSSource(Path(sen12ms), "test").scan() == []


def test_sensors_of_all_bands(sen12ms):
    data = data_module(
        ImageFolders,
        sources=[SEN12MSSource(sen12ms, optical=S2, sar=("VV", "VH"))],
        sensors={"optical": Sensor(13), "sar": Sensor(2)},
        size=8,
        val_fraction=0,
        batch_size=4,
    )
    data.setup()
    assert data.spec.modalities == {"optical": 13, "sar": 2}
    (batch,) = data.train_dataloader()
    assert batch["images"]["optical"].shape == (4, 13, 8, 8)
    assert batch["images"]["optical"].std() == pytest.approx(1, abs=0.2)
