# SPDX-License-Identifier: Apache-2.0
"""The real images that are part of the repository."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("PIL")

from utils import data_module

from rsvheat.data import (
    ClassFolders,
    FolderSource,
    ImageFolders,
    read_image,
)

DATA = Path(__file__).parents[2] / "examples" / "data"

pytestmark = pytest.mark.source_tree


def pair_folders(part):
    return {name: str(DATA / "s1s2" / part / name) for name in ("optical", "sar")}


def test_pairs_train_and_hold_out_a_scene():
    data = data_module(
        ImageFolders,
        pair_folders("train"),
        val_folders=pair_folders("test"),
        tile=256,
        size=64,
        window=128,
        on_error="raise",
    )
    data.setup()
    assert [len(data.datasets[name]) for name in ("train", "val")] == [72, 16]
    scenes = [
        {data.datasets[name].source.group(index, r"(\d{3})") for index in range(size)}
        for name, size in (("train", 72), ("val", 16))
    ]
    assert len(scenes[0]) == 9
    assert scenes[1] == {"046"}
    assert not scenes[0] & scenes[1]
    batch = next(iter(data.train_dataloader()))
    assert batch["images"]["optical"].shape == (64, 3, 64, 64)
    assert batch["images"]["sar"].shape == (64, 1, 64, 64)
    for image in batch["images"].values():
        assert 0.5 < image.std() < 1.5


def test_pairs_show_the_same_ground():
    source = FolderSource(pair_folders("train"))
    assert source.scan() == []
    edges = []  # of bright structures, which both sensors see
    for index in range(len(source)):
        images = [read_image(source.file(index, name)).values.mean(0) for name in source.modalities]
        blocks = [image.reshape(32, 8, 32, 8).std((1, 3)).ravel() for image in images]
        edges.append(blocks)
    own = [np.corrcoef(a, b)[0, 1] for a, b in edges]
    other = [np.corrcoef(a, edges[(i + 9) % 72][1])[0, 1] for i, (a, _) in enumerate(edges)]
    assert np.mean(own) > 0.2 > 0.05 > np.abs(np.mean(other))


def test_classes_are_balanced_and_no_image_is_twice():
    data = data_module(
        ClassFolders,
        str(DATA / "eurosat" / "train"),
        test_root=str(DATA / "eurosat" / "test"),
        val_fraction=0,
        on_error="raise",
    )
    assert len(data.spec.classes) == 10
    assert np.bincount(data.datasets["train"].source.labels).tolist() == [60] * 10
    assert np.bincount(data.datasets["test"].source.labels).tolist() == [20] * 10
    files = list((DATA / "eurosat").rglob("*.jpg"))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == 800
    assert {read_image(path).values.shape for path in files} == {(3, 64, 64)}


def test_everything_is_small_and_attributed():
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert max(path.stat().st_size for path in files) < 1e6
    text = (DATA / "ATTRIBUTION.md").read_text()
    terms = ("modified Copernicus Sentinel data 2020", "Patrick Helber", "CC0 1.0")
    for part in ("s1s2", "eurosat", "dubai", *terms):
        assert part in text


def test_the_script_makes_them(tmp_path, shared):
    source = shared("eurosat_rgb").parent
    script = DATA / "make_demo_data.py"
    subprocess.run([sys.executable, script, source, "--out", tmp_path], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
    committed = sorted(path.relative_to(DATA) for path in DATA.rglob("*.jpg"))
    assert made == committed
    for path in made:
        if path.parts[0] == "eurosat":
            assert (tmp_path / path).read_bytes() == (DATA / path).read_bytes()
        else:  # another version of libjpeg may make other bytes
            a, b = (read_image(folder / path).values.astype(int) for folder in (tmp_path, DATA))
            assert np.abs(a - b).mean() < 1
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith(f"there is no folder {tmp_path}/s1s2_volkov\n")
