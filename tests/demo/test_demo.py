# SPDX-License-Identifier: Apache-2.0
"""The demo from nothing to its report, on few images, and what stops it."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import rasterio
import torch
from disks import small_disk

from rsvheat import cli
from rsvheat.data import DataError
from rsvheat.demo import run_demo
from rsvheat.demo.demo_report import verdict
from rsvheat.demo.images import find_images, full_folder, shipped_images
from rsvheat.demo.state import State

EPOCHS = 5


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Small models run slower on several threads."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images in the layout of the datasets, one of each kind damaged."""
    folder, shipped = tmp_path_factory.mktemp("images"), shipped_images()
    for name in ("Forest", "Residential", "SeaLake"):
        (folder / "eurosat_rgb" / name).mkdir(parents=True)
        for path in sorted((shipped.classes / name).glob("*.jpg"))[:8]:
            shutil.copy(path, folder / "eurosat_rgb" / name)
    (folder / "eurosat_rgb/Forest/Forest_0.jpg").write_bytes(b"\xff\xd8\xff cut")
    for modality, to in (("optical", "opt"), ("sar", "sar")):
        (folder / "s1s2_volkov" / to).mkdir(parents=True)
        with PIL.Image.open(shipped.scene[modality]) as scene:
            for i, name in enumerate(("001", "002", "046")):
                left = 300 * i
                part = scene.convert("RGB").crop((left, left, left + 192, left + 128))
                part.save(folder / "s1s2_volkov" / to / f"{name}.png")
    for kind in ("images", "masks"):
        (folder / "dubai/train" / kind).mkdir(parents=True)
        for path in sorted((shipped.land_cover / "train" / kind).iterdir())[:4]:
            shutil.copy(path, folder / "dubai/train" / kind)
    for kind, path in shipped.tile.items():
        target = folder / "dubai/test" / f"{kind}s" / path.name
        target.parent.mkdir(parents=True)
        with PIL.Image.open(path) as tile:
            tile.crop((700, 500, 900, 660)).save(target)
    (folder / "s1s2_volkov/opt/002.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return folder


def words(images: Path, output: Path, *more: str) -> list[str]:
    epochs = [f"--{name}_epochs={EPOCHS}" for name in ("pretrain", "finetune")]
    epochs.append("--segment_epochs=2")
    return ["demo", f"--data={images}", f"--output={output}", "--threads=1", *epochs, *more]


def start(images: Path, output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rsvheat", *words(images, output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Whole:
    """A demo that nothing disturbed, and what it printed."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "demo"
    process = start(images, folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return Whole(folder, out, err)


def weights(folder: Path, step: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / step / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(folder: Path, other: Path) -> None:
    """Weights are the same bits, and so are all results but the times."""
    for step in ("pretrain", "finetune", "scratch", "segment"):
        a, b = weights(folder, step), weights(other, step)
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
    for step in ("pretrain", "finetune", "scratch", "probe", "map", "segment"):
        results = [json.loads((f / step / "result.json").read_text()) for f in (folder, other)]
        for result in results:
            assert result.pop("seconds") > 0
            assert result.pop("cpu_seconds") > 0
        assert results[0] == results[1]
    for path in ("map/map.tif", "segment/map.tif"):
        assert (folder / path).read_bytes() == (other / path).read_bytes()


def rows(log: Path) -> int:
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def test_it_ends_with_a_report_and_says_how_far_it_is(whole: Whole) -> None:
    heads = re.findall(r"^\[(\d)/7\] .*$", whole.err, re.MULTILINE)
    assert heads == list("1234567")
    assert len(re.findall(r"^epoch 5/5: .* left$", whole.err, re.MULTILINE)) == 3
    for line in ("from scratch", "pretrained here", "come with the package"):
        assert re.search(rf"^ *.*{line}( +(\d+\.\d|-)){{3}}$", whole.out, re.MULTILINE)
    land_cover = r"^Land cover of a tile .*: mean IoU \d+\.\d % \(building"
    assert re.search(land_cover, whole.out, re.MULTILINE)
    assert whole.out.splitlines()[-1] == f"report: {whole.folder / 'report.html'}"
    assert "network." not in whole.err
    assert "Warning" not in whole.err


def test_the_report_has_every_part_and_needs_nothing_else(whole: Whole) -> None:
    page = (whole.folder / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Pretraining", "Classification", "Map", "Land cover", "Temperature fields", "Images"
    ]  # fmt: skip
    assert len(re.findall(r'<img src="data:image/\w+;base64,', page)) == 7
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)
    assert "<script" not in page
    result = json.loads((whole.folder / "finetune/result.json").read_text())
    assert f"{100 * result['accuracy']:.1f}" in page
    assert sum(map(sum, result["confusion"])) == result["scored"] == 6


def test_damaged_images_are_named_and_left_out(whole: Whole) -> None:
    assert re.search(r"skipped .*: .*Forest_0\.jpg", whole.err)
    assert re.search(r"skipped .*: .*002\.png", whole.err)


def test_a_second_run_says_that_it_is_done_without_loading_what_trains(
    whole: Whole, images: Path
) -> None:
    program = (
        "import sys; from rsvheat import cli; code = cli.main(sys.argv[1:]); "
        "assert 'lightning' not in sys.modules; sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *words(images, whole.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"this demo is done; its report is {whole.folder / 'report.html'}\n"


def test_killed_twice_and_interrupted_it_ends_with_the_same_bits(
    whole: Whole, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    for step in ("pretrain", "finetune"):
        process = start(images, folder)
        deadline = time.monotonic() + 600
        while rows(folder / step / "metrics.csv") < 2:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        _, err = process.communicate()
        assert not (folder / step / "result.json").exists()
        assert ("[2/7]" in err) == (step == "finetune")

    def interrupt() -> None:
        while rows(folder / "scratch/metrics.csv") < 2:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.main(words(images, folder)) == 130
    thread.join()
    assert "stopped by SIGINT after step" in capfd.readouterr().err
    assert not (folder / "scratch/result.json").exists()
    assert cli.main(words(images, folder)) == 0
    err = capfd.readouterr().err
    assert "Pretrain on optical and radar images, without labels: complete" in err
    assert "goes on after step" in err
    assert_same(folder, whole.folder)


def part_of(whole: Whole, tmp_path: Path, *steps: str) -> Path:
    """Return a demo that was stopped when these steps were complete."""
    folder = tmp_path / "demo"
    folder.mkdir()
    shutil.copy(whole.folder / "demo.json", folder)
    for step in steps:
        shutil.copytree(whole.folder / step, folder / step)
    return folder


def failure(capfd: pytest.CaptureFixture[str], arguments: list[str], code: int = 1) -> str:
    """Return the line that ends a demo that fails."""
    capfd.readouterr()
    assert cli.main(arguments) == code
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line][-1]


def test_a_full_disk_stops_it_in_a_line_and_what_is_complete_stays(
    whole: Whole, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(whole, tmp_path, "pretrain")
    with small_disk(2_000_000):
        line = failure(capfd, words(images, folder))
    assert re.match(r"rsvheat demo: cannot write the checkpoint .*finetune/last\.ckpt: ", line)
    assert line.endswith(f"goes on from there, when there is room in {folder}")
    assert not list(folder.rglob("finetune/*.ckpt"))
    assert (folder / "pretrain/last.ckpt").read_bytes() == (
        whole.folder / "pretrain/last.ckpt"
    ).read_bytes()


def test_no_space_for_anything_else_is_told_alike(
    whole: Whole, images: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = part_of(whole, tmp_path, "pretrain", "finetune", "scratch", "probe", "map")
    monkeypatch.setattr(State, "complete", full)
    line = failure(capfd, words(images, folder))
    assert "No space left on device: what is complete stays" in line


def test_a_damaged_checkpoint_is_named(
    whole: Whole, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = part_of(whole, tmp_path, "pretrain")
    path = folder / "pretrain/last.ckpt"
    path.write_bytes(path.read_bytes()[:100_000])
    line = failure(capfd, words(images, folder))
    assert re.search(rf"{path} is (damaged|truncated).*; without that file its step is", line)
    (folder / "pretrain/result.json").unlink()
    line = failure(capfd, words(images, folder))
    assert f"{path} is damaged" in line
    assert "without that file its step is done again" in line


def test_other_settings_are_named_and_nothing_changes(
    whole: Whole, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (whole.folder / "demo.json").read_bytes()
    line = failure(capfd, words(images, whole.folder, "--seed=1", "--finetune_epochs=7"))
    assert "(seed 0 there, 1 now, finetune_epochs 5 there, 7 now)" in line
    assert "--restart" in line
    assert (whole.folder / "demo.json").read_bytes() == before
    assert (whole.folder / "report.html").exists()


def test_restart_begins_again_and_leaves_what_is_not_the_demos(tmp_path: Path) -> None:
    for seed in (0, 1):
        state = State(tmp_path, {"seed": seed}, {"a": "file"}, restart=seed == 1)
        assert state.result("a") is None
        (tmp_path / "a").mkdir()
        state.complete("a", {"x": seed})
        assert state.result("a") is None
        (tmp_path / "a/file").touch()
        assert state.result("a") == {"x": seed}
        state.report.touch()
        (tmp_path / "mine").touch()
    State(tmp_path, {"seed": 1}, {"a": "file"}, restart=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "demo.json", "mine", "report.html"]
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(ValueError, match=r"demo\.json is damaged: begin again with --restart"):
        State(tmp_path, {"seed": 1}, {}, restart=False)
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(ValueError, match=r"demo\.json is not of this demo"):
        State(tmp_path, {"seed": 1}, {}, restart=False)


def test_a_folder_that_cannot_be_written_to_is_told_at_once(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    line = failure(capfd, words(images, tmp_path / "file/demo"))
    assert line == f"rsvheat demo: {tmp_path / 'file/demo'}: Not a directory"


def test_missing_data_and_wrong_numbers_are_told_in_a_line(
    images: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    line = failure(capfd, ["demo", f"--data={tmp_path}", f"--output={tmp_path / 'out'}"])
    assert line.startswith(f"rsvheat demo: there is no folder {tmp_path / 'eurosat_rgb'}: ")
    with pytest.raises(ValueError, match="finetune_epochs must be at least 1, got 0"):
        run_demo(tmp_path / "out", finetune_epochs=0)
    assert "--seed" in failure(capfd, ["demo", "--seed=one"], 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsvheat.demo.images._PACKAGE", tmp_path / "a/rsvheat")
    with pytest.raises(DataError, match="--full needs the whole datasets"):
        full_folder()
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_told_with_what_brings_them(tmp_path: Path, monkeypatch) -> None:
    found = lambda name: None if name == "rasterio" else object()  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    with pytest.raises(ImportError, match=r"needs rasterio: pip install 'rsvheat\[train,geo,exp"):
        run_demo(tmp_path)


def test_the_scene_is_not_trained_on(images: Path, tmp_path: Path) -> None:
    found = find_images(images)
    assert found.held_out == "046"
    assert shipped_images().held_out is None
    shutil.copytree(images, tmp_path / "images")
    for folder in ("opt", "sar"):
        (tmp_path / f"images/s1s2_volkov/{folder}/046.png").unlink()
    assert find_images(tmp_path / "images").held_out == "002"
    (tmp_path / "images/s1s2_volkov/sar/001.png").unlink()
    with pytest.raises(DataError, match="it has 1"):
        find_images(tmp_path / "images")


def test_the_map_is_of_the_scene_in_the_training_images_colours(whole: Whole) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no reference system, as the scene
        with rasterio.open(whole.folder / "map/map.tif") as file:
            assert file.tags()["RSVHEAT_MATCH"] == "true"
            assert file.tags()["RSVHEAT_SOURCE"] == "046.png"
            assert file.shape == (8, 12)


def test_differences_within_chance_are_called_so() -> None:
    assert "may be chance" in verdict(0.80, 0.78, 200)
    assert "Pretraining is worth 20.0 points" in verdict(0.80, 0.60, 200)
    assert "costs 20.0 points" in verdict(0.60, 0.80, 200)


def test_land_cover_is_scored_on_the_map_of_a_tile_that_no_crop_shows(whole: Whole) -> None:
    result = json.loads((whole.folder / "segment/result.json").read_text())
    scores = json.loads((whole.folder / "segment/segmentation.json").read_text())
    assert result["mean_iou"] == scores["mean_iou"]
    assert list(result["iou"]) == ["building", "land", "road", "vegetation", "water"]
    assert 0 < scores["pixels"] <= 200 * 160
    assert result["images"] == 4
    shipped = shipped_images().land_cover
    assert {path.name[:5] for path in (shipped / "train/images").iterdir()} == {"tile2", "tile5"}
    assert [path.stem for path in (shipped / "test/images").iterdir()] == ["tile1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no reference system, as the tile
        with rasterio.open(whole.folder / "segment/map.tif") as file:
            assert file.shape == (160, 200)
            values = np.unique(file.read(1))
    assert set(values) <= set(range(5))
