# SPDX-License-Identifier: Apache-2.0
"""Tolerances, and an independent float64 account of what each operator computes, on SciPy."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)

# Largest relative L2 error against float64. Half types are bounded by a factor on the error of
# rounding the exact result once (see assert_accurate).
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
HALF_FACTOR = 1.5
# Gradients of k and of filters: sums over the batch of products of two transforms.
PARAMETER_TOLERANCE = {torch.float32: 4e-6, torch.float64: 2e-14}
# Sums of absolute values.
SUM_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


def relative_l2(actual: Tensor, expected: np.ndarray) -> float:
    """Return |actual - expected| / |expected| in float64; 0 for two empty or two zero arrays."""
    got = exact(actual)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    error, norm = np.linalg.norm(got - expected), np.linalg.norm(expected)
    return float(error / norm) if norm else float(error)


def assert_accurate(
    actual: Tensor, expected: np.ndarray, tolerance: dict[torch.dtype, float] = TOLERANCE
) -> None:
    """Assert that ``actual`` is within its dtype's row of the table."""
    assert actual.isfinite().all()
    if actual.dtype in HALVES:
        once = torch.from_numpy(expected).to(actual.dtype)
        bound = HALF_FACTOR * relative_l2(once, expected)
    else:
        bound = tolerance[actual.dtype]
    error = relative_l2(actual, expected)
    assert error <= bound, f"relative L2 error {error:.3g} > {bound:.3g} for {actual.dtype}"


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
