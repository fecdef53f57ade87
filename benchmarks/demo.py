# SPDX-License-Identifier: Apache-2.0
"""Write what `rsvheat demo` found as a table; a demo that is not complete is run, or goes on.

The figures are those of seed 0 and two threads; others have others.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from operator_tables import RESULTS
from tables import ROOT, append

from rsvheat.benchmarking import describe

TABLE = RESULTS / "demo.csv"


def figures(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row of each figure, in percent."""

    def result(step: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folder / step / "result.json").read_text())
        return content

    for weights, scores in result("probe")["accuracy"].items():
        for method, value in scores.items():
            yield {"step": f"{method}, weights: {weights}", "percent": 100 * value}
    for step in ("finetune", "scratch"):
        yield {"step": step, "percent": 100 * result(step)["accuracy"]}
    yield {"step": "segment, mean IoU", "percent": 100 * result("segment")["mean_iou"]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-demo")
    arguments = parser.parse_args(argv)
    command = ["-m", "rsvheat", "demo", "--seed", "0", "--output", str(arguments.folder)]
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode == 0:
        TABLE.unlink(missing_ok=True)
        append(TABLE, list(figures(arguments.folder)), describe("cpu", 2, "rsvheat demo", ()))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
