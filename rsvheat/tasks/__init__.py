# SPDX-License-Identifier: Apache-2.0
"""One Lightning module a task."""

from rsvheat.tasks.classification import (
    ClassificationTask,
    create_classification_task,
    load_classifier,
)
from rsvheat.tasks.encoders import encoder_arguments, load_encoder, saved_normalizers
from rsvheat.tasks.pretraining import PretrainingTask, create_pretraining_task, pictures

__all__ = [
    "ClassificationTask",
    "PretrainingTask",
    "create_classification_task",
    "create_pretraining_task",
    "encoder_arguments",
    "load_classifier",
    "load_encoder",
    "pictures",
    "saved_normalizers",
]
