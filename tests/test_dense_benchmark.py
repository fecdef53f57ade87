# SPDX-License-Identifier: Apache-2.0
import dataclasses
import re
from pathlib import Path

import pytest
import torch

from rsvheat import _library

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"

pytestmark = [
    pytest.mark.source_tree,
    pytest.mark.skipif(not _library.native_available(), reason="the native library is not loaded"),
]


@pytest.fixture
def dense(monkeypatch, tmp_path):
    """The benchmark in this process, with tiny runs and a table of its own."""
    pytest.importorskip("lightning")
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import dense
    import tables

    monkeypatch.setattr(dense, "TABLE", tmp_path / "dense.csv")
    monkeypatch.setattr(tables, "LOCKS", tmp_path / "locks")
    for name, value in (("CROP", 32), ("OVERLAP", 8), ("BATCH", 2), ("STEPS", 1), ("CHANNELS", 8)):
        monkeypatch.setattr(dense, name, value)
    return dense


@pytest.fixture
def squares(dense):
    """Scenes with a bright square on dark ground, seen by two sensors."""
    from dense_sets import Scene, make_set

    def scene(key: str, left: int) -> Scene:
        mask = torch.zeros(50, 70, dtype=torch.uint8)
        mask[10:40, left : left + 25] = 1
        bright = mask[None] * 100.0 + torch.linspace(0, 9, 70)
        return Scene(key, {"optical": bright.repeat(3, 1, 1), "sar": bright}, mask)

    scenes = [scene(f"{left}", left) for left in (5, 20, 40)]
    stems = {"optical": "optical", "sar": "sar"}
    classes = ("ground", "square")
    return make_set(
        "ombria_optical_sar", classes, stems, scenes[:2], scenes[2:], lambda s: s.key == "20"
    )


@pytest.mark.parametrize("sides", [(1.0, None), (0.5, 48)])
def test_crops_show_what_their_masks_say(squares, sides):
    images, masks = squares.crops(16, 32, torch.Generator().manual_seed(0), None, *sides)
    again = squares.crops(16, 32, torch.Generator().manual_seed(0), None, *sides)
    assert masks.shape == (16, 32, 32)
    assert torch.equal(masks, again[1])
    for name, x in images.items():
        assert torch.equal(x, again[0][name])
        for image, mask in zip(x[:, 0], masks, strict=True):
            # Recoloring keeps the order of values; a resized edge is between the two.
            bright, dark = image[mask == 1], image[mask == 0]
            if sides == (1.0, None):
                assert bright.min() > dark.max()
            elif len(bright) and len(dark):
                assert bright.median() > dark.median()
    assert len({str(mask.tolist()) for mask in masks}) > 8


def test_images_are_normalized_by_the_training_scenes(squares):
    pixels = torch.cat([scene.images["optical"].flatten(1) for scene in squares.train], dim=1)
    torch.testing.assert_close(pixels.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.std(1), torch.ones(3), atol=1e-4, rtol=0)
    inner = squares.validation()
    assert [scene.key for scene in inner.train] == ["5"]
    assert [scene.key for scene in inner.test] == ["20"]

    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.2)
    optical = [
        scene._replace(images={"optical": scene.images["optical"]}) for scene in squares.train
    ]
    colors = dataclasses.replace(squares, train=optical, test=[])
    scene = colors.normalized_by({"mean": mean, "std": std}).train[0]
    mask = scene.mask
    value = (mask * 100.0 + torch.linspace(0, 9, 70)) / 255
    expected = torch.stack([(value - m) / s for m, s in zip(mean, std, strict=True)])
    torch.testing.assert_close(scene.images["optical"], expected, atol=1e-5, rtol=0)


def test_windows_cover_a_scene(dense, squares):
    class Threshold:
        num_classes = 2
        encoder = None

        def predict(self, images):
            bright = (images["sar"] > 0).float()
            return torch.cat((1 - bright, bright), dim=1)

    [scene] = squares.test
    assert torch.equal(dense.predict(Threshold(), scene, ["sar"]), scene.mask.long())


def test_finished_runs_are_kept(dense, squares, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dense, "SETS", {dense.BOTH: lambda folder: squares})
    chosen = [
        dense.Run(dense.BOTH, "rsvheat_nano", "pretrained", 0, "gate", 0.5, 1),
        dense.Run(dense.BOTH, "resnet18", "scratch", 0, "gate", 0.0, 1),
    ]
    monkeypatch.setattr(dense, "runs", lambda: iter(chosen))
    monkeypatch.setattr("sys.argv", ["dense.py", "train", "--data", str(tmp_path)])
    assert dense.main() == 0
    before = dense.TABLE.stat().st_mtime_ns
    assert dense.main() == 0
    assert dense.TABLE.stat().st_mtime_ns == before, "finished runs are not done again"
    rows = dense.read(dense.TABLE)
    assert [row["network"] for row in rows] == ["rsvheat_nano", "resnet18"]
    for column in ("iou", "iou_by_optical", "iou_by_sar", "overall_accuracy"):
        assert all(0 <= float(row[column]) <= 1 for row in rows)
    assert str(tmp_path) not in dense.TABLE.read_text()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["dense.py", "train", "--markdown"])
    assert dense.main() == 0
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert sum("resnet18" in line for line in tables) == 1


