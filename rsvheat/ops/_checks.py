# SPDX-License-Identifier: Apache-2.0
"""Checks and normal forms of the operators' arguments.

The checks look at metadata only, so they cost nothing on an accelerator and hold as guards under
``torch.compile``. Values are read where reading is free: Python numbers, and small tensors that
live on the CPU and are not being traced.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from rsvheat.ops._backend import constant_in_traces, is_jit_tracing
from rsvheat.ops._types import Angles, Features, PerSample

# Largest extent of a transformed axis; kMaxTransformSize in csrc/core/types.h.
MAX_TRANSFORM_SIZE = 4096

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_Function = TypeVar("_Function", bound=Callable[..., Any])

_AXES = {"nchw": "(B, C, H, W)", "nhwc": "(B, H, W, C)"}


def is_fake(x: Tensor) -> bool:
    """Return whether ``x`` has no data: a meta or fake tensor, or one that is being compiled."""
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return True
    return isinstance(without_transforms(x), FakeTensor)


@constant_in_traces
def transforms_active() -> bool:
    """Return whether ``torch.func`` or forward-mode differentiation transforms what runs now."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0


def untraced(function: _Function) -> _Function:
    """Have ``torch.jit.trace`` not record ``function``: shapes are numbers, results constants."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        if not is_jit_tracing():
            return function(*args)
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return function(*args)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    return cast(_Function, wrapper)


@untraced
def sizes(x: Tensor) -> torch.Size:
    """Return the shape of ``x``, which is a constant of a trace by ``torch.jit.trace``."""
    return x.shape


def without_transforms(x: Tensor) -> Tensor:
    """Return what the transforms of ``torch.func`` wrap: under vmap, all entries at once."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


@untraced
def _bounds(x: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value of ``x``, which are NaN if any is."""
    smallest, largest = torch.aminmax(without_transforms(x.detach()))
    return smallest.item(), largest.item()


def is_number(value: object) -> bool:
    """Return whether ``value`` is a real Python number; ``bool`` is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def precise_device(device: torch.device) -> torch.device:
    """Return ``device`` if it is known to compute in float64, else the CPU."""
    return device if device.type in ("cpu", "cuda", "meta") else torch.device("cpu")


def tensor(name: str, value: Any) -> Tensor:
    """Return ``value`` if it is a dense tensor of a supported floating-point type."""
    if not isinstance(value, Tensor):
        expected = "a number or a torch.Tensor" if name == "k" else "a torch.Tensor"
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    if value.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be float32, float64, bfloat16 or float16, got {value.dtype}; "
            f"convert it first, for example with {name}.float()"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got {value.layout}")
    return value


def layout(value: Any) -> None:
    """Check the name of a memory layout."""
    if not isinstance(value, str) or value not in _AXES:
        raise ValueError(f"layout must be 'nchw' or 'nhwc', got {value!r}")


def reduction(value: Any) -> None:
    """Check the name of a reduction."""
    if not isinstance(value, str) or value not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {value!r}")


def _extent(name: str, axis: str, value: int) -> None:
    if value < 1 or value > MAX_TRANSFORM_SIZE:
        raise ValueError(f"{name} must have a {axis} of 1 to {MAX_TRANSFORM_SIZE}, got {value}")


@untraced
def image_batch(name: str, x: Any, axes: str) -> None:
    """Check a batch to be transformed: type, rank, and the two transformed extents.

    Args:
        name: The argument's name in messages.
        x: The argument.
        axes: ``"nchw"`` or ``"nhwc"``.
    """
    tensor(name, x)
    if x.dim() != 4:
        raise ValueError(
            f"{name} must have 4 dimensions {_AXES[axes]}, got {x.dim()} in shape {tuple(x.shape)}"
        )
    height = 1 if axes == "nhwc" else 2
    _extent(name, "height", x.shape[height])
    _extent(name, "width", x.shape[height + 1])


@untraced
def pair(pred: Any, target: Any) -> None:
    """Check two image batches to be compared."""
    image_batch("pred", pred, "nchw")
    tensor("target", target)
    if target.shape != pred.shape:
        raise ValueError(
            f"target must have pred's shape {tuple(pred.shape)}, got {tuple(target.shape)}"
        )
    if target.dtype != pred.dtype:
        raise TypeError(f"target must have pred's dtype {pred.dtype}, got {target.dtype}")
    _same_device("target", target, "pred", pred)


def _same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on {other_name}'s device {other.device}, got {value.device}"
        )


def _diffusivity_number(value: float, dtype: torch.dtype) -> float:
    """Check a diffusivity; return it as a number that ``dtype`` can hold."""
    if not value >= 0:
        raise ValueError(f"k must be a number >= 0, got {value}")
    # torch refuses numbers that are finite and too large for the type.
    return value if value <= torch.finfo(dtype).max else math.inf


