# SPDX-License-Identifier: Apache-2.0
"""Filters kept in evaluation mode: computed once, bounded, and never stale."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rsvheat.models import RSVHeat, layers
from rsvheat.models._filter_cache import FilterCache


def build() -> RSVHeat:
    torch.manual_seed(0)
    model = RSVHeat((8, 16), (1, 2), 32, {"optical": 3}, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


@pytest.fixture
def model() -> RSVHeat:
    return build()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 32, 48)


def fresh(model: RSVHeat, image: Tensor) -> Tensor:
    """Return the logits without the cache's help."""
    unaided = copy.deepcopy(model)
    unaided.filter_cache.max_bytes = 0
    return run(unaided, image)


@torch.no_grad()
def run(model: RSVHeat, image: Tensor) -> Tensor:
    return model(image)


def test_filters_are_computed_once_per_size(
    model: RSVHeat, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = layers.heat_filter
    monkeypatch.setattr(layers, "heat_filter", lambda *a: calls.append(a[1:]) or original(*a))
    for _ in range(3):
        run(model, image)
    assert calls == [(8, 12), (4, 6), (4, 6)]
    run(model, image.transpose(2, 3))
    assert len(calls) == 6
    run(model, image)
    assert len(calls) == 6


def _optimizer_step(model: RSVHeat) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(1, 3, 32, 48)).square().sum().backward()
    optimizer.step()


def _fused_optimizer_step(model: RSVHeat) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.randn(1, 3, 32, 48)).square().sum().backward()
    optimizer.step()


def _load_state_dict(model: RSVHeat) -> None:
    state = {name: value * 0.5 + 0.1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)


def _assign_state_dict(model: RSVHeat) -> None:
    state = {name: value * 0.5 + 0.1 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def _in_place(model: RSVHeat) -> None:
    with torch.no_grad():
        model.stages[0].freq_embed.table.add_(0.5)


def _in_place_in_inference_mode(model: RSVHeat) -> None:
    with torch.inference_mode():
        model.stages[1].blocks[1].op.to_k.weight.mul_(0.5)


def _averaged_in_place(model: RSVHeat) -> None:
    for value in model.state_dict().values():
        value.lerp_(torch.ones_like(value), 0.3)


def _replace_parameter(model: RSVHeat) -> None:
    op = model.stages[0].blocks[0].op
    op.to_k.bias = nn.Parameter(op.to_k.bias.detach() + 1)


def _replace_data(model: RSVHeat) -> None:
    table = model.stages[0].freq_embed.table
    table.data = table.detach() + 1


def _round_trip_in_half(model: RSVHeat) -> None:
    model.half().float()


def _write_while_training(model: RSVHeat) -> None:
    model.train()
    model.stages[0].freq_embed.table.data.add_(1)  # not seen by autograd's version counter
    model.eval()


def _other_resizing(model: RSVHeat) -> None:
    for stage in model.stages:
        stage.freq_embed.resize = "pad"


@pytest.mark.parametrize(
    "change",
    [
        _optimizer_step,
        _fused_optimizer_step,
        _load_state_dict,
        _assign_state_dict,
        _in_place,
        _in_place_in_inference_mode,
        _averaged_in_place,
        _replace_parameter,
        _replace_data,
        _round_trip_in_half,
        _write_while_training,
        _other_resizing,
    ],
)
def test_no_change_of_weights_leaves_a_stale_result(
    change: Callable[[RSVHeat], None], model: RSVHeat, image: Tensor
) -> None:
    before = run(model, image)
    assert torch.equal(run(model, image), before)
    change(model)
    after = run(model, image)
    assert torch.equal(after, fresh(model, image))
    assert not torch.equal(after, before)


def test_functional_call_sees_its_own_parameters(model: RSVHeat, image: Tensor) -> None:
    before = run(model, image)
    other = {name: value.detach() * 0.5 for name, value in model.named_parameters()}
    with torch.no_grad():
        swapped = torch.func.functional_call(model, other, (image,))
    assert not torch.equal(swapped, before)
    assert torch.equal(run(model, image), before)


def test_filters_made_in_inference_mode_serve_training_of_other_parts(
    model: RSVHeat, image: Tensor
) -> None:
    with torch.inference_mode():
        model(image)
    # Frozen embeddings: the cache serves, and gradients flow through its filters to the stem.
    for stage in model.stages:
        stage.freq_embed.requires_grad_(False)
        for block in stage.blocks:
            block.op.to_k.requires_grad_(False)
    model(image).sum().backward()
    assert model.stems.optical.conv1.weight.grad.any()


def test_models_made_in_inference_mode_work_without_the_cache(image: Tensor) -> None:
    with torch.inference_mode():
        model = build()
        before = model(image)
        model.stages[0].freq_embed.table.add_(1)
        assert not torch.equal(model(image), before)
    assert len(model.filter_cache) == 0


def test_training_drops_the_filters(model: RSVHeat, image: Tensor) -> None:
    run(model, image)
    assert len(model.filter_cache) == 3
    model.train()
    assert len(model.filter_cache) == 0
    run(model, image)
    assert len(model.filter_cache) == 0


def test_moving_a_model_drops_the_filters(model: RSVHeat, image: Tensor) -> None:
    run(model, image)
    model.to(torch.float32)  # to(), half(), cuda(): all go the same way
    assert len(model.filter_cache) == 0


def test_fake_and_copied_models_leave_the_cache_alone(model: RSVHeat, image: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        run(model, torch.empty(1, 3, 32, 48))
    assert len(model.filter_cache) == 0
    expected = run(model, image)
    assert torch.equal(expected, fresh(model, image))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert len(copied.filter_cache) == 0
        blocks = [block for stage in copied.stages for block in stage.blocks]
        assert all(block.op.conduction.cache is copied.filter_cache for block in blocks)
        assert torch.equal(run(copied, image), expected)


def test_memory_is_bounded_and_old_sizes_make_room(model: RSVHeat) -> None:
    run(model, torch.randn(1, 3, 64, 64))
    one_size = model.filter_cache.nbytes
    model.filter_cache.max_bytes = 2 * one_size
    for height in range(32, 65, 4):
        image = torch.randn(1, 3, height, 64)
        assert torch.equal(run(model, image), fresh(model, image))
        assert model.filter_cache.nbytes <= 2 * one_size
    run(model, image)
    run(model, image)
    assert len(model.filter_cache) >= 3


def test_filters_too_large_for_the_bound_are_not_kept(model: RSVHeat, image: Tensor) -> None:
    model.filter_cache.max_bytes = 8 * 12 * 8 * 4  # the first block's and no more
    for _ in range(4):
        assert torch.equal(run(model, image), fresh(model, image))
        assert len(model.filter_cache) == 1
    assert model.filter_cache.nbytes <= model.filter_cache.max_bytes


def test_entry_of_the_running_pass_is_never_evicted() -> None:
    cache = FilterCache(max_bytes=32)
    weight, value = torch.zeros(1), torch.zeros(4)
    for step in range(4):
        cache.next_pass()
        cache.put(("a", step), [weight], value)
        cache.put(("b", step), [weight], value)
        assert len(cache) <= 2
        assert cache.nbytes <= 32
    assert cache.get(("a", 0), [weight]) is None
    weight.add_(1)
    assert not any(cache.get((name, n), [weight]) is not None for name in "ab" for n in range(4))
