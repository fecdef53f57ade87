# SPDX-License-Identifier: Apache-2.0
"""Time the operators on rotated boxes beside torchvision's, mmcv's, oriented-det's and shapely's.

Rows of a case take turns in one process; the least of the rounds counts. Each turn is timed by the
clock and by the processor time of all threads: what else runs on the machine lengthens the former,
so ratios are of the latter. Rows slower than ``--slow`` seconds have one turn. ``error`` is the
largest difference from the exact result: of an overlap, or of a feature; for suppression the number
of boxes that stay or go wrongly.
"""

import argparse
import contextlib
import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import RESULTS
from torch import Tensor

from rsvheat import ops
from rsvheat.benchmarking import aligned, describe, keep_pages, milliseconds

PACKAGES = ("torchvision", "onedl-mmcv", "mmcv", "oriented-det", "shapely", "numpy")
THRESHOLD = 0.1
SCALE = 0.25


@dataclass
class Row:
    """What is timed, and how its result becomes comparable."""

    call: Callable[[], Any]
    result: Callable[[Any], Any] = lambda value: value
    note: str = ""
    peer: bool = True
    """Whether it computes the same thing, so that being ahead of it counts."""


@dataclass
class Result:
    """One line of the table."""

    row: str
    milliseconds: float | None
    cpu_milliseconds: float | None = None
    rounds: int = 0
    error: float | None = None
    note: str = ""
    peer: bool = False


def random_boxes(count: int, extent: float) -> Tensor:
    """Return float32 boxes with centers in [0, extent], sides of 10 to 100 and any angle."""
    return torch.cat(
        (extent * torch.rand(count, 2), 10 + 90 * torch.rand(count, 2), 180 * torch.rand(count, 1)),
        1,
    )


def optional(name: str) -> Any:
    """Import a peer, or return the reason why not as a string."""
    try:
        return __import__(name, fromlist=["_"])
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def radians(boxes: Tensor) -> Tensor:
    """Return boxes in mmcv's and oriented-det's convention."""
    return ops.boxes_to_mmcv(boxes, None)


def polygons(shapely: Any, boxes: Tensor) -> np.ndarray:
    return shapely.polygons(ops.boxes_to_corners(boxes.double()).numpy())


# ---- Overlap -------------------------------------------------------------------------------------


def overlap_rows(count: int, extent: float) -> dict[str, Row | str]:
    """Return the rows of one matrix of overlaps."""
    boxes1, boxes2 = random_boxes(count, extent), random_boxes(count, extent)
    rows: dict[str, Row | str] = {"rsvheat": Row(lambda: ops.box_iou_rotated(boxes1, boxes2))}
    rows["exact"] = Row(lambda: ops.box_iou_rotated(boxes1.double(), boxes2.double()))

    torchvision = optional("torchvision.ops")
    rows["torchvision"] = (
        torchvision
        if isinstance(torchvision, str)
        else Row(lambda: torchvision.box_iou(boxes1, boxes2, fmt="cxcywhr"))
    )
    mmcv = optional("mmcv.ops")
    if isinstance(mmcv, str):
        rows["mmcv"] = mmcv
    else:
        first, second = radians(boxes1), radians(boxes2)
        rows["mmcv"] = Row(lambda: mmcv.box_iou_rotated(first, second))
    sampled = optional("oriented_det.ops.gpu_ops")
    if isinstance(sampled, str):
        rows["oriented-det, sampled"] = sampled
    else:
        few = min(count, 200)
        first, second = radians(boxes1[:few]), radians(boxes2[:few])
        rows["oriented-det, sampled"] = Row(
            lambda: sampled.oriented_box_iou_gpu(first, second),
            note=f"{few} x {few} pairs, its time scaled by {(count / few) ** 2:g}",
        )
    shapely = optional("shapely")
    if isinstance(shapely, str):
        rows["shapely"] = rows["shapely, STRtree"] = shapely
        return rows
    few = min(count, 500)
    rows["shapely"] = Row(
        lambda: shapely_matrix(shapely, boxes1[:few], boxes2[:few]),
        note=f"{few} x {few} pairs, its time scaled by {(count / few) ** 2:g}",
    )
    rows["shapely, STRtree"] = Row(lambda: shapely_tree_matrix(shapely, boxes1, boxes2))
    return rows


