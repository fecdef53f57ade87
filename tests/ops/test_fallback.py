# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves a tensor, and what the user hears about it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from utils import random

from rsvheat import _library, ops
from rsvheat.ops import _backend, reference


@pytest.fixture
def without_cpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a device type that has no kernels, on a machine that has no other device."""
    monkeypatch.delenv("RSVHEAT_REQUIRE_NATIVE", raising=False)
    monkeypatch.setattr(_backend, "NATIVE_DEVICES", frozenset({"cuda"}))
    monkeypatch.setattr(_backend, "_warned", set())
    monkeypatch.setattr(_library, "native_available", lambda: True)


@pytest.mark.usefixtures("without_cpu_kernels")
def test_warns_once_and_computes() -> None:
    x = random((1, 4, 5, 3))
    with pytest.warns(RuntimeWarning, match="no native kernels.*'cpu'.*build_info") as caught:
        y = ops.heat_conduction(x, 0.5)
    assert caught[0].filename == __file__
    assert torch.equal(y, reference.heat_conduction(x, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.dct2d(x)
        ops.frequency_split(x, 0.5)


@pytest.mark.usefixtures("without_cpu_kernels")
def test_required_kernels_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSVHEAT_REQUIRE_NATIVE", "1")
    x, ones = random((1, 4, 5, 3)), torch.ones(3)
    channels = (ones, ones)
    for call in (
        lambda: ops.dct2d(x),
        lambda: ops.idct2d(x),
        lambda: ops.heat_conduction(x, 0.5),
        lambda: ops.apply_heat_filter(x, torch.ones(3)),
        lambda: ops.frequency_split(x, 0.5),
        lambda: ops.spectral_l1_loss(x, x),
        lambda: ops.multi_domain_loss(x, x),
        lambda: ops.gated_layer_norm(x, x, *channels),
        lambda: ops.add_layer_norm(x, x, *channels),
        lambda: ops.spatial_correction_conv(x, x[0], *channels, torch.ones(3, 1, 3, 3), ones),
    ):
        with pytest.raises(RuntimeError, match="RSVHEAT_REQUIRE_NATIVE=1 forbids"):
            call()
    reference.dct2d(x)  # the reference itself may always be called


def test_native_ops_serve_native_devices(native: torch.device) -> None:
    assert _backend.use_native(random((1,), device=native))
    # A kernel and a matrix product do not round alike.
    x = random((2, 61, 53, 8), device=native)
    assert not torch.equal(ops.dct2d(x, "nhwc"), reference.dct2d(x, "nhwc"))


def test_package_works_without_the_library(tmp_path: Path) -> None:
    # In a process of its own, in which the library is made not to load; in a folder of its own,
    # lest it import a source tree in place of the installed package.
    program = """
import warnings, torch
torch.ops.load_library = lambda path: (_ for _ in ()).throw(OSError("no such library"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import rsvheat
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    k = torch.rand(4, requires_grad=True)
    rsvheat.ops.heat_conduction(x, k).sum().backward()
    loss = rsvheat.ops.multi_domain_loss(x, x.detach().flip(0), x, x).total
    loss.backward()
    rsvheat.ops.frequency_split(x, 0.5)
reasons = [str(w.message) for w in caught if "rsvheat" in str(w.message)]
assert len(reasons) == 1 and "could not load" in reasons[0], reasons
assert rsvheat.build_info()["native"] is False
assert not hasattr(torch.ops.rsvheat, "dct2d")
print("works")
"""
    environment = {k: v for k, v in os.environ.items() if k != "RSVHEAT_REQUIRE_NATIVE"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "works\n", result.stderr
