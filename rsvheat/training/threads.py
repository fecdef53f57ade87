# SPDX-License-Identifier: Apache-2.0
"""Number of threads of a run on CPUs that other processes use, too."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rsvheat.training.console import say


class SharedCores:
    """Gives torch as many threads as other processes leave cores.

    The threads of an operator wait for the slowest of them. Where another process takes a core from
    one of two threads, both together are slower than a single one, whether they spin or sleep while
    they wait (``benchmarks/results/shared_machine.md``). Processes that load data count as others.

    Results depend on the number of threads, in the last bits.

    Args:
        seconds: Time between two looks at what others use.

    Attributes:
        most: The largest number of threads: torch's own at the beginning.
        fixed: Why the number is never changed, or None.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.most = torch.get_num_threads()
        self.fixed: str | None = None
        if self.most == 1:
            self.fixed = "there is one thread"
        elif "OMP_NUM_THREADS" in os.environ:
            self.fixed = "OMP_NUM_THREADS is set"
        elif not (_STAT.exists() and hasattr(os, "sched_getaffinity")):
            self.fixed = "this system does not tell how busy each core is"
        else:
            self._cores = os.sched_getaffinity(0)
            self._last = self._look()

    def _look(self) -> tuple[float, float]:
        """Return the time, and the seconds that others have used these cores until now."""
        return time.monotonic(), busy_seconds(self._cores) - time.process_time()

    def update(self) -> float | None:
        """Set the number of threads by what others have used since the last look.

        Returns:
            Cores that others have used, or None where it is too early or there is no choice.
        """
        if self.fixed or time.monotonic() - self._last[0] < self.seconds:
            return None
        now = self._look()
        used = (now[1] - self._last[1]) / (now[0] - self._last[0])
        self._last = now
        threads = min(self.most, max(1, round(len(self._cores) - used)))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        return used


class Threads(Callback):
    """Sets the number of torch's threads of a run.

    Args:
        threads: The number, or None for as many as other processes leave cores (``SharedCores``).
    """

    def __init__(self, threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._shared: SharedCores | None = None
        self._told = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Set the number, or begin to look."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        elif module.device.type == "cpu":
            self._shared = SharedCores()

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Follow what other processes use."""
        shared = self._shared
        used = shared.update() if shared else None
        if shared is None or used is None or self._told:
            return
        threads = torch.get_num_threads()
        if threads < shared.most:
            self._told = True
            say(
                f"other processes use {used:.1f} cores: {threads} of {shared.most} threads as long "
                "as they do; --threads N keeps a number"
            )

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Give torch its own number back."""
        if self._shared is not None and not self._shared.fixed:
            torch.set_num_threads(self._shared.most)
        self._shared = None


_STAT = Path("/proc/stat")


def busy_seconds(cores: set[int]) -> float:
    """Return the seconds since the machine's start that these cores have been busy, summed.

    Time that a virtual machine's host gave to others counts as busy.
    """
    ticks = 0
    for line in _STAT.read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
