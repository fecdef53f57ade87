# SPDX-License-Identifier: Apache-2.0
"""Measure the committed figures again that take under an hour each, and compare them.

Each step runs a command of this folder, which writes its tables into --output, and compares their
cells with those of `results/`. A figure is missed if it is worse than its tolerance allows, or, for
counts and accuracies, if it differs by more. Speeds are compared on the kind of machine that the
committed table names. Commands that take longer are listed at the end.
"""

import argparse
import operator
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from operator_tables import COMMITTED
from tables import ROOT, read

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tolerance:
    """How far a figure may be from the committed one.

    Attributes:
        text: The tolerance for people.
        allows: Function of the committed and the found value.
    """

    text: str
    allows: Callable[[float, float], bool]

    @classmethod
    def equal(cls, part: float) -> "Tolerance":
        """Allow a relative difference either way."""
        return cls(f"± {part:.3g}", lambda old, new: abs(new - old) <= part * abs(old))

    @classmethod
    def within(cls, difference: float) -> "Tolerance":
        """Allow a difference either way."""
        return cls(f"± {difference:g} points", lambda old, new: abs(new - old) <= difference)

    @classmethod
    def at_most(cls, factor: float) -> "Tolerance":
        """Allow any lower value, and a higher one by a factor."""
        return cls(f"at most {factor:g} times", lambda old, new: new <= factor * old)

    @classmethod
    def at_least(cls, factor: float) -> "Tolerance":
        """Allow any higher value, and a lower one by a factor."""
        return cls(f"at least {factor:g} times", lambda old, new: new >= factor * old)


@dataclass(frozen=True)
class Step:
    """A command whose table is compared with the committed one.

    Attributes:
        name: Name of the step.
        command: Script of this folder and its arguments.
        table: Name of the table's file; ``*`` stands for the machine.
        keys: Columns that say what a row is.
        tolerances: Tolerance by column.
        minutes: Minutes that it takes on two cores.
        rows: Values of key columns of the rows that are compared; others are not.
        timed: Whether the figures depend on the machine, so that the committed ones count on the
            machine that the table's header names only.
        data: Folder of real images that it needs, in --data; None for none.
    """

    name: str
    command: str
    table: str
    keys: tuple[str, ...]
    tolerances: dict[str, Tolerance]
    minutes: float
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    timed: bool = False
    data: str | None = None


