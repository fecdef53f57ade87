# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from utils import FLOATS, diffusivity, random, sum_dtype

from rsvheat import ops


def outputs(batch: int, height: int, width: int, channels: int, dtype: torch.dtype, device):
    parameter = sum_dtype(dtype)
    torch.manual_seed(1)
    x = random((batch, height, width, channels), dtype, device).requires_grad_()
    grad = random((batch, height, width, channels), dtype, device)
    results: list[Tensor] = []
    for shape in ((height, width, channels), (channels,)):
        k = diffusivity(shape, parameter, device).requires_grad_()
        for function in (ops.heat_conduction, ops.apply_heat_filter):
            y = function(x, k)
            results += [y, *torch.autograd.grad(y, (x, k), grad)]
    results += [ops.dct2d(x, "nhwc"), ops.idct2d(x, "nhwc")]
    images = x.detach().permute(0, 3, 1, 2).contiguous().requires_grad_()
    results += [ops.dct2d(images), ops.idct2d(images), *ops.frequency_split(images, 0.4, (5, 70))]
    loss = ops.multi_domain_loss(images, images.detach().flip(0))
    results += [loss.spatial, loss.spectral, *torch.autograd.grad(loss.total, images)]
    return results


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "shape", [(5, 28, 20, 40), (1, 64, 64, 100), (3, 31, 17, 7), (1, 112, 96, 3), (2, 1, 300, 16)]
)
def test_results_do_not_depend_on_threads(
    shape: tuple[int, int, int, int], dtype: torch.dtype, kernel: torch.device
) -> None:
    torch.set_num_threads(1)
    expected = outputs(*shape, dtype, kernel)
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        for actual, want in zip(outputs(*shape, dtype, kernel), expected, strict=True):
            assert torch.equal(actual, want)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_planes_do_not_depend_on_threads(
    batch: int, dtype: torch.dtype, kernel: torch.device
) -> None:
    x = random((batch, 401, 402, 3), dtype, kernel).requires_grad_()
    k = diffusivity((401, 402, 3), sum_dtype(dtype), kernel).requires_grad_()
    grad = random(x.shape, dtype, kernel)

    def results(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        y = ops.heat_conduction(x, k)
        return [y, *torch.autograd.grad(y, (x, k), grad)]

    expected = results(1)
    for threads in (2, 3):
        for actual, want in zip(results(threads), expected, strict=True):
            assert torch.equal(actual, want)


def test_results_do_not_depend_on_the_rest_of_the_batch(kernel: torch.device) -> None:
    x, k = random((6, 30, 22, 20), device=kernel), diffusivity((20,), device=kernel)
    y, spectrum = ops.heat_conduction(x, k), ops.dct2d(x, "nhwc")
    for i in range(6):
        assert torch.equal(ops.heat_conduction(x[i : i + 1], k), y[i : i + 1])
        assert torch.equal(ops.dct2d(x[i : i + 1], "nhwc"), spectrum[i : i + 1])
