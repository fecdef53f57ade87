# SPDX-License-Identifier: Apache-2.0
"""Filters kept in evaluation mode: computed once, bounded, and never stale."""

import copy
import pickle
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrize
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rsvheat.models import RSVHeat, layers
from rsvheat.models._filter_cache import FilterCache


def build(**options: Any) -> RSVHeat:
    torch.manual_seed(0)
    model = RSVHeat((8, 16), (1, 2), 32, {"optical": 3}, 4, **options)
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


# What autograd's version counter does not see. The first two as mmdetection's MeanTeacherHook and
# timm's ModelEma write.


def _moving_average(model: RSVHeat) -> None:
    student = copy.deepcopy(model)
    for parameter in student.parameters():
        parameter.data.add_(0.1)
    for mine, other in zip(model.parameters(), student.parameters(), strict=True):
        mine.data.mul_(0.9).add_(other.data, alpha=0.1)


def _copied_average(model: RSVHeat) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(0.9 * parameter.data + 0.01)


def _written_by_numpy(model: RSVHeat) -> None:
    model.stages[0].freq_embed.table.detach().numpy()[...] *= 0.5


def _one_element_by_numpy(model: RSVHeat) -> None:
    model.stages[1].blocks[1].op.to_k.weight.detach().numpy()[3, 5] += 2.0


def _bias_by_data(model: RSVHeat) -> None:
    model.stages[1].blocks[0].op.to_k.bias.data[0] += 1


def _rows_swapped_by_data(model: RSVHeat) -> None:
    data = model.stages[0].blocks[0].op.to_k.weight.data
    data.copy_(data.flip(0))


def _signs_by_data(model: RSVHeat) -> None:
    model.stages[0].freq_embed.table.data.neg_()


def _through_the_storage(model: RSVHeat) -> None:
    storage = model.stages[0].freq_embed.table.untyped_storage()
    storage.copy_(torch.randn(storage.nbytes() // 4).untyped_storage())


def _through_dlpack(model: RSVHeat) -> None:
    table = model.stages[0].freq_embed.table.detach()
    np.from_dlpack(table)  # shares the memory
    torch.from_dlpack(table).data.mul_(0.25)


INVISIBLE = [
    _moving_average,
    _copied_average,
    _written_by_numpy,
    _one_element_by_numpy,
    _bias_by_data,
    _rows_swapped_by_data,
    _signs_by_data,
    _through_the_storage,
    _through_dlpack,
]


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
        *INVISIBLE,
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


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "gradients of frozen weights": nullcontext,
}


@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [_moving_average, _copied_average])
def test_moving_averages_count_in_every_mode(
    change: Callable[[RSVHeat], None], mode: str, freq_embed: str, image: Tensor
) -> None:
    model = build(freq_embed=freq_embed).requires_grad_(False)

    def call(model: RSVHeat) -> Tensor:
        with MODES[mode]():
            return model(image)

    before = call(model)
    assert len(model.filter_cache) == 3
    assert torch.equal(call(model), before)
    for _ in range(3):
        change(model)
        after = call(model)
        assert torch.equal(after, call(copy.deepcopy(model)))
        assert not torch.equal(after, before)
        before = after


