# SPDX-License-Identifier: Apache-2.0
"""oneDNN's products against torch's in float64; packed weights that are never stale; fused steps
that honour whatever users do to the modules whose work they take over."""

import copy
import io
import itertools
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import conv2d, gelu, linear, relu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from utils import assert_accurate, exact, l2, random

from rsvheat.models import RSVHeat, layers
from rsvheat.models.layers import HeatBlock, Mlp
from rsvheat.ops import heat_conduction, onednn
from rsvheat.ops.fingerprint import fingerprint
from rsvheat.ops.onednn import Conv2dNHWC, Linear

pytestmark = pytest.mark.skipif(onednn._OPERATORS is None, reason="this torch has no oneDNN")

# oneDNN's types, and one that torch serves.
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
SHAPES = [(7, 19), (2, 3, 5, 19), (1, 19), (130, 19), (4, 1, 19)]

Layer = Linear | Conv2dNHWC


@pytest.fixture(autouse=True)
def few_rows_are_packed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "PACKED_ROWS", 0)


@pytest.fixture(params=[Linear, Conv2dNHWC])
def layer(request: pytest.FixtureRequest) -> Layer:
    """One of each in evaluation, for inputs of ``features``."""
    return (Linear(19, 12) if request.param is Linear else Conv2dNHWC(19, 12, 3, 2, 1)).eval()


def features(batch: int = 2, size: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    return random((batch, size, size, 19), dtype)


def plain(layer: Layer, x: Tensor) -> Tensor:
    """Return the output by torch's own functions, in float64."""
    weight = layer.weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, Linear):
        return linear(x.double(), weight, bias)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return conv2d(x.double().permute(0, 3, 1, 2), weight, bias, *geometry).permute(0, 2, 3, 1)