def test_a_run_is_repeatable(dense, squares):
    run = dense.Run(dense.BOTH, "rsvheat_nano", "scratch", 3, "gate", 0.5, 1)
    models = [dense.fit(run, squares)[0] for _ in range(2)]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_setting_of_the_search_reaches_the_training(
    dense, squares, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(dense, "SETS", {"squares": lambda folder: squares})
    more = (
        *("--drop-path", "0.2", "--weight-decay", "0", "--batch", "1", "--window", "48"),
        *("--scale", "0.5", "--recolor", "2", "--ema", "0.5", "--layer-scale", "0.1"),
    )
    chosen = ("--sets", "squares", "--networks", "rsvheat_nano:scratch", "--lr", "1e-3")
    words = ("dense.py", "tune", "--data", str(tmp_path), *chosen, "--steps", "2")
    monkeypatch.setattr("sys.argv", [*words, *more])
    assert dense.main() == 0
    [line] = capsys.readouterr().out.splitlines()
    assert "lr 0.001, layer_scale 0.1, drop_path 0.2, weight_decay 0.0, batch 1" in line
    assert "'held out'" in line
    assert "'trained on'" in line
    assert not dense.TABLE.exists()
    plain = dense.fit(dense.Run(dense.BOTH, steps=2), squares)[0].state_dict()
    for name, value in (
        ("drop_path", 0.9),
        ("weight_decay", 10.0),
        ("batch", 1),
        ("window", 48),
        ("scale", 0.5),
        ("recolor", 2.0),
        ("ema", 0.5),
    ):
        settings = dataclasses.replace(dense.SETTINGS["rsvheat_nano", "scratch"], **{name: value})
        changed = dense.fit(dense.Run(dense.BOTH, steps=2, settings=settings), squares)[0]
        assert any(not torch.equal(plain[k], v) for k, v in changed.state_dict().items()), name


def test_a_difference_has_an_interval_over_the_scenes(
    dense, squares, monkeypatch, tmp_path, capsys
):
    twice = dataclasses.replace(squares, test=[*squares.test, *squares.train])
    monkeypatch.setattr(dense, "SETS", {dense.BOTH: lambda folder: twice})
    words = ("dense.py", "places", "--data", str(tmp_path), "--sets", dense.BOTH)
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "3"])
    assert dense.main() == 0
    first, second = capsys.readouterr().out.splitlines()
    values = [float(value) for value in re.findall(r"[+-]?0\.\d{3}", first)]
    ours, peer, difference, low, high = values
    assert difference == pytest.approx(ours - peer, abs=2e-3)
    assert low <= difference <= high
    assert re.fullmatch(r"better on [0-3] of 3 scenes", second)


def test_the_committed_table_is_of_the_runs_and_on_its_page(dense, monkeypatch):
    committed = ROOT / "benchmarks" / "results" / "dense.csv"
    monkeypatch.setattr(dense, "STEPS", 100)
    monkeypatch.setattr(dense, "TABLE", committed)
    keys = [tuple(run.key().values()) for run in dense.runs()]
    rows = dense.read(committed)
    names = dense.Run("dubai").key()
    for row in rows:
        start = {"first stage's weights": "pretrained"}.get(row["start"], row["start"])
        assert tuple({**row, "start": start}[name] for name in names) in keys, row
    page = committed.with_suffix(".md").read_text().splitlines()
    tables = [line for line in dense.markdown().splitlines() if line.startswith("|")]
    assert len(tables) > 50
    assert [line for line in tables if line not in page] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_no_training_scene_is_tested(dense):
    from dense_sets import SETS

    levir = SETS["levir"](SHARED)
    assert [scene.key for scene in levir.test] == ["levir_cd/test_2"]
    assert len(levir.train) == 2 + 4 + 7  # of the crops of LEVIR-CD, two are of that tile
    assert not any("test_2" in scene.key for scene in levir.train)
    both = SETS["ombria_optical_sar"](SHARED)
    assert (len(both.train), len(both.test)) == (52, 14)
    assert not {scene.key for scene in both.train} & {scene.key for scene in both.test}
    assert both.bands == {"optical": 3, "sar": 1}
