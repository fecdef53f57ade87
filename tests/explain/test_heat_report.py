# SPDX-License-Identifier: Apache-2.0
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from explain.conftest import conducting

from rsvheat import cli, explain
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataSpec, Normalizer
from rsvheat.models.change_detection import ChangeDetectionModel

pytest.importorskip("matplotlib")
pytest.importorskip("jsonargparse")
PIL = pytest.importorskip("PIL.Image")

FIGURES = ("temperature", "diffusivity", "spread", "spectra", "bands", "receptive_field")


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, output, errors."""

    def call(*words):
        code = cli.main(["explain", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What training of a small encoder leaves, as far as the command reads it."""
    torch.manual_seed(0)
    encoder = conducting(modalities={"optical": 3, "sar": 1})
    normalizer = Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    torch.save(
        {
            "encoder": encoder.config,
            "state_dict": {f"network.{k}": v for k, v in encoder.state_dict().items()},
            "OpticalSarDataModule": {"normalizers": {"optical": normalizer.to_dict()}},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "a.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    PIL.fromarray(values).save(path)
    return path


def test_report_is_one_page_with_all_pictures(one_thread, tmp_path, png, checkpoint, run):
    output = tmp_path / "new" / "out"
    code, out, err = run(
        *(png, "--checkpoint", checkpoint, "--output", output, "--size", 32, "--point", "30,12"),
        *("--figures", "--arrays"),
    )
    assert (code, out.strip(), err) == (0, str(output / "report.html"), "")
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted([*(f"{name}.png" for name in FIGURES), "arrays.npz", "report.html"])
    html = (output / "report.html").read_text(encoding="utf-8")
    assert html.count("<img ") == len(FIGURES)
    assert len(html) < 2e6
    assert "http" not in re.sub('src="data:[^"]*"', "", html)
    for text in ("32 x 32 pixels from row 8, column 0", "row 30, column 12", str(checkpoint)):
        assert text in html
    assert "as in the training of the checkpoint" in html
    for name in FIGURES:
        with PIL.open(output / f"{name}.png") as picture:
            assert min(picture.size) > 300
    arrays = np.load(output / "arrays.npz")
    values = np.asarray(PIL.open(png))[8:40, :32]
    np.testing.assert_allclose(arrays["image"], (np.moveaxis(values, 2, 0) - 100.0) / 50, atol=1e-5)
    np.testing.assert_allclose(
        arrays["bands.low"] + arrays["bands.high"], arrays["image"], atol=1e-5
    )
    assert arrays["temperature.stage1_block1.before"].shape == (4, 4)
    assert arrays["diffusivity.stage0_block0"].shape == (8, 8, 8)
    assert arrays["spread.stage0_block0"].shape == (len(arrays["spread.times"]), 8, 8)
    assert arrays["receptive_field.this_model.stage0"].shape == (32, 32)
    assert "receptive_field.random_weights.stage1" in arrays
    assert set(arrays["spectra.image.omega"]) == set(explain.radial_mean(np.ones((32, 32)))[0])


@pytest.mark.parametrize("shared", [True, False])
def test_dates_of_a_change_detection_are_normalized_as_in_training(
    tmp_path, png, run, monkeypatch, shared
):
    stem = "optical" if shared else "later"
    encoder = conducting(modalities={"optical": 3, stem: 3})
    dates = {"before": "optical", "after": stem}
    network = ChangeDetectionModel(encoder, 2, dates=dates, decoder="fpn", channels=8)
    spec = DataSpec({"before": 3, "after": 3}, "mask", ("no change", "change"), (32, 32))
    normalizers = {
        "before": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0),
        "after": Normalizer((90.0,) * 3, (40.0,) * 3, 5.0),
    }
    TrainedModel(network, spec, normalizers).save(tmp_path / "change.ckpt")
    shown = []
    monkeypatch.setattr(
        "rsvheat.explain.write_report",
        lambda folder, model, image, modality, **options: shown.append((image, modality, options)),
    )
    values = np.moveaxis(np.asarray(PIL.open(png), np.float32), 2, 0)
    for name, date in ((None, "before"), ("optical", "before"), ("after", "after"), (stem, "")):
        date = date or ("before" if shared else "after")
        words = (png, "--checkpoint", tmp_path / "change.ckpt")
        code, _, err = run(*words, *(() if name is None else ("--modality", name)))
        assert code == 0, err
        image, modality, options = shown.pop()
        mean, std = {"before": (100, 50), "after": (90, 40)}[date]
        np.testing.assert_allclose(image, (values - mean) / std, atol=1e-5)
        assert modality == dates[date]
        assert options["about"]["normalized"] == "as in the training of the checkpoint"


def test_report_of_a_radar_image_and_one_stage(one_thread, tmp_path):
    encoder, image = conducting(), torch.randn(1, 17, 23)
    state = torch.random.get_rng_state()
    page = explain.write_report(tmp_path, encoder, image, "sar", stages=[1])
    assert page == tmp_path / "report.html"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "stage 0" not in page.read_text()
    assert encoder.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.source_tree
def test_weights_of_the_package_explain_the_shipped_scene(one_thread, tmp_path, run):
    path = Path(__file__).parents[2] / "examples" / "data" / "s1s2" / "test" / "sar" / "046.jpg"
    code, _, err = run(path, "--size", 64, "--stages", "0,-1", "--output", tmp_path)
    assert code == 0, err
    html = (tmp_path / "report.html").read_text()
    assert "rsvheat_nano, as it comes with rsvheat" in html
    assert "its own mean and standard deviation" in html
    assert "1, as sar" in html


def test_a_failed_report_leaves_the_old_one(one_thread, tmp_path, monkeypatch, image):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("rsvheat.explain.heat_report.plot_receptive_field", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain.write_report(tmp_path, conducting(), image, stages=[0], figures=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def one_line(err):
    assert err.count("\n") == 1, err
    assert err.startswith("rsvheat explain: ")
    assert "unexpected" not in err
    return err


def test_wrong_images_and_points_stop_with_a_line(tmp_path, png, checkpoint, run):
    (tmp_path / "cut.png").write_bytes(png.read_bytes()[:500])
    PIL.fromarray(np.zeros((8, 8, 4), np.uint8)).convert("CMYK").save(tmp_path / "four.tif")
    model = ("--checkpoint", checkpoint, "--output", tmp_path / "out")
    for words, message in (
        ((tmp_path / "none.png",), "none.png: No such file"),
        ((tmp_path / "cut.png",), "cut.png is damaged"),
        ((checkpoint,), "last.ckpt cannot be opened"),
        ((png, "--point", "40,0"), "point 40,0 (row, column) is outside of"),
        ((png, "--point", "0,-1"), "point 0,-1 (row, column) is outside of"),
        ((png, "--window", "0,40,8,9"), "is not within"),
        ((png, "--bands", "1,2"), "has 2 bands, the model takes 3 (optical), 1 (sar)"),
        ((png, "--modality", "sar"), "modality 'sar' takes 1: choose them, such as --bands 1"),
        ((png, "--stages", "4"), "stages must be within -2 to 1, got [4]"),
        ((png, "--block", "7"), "in stage 0, got 7"),
        ((png, "--gsd", "10"), "gsd has no effect"),
    ):
        code, _, err = run(*words, *model)
        assert code == 1
        assert message in one_line(err)
    code, _, err = run(png, "--point", "a,b", *model)
    assert code == 2
    assert "--point" in one_line(err)
    assert not (tmp_path / "out" / "report.html").exists()


def test_wrong_checkpoints_stop_with_a_line(tmp_path, png, checkpoint, run):
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>Sign in</html>")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:2000])
    torch.save({"state_dict": {"layer1.0.conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.ckpt")
    for words, message in (
        ((tmp_path / "none.ckpt",), "no checkpoint file at"),
        ((tmp_path / "page.ckpt",), "is a web page (HTML)"),
        ((tmp_path / "cut.ckpt",), "cut.ckpt is truncated"),
        ((tmp_path / "resnet.ckpt",), "name the variant, too"),
        ((tmp_path / "resnet.ckpt", "--variant", "rsvheat_nano"), "is of another architecture"),
        ((checkpoint, "--variant", "rsvheat_nano"), "has other depths"),
        ((checkpoint, "--variant", "resnet18"), "no model is named 'resnet18'"),
    ):
        code, _, err = run(png, "--checkpoint", *words, "--output", tmp_path / "out")
        assert code == 1
        assert message in one_line(err)
    code, _, err = run(png, "--variant", "rsvheat_tiny", "--output", tmp_path / "out")
    assert "no weights of rsvheat_tiny come with the package" in one_line(err)


def test_folders_that_cannot_be_written_stop_with_a_line(tmp_path, png, checkpoint, run):
    (tmp_path / "file").touch()
    code, _, err = run(png, "--checkpoint", checkpoint, "--output", tmp_path / "file" / "out")
    assert code == 1
    assert "Not a directory" in one_line(err)
    if os.geteuid() == 0:
        return  # who writes everywhere
    (tmp_path / "closed").mkdir(mode=0o500)
    code, _, err = run(png, "--checkpoint", checkpoint, "--output", tmp_path / "closed" / "out")
    assert code == 1
    assert "Permission denied" in one_line(err)
