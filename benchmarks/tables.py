# SPDX-License-Identifier: Apache-2.0
"""Tables of results, as CSV with comments that say how they were made, and their commands."""

import argparse
import csv
import fcntl
import io
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from operator_tables import BenchmarkError

from rsvheat._files import complete_file
from rsvheat.data import DataError

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "runs" / "pretraining"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time change a file; others wait."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def append(path: Path, rows: Sequence[Mapping[str, Any]], head: Mapping[str, str]) -> None:
    """Add rows to a table; the header is that of the last addition."""
    with locked(path):
        old = read(path)
        text = io.StringIO()
        text.writelines(f"# {key}: {value}\n" for key, value in head.items())
        columns = list(dict.fromkeys(key for row in (*old, *rows) for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in (*old, *rows):
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
        with complete_file(path) as temporary:
            temporary.write_text(text.getvalue())


def spread(values: Sequence[str], scale: float = 100) -> str:
    """Return mean and deviation of a cell, in percent."""
    numbers = [scale * float(value) for value in values if value]
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def execute(
    run: Callable[[argparse.Namespace], None],
    markdown: Callable[[], str] | None,
    arguments: argparse.Namespace,
) -> int:
    """Run a command, or print its table; return the exit code."""
    if markdown and arguments.markdown:
        print(markdown())
        return 0
    torch.set_num_threads(arguments.threads)
    try:
        run(arguments)
    except (BenchmarkError, DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