def test_weights_are_read_once_in_a_pass(
    model: RSVHeat, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that the blocks of a stage share; blocks that are called alone read them, too."""
    run(model, image)
    read: list[int] = []
    original = layers.fingerprint
    monkeypatch.setattr(layers, "fingerprint", lambda t: read.append(id(t)) or original(t))
    for _ in range(2):
        read.clear()
        run(model, image)
        assert len(read) == len(set(read)) == 2 + 3 * 2  # tables, weights and biases of to_k
    stage = model.stages[1]
    x = torch.randn(1, 4, 6, 16)
    with torch.no_grad():
        before = stage.blocks[1](x, stage.freq_embed)
        stage.freq_embed.table.data.mul_(0.5)
        assert not torch.equal(stage.blocks[1](x, stage.freq_embed), before)

        class Stop(Exception):  # noqa: N818
            pass

        def stop(*_: Any) -> None:
            raise Stop

        handle = stage.blocks[1].register_forward_hook(stop)
        with pytest.raises(Stop):
            run(model, image)
        handle.remove()
        # What an interrupted pass has read is forgotten.
        stage.freq_embed.table.data.mul_(0.5)
        assert torch.equal(run(model, image), fresh(model, image))


def test_writes_between_threads_count(model: RSVHeat, image: Tensor) -> None:
    # A server's thread predicts with the model that another thread has updated.
    before = run(model, image)
    results: list[Tensor] = []
    for change in (_moving_average, _written_by_numpy):
        change(model)
        thread = threading.Thread(target=lambda: results.append(run(model, image)))
        thread.start()
        thread.join()
        assert torch.equal(results[-1], fresh(model, image))
    assert not torch.equal(results[0], before)


@pytest.mark.parametrize("part", ["to_k", "freq_embed", "fc2"])
def test_hooks_and_other_modules_are_called(part: str, image: Tensor) -> None:
    model = build(freq_embed="implicit" if part == "fc2" else "table")
    before = run(model, image)
    stage = model.stages[0]
    modules = {
        "to_k": stage.blocks[0].op.to_k,
        "freq_embed": stage.freq_embed,
        "fc2": getattr(stage.freq_embed, "fc2", None),
    }
    handle = modules[part].register_forward_hook(lambda module, args, y: 2 * y)
    changed = run(model, image)
    assert not torch.equal(changed, before)
    assert torch.equal(run(model, image), changed)
    handle.remove()
    assert torch.equal(run(model, image), before)


def test_parametrized_weights_are_computed_at_each_call(model: RSVHeat, image: Tensor) -> None:
    class Scale(nn.Module):
        by = 1.0

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.by

    before = run(model, image)
    to_k = model.stages[0].blocks[0].op.to_k
    nn.utils.parametrize.register_parametrization(to_k, "weight", Scale())
    torch.testing.assert_close(run(model, image), before)
    to_k.parametrizations.weight[0].by = 2.0
    doubled = run(model, image)
    assert not torch.allclose(doubled, before)
    to_k.parametrizations.weight[0].by = 1.0
    torch.testing.assert_close(run(model, image), before)


def test_ensembles_of_torch_func(image: Tensor) -> None:
    models = [build(), build()]
    _moving_average(models[1])
    expected = torch.stack([run(model, image) for model in models])
    stacked, _ = torch.func.stack_module_state(models)
    base = build()
    run(base, image)

    def call(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(base, parameters, (image,))

    with torch.no_grad():
        together = torch.func.vmap(call)(stacked)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(run(base, image), expected[0])


@pytest.mark.cuda
def test_on_cuda_nothing_is_kept_and_graphs_see_new_weights(image: Tensor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    model, x = build().cuda(), image.cuda()
    before = run(model, x)
    assert len(model.filter_cache) == 0
    _moving_average(model)
    assert not torch.equal(run(model, x), before)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(model, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(model, x)
    for _ in range(2):
        _moving_average(model)
        graph.replay()
        torch.testing.assert_close(y, run(model, x), rtol=1e-4, atol=1e-4)


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


def test_models_made_in_inference_mode(image: Tensor) -> None:
    with torch.inference_mode():
        model = build()
        before = model(image)
        assert torch.equal(model(image), before)
        model.stages[0].freq_embed.table.add_(1)
        assert not torch.equal(model(image), before)
        assert torch.equal(model(image), fresh(model, image))


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
    value = torch.zeros(4)
    for step in range(4):
        cache.next_pass()
        cache.put(("a", step), "weights", value)
        cache.put(("b", step), "weights", value)
        assert len(cache) <= 2
        assert cache.nbytes <= 32
    assert cache.get(("a", 0), "weights") is None
    assert any(cache.get((name, n), "weights") is value for name in "ab" for n in range(4))
    assert not any(cache.get((name, n), "others") is not None for name in "ab" for n in range(4))
    assert len(cache) == 0
