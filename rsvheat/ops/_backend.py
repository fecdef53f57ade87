# SPDX-License-Identifier: Apache-2.0
"""The choice between native kernels and reference implementations for a tensor."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rsvheat import _library


def _native_devices() -> frozenset[str]:
    devices: set[str] = set()
    if _library.native_available():
        # Meta tensors go through the op's fake kernel, so that a graph traced without data holds
        # the same operators as one that runs.
        devices |= {"cpu", "meta"}
        if _library.cuda_available():
            devices.add("cuda")
    return frozenset(devices)


# Device types that have kernels. Fixed at import, so torch.compile sees a constant.
NATIVE_DEVICES = _native_devices()

_warned: set[str] = set()

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_in_traces(function: _Function) -> _Function:
    """Have torch.compile call ``function`` when it traces, and keep the result.

    What ``torch.compiler.assume_constant_result`` does. That imports torch._dynamo, which takes
    several times as long as the rest of this package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


_reference_only: ContextVar[bool] = ContextVar("rsvheat_use_reference", default=False)
# Whether any thread is in use_reference: a global, because torch.compile guards on it. Up to torch
# 2.11 it cannot trace a context variable, and it would bake in a threading.local.
_in_use = False
_users = 0
_users_lock = threading.Lock()


@constant_in_traces
def _here() -> bool:
    return _reference_only.get()


@contextmanager
def use_reference() -> Iterator[None]:
    """Run the reference implementations of the operators, on any device, within this context.

    A model that is traced or exported in it holds operators of torch alone, which processes
    without rsvheat can run; ``torch.onnx.export`` needs no such context. It applies to the calling
    thread or asyncio task only, and to functions compiled by ``torch.compile`` that are called in
    it. It cannot be entered inside of compiled code. ``RSVHEAT_REQUIRE_NATIVE`` concerns fallbacks
    and does not forbid it.

    Examples:
        >>> with rsvheat.ops.use_reference():
        ...     program = torch.export.export(model.eval(), (images,))
    """
    token = _reference_only.set(True)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _reference_only.reset(token)


def _count(change: int) -> None:
    global _in_use, _users
    with _users_lock:
        _users += change
        _in_use = _users > 0


def is_jit_tracing() -> bool:
    """Return whether ``torch.jit.trace`` or an exporter built on it records what runs now."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


@constant_in_traces
def _for_torch_alone() -> bool:
    """Return whether the graph being recorded can only hold operators of torch."""
    # A compiled graph enters the levels of torch.autograd.forward_ad unseen by the native ops.
    in_dual_level = forward_ad._current_level >= 0
    if in_dual_level and not torch._C._are_functorch_transforms_active():
        return True
    return torch.onnx.is_in_onnx_export()


def use_native(x: Tensor) -> bool:
    """Return whether to call the ops of ``torch.ops.rsvheat`` for ``x``.

    Raises:
        RuntimeError: If its device has none and ``RSVHEAT_REQUIRE_NATIVE=1`` forbids the fallback.
    """
    if _in_use and _here():
        return False
    if (torch.compiler.is_compiling() or is_jit_tracing()) and _for_torch_alone():
        return False
    device = x.device.type
    if device in NATIVE_DEVICES:
        return True
    if not torch.compiler.is_compiling():
        _report_fallback(device)
    return False


def _report_fallback(device: str) -> None:
    reason = f"rsvheat has no native kernels loaded for device type {device!r}"
    if os.environ.get("RSVHEAT_REQUIRE_NATIVE") == "1":
        raise RuntimeError(
            f"{reason}, and RSVHEAT_REQUIRE_NATIVE=1 forbids the pure-torch fallback. "
            "rsvheat.build_info() shows what was built and loaded."
        )
    # A library that did not load was reported when the package was imported.
    if _library.native_available() and device not in _warned:
        _warned.add(device)
        warnings.warn(
            f"{reason}; its operators run in pure torch, correct but slower. "
            "rsvheat.build_info() shows what was built and loaded.",
            RuntimeWarning,
            stacklevel=4,
        )