def shapely_matrix(shapely: Any, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    p, q = polygons(shapely, boxes1)[:, None], polygons(shapely, boxes2)[None]
    intersection = shapely.area(shapely.intersection(p, q))
    return torch.from_numpy(intersection / (shapely.area(p) + shapely.area(q) - intersection))


def shapely_tree_matrix(shapely: Any, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    p, q = polygons(shapely, boxes1), polygons(shapely, boxes2)
    i, j = shapely.STRtree(q).query(p)
    intersection = shapely.area(shapely.intersection(p[i], q[j]))
    iou = np.zeros((len(p), len(q)))
    iou[i, j] = intersection / (shapely.area(p[i]) + shapely.area(q[j]) - intersection)
    return torch.from_numpy(iou)


def overlap_error(result: Tensor, exact: Tensor) -> float:
    rows, columns = result.shape
    return float((result.double() - exact[:rows, :columns]).abs().max())


# ---- Suppression ---------------------------------------------------------------------------------


def suppression_rows(count: int, extent: float) -> dict[str, Row | str]:
    """Return the rows of one suppression."""
    boxes, scores = random_boxes(count, extent), torch.rand(count)
    rows: dict[str, Row | str] = {
        "rsvheat": Row(lambda: ops.nms_rotated(boxes, scores, THRESHOLD)),
        "exact": Row(lambda: ops.nms_rotated(boxes.double(), scores, THRESHOLD)),
    }
    mmcv = optional("mmcv.ops")
    if isinstance(mmcv, str):
        rows["mmcv"] = mmcv
    else:
        turned = radians(boxes)
        rows["mmcv"] = Row(lambda: mmcv.nms_rotated(turned, scores, THRESHOLD)[1])
    sampled = optional("oriented_det.ops.gpu_ops")
    if isinstance(sampled, str):
        rows["oriented-det, sampled"] = sampled
    else:
        turned = radians(boxes)
        rows["oriented-det, sampled"] = Row(
            lambda: sampled.oriented_nms_gpu(turned, scores, THRESHOLD),
            note="looks at the 4,000 best boxes only",
            peer=False,
        )
    shapely = optional("shapely")
    rows["shapely, STRtree"] = (
        shapely
        if isinstance(shapely, str)
        else Row(lambda: shapely_suppression(shapely, boxes, scores))
    )
    return rows


def shapely_suppression(shapely: Any, boxes: Tensor, scores: Tensor) -> Tensor:
    shapes = polygons(shapely, boxes)
    i, j = shapely.STRtree(shapes).query(shapes)
    i, j = i[i < j], j[i < j]
    intersection = shapely.area(shapely.intersection(shapes[i], shapes[j]))
    area = shapely.area(shapes)
    over = intersection / (area[i] + area[j] - intersection) > THRESHOLD
    neighbors: list[list[int]] = [[] for _ in shapes]
    for a, b in zip(i[over].tolist(), j[over].tolist(), strict=True):
        neighbors[a].append(b)
        neighbors[b].append(a)
    gone, kept = np.zeros(len(shapes), bool), []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not gone[index]:
            kept.append(index)
            gone[neighbors[index]] = True
    return torch.tensor(kept)


def suppression_error(result: Tensor, exact: Tensor) -> float:
    return float(len(set(result.tolist()) ^ set(exact.tolist())))


# ---- RoIAlign ------------------------------------------------------------------------------------


def region_rows(count: int, backward: bool, ratio: int) -> dict[str, Row | str]:
    """Return the rows of one RoIAlign: 7 x 7 bins of ``count`` boxes on (1, 256, 200, 200)."""
    x = torch.randn(1, 256, 200, 200)
    last = x.to(memory_format=torch.channels_last)
    boxes = random_boxes(count, 800.0)
    image = torch.zeros(count, 1)
    regions, turned = torch.cat((image, boxes), 1), torch.cat((image, radians(boxes)), 1)

    def call(function: Callable[[Tensor], Tensor], features: Tensor = x) -> Row:
        if not backward:
            return Row(lambda: function(features))
        leaf = features.detach().requires_grad_()
        grad = torch.ones(count, 256, 7, 7)
        return Row(lambda: torch.autograd.grad(function(leaf), leaf, grad)[0])

    def ours(x: Tensor) -> Tensor:
        return ops.roi_align_rotated(x, regions, 7, SCALE, ratio)

    rows: dict[str, Row | str] = {
        "rsvheat": call(ours),
        "rsvheat, channels-last": call(ours, last),
        "exact": call(ours, x.double()),
    }
    mmcv = optional("mmcv.ops")
    rows["mmcv"] = (
        mmcv
        if isinstance(mmcv, str)
        else call(lambda x: mmcv.roi_align_rotated(x, turned, 7, SCALE, ratio, True, True))
    )
    sampled = optional("oriented_det.models.oriented_roi")
    if isinstance(sampled, str):
        rows["oriented-det"] = sampled
    else:
        row = call(
            lambda x: sampled.oriented_roi_align(
                [x], radians(boxes), [(800, 800)], output_size=(7, 7), spatial_scales=[SCALE]
            )
        )
        row.note = "one point a bin"
        rows["oriented-det"] = row
    torchvision = optional("torchvision.ops")
    if isinstance(torchvision, str):
        rows["torchvision, horizontal"] = torchvision
    else:
        bounds = torch.cat((image, ops.boxes_to_bounds(boxes)), 1)
        row = call(lambda x: torchvision.roi_align(x, bounds, 7, SCALE, ratio or -1, True))
        row.peer, row.note = False, "another operator: axis-aligned boxes around them"
        rows["torchvision, horizontal"] = row
    return rows


def region_error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).abs().max())


