# SPDX-License-Identifier: Apache-2.0
"""Maps that an interrupted process left unfinished."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
from rasterio.transform import Affine
from stand_ins import Classifier, Pixels, trained

from rsvheat.raster import predict

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
CLASSES = ("field", "water", "road")


class Interrupting(Pixels):
    """Is interrupted at a call of the network."""

    task = "stand_in_interrupting"
    left = 10**9

    def predict(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().predict(images)


@pytest.fixture
def scene(write_scene):
    values = np.random.default_rng(0).integers(1, 255, (3, 150, 130), np.uint8)
    values[:, 30:60, 40:90] = 0
    return write_scene(values, nodata=0, **UTM)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("window", "overlap", "memory"), [(40, 10, 1.0), (40, 30, 1.0), (40, 10, 1e-6)]
)
def test_an_interrupted_map_ends_with_the_same_bytes(scene, tmp_path, window, overlap, memory):
    model = trained(Interrupting, classes=CLASSES)
    options = {"window": window, "overlap": overlap, "memory": memory, "batch_size": 2}

    def run(name, **more):
        folder = tmp_path / name
        probability = folder / "p.tif"
        return predict(scene, folder / "m.tif", model, probability=probability, **options, **more)

    expected = run("whole")
    total = 10**9 - model.network.left
    for calls in np.linspace(0, total - 1, 5).astype(int).tolist():
        name = f"after{calls}"
        for left in (calls, total // 2):
            model.network.left = left
            with pytest.raises(KeyboardInterrupt):
                run(name, resume=True)
            assert content(tmp_path / name) == {}
            if calls > total // 2:
                break
        model.network.left = 10**9
        result = run(name, resume=True)
        # What was done before was not done again.
        assert 10**9 - model.network.left < total or calls < total // 3
        assert content(tmp_path / name) == content(tmp_path / "whole")
        assert {path.name for path in (tmp_path / name).iterdir()} == set(content(tmp_path / name))
        for field in ("counts", "nodata", "square_km", "confidence"):
            assert getattr(result, field) == getattr(expected, field)


def test_classes_of_windows_go_on_too(scene, tmp_path, monkeypatch):
    model = trained(Classifier, classes=CLASSES, size=16)
    predict(scene, tmp_path / "a.tif", model, batch_size=8)
    calls, original = [], model.network.predict

    def counted(images):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(images)

    monkeypatch.setattr(model.network, "predict", counted)
    with pytest.raises(KeyboardInterrupt):
        predict(scene, tmp_path / "b.tif", model, batch_size=8, resume=True)
    predict(scene, tmp_path / "b.tif", model, batch_size=8, resume=True)
    first = len(calls)
    calls.clear()
    calls += [1] * 10
    predict(scene, tmp_path / "c.tif", model, batch_size=8)
    assert first - 1 <= len(calls) - 10 + 1  # one batch was made twice at most
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_another_prediction_does_not_go_on(scene, write_scene, tmp_path):
    model = trained(Interrupting, classes=CLASSES)
    output = tmp_path / "out/m.tif"

    def begin():
        model.network.left = 6
        with pytest.raises(KeyboardInterrupt):
            predict(scene, output, model, window=40, batch_size=1, resume=True)
        model.network.left = 10**9

    begin()
    with pytest.raises(FileExistsError, match="was begun with RSVHEAT_WINDOW 40, and this one has"):
        predict(scene, output, model, window=48, batch_size=1, resume=True)
    with torch.no_grad():
        model.network.second.bias.add_(1)
    with pytest.raises(FileExistsError, match="was begun with weights"):
        predict(scene, output, model, window=40, batch_size=1, resume=True)
    assert len(list(output.parent.glob(".unfinished-*"))) == 1
    # Without resume nothing is taken over, and nothing stays.
    begin_again = predict(scene, output, model, window=40, batch_size=1)
    assert sum(begin_again.counts) == 150 * 130 - 30 * 50
    assert sorted(path.name for path in output.parent.iterdir()) == ["m.tif", "m.tif.aux.xml"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_resume as module
from rsvheat.raster import predict
from stand_ins import trained
import torch
torch.manual_seed(0)
class Killing(module.Interrupting):
    task = "stand_in_killing"
    def predict(self, images):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return module.Pixels.predict(self, images)
model = trained(Killing, classes=module.CLASSES)
model.network.left = int(sys.argv[4])
predict(sys.argv[2], sys.argv[3], model, window=40, batch_size=2, resume=True)
"""


def test_a_killed_process_can_be_gone_on_from(scene, tmp_path):
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": f"{os.path.dirname(here)}:{here}"}

    def run(name, calls):
        words = [sys.executable, "-c", KILLED, here, str(scene), str(tmp_path / name), str(calls)]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    whole = run("a.tif", 10**9)
    assert whole.returncode == 0, whole.stderr
    assert run("b.tif", 7).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".unfinished-*"))) == 1
    again = run("b.tif", 10**9)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert list(tmp_path.glob(".unfinished-*")) == []
