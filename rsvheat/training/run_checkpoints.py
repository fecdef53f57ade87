# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are always complete, and from which a run resumes with the same bits.

Lightning restores weights, optimizers, schedules and progress, and the data module the order of its
samples. This module adds files that are never half written, the random generators of every process,
and saving when a signal stops a run.
"""

import os
import pickle
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from rsvheat._files import complete_file, remove_unfinished
from rsvheat.models import CheckpointError


class CheckpointWriteError(OSError):
    """A checkpoint cannot be written; earlier ones are complete."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, which replaces the old one when it is complete."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: Content of the file.
            path: Path of a local file, or a URL, which Lightning writes in one transaction.
            storage_options: Unused.

        Raises:
            CheckpointWriteError: If the file cannot be written; a file at ``path`` is unchanged.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            with complete_file(path) as temporary:
                torch.save(checkpoint, temporary)
        # torch reports a full disk as a RuntimeError of its archive writer.
        except (OSError, RuntimeError) as error:
            raise CheckpointWriteError(
                f"cannot write the checkpoint {path}: {_reason(error)}, "
                f"{_free(path.parent) / 2**20:.0f} MiB are free. Checkpoints written before "
                "are whole: make room, then go on with --resume"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint of a run.

        Args:
            path: Path or URL of the file.
            map_location: Location of the tensors, as for ``torch.load``.
            weights_only: Whether only plain values and tensors are allowed, as for ``torch.load``;
                None is True.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If it is damaged, or holds no state of a run.
        """
        try:
            content = super().load_checkpoint(path, map_location, weights_only is not False)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path} is damaged or no checkpoint: {_reason(error)}"
            ) from error
        if not isinstance(content, Mapping) or "loops" not in content:
            raise CheckpointError(
                f"{path} does not hold the state of a run: weights can start a model, "
                "but not continue its training"
            )
        return dict(content)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n")[0]


def _free(folder: Path) -> int:
    """Return the bytes free in a folder or, where it is still to be made, its parents."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that a folder exists and can be written to.

    Args:
        folder: Path of the folder, which is created if it does not exist.

    Raises:
        CheckpointWriteError: If it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise CheckpointWriteError(
            f"cannot write to the folder {folder}: {_reason(error)}; choose another, or make room"
        ) from error


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after each epoch, every ``every_n_steps`` steps and at a signal.

    SIGTERM and the first SIGINT (Ctrl+C) end the run with a checkpoint after the current step, or
    after the epoch if that was its last step; with several processes, a signal to any of them does.
    After an error outside a step, for example while data is read, a checkpoint is saved, too. After
    an error within a step, or while an epoch ends, the checkpoint before it remains.

    Before training starts, the folder is tested and its free space is compared with the size of the
    checkpoints; incomplete files of a killed run are removed.

    Args:
        folder: Folder of the file.
        every_n_steps: Optimizer steps between checkpoints within an epoch; 0 for none.
        others: Number of other checkpoints that the run will keep there, for the estimate of space.

    Attributes:
        path: Path of the file.
        signal: Signal that ended the run, or None.

    Raises:
        ValueError: If ``every_n_steps`` is negative.
    """

    def __init__(
        self, folder: str | os.PathLike[str], every_n_steps: int = 0, others: int = 0
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be at least 0, got {every_n_steps}")
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.others = others
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._step_at_start = 0
        # Whether weights, moments, averages and progress belong to the same step within an epoch,
        # and of which step the file is.
        self._consistent = False
        self._saved_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Test the folder and estimate the space."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        folder = self.path.parent
        check_folder(folder)
        remove_unfinished(folder)
        # Weights, Adam's two moments, and the average where there is one. A checkpoint is written
        # before the one that it replaces goes.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averages = sum(isinstance(callback, WeightAveraging) for callback in callbacks)
        size = sum(p.nbytes for p in pl_module.parameters()) * (3 + averages)
        held = sum(file.stat().st_size for file in folder.glob("*.ckpt"))
        needed = max(size * (2 + self.others) - held, size)
        if _free(folder) < needed:
            raise CheckpointWriteError(
                f"{folder} has {_free(folder) / 2**20:.0f} MiB free and checkpoints need about "
                f"{needed / 2**20:.0f} MiB: make room, or choose another folder"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals instead of Lightning.

        Lightning's handler starts a collective operation at whatever point the process has reached,
        which blocks while the other processes are at another point.
        """
        self._consistent, self._saved_step = True, trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if self.signal is signal.SIGINT:
            # The second Ctrl+C does not wait.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("\nStopping after this step; Ctrl+C again stops at once", flush=True)

    def _stop_if_told(self, trainer: Trainer) -> None:
        told = self.signal is not None
        if trainer.strategy.reduce_boolean_decision(told, all=False):
            # Makes Lightning raise SIGTERMException once this step's metrics are logged.
            trainer._signal_connector.received_sigterm = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step begins."""
        self._consistent = False
        self._step_at_start = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every ``every_n_steps`` steps, and stop after a signal."""
        # Gradients that are still being accumulated would be lost. And a run that resumes from an
        # epoch's last step begins with the next epoch: it would skip the end of this one, with its
        # means, its validation and the best checkpoint.
        self._consistent = trainer.global_step > self._step_at_start and not trainer.is_last_batch
        if not self._consistent:
            return
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        self._stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and stop after a signal."""
        self._save(trainer)
        self._stop_if_told(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handlers of signals."""
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save completed steps, and restore the handlers of signals."""
        self._restore_handlers()
        # Saving takes all processes, and only after a signal all are known to be here. During
        # validation the averaged weights may have replaced the model's.
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        worth = self._consistent and trainer.training and trainer.global_step > self._saved_step
        if together and worth and not isinstance(exception, CheckpointWriteError):
            try:
                self._save(trainer)
            except CheckpointWriteError as error:
                rank_zero_warn(str(error))

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved_step = trainer.global_step


class RandomState(Callback):
    """Keeps the states of Python's, NumPy's and torch's generators in checkpoints.

    Those of every process are kept; processes that a resumed run adds start from their seeds. The
    randomness of a step does not depend on them, see ``rsvheat.training.task.Task``; they
    restore random numbers that are drawn between steps.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states to a checkpoint."""
        states = [_random_state(pl_module.device)] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(states, states[trainer.global_rank])
        checkpoint["random_states"] = states

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the state of this process."""
        states = checkpoint.get("random_states", [])
        if trainer.global_rank < len(states):
            self._state = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the state, after the data loaders have drawn the seeds of their workers."""
        if self._state is not None:
            _set_random_state(self._state, pl_module.device)
            self._state = None


def _random_state(device: torch.device) -> dict[str, Any]:
    """Return the states as types that ``torch.load(weights_only=True)`` reads."""
    name, keys, *position = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    version, internal, gauss = random.getstate()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *position = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