def coefficients(name: str, value: Any, x: Tensor) -> Tensor:
    """Bring a per-coefficient parameter to the form the kernels take.

    Args:
        name: ``"k"`` or ``"filter"``.
        value: A tensor that broadcasts to (H, W, C); for ``k`` also a Python number.
        x: The checked features, (B, H, W, C).

    Returns:
        A view of shape (H, W, C), float32 or, for float64 ``x``, float64. Broadcast axes have
        stride 0 and channels stride 0 or 1: a small parameter is never expanded in memory.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if name == "k" and is_number(value):
        number = _diffusivity_number(value, dtype)
        return torch.full((1,), number, dtype=dtype, device=x.device).expand(sizes(x)[1:])
    tensor(name, value)
    _same_device(name, value, "x", x)
    wanted = sizes(x)[1:]
    shape = sizes(value)
    if not _broadcasts(shape, wanted):
        raise ValueError(
            f"{name} must broadcast to (H, W, C) = {tuple(wanted)} of x, got shape {tuple(shape)}"
        )
    cast: Tensor = value.to(dtype)
    if cast.dim() > 0 and cast.stride(-1) > 1:
        cast = cast.contiguous()
    return cast.expand(wanted)


@untraced
def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    fits = len(shape) <= len(wanted)
    for size, full in zip(reversed(shape), reversed(wanted), strict=False):
        fits = fits and (size == 1 or size == full)
    return fits


@untraced
def like(name: str, value: Any, other_name: str, other: Any) -> None:
    """Check two feature tensors (..., C) of one shape and device."""
    tensor(other_name, other)
    tensor(name, value)
    if other.dim() == 0 or value.shape != other.shape:
        raise ValueError(
            f"{name} must have {other_name}'s shape (..., C), {tuple(other.shape)}, "
            f"got {tuple(value.shape)}"
        )
    _same_device(name, value, other_name, other)


@untraced
def parameter(name: str, value: Any, shape: Sequence[int], x: Tensor) -> None:
    """Check a learned parameter that goes with the features ``x``."""
    tensor(name, value)
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")
    _same_device(name, value, "x", x)


def to_parameter_dtype(value: Tensor, x: Tensor) -> Tensor:
    """Return a parameter in the type that goes with ``x``: float32, or float64 for float64."""
    return value.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def channel_parameters(x: Tensor, **values: Any) -> list[Tensor]:
    """Check parameters of one value a channel of ``x``, (..., C); return them in their type."""
    for name, value in values.items():
        parameter(name, value, sizes(x)[-1:], x)
    return [to_parameter_dtype(value, x) for value in values.values()]


def filter_size(name: str, value: Any) -> int:
    """Check the height or the width that a filter is prepared for, and return it."""
    if is_jit_tracing() and isinstance(value, Tensor):
        value = _recorded_number(value)
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1 or value > MAX_TRANSFORM_SIZE:
        raise ValueError(f"{name} must be 1 to {MAX_TRANSFORM_SIZE}, got {value}")
    return cast(int, value)


@untraced
def _recorded_number(value: Tensor) -> Any:
    """Return the number that ``torch.jit.trace`` recorded as a tensor, or else the tensor."""
    if value.dim() > 0 or value.is_floating_point() or value.is_complex():
        return value
    return value.item()


def filter_diffusivity(k: Any, height: int, width: int) -> Tensor:
    """Check what a filter is prepared from; return ``k`` as a float32 or float64 tensor.

    The values of ``k`` are read here, once at construction, unless they are being traced.
    """
    if is_number(k):
        number = _diffusivity_number(k, torch.float32)
        return torch.full((1,), number, dtype=torch.float32)
    values = tensor("k", k)
    shape = sizes(values)
    if not _broadcasts(shape, (height, width, shape[-1] if shape else 1)):
        raise ValueError(
            f"k must broadcast to (H, W, C) with H = {height}, W = {width}, "
            f"got shape {tuple(shape)}"
        )
    if not is_fake(values) and 0 not in shape:
        smallest, largest = _bounds(values)
        if not smallest >= 0:
            raise ValueError(f"k must be >= 0, got values from {smallest} to {largest}")
    return values if values.dtype == torch.float64 else values.float()


def radius(value: PerSample, x: Tensor) -> Tensor:
    """Return the radii as a (B,) float64 tensor beside the checked images ``x``."""
    return _place(_per_sample("radius", value, sizes(x)[0], math.inf), x)


def angles(value: Angles, x: Tensor) -> Tensor:
    """Return the angles as a (B, 2) float64 tensor beside the checked images ``x``."""
    batch = sizes(x)[0]
    first: Any
    second: Any
    if isinstance(value, Tensor):
        shape = sizes(value)
        if len(shape) not in (1, 2) or shape[-1] != 2:
            raise ValueError(
                f"angles must be a pair or a ({batch}, 2) tensor, got shape {tuple(shape)}"
            )
        first, second = value[..., 0], value[..., 1]
    elif not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"angles must be a pair or a ({batch}, 2) tensor, got {type(value).__name__}"
        )
    elif len(value) != 2:
        raise ValueError(f"angles must be a pair (angle_0, angle_1), got {len(value)} values")
    else:
        first, second = value
    first = _per_sample("angles[0]", first, batch, 90.0)
    second = _per_sample("angles[1]", second, batch, 90.0)
    if _readable(first) and _readable(second) and not _ordered(first, second):
        raise ValueError(f"angles must have angle_0 <= angle_1, got {value}")
    return torch.stack((_place(first, x), _place(second, x)), dim=1)


@untraced
def _ordered(first: float | Tensor, second: float | Tensor) -> bool:
    ordered = first <= second
    return bool(without_transforms(ordered).all()) if isinstance(ordered, Tensor) else ordered


def _per_sample(name: str, value: Any, batch: int, largest: float) -> float | Tensor:
    """Check one value, or one per sample; return a number or a float64 tensor, () or (B,)."""
    if is_number(value):
        _value_range(name, value, value, largest)
        return float(value)
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must be real, got {value.dtype}")
        values = value.detach().to(torch.float64)
    elif isinstance(value, Sequence) and all(is_number(item) for item in value):
        values = torch.tensor(list(value), dtype=torch.float64, device="cpu")
    else:
        kind = type(value).__name__
        raise TypeError(f"{name} must be a number, a sequence of numbers or a tensor, got {kind}")
    shape = sizes(values)
    if len(shape) > 1 or (len(shape) == 1 and shape[0] != batch):
        raise ValueError(
            f"{name} must be one value or one per sample, shape () or ({batch},), "
            f"got shape {tuple(shape)}"
        )
    if _readable(values) and 0 not in shape:
        _value_range(name, *_bounds(values), largest)
    return values


def _value_range(name: str, lower: float, upper: float, largest: float) -> None:
    # Written so that NaN fails.
    if not (lower >= 0 and upper <= largest and upper < math.inf):
        limit = "finite and >= 0" if largest == math.inf else f"within [0, {largest:g}] degrees"
        raise ValueError(f"{name} must be {limit}, got {lower} to {upper}")


def _readable(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) or (value.device.type == "cpu" and not is_fake(value))


def _place(value: float | Tensor, x: Tensor) -> Tensor:
    device = precise_device(x.device)
    if isinstance(value, Tensor):
        return value.to(device).expand(x.shape[0])
    # Filled in place, not copied from the host: this can be captured in a CUDA graph.
    return torch.full((x.shape[0],), value, dtype=torch.float64, device=device)


def loss_weights(value: Any) -> tuple[float, float, float]:
    """Check the weights of the spatial, spectral and cosine terms."""
    if not isinstance(value, Sequence) or not all(is_number(weight) for weight in value):
        raise TypeError(f"weights must be three numbers, got {value!r}")
    if len(value) != 3 or not all(0 <= weight < math.inf for weight in value):
        raise ValueError(f"weights must be three finite numbers >= 0, got {value!r}")
    return value[0], value[1], value[2]


@untraced
def feature_pairs(features_a: Features, features_b: Features) -> list[tuple[Tensor, Tensor]]:
    """Check the features to be compared and pair them level by level."""
    sequences = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        levels = [features] if isinstance(features, Tensor) else features
        if not isinstance(levels, Sequence) or isinstance(levels, str) or len(levels) == 0:
            raise TypeError(
                f"{name} must be a tensor or a non-empty sequence of tensors, got {features!r}"
            )
        for level in levels:
            tensor(name, level)
            if level.dim() < 2:
                raise ValueError(f"{name} must have channels at dim 1, got {tuple(level.shape)}")
        sequences.append(levels)
    levels_a, levels_b = sequences
    if len(levels_a) != len(levels_b):
        raise ValueError(
            f"features_b must have as many levels as features_a, {len(levels_a)}, "
            f"got {len(levels_b)}"
        )
    for level_a, level_b in zip(levels_a, levels_b, strict=True):
        if level_a.shape != level_b.shape:
            raise ValueError(
                f"features_b must have features_a's shape {tuple(level_a.shape)}, "
                f"got {tuple(level_b.shape)}"
            )
        _same_device("features_b", level_b, "features_a", level_a)
    return list(zip(levels_a, levels_b, strict=True))
