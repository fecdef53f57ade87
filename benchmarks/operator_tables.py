# SPDX-License-Identifier: Apache-2.0
"""Records of measurements: CSV files, printed tables, checks and Markdown."""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rsvheat.benchmarking import aligned, milliseconds

COMMITTED = Path(__file__).parent / "results"
# `reproduce.py` sets another folder, whose tables it compares with the committed ones.
RESULTS = Path(os.environ.get("RSVHEAT_BENCHMARK_RESULTS", COMMITTED))

OPERATOR_ROWS = ("rsvheat", "rsvheat-prepared")
NOT_PEERS = ("floor", *OPERATOR_ROWS)


class BenchmarkError(Exception):
    """Reported in one line."""


@dataclass
class Record:
    """One row of the table for one shape and dtype; the fields are the CSV's columns.

    A value is None where it does not exist (there is no backward pass of SciPy) or, with the
    reason in ``note``, where it could not be had.
    """

    dtype: str
    shape: str
    row: str
    forward_ms: float | None = None
    floor_ratio: float | None = None
    """Forward time over that of the floor."""
    speedup: float | None = None
    """Forward time over that of the row ``rsvheat``: how much faster that is than this row."""
    forward_backward_ms: float | None = None
    backward_ratio: float | None = None
    """Forward and backward over forward."""
    relative_error: float | None = None
    """Relative L2 error of the forward result against float64."""
    extra_bytes: int | None = None
    """Peak memory of a forward call beside its inputs and its output."""
    saved_bytes: int | None = None
    """Memory that a forward call keeps for the backward pass, inputs included."""
    note: str = ""


_INTEGERS = ("extra_bytes", "saved_bytes")
_TEXTS = ("dtype", "shape", "row", "note")
COLUMNS = tuple(f.name for f in dataclasses.fields(Record))


@dataclass(frozen=True)
class Table:
    """What one CSV file holds."""

    header: dict[str, str]
    records: list[Record]

    def cases(self) -> list[tuple[str, str]]:
        """Return the pairs (dtype, shape) in the order of the file."""
        return list(dict.fromkeys((r.dtype, r.shape) for r in self.records))

    def find(self, dtype: str, shape: str, row: str) -> Record | None:
        """Return the record of a row, or None."""
        key = (dtype, shape, row)
        return next((r for r in self.records if (r.dtype, r.shape, r.row) == key), None)


def relate(records: Sequence[Record]) -> None:
    """Fill in the ratios between the records of one shape and dtype."""
    times = {r.row: r.forward_ms for r in records}
    floor, operator = times.get("floor"), times.get("rsvheat")
    for record in records:
        if record.forward_ms is None:
            continue
        if floor is not None:
            record.floor_ratio = record.forward_ms / floor
        if operator is not None:
            record.speedup = record.forward_ms / operator
        if record.forward_backward_ms is not None:
            record.backward_ratio = record.forward_backward_ms / record.forward_ms


