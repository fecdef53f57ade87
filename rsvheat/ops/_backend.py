# SPDX-License-Identifier: Apache-2.0
"""The one place that decides whether native kernels or the pure-torch twins serve a tensor."""

import os
import warnings

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


def use_native(x: Tensor) -> bool:
    """Return whether the ops of ``torch.ops.rsvheat`` serve the device of ``x``.

    Raises:
        RuntimeError: If they do not and ``RSVHEAT_REQUIRE_NATIVE=1`` forbids the fallback.
    """
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
