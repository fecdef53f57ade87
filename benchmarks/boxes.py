# SPDX-License-Identifier: Apache-2.0
"""Time the operators on rotated boxes beside torchvision's, mmcv's, oriented-det's and shapely's.

Rows of a case take turns in one process. Each turn is timed by the clock and by the processor time
of all threads, which other programs on the machine lengthen less; minimum and median are kept. A
row that has taken ``--budget`` seconds gets no more turns. ``error`` is the largest difference from
the result for float64: of an overlap, or of a feature; for suppression the number of boxes that are
kept or removed wrongly.

With ``--exactness`` the overlaps of 100,000 pairs of every kind that was got wrong somewhere are
compared with shapely, and where both differ with a computation in 60 digits.
"""

import argparse
import contextlib
import csv
import dataclasses
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Threads that wait for work do not count as processor time. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from operator_tables import RESULTS
from torch import Tensor

from rsvheat import ops
from rsvheat.benchmarking import aligned, describe, keep_pages, milliseconds

PACKAGES = ("torchvision", "onedl-mmcv", "mmcv", "oriented-det", "shapely", "numpy")
OWN = "rsvheat"
EXACTNESS = "## Exactness of `box_iou_rotated`"
THRESHOLD = 0.1
SCALE = 0.25


@dataclass
class Row:
    """A call to time.

    Attributes:
        call: The call.
        note: Remark for the table.
        peer: Whether it computes the same result, so that its time is compared.
        share: Share of the case's work that the call does; its time is divided by it.
        exact: Call for the result that this row's is compared with, if not that of the case.
    """

    call: Callable[[], Any]
    note: str = ""
    peer: bool = True
    share: float = 1.0
    exact: Callable[[], Any] | None = None


@dataclass
class Result:
    """One line of the table; the fields are the CSV's columns.

    Times are None, with the reason in ``note``, where there are none.
    """

    case: str
    row: str
    peer: bool = False
    min_ms: float | None = None
    median_ms: float | None = None
    min_cpu_ms: float | None = None
    median_cpu_ms: float | None = None
    rounds: int = 0
    error: float | None = None
    note: str = ""


@dataclass
class Turns:
    """Seconds of a row's turns, by the clock and of the processor."""

    row: Row
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def take(self) -> Any:
        """Time one turn and return the call's result."""
        # Peers print.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            begin, processor_begin = time.perf_counter(), time.process_time()
            value = self.row.call()
            processor, clock = time.process_time() - processor_begin, time.perf_counter() - begin
        self.clock.append(clock)
        self.processor.append(processor)
        return value

    def fill(self, result: Result) -> None:
        """Write the times into a line of the table."""
        scale = 1e3 / self.row.share
        result.min_ms, result.median_ms = _least_and_median(self.clock, scale)
        result.min_cpu_ms, result.median_cpu_ms = _least_and_median(self.processor, scale)
        result.rounds = len(self.clock)


def _least_and_median(seconds: Sequence[float], scale: float) -> tuple[float, float]:
    return scale * min(seconds), scale * statistics.median(seconds)


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
        return _first_line(error)


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
        turned = radians(boxes1), radians(boxes2)
        rows["mmcv"] = Row(lambda: mmcv.box_iou_rotated(*turned))
    sampled = optional("oriented_det.ops.gpu_ops")
    if isinstance(sampled, str):
        rows["oriented-det, sampled"] = sampled
    else:
        few = min(count, 100)
        fewer = radians(boxes1[:few]), radians(boxes2[:few])
        rows["oriented-det, sampled"] = Row(
            lambda: sampled.oriented_box_iou_gpu(*fewer),
            note=f"timed on {few} x {few} pairs, and scaled",
            share=(few / count) ** 2,
        )
    shapely = optional("shapely")
    if isinstance(shapely, str):
        rows["shapely"] = rows["shapely, STRtree"] = shapely
        return rows
    some = min(count, 300)
    rows["shapely"] = Row(
        lambda: shapely_matrix(shapely, boxes1[:some], boxes2[:some]),
        note=f"timed on {some} x {some} pairs, and scaled",
        share=(some / count) ** 2,
    )
    rows["shapely, STRtree"] = Row(
        lambda: shapely_tree_matrix(shapely, boxes1[:some], boxes2[:some]),
        note=f"timed on {some} x {some} pairs, and scaled",
        share=(some / count) ** 2,
    )
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


