# SPDX-License-Identifier: Apache-2.0
"""Logs of a run: metrics as CSV, images per second, progress."""

import csv
import math
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from rsvheat._files import complete_file
from rsvheat.training.task import Task


class CSVLog(Logger):
    """Appends metrics to ``metrics.csv``, over any number of restarts.

    Lightning's own CSV logger begins by deleting what is there.

    Args:
        folder: Folder of the file.
        from_step: Step from which this run resumes. Later rows belong to a run that was killed
            before it had a checkpoint of them, and are removed.
    """

    def __init__(self, folder: str | Path, from_step: int = 0) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.from_step = from_step
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Unused; an empty text."""
        return ""

    @property
    def version(self) -> str:
        """Unused; an empty text."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Log nothing: the configuration is beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: Values by name; each becomes a column.
            step: Optimizer step of the values.
        """
        row = {k: v.item() if isinstance(v, Tensor) else v for k, v in metrics.items()}
        row["step"] = step
        if self._columns is None:
            self._start()
        assert self._columns is not None
        new = [name for name in row if name not in self._columns]
        if new or not self.path.exists():
            self._rewrite(self._rows(), [*self._columns, *new])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _start(self) -> None:
        rows = self._rows()
        kept = [row for row in rows if row["step"] and int(row["step"]) < self.from_step]
        columns = list(rows[0]) if rows else ["epoch", "step"]
        self._rewrite(kept, columns)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            # A killed process may have left its last row incomplete.
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        self._columns = columns
        with (
            complete_file(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


class EpochMeans:
    """Computes means over the batches of an epoch and all processes; checkpoints keep them."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._batches = 0.0

    def update(self, values: Mapping[str, float]) -> None:
        """Add the values of a batch.

        Args:
            values: Values by name, the same names at every call and in every process.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._batches += 1

    def compute(self, trainer: Trainer) -> dict[str, float]:
        """Return the means and start again."""
        state = self.state_dict(trainer)
        batches = max(state.pop(""), 1.0)
        self._sums, self._batches = {}, 0.0
        return {name: value / batches for name, value in state.items()}

    def state_dict(self, trainer: Trainer) -> dict[str, float]:
        """Return the sums over all processes by name, and the number of batches under ``""``."""
        sums = {"": self._batches, **self._sums}
        if trainer.world_size == 1:
            return sums
        total = torch.tensor(list(sums.values()), device=trainer.strategy.root_device)
        total = trainer.strategy.reduce(total, reduce_op="sum")
        return dict(zip(sums, total.tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, float], rank: int) -> None:
        """Resume the sums, in one process."""
        self._sums = {name: value if rank == 0 else 0.0 for name, value in state.items()}
        self._batches = self._sums.pop("")


class ImagesPerSecond(Callback):
    """Logs the number of images per second of all devices together, time for reading included.

    The value is a running mean over about ten steps.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._seconds: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also in a run that resumes within an epoch."""
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time between epochs."""
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of validation."""
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the value."""
        now = time.perf_counter()
        assert isinstance(pl_module, Task)
        images = pl_module.images_in(batch) * trainer.world_size
        seconds = (now - self._since) / max(images, 1)
        if self._seconds is not None:
            seconds = self._seconds + 0.1 * (seconds - self._seconds)
        self._since, self._seconds = now, seconds
        pl_module.log("images_per_second", 1 / seconds, prog_bar=True)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, with the time that the whole run still needs."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock.start(trainer)
        super().on_train_start(trainer, pl_module)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the values that are shown beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        metrics["left"] = self._clock.left(trainer)
        return metrics


class ProgressLines(Callback):
    """Prints a line after an epoch, for logs and pipes.

    Args:
        pause_s: Seconds without a line after each; the last epoch always has one.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self._clock = _Clock()
        self._last = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock.start(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        now, epoch = time.monotonic(), trainer.current_epoch + 1
        if not trainer.is_global_zero or (
            now - self._last < self.pause_s and epoch != trainer.max_epochs
        ):
            return
        self._last = now
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        values = trainer.progress_bar_metrics.items()
        text = ", ".join(f"{k} {v:.4g}" for k, v in values if isinstance(v, (int, float)))
        line = f"epoch {epoch}{epochs}: {text}, {self._clock.left(trainer)} left"
        print(line, file=sys.stderr, flush=True)


class _Clock:
    """Time that a run still needs, from the steps that it has made since it started."""

    def start(self, trainer: Trainer) -> None:
        self._began, self._first = time.monotonic(), trainer.global_step

    def left(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._first
        remaining = trainer.estimated_stepping_batches - trainer.global_step
        if done == 0 or not 0 <= remaining < float("inf"):
            return "?"
        return str(timedelta(seconds=round((time.monotonic() - self._began) / done * remaining)))
