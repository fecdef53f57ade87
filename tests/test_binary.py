# SPDX-License-Identifier: Apache-2.0
"""What the compiled libraries ask for, offer and say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rsvheat import _library

LIBRARIES = ("librsvheat_core.so", "librsvheat_ops.so", "librsvheat_cuda.so")

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")


def _installed(library: str) -> Path:
    path = _library._find(library)
    if path is None:
        pytest.skip(f"{library} was not built")
    return path


def _symbols(path: Path, which: str) -> list[str]:
    command = ["nm", "-D", "-C", which, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [
        line.split(maxsplit=1 if which == "--undefined-only" else 2)[-1]
        for line in output.splitlines()
    ]


@needs_nm
@pytest.mark.parametrize("library", LIBRARIES)
def test_needs_nothing_of_torch_but_its_stable_shims(library: str) -> None:
    symbols = _symbols(_installed(library), "--undefined-only")
    assert symbols
    assert [s for s in symbols if re.search(r"\b(at|c10)::", s)] == []
    shims = [s for s in symbols if "torch" in s and not s.startswith("rsvheat::")]
    assert all(s.startswith(("torch_", "aoti_torch_")) for s in shims), shims
    assert bool(shims) == (library != "librsvheat_core.so")


@needs_nm
def test_core_exports_its_functions_only() -> None:
    symbols = _symbols(_installed("librsvheat_core.so"), "--defined-only")
    assert any(s.startswith("rsvheat::dct2d_cpu(") for s in symbols)
    # Types of the C++ library have to be one in the process.
    ours = [s for s in symbols if not re.match(r"(typeinfo (name )?for )?(std|__gnu_cxx)::", s)]
    assert [s for s in ours if not s.startswith("rsvheat::")] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_holds_no_path_of_the_builder(library: str) -> None:
    content = _installed(library).read_bytes()
    for path in (Path(__file__).parents[1], Path(torch.__file__).parents[1], Path.home()):
        assert bytes(path) + b"/" not in content, path
