# SPDX-License-Identifier: Apache-2.0
"""The RS-vHeat and vHeat encoders, their variants and their checkpoints."""

from rsvheat.models.checkpoints import CheckpointError, LoadReport, inflate_stem, load_checkpoint
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.freq_embed import resize_frequencies, resize_map
from rsvheat.models.layers import pool_features
from rsvheat.models.pretraining import (
    PretrainingOutput,
    RSVHeatPretraining,
    create_pretraining_model,
)
from rsvheat.models.registry import VARIANTS, create_model, register_with_timm

register_with_timm()

__all__ = [
    "VARIANTS",
    "CheckpointError",
    "LoadReport",
    "PretrainingOutput",
    "RSVHeat",
    "RSVHeatPretraining",
    "create_model",
    "create_pretraining_model",
    "inflate_stem",
    "load_checkpoint",
    "pool_features",
    "register_with_timm",
    "resize_frequencies",
    "resize_map",
]
