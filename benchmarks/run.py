# SPDX-License-Identifier: Apache-2.0
"""Time the operators beside their peers and beside one streaming pass over the data.

What the rows and columns are, and how to compare two runs: benchmarks/README.md.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Compiling in this process keeps the compiler's workers from competing with what is timed.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import numpy as np
import torch
from formulations import ROWS, SHAPES, Case, Problem, Row, truth
from measure import (
    MemoryUnknownError,
    ProbeError,
    extra_bytes,
    forward_backward_call,
    forward_call,
    relative_error,
    saved_bytes,
    start_probes,
)
from operator_tables import (
    RESULTS,
    BenchmarkError,
    Record,
    Table,
    goals,
    markdown,
    read_csv,
    regressions,
    relate,
    text_table,
    write_csv,
)

import rsvheat
from rsvheat.benchmarking import describe, keep_pages, machine_slug, time_calls

DTYPES = ("float32", "float64", "bfloat16", "float16")
# A row with a larger error computes something else: its time would mean nothing.
WRONG = {"float32": 1e-4, "float64": 1e-12, "bfloat16": 5e-2, "float16": 1e-2}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        if arguments.markdown:
            _print_markdown(arguments.results)
            return 0
        return _run(arguments)
    except (BenchmarkError, ProbeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op", nargs="?", default="all", choices=[*ROWS, "all"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=_parse_shape,
        metavar="8x56x56x128",
        help="BxHxWxC for heat_conduction, BxCxHxW for frequency_split; default: the whole table",
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="floor, rsvheat and these; default: every row"
    )
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core"
    )
    parser.add_argument("--repeats", type=int, default=40, help="default: 40 turns a row")
    parser.add_argument(
        "--keep-pages",
        action="store_true",
        help="let malloc keep what is freed: else the operating system clears the pages of every "
        "result over 32 MiB anew, in all rows but the floor",
    )
    parser.add_argument(
        "--compile-timeout",
        type=float,
        default=120,
        metavar="SECONDS",
        help="after which a row that is still being compiled is skipped; default: 120",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the CSV files, to write or check"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="of --check; default: 0.05, which is 5 %%"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="store the measurement as CSV")
    mode.add_argument(
        "--check",
        action="store_true",
        help="fail if the operator's time over the floor's exceeds that in the device's CSV",
    )
    mode.add_argument(
        "--markdown", action="store_true", help="print the stored CSV files as Markdown, no run"
    )
    arguments = parser.parse_args(argv)
    if arguments.op == "all" and (arguments.shapes or arguments.rows):
        parser.error("--shapes and --rows need one operator, not all")
    known = [row.name for row in ROWS.get(arguments.op, ())]
    for row in arguments.rows or ():
        if row not in known:
            parser.error(f"--rows: {row} is not one of {', '.join(known)}")
    for name in ("threads", "repeats", "compile_timeout"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return arguments


def _parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not four sizes such as 8x56x56x128")
    return tuple(map(int, text.split("x")))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("--device cuda: torch finds no CUDA device")
    info = rsvheat.build_info()
    loaded = info["cuda"] if arguments.device == "cuda" else info["native"]
    if not loaded:
        reason = info["cuda_error"] if info["native"] else info["native_error"]
        raise BenchmarkError(f"there are no native kernels to time: {reason}")
    ops = ROWS if arguments.op == "all" else [arguments.op]
    slug = machine_slug(arguments.device, arguments.threads)
    paths = {op: arguments.results / f"{slug}_{op}.csv" for op in ops}
    for path in paths.values():
        if arguments.check and not path.exists():
            raise BenchmarkError(f"--check: nothing is stored for this device, no {path.name}")
    torch.set_num_threads(arguments.threads)
    start_probes()
    if arguments.keep_pages:
        keep_pages()
    failed = False
    for op, path in paths.items():
        table = _measure_table(op, arguments)
        print("\nGoals:", *goals(table), sep="\n  ")
        if arguments.write:
            write_csv(path, table)
            print(f"\nwrote {path.name}")
        if arguments.check:
            failed |= _check(table, read_csv(path), arguments.tolerance)
    return 1 if failed else 0


def _check(table: Table, committed: Table, tolerance: float) -> bool:
    if _keeps_pages(table) != _keeps_pages(committed):
        word = "with" if _keeps_pages(committed) else "without"
        raise BenchmarkError(f"--check: the stored table was measured {word} --keep-pages")
    slower, compared = regressions(table, committed, tolerance)
    if compared == 0:
        raise BenchmarkError("--check: the stored table has none of these shapes and dtypes")
    print(f"\n{compared} ratios to the floor compared, {len(slower)} grew by over {tolerance:.0%}")
    for line in slower:
        print(f"  {line}")
    return bool(slower)


def _keeps_pages(table: Table) -> bool:
    return "--keep-pages" in table.header["command"].split()


def _print_markdown(folder: Path) -> None:
    # Other benchmarks keep their tables, of other columns, in the same folder.
    paths = sorted(path for op in ROWS for path in folder.glob(f"*_{op}.csv"))
    if not paths:
        raise BenchmarkError("--markdown: no results are stored yet")
    print("\n\n".join(markdown(read_csv(path)) for path in paths))


def _measure_table(op: str, arguments: argparse.Namespace) -> Table:
    packages = ("numpy", "scipy", "ducc0", "torch-dct")
    command = _command(op, arguments)
    header = {"op": op, **describe(arguments.device, arguments.threads, command, packages)}
    print("\n".join(f"{key}: {value}" for key, value in header.items()), flush=True)
    records: list[Record] = []
    shapes = arguments.shapes or SHAPES[op, arguments.device]
    for dtype in arguments.dtype:
        for shape in shapes:
            problem = Problem(op, shape, getattr(torch, dtype), arguments.device, arguments.threads)
            begin = time.perf_counter()
            measured = _measure(problem, arguments)
            seconds = time.perf_counter() - begin
            print(f"\n{op} {shape} {dtype}, measured in {seconds:.0f} s")
            print(text_table(measured), flush=True)
            records += measured
    return Table(header, records)


def _measure(problem: Problem, arguments: argparse.Namespace) -> list[Record]:
    """Measure every row on one shape and dtype."""
    dtype = str(problem.dtype).removeprefix("torch.")
    shape = "x".join(map(str, problem.shape))
    exact = truth(problem)
    # Else the compiler would remember the previous shape and compile for any.
    torch.compiler.reset()
    records, cases = {}, {}
    for row in ROWS[problem.op]:
        if arguments.rows and row.name not in {"floor", "rsvheat", *arguments.rows}:
            continue
        record = records[row.name] = Record(dtype, shape, row.name)
        reason = row.unavailable(problem)
        if reason is not None:
            record.note = f"skipped, {reason}"
            continue
        case = row.prepare(problem, *problem.inputs())
        try:
            record.extra_bytes = extra_bytes(problem, row, case, arguments.compile_timeout)
        except MemoryUnknownError as error:
            record.note = f"extra memory is unknown, {error}"
        except ProbeError as error:
            if row.name.startswith("rsvheat"):
                raise
            record.note = f"skipped, {error}"
            continue
        if row.name != "floor":
            record.relative_error = _error(case, row, exact, dtype)
        if row.differentiable:
            record.saved_bytes = saved_bytes(case)
        cases[row.name] = (row, case)

    forward = {name: forward_call(case) for name, (_, case) in cases.items()}
    for name, seconds in time_calls(forward, problem.device, arguments.repeats).items():
        records[name].forward_ms = 1e3 * min(seconds)
    backward = {
        name: forward_backward_call(case)
        for name, (row, case) in cases.items()
        if row.differentiable
    }
    for name, seconds in time_calls(backward, problem.device, arguments.repeats).items():
        records[name].forward_backward_ms = 1e3 * min(seconds)
    relate(list(records.values()))
    return list(records.values())


def _error(case: Case, row: Row, exact: tuple[np.ndarray, ...], dtype: str) -> float:
    error = relative_error(case, forward_call(case)(), exact)
    if not error < WRONG[dtype]:
        raise BenchmarkError(f"{row.name} is wrong: relative error {error:.3g} against float64")
    return error


def _command(op: str, arguments: argparse.Namespace) -> str:
    words = ["python benchmarks/run.py", op]
    words += ["--device", arguments.device, "--dtype", *arguments.dtype]
    if arguments.shapes:
        words += ["--shapes", *("x".join(map(str, shape)) for shape in arguments.shapes)]
    if arguments.rows:
        words += ["--rows", *arguments.rows]
    words += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    words += ["--keep-pages"] * arguments.keep_pages
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
