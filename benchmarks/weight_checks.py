# SPDX-License-Identifier: Apache-2.0
"""Time what the encoders spend in evaluation on seeing whether weights have changed.

Values computed of weights are kept between calls, and used while a fingerprint of the weights is
the same (rsvheat/ops/fingerprint.py). Forward passes with and without the check take turns in one
process, and the checks of a pass are timed alone after it. Times are of all threads' CPU, so that
other processes disturb them little; the least of the rounds counts.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

# Threads that wait for others would count as busy otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tables
import torch
from operator_tables import RESULTS
from torch import Tensor

import rsvheat
from rsvheat.benchmarking import describe, machine_slug
from rsvheat.models import layers
from rsvheat.ops import onednn
from rsvheat.ops.fingerprint import fingerprint

CASES = tuple(
    (model, size, batch)
    for model, size in (("rsvheat_nano", 64), ("rsvheat_base", 224), ("rsvheat_base", 512))
    for batch in (1, 8)
)


def cpu_ms(call: Callable[[], Any]) -> float:
    """Return the CPU time of a call in ms, over all threads."""
    begin = time.process_time_ns()
    call()
    return (time.process_time_ns() - begin) / 1e6


def measure(model: str, size: int, batch: int, dtype: str, rounds: int) -> dict[str, Any]:
    """Return a row of the table."""
    torch.manual_seed(0)
    network = rsvheat.create_model(model, img_size=size).eval()
    x = torch.randn(batch, 3, size, size)
    checked: list[Tensor] = []

    def noted(tensor: Tensor) -> Any:
        checked.append(tensor)
        return fingerprint(tensor)

    def forward(check: Callable[[Tensor], Any]) -> float:
        with (
            mock.patch.object(onednn, "fingerprint", check),
            mock.patch.object(layers, "fingerprint", check),
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
        ):
            network(x)  # what the other check has kept is computed anew
            checked.clear()
            return cpu_ms(lambda: network(x))

    with_check, without, alone = [], [], []
    for number in range(rounds):
        turns: list[tuple[list[float], Callable[[Tensor], Any]]] = [
            (with_check, fingerprint),
            (without, lambda tensor: None),
        ]
        for times, check in turns[:: 1 if number % 2 else -1]:
            times.append(forward(check))
        forward(noted)
        with torch.inference_mode():
            alone.append(cpu_ms(lambda: [fingerprint(tensor) for tensor in checked]))
    return {
        "model": model, "size": size, "batch": batch, "dtype": dtype,
        "checks": len(checked), "MiB_read": sum(tensor.nbytes for tensor in checked) / 2**20,
        "with_ms": min(with_check), "without_ms": min(without), "checks_ms": min(alone),
        "checks_percent": 100 * min(alone) / min(without),
    }  # fmt: skip


def markdown() -> str:
    """Return the stored tables."""
    lines = [
        "| | checks | MiB read | with ms | without ms | checks alone ms | of a pass |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for path in sorted(RESULTS.glob("*_weight_checks.csv")):
        lines += [
            f"| {row['model']}, {row['batch']} x {row['size']}, {row['dtype']} | {row['checks']} "
            f"| {float(row['MiB_read']):.1f} | {float(row['with_ms']):.4g} "
            f"| {float(row['without_ms']):.4g} | {float(row['checks_ms']):.3g} "
            f"| {float(row['checks_percent']):.2f} % |"
            for row in tables.read(path)
        ]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure all cases, and store them if told to."""
    command = (
        f"python benchmarks/weight_checks.py --threads {arguments.threads} "
        f"--rounds {arguments.rounds} --dtype {' '.join(arguments.dtype)}"
    )
    head = describe("cpu", arguments.threads, command, ())
    path = RESULTS / f"{machine_slug('cpu', arguments.threads)}_weight_checks.csv"
    rows = []
    for dtype in arguments.dtype:
        for model, size, batch in CASES:
            if size not in arguments.sizes:
                continue
            # Short passes have more rounds, so that one of them is undisturbed.
            rounds = arguments.rounds * max(1, round(512 / size) ** 2)
            row = measure(model, size, batch, dtype, rounds)
            rows.append(row)
            print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                            for k, v in row.items()), flush=True)  # fmt: skip
    if arguments.write:
        path.unlink(missing_ok=True)
        tables.append(path, rows, head)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224, 512])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="for 512 pixels; more for fewer")
    parser.add_argument("--write", action="store_true", help="store the measurement as CSV")
    parser.add_argument("--markdown", action="store_true", help="print the stored table, no run")
    return tables.execute(run, markdown, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
