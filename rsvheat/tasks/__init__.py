# SPDX-License-Identifier: Apache-2.0
"""Training, as Lightning modules and what they need around them."""

from rsvheat.tasks.checkpointing import (
    AtomicCheckpointIO,
    CheckpointWriteError,
    LastCheckpoint,
    RandomState,
)
from rsvheat.tasks.classification import (
    ClassificationTask,
    create_classification_task,
    load_classifier,
)
from rsvheat.tasks.encoders import encoder_arguments, load_encoder, saved_normalizers
from rsvheat.tasks.evaluation import evaluate
from rsvheat.tasks.logs import CSVLog, ImagesPerSecond, ProgressBar, ProgressLines
from rsvheat.tasks.optimization import Optimization
from rsvheat.tasks.pretraining import PretrainingTask, create_pretraining_task, pictures
from rsvheat.tasks.probing import Features, extract_features, knn, linear_probe, standardize
from rsvheat.tasks.runs import Run
from rsvheat.tasks.scores import Scores, classification_metrics
from rsvheat.tasks.sharding import FSDP2Strategy

__all__ = [
    "AtomicCheckpointIO",
    "CSVLog",
    "CheckpointWriteError",
    "ClassificationTask",
    "FSDP2Strategy",
    "Features",
    "ImagesPerSecond",
    "LastCheckpoint",
    "Optimization",
    "PretrainingTask",
    "ProgressBar",
    "ProgressLines",
    "RandomState",
    "Run",
    "Scores",
    "classification_metrics",
    "create_classification_task",
    "create_pretraining_task",
    "encoder_arguments",
    "evaluate",
    "extract_features",
    "knn",
    "linear_probe",
    "load_classifier",
    "load_encoder",
    "pictures",
    "saved_normalizers",
    "standardize",
]
