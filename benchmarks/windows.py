# SPDX-License-Identifier: Apache-2.0
"""Windows of large rasters: size and overlap, and the share of the time that is the network's.

agreement  Maps by windows of several sizes and overlaps beside one pass over the whole scene.
speed      Pixels per second of `rsvheat.raster.predict` over those of the network alone.

Seconds are the process's own on one thread. The settings of a scene take turns; the least of the
rounds counts for `agreement`, and the median over the turns' ratios for `speed`.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from operator_tables import RESULTS
from tables import ROOT, append, execute, read

from rsvheat.benchmarking import describe
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Normalizer, Window
from rsvheat.data.spec import IGNORE_INDEX, DataSpec
from rsvheat.evaluation import count_confusion
from rsvheat.models import create_model
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.raster import predict
from rsvheat.raster.dense import DensePredictor
from rsvheat.raster.matching import matched
from rsvheat.raster.predictor import Options, Scenes, open_scenes, square_size
from rsvheat.raster.tiling import window_starts

AGREEMENT, SPEED = RESULTS / "windows.csv", RESULTS / "windows_speed.csv"
TILE = ROOT / "examples/data/dubai/test"
# Raster, bands, mask of its classes, and whether its colors are matched to those of training.
SCENES: dict[str, tuple[str, tuple[int, ...], Path | None, bool]] = {
    "Dubai, tile 1": (str(TILE / "images/tile1.jpg"), (1, 2, 3), TILE / "masks/tile1.png", False),
    "NAIP 2020": ("geotiff/naip/m_4709963_se_14_1_20200831.tif", (1, 2, 3), None, True),
}
UNLABELED = 5
SIZES = (128, 192, 256, 384, 512)
OVERLAPS = (0, 1 / 8, 1 / 4, 1 / 2)  # of the side
# Pixels next to the border of the scene that are not compared: a quarter of the largest window.
BORDER = 128
# Encoder, and side of the windows.
NETWORKS = (("rsvheat_nano", 256), ("rsvheat_tiny", 256))


def agreement(arguments: argparse.Namespace) -> None:
    """Write a row of each scene, size and overlap."""
    trained = TrainedModel.load(arguments.checkpoint, device="cpu")
    command = "python benchmarks/windows.py " + " ".join(sys.argv[1:])
    head = describe("cpu", 1, command, ("rasterio",))
    for name, (source, bands, mask, match) in SCENES.items():
        path = arguments.data / source  # which is the source, if that is absolute
        labels = None
        if mask is not None:
            with rasterio.open(mask) as file:
                values = file.read(1).astype(np.int64)
            labels = torch.from_numpy(np.where(values == UNLABELED, IGNORE_INDEX, values))
        with open_scenes(path, trained.spec.modalities, list(bands)) as scenes:
            model = matched(trained, scenes) if match else trained
            calls: dict[tuple[int, int], Callable[[], NDArray[Any]]] = {
                (0, 0): lambda model=model, scenes=scenes: _one_pass(model, scenes)
            }
            for size in arguments.sizes:
                for part in arguments.overlaps:
                    options = Options(window=size, overlap=round(part * size))
                    calls[size, round(part * size)] = (
                        lambda model=model, scenes=scenes, options=options: _by_windows(
                            DensePredictor(model, scenes, options)
                        )
                    )
            times: dict[tuple[int, int], list[float]] = {case: [] for case in calls}
            found = {}
            for _ in range(arguments.rounds):
                for case, call in calls.items():
                    begin = time.process_time()
                    found[case] = call()
                    times[case].append(time.process_time() - begin)
        rows = []
        for (size, overlap), result in found.items():
            row = {"scene": name, "window": size, "overlap": overlap}
            row |= _compared(result, found[0, 0])
            if size:
                row |= {"seams": _seams(result[0], size, overlap)}
            if labels is not None:
                row |= _scores(result[0], labels, len(trained.classes))
            row |= {"cpu_seconds": min(times[size, overlap])}
            rows.append(row)
            print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        append(AGREEMENT, rows, head)


def _one_pass(model: TrainedModel, scenes: Scenes) -> NDArray[Any]:
    """Return classes and their probabilities (2, H, W) from one pass over the whole scene."""
    scene = next(iter(scenes.values()))
    whole = Window(0, 0, scene.height, scene.width)
    images = {n: model.normalizers[n](s.read(whole))[None] for n, s in scenes.items()}
    best, labels = model.infer(images)[0].max(0)
    return np.stack((labels.numpy(), best.numpy()))


def _by_windows(predictor: DensePredictor) -> NDArray[Any]:
    """Return classes and their probabilities (2, H, W)."""
    rows = [part for _, part in predictor.parts()]
    return np.concatenate([np.stack((r.labels, r.probabilities)) for r in rows], 1)


def _compared(found: NDArray[Any], whole: NDArray[Any]) -> dict[str, float]:
    inner = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    other, change = found[0] != whole[0], np.abs(found[1] - whole[1])
    return {
        "other_class": float(other.mean()),
        "other_class_inside": float(other[inner[1:]].mean()),
        "probability_change": float(change[inner[1:]].mean()),
    }


def _seams(labels: NDArray[Any], size: int, overlap: int) -> float:
    """Return how much more often classes change near seams than between other pixels.

    Near are the eight pixels around the place where the weight of a window begins or ends: the
    network's steps of eight pixels show in its maps.
    """
    near, elsewhere = [], []
    margin = overlap // 4
    for lines in (labels, labels.T):
        changes = (lines[1:] != lines[:-1]).mean(1)
        starts = window_starts(len(lines), size, overlap, margin)
        edges = {start + margin for start in starts[1:]}
        edges |= {start + size - margin for start in starts[:-1]}
        rows = np.unique([np.arange(edge - 5, edge + 3) for edge in edges])
        near.append(changes[rows])
        elsewhere.append(np.delete(changes, rows))
    return float(np.concatenate(near).mean() / np.concatenate(elsewhere).mean())


def _scores(found: NDArray[Any], labels: torch.Tensor, classes: int) -> dict[str, float]:
    counts = count_confusion(
        torch.from_numpy(found.astype(np.int64)), labels, classes, IGNORE_INDEX
    )
    right = counts.diagonal().double()
    iou = right / (counts.sum(0) + counts.sum(1) - right)
    return {"mean_iou": float(iou.nanmean()), "accuracy": float(right.sum() / counts.sum())}


def speed(arguments: argparse.Namespace) -> None:
    """Write a row of each network."""
    command = "python benchmarks/windows.py " + " ".join(sys.argv[1:])
    head = describe("cpu", 1, command, ("rasterio",))
    source, bands, _, _ = SCENES["NAIP 2020"]
    models = {name: _untrained(name, size) for name, size in arguments.networks}
    if arguments.checkpoint:
        models["rsvheat_nano of the demo"] = TrainedModel.load(arguments.checkpoint, device="cpu")
    for name, model in models.items():
        size = square_size(model)
        with tempfile.TemporaryDirectory() as folder:
            scene = Path(folder) / "scene.tif"
            _mosaic(arguments.data / source, bands, scene, arguments.side)
            with open_scenes(scene, model.spec.modalities) as scenes:
                predictor = DensePredictor(model, scenes, Options())
            windows = predictor.windows
            # The scene is square: so many windows are in a row, which the network gets at once.
            batch = math.isqrt(windows)
            x = {"optical": torch.randn(batch, 3, *model.input_size(size, size))}
            output = Path(folder) / "map.tif"

            def bare(model: Any = model, x: Any = x, windows: int = windows) -> None:
                count = len(x["optical"])
                with torch.inference_mode():
                    for first in range(0, windows, count):
                        most = min(count, windows - first)
                        model.network.predict({k: v[:most] for k, v in x.items()})

            def whole(model: Any = model, scene: Path = scene, output: Path = output) -> None:
                predict(scene, output, model, overwrite=True)

            turns = [(_timed(bare), _timed(whole)) for _ in range(arguments.rounds)]
        row: dict[str, Any] = {"network": name, "window": size, "side": arguments.side}
        row |= {"windows": windows}
        for clock, kind in enumerate(("cpu", "wall")):
            row[f"bare_{kind}_s"] = statistics.median(b[clock] for b, _ in turns)
            row[f"predict_{kind}_s"] = statistics.median(p[clock] for _, p in turns)
            row[f"{kind}_ratio"] = statistics.median(b[clock] / p[clock] for b, p in turns)
        row["megapixels_per_cpu_s"] = arguments.side**2 / 1e6 / row["predict_cpu_s"]
        print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        append(SPEED, [row], head)


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    """Return CPU seconds and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def _untrained(name: str, size: int) -> TrainedModel:
    """Return a network with random weights, whose time is that of a trained one."""
    torch.manual_seed(0)
    encoder = create_model(name, num_classes=0, img_size=size)
    network = SegmentationModel(encoder, 5, decoder="fpn")
    spec = DataSpec({"optical": 3}, "mask", tuple("abcde"), (size, size))
    normalizers = {"optical": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)}
    return TrainedModel(network.eval(), spec, normalizers)


