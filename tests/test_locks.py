# SPDX-License-Identifier: Apache-2.0
"""Two processes that write to one place: one is told to wait, and neither harms the other."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsvheat import _locks
from rsvheat._files import complete_file, output_file, remove_unfinished
from rsvheat._locks import InUseError, Lock

# What another process does until its standard input is closed.
HOLD = """
import sys
from pathlib import Path
from rsvheat._files import complete_file
from rsvheat._locks import Lock
target = Path(sys.argv[2])
with {context}:
    print("ready", flush=True)
    sys.stdin.read()
"""
LOCKED = HOLD.format(context="Lock(target)")
FILLED = HOLD.format(context="complete_file(target) as new, new.open('w') as file")

FORKED = """
import os, sys, time
from pathlib import Path
from rsvheat._locks import Lock
lock = Lock(Path(sys.argv[2]))
lock.acquire()
child = os.fork()
if child == 0:
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
time.sleep(600)
"""

Start = Callable[[str, Path], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process, and wait until it holds what it holds."""
    processes = []

    def run(code: str, target: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "-", str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_process_is_told_who_writes(start: Start, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "map.tif"
    if kind == "folder":
        target.mkdir()
    process = start(LOCKED, target)
    expected = (
        rf"map\.tif is being written by process {process.pid} on {socket.gethostname()} "
        r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$"
    )
    for _ in range(2):  # asking leaves the lock, and what it says, as they are
        with pytest.raises(InUseError, match=expected):
            Lock(target).acquire()
    process.communicate()
    with Lock(target) as lock:
        assert lock.held
    assert list(tmp_path.rglob("*lock")) == []


def test_the_lock_of_a_killed_process_does_not_block(start: Start, tmp_path: Path) -> None:
    process = start(LOCKED, tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert os.listdir(tmp_path) == []


def test_children_do_not_keep_the_lock_of_a_killed_process(start: Start, tmp_path: Path) -> None:
    """Processes that read data outlive a killed parent by seconds."""
    process = start(FORKED, tmp_path)
    process.kill()
    process.wait()
    with Lock(tmp_path):
        pass


def test_threads_of_a_process_exclude_each_other(tmp_path: Path) -> None:
    with Lock(tmp_path) as lock:
        lock.acquire()  # again, by who holds it
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
            Lock(tmp_path).acquire()
        assert lock.held
    assert not lock.held


def test_a_lock_file_that_says_nothing_is_held_by_another_process(tmp_path: Path) -> None:
    with Lock(tmp_path):
        for text in ("", "[]", "{}", '{"pid": 1}'):
            (tmp_path / ".lock").write_text(text)
            with pytest.raises(InUseError, match=r"is being written by another process$"):
                Lock(tmp_path).acquire()


def test_folders_of_living_processes_stay_and_those_of_dead_ones_go(
    start: Start, tmp_path: Path
) -> None:
    living, dead = start(FILLED, tmp_path / "living"), start(FILLED, tmp_path / "dead")
    dead.kill()
    dead.wait()
    assert len(list(tmp_path.glob(".unfinished-*"))) == 2
    remove_unfinished(tmp_path)
    (folder,) = tmp_path.glob(".unfinished-*")
    assert (folder / "living").exists()
    living.communicate()
    assert living.returncode == 0
    assert os.listdir(tmp_path) == ["living"]


def test_a_folder_that_is_not_locked_yet_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = _locks.try_lock, []

    def late(path: Path) -> int | None:
        calls.append(path)
        if len(calls) == 1:
            monkeypatch.setattr("rsvheat._files.try_lock", original)
            remove_unfinished(tmp_path)
            monkeypatch.setattr("rsvheat._files.try_lock", late)
        return original(path)

    monkeypatch.setattr("rsvheat._files.try_lock", late)
    with complete_file(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert len(calls) == 2
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "whole"


def test_an_output_is_written_by_one_process(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "new" / "boxes.geojson"
    with output_file(path) as temporary:
        temporary.write_text("first")
    start(LOCKED, path)
    with pytest.raises(InUseError, match=r"boxes\.geojson is being written by process"):
        output_file(path).__enter__()
    assert path.read_text() == "first"


def test_without_locks_a_warning_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_locks.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"takes no locks \(No locks available\): make sure"):
        Lock(tmp_path).acquire()
    with complete_file(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        # Nothing says whether its process lives.
        with pytest.warns(UserWarning, match=r"takes no locks .*: remove .*\.unfinished-"):
            remove_unfinished(tmp_path)
    assert (tmp_path / "a").read_text() == "whole"
    monkeypatch.setattr(_locks, "fcntl", None)
    with pytest.warns(UserWarning, match="Python has no fcntl here"):
        Lock(tmp_path).acquire()
