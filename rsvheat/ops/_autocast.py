# SPDX-License-Identifier: Apache-2.0
"""Precision under ``torch.autocast``.

Operators whose sums stay in float32 inside (``heat_conduction``, ``apply_heat_filter``, the fused
steps of a block) take float32 features in the autocast type; k, the filter and other parameters
stay float32. ``add_layer_norm`` keeps to its residual's type. Those whose output is a
spectrum, a band or a sum of one run in float32, as ``torch.fft`` does. float64 is left alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rsvheat.ops._backend import constant_in_traces

_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

# Keeps the registrations alive.
_library: torch.library.Library | None = None


def to_lower(x: Tensor, device_type: str) -> Tensor:
    """Cast float32 to the autocast type."""
    return x.to(torch.get_autocast_dtype(device_type)) if x.dtype == torch.float32 else x


def to_float32(x: Tensor) -> Tensor:
    """Cast half types to float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


# torch 2.11 cannot trace the query.
@constant_in_traces
def _available(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def enabled(x: Tensor) -> bool:
    """Return whether autocast is on for the device of ``x``."""
    device_type = x.device.type
    return _available(device_type) and torch.is_autocast_enabled(device_type)


def lowered(x: Tensor) -> Tensor:
    """Return float32 features in the autocast type where autocast is on for their device.

    On CUDA autocast's layer norms return float32, on the CPU they keep to their input's type.
    """
    return to_lower(x, x.device.type) if enabled(x) else x


def disabled(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context that turns autocast off for the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False) if enabled(x) else nullcontext()


def _lower_first(args: tuple[Any, ...], device_type: str) -> tuple[Any, ...]:
    return to_lower(args[0], device_type), *args[1:]


def _lower_two(args: tuple[Any, ...], device_type: str) -> tuple[Any, ...]:
    return to_lower(args[0], device_type), to_lower(args[1], device_type), *args[2:]


def _float32_first(args: tuple[Any, ...], device_type: str) -> tuple[Any, ...]:
    return to_float32(args[0]), *args[1:]


def _float32_pair(args: tuple[Any, ...], device_type: str) -> tuple[Any, ...]:
    return to_float32(args[0]), to_float32(args[1]), *args[2:]


_RULES = {
    "heat_conduction": _lower_first,
    "apply_heat_filter": _lower_first,
    "dct2d": _float32_first,
    "idct2d": _float32_first,
    "frequency_split": _float32_first,
    "spectral_l1": _float32_pair,
    "gated_layer_norm": _lower_two,
    "spatial_correction_conv": _lower_first,
}


def register() -> None:
    """Attach the rules to the native ops."""
    global _library
    _library = torch.library.Library("rsvheat", "IMPL")  # type: ignore[no-untyped-call]
    for name, cast in _RULES.items():
        for device_type, key in _DEVICES.items():
            kernel = _kernel(name, cast, device_type, key)
            _library.impl(name, kernel, key)  # type: ignore[no-untyped-call]


def _kernel(
    name: str, cast: Callable[[tuple[Any, ...], str], tuple[Any, ...]], device_type: str, key: str
) -> Callable[..., Any]:
    # torch.library.register_autocast would fix the autocast type at registration.
    op = getattr(torch.ops.rsvheat, name).default
    below_autocast = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(below_autocast):
            return op(*cast(args, device_type))

    return kernel
