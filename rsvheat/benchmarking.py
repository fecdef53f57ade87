# SPDX-License-Identifier: Apache-2.0
"""Timing of operators and encoders, and the description of this machine."""

import csv
import ctypes
import dataclasses
import datetime
import functools
import gc
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import rsvheat.ops
from rsvheat._library import build_info
from rsvheat.models import VARIANTS, create_model
from rsvheat.ops import reference

MODES = ("inference", "training")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Measurement:
    """One row of one case; rows of a case took turns.

    A value is None where it does not exist or, with the reason in ``note``, could not be had.
    """

    case: str
    """Name of the case."""
    row: str
    """Operator or model."""
    mode: str
    """``inference``, or ``training``: forward and backward, without a step of an optimizer."""
    dtype: str
    """Type of an operator's features, or of the autocast that a model runs under."""
    batch: int
    shape: str
    """Shape of one sample: HxWxC of features, HxW of images of three bands."""
    median_ms: float | None = None
    """Median time of a call with the whole batch: its latency."""
    low_ms: float | None = None
    """First quartile."""
    high_ms: float | None = None
    """Third quartile."""
    calls: int = 0
    """Number of timed calls."""
    images_per_s: float | None = None
    """Throughput of a model, by the median."""
    floor_ratio: float | None = None
    """Median of an operator over that of one streaming pass over its operands."""
    peak_mib: float | None = None
    """The most memory that a model's call had allocated through torch at once, without weights and
    what is kept between calls."""
    gmacs: float | None = None
    """Billions of multiply-adds of a model's forward pass, of one image."""
    note: str = ""

    def fill(self, seconds: Sequence[float]) -> None:
        """Compute the quartiles of timed calls.

        Args:
            seconds: Seconds of each call, at least three.
        """
        quartiles = statistics.quantiles(seconds, method="inclusive")
        self.low_ms, self.median_ms, self.high_ms = (1e3 * value for value in quartiles)
        self.calls = len(seconds)


def benchmark(
    shapes: Iterable[tuple[int, int, int, int]] = (),
    models: Sequence[str] = (),
    sizes: Iterable[int] = (224,),
    batch_sizes: Iterable[int] = (1, 8),
    dtypes: Iterable[str] = ("float32",),
    modes: Iterable[str] = MODES,
    *,
    device: str = "cpu",
    rounds: int = 20,
    budget: float = 0.5,
) -> list[Callable[[], list[Measurement]]]:
    """Return functions that measure heat conduction at each shape, and encoders at each size.

    Args:
        shapes: Shapes (B, H, W, C) of the operator's features.
        models: Variants of rsvheat, or names of timm's.
        sizes: Sides of the models' images in pixels.
        batch_sizes: Images in a call of the models.
        dtypes: Types of the features and of autocast: float32, bfloat16 or float16.
        modes: ``inference``, ``training`` or both.
        device: cpu or cuda.
        rounds: Turns of each row.
        budget: Seconds after which a slow row gets no more turns; it gets at least three.

    Returns:
        A function for each case, which returns the case's rows.

    Raises:
        ValueError: If a model's name is neither a variant's nor timm's.
    """
    for name in models:
        _check_name(name)
    settings = list(itertools.product(dtypes, modes))
    timing: dict[str, Any] = {"device": device, "rounds": rounds, "budget": budget}
    return [
        *(
            functools.partial(measure_operator, shape, dtype, mode, **timing)
            for shape in shapes
            for dtype, mode in settings
        ),
        *(
            functools.partial(measure_encoders, models, size, batch, dtype, mode, **timing)
            for size in sizes
            for dtype, mode in settings
            for batch in batch_sizes
            if models
        ),
    ]


