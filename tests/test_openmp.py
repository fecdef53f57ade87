# SPDX-License-Identifier: Apache-2.0
"""How long idle threads spin, which the commands choose before torch is loaded."""

import os
import re
import subprocess
import sys

import pytest

from rsvheat import _openmp, cli


@pytest.fixture
def without_torch(monkeypatch):
    """Make this process look like one that has not loaded torch."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_waits_are_shortened_before_torch_is_loaded(without_torch):
    environ = {}
    assert _openmp.shorten_waits(environ)
    assert environ == {"GOMP_SPINCOUNT": str(_openmp.SPIN_COUNT), "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize("name", _openmp.WAIT_VARIABLES)
def test_what_the_user_has_set_stays(without_torch, name):
    environ = {name: "7"}
    assert not _openmp.shorten_waits(environ)
    assert environ == {name: "7"}


def test_nothing_is_set_once_torch_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    environ = {}
    assert not _openmp.shorten_waits(environ)
    assert environ == {}


def test_a_command_chooses_before_it_runs(monkeypatch, without_torch):
    for name in _openmp.WAIT_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    assert cli.main(["recipes", "no such recipe"]) == cli.USAGE
    assert os.environ["GOMP_SPINCOUNT"] == str(_openmp.SPIN_COUNT)


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's OpenMP on Linux")
@pytest.mark.parametrize("user", [{}, {"GOMP_SPINCOUNT": "77"}])
def test_openmp_reads_the_choice(user):
    environ = {k: v for k, v in os.environ.items() if k not in _openmp.WAIT_VARIABLES}
    result = subprocess.run(
        [sys.executable, "-m", "rsvheat", "info"],
        env={**environ, "OMP_DISPLAY_ENV": "VERBOSE", **user},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", result.stderr)
    if not counts:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert set(counts) == {user.get("GOMP_SPINCOUNT", str(_openmp.SPIN_COUNT))}
