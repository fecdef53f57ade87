# SPDX-License-Identifier: Apache-2.0
"""A training run and its folder: checkpoints, logs, progress and resuming."""

import os
import sys
import weakref
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from rsvheat._locks import Lock
from rsvheat.training.console import say
from rsvheat.training.logs import CSVLog, ImagesPerSecond, ProgressBar, ProgressLines
from rsvheat.training.run_checkpoints import (
    AtomicCheckpointIO,
    LastCheckpoint,
    RandomState,
    check_folder,
)
from rsvheat.training.threads import Threads

# Locks of this process by folder, held as long as a run there lives: a run that is made again, as
# in a notebook, replaces the one before it.
_locks: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()


def _lock(folder: Path) -> Lock:
    """Return this process's lock of a run's folder, taken."""
    lock = _locks.setdefault(folder.resolve(), Lock(folder))
    lock.acquire()
    return lock


class Run:
    """Saves, logs and resumes a training run.

    The folder holds ``last.ckpt``, the best checkpoints, ``metrics.csv`` and TensorBoard's events.
    One process at a time may train there: a lock is held from construction until ``fit`` ends:

        run = Run("runs/mine", resume=True, monitor="val/accuracy", mode="max")
        trainer = Trainer(max_epochs=20, **run.trainer_arguments())
        run.fit(trainer, task, data)

    Args:
        output: Folder of the run.
        resume: Whether to resume from ``last.ckpt`` in the folder if there is one, or the path of
            the checkpoint to resume from.
        monitor: Name of the logged value by which checkpoints are the best; None keeps no best
            ones. The commands take the task's.
        mode: Whether its ``"min"`` or ``"max"`` is the best.
        keep_best: Number of best checkpoints to keep.
        save_every: Optimizer steps between checkpoints within an epoch; 0 for none.
        ema: Decay of an exponential moving average of the weights, updated at every step; None for
            none. The average is validated, and is what checkpoints hold as weights.
        patience: Number of validations without a better monitored value after which the run ends.
        threads: Number of torch's threads on a CPU, on which the last bits of results depend. None
            takes all cores, and fewer as long as other processes use some; where OMP_NUM_THREADS is
            set, that number.

    Attributes:
        checkpoint: Checkpoint to resume from, or None.
        step: Optimizer step of that checkpoint, 0 without one.
        last: Callback that keeps ``last.ckpt``.
        best: Callback that keeps the best checkpoints, or None.

    Raises:
        ValueError: If the folder holds a run and ``resume`` is false, or an argument is not as
            above.
        FileNotFoundError: If the checkpoint to resume from is not there.
        CheckpointWriteError: If the folder cannot be written to.
        InUseError: If another process trains in the folder.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        resume: bool | str | os.PathLike[str] = False,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        keep_best: int = 1,
        save_every: int = 0,
        ema: float | None = None,
        patience: int | None = None,
        threads: int | None = None,
    ) -> None:
        for name, value in (("keep_best", keep_best), ("save_every", save_every)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if ema is not None and not 0 < ema < 1:
            raise ValueError(f"ema must be above 0 and below 1, got {ema}")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if not isinstance(resume, bool) and not Path(resume).is_file():
            raise FileNotFoundError(f"there is no checkpoint {resume} to resume from")
        if patience is not None and monitor is None:
            raise ValueError("patience needs the name of a value to monitor")
        self._threads = Threads(threads)
        self.folder = Path(output)
        # The first process of a run holds the lock for all of them.
        self._lock: Lock | None = None
        if getattr(rank_zero_only, "rank", 0) == 0:
            check_folder(self.folder)
            self._lock = _lock(self.folder)
        self.step = 0
        try:
            self.checkpoint = self._find(resume)
            if self.checkpoint is not None:
                self.step = AtomicCheckpointIO().load_checkpoint(self.checkpoint)["global_step"]
        except BaseException:
            self._unlock()
            raise
        self.last = LastCheckpoint(self.folder, save_every, others=keep_best)
        self.best: ModelCheckpoint | None = None
        if keep_best and monitor is not None:
            self.best = ModelCheckpoint(
                self.folder,
                "best" if keep_best == 1 else "best-epoch{epoch:03d}",
                monitor,
                save_top_k=keep_best,
                mode=mode,
                auto_insert_metric_name=False,
                enable_version_counter=False,
            )
        self._average = None if ema is None else EMAWeightAveraging(decay=ema)
        self._stopping = None
        if patience is not None and monitor is not None:
            self._stopping = EarlyStopping(monitor, patience=patience, mode=mode)

    def _find(self, resume: bool | str | os.PathLike[str]) -> Path | None:
        if not isinstance(resume, bool):
            return Path(resume)
        # SLURM's requeueing leaves checkpoints of another name.
        found = [*self.folder.glob("last.ckpt"), *self.folder.glob("hpc_ckpt_*.ckpt")]
        if found and not resume and getattr(rank_zero_only, "rank", 0) == 0:
            raise ValueError(
                f"{self.folder} holds a run: go on with --resume, or choose another --output"
            )
        return max(found, key=lambda path: path.stat().st_mtime) if found and resume else None

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def trainer_arguments(self) -> dict[str, Any]:
        """Return arguments of a Trainer, among them callbacks, loggers and plugins."""
        shown = sys.stdout.isatty()
        callbacks: list[Callback | None] = [
            self._average,
            self._threads,
            ImagesPerSecond(),
            ProgressBar() if shown else ProgressLines(),
            self._stopping,
            RandomState(),
            # The last one holds the state of those before it.
            self.best,
            self.last,
        ]
        return {
            "default_root_dir": str(self.folder),
            "callbacks": [callback for callback in callbacks if callback is not None],
            "logger": [
                TensorBoardLogger(self.folder, name="", version="", purge_step=self.step),
                CSVLog(self.folder, self.step),
            ],
            "plugins": [AtomicCheckpointIO()],
            "enable_progress_bar": shown,
            "enable_model_summary": False,
        }

    def fit(
        self,
        trainer: Trainer,
        task: LightningModule,
        data: LightningDataModule,
        advice: str = "--resume goes on from there",
    ) -> int:
        """Train, or resume training where the run was stopped.

        Args:
            trainer: Trainer made with ``trainer_arguments``.
            task: Task to train.
            data: Data to train on.
            advice: How the user resumes the run, told when a signal has stopped it.

        Returns:
            Exit code: 0 when done, 128 plus its number after a signal.

        Raises:
            ValueError: If the checkpoint to resume from is of another network.
            InUseError: If another process has begun to train in the folder.
        """
        try:
            if self._lock is not None:
                self._lock.acquire()
            trainer.fit(task, data, ckpt_path=self.checkpoint)
        except SystemExit:
            if self.last.signal is None:
                raise
            say(
                f"stopped by {self.last.signal.name} after step {trainer.global_step}, "
                f"{self.last.path} is written; {advice}"
            )
            return 128 + self.last.signal
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            text = " ".join(str(error).split())
            raise ValueError(
                f"{self.checkpoint} is of another model than the one configured: {text[:300]}"
            ) from error
        finally:
            self._unlock()
        if self.checkpoint is not None and trainer.global_step == self.step:
            say(f"{self.folder} was complete")
        return 0