def measure_operator(
    shape: tuple[int, int, int, int],
    dtype: str,
    mode: str,
    *,
    device: str,
    rounds: int,
    budget: float,
) -> list[Measurement]:
    """Time heat conduction, the floor and the reference implementation in pure torch.

    The floor is ``torch.mul(x, filter, out=y)``, one streaming pass over the operands, in training
    too. ``rsvheat-prepared`` is given the filter instead of k, as in encoders in evaluation.
    Arguments are those of ``benchmark``.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device, getattr(torch, dtype))
    k = (2 * torch.rand(shape[1:], generator=generator)).to(device)
    calls = _operator_calls(x, k, mode == "training")
    rows = {
        name: Measurement(
            "heat_conduction", name, mode, dtype, shape[0], "x".join(map(str, shape[1:]))
        )
        for name in calls
    }
    for name, times in time_calls(calls, device, rounds, budget).items():
        rows[name].fill(times)
    floor = rows["floor"].median_ms
    for row in rows.values():
        row.floor_ratio = row.median_ms / floor if row.median_ms and floor else None
    return list(rows.values())


def _operator_calls(x: Tensor, k: Tensor, training: bool) -> dict[str, Callable[[], Any]]:
    prepared = rsvheat.ops.heat_filter(k, x.shape[1], x.shape[2])
    y, weight = torch.ones_like(x), prepared.to(x.dtype)
    calls: dict[str, Callable[[], Any]] = {"floor": lambda: torch.mul(x, weight, out=y)}

    def infer(operator: Callable[..., Tensor], second: Tensor) -> Callable[[], Any]:
        def call() -> Tensor:
            with torch.no_grad():
                return operator(x, second)

        return call

    def train(operator: Callable[..., Tensor], second: Tensor) -> Callable[[], Any]:
        leaves = [t.detach().requires_grad_() for t in (x, second)]
        return lambda: torch.autograd.grad(operator(*leaves), leaves, weight.expand_as(x))

    add = train if training else infer
    calls["rsvheat"] = add(rsvheat.ops.heat_conduction, k)
    if not training:
        calls["rsvheat-prepared"] = add(rsvheat.ops.apply_heat_filter, prepared)
    calls["twin in pure torch"] = add(reference.heat_conduction, k)
    return calls


def measure_encoders(
    models: Sequence[str],
    size: int,
    batch: int,
    dtype: str,
    mode: str,
    *,
    device: str,
    rounds: int,
    budget: float,
) -> list[Measurement]:
    """Time encoders with a classifier of 1000 classes, fresh weights and images of three bands.

    Arguments are those of ``benchmark``.
    """
    x = torch.randn(batch, 3, size, size, device=device)
    rows, calls = {}, {}
    for name in models:
        model = build_model(name, size).to(device).eval()
        rows[name] = Measurement("encoder", name, mode, dtype, batch, f"{size}x{size}")
        rows[name].gmacs = flops_of(model, x[:1]) / 2e9
        model.train(mode == "training")
        call = call_of(model, x, getattr(torch, dtype), mode == "training")
        try:
            call()
            calls[name] = call
        except torch.OutOfMemoryError:
            rows[name].note = "out of memory"
    for name, times in time_calls(calls, device, rounds, budget).items():
        rows[name].fill(times)
        rows[name].images_per_s = batch / statistics.median(times)
        rows[name].peak_mib = peak_bytes(calls[name], device) / 2**20
    return list(rows.values())


def build_model(name: str, size: int) -> nn.Module:
    """Build an encoder of rsvheat or timm for square images of three bands and 1000 classes.

    Args:
        name: A variant of rsvheat, or one of timm's models.
        size: Side of the images in pixels.

    Raises:
        ValueError: If there is none of that name, or it cannot take images of that size.
    """
    _check_name(name)
    if name in VARIANTS:
        return create_model(name, modalities={"optical": 3}, num_classes=1000, img_size=size)
    import timm

    # Other models take any size, and have no such argument.
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    arguments: dict[str, Any] = {"img_size": size} if fixed else {}
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def _check_name(name: str) -> None:
    if name in VARIANTS:
        return
    import timm

    if not timm.is_model(name):
        raise ValueError(
            f"no model is named {name!r}: neither a variant of rsvheat ({', '.join(VARIANTS)}) "
            "nor a model of timm"
        )


def call_of(model: nn.Module, x: Tensor, dtype: torch.dtype, training: bool) -> Callable[[], None]:
    """Return a call of a model: a forward pass or, in training, forward and backward."""

    def call() -> None:
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            if not training:
                with torch.inference_mode():
                    model(x)
                return
            loss = model(x).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return call


def time_calls(
    calls: Mapping[str, Callable[[], Any]], device: str, rounds: int, budget: float = 0.3
) -> dict[str, list[float]]:
    """Time calls side by side.

    The calls take turns, so that other load on the machine slows all of them alike. A turn of a
    call that is not slow starts with an untimed call, which brings its data into the caches and
    lets idle threads of the call before it stop spinning.

    Args:
        calls: Calls by name.
        device: cpu or cuda.
        rounds: Turns of each call.
        budget: Seconds after which a slow call gets no more turns; it gets at least three.

    Returns:
        The seconds of each turn.
    """
    clock = _clock_cuda if device == "cuda" else _clock_cpu
    turns, slow = {}, set()
    for name, call in calls.items():
        call()
        seconds = clock(call)
        turns[name] = max(min(3, rounds), int(min(rounds, budget / (2 * seconds))))
        if seconds > 0.05:
            slow.add(name)
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name, call in calls.items():
                # Spreads the fewer turns of a slow call evenly over the rounds.
                if turn * turns[name] // rounds != (turn + 1) * turns[name] // rounds:
                    if name not in slow:
                        call()
                    times[name].append(clock(call))
    finally:
        gc.enable()
    return times


def _clock_cpu(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _clock_cuda(call: Callable[[], Any], seconds: float = 5e-3) -> float:
    # Several calls between two events, so that the kernels and not the launches are timed.
    def timed(calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 / calls

    return timed(max(1, min(50, int(seconds / timed(1)))))


def keep_pages() -> None:
    """Keep this process's malloc (glibc's) from returning memory to the system.

    Raises:
        RuntimeError: If it refuses.
    """
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4
    if not (libc.mallopt(m_trim_threshold, -1) and libc.mallopt(m_mmap_max, 0)):
        raise RuntimeError("mallopt refused")


def peak_bytes(call: Callable[[], None], device: str) -> int:
    """Return the most memory that a call has allocated through torch at once."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def flops_of(model: nn.Module, x: Tensor) -> int:
    """Return the floating point operations of a forward pass, two for a multiply-add."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return int(counter.get_total_flops())


def describe(device: str, threads: int, command: str, packages: Sequence[str]) -> dict[str, str]:
    """Return the header of a table: machine, versions, date, load and command.

    Args:
        device: cpu or cuda.
        threads: Number of torch's threads.
        command: Command that made the table.
        packages: Packages whose versions are listed beside those of rsvheat and torch.
    """
    info = build_info()
    name = device_name(device)
    if device == "cpu":
        count = f"{threads} thread{'s' if threads > 1 else ''}"
        name += f" ({info['cpu_capability']}, {count}{_caches()})"
    versions = [f"Python {platform.python_version()}"]
    for package in ("rsvheat", "torch", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # its rows say that they are skipped
    versions.append(f"{info['compiler']} {info['compiler_flags']}")
    return {
        "kind": device,
        "device": name,
        "versions": ", ".join(versions),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "load before": f"{os.getloadavg()[0]:.1f} (times need a machine that is otherwise idle)",
        "command": command,
    }


def machine_slug(device: str, threads: int) -> str:
    """Return the beginning of the names of a machine's result files."""
    name = device_name(device)
    if device == "cpu":
        # The same name is sold with several designs: 25 is Zen 4, and 26 Zen 5.
        name += "".join(f" family {family}" for family in _cpu_info("cpu family"))
        name += f" {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_name(device: str) -> str:
    """Return the name of the CPU or GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return next(iter(_cpu_info("model name")), platform.machine())


def _cpu_info(key: str) -> list[str]:
    """Return what the system says of the first CPU: nothing or one value."""
    text = Path("/proc/cpuinfo").read_text()
    return re.findall(rf"^{key}\s*: (.+)$", text, re.MULTILINE)[:1]


def _caches() -> str:
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            caches.append(f", L{level} {size}")
    return "".join(caches)


_PRINTED: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
    ("", lambda m: m.row),
    ("ms", lambda m: milliseconds(m.median_ms)),
    ("quartiles", lambda m: f"{milliseconds(m.low_ms)} .. {milliseconds(m.high_ms)}"),
    ("images/s", lambda m: _number(m.images_per_s)),
    ("x floor", lambda m: _number(m.floor_ratio)),
    ("peak MiB", lambda m: _number(m.peak_mib)),
    ("GMACs", lambda m: _number(m.gmacs)),
)


def text_table(rows: Sequence[Measurement]) -> str:
    """Return the rows of one case as aligned text, under a line that names the case."""
    first = rows[0]
    lines = [[title for title, _ in _PRINTED]]
    lines += [[show(row) for _, show in _PRINTED] for row in rows if row.median_ms is not None]
    columns = [column for column in zip(*lines, strict=True) if set(column[1:]) != {"-"}]
    text = aligned([list(line) for line in zip(*columns, strict=True)])
    head = f"{first.case} {first.batch}x{first.shape}, {first.mode}, {first.dtype}"
    return "\n".join([head, *text, *(f"  {row.row}: {row.note}" for row in rows if row.note)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of cells in columns, the first aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        f"  {line[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def milliseconds(value: float | None) -> str:
    """Return three digits of a time that may be long or short."""
    return "-" if value is None else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def write_measurements(path: Path, header: Mapping[str, str], rows: Sequence[Measurement]) -> None:
    """Write a table with its header, as CSV or by the suffix .json as JSON.

    In CSV the header's lines begin with ``#``.

    Args:
        path: Path of the file, which is overwritten.
        header: Header from ``describe``.
        rows: Rows of any number of cases.
    """
    records = [dataclasses.asdict(row) for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump({"header": dict(header), "rows": records}, file, indent=1)
            file.write("\n")
            return
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        names = [field.name for field in dataclasses.fields(Measurement)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerow(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in record.items()}
            )