def _mosaic(source: Path, bands: Sequence[int], target: Path, side: int) -> None:
    """Write a square GeoTIFF that repeats a scene."""
    with rasterio.open(source) as file:
        pixels, profile = file.read(list(bands)), file.profile
    times = (1, -(-side // pixels.shape[1]), -(-side // pixels.shape[2]))
    pixels = np.tile(pixels, times)[:, :side, :side]
    kept = {key: profile[key] for key in ("crs", "transform", "dtype")}
    with rasterio.open(
        target, "w", "GTiff", side, side, len(bands), tiled=True, compress="deflate", **kept
    ) as file:
        file.write(pixels)


def markdown() -> str:
    """Return the tables."""
    lines = [
        "| scene | window | overlap | other class, inside | change of probability | changes at "
        "seams | mean IoU | accuracy | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in read(AGREEMENT):
        one = row["window"] == "0"
        size, overlap = ("one pass", "-") if one else (row["window"], row["overlap"])
        cells = [row["scene"], size, overlap]
        cells += ["-"] if one else [f"{100 * float(row['other_class_inside']):.1f} %"]
        cells += ["-"] if one else [f"{float(row['probability_change']):.3f}"]
        cells += ["-"] if one else [f"x {float(row['seams']):.2f}"]
        cells += [
            f"{100 * float(row[score]):.1f}" if row[score] else "-"
            for score in ("mean_iou", "accuracy")
        ]
        lines.append(f"| {' | '.join(cells)} | {float(row['cpu_seconds']):.2f} |")
    lines += [
        "",
        "| network | window | windows | network alone, CPU s | predict, CPU s | ratio, CPU | "
        "ratio, wall | megapixels per CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in read(SPEED):
        numbers = [f"{float(row[key]):.2f}" for key in ("bare_cpu_s", "predict_cpu_s")]
        numbers += [f"{float(row[key]):.2f}" for key in ("cpu_ratio", "wall_ratio")]
        numbers += [f"{float(row['megapixels_per_cpu_s']):.3g}"]
        lines.append(
            f"| {row['network']} | {row['window']} | {row['windows']} | {' | '.join(numbers)} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser("agreement")
    table.set_defaults(run=agreement)
    table.add_argument("--checkpoint", default=str(ROOT / "runs/demo/segment/last.ckpt"))
    table.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    table.add_argument("--overlaps", type=float, nargs="+", default=OVERLAPS)
    table.add_argument("--rounds", type=int, default=3)
    ratio = commands.add_parser("speed")
    ratio.set_defaults(run=speed)
    ratio.add_argument("--side", type=int, default=1024, help="of the scene; default: 1024")
    ratio.add_argument("--rounds", type=int, default=5)
    ratio.add_argument(
        "--networks",
        type=lambda text: (text.partition(":")[0], int(text.partition(":")[2])),
        nargs="+",
        default=NETWORKS,
        metavar="NAME:WINDOW",
    )
    ratio.add_argument("--checkpoint", help="another network to time")
    for command in (table, ratio):
        command.add_argument("--markdown", action="store_true", help="print the tables, no run")
        command.set_defaults(threads=1)
    arguments = parser.parse_args(argv)
    return execute(arguments.run, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
