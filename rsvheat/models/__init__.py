# SPDX-License-Identifier: Apache-2.0
"""The RS-vHeat and vHeat encoders, their variants, checkpoints and pretraining."""

from rsvheat.models import hub  # noqa: F401  (gives the encoder its methods for folders and hub)
from rsvheat.models.checkpoints import (
    CheckpointError,
    inflate_stem,
    load_checkpoint,
    read_checkpoint,
)
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.freq_embed import resize_frequencies, resize_map
from rsvheat.models.layers import pool_features
from rsvheat.models.load_report import LoadReport
from rsvheat.models.parameter_groups import parameter_groups
from rsvheat.models.pretraining import (
    PretrainingOutput,
    RSVHeatPretraining,
    create_pretraining_model,
)
from rsvheat.models.registry import create_model
from rsvheat.models.task_model import TASK_MODELS, TaskModel
from rsvheat.models.variants import VARIANTS

__all__ = [
    "TASK_MODELS",
    "VARIANTS",
    "CheckpointError",
    "LoadReport",
    "PretrainingOutput",
    "RSVHeat",
    "RSVHeatPretraining",
    "TaskModel",
    "create_model",
    "create_pretraining_model",
    "inflate_stem",
    "load_checkpoint",
    "parameter_groups",
    "pool_features",
    "read_checkpoint",
    "resize_frequencies",
    "resize_map",
]
