# SPDX-License-Identifier: Apache-2.0
"""The one place that decides whether native kernels or the pure-torch twins serve a tensor."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

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

# Not a threading.local: torch.compile guards on a context variable, and would bake the other in.
_twins_only: ContextVar[bool] = ContextVar("rsvheat_use_reference", default=False)


@contextmanager
def use_reference() -> Iterator[None]:
    """Serve the operators by their pure-torch twins, for any device, within this context.

    What is traced or exported in it holds operators of torch alone, which ONNX and processes
    without rsvheat can run. It holds for the calling thread or asyncio task only; functions
    compiled by ``torch.compile`` follow it when they are called in it. It cannot be entered
    inside of compiled code. ``RSVHEAT_REQUIRE_NATIVE`` concerns fallbacks and does not forbid it.

    Example:
        >>> with rsvheat.ops.use_reference():
        ...     program = torch.export.export(model.eval(), (images,))
    """
    token = _twins_only.set(True)
    try:
        yield
    finally:
        _twins_only.reset(token)


def use_native(x: Tensor) -> bool:
    """Return whether the ops of ``torch.ops.rsvheat`` serve the device of ``x``.

    Raises:
        RuntimeError: If they do not and ``RSVHEAT_REQUIRE_NATIVE=1`` forbids the fallback.
    """
    if _twins_only.get():
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