def write_csv(path: Path, table: Table) -> None:
    """Write a table, its header as comment lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        for key, value in table.header.items():
            file.write(f"# {key}: {value}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in table.records:
            writer.writerow(_cell(getattr(record, column)) for column in COLUMNS)


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_csv(path: Path) -> Table:
    """Read what ``write_csv`` wrote.

    Raises:
        ValueError: If the columns are others.
    """
    lines = path.read_text().splitlines()
    comments = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path.name} has the columns {reader.fieldnames}, expected {COLUMNS}")
    records = [Record(**{key: _parse(key, text) for key, text in row.items()}) for row in reader]
    return Table({key: value for key, _, value in comments}, records)


def _parse(column: str, text: str) -> float | int | str | None:
    if column in _TEXTS:
        return text
    if not text:
        return None
    return int(text) if column in _INTEGERS else float(text)


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else f"{value:{form}}"


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:.2f}"


_PRINTED: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("row", lambda r: r.row),
    ("forward ms", lambda r: milliseconds(r.forward_ms)),
    ("x floor", lambda r: _number(r.floor_ratio, ".2f")),
    ("speed-up", lambda r: _number(r.speedup, ".2f")),
    ("fwd+bwd ms", lambda r: milliseconds(r.forward_backward_ms)),
    ("x forward", lambda r: _number(r.backward_ratio, ".2f")),
    ("rel. error", lambda r: _number(r.relative_error, ".2e")),
    ("extra MiB", lambda r: _mebibytes(r.extra_bytes)),
    ("saved MiB", lambda r: _mebibytes(r.saved_bytes)),
)


def text_table(records: Iterable[Record]) -> str:
    """Return the records of one shape and dtype as aligned text, then what was skipped and why."""
    records = list(records)
    measured = [r for r in records if r.forward_ms is not None]
    lines = [[title for title, _ in _PRINTED]]
    lines += [[show(r) for _, show in _PRINTED] for r in measured]
    text = aligned(lines)
    text += [f"  {r.row}: {r.note}" for r in records if r.note]
    return "\n".join(text)


def regressions(measured: Table, committed: Table, tolerance: float) -> tuple[list[str], int]:
    """Compare the operator's ratios to the floor with those of another run.

    Returns:
        A line for each ratio that grew by more than ``tolerance``, and how many were compared.
    """
    slower, compared = [], 0
    for new in measured.records:
        old = committed.find(new.dtype, new.shape, new.row)
        if new.row not in OPERATOR_ROWS or new.floor_ratio is None:
            continue
        if old is None or old.floor_ratio is None:
            continue
        compared += 1
        if new.floor_ratio > old.floor_ratio * (1 + tolerance):
            slower.append(
                f"{new.row} {new.shape} {new.dtype}: {new.floor_ratio:.2f} x floor, was "
                f"{old.floor_ratio:.2f}, {new.floor_ratio / old.floor_ratio - 1:+.1%}"
            )
    return slower, compared


def goals(table: Table) -> list[str]:
    """Say for each goal how often it is met, and name every miss."""
    op, cuda = table.header["op"], table.header["kind"] == "cuda"
    operator = [r for r in table.records if r.row == "rsvheat"]
    peers = [r for r in table.records if r.row not in NOT_PEERS and r.speedup is not None]
    if op == "frequency_split":
        dct = [r for r in peers if r.row == "torch-dct"]
        return [_goal("at least 10 times faster than torch-dct", dct, lambda r: r.speedup, -10)]
    floor = 2.5 if cuda else 4.0
    lines = [
        _goal(f"at most {floor:g} x the floor", operator, lambda r: r.floor_ratio, floor),
        _goal("ahead of every peer (speed-up over 1)", peers, lambda r: r.speedup, -1),
    ]
    if cuda:
        conv = [r for r in peers if r.row == "conv1d"]
        lines.append(_goal("at least 5 times faster than conv1d", conv, lambda r: r.speedup, -5))
    single = [r for r in operator if r.dtype == "float32"]
    return [
        *lines,
        _goal("forward+backward at most 3 x forward", operator, lambda r: r.backward_ratio, 3),
        _goal("relative error at most 2e-6 (float32)", single, lambda r: r.relative_error, 2e-6),
        _goal("saved for backward: x and k, no more", operator, _saved_beyond_inputs, 0),
    ]


def _saved_beyond_inputs(record: Record) -> float | None:
    if record.saved_bytes is None:
        return None
    b, h, w, c = map(int, record.shape.split("x"))
    size = getattr(torch, record.dtype).itemsize
    return record.saved_bytes - (b * h * w * c * size + h * w * c * max(size, 4))


def _goal(
    text: str, records: list[Record], value: Callable[[Record], float | None], bound: float
) -> str:
    """Return a line on an upper bound, or on a lower one given as a negative number."""
    values = [(r, v) for r in records if (v := value(r)) is not None]
    missed = [(r, v) for r, v in values if (v < -bound if bound < 0 else v > bound)]
    line = f"{text}: {len(values) - len(missed)} of {len(values)}"
    if missed:
        line += "; missed at " + ", ".join(
            f"{r.shape} {r.dtype}{'' if r.row == 'rsvheat' else ' by ' + r.row} ({v:.3g})"
            for r, v in missed
        )
    return line


def markdown(table: Table) -> str:
    """Return the tables of one CSV, for ``results/README.md``."""
    header = table.header
    lines = [
        f"### `{header['op']}` on {header['device']}",
        "",
        f"{header['versions']}; {header['date']}; `{header['command']}`",
    ]
    for dtype in dict.fromkeys(r.dtype for r in table.records):
        shapes = [shape for kind, shape in table.cases() if kind == dtype]
        measured = [r for r in table.records if r.dtype == dtype and r.forward_ms is not None]
        rows = list(dict.fromkeys(r.row for r in measured))
        trained = list(dict.fromkeys(r.row for r in measured if r.forward_backward_ms is not None))
        titles = ["shape", *rows]
        body = [[_shape(s), *(_timed(table.find(dtype, s, row)) for row in rows)] for s in shapes]
        lines += ["", f"Forward, {dtype}, ms (x floor):", "", *_markdown_table(titles, body)]
        titles = ["shape", *trained, "rel. error", "extra MiB", "saved MiB"]
        body = []
        for shape in shapes:
            own = table.find(dtype, shape, "rsvheat")
            if own is None:
                raise ValueError(f"no row rsvheat for {shape} {dtype}")
            body.append(
                [
                    _shape(shape),
                    *(_trained(table.find(dtype, shape, row)) for row in trained),
                    _number(own.relative_error, ".1e"),
                    _mebibytes(own.extra_bytes),
                    _mebibytes(own.saved_bytes),
                ]
            )
        title = f"Forward and backward, {dtype}, ms (x forward), and error and memory of rsvheat:"
        lines += ["", title, "", *_markdown_table(titles, body)]
    lines += ["", "Goals:", "", *(f"- {line}" for line in goals(table))]
    notes = list(dict.fromkeys(f"{r.row} ({r.dtype}): {r.note}" for r in table.records if r.note))
    if notes:
        lines += ["", "Not measured:", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines)


def _shape(text: str) -> str:
    return f"({text.replace('x', ', ')})"


def _timed(record: Record | None) -> str:
    if record is None or record.forward_ms is None:
        return "-"
    if record.row == "floor" or record.floor_ratio is None:
        return milliseconds(record.forward_ms)
    return f"{milliseconds(record.forward_ms)} ({record.floor_ratio:.1f})"


def _trained(record: Record | None) -> str:
    if record is None or record.forward_backward_ms is None or record.backward_ratio is None:
        return "-"
    return f"{milliseconds(record.forward_backward_ms)} ({record.backward_ratio:.1f})"


def _markdown_table(titles: list[str], body: list[list[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in titles[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *body)]