# ---- Measuring -----------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what peers print."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def measure(
    rows: dict[str, Row | str],
    error: Callable[[Any, Any], float],
    rounds: int,
    slow: float,
) -> list[Result]:
    """Time the rows in turns and compare their results with the one named exact."""
    exact = rows.pop("exact")
    assert isinstance(exact, Row)
    truth = exact.call()
    results: list[Result] = []
    calls: list[tuple[Callable[[], Any], Result]] = []
    for name, row in rows.items():
        if isinstance(row, str):
            results.append(Result(name, None, note=row))
            continue
        result = Result(name, None, note=row.note, peer=row.peer)
        results.append(result)
        try:
            value = clock(row.call, result)
        except Exception as failure:
            result.note = f"{type(failure).__name__}: {failure}".partition("\n")[0]
            continue
        if row.peer:  # what computes another thing has no error
            result.error = error(value, truth)
        if result.milliseconds is not None and result.milliseconds < 1e3 * slow:
            calls.append((row.call, result))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for call, result in calls:
                clock(call, result)
    finally:
        gc.enable()
    for result in results:
        if result.milliseconds and result.cpu_milliseconds and "scaled by " in result.note:
            scale = float(result.note.rpartition("scaled by ")[2])
            result.milliseconds *= scale
            result.cpu_milliseconds *= scale
    return results


def clock(call: Callable[[], Any], result: Result) -> Any:
    """Time one turn; return what the call returned."""
    with quiet():
        begin, cpu_begin = time.perf_counter(), time.process_time()
        value = call()
        cpu, seconds = time.process_time() - cpu_begin, time.perf_counter() - begin
    result.milliseconds = min(1e3 * seconds, result.milliseconds or math.inf)
    result.cpu_milliseconds = min(1e3 * cpu, result.cpu_milliseconds or math.inf)
    result.rounds += 1
    return value


