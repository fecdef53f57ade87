# SPDX-License-Identifier: Apache-2.0
"""The switch to the reference implementations: which calls follow it."""

import threading

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from utils import random

from rsvheat import ops
from rsvheat.ops import _backend, reference


def is_reference(x: torch.Tensor) -> bool:
    # A kernel and a matrix product do not round alike.
    return torch.equal(ops.dct2d(x, "nhwc"), reference.dct2d(x, "nhwc"))


@pytest.fixture
def x(native: torch.device) -> torch.Tensor:
    return random((2, 61, 53, 8), device=native)


def test_reference_serves_within_the_context_only(
    x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSVHEAT_REQUIRE_NATIVE", "1")  # forbids fallbacks, not a choice
    with ops.use_reference():
        with ops.use_reference():
            assert is_reference(x)
        assert is_reference(x)
    assert not is_reference(x)


def test_an_exception_leaves_the_context(x: torch.Tensor) -> None:
    with pytest.raises(KeyError), ops.use_reference():
        raise KeyError
    assert not is_reference(x)


def test_it_decorates_functions(x: torch.Tensor) -> None:
    assert ops.use_reference()(is_reference)(x)
    assert not is_reference(x)


def test_other_threads_do_not_follow(x: torch.Tensor) -> None:
    seen = []
    with ops.use_reference():
        thread = threading.Thread(target=lambda: seen.append(is_reference(x)))
        thread.start()
        thread.join()
        assert is_reference(x)
    assert seen == [False]


def test_compiled_functions_follow(x: torch.Tensor) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("eager")
    compiled = torch.compile(
        lambda x: ops.dct2d(x, "nhwc"), fullgraph=True, backend=graphs, dynamic=False
    )
    native, expected = ops.dct2d(x, "nhwc"), reference.dct2d(x, "nhwc")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), native, rtol=0, atol=0)
        with ops.use_reference():
            torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-6)
    assert graphs.frame_count == 2
    targets = [{str(node.target) for node in graph.graph.nodes} for graph in graphs.graphs]
    assert [any("rsvheat" in target for target in t) for t in targets] == [True, False]


def test_exported_programs_hold_the_operators_of_torch_alone(x: torch.Tensor) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.heat_conduction(x, 0.5)

    for strict in (False, True):
        with ops.use_reference():
            program = torch.export.export(Module(), (x,), strict=strict)
        assert not any("rsvheat" in str(node.target) for node in program.graph.nodes)
        assert "rsvheat.heat_conduction" in str(torch.export.export(Module(), (x,), strict=strict))


def test_constants_in_traces_are_marked_as_torch_marks_them() -> None:
    marked, expected = (
        mark(lambda: True)
        for mark in (_backend.constant_in_traces, torch.compiler.assume_constant_result)
    )
    assert vars(marked) == vars(expected) != {}
