# SPDX-License-Identifier: Apache-2.0
"""The base encoder beside those that other foundation models of remote sensing are built on.

count     Parameters and multiply-adds of a forward pass, without running one.
time      Seconds of one thread and peak memory, inference or training, batch 1.

The models of a case take turns in one process. Seconds are the process's own, so that others on the
machine disturb them little; the least of the rounds counts. Memory is the peak of what a call has
allocated through torch, without weights and what is kept between calls. Training is forward and
backward. Cases that are in the table already are not measured again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from operator_tables import RESULTS
from tables import append, execute, read
from torch import nn

from rsvheat.benchmarking import build_model, call_of, describe, flops_of, peak_bytes

# Name in the tables: name of the model, and whose encoder it is.
MODELS = {
    "RS-vHeat-B": ("rsvheat_base", "this package"),
    "vHeat-B": ("vheat_base", "what RS-vHeat builds on"),
    "Swin-B": ("swin_base_patch4_window7_224", "RingMo's, the paper's baseline"),
    "ConvNeXt-B": ("convnext_base", "a convolutional one of that size"),
    "ViT-B/16": ("vit_base_patch16_224", "of the size of CROMA's and of MTP's and RVSA's"),
    "ViT-L/16": ("vit_large_patch16_224", "Scale-MAE's"),
}
COUNTS, TIMES = RESULTS / "systems_counts.csv", RESULTS / "systems_times.csv"


def count(arguments: argparse.Namespace) -> None:
    """Write a row of each size and model."""
    head = describe("cpu", 1, "python benchmarks/systems.py count", ("timm",))
    COUNTS.unlink(missing_ok=True)
    for size in arguments.sizes:
        rows = []
        for label, (name, _) in MODELS.items():
            # Tensors without data: nothing is computed.
            model = build_model(name, size).eval().to("meta")
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            gmacs = flops_of(model, torch.zeros(1, 3, size, size, device="meta")) / 2e9
            rows.append({"size": size, "model": label, "parameters_m": parameters, "gmacs": gmacs})
            print(f"{size}, {label}: {parameters:.1f} M, {gmacs:.1f} GMACs", flush=True)
        append(COUNTS, rows, head)


def measure(arguments: argparse.Namespace) -> None:
    """Write a row of each case and model."""
    command = "python benchmarks/systems.py " + " ".join(sys.argv[1:])
    head = describe("cpu", arguments.threads, command, ("timm",))
    for mode in arguments.modes:
        for dtype in arguments.dtypes:
            for size in arguments.sizes:
                case = {"mode": mode, "dtype": dtype, "size": size}
                done = [{k: row[k] for k in case} for row in read(TIMES)]
                if {k: str(v) for k, v in case.items()} in done:
                    continue
                models = {label: build_model(MODELS[label][0], size) for label in arguments.models}
                rows = [
                    {**case, "model": label, **values}
                    for label, values in _times(models, mode, dtype, size, arguments.rounds).items()
                ]
                for row in rows:
                    print(
                        ", ".join(
                            f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()
                        )
                    )
                append(TIMES, rows, head)


def _times(
    models: dict[str, nn.Module], mode: str, dtype: str, size: int, rounds: int
) -> dict[str, dict[str, Any]]:
    x = torch.randn(1, 3, size, size)
    calls = {}
    for label, model in models.items():
        model.train(mode == "training")
        calls[label] = call_of(model, x, getattr(torch, dtype), mode == "training")
        calls[label]()
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for label, call in calls.items():
            begin = time.process_time()
            call()
            seconds[label] = min(seconds[label], time.process_time() - begin)
    return {
        label: {
            "cpu_seconds": seconds[label],
            "throughput_over_swin": seconds["Swin-B"] / seconds[label],
            "peak_mib": peak_bytes(call, "cpu") / 2**20,
        }
        for label, call in calls.items()
    }


def markdown() -> str:
    """Return both tables."""
    counts, times = read(COUNTS), read(TIMES)
    sizes = list(dict.fromkeys(row["size"] for row in counts))
    by_size = {(row["size"], row["model"]): row for row in counts}
    lines = [
        f"| | encoder of | parameters, M | {' | '.join(f'GMACs at {size}' for size in sizes)} |",
        "| --- | --- | ---: |" + " ---: |" * len(sizes),
    ]
    for label, (_, origin) in MODELS.items():
        cells = [f"{float(by_size[size, label]['gmacs']):.1f}" for size in sizes]
        parameters = float(by_size[sizes[0], label]["parameters_m"])
        lines.append(f"| {label} | {origin} | {parameters:.1f} | {' | '.join(cells)} |")
    cases = sorted(
        {(row["mode"], row["dtype"], row["size"]) for row in times},
        key=lambda case: (case[0], case[1] != "float32", int(case[2])),
    )
    lines += ["", f"| | {' | '.join(MODELS)} |", "| --- |" + " ---: |" * len(MODELS)]
    for case in cases:
        rows = {r["model"]: r for r in times if (r["mode"], r["dtype"], r["size"]) == case}
        cells = [
            f"{float(row['cpu_seconds']):.2f} s ({float(row['throughput_over_swin']):.2f}), "
            f"{float(row['peak_mib']):.0f} MiB"
            if row
            else "-"
            for row in (rows.get(label) for label in MODELS)
        ]
        lines.append(f"| {case[0]}, {case[1]}, {case[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("count", count), ("time", measure)):
        part = commands.add_parser(name)
        part.set_defaults(run=run)
        part.add_argument("--threads", type=int, default=1)
        part.add_argument("--sizes", type=int, nargs="+", default=[224, 512, 1024])
        part.add_argument("--markdown", action="store_true", help="print the tables, no run")
        if name == "time":
            modes, dtypes = ["inference", "training"], ["float32", "bfloat16"]
            part.add_argument("--modes", nargs="+", default=modes, choices=modes)
            part.add_argument("--dtypes", nargs="+", default=dtypes, choices=dtypes)
            part.add_argument("--rounds", type=int, default=3)
            part.add_argument(
                "--models",
                nargs="+",
                default=list(MODELS),
                choices=MODELS,
                help="Swin-B among them",
            )
    arguments = parser.parse_args(argv)
    return execute(arguments.run, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