def overlap_error(result: Tensor, exact: Tensor, share: float) -> float:
    rows, columns = result.shape
    if not math.isclose(rows * columns, share * exact.numel()):
        raise ValueError(f"{rows} x {columns} pairs are not {share:g} of the case")
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
        # All boxes would take minutes.
        few = min(count, 5000)
        fewer = radians(boxes[:few])
        rows["mmcv"] = Row(
            lambda: mmcv.nms_rotated(fewer, scores[:few], THRESHOLD)[1],
            note=f"of {few} boxes only: less than its time for {count}",
            exact=lambda: ops.nms_rotated(boxes[:few].double(), scores[:few], THRESHOLD),
        )
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


def suppression_error(result: Tensor, exact: Tensor, share: float) -> float:
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


def region_error(result: Tensor, exact: Tensor, share: float) -> float:
    return float((result.double() - exact).abs().max())


# ---- Measuring -----------------------------------------------------------------------------------


def measure(
    case: str,
    rows: dict[str, Row | str],
    error: Callable[[Any, Any, float], float],
    rounds: int,
    budget: float,
) -> list[Result]:
    """Time the rows in turns and compare their results with that of the row ``exact``."""
    exact = rows.pop("exact")
    assert isinstance(exact, Row)
    truth = exact.call()
    results: list[Result] = []
    timed: list[tuple[Turns, Result]] = []
    for name, row in rows.items():
        if isinstance(row, str):
            results.append(Result(case, name, note=row))
            continue
        result = Result(case, name, row.peer and not name.startswith(OWN), note=row.note)
        results.append(result)
        turns = Turns(row)
        try:
            value = turns.take()
        except Exception as failure:
            result.peer, result.note = False, _first_line(failure)
            continue
        if row.peer:
            result.error = error(value, row.exact() if row.exact else truth, row.share)
        timed.append((turns, result))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds - 1):
            for turns, _ in timed:
                if sum(turns.clock) < budget:
                    turns.take()
    finally:
        gc.enable()
    for turns, result in timed:
        turns.fill(result)
    return results


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def cases(
    quick: bool,
) -> Iterator[tuple[str, dict[str, Row | str], Callable[[Any, Any, float], float]]]:
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
    return min((r for r in results if r.peer), key=lambda r: r.min_cpu_ms or 0, default=None)


def lines_of(results: Sequence[Result]) -> list[list[str]]:
    """Return the cells of a case's table."""
    own = next(r for r in results if r.row == OWN)
    lines = [["row", "ms", "median", "CPU ms", "median", "x rsvheat", "rounds", "error", "note"]]
    for r in results:
        times = (r.min_ms, r.median_ms, r.min_cpu_ms, r.median_cpu_ms)
        lines.append(
            [
                r.row,
                *("-" if t is None else milliseconds(t) for t in times),
                f"{r.min_cpu_ms / own.min_cpu_ms:.3g}" if r.min_cpu_ms and own.min_cpu_ms else "-",
                str(r.rounds),
                "-" if r.error is None else f"{r.error:.2g}",
                r.note,
            ]
        )
    return lines


def markdown(header: dict[str, str], results: Sequence[Result]) -> str:
    """Return the results as a Markdown document."""
    text = [
        "# Operators on rotated boxes",
        "",
        f"{header['device']}; {header['versions']}; {header['date']}; `{header['command']}`. "
        f"Load average before: {header['load before'].partition(' ')[0]}.",
        "",
        "Rows of a case take turns in one process: minimum and median. `CPU ms` is the processor "
        "time of all threads, and `x rsvheat` the ratio of its minimum: other programs on the "
        "machine lengthen the times by the clock more. `error` is the largest difference from the "
        "result for float64; for suppression the number of boxes that are kept or removed wrongly.",
    ]
    for case in dict.fromkeys(r.case for r in results):
        here = [r for r in results if r.case == case]
        head, *body = lines_of(here)
        rule = ["---", *("---:" for _ in head[1:-1]), "---"]
        table = (f"| {' | '.join(cells)} |" for cells in (head, rule, *body))
        text += ["", f"## {case}", "", *table]
        best, own = fastest_peer(here), next(r for r in here if r.row == OWN)
        if best and best.min_cpu_ms and own.min_cpu_ms and best.min_ms and own.min_ms:
            text += [
                "",
                f"Fastest peer: {best.row}, {best.min_cpu_ms / own.min_cpu_ms:.1f} times the "
                f"processor time, {best.min_ms / own.min_ms:.1f} times by the clock.",
            ]
    return "\n".join(text) + "\n"


