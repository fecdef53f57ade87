# SPDX-License-Identifier: Apache-2.0
"""Tolerances, and an independent float64 account of what each operator computes, on SciPy."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)

# Largest relative L2 errors against float64, by the type in which sums are kept. 2e-6 is what the
# project promises; measured: 7e-7 up to 1024, 1.3e-6 at 4093 (prime), 2.6e-15 in float64.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
# To results in bfloat16 and float16, computed in float32, this many times the error of rounding the
# exact result once is added. The promise is 1.5; measured: 1.0, and rounding twice makes 1.4.
HALF_FACTOR = 1.1
# Gradients of k and of filters: sums over the batch of products of two transforms. Measured: 4e-7
# and 1.4e-15.
PARAMETER_TOLERANCE = {torch.float32: 1e-6, torch.float64: 5e-15}
# Sums of absolute values.
SUM_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums over values of ``dtype`` are kept; that of k for such x."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def assert_accurate(
    actual: Tensor,
    expected: np.ndarray,
    tolerance: dict[torch.dtype, float] = TOLERANCE,
    scale: float | None = None,
) -> None:
    """Assert that ``actual`` is within its dtype's row of the table.

    Args:
        actual: What was computed.
        expected: The exact result.
        tolerance: The table.
        scale: What the error is relative to, if not the norm of ``expected``: the norm of what
            went in where the result may be a small part of it.
    """
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    if scale is None:
        scale = l2(expected)
    bound = tolerance[sum_dtype(actual.dtype)] * scale
    if actual.dtype in HALVES:
        once = torch.from_numpy(expected).to(actual.dtype)
        bound += HALF_FACTOR * l2(exact(once) - expected)
    error = l2(exact(actual) - expected)
    assert error <= bound, f"L2 error {error:.3g} > {bound:.3g} for {actual.dtype}"


def assert_bands_accurate(
    bands: tuple[Tensor, Tensor],
    x: Tensor,
    radius: Sequence[float],
    angles: Sequence[Sequence[float]],
) -> None:
    """Assert that low is the exact one, and high what low, as rounded, leaves of ``x``."""
    low, high = bands
    scale = l2(exact(x))
    assert_accurate(low, split(exact(x), radius, angles)[0], scale=scale)
    assert_accurate(high, exact(x) - exact(low), scale=scale)


def l2(values: np.ndarray) -> float:
    # Not numpy.linalg.norm: its BLAS wakes threads for every call, most of a small test's time.
    return math.sqrt(np.square(values).sum())


def exact(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def scipy_dct2d(x: np.ndarray, layout: str) -> np.ndarray:
    return scipy.fft.dctn(x, axes=_axes(layout), norm="ortho") if x.size else x


def scipy_idct2d(x: np.ndarray, layout: str) -> np.ndarray:
    return scipy.fft.idctn(x, axes=_axes(layout), norm="ortho") if x.size else x


def _axes(layout: str) -> tuple[int, int]:
    return (2, 3) if layout == "nchw" else (1, 2)


def exact_filter(k: np.ndarray, height: int, width: int) -> np.ndarray:
    n, m = np.arange(height)[:, None, None], np.arange(width)[:, None]
    return np.exp(-k * ((math.pi * n / height) ** 2 + (math.pi * m / width) ** 2))


def filtered(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return scipy_idct2d(scipy_dct2d(x, "nhwc") * gain, "nhwc")


def diffused(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    return filtered(x, exact_filter(k, x.shape[1], x.shape[2]))


def sector(height: int, width: int, radius: float, angles: Sequence[float]) -> np.ndarray:
    """Return the low band's coefficients, (H, W), from the definition: lengths and angles."""
    n, m = np.arange(height)[:, None], np.arange(width)
    degrees = np.degrees(np.arctan2(n, m))
    within = np.hypot(n, m) <= radius * math.hypot(height, width) * (1 + 5e-10)
    within &= (degrees >= angles[0] - 3e-8) & (degrees <= angles[1] + 3e-8)
    within[0, 0] = True
    return within


def split(
    x: np.ndarray, radius: Sequence[float], angles: Sequence[Sequence[float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of an NCHW batch with one radius and pair of angles a sample."""
    if x.size == 0:
        return x, x
    masks = np.stack([sector(*x.shape[2:], r, a) for r, a in zip(radius, angles, strict=True)])
    low = scipy_idct2d(scipy_dct2d(x, "nchw") * masks[:, None], "nchw")
    return low, x - low


def random(
    shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal values that are the same on every device."""
    return torch.randn(shape, dtype=torch.float64).to(device, dtype)


def diffusivity(
    shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return values of k as they occur, 0 to 2 pixel**2, the same on every device."""
    return (2 * torch.rand(shape, dtype=torch.float64)).to(device, dtype)


def data_module(reader: Any, *arguments: Any, **options: Any) -> Any:
    """Make a data module; options are those of the crop, the loader, the module and the reader."""
    from rsvheat.data import Crop, DataModule, LoaderOptions

    values = {"num_workers": 0, **options}
    parts = {}
    for made in (Crop, LoaderOptions, DataModule):
        names = [name for name in inspect.signature(made).parameters if name in values]
        parts[made] = {name: values.pop(name) for name in names}
    return DataModule(
        reader(*arguments, **values),
        crop=Crop(**parts[Crop]),
        loader=LoaderOptions(**parts[LoaderOptions]),
        **parts[DataModule],
    )
