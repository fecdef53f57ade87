# SPDX-License-Identifier: Apache-2.0
"""Time encoders in the modes of a device, and steps of pretraining.

modes        The base encoder and timm's Swin-B: inference eager, by a CUDA graph and by
             torch.compile; training (forward and backward) plain and with checkpointed blocks.
pretraining  Images per second of rsvheat_nano: forward, backward and AdamW on random images.
boxes        The operators on rotated boxes.
"""

import argparse
import csv
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rsvheat import ops
from rsvheat.benchmarking import build_model, call_of, describe, peak_bytes, time_calls
from rsvheat.models.pretraining import create_pretraining_model

MODELS = ("rsvheat_base", "swin_base_patch4_window7_224")
MODES = ("eager", "graph", "training", "checkpointed", "compile")


@dataclass
class Row:
    """A line of the table; a time is None, with the reason in ``note``, where there is none."""

    what: str
    mode: str
    dtype: str
    batch: int
    size: int
    milliseconds: float | None = None
    images_per_s: float | None = None
    peak_mib: float | None = None
    """Memory that a call allocates at most through torch, without weights."""
    note: str = ""


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """Return a replay of a call's kernels as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def time_modes(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each encoder, size, batch, dtype and mode."""
    deadline = time.monotonic() + arguments.seconds
    for mode, size in itertools.product(arguments.modes, arguments.sizes):
        for name in arguments.models:
            model = build_model(name, size).to(arguments.device)
            for batch, dtype in itertools.product(arguments.batch_sizes, arguments.dtypes):
                row = Row(name, mode, dtype, batch, size)
                if time.monotonic() > deadline:
                    row.note = f"not run: {arguments.seconds:g} s were over"
                else:
                    x = torch.randn(batch, 3, size, size, device=arguments.device)
                    _time_mode(row, model, x, arguments)
                yield row


def _time_mode(row: Row, model: nn.Module, x: torch.Tensor, arguments: argparse.Namespace) -> None:
    if row.mode == "graph" and arguments.device != "cuda":
        row.note = "a CUDA graph needs a GPU"
        return
    training = row.mode in ("training", "checkpointed")
    try:
        model.train(training)
        model.set_grad_checkpointing(row.mode == "checkpointed")
        if row.mode == "compile":
            torch._dynamo.reset()
            model = torch.compile(model)
        call = call_of(model, x, getattr(torch, row.dtype), training)
        if row.mode == "graph":
            call = captured(call)
        else:
            row.peak_mib = peak_bytes(call, arguments.device) / 2**20
        times = time_calls({"": call}, arguments.device, arguments.rounds)[""]
    except Exception as error:  # the other rows are still worth having
        row.note = f"{type(error).__name__}: {error}".partition("\n")[0]
        return
    row.milliseconds = 1e3 * statistics.median(times)
    row.images_per_s = row.batch / statistics.median(times)


def time_pretraining(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each batch size."""
    device = torch.device(arguments.device)
    for batch in arguments.batch_sizes:
        torch.manual_seed(0)
        network = create_pretraining_model("rsvheat_nano", {"optical": 3}).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
        images = torch.randn(batch, 3, *2 * (arguments.sizes[0],), device=device)

        def step(
            network: nn.Module = network,
            optimizer: torch.optim.Optimizer = optimizer,
            images: torch.Tensor = images,
        ) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = network({"optical": images}).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        seconds = statistics.median(time_calls({"": step}, device.type, arguments.rounds)[""])
        row = Row("pretraining rsvheat_nano", "training", "bfloat16", batch, arguments.sizes[0])
        row.milliseconds, row.images_per_s = 1e3 * seconds, batch / seconds
        yield row


def time_boxes(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each operator on rotated boxes; ``batch`` is the number of boxes."""
    device, count = arguments.device, arguments.count
    scale = torch.tensor([1000.0, 1000, 90, 90, 180], device=device)
    many = torch.rand(10 * count, 5, device=device) * scale + 5
    boxes, scores = many[:count], torch.rand(10 * count, device=device)
    features = torch.randn(1, 256, 200, 200, device=device)
    regions = torch.nn.functional.pad(many[:512], (1, 0))  # of image 0
    last = features.contiguous(memory_format=torch.channels_last)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "box_iou_rotated": (count, lambda: ops.box_iou_rotated(boxes, boxes)),
        "nms_rotated": (10 * count, lambda: ops.nms_rotated(many, scores, 0.1)),
        "roi_align_rotated": (
            len(regions),
            lambda: ops.roi_align_rotated(features, regions, 7, 0.2, 2),
        ),
        "roi_align_rotated, channels-last": (
            len(regions),
            lambda: ops.roi_align_rotated(last, regions, 7, 0.2, 2),
        ),
    }
    for name, (number, call) in calls.items():
        times = time_calls({"": call}, device, arguments.rounds)[""]
        yield Row(name, "eager", "float32", number, 0, 1e3 * statistics.median(times))


COMMANDS = {"modes": time_modes, "pretraining": time_pretraining, "boxes": time_boxes}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--count", type=int, default=2000, help="boxes; suppressed are ten times")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60, help="no new row of modes after these")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    command = " ".join(["python benchmarks/device.py", *(sys.argv[1:] if argv is None else argv)])
    header = describe(arguments.device, torch.get_num_threads(), command, ("timm",))
    rows: list[Row] = []
    for row in COMMANDS[arguments.command](arguments):
        rows.append(row)
        print(*dataclasses.astuple(row), sep=", ", flush=True)
        if arguments.output:
            _write(arguments.output, header, rows)
    return int(all(row.milliseconds is None for row in rows))


def _write(path: Path, header: dict[str, str], rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Row))
        for row in rows:
            cells = dataclasses.astuple(row)
            writer.writerow(f"{c:.4g}" if isinstance(c, float) else c for c in cells)


if __name__ == "__main__":
    sys.exit(main())
