# SPDX-License-Identifier: Apache-2.0
"""Many scenes on several devices of one machine, and compiled networks."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
import rasterio
from raster.test_cluster import checkpoint, scenes  # noqa: F401 - fixtures
from stand_ins import Pixels, trained

from rsvheat.checkpoint import TrainedModel
from rsvheat.cli import main
from rsvheat.raster import predict
from rsvheat.raster.devices import predict_on_devices
from rsvheat.raster.many import predict_many

COUNT = 12


def test_two_processes_write_what_one_writes(scenes, checkpoint, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("jsonargparse")
    words = ["predict", str(tmp_path / "scenes"), "--checkpoint", str(checkpoint)]
    words += ["--output", str(tmp_path / "out"), "--devices", "[cpu,cpu]"]
    assert main(words) == 1
    assert "13 scenes: 12 predicted, 0 there before, 1 failed" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [scene["name"] for scene in summary["scenes"]] == [scene.name for scene in scenes]
    predict_many(scenes, tmp_path / "alone", TrainedModel.load(checkpoint, device="cpu"))
    for number in range(COUNT):
        one, other = (tmp_path / folder / f"{number}.tif" for folder in ("out", "alone"))
        assert one.read_bytes() == other.read_bytes()
    assert list((tmp_path / "out").glob(".unfinished-*")) == []


def test_a_killed_process_is_told_and_outputs_stay(scenes, checkpoint, tmp_path):  # noqa: F811
    killed = []

    def kill(outcome):
        if outcome.status == "done" and not killed:
            for child in multiprocessing.active_children():
                killed.append(child.pid)
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"a process of cpu was killed .*--resume goes on"):
        predict_on_devices(scenes, tmp_path / "out", checkpoint, ["cpu"], report=kill)
    there = len(list((tmp_path / "out").glob("*.tif")))
    assert 0 < there < COUNT
    model = TrainedModel.load(checkpoint, device="cpu")
    summary = predict_many(scenes, tmp_path / "out", model, resume=True)
    assert [summary.count(status) for status in ("done", "skipped", "failed")] == [
        COUNT - there, there, 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (["cpu", "cuda:99"], "device 'cuda:99' cannot be used: "),
        ([], "devices must name at least one"),
        pytest.param(
            "all",
            "torch finds none; name devices",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_devices_that_cannot_be_used_are_told(checkpoint, tmp_path, devices, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        predict_on_devices([], tmp_path / "out", checkpoint, devices)


@pytest.mark.slow
def test_a_compiled_network_predicts_the_same(write_scene, tmp_path):
    from torch._dynamo.utils import counters

    model = trained(Pixels)
    scene = write_scene(np.random.default_rng(0).integers(1, 255, (3, 70, 90), np.uint8))
    predict(scene, tmp_path / "a.tif", model, probability=tmp_path / "ap.tif")
    counters.clear()
    predict(scene, tmp_path / "b.tif", model, probability=tmp_path / "bp.tif", compile=True)
    assert counters["frames"]["ok"] > 0
    for name, most in (("", 0), ("p", 1)):
        with (
            rasterio.open(tmp_path / f"a{name}.tif") as one,
            rasterio.open(tmp_path / f"b{name}.tif") as other,
        ):
            assert np.abs(one.read().astype(int) - other.read()).max() <= most


def test_a_network_that_cannot_be_compiled_is_told(write_scene, tmp_path):
    model = trained(Pixels)

    def broken(graph, inputs):
        raise RuntimeError("there is no compiler")

    model.network.compile(backend=broken)
    scene = write_scene(np.zeros((3, 40, 40), np.uint8))
    with pytest.raises(
        ValueError, match=r"torch\.compile cannot compile the network for cpu: .*no compiler"
    ):
        predict(scene, tmp_path / "a.tif", model, compile=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