class Recorder(TorchDispatchMode):
    """The names of the operators that are called, and the size of their largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result

    def used_onednn(self) -> bool:
        return any(name.startswith("mkldnn.") for name in self.names)


@torch.no_grad()
def used_onednn(layer: Layer, x: Tensor) -> bool:
    with Recorder() as recorder:
        layer(x)
    return recorder.used_onednn()


# ---- Values and gradients -----------------------------------------------------------------------


def assert_close_to_float64(
    actual: Tensor, inputs: Sequence[Tensor], expected: Tensor, grad_y: Tensor
) -> None:
    """Compare a result and its gradients with those of ``expected``, computed in float64."""
    assert_accurate(actual.detach(), exact(expected))
    grads = torch.autograd.grad(actual, inputs, grad_y, retain_graph=True)
    wanted = torch.autograd.grad(expected, inputs, grad_y.double(), retain_graph=True)
    for source, grad, want in zip(inputs, grads, wanted, strict=True):
        assert grad.shape == source.shape
        assert grad.dtype == source.dtype
        # The float64 gradient was rounded where it reached a leaf of a smaller type.
        scale = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float64: 1e-14}[grad.dtype]
        assert l2(exact(grad) - exact(want)) <= scale * max(l2(exact(want)), 1e-30)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear(dtype: torch.dtype, bias: bool, training: bool) -> None:
    for shape, out in itertools.product(SHAPES, (1, 12, 64)):
        layer = Linear(19, out, bias=bias, dtype=dtype).train(training)
        x = random(shape, dtype).requires_grad_()
        inputs = [x, *layer.parameters()]
        y = layer(x)
        assert y.shape == (*shape[:-1], out)
        assert_close_to_float64(y, inputs, plain(layer, x), random(y.shape, dtype))
        with torch.no_grad():
            assert_accurate(layer(x), exact(plain(layer, x)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slices_and_gelu(dtype: torch.dtype, bias: bool, training: bool) -> None:
    layer = Linear(19, 12, bias=bias, dtype=dtype).train(training)
    x = random((2, 3, 5, 19), dtype).requires_grad_()
    for count, activation in itertools.product((1, 2, 3), ("none", "gelu")):
        whole = plain(layer, x)
        expected = (gelu(whole) if activation == "gelu" else whole).chunk(count, dim=-1)
        rounded = dtype == torch.bfloat16 and activation == "gelu"  # more than once
        for actual, want in zip(layer.slices(x, count, activation), expected, strict=True):
            assert actual.is_contiguous()
            if rounded:
                torch.testing.assert_close(actual, want.bfloat16())
            else:
                inputs = [x, *layer.parameters()]
                assert_close_to_float64(actual, inputs, want, random(actual.shape, dtype))
        with torch.no_grad():
            for actual, want in zip(layer.slices(x, count, activation), expected, strict=True):
                assert actual.is_contiguous()
                if rounded:
                    torch.testing.assert_close(actual, want.bfloat16())
                else:
                    assert_accurate(actual, exact(want))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_of_gelu(dtype: torch.dtype) -> None:
    layer = Linear(19, 12, dtype=dtype)
    x = random((2, 3, 5, 19), dtype).requires_grad_()
    expected = plain(layer, gelu(x) if dtype == torch.bfloat16 else gelu(x.double()))
    actual = layer.of_gelu(x)
    assert_close_to_float64(actual, [x, *layer.parameters()], expected, random(actual.shape, dtype))
    with torch.no_grad():
        assert_accurate(layer.of_gelu(x), exact(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_of_gelu_by_torch_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same function on a device that has no oneDNN.
    monkeypatch.setattr(onednn, "_OPERATORS", None)
    x, weight, bias = (
        torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 5, 6), (4, 6), (4,))
    )
    actual = onednn._Products.apply(x, weight, bias, 1, True)[0]
    expected = linear(gelu(x), weight, bias)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad(actual, (x, weight, bias), grad),
        torch.autograd.grad(expected, (x, weight, bias), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_of_gelu_keeps_what_went_in_alone() -> None:
    layer = Linear(19, 12)
    x = random((2, 3, 5, 19)).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer.of_gelu(x)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, layer.weight)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 1, "groups": 19, "out_channels": 19},
        {"kernel_size": (1, 3), "padding": (0, 2), "dilation": 2},
        {"kernel_size": 1},
    ],
    ids=str,
)
def test_convolution(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    layer = Conv2dNHWC(19, **{"out_channels": 12, **arguments}, dtype=dtype)
    exactly = nn.Conv2d(19, **{"out_channels": 12, **arguments}, dtype=torch.float64)
    exactly.load_state_dict(layer.state_dict())
    for training, height, width in itertools.product((True, False), (1, 8, 13), (5, 16)):
        layer.train(training)
        x = random((2, height, width, 19), dtype).requires_grad_()
        y = layer(x)
        assert y.is_contiguous()
        own = x.detach().double().requires_grad_()
        want = exactly(own.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert_accurate(y.detach(), exact(want))
        grad_y = random(y.shape, dtype)
        grads = torch.autograd.grad(y, [x, *layer.parameters()], grad_y)
        wanted = torch.autograd.grad(want, [own, *exactly.parameters()], grad_y.double())
        for grad, expected in zip(grads, wanted, strict=True):
            assert_accurate(grad, exact(expected), {torch.float32: 4e-6, torch.float64: 1e-14})
        with torch.no_grad():
            assert_accurate(layer(x), exact(want))


@pytest.mark.parametrize(
    "arguments",
    [{"padding": "same"}, {"padding": "valid"}, {"padding": 1, "padding_mode": "circular"}],
    ids=str,
)
def test_paddings_that_torch_serves(arguments: dict[str, Any]) -> None:
    layer = Conv2dNHWC(19, 12, 3, **arguments).eval()
    ordinary = nn.Conv2d(19, 12, 3, **arguments)
    ordinary.load_state_dict(layer.state_dict())
    x = features()
    torch.testing.assert_close(run(layer, x), ordinary(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_images_of_any_layout(layer: Layer) -> None:
    x = features()
    with torch.no_grad():
        expected = layer(x)
        for strange in (
            x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
            x.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3),
            torch.stack((x, x), -1)[..., 0],
        ):
            torch.testing.assert_close(layer(strange), expected)
        torch.testing.assert_close(
            layer(x[:1, :, :1].expand_as(x)), layer(x[:1, :, :1].expand_as(x).contiguous())
        )


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("kind", ["forward", "slices", "of_gelu"])
def test_gradients_of_some_inputs_only(kind: str, wanted: tuple[bool, bool, bool]) -> None:
    layer = Linear(19, 12)
    x = random((4, 3, 19))

    def gradients(wanted: Sequence[bool]) -> list[Tensor | None]:
        inputs = [x.clone(), layer.weight, layer.bias]
        for t, want in zip(inputs, wanted, strict=True):
            t.requires_grad_(want)
            t.grad = None
        y = layer.slices(inputs[0], 3)[1] if kind == "slices" else getattr(layer, kind)(inputs[0])
        if any(wanted):
            y.square().sum().backward()
        assert y.requires_grad == any(wanted)
        return [t.grad for t in inputs]

    for actual, want, expected in zip(
        gradients(wanted), wanted, gradients((True, True, True)), strict=True
    ):
        assert (actual is not None) == want
        if actual is not None:
            torch.testing.assert_close(actual, expected)


def test_gradients_of_any_stride() -> None:
    layer = Linear(19, 12)
    x = random((2, 3, 5, 19)).requires_grad_()
    inputs = [x, *layer.parameters()]
    for y in (layer(x), layer.of_gelu(x), layer.slices(x, 2)[1]):
        for grad in (
            torch.ones(()).expand_as(y),
            random(y.shape[::-1]).permute(3, 2, 1, 0),
            random((*y.shape[:3], 2 * y.shape[3]))[..., ::2],
        ):
            strange = torch.autograd.grad(y, inputs, grad, retain_graph=True)
            ordinary = torch.autograd.grad(y, inputs, grad.contiguous(), retain_graph=True)
            for actual, expected in zip(strange, ordinary, strict=True):
                torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kind", ["forward", "slices", "of_gelu"])
def test_second_derivatives(kind: str) -> None:
    layer = Linear(5, 4)
    x = random((3, 5)).requires_grad_()
    inputs = [x, *layer.parameters()]

    def penalty(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        grads = torch.autograd.grad(function(x).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)

    def ours(x: Tensor) -> Tensor:
        return torch.cat(layer.slices(x, 2), -1) if kind == "slices" else getattr(layer, kind)(x)

    exactly = penalty(lambda x: plain(layer, gelu(x.double()) if kind == "of_gelu" else x))
    for actual, expected in zip(penalty(ours), exactly, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["forward", "of_gelu"])
def test_second_derivatives_where_weights_are_tied(kind: str) -> None:
    layer = Linear(5, 5)
    x = random((3, 5)).requires_grad_()

    def gradients(create_graph: bool) -> tuple[Tensor, ...]:
        y = getattr(layer, kind)(x @ layer.weight)
        return torch.autograd.grad(y.square().sum(), (x, layer.weight), create_graph=create_graph)

    for actual, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("size", [0, 1])
def test_no_rows_and_single_rows(size: int, layer: Layer) -> None:
    x = features(batch=size).requires_grad_()
    y = layer(x)
    assert y.shape[0] == size
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y)


def test_a_vector_of_features() -> None:
    x = random((19,)).requires_grad_()
    for layer in (Linear(19, 12), Mlp(19, 76)):
        y = layer(x)
        y.sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(layer.eval()(x), y)
    assert Linear(19, 12).of_gelu(x).shape == (12,)


def test_wrong_features_get_torchs_message() -> None:
    for layer in (Linear(19, 12), Linear(19, 12).eval(), Mlp(19, 76), Mlp(19, 76).eval()):
        for context in (nullcontext(), torch.no_grad()):
            with context, pytest.raises(RuntimeError, match=r"mat1 and mat2|must match"):
                layer(random((2, 18)))
    for training in (True, False):
        with pytest.raises(RuntimeError, match=r"expected input.* to have 19 channels"):
            Conv2dNHWC(19, 12, 3).train(training)(random((1, 5, 5, 18)))


# ---- Autocast -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["training", "evaluation with gradients", "evaluation"])
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(lower: torch.dtype, mode: str, layer: Layer) -> None:
    layer.train(mode == "training")
    x = features().requires_grad_()
    half = copy.deepcopy(layer).to(lower)
    with torch.autocast("cpu", lower), torch.set_grad_enabled(mode != "evaluation"):
        y = layer(x)
        again = layer(x.to(lower))
    assert y.dtype == again.dtype == lower
    assert_accurate(y.detach(), exact(plain(half, x.to(lower))))
    torch.testing.assert_close(again, y)
    if mode == "evaluation":
        return
    grads = torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))
    own = x.detach().to(lower).double().requires_grad_()
    want = plain(half, own)
    wanted = torch.autograd.grad(want, [own, *half.parameters()], torch.ones_like(want))
    for grad, expected in zip(grads, wanted, strict=True):
        assert grad.dtype == torch.float32
        assert l2(exact(grad) - exact(expected)) <= 0.01 * l2(exact(expected))


def test_autocast_and_float32_take_turns(layer: Layer) -> None:
    x = features()
    with torch.no_grad():
        for _ in range(2):
            assert_accurate(layer(x), exact(plain(layer, x)))
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
                with torch.autocast("cpu", enabled=False):
                    assert_accurate(layer(x), exact(plain(layer, x)))


def test_autocast_leaves_float64_alone(layer: Layer) -> None:
    layer.double()
    x = features(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(x).dtype == torch.float64


@pytest.mark.parametrize("kind", ["forward", "of_gelu"])
def test_float32_features_under_autocast_have_gradients(kind: str) -> None:
    layer = Linear(19, 12)
    x = random((5, 19)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = getattr(layer, kind)(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


# ---- Packed weights -----------------------------------------------------------------------------


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the weights that are packed from here on."""
    seen: list[torch.Size] = []

    def counted(pack: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda weight, *args: seen.append(weight.shape) or pack(weight, *args)

    operators = onednn._OPERATORS
    monkeypatch.setattr(
        onednn,
        "_OPERATORS",
        operators._replace(
            pack_linear=counted(operators.pack_linear), pack_conv=counted(operators.pack_conv)
        ),
    )
    return seen


def is_packed(layer: nn.Module) -> bool:
    return len(layer._packed.weights) > 0


@torch.no_grad()
def run(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def test_weights_are_packed_once_for_all_sizes(layer: Layer, packings: list[torch.Size]) -> None:
    for batch, size in ((2, 9), (1, 9), (5, 9), (1, 4), (3, 33), (1, 1), (2, 9)):
        x = features(batch, size)
        for _ in range(2):
            assert_accurate(run(layer, x), exact(plain(layer, x)))
    assert packings == [layer.weight.shape]
    assert used_onednn(layer, x)


def test_slices_are_packed_once(packings: list[torch.Size]) -> None:
    layer = Linear(19, 12).eval()
    with torch.no_grad():
        for _ in range(3):
            first, second = layer.slices(features(), 2)
    assert packings == [(6, 19), (6, 19)]
    torch.testing.assert_close(torch.cat((first, second), -1).shape, (2, 9, 9, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_take_the_weight_as_it_is(
    layer: Layer, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of the weight would take longer than the product allows; so each call reads it."""
    monkeypatch.setattr(onednn, "PACKED_ROWS", 1025)
    monkeypatch.setattr(onednn, "fingerprint", lambda tensor: pytest.fail("the weight is checked"))
    layer.to(dtype)
    x = features(1, 9, dtype)
    for _ in range(2):
        assert_accurate(run(layer, x), exact(plain(layer, x)))
        layer.weight.data.mul_(0.5)
    assert not is_packed(layer)
    if isinstance(layer, Linear):
        with torch.no_grad():
            parts = layer.slices(x, 2, "gelu")
            prepared = layer.prepared(x, "gelu")(x)
        want = exact(gelu(plain(layer, x)))
        assert_accurate(torch.cat(parts, -1), want)
        assert_accurate(prepared, want)


def test_rows_and_size_decide_which_weights_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "PACKED_ROWS", 81)
    layer, conv = Linear(19, 12).eval(), Conv2dNHWC(19, 12, 3, 2, 1).eval()
    run(layer, features(1, 8)), run(conv, features(1, 17))  # 64 rows; 72 of 81, by the strides
    assert not is_packed(layer)
    assert not is_packed(conv)
    run(layer, features(1, 9)), run(conv, features(1, 18))
    assert is_packed(layer)
    assert is_packed(conv)
    # Each call would copy a large weight.
    large = Conv2dNHWC(19, 12, 3, 2, 1).eval()
    monkeypatch.setattr(onednn, "PACKED_BYTES", large.weight.nbytes)
    x = features(1, 3)
    assert_accurate(run(large, x), exact(plain(large, x)))
    assert is_packed(large)
    # A type that has to be changed is changed once.
    other = Linear(19, 12).eval()
    with torch.autocast("cpu", torch.bfloat16):
        run(other, features(1, 1))
    assert is_packed(other)


def test_nothing_is_packed_where_gradients_are_wanted(layer: Layer) -> None:
    layer(features()).sum().backward()
    assert not is_packed(layer)
    layer.requires_grad_(False)
    assert layer(features().requires_grad_()).requires_grad
    assert not is_packed(layer)
    layer(features())  # and what is frozen is packed without no_grad()
    assert is_packed(layer)
    assert not is_packed(layer.train())
    run(layer, features())
    assert not is_packed(layer)


def _optimizer_step(layer: Layer) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(features()).square().sum().backward()
    optimizer.step()


def _fused_optimizer_step(layer: Layer) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(features()).square().sum().backward()
    optimizer.step()


def _load_state_dict(layer: Layer) -> None:
    layer.load_state_dict({name: value * 0.5 for name, value in layer.state_dict().items()})


def _assign_state_dict(layer: Layer) -> None:
    state = {name: value * 0.5 for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


@torch.no_grad()
def _copy(layer: Layer) -> None:
    layer.weight.copy_(layer.weight.flip(0))


@torch.no_grad()
def _scale_a_part(layer: Layer) -> None:
    layer.weight[1:3].mul_(2)


@torch.no_grad()
def _bias_alone(layer: Layer) -> None:
    layer.bias.add_(1)


@torch.inference_mode()
def _in_inference_mode(layer: Layer) -> None:
    layer.weight.mul_(0.5)


def _averaged_in_place(layer: Layer) -> None:
    for value in layer.state_dict().values():
        value.lerp_(torch.ones_like(value), 0.3)


def _replaced(layer: Layer) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def _deleted_and_set(layer: Layer) -> None:
    values = layer.weight.detach() * 2
    del layer.weight
    layer.weight = nn.Parameter(values)


def _no_bias(layer: Layer) -> None:
    layer.bias = None


def _new_data(layer: Layer) -> None:
    layer.weight.data = layer.weight.detach() * 2


def _round_trip_in_half(layer: Layer) -> None:
    layer.bfloat16().float()


def _written_while_training(layer: Layer) -> None:
    layer.train()
    layer.weight.data.mul_(2)  # not seen by autograd's version counter
    layer.eval()


def _initialised_again(layer: Layer) -> None:
    layer.reset_parameters()


# What autograd's version counter does not see.


def _moving_average(layer: Layer) -> None:
    for value in layer.parameters():
        value.data.mul_(0.9).add_(torch.ones_like(value), alpha=0.1)


def _written_by_numpy(layer: Layer) -> None:
    layer.weight.detach().numpy()[...] = 0.25


def _one_element_by_numpy(layer: Layer) -> None:
    layer.weight.detach().numpy().flat[7] += 1


def _bias_by_data(layer: Layer) -> None:
    layer.bias.data[1] += 1


def _rows_by_data(layer: Layer) -> None:
    layer.weight.data.copy_(layer.weight.data.flip(0))


def _signs_by_data(layer: Layer) -> None:
    layer.weight.data.neg_()


def _fused_step_of_other_gradients(layer: Layer) -> None:
    # Gradients may come from elsewhere: no pass of this layer announces the step.
    for value in layer.parameters():
        value.grad = torch.ones_like(value)
    torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True).step()


INVISIBLE = [
    _moving_average,
    _written_by_numpy,
    _one_element_by_numpy,
    _bias_by_data,
    _rows_by_data,
    _signs_by_data,
    _fused_step_of_other_gradients,
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "autocast", "frozen"])
@pytest.mark.parametrize("change", INVISIBLE)
def test_invisible_writes_count_in_every_mode(
    change: Callable[[Layer], None], mode: str, channels_last: bool, layer: Layer
) -> None:
    layer.requires_grad_(mode != "frozen")
    if channels_last and isinstance(layer, Conv2dNHWC):
        layer.to(memory_format=torch.channels_last)
    x = features()

    def call(layer: Layer) -> Tensor:
        contexts = {
            "no_grad": torch.no_grad(),
            "inference_mode": torch.inference_mode(),
            "autocast": torch.autocast("cpu", torch.bfloat16),
            "frozen": nullcontext(),
        }
        with contexts[mode], torch.set_grad_enabled(mode == "frozen"):
            return layer(x)

    before = call(layer)
    assert is_packed(layer)
    change(layer)
    after = call(layer)
    assert is_packed(layer)
    assert torch.equal(after, call(copy.deepcopy(layer)))
    assert not torch.equal(after, before)


def test_without_the_compiled_operators_nothing_is_kept(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "AVAILABLE", False)
    x = features()
    assert_accurate(run(layer, x), exact(plain(layer, x)))
    assert not is_packed(layer)


@pytest.mark.parametrize(
    "change",
    [
        _optimizer_step,
        _fused_optimizer_step,
        _load_state_dict,
        _assign_state_dict,
        _copy,
        _scale_a_part,
        _bias_alone,
        _in_inference_mode,
        _averaged_in_place,
        _replaced,
        _deleted_and_set,
        _no_bias,
        _new_data,
        _round_trip_in_half,
        _written_while_training,
        _initialised_again,
        *INVISIBLE,
    ],
)
def test_no_change_of_weights_leaves_a_stale_result(
    change: Callable[[Layer], None], layer: Layer
) -> None:
    x = features()
    before = run(layer, x)
    assert is_packed(layer)
    change(layer)
    after = run(layer, x)
    assert is_packed(layer)
    assert_accurate(after, exact(plain(layer, x)))
    assert not torch.equal(after, before)


def test_training_step_by_step_in_evaluation_mode(layer: Layer) -> None:
    x = features()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(5):
        assert_accurate(run(layer, x), exact(plain(layer, x)))
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()


def test_changes_of_type(layer: Layer, packings: list[torch.Size]) -> None:
    x = features()
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
        layer.to(dtype)
        assert not is_packed(layer)
        y = run(layer, x.to(dtype))
        assert y.dtype == dtype
        assert_accurate(y, exact(plain(layer, x.to(dtype))))
        assert is_packed(layer) == (dtype != torch.float64)
    assert len(packings) == 3


def test_weights_that_come_and_go(layer: Layer) -> None:
    # With nothing in between, the next one gets the identity and the address of the last one.
    x, base = features(), layer.weight.detach()
    layer.bias = None
    call = torch.func.functional_call
    with torch.no_grad():
        outputs = [call(layer, {"weight": base * scale}, (x,)) for scale in range(1, 31)]
        outputs.append(layer(x))
    exactly = exact(plain(layer, x))
    for output, scale in zip(outputs, [*range(1, 31), 1], strict=True):
        assert_accurate(output, exactly * scale)


def test_parametrized_weights(layer: Layer) -> None:
    class Scale(nn.Module):
        by = 1.0

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.by

    nn.utils.parametrize.register_parametrization(layer, "weight", Scale())
    x = features()
    outputs = []
    for by in (1.0, 2.0, 3.0, 4.0, 5.0):
        layer.parametrizations.weight[0].by = by
        outputs.append(run(layer, x))
    layer.parametrizations.weight[0].by = 1.0
    bias = exact(layer.bias)
    exactly = exact(plain(layer, x)) - bias
    for by, output in enumerate(outputs, 1):
        assert_accurate(output, exactly * by + bias)


def test_pruned_weights(layer: Layer) -> None:
    x = features()
    run(layer, x)
    nn.utils.prune.l1_unstructured(layer, "weight", amount=0.5)
    assert_accurate(run(layer, x), exact(plain(layer, x)))
    with torch.no_grad():
        layer.weight_orig.mul_(2)
    assert_accurate(run(layer, x), exact(plain(layer, x)))


def test_dropped_weights_are_freed(layer: Layer) -> None:
    run(layer, features())
    kept = weakref.ref(layer._packed.weights[0])
    layer.train()
    assert kept() is None


def test_copies_pack_for_themselves(layer: Layer) -> None:
    x = features()
    expected = run(layer, x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert is_packed(layer)
        assert not is_packed(copied)
        assert torch.equal(run(copied, x), expected)
        with torch.no_grad():
            copied.weight.mul_(2)
        assert not torch.equal(run(copied, x), expected)
        assert torch.equal(run(layer, x), expected)
    assert set(layer.state_dict()) == {"weight", "bias"}
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    small = buffer.tell()
    buffer = io.BytesIO()
    torch.save(layer.train(), buffer)
    assert abs(buffer.tell() - small) < 256  # no packed copy in the file


def test_inference_mode_first_and_training_after(layer: Layer) -> None:
    x = features()
    with torch.inference_mode():
        layer(x)
    assert is_packed(layer)
    frozen = copy.deepcopy(layer).requires_grad_(False)
    with torch.inference_mode():
        frozen(x)
    leaf = x.clone().requires_grad_()
    frozen(leaf).sum().backward()
    assert leaf.grad is not None
    layer.train()(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():  # inside, normal tensors come out of the same packed weights
        y = layer.eval()(x)
    assert not y.is_inference()


def test_layers_made_in_inference_mode() -> None:
    x = features()
    with torch.inference_mode():
        layer = Linear(19, 12).eval()
        before = layer(x)
        layer.weight.mul_(2)
        assert not torch.equal(layer(x), before)
        assert_accurate(layer(x), exact(plain(layer, x)))
    assert_accurate(run(layer, x), exact(plain(layer, x)))


def test_threads_share_a_layer(layer: Layer) -> None:
    inputs = [features(batch, size) for batch, size in ((1, 9), (3, 5))]
    expected = [run(layer, x) for x in inputs]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lowered = [layer(x) for x in inputs]
    layer._packed = onednn._NOTHING
    failures: list[str] = []

    def work(i: int) -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            for _ in range(50):
                if not torch.equal(layer(inputs[i]), expected[i]):
                    failures.append("float32")
                with torch.autocast("cpu", torch.bfloat16):
                    if not torch.equal(layer(inputs[i]), lowered[i]):
                        failures.append("bfloat16")

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_flag_of_torch_turns_it_off(layer: Layer) -> None:
    x = features()
    assert used_onednn(layer, x)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not used_onednn(layer, x)
        assert_accurate(run(layer, x), exact(plain(layer, x)))
        y = layer.train()(x)
        y.sum().backward()
    assert_accurate(y.detach(), exact(plain(layer, x)))


def test_torchs_without_the_operators(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_OPERATORS", None)
    x = features()
    assert_accurate(run(layer, x), exact(plain(layer, x)))
    layer.train()(x).sum().backward()
    if isinstance(layer, Linear):
        layer.of_gelu(x).sum().backward()
    assert not is_packed(layer)


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_flops_of_layers(layer: Layer) -> None:
    x = features()
    pixels = layer(x).numel() // 12
    taps = 1 if isinstance(layer, Linear) else 9
    expected = 2 * pixels * taps * 19 * 12
    assert flops(lambda: run(layer, x)) == expected
    assert flops(lambda: layer(x)) == expected
    assert flops(lambda: layer.train()(x)) == expected
    with torch.backends.mkldnn.flags(enabled=False):
        assert flops(lambda: layer(x)) == expected
        assert flops(lambda: run(layer.eval(), x)) == expected


def test_flops_of_the_backward_pass_of_linear() -> None:
    x = features().requires_grad_()
    counts = []
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled):
            y = Linear(19, 12)(x)
            counts.append(flops(lambda y=y: y.sum().backward()))
    assert counts[0] == counts[1] == 2 * 2 * 81 * 2 * 19 * 12


# ---- Weights that are rounded within the product ------------------------------------------------


@pytest.fixture
def lowering(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the weights that the product rounds from here on."""
    if onednn._LOWERED_LINEAR is None or not torch.ops.rsvheat._lowered_linear_available():
        pytest.skip("the CPU has no products of bfloat16, or nothing was built")
    monkeypatch.setattr(onednn, "PACKED_ROWS", 1025)
    monkeypatch.setattr(onednn, "fingerprint", lambda tensor: pytest.fail("the weight is checked"))
    seen: list[torch.Size] = []
    product = onednn._LOWERED_LINEAR

    def counted(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        seen.append(weight.shape)
        return product(x, weight, *rest)

    monkeypatch.setattr(onednn, "_LOWERED_LINEAR", counted)
    return seen


def rounded(layer: Linear, x: Tensor) -> Tensor:
    """Return the output of features and a weight that are rounded to bfloat16, in float64."""
    bias = None if layer.bias is None else layer.bias.double()
    return linear(x.bfloat16().double(), layer.weight.bfloat16().double(), bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("count", "activation"), [(1, "none"), (2, "none"), (1, "gelu")])
def test_weights_are_rounded_within_products_of_few_rows(
    lowering: list[torch.Size], count: int, activation: str, bias: bool
) -> None:
    layer = Linear(96, 64, bias=bias).eval()
    for shape in ((1, 96), (49, 96), (2, 7, 9, 96), (3, 96)):
        for dtype in (torch.float32, torch.bfloat16):
            x = random(shape, dtype)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                y = torch.cat(layer.slices(x, count, activation), -1)
                prepared = layer.prepared(x, activation)(x)
            want = rounded(layer, x)
            assert y.dtype == torch.bfloat16
            assert_accurate(y, exact(gelu(want) if activation == "gelu" else want))
            assert torch.equal(prepared, y)
    assert set(lowering) == {(64 // count, 96), (64, 96)}
    assert not is_packed(layer)


@pytest.mark.parametrize("change", INVISIBLE)
def test_invisible_writes_count_where_weights_are_rounded_within_the_product(
    change: Callable[[Layer], None], lowering: list[torch.Size]
) -> None:
    layer = Linear(64, 32).eval()
    x = random((5, 64))

    def call() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    before = call()
    change(layer)
    after = call()
    assert not torch.equal(after, before)
    assert_accurate(after, exact(rounded(layer, x)))
    assert len(lowering) == 2


def test_what_the_product_does_not_round_is_packed(
    lowering: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "fingerprint", fingerprint)
    mixed = Linear(64, 32)
    mixed.bias.data = mixed.bias.data.bfloat16()
    for layer, rows, count in (
        (Linear(48, 32), 5, 1),  # channels that are no multiples of 32
        (Linear(64, 32), 5, 2),
        (Linear(64, 32), 1025, 1),
        (mixed, 5, 1),
    ):
        layer.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            layer.slices(random((rows, layer.in_features)), count)
        assert is_packed(layer)
    layer = Linear(64, 32).eval()
    with torch.autocast("cpu", torch.bfloat16):
        layer(random((5, 64))).float().sum().backward()
    assert layer.weight.grad is not None
    assert lowering == []


def test_lowered_products_name_what_does_not_fit() -> None:
    if onednn._LOWERED_LINEAR is None or not torch.ops.rsvheat._lowered_linear_available():
        pytest.skip("the CPU has no products of bfloat16, or nothing was built")
    x, weight = random((3, 64), torch.bfloat16), random((32, 64))
    for arguments, message in (
        ((x.float(), weight, None), "x must be of dtype BFloat16"),
        ((x, weight.bfloat16(), None), "weight must be of dtype Float"),
        ((x, weight[:31], None), "both multiples of 32"),
        ((x[:, :32], weight, None), "weight must be"),
        ((x, weight[:0], None), "weight must be"),
        ((x, weight, weight), "bias must be"),
        ((x, weight, weight[0].bfloat16()), "bias must be of dtype Float"),
    ):
        with pytest.raises(RuntimeError, match=message):
            onednn._LOWERED_LINEAR(*arguments, False)
    strided = random((64, 32)).t()
    assert torch.equal(
        onednn._LOWERED_LINEAR(x, strided, None, False),
        onednn._LOWERED_LINEAR(x, strided.contiguous(), None, False),
    )
    assert onednn._LOWERED_LINEAR(x[:0], weight, None, True).shape == (0, 32)
    assert flops(lambda: onednn._LOWERED_LINEAR(x, weight, None, False)) == 2 * 3 * 64 * 32


# ---- Transforms, compilers ----------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_functorch(training: bool) -> None:
    layer = Linear(19, 12).train(training)
    x = random((4, 3, 19))
    run(layer, x)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(4):
        layer.zero_grad()
        layer(x[i]).square().sum().backward()
        torch.testing.assert_close(per_sample["weight"][i], layer.weight.grad)
        torch.testing.assert_close(per_sample["bias"][i], layer.bias.grad)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    # Within a transform that does not concern the layer, and with tensors that it does not wrap.
    scaled = torch.func.vmap(lambda s: layer(x[0]).sum() * s)(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(scaled[1], 2 * layer(x[0]).sum())
    tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, layer.weight.sum(1).expand(4, 3, 12))


@pytest.mark.parametrize("training", [True, False])
def test_forward_derivatives(training: bool) -> None:
    layer = Linear(19, 12).train(training).requires_grad_(False)
    x = random((3, 19))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for y in (layer(dual), layer.slices(dual, 1)[0]):
            tangent = forward_ad.unpack_dual(y).tangent
            torch.testing.assert_close(tangent, layer.weight.sum(1).expand(3, 12))
        assert forward_ad.unpack_dual(layer.of_gelu(dual)).tangent is not None


@pytest.mark.parametrize("kind", ["forward", "of_gelu"])
@pytest.mark.parametrize("create_graph", [True, False])
def test_tangents_of_cotangents(kind: str, create_graph: bool) -> None:
    """The gradients are linear in the cotangent, also where it gets its tangent after the call."""
    layer = Linear(19, 12)
    inputs = [random((3, 19)).requires_grad_(), *layer.parameters()]
    y = getattr(layer, kind)(inputs[0])
    cotangent = random(y.shape)
    expected = torch.autograd.grad(y, inputs, cotangent, retain_graph=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.zeros_like(cotangent), cotangent)
        found = torch.autograd.grad(y, inputs, dual, retain_graph=True, create_graph=create_graph)
        for grad, wanted in zip(found, expected, strict=True):
            assert create_graph or not grad.requires_grad
            tangent = forward_ad.unpack_dual(grad).tangent
            torch.testing.assert_close(tangent, wanted)
    by_transform = torch.func.jvp(
        lambda c: torch.autograd.grad(y, inputs, c, retain_graph=True), (cotangent,), (cotangent,)
    )[1]
    for tangent, wanted in zip(by_transform, expected, strict=True):
        torch.testing.assert_close(tangent, wanted)


def test_compiled_layers_follow_their_weights(layer: Layer) -> None:
    torch._dynamo.reset()
    x = features()
    run(layer, x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(run(compiled, x), plain(layer, x).float())
        with torch.no_grad():
            layer.weight.mul_(2)


def test_traces_hold_operators_of_torch_alone(layer: Layer) -> None:
    x = features()
    run(layer, x)
    program = torch.export.export(layer, (x,))
    assert not program.constants
    assert "mkldnn" not in str(program.graph)
    with pytest.warns() as caught:
        traced = torch.jit.trace(layer, (x,))
    assert all("deprecated" in str(warning.message) for warning in caught)
    assert "mkldnn" not in str(traced.inlined_graph)


# ---- The model ----------------------------------------------------------------------------------


def build(**kwargs: Any) -> RSVHeat:
    torch.manual_seed(0)
    model = RSVHeat((8, 16), (1, 2), 32, {"optical": 3}, 4, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture
def image() -> Tensor:
    return random((2, 3, 32, 48))


def layers_of(model: nn.Module) -> list[Layer]:
    return [m for m in model.modules() if isinstance(m, (Linear, Conv2dNHWC))]


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_model_in_evaluation_training_and_float64(norm_position: str, image: Tensor) -> None:
    model = build(norm_position=norm_position)
    expected = copy.deepcopy(model).double()(image.double()).float()
    packed = run(model, image)
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.train()(image), expected, rtol=1e-4, atol=1e-4)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(run(model, image), expected, rtol=1e-4, atol=1e-4)


def test_model_gradients(image: Tensor) -> None:
    model = build().train()
    exactly = copy.deepcopy(model).double()
    model(image).square().sum().backward()
    exactly(image.double()).square().sum().backward()
    for (name, actual), expected in zip(
        model.named_parameters(), exactly.parameters(), strict=True
    ):
        error = l2(exact(actual.grad) - exact(expected.grad))
        assert error <= 1e-4 * l2(exact(expected.grad)), name


def test_model_packs_and_drops(image: Tensor) -> None:
    model = build()
    run(model, image)
    packed = [layer for layer in layers_of(model) if is_packed(layer)]
    # All but depthwise convolutions.
    assert packed == [m for m in layers_of(model) if getattr(m, "groups", 1) == 1]
    assert set(model.state_dict()) == set(build().state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not any(map(is_packed, layers_of(copied)))
        assert torch.equal(run(copied, image), run(model, image))
    model.train()
    assert not any(map(is_packed, layers_of(model)))


def test_model_under_functional_call(image: Tensor) -> None:
    model = build()
    before = run(model, image)
    with torch.no_grad():
        for scale in (0.5, 0.7, 0.9, 1.1):
            other = {name: value.detach() * scale for name, value in model.named_parameters()}
            changed = torch.func.functional_call(model, other, (image,))
            own = copy.deepcopy(model)
            own.load_state_dict(other)
            torch.testing.assert_close(changed, own(image))
            del other
    assert torch.equal(run(model, image), before)


def test_model_flops(image: Tensor) -> None:
    model = build()
    counts = {flops(lambda: run(model, image)), flops(lambda: model(image))}
    counts.add(flops(lambda: model.train()(image)))
    with torch.backends.mkldnn.flags(enabled=False):
        counts.add(flops(lambda: run(model.eval(), image)))
    assert len(counts) == 1


# ---- Modules that users watch or replace --------------------------------------------------------


def block_and_input(norm_position: str = "post", size: int = 6) -> tuple[HeatBlock, list[Any]]:
    model = build(norm_position=norm_position)
    stage = model.stages[1]
    correction = stage.spatial_correction_embed
    correction = torch.nn.functional.interpolate(correction.permute(2, 0, 1)[None], (size, size))[
        0
    ].permute(1, 2, 0)
    return stage.blocks[0], [
        random((2, size, size, 16)), stage.freq_embed, correction.detach().contiguous()
    ]  # fmt: skip


def plain_block(
    block: HeatBlock, x: Tensor, freq_embed: nn.Module, correction: Tensor | None
) -> Tensor:
    """Return the block's output with each of its modules called for itself, in float64."""
    block, freq_embed = copy.deepcopy(block).double(), copy.deepcopy(freq_embed).double()
    x, op = x.double(), block.op

    def operator(y: Tensor) -> Tensor:
        if op.correction_norm is not None and correction is not None:
            y = op.correction_norm(relu(y + correction.double()))
        y, gate = op.linear(op.dwconv(y)).chunk(2, dim=-1)
        y = heat_conduction(y, op.diffusivity(freq_embed, y.shape[1], y.shape[2]))
        return op.out_linear(op.out_norm(y) * op.act(gate))

    if type(block.mlp) is Mlp:
        fc1, act, fc2 = block.mlp.fc1, block.mlp.act, block.mlp.fc2
        block.mlp.forward = lambda y: fc2(act(fc1(y)))
    gamma1 = 1 if block.gamma1 is None else block.gamma1
    gamma2 = 1 if block.gamma2 is None else block.gamma2
    if block.norm_position == "pre":
        x = x + gamma1 * operator(block.norm1(x))
        return x + gamma2 * block.mlp(block.norm2(x))
    x = x + gamma1 * block.norm1(operator(x))
    return x + gamma2 * block.norm2(block.mlp(x))


PARTS = {
    "norm1": layers.LayerNorm,
    "norm2": layers.LayerNorm,
    "mlp": Mlp,
    "mlp.fc1": Linear,
    "mlp.act": nn.GELU,
    "mlp.fc2": Linear,
    "op.correction_norm": layers.LayerNorm,
    "op.dwconv": Conv2dNHWC,
    "op.linear": Linear,
    "op.out_norm": layers.LayerNorm,
    "op.act": nn.SiLU,
    "op.out_linear": Linear,
}
positions = pytest.mark.parametrize("norm_position", ["post", "pre"])
parts = pytest.mark.parametrize("part", PARTS)
gradients = pytest.mark.parametrize("with_grad", [False, True])


def assert_block(block: HeatBlock, inputs: list[Any], with_grad: bool) -> Tensor:
    with torch.set_grad_enabled(with_grad):
        y = block(*inputs)
    torch.testing.assert_close(y, plain_block(block, *inputs).float(), rtol=1e-4, atol=1e-4)
    return y.detach()


@gradients
@positions
@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_block(layer_scale: float | None, norm_position: str, with_grad: bool) -> None:
    block, inputs = block_and_input(norm_position)
    if layer_scale is None:
        block.gamma1 = block.gamma2 = None
    assert_block(block, inputs, with_grad)
    # Without an embedding there is no norm either.
    assert_block(block, [*inputs[:2], None], with_grad)


@gradients
@positions
@parts
def test_forward_hooks_see_and_change(part: str, norm_position: str, with_grad: bool) -> None:
    block, inputs = block_and_input(norm_position)
    before = assert_block(block, inputs, with_grad)
    module = block.get_submodule(part)
    assert type(module) is PARTS[part]
    seen: list[tuple[torch.Size, torch.Size]] = []

    def watch(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        seen.append((args[0].shape, y.shape))

    handle = module.register_forward_hook(watch)
    torch.testing.assert_close(assert_block(block, inputs, with_grad), before)
    assert seen[0][0][:3] == seen[0][1][:3] == (2, 6, 6)  # all pixels at once
    assert len(seen) == 2  # the block's, and its copy's in assert_block
    handle.remove()

    handle = module.register_forward_hook(lambda module, args, y: 2 * y + 1)
    assert not torch.allclose(assert_block(block, inputs, with_grad), before)
    handle.remove()
    handle = module.register_forward_pre_hook(lambda module, args: (args[0].square(),))
    assert not torch.allclose(assert_block(block, inputs, with_grad), before)
    handle.remove()
    torch.testing.assert_close(assert_block(block, inputs, with_grad), before)


@parts
def test_backward_hooks_are_called(part: str) -> None:
    block, inputs = block_and_input()
    inputs[0].requires_grad_()
    calls: list[str] = []
    module = block.get_submodule(part)
    module.register_full_backward_hook(lambda *_: calls.append("after"))
    module.register_full_backward_pre_hook(lambda *_: calls.append("before"))
    block(*inputs).sum().backward()
    assert calls == ["before", "after"]


class Adapter(nn.Module):
    """As of LoRA: what it wraps, and a learned addition."""

    def __init__(self, base: nn.Module, features_in: int, features_out: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(features_in, 2, bias=False)
        self.up = nn.Linear(2, features_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@gradients
@positions
@pytest.mark.parametrize("part", [part for part, kind in PARTS.items() if kind is Linear])
def test_adapters(part: str, norm_position: str, with_grad: bool) -> None:
    block, inputs = block_and_input(norm_position)
    before = assert_block(block, inputs, with_grad)
    base = block.get_submodule(part)
    block.set_submodule(part, Adapter(base, base.in_features, base.out_features))
    assert not torch.allclose(assert_block(block, inputs, with_grad), before)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(with_grad):
        block(*inputs)


@gradients
@positions
@pytest.mark.parametrize(
    ("part", "build_module"),
    [
        ("mlp.act", nn.Identity),
        ("mlp.act", lambda: nn.GELU("tanh")),
        ("mlp.act", nn.ReLU),
        ("mlp", nn.Identity),
        ("mlp.fc1", lambda: nn.Linear(16, 64)),
        ("mlp.fc2", lambda: nn.Linear(64, 16)),
        ("op.act", nn.Identity),
        ("op.act", nn.Sigmoid),
        ("op.linear", lambda: nn.Linear(16, 32)),
        ("op.out_norm", nn.Identity),
        ("op.out_norm", lambda: nn.LayerNorm(16, elementwise_affine=False)),
        ("op.out_norm", lambda: nn.LayerNorm(16, bias=False)),
        ("op.correction_norm", nn.Identity),
        ("op.correction_norm", lambda: nn.LayerNorm(16, elementwise_affine=False)),
        ("op.dwconv", lambda: Conv2dNHWC(16, 16, 3, padding=1, groups=16, bias=False)),
        ("op.dwconv", nn.Identity),
        ("norm1", nn.Identity),
        ("norm1", lambda: nn.LayerNorm(16, bias=False)),
        ("norm2", lambda: nn.LayerNorm(16, elementwise_affine=False)),
        ("norm2", lambda: nn.RMSNorm(16)),
        ("norm2", lambda: nn.LayerNorm(16, eps=0.1)),
    ],
)
def test_replaced_modules_are_called(
    part: str, build_module: Callable[[], nn.Module], norm_position: str, with_grad: bool
) -> None:
    block, inputs = block_and_input(norm_position)
    before = assert_block(block, inputs, with_grad)
    block.set_submodule(part, build_module())
    assert not torch.equal(assert_block(block, inputs, with_grad), before)


@gradients
@parts
def test_patched_forward_methods_are_called(part: str, with_grad: bool) -> None:
    # As libraries do that move weights in and out.
    block, inputs = block_and_input()
    module, calls = block.get_submodule(part), []
    original = module.forward
    module.forward = lambda x: calls.append(part) or original(x)
    with torch.set_grad_enabled(with_grad):
        block(*inputs)
    assert calls == [part]


def test_linear_layers_in_float32_within_autocast() -> None:
    class Exactly(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.base(x.float())

    block, inputs = block_and_input()
    expected = run_block(block, inputs)
    for part, kind in PARTS.items():
        if kind is Linear:
            block.set_submodule(part, Exactly(block.get_submodule(part)))
    with torch.autocast("cpu", torch.bfloat16):
        actual = run_block(block, inputs)
    assert l2(exact(actual) - exact(expected)) < 0.05 * l2(exact(expected))


@torch.no_grad()
def run_block(block: HeatBlock, inputs: list[Any]) -> Tensor:
    return block(*inputs)


# ---- The MLP by parts ---------------------------------------------------------------------------


@contextmanager
def hidden_bytes(count: int) -> Iterator[None]:
    before = layers.HIDDEN_BYTES
    layers.HIDDEN_BYTES = {"cpu": count}
    try:
        yield
    finally:
        layers.HIDDEN_BYTES = before


@positions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_parts_give_what_the_whole_does(norm_position: str, dtype: torch.dtype) -> None:
    block, inputs = block_and_input(norm_position, size=23)
    block.to(dtype)
    inputs = [inputs[0].to(dtype), copy.deepcopy(inputs[1]).to(dtype), inputs[2].to(dtype)]
    before = inputs[0].clone()
    whole = run_block(block, inputs)
    for rows in (1, 100, 400):  # of 1058 pixels
        pixel = block.mlp.fc1.out_features * inputs[0].element_size()
        with hidden_bytes(rows * pixel), Recorder() as recorder:
            y = run_block(block, inputs)
        assert sum("gelu" in name or "linear" in name for name in recorder.names) >= 1058 // rows
        torch.testing.assert_close(y, whole)
        assert torch.equal(inputs[0], before)
        with torch.inference_mode(), hidden_bytes(2**12):
            torch.testing.assert_close(block(*inputs), whole)


@positions
def test_parts_take_less_memory(norm_position: str) -> None:
    block, inputs = block_and_input(norm_position, size=32)
    largest = []
    for count in (2**14, 2**30):
        with hidden_bytes(count), Recorder() as recorder:
            run_block(block, inputs)
        largest.append(recorder.largest)
    pixels = 2 * 32 * 32
    assert largest[1] == pixels * 64  # the hidden features
    assert largest[0] <= pixels * 32  # no more than the operator takes


def test_gradients_and_watched_modules_get_the_whole() -> None:
    block, inputs = block_and_input(size=16)
    with hidden_bytes(2**10):
        assert block(*inputs).requires_grad
        shapes: list[torch.Size] = []
        handle = block.mlp.register_forward_hook(lambda m, args, y: shapes.append(y.shape))
        run_block(block, inputs)
        assert shapes == [(2, 16, 16, 16)]
        handle.remove()
        block.mlp.fc1.register_forward_hook(lambda m, args, y: shapes.append(y.shape))
        run_block(block, inputs)
        assert shapes[1:] == [(2, 16, 16, 64)]


def test_stochastic_depth_without_gradients() -> None:
    model = build(drop_path=0.5).train()
    with hidden_bytes(2**8):
        y = run(model, random((8, 3, 32, 32))[:1].expand(8, -1, -1, -1))
    assert len({tuple(row.tolist()) for row in y}) > 1