def write_csv(path: Path, header: dict[str, str], results: Sequence[Result]) -> None:
    """Write the results, the header as comment lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.name for column in dataclasses.fields(Result))
        for result in results:
            cells = dataclasses.astuple(result)
            writer.writerow(f"{c:.4g}" if isinstance(c, float) else c for c in cells)


# ---- Exactness -----------------------------------------------------------------------------------


def exactness(count: int) -> Iterator[list[str]]:
    """Yield the cells of each kind of pairs: largest differences and errors by type."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from rotated_boxes import families, judge

    yield [
        "pairs",
        "from shapely, float64",
        "beyond 1e-12",
        "error of these",
        "from shapely, float32",
        "beyond 1e-5",
        "error of these",
    ]
    for name, pair in families(count).items():
        cells = [name]
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            if name == "tiny":
                # shapely loses them, and float32 does not have them.
                cells += ["-"] * 3
                continue
            first, second = (boxes.to(dtype) for boxes in pair)
            ratios = ops.box_iou_rotated(first, second, aligned=True).double().numpy()
            found = judge(first, second, ratios, bound)
            error = f"{found.error:.1e}" if found.doubtful else "-"
            cells += [f"{found.apart:.1e}", str(found.doubtful), error]
        yield cells


def exactness_markdown(header: dict[str, str], count: int, lines: Sequence[list[str]]) -> str:
    """Return the section of the document."""
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    table = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]
    text = [
        EXACTNESS,
        "",
        f"{header['device']}; {header['versions']}; {header['date']}; `{header['command']}`.",
        "",
        f"Largest difference from shapely (float64, of the boxes as the type holds them) in {count}"
        " pairs of each kind; how many pairs differ by more than the bound that is promised; and "
        "the largest error of up to 200 of these, for which a computation in 60 digits decides. "
        "shapely gives 0 for some boxes that are equal or nearly so, and rounds the corners of "
        "slivers.",
        "",
        *table,
    ]
    return "\n".join(text) + "\n"


def write_markdown(path: Path, times: str | None = None, exact: str | None = None) -> None:
    """Replace the times or the section about exactness of a document."""
    old = path.read_text() if path.exists() else ""
    old_times, found, rest = old.partition(EXACTNESS)
    times = old_times.rstrip("\n") + "\n" if times is None else times
    exact = found + rest if exact is None else exact
    path.write_text(f"{times}\n{exact}" if exact else times)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each row; default: 20")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a row; default: 10")
    parser.add_argument("--quick", action="store_true", help="a few boxes, to try the script")
    parser.add_argument(
        "--write", action="store_true", help="store the results as boxes.csv and boxes.md"
    )
    parser.add_argument(
        "--exactness", action="store_true", help="compare with shapely and 60 digits, no times"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of --write")
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    keep_pages()
    if arguments.exactness:
        command = f"python benchmarks/boxes.py --exactness --threads {arguments.threads}"
        header = describe("cpu", arguments.threads, command, ("shapely", "mpmath", "numpy"))
        count = 60 if arguments.quick else 100_000
        lines = []
        for cells in exactness(count):
            lines.append(cells)
            print(" | ".join(cells), flush=True)
        if arguments.write:
            section = exactness_markdown(header, count, lines)
            write_markdown(arguments.results / "boxes.md", exact=section)
        return 0
    command = "python benchmarks/boxes.py " + " ".join(
        f"--{name} {vars(arguments)[name]:g}" for name in ("threads", "rounds", "budget")
    )
    header = describe("cpu", arguments.threads, command, PACKAGES)
    results: list[Result] = []
    for case, rows, error in cases(arguments.quick):
        here = measure(case, rows, error, arguments.rounds, arguments.budget)
        print(case)
        print("\n".join(f"  {line}" for line in aligned(lines_of(here))), flush=True)
        results += here
    if arguments.write:
        write_csv(arguments.results / "boxes.csv", header, results)
        write_markdown(arguments.results / "boxes.md", times=markdown(header, results))
        print(f"wrote {arguments.results / 'boxes.csv'} and boxes.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
