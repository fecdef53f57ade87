# SPDX-License-Identifier: Apache-2.0
"""torch.compile, torch.export, fake and meta tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from utils import diffusivity, random

from rsvheat import ops


def both_losses(x: Tensor) -> Tensor:
    loss = ops.multi_domain_loss(x, x.roll(1, 0), x, x.flip(1), weights=(1, 2, 0.5))
    return loss.total + ops.spectral_l1_loss(x, x.flip(2), "sum")


def prepared_filter(x: Tensor) -> Tensor:
    return ops.apply_heat_filter(x, ops.heat_filter(x[0].square(), x.shape[1], x.shape[2]))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dct2d": ops.dct2d,
    "idct2d nhwc": lambda x: ops.idct2d(x, "nhwc"),
    "number k": lambda x: ops.heat_conduction(x, 0.5),
    "k per channel": lambda x: ops.heat_conduction(x, x[0, 0, 0].square()),
    "k from x": lambda x: ops.heat_conduction(x.transpose(1, 2), x[0].transpose(0, 1).square()),
    "filter": prepared_filter,
    "split": lambda x: ops.frequency_split(x, 0.3)[0] * ops.frequency_split(x, 0.3)[1],
    "split per sample": lambda x: ops.frequency_split(
        x, x.detach().abs().amax((1, 2, 3)) / 8, torch.tensor([[0, 60], [20, 90]])
    )[0],
    "losses": both_losses,
}


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), grad


def assert_compiled_alike(
    function: Callable[[Tensor], Tensor], compiled: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    for actual, expected in zip(
        value_and_gradient(compiled, x), value_and_gradient(function, x), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name: str, device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    assert_compiled_alike(FUNCTIONS[name], compiled, random((2, 6, 5, 4), device=device))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "split per sample"])
def test_compiles_once_for_every_shape(name: str, device: torch.device) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend=graphs, dynamic=True)
    for shape in ((2, 6, 5, 4), (3, 8, 7, 5), (5, 12, 9, 16)):
        assert_compiled_alike(FUNCTIONS[name], compiled, random(shape, device=device))
    assert graphs.frame_count == 1


@pytest.mark.slow
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_with_inductor(name: str, device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True)
    assert_compiled_alike(FUNCTIONS[name], compiled, random((2, 6, 5, 4), device=device))


def test_inductor_keeps_strides_that_the_kernels_take(native: torch.device) -> None:
    def function(x: Tensor) -> Tensor:
        weight = torch.sigmoid(x.mean((0, 1, 2)))  # a computed (C,) k, expanded over H and W
        y = ops.heat_conduction(torch.relu(x).permute(0, 2, 1, 3), weight)
        return ops.frequency_split(y.permute(0, 3, 1, 2) + 1, 0.4)[1]

    torch._dynamo.reset()
    x = random((2, 6, 5, 4), device=native)
    assert_compiled_alike(function, torch.compile(function, fullgraph=True), x)


def test_compiled_graph_holds_the_native_ops(native: torch.device) -> None:
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    x = random((1, 4, 4, 2), device=native)
    torch.compile(FUNCTIONS["number k"], fullgraph=True, backend=backend)(x)
    assert any("rsvheat.heat_conduction" in target for target in targets)


@pytest.mark.usefixtures("implementation")
def test_compiled_operator_is_differentiable_twice(device: torch.device) -> None:
    # Only with backends that keep autograd's graph, as torch.compile states.
    torch._dynamo.reset()
    compiled = torch.compile(ops.heat_conduction, fullgraph=True, backend="eager")
    x = random((2, 5, 4, 3), torch.float64, device).requires_grad_()
    k = diffusivity((3,), torch.float64, device).requires_grad_()

    def penalty(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        (grad,) = torch.autograd.grad(function(x, k).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, k))

    torch.testing.assert_close(penalty(compiled), penalty(ops.heat_conduction))


class Everything(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.k = torch.nn.Parameter(diffusivity((channels,)))

    def forward(self, x: Tensor) -> Tensor:
        low, high = ops.frequency_split(x, 0.4, (0, 70))
        features = (low + high.abs()).permute(0, 2, 3, 1)
        y = ops.heat_conduction(features, self.k)
        y = ops.apply_heat_filter(y, ops.heat_filter(self.k, y.shape[1], y.shape[2]))
        return ops.idct2d(ops.dct2d(y, "nhwc").square(), "nhwc")


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_dynamic_shapes(strict: bool, device: torch.device) -> None:
    model = Everything(3).to(device).eval()
    batch = torch.export.Dim("batch", max=64)
    height, width = torch.export.Dim("height", max=4096), torch.export.Dim("width", max=4096)
    program = torch.export.export(
        model,
        (random((2, 3, 8, 10), device=device),),
        dynamic_shapes=({0: batch, 2: height, 3: width},),
        strict=strict,
    )
    for shape in ((2, 3, 8, 10), (1, 3, 16, 12), (5, 3, 7, 31)):
        x = random(shape, device=device)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("where", ["fake", "meta"])
def test_metadata_without_data(where: str, dtype: torch.dtype, device: torch.device) -> None:
    if where == "meta" and device.type != "cpu":
        pytest.skip("meta tensors belong to no other device")
    real = [random((2, 6, 5, 4), dtype, device), diffusivity((4,), device=device)]

    def outputs(x: Tensor, k: Tensor) -> list[Tensor]:
        x, k = x.detach().requires_grad_(), k.detach().requires_grad_()
        y = ops.heat_conduction(x, k)
        grads = torch.autograd.grad(y.sum(), (x, k))
        loss = ops.multi_domain_loss(x, x.flip(0), x, x.flip(1))
        (grad,) = torch.autograd.grad(loss.total, x)
        filtered = ops.apply_heat_filter(x, ops.heat_filter(k, 6, 5))
        return [
            y, *grads, *loss, grad, filtered, *ops.frequency_split(x, 0.5), ops.dct2d(x),
            ops.idct2d(x, "nhwc"), ops.spectral_l1_loss(x, x.flip(0)),
        ]  # fmt: skip

    expected = outputs(*real)
    if where == "fake":
        with FakeTensorMode() as mode:
            actual = outputs(*(mode.from_tensor(t) for t in real))
    else:
        actual = outputs(*(t.to("meta") for t in real))
    for got, want in zip(actual, expected, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if where == "fake":
            assert got.device == want.device


def test_meta_matches_native_strides(native: torch.device) -> None:
    x = random((2, 5, 6, 3), device=native).transpose(1, 2)
    k = diffusivity((3,), device=native)
    for function in (ops.dct2d, lambda x: ops.idct2d(x, "nhwc")):
        assert function(x.to("meta")).stride() == function(x).stride()
    fake = ops.heat_conduction(x.to("meta"), k.to("meta"))
    assert fake.stride() == ops.heat_conduction(x, k).stride()


@pytest.mark.usefixtures("implementation")
def test_activation_checkpointing(device: torch.device) -> None:
    x = random((2, 6, 5, 4), device=device).requires_grad_()
    k = diffusivity((4,), device=device).requires_grad_()

    def block(x: Tensor) -> Tensor:
        return ops.heat_conduction(torch.nn.functional.gelu(x), k)

    expected = torch.autograd.grad(block(x).square().sum(), (x, k))
    y = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (x, k)), expected)