OPERATORS = "floor rsvheat scipy torch-dct"
STEPS = (
    Step(
        "parameters and multiply-adds",
        "systems.py count --sizes 224",
        "systems_counts.csv",
        ("size", "model"),
        {"parameters_m": Tolerance.equal(1e-3), "gmacs": Tolerance.equal(1e-3)},
        1,
    ),
    Step(
        "memory of a pass on CUDA, counted",
        "memory.py --write --sizes 224 1024",
        "memory.csv",
        ("mode", "dtype", "size", "batch", "model"),
        {"peak_mib": Tolerance.equal(1e-3), "kept_mib": Tolerance.equal(1e-3)},
        4,
    ),
    Step(
        "heat conduction",
        f"run.py heat_conduction --rows {OPERATORS} --keep-pages --write",
        "*_heat_conduction.csv",
        ("dtype", "shape", "row"),
        {
            "floor_ratio": Tolerance.at_most(1.4),
            "relative_error": Tolerance.at_most(1.5),
            "saved_bytes": Tolerance.at_most(1),
        },
        4,
        {"row": ("rsvheat",)},
    ),
    Step(
        "frequency split",
        f"run.py frequency_split --rows {OPERATORS} --keep-pages --write",
        "*_frequency_split.csv",
        ("dtype", "shape", "row"),
        {"floor_ratio": Tolerance.at_most(1.4), "relative_error": Tolerance.at_most(1.5)},
        1,
        {"row": ("rsvheat",)},
    ),
    Step(
        "growth with the side",
        "growth.py operator --sides 56 224 512",
        "growth.csv",
        ("threads", "side", "channels", "row"),
        {"ns_a_value": Tolerance.at_most(1.4), "extra_mib": Tolerance.at_most(1.05)},
        1,
        {"row": ("rsvheat-prepared",)},
        timed=True,
    ),
    Step(
        "checks of weights",
        "weight_checks.py --dtype float32 --sizes 224 --write",
        "*_weight_checks.csv",
        ("model", "size", "batch", "dtype"),
        {"checks_percent": Tolerance.at_most(2)},
        2,
    ),
    Step(
        "encoder beside Swin-B",
        "encoder.py --mode inference --sizes 224 512 --rounds 3 --write",
        "*_encoder.csv",
        ("mode", "dtype", "size", "model"),
        {
            "throughput_over_swin": Tolerance.at_least(0.8),
            "memory_over_swin": Tolerance.at_most(1.05),
            "GFLOP": Tolerance.equal(1e-3),
        },
        3,
        {"model": ("rsvheat",)},
    ),
    Step(
        "one thread beside Swin-B",
        "systems.py time --modes inference --sizes 224 512 --rounds 3 --models RS-vHeat-B Swin-B",
        "systems_times.csv",
        ("mode", "dtype", "size", "model"),
        {"throughput_over_swin": Tolerance.at_least(0.8), "peak_mib": Tolerance.at_most(1.05)},
        2,
        {"model": ("RS-vHeat-B",)},
        timed=True,
    ),
    Step(
        "windows of rasters",
        "windows.py speed --networks rsvheat_nano:256 --rounds 3",
        "windows_speed.csv",
        ("network", "window", "side"),
        {"cpu_ratio": Tolerance.at_least(0.9)},
        1,
        timed=True,
    ),
    Step(
        "a shared machine",
        "shared_machine.py --threads 2 --spin-counts 0 1000 --seconds 5 --rounds 4 --write",
        "shared_machine.csv",
        ("setting", "threads", "competitors"),
        {"images_per_s": Tolerance.at_least(0.8)},
        3,
        timed=True,
    ),
    Step(
        "the demo",
        "demo.py --folder {output}/demo",
        "demo.csv",
        ("step",),
        {"percent": Tolerance.within(2)},
        6,
    ),
    Step(
        "a step of pretraining",
        "pretraining.py step --rounds 3",
        "pretraining_step.csv",
        ("objective", "masking"),
        {"peak_MiB": Tolerance.at_most(1.05)},
        1,
        data="eurosat_rgb",
    ),
    Step(
        "pretraining's objectives",
        "pretraining.py ablation",
        "pretraining_ablation.csv",
        ("row", "seed"),
        {"knn": Tolerance.within(0.03), "linear": Tolerance.within(0.03)},
        18,
        data="eurosat_rgb",
    ),
    Step(
        "radar to optical retrieval",
        "pretraining.py retrieval --seeds 0 1",
        "pretraining_retrieval.csv",
        ("row", "seed"),
        {"features_at_1": Tolerance.within(0.03), "features_at_5": Tolerance.within(0.05)},
        5,
        data="s1s2_volkov",
    ),
    Step(
        "frozen features",
        "classification.py features",
        "classification_features.csv",
        ("row", "seed"),
        {"knn": Tolerance.within(0.01), "linear": Tolerance.within(0.01)},
        10,
        data="eurosat_rgb",
    ),
    Step(
        "few labels",
        "classification.py labels",
        "classification_labels.csv",
        ("part", "start", "seed"),
        {"accuracy": Tolerance.within(0.03)},
        8,
        data="eurosat_rgb",
    ),
    Step(
        "segmentation and change",
        "dense.py train --sets dubai ombria_optical_sar",
        "dense.csv",
        ("set", "network", "start", "seed", "fusion", "dropout", "steps", "settings"),
        {"mean_iou": Tolerance.within(0.03)},
        46,
        data="seg_dubai",
    ),
    Step(
        "oriented detection",
        'detection.py train --sets "FAIR1M-1.0, five groups" --rows "nano, bundled weights"',
        "detection.csv",
        ("data", "row", "seed"),
        {"map50_area": Tolerance.within(0.05)},
        7,
        data="obb_fair1m",
    ),
)

# Commands that take longer, or change files of the package: command, result, hours of one core.
LONGER = (
    ("pretraining.py checkpoint", "the weights that come along, which it replaces", 1.4),
    ("pretraining.py finetuning", "fine-tuning after each objective, which goes on from them", 0.5),
    ("classification.py scratch", "training from scratch with all labels", 1.5),
    ("detection.py train", "detection", 1.3),
    ("dense.py train", "segmentation and change on all eight sets", 2.7),
    ("run.py all --dtype float32 bfloat16 --keep-pages --write", "every peer of the operators", 1),
    ("encoder.py --write", "training and 1024 pixels", 0.5),
    ("systems.py time", "other encoders", 1.5),
    ("windows.py agreement", "windows and overlaps, on the demo's network", 0.5),
    ("cluster.py", "many scenes on a cluster", 0.1),
    ("boxes.py", "rotated boxes beside their peers, by `make bench-boxes`", 0.5),
    ("boxes.py --exactness", "rotated boxes beside shapely", 0.5),
)


