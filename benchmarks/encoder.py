# SPDX-License-Identifier: Apache-2.0
"""Time the base encoder beside the published formulation of it and beside timm's Swin-B.

The models take turns in one process; the median of the rounds counts. Memory is the peak of what a
call has allocated through torch, without weights and what is kept between calls. Training is
forward and backward. FLOPs are counted by torch's FlopCounterMode during a forward pass.
"""

import argparse
import csv
import io
import math
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from operator_tables import RESULTS, BenchmarkError
from published_encoder import PublishedEncoder
from torch import nn

import rsvheat
from rsvheat.benchmarking import (
    call_of,
    describe,
    flops_of,
    keep_pages,
    machine_slug,
    peak_bytes,
    time_calls,
)

CASES = ((4, 224), (1, 512), (1, 1024))
MODELS = ("rsvheat", "published", "swin")
COLUMNS = (
    "mode", "dtype", "batch", "size", "model",
    "seconds", "images_per_s", "throughput_over_swin", "throughput_over_published",
    "peak_MiB", "memory_over_swin", "memory_over_published", "GFLOP",
)  # fmt: skip


def build(size: int, device: str) -> dict[str, nn.Module]:
    """Return the models, with weights that make no step trivial."""
    torch.manual_seed(0)
    ours = rsvheat.create_model("rsvheat_base", img_size=size, num_classes=1000)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if ".gamma" in name:
                parameter.fill_(0.5)
    swin = timm.create_model("swin_base_patch4_window7_224", img_size=size)
    models = {"rsvheat": ours, "published": PublishedEncoder(ours), "swin": swin}
    x = torch.randn(1, 3, size, size, device=device)
    for model in models.values():
        model.to(device).eval()
    # TF32, which cuDNN uses by default, would be what is compared.
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        a, b = ours(x), models["published"](x)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    error = float((a - b).norm() / a.norm())
    if not error < 1e-4:
        raise BenchmarkError(f"the published formulation differs from ours by {error:.2g}")
    return models


def measure(case: tuple[int, int], dtype: str, mode: str, device: str, rounds: int) -> list[dict]:
    """Return a row of the table for each model."""
    batch, size = case
    models = build(size, device)
    x = torch.randn(batch, 3, size, size, device=device)
    training = mode == "training"
    calls = {}
    for name, model in models.items():
        model.train(training)
        calls[name] = call_of(model, x, getattr(torch, dtype), training)
    times = time_calls(calls, device, rounds, math.inf)
    rows = {}
    for name, model in models.items():
        seconds = statistics.median(times[name])
        rows[name] = {
            "mode": mode, "dtype": dtype, "batch": batch, "size": size, "model": name,
            "seconds": seconds, "images_per_s": batch / seconds,
            "peak_MiB": peak_bytes(calls[name], device) / 2**20,
            "GFLOP": flops_of(model.eval(), x) / 1e9,
        }  # fmt: skip
    for row in rows.values():
        for peer in ("swin", "published"):
            row[f"throughput_over_{peer}"] = rows[peer]["seconds"] / row["seconds"]
            row[f"memory_over_{peer}"] = row["peak_MiB"] / rows[peer]["peak_MiB"]
    return list(rows.values())


