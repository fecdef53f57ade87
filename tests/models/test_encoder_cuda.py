# SPDX-License-Identifier: Apache-2.0
"""The encoder on a GPU: the same results as on the CPU, in every way of running it."""

import copy

import pytest
import torch
from torch import Tensor

from rsvheat.models import RSVHeat

pytestmark = pytest.mark.cuda


def encoder(norm_position: str = "post", **arguments: object) -> RSVHeat:
    torch.manual_seed(0)
    # Sides that are whole at no stage but the first, tables of another size.
    model = RSVHeat(
        (32, 64), (1, 2), 48, num_classes=5, norm_position=norm_position, layer_scale=0.5,
        **arguments,
    )  # fmt: skip
    return model.eval()


def images(device: torch.device, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 52, 60, generator=torch.Generator().manual_seed(1)).to(device)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double().cpu() - expected.double().cpu()).norm() / expected.norm().cpu())


def gradients(model: RSVHeat, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).float().square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_results_and_gradients_are_those_of_the_cpu(norm_position, freq_embed, gpu):
    model = encoder(norm_position, freq_embed=freq_embed)
    on_gpu = copy.deepcopy(model).to(gpu)
    x = images(torch.device("cpu"))
    with torch.no_grad():
        assert relative_error(on_gpu(x.to(gpu)), model(x)) < 1e-5
    expected = gradients(model, x)
    actual = gradients(on_gpu, x.to(gpu))
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        assert relative_error(actual[name], want) < 1e-3, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_near_float32(dtype, gpu):
    model, x = encoder().to(gpu), images(gpu)
    with torch.no_grad():
        expected = model.forward_features(x)
        with torch.autocast("cuda", dtype):
            actual = model.forward_features(x)
    assert actual.dtype == dtype
    assert relative_error(actual, expected) < 4e-2
    plain = gradients(model, x)
    with torch.autocast("cuda", dtype):
        loss = model(x).float().square().sum()
    model.zero_grad()
    loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None and ".blocks." in name:
            assert p.grad.dtype == p.dtype
            assert relative_error(p.grad, plain[name]) < 0.3, name


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_changes_no_gradient(autocast, gpu):
    model, x = encoder().to(gpu).train(), images(gpu)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        expected = gradients(model, x)
        model.set_grad_checkpointing()
        actual = gradients(model, x)
    for name, want in expected.items():
        torch.testing.assert_close(actual[name], want, rtol=1e-4, atol=1e-5)


def test_many_images_at_once_are_those_one_by_one(gpu, monkeypatch):
    from rsvheat.models import layers

    model, x = encoder().to(gpu), images(gpu, 5)
    with torch.no_grad():
        expected = model(x)
        monkeypatch.setattr(layers, "STEM_BYTES", 1)
        monkeypatch.setattr(layers, "HIDDEN_BYTES", {"cuda": 4096})
        assert relative_error(model(x), expected) < 1e-5


@pytest.mark.parametrize("autocast", [False, True])
def test_a_captured_graph_gives_what_a_call_gives_and_sees_new_weights(autocast, gpu):
    model, x = encoder().to(gpu), images(gpu)

    def call() -> Tensor:
        with (
            torch.no_grad(),
            torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False),
        ):
            return model(x)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call()
    for factor in (1.0, 2.0):
        with torch.no_grad():
            model.stages[0].freq_embed.table.mul_(factor)
            x.mul_(factor)
        graph.replay()
        assert relative_error(y, call()) < 1e-5
    assert len(model.filter_cache) == 0  # a graph could not see that a kept filter is stale


def test_calls_of_several_streams_keep_apart(gpu):
    model, x = encoder().to(gpu), images(gpu)
    with torch.no_grad():
        expected = model(x)
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(3)]
        results = []
        for stream in streams * 3:
            with torch.cuda.stream(stream):
                results.append(model(x))
        torch.cuda.synchronize()
    for y in results:
        assert relative_error(y, expected) < 1e-5
