# SPDX-License-Identifier: Apache-2.0
"""The second net of checks: calls of torch.ops.rsvheat past the public functions."""

import subprocess
import sys

import pytest
import torch

from rsvheat import _library

pytestmark = pytest.mark.skipif(not _library.native_available(), reason="nothing was built")

X = torch.zeros(2, 4, 5, 3)
K = torch.ones(4, 5, 3)
RADIUS, ANGLES = torch.ones(2).double(), torch.tensor([[0.0, 90.0]] * 2).double()


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("dct2d", (X[0], True), r"dct2d: x must be \(B, H, W, C\).*\(4, 5, 3\)"),
        ("idct2d", (X[0], False), r"idct2d: x must be \(B, C, H, W\)"),
        ("dct2d", (X.long(), True), "dct2d: x must be float32, float64.*Long"),
        ("dct2d", (X.cfloat(), True), "dct2d: x must be float32"),
        ("dct2d", (torch.zeros(1, 4097, 1, 1), True), "at most 4096.*4097"),
        ("dct2d", (torch.zeros(1, 1, 1, 4097), False), "at most 4096.*4097"),
        ("heat_conduction", (X, K[1:]), r"heat_conduction: k must be \(H, W, C\).*\(3, 5, 3\)"),
        ("heat_conduction", (X, K.double()), "k must be of dtype Float.*Double"),
        ("heat_conduction", (X.double(), K), "k must be of dtype Double.*Float"),
        ("heat_conduction", (X.half(), K.half()), "k must be of dtype Float.*Half"),
        ("heat_conduction", (X, -K), "negative or NaN value; thermal diffusivity must be >= 0"),
        ("heat_conduction", (X, K / 0 * 0), "negative or NaN value"),
        ("apply_heat_filter", (X, K[1:]), r"apply_heat_filter: filter must be \(H, W, C\)"),
        ("_heat_conduction_backward", (X[1:], X, K, True, True), "grad_y must have the shape of x"),
        (
            "_heat_conduction_backward",
            (X.half(), X, K, True, True),
            "grad_y must be of dtype Float",
        ),
        ("_apply_heat_filter_backward", (X, X, K[1:], True, True), "filter must be"),
        ("frequency_split", (X, RADIUS[1:], ANGLES), r"radius must be \(B,\) = \(2,\)"),
        ("frequency_split", (X, RADIUS, ANGLES[:, :1]), r"angles must be \(B, 2\) = \(2, 2\)"),
        ("frequency_split", (X, RADIUS.float(), ANGLES), "radius must be of dtype Double"),
        ("frequency_split", (X, RADIUS, ANGLES.float()), "angles must be of dtype Double"),
        ("frequency_split", (X, RADIUS / 0 * 0, ANGLES), "radius must be >= 0.*nan"),
        ("frequency_split", (X, RADIUS, ANGLES.flip(1)), r"angles\[0\] is \(90, 0\)"),
        ("spectral_l1", (X, X[1:], True), r"target must have the shape of pred, \(2, 4, 5, 3\)"),
        ("spectral_l1", (X, X.double(), True), "target must be of dtype Float"),
    ],
)
def test_wrong_arguments_are_named(op: str, arguments: tuple, message: str) -> None:
    with pytest.raises(RuntimeError, match=message) as caught:
        getattr(torch.ops.rsvheat, op)(*arguments)
    assert "csrc/ops/checks.h" in str(caught.value) or "csrc/ops/" in str(caught.value)


def test_dense_copies_are_made_of_any_strides() -> None:
    x = torch.randn(2, 3, 5, 4).permute(0, 3, 2, 1)
    k = torch.rand(3, 5, 4).permute(2, 1, 0)
    dense = torch.ops.rsvheat.heat_conduction(x.contiguous(), k.contiguous())
    assert torch.equal(torch.ops.rsvheat.heat_conduction(x, k), dense)
    assert torch.equal(
        torch.ops.rsvheat.dct2d(x, True), torch.ops.rsvheat.dct2d(x.contiguous(), True)
    )
    backward = torch.ops.rsvheat._heat_conduction_backward
    expected = backward(x.contiguous(), x.contiguous(), k.contiguous(), True, True)
    assert all(map(torch.equal, backward(x, x, k, True, True), expected))


@pytest.mark.parametrize(
    "k_shape", [(1, 1, 1), (1, 1, 3), (4, 1, 1), (1, 5, 1), (1, 5, 3), (4, 5, 1)]
)
def test_expanded_coefficients_are_read_in_place(k_shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 4, 5, 3)
    k = torch.rand(k_shape).expand(4, 5, 3)
    dense = torch.ops.rsvheat.heat_conduction(x, k.contiguous())
    assert torch.equal(torch.ops.rsvheat.heat_conduction(x, k), dense)


def test_outputs_that_are_not_needed_are_empty() -> None:
    backward = torch.ops.rsvheat._heat_conduction_backward
    for need_x, need_k in [(False, False), (True, False), (False, True), (True, True)]:
        grad_x, grad_k = backward(X, X, K, need_x, need_k)
        assert grad_x.shape == (X.shape if need_x else (0,))
        assert grad_k.shape == (K.shape if need_k else (0,))
    assert torch.ops.rsvheat.spectral_l1(X, X, False)[2].shape == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_exhausted_memory_is_an_error_not_a_crash() -> None:
    # The tables of a prime length are much larger than the tensors.
    program = """
import resource, torch, rsvheat
x = torch.zeros(1, 4093, 1, 1)
torch.ops.rsvheat.dct2d(x[:, :61], True)
used = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))
try:
    torch.ops.rsvheat.dct2d(x, True)
except RuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert torch.ops.rsvheat.dct2d(x, True).count_nonzero() == 0  # and the next call works
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "dct2d: not enough memory" in result.stdout
