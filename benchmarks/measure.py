# SPDX-License-Identifier: Apache-2.0
"""Calls, error and memory of one row."""

import ctypes
import gc
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from formulations import ROWS, Case, Problem, Row
from torch import Tensor


def outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def relative_error(case: Case, result: Any, exact: tuple[np.ndarray, ...]) -> float:
    """Return the relative L2 error of a result against float64, over all outputs."""
    got = [case.to_op_layout(y).detach().cpu().double().numpy() for y in outputs(result)]
    error = math.hypot(*(np.linalg.norm(g - e) for g, e in zip(got, exact, strict=True)))
    return error / math.hypot(*(np.linalg.norm(e) for e in exact))


def forward_call(case: Case) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return case.forward(*case.inputs)

    return call


def forward_backward_call(case: Case) -> Callable[[], Any]:
    """Return a call of forward and backward, for the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in case.inputs]
    weights = [torch.ones_like(y) for y in outputs(forward_call(case)())]

    def call() -> Any:
        return torch.autograd.grad(outputs(case.forward(*leaves)), leaves, weights)

    return call


def saved_bytes(case: Case) -> int:
    """Return the bytes of all distinct storages that one forward call saves for backward."""
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return t

    leaves = [t.detach().requires_grad_() for t in case.inputs]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = case.forward(*leaves)
    del result
    return sum(storages.values())


def _cuda_extra_bytes(case: Case) -> int:
    call = forward_call(case)
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    size = sum(y.nbytes for y in outputs(result))
    return max(0, torch.cuda.max_memory_allocated() - before - size)


class MemoryUnknownError(Exception):
    """The system does not tell; not every sandbox has these files of /proc."""


def _status_bytes(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise MemoryUnknownError(error) from error
    sizes = [int(line.split()[1]) for line in lines if line.startswith(f"{key}:")]
    if not sizes:
        raise MemoryUnknownError(f"/proc/self/status has no {key}")
    return sizes[0] * 1024


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    except OSError as error:
        raise MemoryUnknownError(error) from error


def _cpu_extra_bytes(case: Case, compiled: bool) -> int:
    """Return the resident memory that a forward call needs beside its inputs and its output.

    Resident pages are counted, not allocations of one library, so memory that kernels take for
    themselves is included. What the first call leaves behind (cached plans, matrices, workspaces)
    is added to the peak of the second; of compiled code only the second call counts, as the first
    one holds the compiler.
    """
    libc = ctypes.CDLL(None)
    pr_set_thp_disable = 41
    libc.prctl(pr_set_thp_disable, 1, 0, 0, 0)  # pages of 4 KiB, or each touch counts 2 MiB

    def settle() -> None:
        gc.collect()
        libc.malloc_trim(0)

    call = forward_call(case)
    # Starts torch's threads, whose stacks are not the row's doing.
    torch.rand(1 << 20).mul_(2)
    settle()
    anonymous = _status_bytes("RssAnon")
    call()
    settle()
    kept = 0 if compiled else max(0, _status_bytes("RssAnon") - anonymous)
    _reset_peak()
    before = _status_bytes("VmRSS")
    result = call()
    size = sum(y.nbytes for y in outputs(result))
    return kept + max(0, _status_bytes("VmHWM") - before - size)


def _probe(connection: Connection, problem: Problem, name: str) -> None:
    os.setsid()  # a group of its own, so that a compiler it started ends with it
    try:
        torch.set_num_threads(problem.threads)
        row = next(row for row in ROWS[problem.op] if row.name == name)
        case = row.prepare(problem, *problem.inputs())
        if row.compiled:
            forward_backward_call(case)()  # into the compiler's cache on disk
        if problem.device == "cuda":
            connection.send(_cuda_extra_bytes(case))
        else:
            connection.send(_cpu_extra_bytes(case, row.compiled))
    except MemoryUnknownError as error:
        connection.send(error)
    except Exception as error:  # the parent process reports it
        connection.send(ProbeError(f"{type(error).__name__}: {error}".partition("\n")[0]))


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not come as far as leading a group
        process.kill()
    process.join()


class ProbeError(Exception):
    """A row does not work; the message says why."""


def start_probes() -> None:
    """Prepare the process that probes are forked from."""
    # Read by glibc and Python when that process starts, which is after this.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed blocks go back to the system at once
    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["measure"])


def extra_bytes(problem: Problem, row: Row, case: Case, compile_timeout: float) -> int:
    """Return the peak extra memory of a forward call.

    On the CPU it is measured in a process of its own, where nothing else comes and goes. Compiled
    rows always run there first, since nothing else can stop a compiler that hangs.

    Raises:
        ProbeError: If the row fails there, or takes longer than ``compile_timeout`` seconds if it
            is compiled, five minutes if not.
        MemoryUnknownError: If the row works, but its memory cannot be measured here.
    """
    timeout = compile_timeout if row.compiled else 300.0
    if problem.device == "cuda" and not row.compiled:
        return _cuda_extra_bytes(case)
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_probe, args=(sender, problem, row.name))
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise ProbeError(f"not done after {timeout:g} s")
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise ProbeError(f"its process ended with exit status {process.exitcode}") from None
    finally:
        process.join(1)
        if process.exitcode is None:
            _kill(process)
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return int(answer)
