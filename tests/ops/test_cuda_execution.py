# SPDX-License-Identifier: Apache-2.0
"""What only a GPU has: streams, graphs, devices, its memory and the cuFFT plan cache.

The other files run on every device and test that CUDA computes the right thing.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from utils import FLOATS, diffusivity, random

from rsvheat import ops

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.parametrize("device", ["cuda"], indirect=True),
    pytest.mark.usefixtures("native"),
]

# One shape for each path of csrc/core/cuda/transform.h: register tile, matrix tile, passes with
# register lines and without, cuFFT.
NHWC_SHAPES = [
    (3, 56, 56, 20),
    (2, 13, 17, 9),
    (2, 128, 100, 40),
    (2, 131, 127, 6),
    (1, 300, 40, 5),
]
NCHW_SHAPES = [(2, 3, 64, 96), (1, 2, 31, 1), (2, 1, 37, 53)]
MIB = 1 << 20


class Call(NamedTuple):
    """An operator applied to inputs that a test may overwrite."""

    inputs: list[Tensor]
    run: Callable[[], list[Tensor]]


def calls(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Call]:
    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    made = []
    for shape in NHWC_SHAPES:
        x, grad = random(shape, dtype, device), random(shape, dtype, device)
        k = diffusivity(shape[1:], parameter, device)

        def heat(x: Tensor = x, k: Tensor = k, grad: Tensor = grad) -> list[Tensor]:
            y = torch.ops.rsvheat.heat_conduction(x, k)
            gradients = torch.ops.rsvheat._heat_conduction_backward(grad, x, k, True, True)
            return [y, *gradients, ops.dct2d(x, "nhwc"), ops.idct2d(x, "nhwc")]

        made.append(Call([x, k, grad], heat))
    for shape in NCHW_SHAPES:
        x, target = random(shape, dtype, device), random(shape, dtype, device)
        radius = torch.full((shape[0],), 0.3, dtype=torch.float64, device=device)
        angles = torch.tensor([[10.0, 60.0]], dtype=torch.float64, device=device)
        angles = angles.expand(shape[0], 2).contiguous()

        def image(
            x: Tensor = x, target: Tensor = target, radius: Tensor = radius, angles: Tensor = angles
        ) -> list[Tensor]:
            bands = torch.ops.rsvheat.frequency_split(x, radius, angles)
            loss = torch.ops.rsvheat.spectral_l1(x, target, True)
            return [ops.dct2d(x), ops.idct2d(x), *bands, *loss]

        made.append(Call([x, target], image))
    return made


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_results_are_bit_identical_between_runs(device: torch.device, dtype: torch.dtype) -> None:
    for call in calls(device, dtype):
        first = call.run()
        for _ in range(3):
            for a, b in zip(first, call.run(), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_captured_graphs_replay_with_new_inputs(device: torch.device, dtype: torch.dtype) -> None:
    for call in calls(device, dtype):
        call.run()  # makes the cuFFT plans
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call.run()
        for x in call.inputs:
            x.copy_(x.flip(0, 1) * 0.5)
        graph.replay()
        for a, b in zip(captured, call.run(), strict=True):
            assert torch.equal(a, b)


def test_a_capture_without_a_plan_says_what_to_do(device: torch.device) -> None:
    from rsvheat import _native

    _native.clear_plan_caches()
    x = random((1, 2, 43, 47), torch.float32, device)
    with (
        pytest.raises(RuntimeError, match="run the operator once before the capture"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        torch.ops.rsvheat.dct2d(x, False)
    torch.cuda.synchronize()
    torch.ops.rsvheat.dct2d(x, False)  # and the device is not the worse for it


def test_nothing_synchronizes(device: torch.device) -> None:
    made = calls(device)
    for call in made:
        call.run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in made:
            call.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_run_on_the_current_stream(device: torch.device) -> None:
    for call in calls(device):
        expected = call.run()
        values = [x.clone() for x in call.inputs]
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for x in call.inputs:
                x.zero_()
            torch.cuda._sleep(20_000_000)  # about 10 ms, so that an op on another stream is early
            for x, value in zip(call.inputs, values, strict=True):
                x.copy_(value)
            results = call.run()
        stream.synchronize()
        for a, b in zip(expected, results, strict=True):
            assert torch.equal(a, b)


def test_streams_do_not_disturb_each_other(device: torch.device) -> None:
    made = calls(device)
    expected = [call.run() for call in made]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for stream in streams:
        with torch.cuda.stream(stream):
            results.append([call.run() for call in made])
    torch.cuda.synchronize()
    for result in results:
        for call_expected, call_result in zip(expected, result, strict=True):
            for a, b in zip(call_expected, call_result, strict=True):
                assert torch.equal(a, b)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_operands_is_used_and_the_current_one_kept(device: torch.device) -> None:
    results = []
    with torch.cuda.device(0):
        for index in range(2):
            torch.manual_seed(0)
            results.append([call.run() for call in calls(torch.device("cuda", index))])
        assert torch.cuda.current_device() == 0
    for on_first, on_second in zip(*results, strict=True):
        for a, b in zip(on_first, on_second, strict=True):
            assert b.device.index == 1
            torch.testing.assert_close(a.cpu(), b.cpu())


def _extra_memory(run: Callable[[], object]) -> int:
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


def test_a_shared_memory_tile_needs_no_device_memory(device: torch.device) -> None:
    x = random((16, 56, 56, 128), torch.float32, device)
    k = diffusivity((56, 56, 128), torch.float32, device)
    extra = _extra_memory(lambda: torch.ops.rsvheat.heat_conduction(x, k)) - 4 * x.numel()
    assert extra < MIB


def test_passes_need_a_bounded_workspace(device: torch.device) -> None:
    x = random((16, 128, 128, 128), torch.bfloat16, device)
    k = diffusivity((128, 128, 128), torch.float32, device)
    extra = _extra_memory(lambda: torch.ops.rsvheat.heat_conduction(x, k)) - 2 * x.numel()
    assert extra <= 33 * MIB


def test_plan_cache_is_bounded_and_clears(device: torch.device) -> None:
    from rsvheat import _native

    _native.clear_plan_caches()
    for width in range(8, 60):
        ops.dct2d(random((1, 1, 8, width), torch.float32, device))
    plans, capacity = _native.cuda_plan_cache_info()
    assert plans == capacity
    _native.clear_plan_caches()
    assert _native.cuda_plan_cache_info() == (0, capacity)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements(device: torch.device) -> None:
    shape = (11, 56, 56, 65536)
    free, _ = torch.cuda.mem_get_info()
    if free < 20 << 30:
        pytest.skip("needs 20 GiB of free device memory")
    x = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    assert x.numel() > 1 << 31
    x[-1, :, :, -64:] = random((56, 56, 64), torch.bfloat16, device)
    k = torch.tensor(0.7, device=device).expand(shape[1:])
    y = torch.ops.rsvheat.heat_conduction(x, k)
    last = x[-1:, :, :, -64:].contiguous()
    expected = torch.ops.rsvheat.heat_conduction(last, k[..., -64:])
    assert torch.equal(y[-1:, :, :, -64:], expected)
    assert not y[:-1].any()