def goals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each goal that the rows allow to judge."""
    limits = {
        "float32": {224: 1.45, 512: 1.7, 1024: 2.0},
        "bfloat16": {224: 1.5, 512: 1.8, 1024: 2.0},
    }
    lines = []

    def judge(what: str, value: float, limit: float, at_least: bool = True) -> None:
        met = value >= limit if at_least else value <= limit
        bound = "at least" if at_least else "at most"
        lines.append(f"{'met   ' if met else 'missed'} {what}: {value:.2f}, goal {bound} {limit}")

    for row in rows:
        if row["model"] != "rsvheat":
            continue
        where = f"{row['mode']} {row['dtype']} {row['size']}"
        if row["mode"] == "inference":
            limit = limits[row["dtype"]][row["size"]]
            judge(f"{where}, throughput over Swin-B", row["throughput_over_swin"], limit)
            if row["size"] == 1024:
                judge(f"{where}, memory over Swin-B's", row["memory_over_swin"], 0.5, False)
        elif row["size"] == 224:
            judge(f"{where}, throughput over published", row["throughput_over_published"], 1.5)
            judge(f"{where}, memory over published's", row["memory_over_published"], 0.7, False)
    return lines


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``results/encoder.md``."""
    lines = [
        "| | rsvheat s | Swin-B s | published s | over Swin-B | over published "
        "| memory, of Swin-B's | of published's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    cases = dict.fromkeys((r["mode"], r["dtype"], r["batch"], r["size"]) for r in rows)
    for case in cases:
        mode, dtype, batch, size = case
        by_model = {
            r["model"]: r for r in rows if (r["mode"], r["dtype"], r["batch"], r["size"]) == case
        }
        ours = by_model["rsvheat"]
        seconds = " | ".join(
            f"{by_model[m]['seconds']:.3f}" for m in ("rsvheat", "swin", "published")
        )
        lines.append(
            f"| {mode}, {dtype}, {batch} x {size} | {seconds} "
            f"| {ours['throughput_over_swin']:.2f} | {ours['throughput_over_published']:.2f} "
            f"| {ours['memory_over_swin']:.2f} | {ours['memory_over_published']:.2f} |"
        )
    return "\n".join(lines)


def write(path: Path, head: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    text.writelines(f"# {key}: {value}\n" for key, value in head.items())
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    partial = path.with_suffix(".partial")
    partial.write_text(text.getvalue())
    partial.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    texts = ("mode", "dtype", "model")
    return [
        {
            k: v if k in texts else float(v) if k not in ("batch", "size") else int(v)
            for k, v in row.items()
        }
        for row in csv.DictReader(lines)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--mode", nargs="+", default=["inference", "training"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[size for _, size in CASES])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--keep-pages", action="store_true", help="as for run.py: malloc keeps what is freed"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the rows measured into the stored CSV, case by case",
    )
    parser.add_argument("--markdown", action="store_true", help="print the stored tables, no run")
    arguments = parser.parse_args(argv)
    try:
        if arguments.markdown:
            for path in sorted(RESULTS.glob("*_encoder.csv")):
                print(f"{path.stem}\n\n{markdown(read(path))}\n")
            return 0
        return _run(arguments)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError("--device cuda: torch finds no CUDA device")
    torch.set_num_threads(arguments.threads)
    if arguments.keep_pages:
        keep_pages()
    command = (
        "python benchmarks/encoder.py "
        + " ".join(
            f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in vars(arguments).items()
            if name in ("device", "dtype", "mode", "sizes", "threads", "rounds")
        )
        + " --keep-pages" * arguments.keep_pages
    )
    head = describe(arguments.device, arguments.threads, command, ("timm",))
    print("\n".join(f"{key}: {value}" for key, value in head.items()), flush=True)
    path = RESULTS / f"{machine_slug(arguments.device, arguments.threads)}_encoder.csv"
    rows: list[dict[str, Any]] = []
    for mode in arguments.mode:
        for dtype in arguments.dtype:
            for case in CASES:
                if case[1] not in arguments.sizes:
                    continue
                measured = measure(case, dtype, mode, arguments.device, arguments.rounds)
                print(markdown(measured).splitlines()[-1], flush=True)
                rows += measured
                if arguments.write:
                    write(path, head, _merge(read(path) if path.exists() else [], measured))
    print("\nGoals:", *goals(rows), "", markdown(rows), sep="\n")
    return 0


def _merge(stored: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stored rows with those of the measured case in place of its old ones."""

    def case(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column] for column in ("mode", "dtype", "size", "batch"))

    rows = [row for row in stored if case(row) != case(measured[0])] + measured
    order = ("inference", "training", "float32", "bfloat16")
    return sorted(rows, key=lambda r: (order.index(r["mode"]), order.index(r["dtype"]), r["size"]))


if __name__ == "__main__":
    sys.exit(main())
