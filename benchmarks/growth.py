# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the side of a plane or an image.

operator  Time and extra memory of heat conduction with a prepared filter, beside its peers.
figure    A picture of that table and of the encoders' (`systems.py time`), and the exponents.

An exponent is the slope of the logarithm of seconds (or bytes) over that of the number of pixels,
by least squares over all sides from 224 on. 1 is the same time for each pixel, and 1.5 what a
product with DCT matrices takes.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from formulations import ROWS, Problem
from measure import MemoryUnknownError, extra_bytes, forward_call, start_probes
from operator_tables import RESULTS
from systems import TIMES
from tables import append, execute, read

from rsvheat.benchmarking import describe, keep_pages, time_calls

PLANES = RESULTS / "growth.csv"
FIGURE = RESULTS.parents[1] / "docs" / "images" / "growth.png"
SIDES = (56, 112, 224, 448, 512, 1024, 2048)
PEERS = ("floor", "rsvheat-prepared", "matmul", "scipy", "ducc0")
FITTED_FROM = 224
# A product with matrices of this side takes half a minute.
LARGEST_PRODUCT = 1024


def measure(arguments: argparse.Namespace) -> None:
    """Write a row of each side and peer."""
    keep_pages()
    start_probes()
    command = "python benchmarks/growth.py " + " ".join(sys.argv[1:])
    head = describe("cpu", arguments.threads, command, ("numpy", "scipy", "ducc0"))
    for side in arguments.sides:
        shape = (1, side, side, arguments.channels)
        case = {"threads": arguments.threads, "side": side, "channels": arguments.channels}
        if {k: str(v) for k, v in case.items()} in [{k: r[k] for k in case} for r in read(PLANES)]:
            continue
        problem = Problem("heat_conduction", shape, torch.float32, "cpu", arguments.threads)
        inputs = problem.inputs()
        cases = {
            row.name: (row, row.prepare(problem, *inputs))
            for row in ROWS["heat_conduction"]
            if row.name in PEERS
            and row.unavailable(problem) is None
            and (row.name != "matmul" or side <= LARGEST_PRODUCT)
        }
        calls = {name: forward_call(case) for name, (_, case) in cases.items()}
        times = time_calls(calls, "cpu", arguments.rounds)
        rows = []
        for name, (row, prepared) in cases.items():
            seconds = min(times[name])
            cells: dict[str, Any] = {**case, "row": name, "seconds": seconds}
            cells["ns_a_value"] = 1e9 * seconds / (side * side * arguments.channels)
            try:
                cells["extra_mib"] = extra_bytes(problem, row, prepared, 0) / 2**20
            except MemoryUnknownError:
                cells["extra_mib"] = ""
            rows.append(cells)
            print(", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in cells.values()))
        append(PLANES, rows, head)


def exponent(sides: Sequence[float], values: Sequence[float]) -> float | None:
    """Return by which power of the number of pixels the values grow, or None for under 3 sides."""
    kept = [(s, v) for s, v in zip(sides, values, strict=True) if s >= FITTED_FROM and v > 0]
    if len(kept) < 3:
        return None
    logs = np.log(np.array(kept))
    return float(np.polyfit(2 * logs[:, 0], logs[:, 1], 1)[0])


Curves = Mapping[str, tuple[list[float], list[float]]]


def planes(threads: str, column: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return sides and a column's values for each peer."""
    rows = [row for row in read(PLANES) if row["threads"] == threads]
    return _curves(rows, "row", "side", column)


def encoders(column: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return sides and a column's values for each encoder, inference in float32."""
    rows = [r for r in read(TIMES) if (r["mode"], r["dtype"]) == ("inference", "float32")]
    return _curves(rows, "model", "size", column)


def _curves(
    rows: Sequence[Mapping[str, str]], name: str, side: str, column: str
) -> dict[str, tuple[list[float], list[float]]]:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in sorted(rows, key=lambda row: int(row[side])):
        if row[column]:
            sides, values = curves.setdefault(row[name], ([], []))
            sides.append(float(row[side]))
            values.append(float(row[column]))
    return curves


def draw(arguments: argparse.Namespace) -> None:
    """Write the figure."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    from rsvheat._files import complete_file

    panels: list[tuple[str, str, Curves, float]] = [
        ("heat conduction, one thread", "ns a value", planes("1", "ns_a_value"), 0),
        ("heat conduction, two threads", "ns a value", planes("2", "ns_a_value"), 0),
        ("encoder, one thread", "CPU seconds a megapixel", encoders("cpu_seconds"), 1e-6),
        ("encoder, memory of a pass", "MiB a megapixel", encoders("peak_mib"), 1e-6),
    ]
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for ax, (title, unit, curves, pixels) in zip(axes.flat, panels, strict=True):
        ax.set(title=title, xlabel="side in pixels", ylabel=unit)
        if not curves:
            continue  # not measured yet, which a logarithmic axis cannot show
        for name, (sides, values) in curves.items():
            a_pixel = [
                v / (pixels * s * s) if pixels else v for s, v in zip(sides, values, strict=True)
            ]
            ax.loglog(sides, a_pixel, marker="o", markersize=3, label=name)
        ticks = sorted({side for sides, _ in curves.values() for side in sides})
        ax.set_xticks(ticks, [f"{t:.0f}" for t in ticks], rotation=60, fontsize=8)
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    with complete_file(FIGURE) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def markdown() -> str:
    """Return the tables: times a value by side, and the exponents."""
    lines = []
    for threads in dict.fromkeys(row["threads"] for row in read(PLANES)):
        curves = planes(threads, "ns_a_value")
        sides = sorted({side for found, _ in curves.values() for side in found})
        lines += [
            f"| ns a value, {threads} thread{'s' if threads != '1' else ''} "
            f"| {' | '.join(f'{side:.0f}' for side in sides)} |",
            "| --- |" + " ---: |" * len(sides),
        ]
        for name, (found, values) in curves.items():
            by_side = dict(zip(found, values, strict=True))
            cells = [f"{by_side[s]:.2f}" if s in by_side else "-" for s in sides]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["| exponent of the number of pixels | time | memory |", "| --- | ---: | ---: |"]
    pairs = [(planes("1", "seconds"), planes("1", "extra_mib"))]
    pairs.append((encoders("cpu_seconds"), encoders("peak_mib")))
    for times, memory in pairs:
        for name, curve in times.items():
            powers = (exponent(*curve), exponent(*memory.get(name, ([], []))))
            # Adding 0 makes -0.00 a zero.
            cells = ["-" if power is None else f"{round(power, 2) + 0:.2f}" for power in powers]
            if cells != ["-", "-"]:
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    operator = commands.add_parser("operator")
    operator.set_defaults(run=measure)
    operator.add_argument("--threads", type=int, default=1)
    operator.add_argument("--sides", type=int, nargs="+", default=SIDES)
    operator.add_argument("--channels", type=int, default=64)
    operator.add_argument("--rounds", type=int, default=20)
    operator.add_argument("--markdown", action="store_true", help="print the tables, no run")
    figure = commands.add_parser("figure")
    figure.set_defaults(run=draw, threads=1, markdown=False)
    arguments = parser.parse_args(argv)
    return execute(arguments.run, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
