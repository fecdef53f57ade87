# SPDX-License-Identifier: Apache-2.0
"""torch.jit.trace, TensorBoard's graphs and a user's own torch.onnx.export."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from utils import random

from rsvheat import ops
from rsvheat.models import RSVHeat

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated", "ignore:.*legacy TorchScript-based ONNX export"
)

H, W, C = 6, 5, 4
WEIGHT, BIAS = torch.linspace(0.5, 1, C), torch.linspace(-1, 1, C)
KERNELS, EMBED = torch.linspace(-1, 1, 9 * C).view(C, 1, 3, 3), torch.linspace(-1, 1, H * W * C)


def per_channel(x: Tensor) -> Tensor:
    return ops.apply_heat_filter(x, ops.heat_filter(BIAS.square().to(x), x.shape[1], x.shape[2]))


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "dct2d": ops.dct2d,
    "idct2d": lambda x: ops.idct2d(x, "nhwc"),
    "number k": lambda x: ops.heat_conduction(x, 0.5),
    "k": lambda x: ops.heat_conduction(x, x[0].square()),
    "filter": per_channel,
    "filter of a number": lambda x: ops.apply_heat_filter(
        x, ops.heat_filter(0.5, x.shape[1], x.shape[2]).to(x)
    ),
    "split": lambda x: ops.frequency_split(x, 0.5, (10, 60)),
    "split by sample": lambda x: ops.frequency_split(x, x.detach().abs().amax((1, 2, 3)) / 9),
    "spectral loss": lambda x: ops.spectral_l1_loss(x, x.flip(1)),
    "losses": lambda x: tuple(ops.multi_domain_loss(x, x.flip(1), x, x.flip(2))),
    "gated norm": lambda x: ops.gated_layer_norm(x, x.flip(1), WEIGHT.to(x), BIAS.to(x)),
    "added norm": lambda x: ops.add_layer_norm(x, x.flip(1), WEIGHT.to(x), BIAS.to(x)),
    "correction": lambda x: ops.spatial_correction_conv(
        x, EMBED.view(H, W, C).to(x), WEIGHT.to(x), BIAS.to(x), KERNELS.to(x), BIAS.to(x)
    ),
}


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("name", FUNCTIONS)
class TestOperators:
    def test_traces_compute_the_same(self, name: str, device: torch.device) -> None:
        function = FUNCTIONS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            # Traces once more for a check, and compares.
            traced = torch.jit.trace(function, random((2, H, W, C), device=device))
        for batch in (2, 2, 5):
            x = random((batch, H, W, C), device=device)
            assert_close(traced(x), function(x))

    def test_other_sizes_are_right_or_refused(self, name: str, device: torch.device) -> None:
        traced = torch.jit.trace(FUNCTIONS[name], random((2, H, W, C), device=device))
        x = random((2, H + 2, W, C), device=device)
        with contextlib.suppress(RuntimeError):
            assert_close(traced(x), FUNCTIONS[name](x))

    def test_traces_have_gradients(self, name: str, device: torch.device) -> None:
        function = FUNCTIONS[name]
        traced = torch.jit.trace(function, random((2, H, W, C), device=device))
        x = random((2, H, W, C), device=device).requires_grad_()
        grads = []
        for f in (traced, function):
            y = f(x)
            total = sum(t.sin().sum() for t in (y if isinstance(y, tuple) else (y,)))
            grads += torch.autograd.grad(total, x)
        assert_close(*grads)


def test_traces_hold_the_native_ops_or_none(native: torch.device) -> None:
    x = random((2, H, W, C), device=native)

    def kinds() -> set[str]:
        graph = torch.jit.trace(FUNCTIONS["number k"], x).inlined_graph
        return {node.kind() for node in graph.nodes()}

    assert "rsvheat::heat_conduction" in kinds()
    with ops.use_reference():
        assert not any(kind.startswith("rsvheat::") for kind in kinds())


def test_sizes_are_ints_outside_of_traces() -> None:
    with pytest.raises(TypeError, match="height must be an int, got Tensor"):
        ops.heat_filter(0.5, torch.tensor(4), 5)
    for size in (torch.tensor(4.0), torch.tensor([4])):
        with pytest.raises(TypeError, match="width must be an int, got Tensor"):
            torch.jit.trace(lambda x, s=size: x * ops.heat_filter(0.5, 4, s), torch.ones(1))


def test_values_are_checked_while_tracing() -> None:
    with pytest.raises(ValueError, match="k must be >= 0"):
        torch.jit.trace(lambda k: ops.heat_filter(k, 4, 5), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="x must have a height of 1 to 4096, got 4097"):
        torch.jit.trace(ops.dct2d, torch.ones(1, 1, 4097, 1))


# ---- Encoders -----------------------------------------------------------------------------------


def encoder(**options: Any) -> RSVHeat:
    sizes = {"dims": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "img_size": 32, "num_classes": 3}
    return RSVHeat(**sizes, modalities={"optical": 3}, **options)


@pytest.mark.usefixtures("implementation", "one_thread")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
@pytest.mark.parametrize("training", [False, True])
def test_traced_encoder(training: bool, freq_embed: str) -> None:
    model = encoder(freq_embed=freq_embed).train(training)
    images = random((2, 3, 32, 32))
    with torch.no_grad():
        model(images)  # keeps filters in evaluation, which are not for the trace
    traced = torch.jit.trace(model, images)
    for batch in (2, 5):
        images = random((batch, 3, 32, 32))
        assert_close(traced(images), model(images))
    with pytest.raises(RuntimeError):
        traced(random((2, 3, 64, 64)))
    # The weights are those of the traced module, not constants.
    with torch.no_grad():
        for parameter in traced.parameters():
            parameter.mul_(1.1)
    assert_close(traced(images), model(images))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_encoder_takes_large_batches(one_thread: None) -> None:
    # Evaluation computes the MLP of a large batch in parts, whose number a trace would fix.
    model = encoder().eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, random((1, 3, 32, 32)))
        images = random((96, 3, 32, 32))
        assert_close(traced(images), model(images))
        traced = torch.jit.trace(model, images)
        assert_close(traced(images[:7]), model(images[:7]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("implementation")
def test_graph_for_tensorboard(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(encoder(), random((1, 3, 32, 32)))
    (file,) = tmp_path.iterdir()
    assert b"heat" in file.read_bytes().lower()


class Operators(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ops.heat_conduction(per_channel(x), 0.5) + ops.dct2d(x, "nhwc")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("what", "dynamo", "reference"),
    [
        ("operators", False, False),
        ("operators", False, True),
        ("operators", True, True),
        ("encoder", False, False),
        ("encoder", False, True),
        ("encoder", True, False),
    ],
)
def test_onnx_export(what: str, dynamo: bool, reference: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = Operators(), random((2, H, W, C))
    if what == "encoder":
        model, x = encoder().eval(), random((2, 3, 32, 32))
    path = tmp_path / "model.onnx"
    with ops.use_reference() if reference else contextlib.nullcontext():
        torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(y), model(x))
