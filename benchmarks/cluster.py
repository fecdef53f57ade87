# SPDX-License-Identifier: Apache-2.0
"""Predict many scenes in one process, on a Dask cluster, and on one that loses a worker midway.

Each way starts with an empty folder; all have to end with the same bytes, every scene once. A
scene is a crop of an image; all processes compute with one thread.
"""

import argparse
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from dask import distributed
from operator_tables import RESULTS
from rasterio.transform import Affine
from tables import append

from rsvheat.benchmarking import describe
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Window, read_image
from rsvheat.raster.cluster import predict_on_cluster
from rsvheat.raster.many import Summary, predict_many
from rsvheat.raster.work_list import SceneFiles, work_list

TABLE = RESULTS / "cluster.csv"
IMAGE = Path(__file__).parents[1] / "examples/data/dubai/test/images/tile1.jpg"


def write_scenes(folder: Path, image: Path, count: int, side: int) -> list[SceneFiles]:
    """Write crops of an image as GeoTIFF, at places that are spread evenly over it.

    Args:
        folder: Folder of the scenes.
        image: Image to crop.
        count: Number of scenes.
        side: Side of the scenes in pixels.
    """
    folder.mkdir()
    values, _ = read_image(image)
    generator = np.random.default_rng(0)
    for number in range(count):
        top, left = (int(generator.integers(0, length - side)) for length in values.shape[1:])
        place = {"crs": "EPSG:32640", "transform": Affine(1, 0, left, 0, -1, -top)}
        with rasterio.open(
            folder / f"{number:03}.tif", "w", "GTiff", side, side, 3, dtype="uint8", **place
        ) as file:
            file.write(values[:, top : top + side, left : left + side])
    return work_list([folder])


def digests(folder: Path, scenes: Sequence[SceneFiles]) -> list[str]:
    """Return digests of the maps of scenes, of which there must be one each and nothing else."""
    there = sorted(path.name for path in folder.iterdir() if path.suffix != ".xml")
    expected = sorted(f"{scene.name}.tif" for scene in scenes)
    if there != expected:
        raise RuntimeError(f"{folder} has {len(there)} files, {len(expected)} were expected")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in expected]


def timed(call: Callable[[], Summary]) -> tuple[Summary, float, float]:
    """Return a summary, and seconds by the clock and of all processors, of children, too."""
    before, start = os.times(), time.perf_counter()
    summary = call()
    seconds, after = time.perf_counter() - start, os.times()
    processor = sum(b - a for a, b in zip(before[:4], after[:4], strict=True))
    return summary, seconds, processor


def on_cluster(
    scenes: Sequence[SceneFiles],
    folder: Path,
    checkpoint: Path,
    workers: int,
    lost_after: int | None,
) -> Summary:
    """Predict on a local cluster; a worker is killed after a number of scenes."""
    done: list[str] = []
    # The cluster ends within the timed call, so that the time of its processes counts.
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))

        def report(outcome: Any) -> None:
            done.append(outcome.name)
            if len(done) == lost_after:
                os.kill(victim, signal.SIGKILL)

        return predict_on_cluster(scenes, folder, checkpoint, client, device="cpu", report=report)


def main() -> None:
    """Write a row of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="network for classes")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    read_image(arguments.image, Window(0, 0, 1, 1))
    names = ("image", "scenes", "side", "workers")
    shown = " ".join(f"--{name} {getattr(arguments, name)}" for name in names if name != "image")
    head = describe("cpu", 1, f"python benchmarks/cluster.py {shown}", ("dask",))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenes = write_scenes(folder / "scenes", arguments.image, arguments.scenes, arguments.side)
        model = TrainedModel.load(arguments.checkpoint, device="cpu")
        cluster = (scenes, folder / "maps", arguments.checkpoint, arguments.workers)
        ways: dict[str, Callable[[], Summary]] = {
            "one process": lambda: predict_many(scenes, folder / "maps", model),
            f"{arguments.workers} workers": lambda: on_cluster(*cluster, None),
            f"{arguments.workers} workers, one killed midway": lambda: on_cluster(
                *cluster, arguments.scenes // 2
            ),
        }
        expected: list[str] = []
        for way, call in ways.items():
            summary, seconds, processor = timed(call)
            found = digests(folder / "maps", scenes)
            expected = expected or found
            shutil.rmtree(folder / "maps")
            listed = [outcome.name for outcome in summary.outcomes]
            row = {
                "way": way,
                "scenes": len(scenes),
                "side": arguments.side,
                "predicted": summary.count("done"),
                "failed": summary.count("failed"),
                "twice": len(listed) - len(set(listed)),
                "equal": sum(a == b for a, b in zip(expected, found, strict=True)),
                "seconds": seconds,
                "cpu_seconds": processor,
                "scenes_a_second": len(scenes) / seconds,
            }
            append(TABLE, [row], head)
            print(
                ", ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
                )
            )


if __name__ == "__main__":
    main()
