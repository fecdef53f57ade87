# SPDX-License-Identifier: Apache-2.0
"""The native kernels, each CPU capability forced in turn, against SciPy in float64."""

import numpy as np
import pytest
import torch
from utils import (
    FLOATS,
    PARAMETER_TOLERANCE,
    SUM_TOLERANCE,
    assert_accurate,
    assert_bands_accurate,
    diffused,
    diffusivity,
    exact,
    exact_filter,
    filtered,
    random,
    scipy_dct2d,
    scipy_idct2d,
    sum_dtype,
)

from rsvheat import ops

pytestmark = pytest.mark.usefixtures("one_thread")

# Powers of two, 3 and 7 times powers of two, odd, prime, lines and single pixels.
SIZES = [
    (1, 1),
    (1, 8),
    (7, 1),
    (2, 2),
    (3, 5),
    (4, 6),
    (7, 7),
    (8, 8),
    (13, 17),
    (14, 14),
    (16, 32),
    (25, 25),
    (28, 28),
    (31, 29),
    (48, 12),
    (50, 100),
    (56, 56),
    (61, 64),
    (96, 112),
    (127, 9),
    (120, 200),
    (128, 128),
    (224, 224),
]
# SciPy's share of the time bounds the volume.
LARGEST_VOLUME = 100_000
EVERY_SIZE = range(1, 1025)
LARGE = [1031, 1536, 1792, 2039, 2048, 3000, 3072, 3584, 4093, 4095, 4096]


def sizes(channels: int) -> list[tuple[int, int]]:
    return [(h, w) for h, w in SIZES if h * w * channels <= LARGEST_VOLUME]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("layout", "channels"), [("nchw", 1), ("nchw", 5), ("nhwc", 1), ("nhwc", 21), ("nhwc", 64)]
)
def test_transforms(layout: str, channels: int, dtype: torch.dtype, kernel: torch.device) -> None:
    for height, width in sizes(channels):
        shape = (2, channels, height, width) if layout == "nchw" else (2, height, width, channels)
        x = random(shape, dtype, kernel)
        assert_accurate(ops.dct2d(x, layout), scipy_dct2d(exact(x), layout))
        assert_accurate(ops.idct2d(x, layout), scipy_idct2d(exact(x), layout))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 128])
def test_heat_conduction(channels: int, dtype: torch.dtype, kernel: torch.device) -> None:
    for height, width in sizes(channels):
        x = random((2, height, width, channels), dtype, kernel)
        k = diffusivity((height, width, channels), sum_dtype(dtype), kernel)
        assert_accurate(ops.heat_conduction(x, k), diffused(exact(x), exact(k)))
        gain = ops.heat_filter(k, height, width)
        assert_accurate(ops.apply_heat_filter(x, gain), filtered(exact(x), exact(gain)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_heat_conduction_gradients(channels: int, dtype: torch.dtype, kernel: torch.device) -> None:
    for height, width in sizes(channels):
        x = random((3, height, width, channels), dtype, kernel).requires_grad_()
        k = diffusivity((height, width, channels), sum_dtype(dtype), kernel)
        k.requires_grad_()
        grad_y = random(x.shape, dtype, kernel)
        product = (scipy_dct2d(exact(x), "nhwc") * scipy_dct2d(exact(grad_y), "nhwc")).sum(0)
        gain = exact_filter(exact(k), height, width)
        slope = -np.log(exact_filter(np.ones(()), height, width)) * gain

        grad_x, grad_k = torch.autograd.grad(ops.heat_conduction(x, k), (x, k), grad_y)
        assert_accurate(grad_x, diffused(exact(grad_y), exact(k)))
        assert_accurate(grad_k, -slope * product, PARAMETER_TOLERANCE)

        grad_x, grad_filter = torch.autograd.grad(ops.apply_heat_filter(x, k), (x, k), grad_y)
        assert_accurate(grad_x, filtered(exact(grad_y), exact(k)))
        assert_accurate(grad_filter, product, PARAMETER_TOLERANCE)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 1, 6), (11, 1), (9, 1, 6), (9, 11, 1)])
