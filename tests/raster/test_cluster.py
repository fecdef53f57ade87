# SPDX-License-Identifier: Apache-2.0
"""Many scenes on a Dask cluster."""

import json
import os
import shutil
import signal
import subprocess
import sys
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

# Network namespaces, which stand for hosts.
NAMES = [f"rsvheat{os.getpid()}{letter}" for letter in "abc"]


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


def _namespaces():
    """Return why this machine gives no network namespaces, or None."""
    if shutil.which("ip") is None:
        return "there is no ip command"
    made = subprocess.run(["ip", "netns", "add", NAMES[0]], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", NAMES[0]], check=True)
    return None


@pytest.fixture
def hosts():
    """Three hosts of a network of their own, by name of the namespace and address."""
    missing = _namespaces()
    if missing:
        pytest.skip(missing)
    bridge = f"rsv{os.getpid()}"

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    found = {}
    try:
        for name in NAMES:
            ip("netns", "add", name)
        # The switch is in the first namespace, so that nothing of it is seen outside.
        inside = ["-n", NAMES[0]]
        ip(*inside, "link", "add", bridge, "type", "bridge")
        ip(*inside, "addr", "add", "10.87.0.1/24", "dev", bridge)
        ip(*inside, "link", "set", bridge, "up")
        ip(*inside, "link", "set", "lo", "up")
        found[NAMES[0]] = "10.87.0.1"
        for number, name in enumerate(NAMES[1:], 2):
            port = f"port{number}"
            ip(*inside, "link", "add", port, "type", "veth", "peer", "name", "net", "netns", name)
            ip(*inside, "link", "set", port, "master", bridge)
            ip(*inside, "link", "set", port, "up")
            found[name] = f"10.87.0.{number}"
            ip("-n", name, "addr", "add", f"{found[name]}/24", "dev", "net")
            ip("-n", name, "link", "set", "net", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield found
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_hosts_of_a_network_share_the_scenes_and_a_worker_may_be_lost(
    hosts, scenes, checkpoint, tmp_path
):
    """A scheduler and two workers on a host each; the second worker is killed midway."""
    running = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def on(host, *words):
        command = ["ip", "netns", "exec", host, sys.executable, "-W", "ignore", "-m", *words]
        log = (tmp_path / f"log{len(running)}.txt").open("w")
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return running[-1]

    address = f"tcp://{hosts[NAMES[0]]}:8786"
    try:
        on(NAMES[0], "distributed.cli.dask_scheduler", "--host", hosts[NAMES[0]], "--no-dashboard")
        workers = [
            on(name, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
               "--host", hosts[name], "--no-dashboard")
            for name in NAMES[1:]
        ]  # fmt: skip
        command = on(
            NAMES[0], "rsvheat", "predict", str(tmp_path / "scenes"), "--checkpoint",
            str(checkpoint), "--output", str(tmp_path / "out"), "--dask", address,
        )  # fmt: skip
        limit = time.monotonic() + 240
        while len(list((tmp_path / "out").glob("*.tif"))) < 3 and command.poll() is None:
            assert time.monotonic() < limit, (tmp_path / "log3.txt").read_text()
            time.sleep(0.02)
        workers[1].kill()
        assert command.wait(240) == 1, (tmp_path / "log3.txt").read_text()  # one scene is broken
    finally:
        for process in running:
            process.kill()
            process.wait()
    content = json.loads((tmp_path / "out/summary.json").read_text())
    assert (content["done"], content["skipped"], content["failed"]) == (12, 0, 1)
    names = [scene["name"] for scene in content["scenes"]]
    assert len(names) == len(set(names)) == 13
    predict_many(scenes, tmp_path / "alone", TrainedModel.load(checkpoint, device="cpu"))
    for number in range(12):
        one, other = (tmp_path / folder / f"{number}.tif" for folder in ("out", "alone"))
        assert one.read_bytes() == other.read_bytes()
