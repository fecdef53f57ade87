# SPDX-License-Identifier: Apache-2.0
"""Many scenes on a Dask cluster."""

import os
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rasterio")
distributed = pytest.importorskip("dask.distributed")

from rsvheat.checkpoint import TrainedModel  # noqa: E402
from rsvheat.data import Normalizer  # noqa: E402
from rsvheat.data.spec import DataSpec  # noqa: E402
from rsvheat.models import RSVHeat  # noqa: E402
from rsvheat.models.segmentation import SegmentationModel  # noqa: E402
from rsvheat.raster.cluster import predict_on_cluster  # noqa: E402
from rsvheat.raster.many import predict_many  # noqa: E402
from rsvheat.raster.work_list import work_list  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path):
    """A network of the package: workers do not know the tests' stand-ins."""
    encoder = RSVHeat(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), img_size=32, num_classes=0)
    network = SegmentationModel(encoder, 2, decoder="fpn", channels=8)
    spec = DataSpec({"optical": 3}, "mask", ("a", "b"), (32, 32))
    model = TrainedModel(network, spec, {"optical": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)})
    model.save(tmp_path / "c.ckpt")
    return tmp_path / "c.ckpt"


@pytest.fixture
def scenes(write_scene, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "scenes").mkdir()
    for number in range(12):
        path = write_scene(rng.integers(1, 255, (3, 40, 50), np.uint8))
        path.rename(tmp_path / f"scenes/{number}.tif")
    (tmp_path / "scenes/broken.tif").write_bytes(b"II*\0 nothing")
    return work_list([tmp_path / "scenes"])


@pytest.mark.slow
def test_a_killed_worker_loses_no_scene(scenes, checkpoint, tmp_path):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        killed = threading.Event()
        first = next(iter(client.run(os.getpid).values()))

        reported = []

        def kill(outcome):
            reported.append(outcome.name)
            if not killed.is_set():
                killed.set()
                os.kill(first, signal.SIGKILL)

        start = time.perf_counter()
        summary = predict_on_cluster(scenes, tmp_path / "out", checkpoint, client, report=kill)
        seconds = time.perf_counter() - start
    assert killed.is_set()
    assert seconds < 300
    assert [outcome.name for outcome in summary.outcomes] == [scene.name for scene in scenes]
    assert (summary.count("done"), summary.count("failed")) == (12, 1)
    # No scene twice, and nothing unfinished.
    assert sorted(reported) == sorted(scene.name for scene in scenes)
    suffixes = {path.name.partition(".")[2] for path in (tmp_path / "out").iterdir()}
    assert suffixes <= {"tif", "tif.aux.xml"}
    predict_many(scenes, tmp_path / "alone", TrainedModel.load(checkpoint, device="cpu"))
    for number in range(12):
        one, other = (tmp_path / folder / f"{number}.tif" for folder in ("out", "alone"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_the_command_starts_a_cluster(scenes, checkpoint, tmp_path, capsys):
    from rsvheat.cli import main

    words = ["predict", str(tmp_path / "scenes"), "--checkpoint", str(checkpoint)]
    words += ["--output", str(tmp_path / "out"), "--dask", "local", "--workers", "1"]
    assert main(words) == 1
    assert "13 scenes: 12 predicted, 0 there before, 1 failed" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.tif"))) == 12
    assert main([*words, "--resume"]) == 1
    assert "13 scenes: 0 predicted, 12 there before, 1 failed" in capsys.readouterr().out
