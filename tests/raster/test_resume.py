# SPDX-License-Identifier: Apache-2.0
"""Maps and boxes that an interrupted process left unfinished."""

import os
import subprocess
import sys
from pathlib import Path  # noqa: F401 - of the killed processes

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
from box_scenes import harbor
from rasterio.transform import Affine
from stand_ins import Boxes, Classifier, OrientedBoxes, Pixels, interrupted, trained

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
    options["probability_of"] = CLASSES[::-2] if overlap == 30 else ()

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
    calls = interrupted(monkeypatch, model.network, at=5)
    with pytest.raises(KeyboardInterrupt):
        predict(scene, tmp_path / "b.tif", model, batch_size=8, resume=True)
    predict(scene, tmp_path / "b.tif", model, batch_size=8, resume=True)
    first = len(calls)
    calls.clear()
    calls += [1] * 10
    predict(scene, tmp_path / "c.tif", model, batch_size=8)
    assert first - 1 <= len(calls) - 10 + 1  # one batch was made twice at most
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_rows_that_were_just_being_made_are_made_again(scene, tmp_path):
    """A process was killed while it created the file, which holds a header and nothing else."""
    model = trained(Pixels, classes=CLASSES)
    predict(scene, tmp_path / "whole/m.tif", model)
    unfinished = tmp_path / "out/.unfinished-abc"
    unfinished.mkdir(parents=True)
    (unfinished / "rows-m.tif").write_bytes(b"II*\0\0\0\0\0")
    predict(scene, tmp_path / "out/m.tif", model, resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert list((tmp_path / "out").glob(".*")) == []


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


@pytest.fixture
def busy(write_scene):
    """A scene of 150 x 210 pixels with ships, of which one is larger than the windows' overlap."""
    values, _ = harbor(150, 210)
    values[:, 60:66, 20:200] = 250
    return write_scene(values, **UTM)


@pytest.mark.parametrize(
    ("kind", "name", "memory"),
    [
        (Boxes, "b.geojson", 1e-6),
        (OrientedBoxes, "b.gpkg", 1.0),
        (Boxes, "b.fgb", 1.0),
        (Boxes, "b.parquet", 1.0),
    ],
)
def test_interrupted_boxes_end_with_the_same_bytes(busy, tmp_path, kind, name, memory):
    model = trained(kind, classes=CLASSES[:2], size=64)
    options = {"overlap": 24, "memory": memory, "batch_size": 2}
    calls, limit, original = [], 10**9, model.network.predict

    def counted(images):
        calls.append(1)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return original(images)

    model.network.predict = counted
    expected = predict(busy, tmp_path / "whole" / name, model, **options)
    total = len(calls)
    output = tmp_path / "again" / name
    for limit in (0, total // 3, total // 2):  # noqa: B007 - read by counted
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            predict(busy, output, model, resume=True, **options)
        assert not output.exists()
    calls.clear()
    limit = 10**9
    result = predict(busy, output, model, resume=True, **options)
    # What was done before was not done again.
    assert len(calls) < total // 2 + total // 6
    assert output.read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (result.counts, result.confidence) == (expected.counts, expected.confidence)
    assert sum(result.counts) > 9
    assert list(output.parent.iterdir()) == [output]


def test_boxes_of_another_prediction_do_not_go_on(busy, tmp_path, monkeypatch):
    model = trained(Boxes, classes=CLASSES[:2], size=64)
    output = tmp_path / "b.geojson"
    interrupted(monkeypatch, model.network, at=6)
    with pytest.raises(KeyboardInterrupt):
        predict(busy, output, model, batch_size=2, resume=True)
    with pytest.raises(
        FileExistsError, match=r"was begun with min_score None, and this one has 0\.5: "
    ):
        predict(busy, output, model, batch_size=2, resume=True, min_score=0.5)
    assert len(list(tmp_path.glob(".unfinished-*"))) == 1
    predict(busy, output, model, batch_size=2)
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif", "b.geojson"}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_resume as module
import torch
from rsvheat import _files
from rsvheat.raster import journal, predict, vector_files, writing
from stand_ins import Boxes, trained

torch.manual_seed(0)
torch.set_num_threads(1)
maps = trained(module.Pixels, classes=module.CLASSES)
boxes = trained(Boxes, classes=module.CLASSES[:2], size=64)
RUNS = {
    "map.tif": (maps, {"window": 64, "batch_size": 2}),
    "boxes.gpkg": (boxes, {"overlap": 24, "batch_size": 1}),
}
scene, folder = sys.argv[2:4]

def killing(owner, name, number):
    # Kills this process at a call of a function.
    original, calls = getattr(owner, name), []
    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, call)

MOMENTS = {
    "map.tif": [
        (maps.network, "predict", 1), (maps.network, "predict", 6),
        (writing.LayerWriter, "flush", 2), (journal.json, "dumps", 3), (writing, "_finish", 1),
    ],
    "boxes.gpkg": [
        (boxes.network, "predict", 1), (boxes.network, "predict", 6),
        (vector_files._GeoPackage, "write", 3), (journal.Journal, "remove", 1),
    ],
}
for output, (model, options) in RUNS.items():
    predict(scene, f"{folder}/whole/{output}", model, **options)
    whole = {p.name: p.read_bytes() for p in module.Path(folder, "whole").glob(f"{output}*")}
    for number, moment in enumerate(MOMENTS[output]):
        place = module.Path(folder, f"{number}")
        child = os.fork()
        if child == 0:
            killing(*moment)
            predict(scene, place / output, model, resume=True, **options)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
        assert not (place / output).exists(), moment
        predict(scene, place / output, model, resume=True, **options)
        assert {p.name: p.read_bytes() for p in place.glob(f"{output}*")} == whole, moment
        assert list(place.glob(".*")) == [], moment
"""


def test_processes_that_are_killed_at_any_moment_can_be_gone_on_from(busy, tmp_path):
    pytest.importorskip("pyogrio")
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": f"{os.path.dirname(here)}:{here}"}
    words = [sys.executable, "-c", KILLED, here, str(busy), str(tmp_path / "out")]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
