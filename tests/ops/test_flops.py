# SPDX-License-Identifier: Apache-2.0
"""FLOP counters see the ops. By hand: 2.5 * log2(8 * 4) = 12.5 per element and transform."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from utils import diffusivity, random

from rsvheat import ops
from rsvheat.ops import reference

N = 2 * 8 * 4 * 3
K = 8 * 4 * 3
T = 12.5


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_forward(native: torch.device) -> None:
    x, images = random((2, 8, 4, 3), device=native), random((2, 3, 8, 4), device=native)
    k = diffusivity((3,), device=native)
    gain = ops.heat_filter(k, 8, 4)
    assert counted(lambda: ops.dct2d(x, "nhwc")) == N * T
    assert counted(lambda: ops.idct2d(images)) == N * T
    assert counted(lambda: ops.heat_conduction(x, k)) == N * (2 * T + 1)
    assert counted(lambda: ops.apply_heat_filter(x, gain)) == N * (2 * T + 1)
    assert counted(lambda: ops.frequency_split(images, 0.4)) == N * (2 * T + 1)
    assert counted(lambda: ops.spectral_l1_loss(images, images)) == N * (T + 3)


def test_backward(native: torch.device) -> None:
    x = random((2, 8, 4, 3), device=native).requires_grad_()
    k = diffusivity((3,), device=native).requires_grad_()
    both = N * (3 * T + 3)

    def backward(function, *inputs: torch.Tensor) -> int:
        y = function()
        return counted(lambda: torch.autograd.grad(y, inputs, torch.ones_like(y)))

    assert backward(lambda: ops.dct2d(x, "nhwc"), x) == N * T
    assert backward(lambda: ops.apply_heat_filter(x, k), x, k) == both
    assert backward(lambda: ops.heat_conduction(x, k), x, k) == both + 2 * K
    assert backward(lambda: ops.heat_conduction(x.detach(), k), k) == N * (2 * T + 2) + 2 * K
    assert backward(lambda: ops.heat_conduction(x, k.detach()), x) == N * (2 * T + 1)
    assert backward(lambda: ops.frequency_split(x, 0.4)[0], x) == round(
        N * (2 * 2.5 * math.log2(4 * 3) + 1)
    )
    # The loss's gradient is made in the forward pass.
    assert backward(lambda: ops.spectral_l1_loss(x, x.detach() + 1), x) == 0
    assert counted(lambda: ops.spectral_l1_loss(x, x.detach() + 1)) == round(
        N * (2 * 2.5 * math.log2(4 * 3) + 3)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 1)])
def test_lines_and_pixels(size: tuple[int, int], native: torch.device) -> None:
    x = random((1, *size, 1), device=native)
    n = size[0] * size[1]
    assert counted(lambda: ops.dct2d(x, "nhwc")) == round(2.5 * n * math.log2(n))


def test_references_count_as_matrix_products(device: torch.device) -> None:
    x = random((2, 8, 4, 3), device=device)
    assert counted(lambda: reference.dct2d(x, "nhwc")) == 2 * N * (8 + 4)
