# SPDX-License-Identifier: Apache-2.0
"""Many small scenes on a Dask cluster: complete, equal to one process, and how fast.

Runs, each in folders of its own:

one process        All scenes one after the other.
two workers        A scheduler and two workers, a process each.
one killed         The same; when half of the scenes are done, one worker is killed.
three hosts        Each worker in a network namespace with an address of its own (needs root and
                   `ip netns`); when half of the scenes are done, one host's link is cut.

Workers are started before the clock is; the network is loaded while it runs. Seconds of the CPU are
those of the workers.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from operator_tables import RESULTS, BenchmarkError
from rasterio.transform import Affine
from tables import ROOT, append, execute, read

from rsvheat.benchmarking import describe
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Normalizer
from rsvheat.data.spec import DataSpec
from rsvheat.models import create_model
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.raster.cluster import predict_on_cluster
from rsvheat.raster.many import SceneOutcome, Summary, predict_many
from rsvheat.raster.work_list import SceneFiles, work_list

TABLE = RESULTS / "cluster.csv"
TILE = ROOT / "examples/data/dubai/test/images/tile1.jpg"
WINDOW = 128
RUNS = ("one process", "two workers", "one killed", "three hosts")
BRIDGE, NETWORK = "rsvheat0", "10.213.77"


def run(arguments: argparse.Namespace) -> None:
    """Write a row of each run."""
    command = "python benchmarks/cluster.py " + " ".join(sys.argv[1:])
    head = describe("cpu", 1, command, ("dask", "rasterio"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = _scenes(folder / "scenes", arguments.scenes, arguments.side)
        checkpoint = folder / "network.ckpt"
        _untrained().save(checkpoint)
        rows, whole = [], folder / RUNS[0]
        for kind in RUNS:
            if kind not in arguments.runs and kind != RUNS[0]:
                continue
            done = _timed(kind, scenes, folder / kind, checkpoint)
            row: dict[str, Any] = {"run": kind, "scenes": len(scenes), "side": arguments.side}
            row |= done | _checked(folder / kind, whole, scenes)
            rows.append(row)
            print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    append(TABLE, rows, head)


def _scenes(folder: Path, count: int, side: int) -> list[SceneFiles]:
    """Write crops of an aerial image, each with a place of its own."""
    folder.mkdir()
    with rasterio.open(TILE) as file:
        pixels = file.read()
    random = np.random.default_rng(0)
    for number in range(count):
        top, left = (int(random.integers(0, length - side)) for length in pixels.shape[1:])
        place = Affine(0.5, 0, 300_000 + 0.5 * left, 0, -0.5, 2_790_000 - 0.5 * top)
        with rasterio.open(
            folder / f"{number:03}.tif", "w", "GTiff", side, side, 3, "EPSG:32640", place, "uint8"
        ) as file:
            file.write(pixels[:, top : top + side, left : left + side])
    return work_list([folder])


def _untrained() -> TrainedModel:
    torch.manual_seed(0)
    encoder = create_model("rsvheat_nano", num_classes=0, img_size=WINDOW)
    network = SegmentationModel(encoder, 5, decoder="fpn")
    spec = DataSpec({"optical": 3}, "mask", tuple("abcde"), (WINDOW, WINDOW))
    return TrainedModel(network, spec, {"optical": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)})


def _timed(
    kind: str, scenes: Sequence[SceneFiles], folder: Path, checkpoint: Path
) -> dict[str, Any]:
    """Predict the scenes, and return what came of it."""
    if kind == "one process":
        start, cpu = time.perf_counter(), time.process_time()
        summary = predict_many(scenes, folder, TrainedModel.load(checkpoint, device="cpu"))
        used = [time.process_time() - cpu]
    else:
        with ExitStack() as stack:
            hosts = [""] * 2
            if kind == "three hosts":
                hosts = stack.enter_context(_hosts(3))
            address, workers = stack.enter_context(_cluster(hosts, folder.parent / "logs"))
            lose = None if kind == "two workers" else _losing(kind, workers, hosts, len(scenes))
            before = [_cpu_seconds(process.pid) for process in workers]
            start = time.perf_counter()
            summary = predict_on_cluster(scenes, folder, checkpoint, address, report=lose)
            # That of a killed worker is gone.
            after = [_cpu_seconds(process.pid) for process in workers]
            used = [b - a for a, b in zip(before, after, strict=True) if b]
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "scenes_per_s": len(scenes) / seconds,
        "cpu_s": sum(used),
        "done": summary.count("done"),
        "failed": summary.count("failed"),
        "named_once": _named_once(summary, scenes),
    }


def _named_once(summary: Summary, scenes: Sequence[SceneFiles]) -> bool:
    return [outcome.name for outcome in summary.outcomes] == [scene.name for scene in scenes]


def _losing(
    kind: str, workers: Sequence["subprocess.Popen[bytes]"], hosts: Sequence[str], count: int
) -> Callable[[SceneOutcome], None]:
    """Return a report that loses a worker when half of the scenes are done."""
    done: list[str] = []

    def report(outcome: SceneOutcome) -> None:
        done.append(outcome.name)
        if len(done) == count // 2:
            if kind == "one killed":
                workers[0].send_signal(signal.SIGKILL)
            else:
                _ip("link", "set", f"{hosts[0]}r", "down")

    return report


def _checked(folder: Path, whole: Path, scenes: Sequence[SceneFiles]) -> dict[str, Any]:
    """Return how many maps are those of one process, byte for byte, and what else is there."""
    maps = {path.name for path in folder.glob("*.tif")}
    equal = [
        (folder / name).read_bytes() == (whole / name).read_bytes()
        for name in (f"{scene.name}.tif" for scene in scenes)
        if name in maps
    ]
    return {
        "maps": len(maps),
        "equal": sum(equal),
        "other_files": len(list(folder.iterdir())) - len(maps),
    }


@contextmanager
def _cluster(
    hosts: Sequence[str], logs: Path
) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """Start a scheduler, and a worker on each host ("" for this one)."""
    from dask.distributed import Client

    logs.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A worker that does not answer for so long is lost; a killed one is so at once.
    environment["DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"] = "10s"
    host = f"{NETWORK}.1" if hosts[0] else "127.0.0.1"
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack:

        def start(command: Sequence[str], name: str) -> "subprocess.Popen[bytes]":
            log = stack.enter_context((logs / name).open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        place = logs / "scheduler.json"
        place.unlink(missing_ok=True)
        words = ["scheduler", "--host", host, "--port", "0", "--no-dashboard", "--no-show"]
        start([*dask, *words, "--scheduler-file", str(place)], "scheduler.log")
        workers = []
        for number, namespace in enumerate(hosts):
            inside = ["ip", "netns", "exec", namespace] if namespace else []
            words = ["worker", "--scheduler-file", str(place), "--no-nanny", "--nthreads", "1"]
            words += ["--no-dashboard", "--local-directory", str(logs)]
            if namespace:
                words += ["--host", f"{NETWORK}.{number + 2}"]
            while not place.exists():
                time.sleep(0.1)
            workers.append(start([*inside, *dask, *words], f"worker{number}.log"))
        with Client(scheduler_file=str(place), timeout=60) as client:
            client.wait_for_workers(len(hosts), timeout=120)
            address = client.scheduler.address
        yield address, workers


@contextmanager
def _hosts(count: int) -> Iterator[list[str]]:
    """Create network namespaces on one bridge, which this process is on too."""
    with ExitStack() as stack:
        _ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", BRIDGE)
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        names = [f"rsvheat{number + 1}" for number in range(count)]
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("link", "add", f"{name}r", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"{name}r", "master", BRIDGE)
            _ip("link", "set", f"{name}r", "up")
            _ip("-n", name, "address", "add", f"{NETWORK}.{number + 2}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    if fields[0] == "Z":
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def markdown() -> str:
    """Return the table."""
    lines = [
        "| run | scenes | done | failed | maps | equal to one process | s | scenes/s | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in read(TABLE):
        cells = [row[key] for key in ("run", "scenes", "done", "failed", "maps", "equal")]
        cells += [f"{float(row['seconds']):.1f}", f"{float(row['scenes_per_s']):.2f}"]
        lines.append(f"| {' | '.join(cells)} | {float(row['cpu_s']):.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run, threads=1)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--side", type=int, default=256, help="of a scene; default: 256")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--markdown", action="store_true", help="print the table, no run")
    return execute(run, markdown, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
