# SPDX-License-Identifier: Apache-2.0
"""Counted memory: benchmarks/memory.py."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rsvheat import _library
from rsvheat.models import RSVHeat

pytestmark = [
    pytest.mark.source_tree,
    pytest.mark.skipif(not _library.native_available(), reason="the native library is not loaded"),
]


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import memory

    return memory


def test_a_network_whose_memory_is_known(memory):
    # Every tensor is a multiple of 512 bytes: 64 rows of 32 features are 8 KiB.
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.ReLU(), nn.Linear(32, 32, bias=False))
    kib, x = 1024, torch.randn(64, 32)
    kept, counter = memory.count(model, x, "float32", "inference")
    # Both outputs of two layers are alive at once; the squares and their mean after the last one.
    assert counter.peak == 2 * 8 * kib
    kept, counter = memory.count(model, x, "float32", "training")
    # Kept: the ReLU's output, the output for its square, the mean.
    assert kept == 2 * 8 * kib + 512
    assert counter.weight_gradients == 2 * 4 * kib


def small_encoder() -> RSVHeat:
    torch.manual_seed(0)
    return RSVHeat((8, 16), (1, 2), 32, num_classes=3).train()


@pytest.mark.parametrize("mode", ["training", "checkpointed"])
def test_gradients_are_those_of_the_engine(memory, mode):
    gradients: list[Tensor] = []

    class Counter(memory.LiveBytes):
        def set_apart(self, gradient: Tensor) -> None:
            gradients.append(gradient)
            super().set_apart(gradient)

    model, x = small_encoder(), torch.randn(2, 3, 32, 32)
    model.set_grad_checkpointing(mode == "checkpointed")
    loss = model(x).square().mean()
    node, root = loss.grad_fn, torch.ones_like(loss)
    del loss
    pending = [(node, root)]
    del node, root
    memory.backward(pending, Counter())
    model(x).square().mean().backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(expected) > 20
    norms = [sorted(float(g.double().norm()) for g in each) for each in (gradients, expected)]
    torch.testing.assert_close(*map(torch.tensor, norms), rtol=1e-5, atol=1e-9)


def test_the_count_is_that_of_the_profiler(memory):
    from rsvheat.benchmarking import peak_bytes

    # Gradients of weights grow as what was saved goes: as large, so that neither hides the other.
    model = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(8)))
    x = torch.randn(256, 256)
    _, counter = memory.count(model, x, "float32", "training")
    model(x).square().mean().backward()
    model.zero_grad()
    profiled = peak_bytes(lambda: model(x).float().square().mean().backward(), "cpu")
    assert counter.peak == pytest.approx(profiled, rel=0.05)


def test_checkpointed_blocks_keep_less(memory):
    model, x = small_encoder(), torch.randn(2, 3, 32, 32)
    kept, plain = memory.count(model, x, "float32", "training")
    model.set_grad_checkpointing()
    kept_less, checkpointed = memory.count(model, x, "float32", "checkpointed")
    assert kept_less < kept / 2
    assert checkpointed.peak < plain.peak


@pytest.mark.skipif(not _library.cuda_available(), reason="the CUDA operators are not loaded")
def test_a_pass_takes_the_operators_that_run_on_cuda(memory):
    model = small_encoder()
    with memory.pretended_gpu():
        memory.without_data(model, "cuda")
        x = torch.empty(2, 3, 32, 32, device="cuda")
        _, counter = memory.count(model, x, "bfloat16", "training")
    for name in (
        "heat_conduction",
        "spatial_correction_conv",
        "gated_layer_norm",
        "add_layer_norm",
    ):
        calls = 2 * 3 if name == "add_layer_norm" else 3
        assert counter.operators[f"_{name}_backward"] == calls
        # The gated norm is computed again in the backward pass.
        assert counter.operators[name] == (2 * calls if name == "gated_layer_norm" else calls)


@pytest.mark.skipif(not _library.cuda_available(), reason="the CUDA operators are not loaded")
def test_a_block_moves_at_most_80_bytes_an_element(memory):
    # The batch shares what depends on positions alone: the embedding, k.
    moved = memory.traffic(224, 8, "bfloat16")
    # x, gate and y; twice residual, branch and y: all in 16 bits.
    assert moved["rsvheat::gated_layer_norm"] == pytest.approx(6, rel=1e-2)
    assert moved["rsvheat::add_layer_norm"] == pytest.approx(12, rel=1e-2)
    assert sum(moved.values()) < 80
