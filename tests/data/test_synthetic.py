# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from rsvheat.data import FolderSource
from rsvheat.data.synthetic import (
    COVERS,
    SyntheticSource,
    make_scene,
    write_classes,
    write_pairs,
)


def test_scenes_are_seeded_and_of_sensible_values():
    scene = make_scene(64, 1)
    assert scene.optical.shape == (3, 64, 64)
    assert scene.sar.shape == (1, 64, 64)
    assert scene.cover.shape == (64, 64)
    assert scene.optical.dtype == scene.sar.dtype == np.float32
    assert 0 <= scene.optical.min() < scene.optical.max() <= 1
    assert scene.sar.min() > 0
    again, other = make_scene(64, 1), make_scene(64, 2)
    for name in ("optical", "sar", "cover"):
        np.testing.assert_array_equal(getattr(scene, name), getattr(again, name))
        assert not np.array_equal(getattr(scene, name), getattr(other, name))
    for arguments in ({"size": 4}, {"looks": 0}, {"cover": "sea"}):
        with pytest.raises(ValueError, match="size must be at least 8"):
            make_scene(**arguments)


def test_both_sensors_see_the_cover():
    decibels = {name: [] for name in COVERS}
    brightness = {name: [] for name in COVERS}
    for seed in range(12):
        scene = make_scene(96, seed)
        for number, name in enumerate(COVERS):
            inside = scene.cover == number
            if inside.sum() > 50:
                decibels[name].append(10 * np.log10(scene.sar[0][inside].mean()))
                brightness[name].append(scene.optical[:, inside].mean())
    means = {name: np.mean(values) for name, values in decibels.items()}
    assert means["water"] < means["fields"] - 4
    assert means["fields"] < means["forest"] < means["urban"]
    light = {name: np.mean(values) for name, values in brightness.items()}
    assert light["water"] < light["fields"] < light["urban"]


def test_speckle_is_that_of_the_looks():
    spread = []
    for looks in (1, 16):
        water = [make_scene(64, seed, cover="water", looks=looks) for seed in range(4)]
        values = [scene.sar[0][scene.cover == 0] for scene in water]
        values = np.concatenate([v[v < 20 * np.median(v)] / np.median(v) for v in values])
        spread.append(values.std() / values.mean())
    assert spread[0] == pytest.approx(1, abs=0.15)
    assert spread[1] == pytest.approx(0.25, abs=0.05)


def test_most_of_a_scene_has_the_cover_asked_for():
    for number, name in enumerate(COVERS):
        parts = [(make_scene(64, seed, cover=name).cover == number).mean() for seed in range(8)]
        assert np.mean(parts) > 0.5


def test_scenes_are_a_source():
    source = SyntheticSource(3, 32, seed=5)
    assert source.scan() == []
    assert [source.key(index) for index in range(3)] == [f"scene_00000{n}" for n in range(3)]
    with source.open(1, "sar") as reader:
        np.testing.assert_array_equal(reader.read().values, make_scene(32, (5, 1)).sar)


def test_scenes_are_written_as_files(tmp_path):
    pytest.importorskip("PIL")
    write_pairs(tmp_path / "pairs", 2, 32)
    source = FolderSource({name: tmp_path / "pairs" / name for name in ("optical", "sar")})
    assert source.scan() == []
    assert len(source) == 2
    scene = make_scene(32, (0, 1))
    with source.open(1, "optical") as optical, source.open(1, "sar") as sar:
        assert np.abs(optical.read().values / 255 * 0.4 - scene.optical.clip(0, 0.4)).max() < 1e-3
        decibels = 10 * np.log10(scene.sar).clip(-3, 1)
        assert np.abs(sar.read().values / 255 * 40 - 30 - decibels).max() < 0.1
    write_classes(tmp_path / "classes", 3, 16)
    assert sorted(path.name for path in (tmp_path / "classes").iterdir()) == sorted(COVERS)
    assert len(list((tmp_path / "classes" / "urban").iterdir())) == 3