def _machine(path: Path) -> str:
    """Return the processor and its caches that a table's header names, without the threads."""
    (device,) = (x for x in path.read_text().splitlines() if x.startswith("# device: "))
    return re.sub(r"\d+ threads?, ", "", device.removeprefix("# device: "))


def compare(step: Step, found: Path) -> Iterator[tuple[str, str, float, float, Tolerance]]:
    """Yield row, column, committed value, found value and tolerance of each figure.

    Args:
        step: Step whose command has run.
        found: Folder of the tables that it wrote.

    Raises:
        LookupError: If there is no committed table of this kind of machine, or no row to compare.
    """
    written = sorted(found.glob(step.table))
    if len(written) != 1:
        raise LookupError(f"the command wrote {len(written)} tables {step.table}")
    committed = COMMITTED / written[0].name
    if not committed.exists():
        raise LookupError(f"no table {committed.name} is committed: this is another machine")
    if step.timed and (there := _machine(committed)) != (here := _machine(written[0])):
        raise LookupError(f"{committed.name} is of {there}, this is {here}")
    names = operator.itemgetter(*step.keys)
    old = {names(row): row for row in read(committed)}
    number = 0
    for row in read(written[0]):
        if any(row[column] not in values for column, values in step.rows.items()):
            continue
        before = old.get(names(row))
        if before is None:
            continue
        for column, tolerance in step.tolerances.items():
            if before.get(column) and row.get(column):
                number += 1
                label = ", ".join(row[key] for key in step.keys)
                yield label, column, float(before[column]), float(row[column]), tolerance
    if not number:
        raise LookupError(f"{committed.name} has no row that the command measured")


def run(step: Step, output: Path, data: Path, python: Sequence[str]) -> list[str]:
    """Run a step; return its lines of the report, and raise if it cannot be compared.

    Args:
        step: Step.
        output: Folder of the tables.
        data: Folder of real images.
        python: Interpreter and its options.

    Raises:
        LookupError: If the data or a committed table is missing.
        RuntimeError: If the command fails.
    """
    if step.data and not (data / step.data).exists():
        raise LookupError(f"{data} has no {step.data}")
    for old in output.glob(step.table):
        old.unlink()
    words = shlex.split(step.command.format(output=shlex.quote(str(output))))
    if step.data:
        words += ["--data", str(data)]
    log = output / f"{step.name.replace(' ', '-').replace(',', '')}.log"
    with log.open("w") as file:
        done = subprocess.run(
            [*python, str(_HERE / words[0]), *words[1:]],
            env={**os.environ, "RSVHEAT_BENCHMARK_RESULTS": str(output)},
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)} ended with {done.returncode}: see {log}")
    return [
        f"| {step.name}: {label} | {column} | {old:.4g} | {new:.4g} | {tolerance.text} "
        f"| {'yes' if tolerance.allows(old, new) else '**missed**'} |"
        for label, column, old, new, tolerance in compare(step, output)
    ]


def report(lines: Sequence[str], skipped: Sequence[str]) -> str:
    """Return the report as Markdown."""
    return "\n".join(
        [
            "| figure | column | committed | found | tolerance | reproduced |",
            "| --- | --- | ---: | ---: | --- | --- |",
            *lines,
            "",
            *(f"Not compared: {reason}" for reason in skipped),
            "",
            "What takes longer, in hours of one core:",
            "",
            *(f"- `python benchmarks/{c}`: {what}, {hours:g} h" for c, what, hours in LONGER),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--steps", nargs="+", default=names, choices=names, metavar="STEP")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "reproduce")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    arguments = parser.parse_args(argv)
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    skipped: list[str] = []
    failed = False
    for step in STEPS:
        if step.name not in arguments.steps:
            continue
        print(f"{step.name} ({step.minutes:g} minutes on two cores or so)", flush=True)
        begin = time.monotonic()
        try:
            found = run(step, output, arguments.data.resolve(), [sys.executable])
        except LookupError as error:
            skipped.append(f"{step.name}: {error}")
            print(f"  not compared: {error}", flush=True)
            continue
        except RuntimeError as error:
            failed = True
            skipped.append(f"{step.name}: {error}")
            print(f"  failed: {error}", flush=True)
            continue
        missed = sum("**missed**" in line for line in found)
        lines += found
        seconds = time.monotonic() - begin
        print(f"  {len(found) - missed} of {len(found)} figures, {seconds:.0f} s", flush=True)
    text = report(lines, skipped)
    (output / "report.md").write_text(text + "\n")
    print(f"\n{text}\n\nreport: {output / 'report.md'}")
    return int(failed or any("**missed**" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
