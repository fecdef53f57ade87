# SPDX-License-Identifier: Apache-2.0
"""The script behind `make wheels`; what a wheel holds is tested by `make test-torch-matrix`."""

import io
import os
import runpy
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "tools/build_wheels.py"

pytestmark = pytest.mark.source_tree


@pytest.fixture
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(f"rsvheat-1/{name}")
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def test_files_that_did_not_change_keep_their_times(script, tmp_path):
    target = tmp_path / "source"
    old = archive(tmp_path / "old.tar.gz", {"a.cpp": b"1", "b/c.cpp": b"2", "gone.cpp": b"3"})
    script.unpack(old, target)
    for path in target.rglob("*.cpp"):
        os.utime(path, (1, 1))
    script.unpack(archive(tmp_path / "new.tar.gz", {"a.cpp": b"1", "b/c.cpp": b"4"}), target)
    assert {path.name: path.read_bytes() for path in target.rglob("*.cpp")} == {
        "a.cpp": b"1",
        "c.cpp": b"4",
    }
    assert (target / "a.cpp").stat().st_mtime == 1
    assert (target / "b/c.cpp").stat().st_mtime > 1


def test_interpreters_are_found_and_those_without_headers_are_named(
    script, tmp_path, monkeypatch, capsys
):
    header = tmp_path / "include/Python.h"
    for minor, probe in ((12, f"test -e {header} || echo it has no Python.h"), (13, "exit 0")):
        program = tmp_path / f"python3.{minor}"
        program.write_text(f"#!/bin/sh\n{probe}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = script.find_interpreters()
    assert tmp_path / "python3.13" in found
    assert tmp_path / "python3.12" not in found
    assert f"{tmp_path}/python3.12: it has no Python.h" in capsys.readouterr().out


def test_a_wheel_that_is_too_large_is_an_error(script, tmp_path, monkeypatch, capsys):
    wheel = tmp_path / "rsvheat-1-py3-none-any.whl"
    wheel.write_bytes(bytes(12_000_001))
    names = script.main.__globals__
    monkeypatch.setitem(names, "ROOT", tmp_path)
    monkeypatch.setitem(names, "DIST", tmp_path / "dist")
    monkeypatch.setitem(names, "WORK", tmp_path / "work")
    monkeypatch.setitem(names, "build_sdist", lambda: archive(tmp_path / "s.tar.gz", {"a": b""}))
    monkeypatch.setitem(names, "install_tools", lambda interpreter: tmp_path)
    monkeypatch.setitem(names, "build_environment", lambda interpreter, tools: interpreter)
    monkeypatch.setitem(names, "build_wheel", lambda source, variant, python: wheel)
    monkeypatch.setattr(
        sys, "argv", ["build_wheels.py", "--variants", "cuda", "--pythons", sys.executable]
    )
    script.main()
    assert "12.0 MB" in capsys.readouterr().out
    sys.argv[2] = "pure"
    with pytest.raises(SystemExit, match=r"larger than allowed: rsvheat-1-py3-none-any.whl \(pure"):
        script.main()
