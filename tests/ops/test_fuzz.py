# SPDX-License-Identifier: Apache-2.0
"""Random shapes, strides, dtypes and forms of arguments against SciPy in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor
from utils import (
    FLOATS,
    PARAMETER_TOLERANCE,
    assert_accurate,
    assert_bands_accurate,
    diffused,
    diffusivity,
    exact,
    exact_filter,
    filtered,
    l2,
    random,
    scipy_dct2d,
    scipy_idct2d,
    sum_dtype,
)

from rsvheat import ops

pytestmark = pytest.mark.usefixtures("one_thread")


def strided(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype, device) -> Tensor:
    """Return a tensor whose strides are any that views make."""
    kind = rng.integers(6)
    if kind == 0:  # axes in another order
        order = rng.permutation(len(shape))
        inverse = np.argsort(order)
        return random([shape[i] for i in order], dtype, device).permute(*inverse.tolist())
    if kind == 1:  # every other element, from an offset
        starts, steps = rng.integers(0, 3, len(shape)), rng.integers(1, 4, len(shape))
        big = [a + s * n for a, s, n in zip(starts, steps, shape, strict=True)]
        x = random([int(n) for n in big], dtype, device)
        for axis, (a, s) in enumerate(zip(starts, steps, strict=True)):
            x = x.index_select(axis, torch.arange(x.shape[axis], device=device))
            x = x[(slice(None),) * axis + (slice(int(a), None, int(s)),)]
        return x
    if kind == 2:  # one axis repeated
        axis = int(rng.integers(len(shape)))
        small = list(shape)
        small[axis] = min(1, shape[axis])
        return random(small, dtype, device).expand(shape)
    if kind == 3:  # misaligned
        flat = random([int(np.prod(shape)) + 1], dtype, device)
        return flat[1:].view(shape)
    return random(shape, dtype, device)


def extents(rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.2:
        long = int(rng.integers(1, 700))
        return (long, 1) if rng.random() < 0.5 else (int(rng.integers(1, 4)), long)
    return int(rng.integers(1, 70)), int(rng.integers(1, 70))


def summed_like(k: Tensor, values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).sum_to_size(k.shape).numpy()


def typical_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the size of sum_b a * b, (1, 1, C), had nothing cancelled."""
    energy = [(s**2).mean((1, 2), keepdims=True) for s in (a, b)]
    return np.sqrt(energy[0] * energy[1]).sum(0)


@pytest.mark.parametrize("seed", range(60))
def test_random_arguments(seed: int, kernel: torch.device) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    dtype = FLOATS[rng.integers(len(FLOATS))]
    parameter = sum_dtype(dtype)
    batch, (height, width) = int(rng.integers(0, 4)), extents(rng)
    channels = int(rng.choice([0, 1, 2, 3, 8, 15, 16, 17, 33, 64, 65, 100]))
    x = strided(rng, (batch, height, width, channels), dtype, kernel)
    k_shape = [
        (),
        (channels,),
        (1, 1, channels),
        (height, width, channels),
        (width, 1),
        (height, 1, channels),
        (height, width, 1),
    ][rng.integers(7)]
    k = (
        strided(rng, k_shape, torch.float64, kernel)
        if k_shape
        else diffusivity((), parameter, kernel)
    )
    k = k.abs().to(parameter)
    gain = strided(rng, (height, width, channels), parameter, kernel)

    leaf, k_leaf = x.detach().requires_grad_(), k.detach().requires_grad_()
    y = ops.heat_conduction(leaf, k_leaf)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert_accurate(y, diffused(exact(x), exact(k)))
    assert_accurate(ops.apply_heat_filter(x, gain), filtered(exact(x), exact(gain)))

    grad_y = strided(rng, (batch, height, width, channels), dtype, kernel)
    grad_x, grad_k = torch.autograd.grad(y, (leaf, k_leaf), grad_y)
    assert_accurate(grad_x, diffused(exact(grad_y), exact(k)))
    spectra = scipy_dct2d(exact(x), "nhwc"), scipy_dct2d(exact(grad_y), "nhwc")
    slope = np.log(exact_filter(np.ones(()), height, width)) * exact_filter(exact(k), height, width)
    assert_accurate(
        grad_k,
        summed_like(k, slope * (spectra[0] * spectra[1]).sum(0)),
        PARAMETER_TOLERANCE,
        scale=l2(summed_like(k, np.abs(slope) * typical_product(*spectra))),
    )

    for layout in ("nchw", "nhwc"):
        if layout == "nchw" and channels == 0:
            continue  # channels are the width here
        assert_accurate(ops.dct2d(x, layout), scipy_dct2d(exact(x), layout))
        assert_accurate(ops.idct2d(x, layout), scipy_idct2d(exact(x), layout))

    images = x.permute(0, 3, 1, 2)
    radius, angles = rng.random(batch), np.sort(rng.uniform(0, 90, (batch, 2)))
    bands = ops.frequency_split(images, radius.tolist(), torch.from_numpy(angles))
    assert_bands_accurate(bands, images, radius, angles)

    other = strided(rng, (batch, channels, height, width), dtype, kernel)
    spectrum = scipy_dct2d(exact(images) - exact(other), "nchw")
    assert ops.spectral_l1_loss(images, other, "sum").item() == pytest.approx(
        np.abs(spectrum).sum(), rel=1e-12 if dtype == torch.float64 else 2e-6
    )
