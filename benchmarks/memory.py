# SPDX-License-Identifier: Apache-2.0
"""Count the memory that an encoder's pass takes on a CUDA device, without one.

Tensors without data ("fake" ones) on the device cuda run the base encoder and timm's Swin-B through
the code that runs on a GPU, under autocast too, and a dispatch mode adds up the storages that live
at once. Each is rounded up to 512 bytes, as torch's allocator does. What is counted:

kept MiB        held between forward and backward, for the backward pass; the loss is tiny
peak MiB        the most at once, without weights and their gradients, with weights cast by autocast
all MiB         the most at once, with weights and their gradients; no optimizer

The operators' own workspaces count. Not counted: what cuDNN and cuBLAS take while one of their
kernels runs, and fragmentation. Swin-B's attention is the fused kernel that torch chooses on a
GPU for a mask that needs gradients (efficient attention), in every type.
"""

import argparse
import csv
import dataclasses
import heapq
import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from operator_tables import RESULTS, BenchmarkError
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rsvheat import _library
from rsvheat.benchmarking import build_model, peak_bytes

MODELS = ("rsvheat_base", "swin_base_patch4_window7_224")
MODES = ("inference", "training", "checkpointed")
# At 1024, of the peak of un-checkpointed Swin-B in the same type and batch.
GOALS = {"inference": 0.25, "training": 0.40, "checkpointed": 0.16}
PATH = RESULTS / "memory.csv"

