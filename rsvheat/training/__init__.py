# SPDX-License-Identifier: Apache-2.0
"""The engine of a training run on Lightning: optimization, checkpoints, logs, FSDP2, signals."""

from rsvheat.training.fsdp2 import FSDP2Strategy
from rsvheat.training.logs import CSVLog, ImagesPerSecond, ProgressBar, ProgressLines
from rsvheat.training.optimization import Optimization
from rsvheat.training.run import Run
from rsvheat.training.run_checkpoints import (
    AtomicCheckpointIO,
    CheckpointWriteError,
    LastCheckpoint,
    RandomState,
)
from rsvheat.training.task import Task

__all__ = [
    "AtomicCheckpointIO",
    "CSVLog",
    "CheckpointWriteError",
    "FSDP2Strategy",
    "ImagesPerSecond",
    "LastCheckpoint",
    "Optimization",
    "ProgressBar",
    "ProgressLines",
    "RandomState",
    "Run",
    "Task",
]
