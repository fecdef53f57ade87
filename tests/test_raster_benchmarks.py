# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of windows and of clusters, with tiny scenes and tables of their own."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rsvheat import _library

pytest.importorskip("rasterio")
ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.source_tree,
    pytest.mark.skipif(not _library.native_available(), reason="the native library is not loaded"),
]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    monkeypatch.setattr(tables, "LOCKS", tmp_path / "locks")
    torch.set_num_threads(1)
    return tmp_path


@pytest.fixture
def windows(folder, monkeypatch):
    import windows

    for name in ("AGREEMENT", "SPEED"):
        monkeypatch.setattr(windows, name, folder / f"{name}.csv")
    monkeypatch.setattr(windows, "BORDER", 20)
    return windows


@pytest.fixture
def noise(folder):
    import rasterio

    values = np.random.default_rng(0).integers(1, 255, (3, 120, 150), np.uint8)
    with rasterio.open(folder / "a.tif", "w", "GTiff", 150, 120, 3, dtype="uint8") as file:
        file.write(values)
    labels = np.random.default_rng(1).integers(0, 6, (1, 120, 150), np.uint8)
    with rasterio.open(folder / "a.png", "w", "PNG", 150, 120, 1, dtype="uint8") as file:
        file.write(labels)
    return folder / "a.tif", folder / "a.png"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_maps_by_windows_are_compared_with_one_pass(windows, noise, folder, monkeypatch, capsys):
    from tables import read

    scene, mask = noise
    windows._untrained("rsvheat_nano", 64).save(folder / "c.ckpt")
    monkeypatch.setattr(windows, "SCENES", {"noise": (str(scene), (1, 2, 3), mask, False)})
    words = ["agreement", "--checkpoint", str(folder / "c.ckpt"), "--sizes", "64"]
    assert windows.main([*words, "--overlaps", "0.25", "--rounds", "1"]) == 0
    whole, tiled = read(windows.AGREEMENT)
    assert (whole["window"], float(whole["other_class"])) == ("0", 0)
    assert (tiled["window"], tiled["overlap"]) == ("64", "16")
    assert 0 < float(tiled["other_class_inside"]) < 1
    # Labels are noise.
    assert float(whole["accuracy"]) == pytest.approx(0.2, abs=0.02)
    assert float(tiled["cpu_seconds"]) > 0
    capsys.readouterr()
    assert windows.main(["agreement", "--markdown"]) == 0
    assert "| noise | 64 | 16 |" in capsys.readouterr().out


def test_seams_are_where_windows_begin_and_end(windows):
    from rsvheat.raster.tiling import window_starts

    labels = np.random.default_rng(0).integers(0, 2, (200, 200))
    assert windows._seams(labels, 64, 16) == pytest.approx(1, abs=0.05)
    labels = np.zeros((200, 200), int)
    for start in window_starts(200, 64, 0)[1:]:
        labels[start:] += 1
    labels[::31, ::37] = 9
    assert windows._seams(labels, 64, 0) > 3


def test_scores_are_those_of_counting(windows):
    random = np.random.default_rng(0)
    found, labels = random.integers(0, 3, (20, 30)), random.integers(0, 3, (20, 30))
    labels[:4] = 255
    scores = windows._scores(found, torch.from_numpy(labels), 3)
    kept = labels != 255
    iou = [
        ((found == k) & (labels == k)).sum() / (((found == k) & kept) | (labels == k)).sum()
        for k in range(3)
    ]
    assert scores["mean_iou"] == pytest.approx(np.mean(iou))
    assert scores["accuracy"] == pytest.approx((found == labels)[kept].mean())


@pytest.fixture
def cluster(folder, monkeypatch):
    import cluster

    monkeypatch.setattr(cluster, "TABLE", folder / "cluster.csv")
    return cluster


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_run_of_one_process_is_complete(cluster, capsys):
    from tables import read

    words = ["--scenes", "3", "--side", "64", "--runs", "one process"]
    assert cluster.main(words) == 0
    (row,) = read(cluster.TABLE)
    assert (row["run"], row["done"], row["failed"]) == ("one process", "3", "0")
    assert (row["maps"], row["equal"], row["named_once"]) == ("3", "3", "True")
    capsys.readouterr()
    assert cluster.main(["--markdown"]) == 0
    assert "| one process | 3 | 3 | 0 | 3 | 3 |" in capsys.readouterr().out


def test_maps_that_differ_are_not_equal(cluster, folder):
    from rsvheat.raster.work_list import SceneFiles

    scenes = [SceneFiles(name, {}) for name in "abc"]
    for name in ("one", "other"):
        (folder / name).mkdir()
        for scene in "ab":
            (folder / name / f"{scene}.tif").write_bytes(scene.encode())
    (folder / "other/b.tif").write_bytes(b"x")
    found = cluster._checked(folder / "other", folder / "one", scenes)
    assert found == {"maps": 2, "equal": 1, "other_files": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_cpu_time_of_a_process(cluster):
    begin, start = cluster._cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - start < 0.1:
        pass
    assert cluster._cpu_seconds(os.getpid()) - begin >= 0.08
    assert cluster._cpu_seconds(2**30) == 0