def cases(quick: bool) -> Iterator[tuple[str, dict[str, Row | str], Callable[[Any, Any], float]]]:
    """Yield the title, the rows and the error of each case."""
    n, m, k = (60, 200, 8) if quick else (2000, 20_000, 512)
    for extent in (1000.0, 200.0):
        title = f"IoU of {n} x {n} boxes, sides 10 to 100, centers in {extent:g} x {extent:g}"
        yield title, overlap_rows(n, extent), overlap_error
    for extent in (4000.0, 1000.0):
        title = (
            f"NMS of {m} boxes at {THRESHOLD}, sides 10 to 100, centers in {extent:g} x {extent:g}"
        )
        yield title, suppression_rows(m, extent), suppression_error
    for backward in (False, True):
        for ratio in (0, 2):
            what = "forward and backward" if backward else "forward"
            points = "2 x 2 points a bin" if ratio else "one point a pixel"
            title = f"RoIAlign of {k} boxes on (1, 256, 200, 200), 7 x 7 bins, {points}, {what}"
            yield title, region_rows(k, backward, ratio), region_error


def fastest_peer(results: Sequence[Result]) -> Result | None:
    """Return the peer with the least processor time."""
    timed = [r for r in results if r.peer and r.milliseconds and not r.row.startswith("rsvheat")]
    return min(timed, key=lambda r: r.cpu_milliseconds or math.inf, default=None)


def lines_of(results: Sequence[Result]) -> list[list[str]]:
    own = next(r for r in results if r.row == "rsvheat").cpu_milliseconds
    lines = [["row", "ms", "CPU ms", "times rsvheat's", "rounds", "error", "note"]]
    for r in results:
        cpu = r.cpu_milliseconds
        ratio = f"{cpu / own:.3g}" if cpu and own else "-"
        error = "-" if r.error is None else f"{r.error:.2g}"
        times = [milliseconds(t) if t else "-" for t in (r.milliseconds, cpu)]
        lines.append([r.row, *times, ratio, str(r.rounds), error, r.note])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:-1]), "---"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60, help="turns of each row; default: 60")
    parser.add_argument("--slow", type=float, default=3.0, help="seconds; default: 3")
    parser.add_argument("--quick", action="store_true", help="a few boxes, to try the script")
    parser.add_argument("--write", action="store_true", help="store the tables as Markdown")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of --write")
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    keep_pages()
    command = " ".join(["python benchmarks/boxes.py", *(sys.argv[1:] if argv is None else argv)])
    header = describe("cpu", arguments.threads, command, PACKAGES)
    text = [
        "# Operators on rotated boxes",
        "",
        f"{header['device']}; {header['versions']}; {header['date']}; `{header['command']}`. "
        f"Load average before: {header['load before'].partition(' ')[0]}.",
        "",
        "Rows of a case take turns in one process, the least of their rounds counts. `CPU ms` is "
        "the processor time of all threads, and the ratios are of that: other work on the machine "
        "lengthened the times by the clock. `error` is the largest difference from the exact "
        "result; for suppression the number of boxes that stay or go wrongly.",
    ]
    for title, rows, error in cases(arguments.quick):
        results = measure(rows, error, arguments.rounds, arguments.slow)
        lines = lines_of(results)
        print(title)
        print("\n".join(f"  {line}" for line in aligned(lines)), flush=True)
        text += ["", f"## {title}", "", markdown(lines)]
        best = fastest_peer(results)
        own = next(r for r in results if r.row == "rsvheat")
        if best and best.cpu_milliseconds and own.cpu_milliseconds:
            ratio = best.cpu_milliseconds / own.cpu_milliseconds
            text += ["", f"Fastest peer: {best.row}, {ratio:.1f} times the processor time."]
    if arguments.write:
        path = arguments.results / "boxes.md"
        path.write_text("\n".join(text) + "\n")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