_GRANULE = 512
# As in csrc/core/cuda: kCacheBytes and kMultiprocessors, the shared memory of a block on an H100,
# the line kernels' sizes and lanes, and of square tiles' gradients the channels of a block and the
# blocks of a multiprocessor (square_block).
_STEP_BYTES = 32 * 2**20
_SHARED_BYTES = 232448
_MULTIPROCESSORS = 132
_LINE_SIZES = {4 * q for q in (12, 14, 16, 18, 20, 24, 25, 28, 30, 32, 40, 48, 50, 56, 64)}
_LINE_LANES = 32
_SQUARES = {
    7: (32, 4),
    8: (32, 4),
    14: (32, 4),
    16: (32, 3),
    28: (16, 2),
    32: (16, 1),
    56: (8, 1),
    64: (4, 1),
}


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operators allocate while it is entered.

    Attributes:
        live: Bytes alive now.
        peak: The most that were alive at once.
        weight_gradients: Bytes of gradients that :meth:`set_apart` was told of.
        peak_apart: The most alive at once, without those gradients.
        operators: Calls of rsvheat's operators by name: which path the pass took.
        moved: Bytes of operands and results by operator; not of views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.weight_gradients = self.peak_apart = 0
        self.operators: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self._known: dict[int, int] = {}

    def ignore(self, tensors: Iterator[Tensor]) -> None:
        """Leave out what exists already: results may be views of it."""
        for t in tensors:
            self._known[t.untyped_storage()._cdata] = 0

    def set_apart(self, gradient: Tensor) -> None:
        """Keep the gradient of a weight, which stays alive, apart from other memory."""
        self.weight_gradients += _rounded(gradient.untyped_storage().nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it allocates."""
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                self._add(t.untyped_storage())
        name = func.name()
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        held = {t.untyped_storage()._cdata for t in operands}
        in_place = func._schema.is_mutable
        if in_place or any(t.untyped_storage()._cdata not in held for t in results):
            read = operands[1:] if name == "aten::copy_" else operands
            # What is written in place is the first operand, which aten's operators return.
            written = results or operands[:1]
            self.moved[name] += sum(t.nbytes for t in [*read, *written])
        if name.startswith("rsvheat::"):
            self.operators[name.removeprefix("rsvheat::")] += 1
        self._mark(workspace_bytes(name, args))
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, _rounded(storage.nbytes())
        if key in self._known:
            return
        self._known[key] = size
        self.live += size
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._known.pop(key)

    def _mark(self, transient: int = 0) -> None:
        self.peak = max(self.peak, self.live + transient)
        self.peak_apart = max(self.peak_apart, self.live + transient - self.weight_gradients)


def _rounded(size: int) -> int:
    return -(-size // _GRANULE) * _GRANULE


def workspace_bytes(name: str, args: tuple[Any, ...]) -> int:
    """Return the bytes that an operator of rsvheat takes on CUDA while it runs.

    Follows csrc/core/cuda: transforms of images that fit in shared memory need none, others go
    through steps of 16 MiB, spectra through steps of 32 MiB; gradients of square tiles need their
    sums. Sizes above 256, which cuFFT serves, count as such steps.

    Args:
        name: Name of an operator with its namespace.
        args: Its arguments.
    """
    if name in ("rsvheat::heat_conduction", "rsvheat::apply_heat_filter"):
        return _pass_bytes(args[0], round_trip=True)
    if name in ("rsvheat::_heat_conduction_backward", "rsvheat::_apply_heat_filter_backward"):
        x = args[0]
        if not args[4]:
            return _pass_bytes(x, round_trip=True)
        batch, height, width, channels = x.shape
        if height == width and height in _SQUARES and channels * x.element_size() % 16 == 0:
            group, blocks = _SQUARES[height]
            groups = -(-channels // group)
            images = -(-batch // min(max(_MULTIPROCESSORS * blocks // groups, 1), batch))
            return -(-batch // images) * groups * group * height * width * 4
        image = x[0].numel() * max(4, x.element_size())
        spectrum = max(1, min(_STEP_BYTES // image, batch)) * image
        return 2 * spectrum + _pass_bytes(x, round_trip=False)
    return 0


def _pass_bytes(x: Tensor, round_trip: bool) -> int:
    """Return the bytes of what passes over rows and columns take at once."""
    batch, height, width, channels = x.shape
    fewest_channels, limit = 4, _STEP_BYTES // 2
    plane = height * width * max(4, x.element_size())
    if plane * fewest_channels <= _SHARED_BYTES:
        return 0
    if round_trip and channels % _LINE_LANES == 0 and {height, width} <= _LINE_SIZES:
        units = channels // _LINE_LANES
        fitting = (
            n for n in range(units, 1, -1)
            if units % n == 0 and min(batch, 2) * plane * n * _LINE_LANES <= limit
        )  # fmt: skip
        channels = next(fitting, 1) * _LINE_LANES
    most = max(1, min(limit // (plane * channels), batch))
    return -(-batch // -(-batch // most)) * plane * channels


def efficient_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """Run the fused attention as torch does for CUDA tensors and a mask.

    Args:
        q: Queries, (B, heads, N, C).
        k: Keys.
        v: Values.
        attn_mask: Bias that broadcasts to (B, heads, N, N).
        dropout_p: Rate of dropout of the attention.
    """
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype)
        columns = attn_mask.shape[-1]
        # The kernel wants rows of a multiple of eight elements.
        attn_mask = nn.functional.pad(attn_mask, (0, -columns % 8))[..., :columns]
        attn_mask = attn_mask.expand(*q.shape[:3], columns)
    with_statistics = torch.is_grad_enabled()
    y: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, with_statistics, dropout_p, False
    )[0]
    return y


def backward(pending: list[tuple[Any, Tensor]], counter: LiveBytes) -> None:
    """Run a backward pass as torch's engine does, which asks for a GPU's streams.

    Nodes run in the engine's order, and each goes with what it saved. The gradients of weights are
    dropped after they were set apart: they count in the counter, and nothing else needs them.

    Args:
        pending: The only node to begin with and its gradient; emptied.
        counter: Told of the weights' gradients.
    """
    node, gradient = pending.pop()
    missing = _dependencies(node)
    # By the number that the engine goes by, the latest first.
    queue = [(-node._sequence_nr(), id(node), node)]
    arrived: dict[Any, dict[int, Tensor]] = {node: {0: gradient}}
    kept = []
    del node, gradient
    # Checkpointed blocks recompute once for each run of the engine.
    with torch.no_grad(), mock.patch("torch._C._current_graph_task_id", return_value=0):
        while queue:
            node = heapq.heappop(queue)[2]
            by_slot = arrived.pop(node, {})
            if hasattr(node, "variable"):
                kept.append(by_slot.pop(0))
                counter.set_apart(kept[-1])
                del node
                continue
            inputs = [by_slot.get(i) for i in range(max(by_slot, default=-1) + 1)]
            del by_slot
            edges = node.next_functions
            outputs = _run_node(node, inputs)[: len(edges)] if inputs else (None,) * len(edges)
            del inputs, node
            for (following, slot), output in zip(edges, outputs, strict=True):
                if following is None:
                    continue
                if output is not None:
                    output = _as_expected(output, following._input_metadata[slot])
                    slots = arrived.setdefault(following, {})
                    slots[slot] = slots[slot] + output if slot in slots else output
                missing[following] -= 1
                if missing[following] == 0:
                    del missing[following]
                    entry = (-_sequence(following), id(following), following)
                    heapq.heappush(queue, entry)
                    del entry
            del edges, outputs, output, following


def _as_expected(gradient: Tensor, expected: Any) -> Tensor:
    if gradient.dtype != expected.dtype:
        gradient = gradient.to(expected.dtype)
    return gradient if gradient.shape == expected.shape else gradient.sum_to_size(expected.shape)


def _sequence(node: Any) -> int:
    # Gradients of weights are taken at once.
    return 2**62 if hasattr(node, "variable") else int(node._sequence_nr())


def _run_node(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    # Nodes in Python have one gradient for each argument, and tensors come first in rsvheat's ops.
    outputs = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _dependencies(root: Any) -> dict[Any, int]:
    """Return the number of edges that lead to each node from those before it."""
    counts: dict[Any, int] = {}
    seen, stack = {root}, [root]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                counts[following] = counts.get(following, 0) + 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return counts


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Have tensors without data on the device cuda do, where there is none."""
    with ExitStack() as stack:
        patches = {
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.cuda.is_bf16_supported": lambda *_: True,
            "torch.nn.functional.scaled_dot_product_attention": efficient_attention,
        }
        for target, value in patches.items():
            stack.enter_context(mock.patch(target, value))
        stack.enter_context(FakeTensorMode())
        yield


def without_data(model: nn.Module, device: str) -> nn.Module:
    """Replace the tensors of a model, within a FakeTensorMode, by ones without data on a device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                module._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return model


@dataclass
class Row:
    """What one pass of a model takes."""

    mode: str
    dtype: str
    size: int
    batch: int
    model: str
    kept_mib: float
    peak_mib: float
    all_mib: float
    operators: str
    """rsvheat's operators that ran, in order of their names."""
    of_swin: float = 0.0
    """Peak over that of un-checkpointed Swin-B."""


def count(model: nn.Module, x: Tensor, dtype: str, mode: str) -> tuple[int, LiveBytes]:
    """Run a pass and return the bytes kept for backward, and the counts.

    Args:
        model: Model, in training mode unless the mode is inference.
        x: Images on the model's device.
        dtype: ``float32``, or the type of autocast.
        mode: One of :data:`MODES`.
    """
    counter = LiveBytes()
    counter.ignore(itertools.chain(model.parameters(), model.buffers(), (x,)))
    autocast = torch.autocast(x.device.type, getattr(torch, dtype), enabled=dtype != "float32")
    with torch.set_grad_enabled(mode != "inference"), counter:
        with autocast:
            loss = model(x).float().square().mean()
        kept = counter.live
        if mode != "inference":
            # No other reference may be left: a node goes with what it saved.
            pending = [(loss.grad_fn, torch.ones_like(loss))]
            del loss
            backward(pending, counter)
    return kept, counter


def measure(name: str, size: int, batch: int, dtype: str, mode: str) -> Row:
    """Count a pass of a model on tensors without data on the device cuda."""
    with torch.device("meta"):
        model = build_model(name, size)
    with pretended_gpu():
        without_data(model, "cuda").train(mode != "inference")
        if mode == "checkpointed":
            model.set_grad_checkpointing()
        x = torch.empty(batch, 3, size, size, device="cuda")
        kept, counter = count(model, x, dtype, mode)
        weights = sum(_rounded(p.nbytes) for p in model.parameters())
    mib = 2**20
    return Row(
        mode, dtype, size, batch, name, kept / mib, counter.peak_apart / mib,
        (counter.peak + weights) / mib, " ".join(sorted(counter.operators)),
    )  # fmt: skip


def traffic(size: int, batch: int, dtype: str) -> dict[str, float]:
    """Return the bytes that the first block's forward pass moves an element of its features.

    Every operator's operands and results count once, as if none stayed in a cache; weights and
    what depends on positions alone count, too.

    Args:
        size: Side of the images.
        batch: Images.
        dtype: ``float32``, or the type of autocast.
    """
    with torch.device("meta"):
        model = build_model(MODELS[0], size)
    with pretended_gpu():
        without_data(model, "cuda").eval()
        x = torch.empty(batch, 3, size, size, device="cuda")
        autocast = torch.autocast("cuda", getattr(torch, dtype), enabled=dtype != "float32")
        counter = LiveBytes()
        with torch.no_grad(), autocast:
            stage = model.stages[0]
            features = model.stems["optical"](x.permute(0, 2, 3, 1))
            block = stage.blocks[0]
            elements = features.numel()
            with counter:
                block(features, stage.freq_embed, stage.spatial_correction_embed)
    return {name: moved / elements for name, moved in counter.moved.items()}


def verify(size: int) -> list[str]:
    """Count a training step on real tensors on the CPU, beside what torch's profiler adds up."""
    lines = []
    for name in MODELS:
        model = build_model(name, size).train()
        x = torch.randn(1, 3, size, size)
        _, counter = count(model, x, "float32", "training")

        def step(model: nn.Module = model, x: Tensor = x) -> None:
            model(x).square().mean().backward()
            model.zero_grad()

        profiled = peak_bytes(step, "cpu")
        lines.append(
            f"{name}, one image of {size}: counted {counter.peak / 2**20:.1f} MiB, "
            f"by torch's profiler {profiled / 2**20:.1f} MiB"
        )
    return lines


def table(arguments: argparse.Namespace) -> list[Row]:
    """Count every case, and store each with ``--write``, in place of its old row."""
    rows = read(PATH) if PATH.exists() else []
    cases = itertools.product(
        arguments.sizes, arguments.modes, arguments.dtypes, arguments.batch_sizes, arguments.models
    )
    for size, mode, dtype, batch, name in cases:
        row = measure(name, size, batch, dtype, mode)
        print(row, flush=True)
        rows = [other for other in rows if _case(other) != _case(row)]
        rows = compared(sorted([*rows, row], key=_case))
        if arguments.write:
            write(PATH, rows)
    return rows


def _case(row: Row) -> tuple[Any, ...]:
    order = (MODES.index(row.mode), row.dtype, row.size, row.batch)
    return *order, MODELS.index(row.model)


def compared(rows: list[Row]) -> list[Row]:
    """Put peaks beside those of Swin-B, in training beside the un-checkpointed ones."""
    peaks = {(r.mode, r.dtype, r.size, r.batch): r.peak_mib for r in rows if r.model == MODELS[1]}
    for row in rows:
        mode = "training" if row.mode == "checkpointed" else row.mode
        swin = peaks.get((mode, row.dtype, row.size, row.batch))
        row.of_swin = row.peak_mib / swin if swin else 0.0
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table."""
    with path.open("w") as file:
        file.write(
            "# counted, not measured: tensors without data on the device cuda, torch "
            f"{torch.__version__}; see benchmarks/memory.py\n"
        )
        writer = csv.DictWriter(
            file, [f.name for f in dataclasses.fields(Row)], lineterminator="\n"
        )
        writer.writeheader()
        for row in rows:
            values = dataclasses.asdict(row)
            writer.writerow(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values.items()}
            )


def read(path: Path) -> list[Row]:
    """Read a table that :func:`write` wrote."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    types = {f.name: f.type for f in dataclasses.fields(Row)}
    return [
        Row(**{k: types[k](v) for k, v in row.items()})  # type: ignore[operator]
        for row in csv.DictReader(lines)
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the encoder beside Swin-B, with the goals at 1024."""
    lines = [
        "| | kept MiB | Swin-B | peak MiB | Swin-B | of Swin-B's | goal | all MiB | Swin-B |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    by_case = {(r.mode, r.dtype, r.size, r.batch, r.model): r for r in rows}
    for row in rows:
        if row.model != MODELS[0]:
            continue
        swin = by_case.get((row.mode, row.dtype, row.size, row.batch, MODELS[1]))
        if swin is None or row.of_swin == 0:
            continue
        goal = "-"
        if row.size == 1024:
            goal = f"{GOALS[row.mode]:.0%}, {'met' if row.of_swin <= GOALS[row.mode] else 'missed'}"
        lines.append(
            f"| {row.mode}, {row.dtype}, {row.batch} x {row.size} | {row.kept_mib:.0f} "
            f"| {swin.kept_mib:.0f} | {row.peak_mib:.0f} | {swin.peak_mib:.0f} "
            f"| {row.of_swin:.1%} | {goal} | {row.all_mib:.0f} | {swin.all_mib:.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512, 1024])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument(
        "--write", action="store_true", help=f"put the rows counted into {PATH.name}, one by one"
    )
    parser.add_argument("--markdown", action="store_true", help="print the stored table, no run")
    parser.add_argument(
        "--traffic", action="store_true", help="bytes that a block moves, by operator"
    )
    parser.add_argument(
        "--verify", action="store_true", help="count real tensors on the CPU beside the profiler"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.traffic:
            moved = traffic(arguments.sizes[-1], arguments.batch_sizes[-1], arguments.dtypes[0])
            for name, amount in sorted(moved.items(), key=lambda item: -item[1]):
                print(f"{amount:7.2f}  {name}")
            print(f"{sum(moved.values()):7.2f}  bytes an element of the first block's features")
            return 0
        if arguments.verify:
            print("\n".join(verify(min(arguments.sizes))))
            return 0
        if arguments.markdown:
            print(markdown(read(PATH)))
            return 0
        if not _library.cuda_available():
            raise BenchmarkError("the CUDA operators are not loaded: rsvheat.build_info() says why")
        rows = table(arguments)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