def test_broadcast_diffusivity(
    shape: tuple[int, ...], dtype: torch.dtype, kernel: torch.device
) -> None:
    x = random((2, 9, 11, 6), dtype, kernel)
    k = diffusivity(shape, torch.float32, kernel)
    assert_accurate(ops.heat_conduction(x, k), diffused(exact(x), exact(k)))
    gain = ops.heat_filter(k, 9, 11)
    assert_accurate(ops.apply_heat_filter(x, gain), filtered(exact(x), exact(gain)))
    assert_accurate(ops.apply_heat_filter(x, k), filtered(exact(x), exact(k)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(5,), (401, 1, 5), (401, 402, 5)])
def test_planes_that_exceed_the_cache(
    shape: tuple[int, ...], dtype: torch.dtype, kernel: torch.device
) -> None:
    """Planes of over 4 MiB with their filter are taken in strips of columns."""
    x = random((2, 401, 402, 5), dtype, kernel).requires_grad_()
    k = diffusivity(shape, sum_dtype(dtype), kernel)
    y = ops.heat_conduction(x, k)
    assert_accurate(y, diffused(exact(x), exact(k)))
    grad_y = random(x.shape, dtype, kernel)
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    assert_accurate(grad_x, diffused(exact(grad_y), exact(k)))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_size_up_to_1024(layout: str, kernel: torch.device) -> None:
    for n in EVERY_SIZE:
        height, width = (n, 2) if n % 2 else (2, n)
        shape = (1, 1, height, width) if layout == "nchw" else (1, height, width, 9)
        x = random(shape, device=kernel)
        assert_accurate(ops.dct2d(x, layout), scipy_dct2d(exact(x), layout))
        assert_accurate(ops.idct2d(x, layout), scipy_idct2d(exact(x), layout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_heat_conduction_at_every_size_up_to_1024(dtype: torch.dtype, kernel: torch.device) -> None:
    for n in EVERY_SIZE:
        height, width = (2, n) if n % 2 else (n, 2)
        x = random((1, height, width, 9), dtype, kernel)
        k = diffusivity((9,), torch.float32, kernel)
        assert_accurate(ops.heat_conduction(x, k), diffused(exact(x), exact(k)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sizes_up_to_4096(dtype: torch.dtype, kernel: torch.device) -> None:
    for n in LARGE:
        for height, width in ((n, 3), (3, n)):
            x = random((1, height, width, 5), dtype, kernel)
            assert_accurate(ops.dct2d(x, "nhwc"), scipy_dct2d(exact(x), "nhwc"))
            images = random((1, 1, height, width), dtype, kernel)
            assert_accurate(ops.idct2d(images), scipy_idct2d(exact(images), "nchw"))
            k = diffusivity((height, width, 5), sum_dtype(dtype), kernel)
            assert_accurate(ops.heat_conduction(x, k), diffused(exact(x), exact(k)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_frequency_split(channels: int, dtype: torch.dtype, kernel: torch.device) -> None:
    radius, angles = [0.05, 0.4, 0.7], [(0.0, 90.0), (10.0, 65.0), (45.0, 90.0)]
    for height, width in sizes(channels):
        x = random((3, channels, height, width), dtype, kernel)
        bands = ops.frequency_split(x, radius, torch.tensor(angles))
        assert bands[0].dtype == bands[1].dtype == dtype
        assert_bands_accurate(bands, x, radius, angles)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_losses(dtype: torch.dtype, kernel: torch.device) -> None:
    for height, width in sizes(3):
        shape = (2, 3, height, width)
        pred, target = random(shape, dtype, kernel), random(shape, dtype, kernel)
        pred.requires_grad_()
        error = exact(pred) - exact(target)
        spectrum = scipy_dct2d(error, "nchw")
        rel = SUM_TOLERANCE[sum_dtype(dtype)]

        loss = ops.spectral_l1_loss(pred, target, "sum")
        assert loss.dtype == sum_dtype(dtype)
        assert loss.item() == pytest.approx(np.abs(spectrum).sum(), rel=rel)
        (grad,) = torch.autograd.grad(loss, pred)
        # Where a coefficient is as small as its rounding error, either sign is right.
        clear = np.abs(spectrum) > (1e-13 if dtype == torch.float64 else 1e-5)
        signs = np.where(clear, spectrum, scipy_dct2d(exact(grad), "nchw").round())
        assert_accurate(grad, scipy_idct2d(np.sign(signs), "nchw"))

        parts = ops.multi_domain_loss(pred, target)
        assert parts.spatial.item() == pytest.approx(np.abs(error).mean(), rel=rel)
        assert parts.spectral.item() == pytest.approx(np.abs(spectrum).mean(), rel=rel)
