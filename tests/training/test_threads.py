# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time

import pytest
import torch

from rsvheat.training import threads

needs_stat = pytest.mark.skipif(not threads._STAT.exists(), reason="there is no /proc/stat")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of four cores, two of them this process's; call it with seconds by core."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(threads, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def at(now: float, *seconds: float) -> None:
        clock[0] = now
        ticks = [round(s * os.sysconf("SC_CLK_TCK")) for s in seconds]
        lines = [f"cpu{i} {t} 0 0 999 99 0 0 0 0 0" for i, t in enumerate(ticks)]
        (tmp_path / "stat").write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 5"]))

    at(0, 0, 0, 0, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield at
    torch.set_num_threads(before)


def test_threads_follow_what_others_use(machine):
    shared = threads.SharedCores()
    machine(0.5, 0, 0.5, 0.5, 0.5)
    assert shared.update() is None  # too early
    assert torch.get_num_threads() == 2
    machine(2, 0.1, 1.5, 2, 2)  # other cores do not count
    assert shared.update() == pytest.approx(0.8)
    assert torch.get_num_threads() == 1
    machine(4, 2.1, 3.5, 4, 4)  # both are taken: one thread is the least
    assert shared.update() == pytest.approx(2)
    assert torch.get_num_threads() == 1
    machine(6, 2.3, 3.7, 4, 4)
    assert shared.update() == pytest.approx(0.2)
    assert torch.get_num_threads() == 2


def test_own_time_is_not_that_of_others(machine, monkeypatch):
    shared = threads.SharedCores()
    monkeypatch.setattr(time, "process_time", lambda: 3.5)
    machine(2, 2, 2, 0, 0)
    assert shared.update() == pytest.approx(0.25)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("reason", ["OMP_NUM_THREADS", "one thread", "how busy"])
def test_nothing_is_changed_where_the_number_is_fixed(machine, monkeypatch, tmp_path, reason):
    if reason == "OMP_NUM_THREADS":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    elif reason == "one thread":
        torch.set_num_threads(1)
    else:
        (tmp_path / "stat").unlink()
    shared = threads.SharedCores()
    assert reason in shared.fixed
    before = torch.get_num_threads()
    monkeypatch.setattr(time, "monotonic", lambda: 9.0)
    assert shared.update() is None
    assert torch.get_num_threads() == before


@needs_stat
def test_a_busy_process_is_seen(monkeypatch):
    cores = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.2)
            before, begin = threads.busy_seconds(cores), time.perf_counter()
            time.sleep(0.5)
            busy = threads.busy_seconds(cores) - before
            seconds = time.perf_counter() - begin
        finally:
            process.kill()
    assert 0.3 * seconds < busy < (len(cores) + 0.1) * seconds


def test_a_run_tells_once_and_gives_the_number_back(machine, capsys):
    class Module:
        device = torch.device("cpu")

    run = threads.Threads(None)
    run.on_train_start(None, Module())
    for now in (2, 4, 6):
        machine(now, 0, now, 0, 0)
        run.on_train_batch_start(None, Module(), None, 0)
        assert torch.get_num_threads() == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "other processes use 1.0 cores: 1 of 2 threads" in told
    run.on_train_end(None, Module())
    assert torch.get_num_threads() == 2


def test_a_run_keeps_a_number(machine):
    run = threads.Threads(1)
    run.on_train_start(None, None)
    assert torch.get_num_threads() == 1
    machine(9, 0, 0, 0, 0)
    run.on_train_batch_start(None, None, None, 0)
    assert torch.get_num_threads() == 1


def test_a_number_below_one_is_refused():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        threads.Threads(0)
