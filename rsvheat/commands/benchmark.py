# SPDX-License-Identifier: Apache-2.0
"""Measure how fast operators and encoders are on this machine, and their memory."""

import argparse
import os
import re
import shlex
from contextlib import ExitStack
from pathlib import Path

from rsvheat.cli import UsageError
from rsvheat.commands._parser import PlainParser

EXAMPLE = "rsvheat benchmark --models rsvheat_tiny resnet18 --batch_sizes 1 8 --output speed.csv"


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = _options(arguments)
    # The profiler that counts memory reports on itself.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")

    import torch
    from tqdm import tqdm  # type: ignore[import-untyped]

    from rsvheat import benchmarking
    from rsvheat._files import complete_file
    from rsvheat._library import build_info

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    command = shlex.join(["rsvheat", "benchmark", *arguments])
    header = benchmarking.describe(device, torch.get_num_threads(), command, ("timm",))
    info = build_info()
    if not info["cuda" if device == "cuda" else "native"]:
        reason = info["cuda_error"] if info["native"] else info["native_error"]
        header["operators"] = f"in pure torch: {reason}"
    cases = benchmarking.benchmark(
        () if options.only == "encoders" else options.shapes,
        () if options.only == "operators" else options.models,
        options.sizes,
        options.batch_sizes,
        options.dtypes,
        options.modes,
        device=device,
        rounds=options.rounds,
        budget=options.seconds,
    )
    rows: list[benchmarking.Measurement] = []
    with ExitStack() as stack:
        # Entered first: a folder that cannot be written to is found before a minute has passed.
        path = options.output and stack.enter_context(complete_file(options.output))
        print("\n".join(f"{key}: {value}" for key, value in header.items()), flush=True)
        with tqdm(total=len(cases), unit="case", disable=None, leave=False) as bar:
            for measure in cases:
                measured = measure()
                bar.update()
                bar.clear()
                print(f"\n{benchmarking.text_table(measured)}", flush=True)
                rows += measured
        if path:
            benchmarking.write_measurements(path, header, rows)
    if options.output:
        print(f"\nwrote {options.output}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = PlainParser(__name__)
    add = parser.add_argument
    modes, dtypes = ("inference", "training"), ("float32", "bfloat16", "float16")
    add("--only", choices=("operators", "encoders"), help="Both by default.")
    add(
        "--shapes",
        nargs="+",
        type=_shape,
        default=[(8, 56, 56, 128), (8, 14, 14, 512), (1, 128, 128, 256)],
        metavar="BxHxWxC",
        help="Shapes of features; 8x56x56x128, 8x14x14x512 and 1x128x128x256 by default.",
    )
    add(
        "--models",
        nargs="+",
        default=["rsvheat_nano", "rsvheat_tiny"],
        metavar="NAME",
        help="Variants of rsvheat and models of timm; rsvheat_nano and rsvheat_tiny by default.",
    )
    add(
        "--sizes",
        nargs="+",
        type=_positive,
        default=[224],
        metavar="PIXELS",
        help="Sides of the models' images; 224 by default.",
    )
    add(
        "--batch_sizes",
        nargs="+",
        type=_positive,
        default=[1, 4],
        metavar="IMAGES",
        help="Images in a call of a model; 1 and 4 by default.",
    )
    add(
        "--dtypes",
        nargs="+",
        choices=dtypes,
        default=["float32", "bfloat16"],
        metavar="DTYPE",
        help="Types: float32, bfloat16 and float16; the first two by default.",
    )
    add(
        "--modes",
        nargs="+",
        choices=modes,
        default=list(modes),
        metavar="MODE",
        help="inference and training, which is forward and backward; both by default.",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="Device; a GPU by default, if there is one.",
    )
    add(
        "--threads", type=_positive, metavar="N", help="CPU threads; by default torch's own choice."
    )
    add("--rounds", type=_rounds, default=20, metavar="N", help="Calls of each row, 3 or more.")
    add(
        "--seconds",
        type=float,
        default=0.5,
        metavar="S",
        help="Seconds after which a slow row is not called again; it is called at least thrice.",
    )
    add("--output", type=_table, metavar="FILE", help="Write the table, .csv or .json.")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def _rounds(text: str) -> int:
    if _positive(text) < 3:
        raise argparse.ArgumentTypeError(f"{text} is less than 3, too few for quartiles")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not four sizes such as 8x56x56x128")
    return tuple(map(int, text.split("x")))


def _table(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".json"):
        raise argparse.ArgumentTypeError(f"{text} ends neither in .csv nor in .json")
    return Path(text)
