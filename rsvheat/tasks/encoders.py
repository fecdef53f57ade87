# SPDX-License-Identifier: Apache-2.0
"""Encoders from checkpoints."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsvheat.data.normalize import Normalizer
from rsvheat.models import CheckpointError, LoadReport, RSVHeat, create_model, load_checkpoint
from rsvheat.models.checkpoints import _read


def encoder_arguments(encoder: RSVHeat) -> dict[str, Any]:
    """Return arguments that build an encoder of the same architecture."""
    return encoder.config


def checkpoint_content(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a file of weights, or of a run, holds.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged.
    """
    try:
        content = _read(Path(path))
    # The unpickler takes some other files for pickles until it falls over them.
    except (IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from error
    return dict(content) if isinstance(content, Mapping) else {}


def saved_normalizers(path: str | os.PathLike[str]) -> dict[str, Normalizer]:
    """Return how images were normalised in a run, by modality; nothing if a file does not say.

    Args:
        path: A checkpoint of training with one of :mod:`rsvheat.data`'s data modules.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged.
    """
    found: dict[str, Normalizer] = {}
    for entry in checkpoint_content(path).values():
        if isinstance(entry, Mapping) and "normalizers" in entry:
            for name, normalizer in entry["normalizers"].items():
                found[name] = Normalizer.from_dict(normalizer)
    return found


def load_encoder(
    path: str | os.PathLike[str],
    variant: str | None = None,
    *,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **arguments: Any,
) -> tuple[RSVHeat, LoadReport]:
    """Build the encoder of a checkpoint, with its weights.

    Args:
        path: As for :func:`rsvheat.load_checkpoint`.
        variant: As for :func:`rsvheat.create_model`; by default what is saved in the file, where it
            is of this project's training.
        stems: As for :func:`rsvheat.load_checkpoint`.
        inflate_stems: As for :func:`rsvheat.load_checkpoint`.
        **arguments: Of :class:`~rsvheat.models.RSVHeat`, instead of the variant's or saved ones.

    Returns:
        The encoder, and what was loaded into it.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, does not fit, or does not say how its encoder is built
            and no variant is given.
    """
    saved = checkpoint_content(path).get("encoder")
    if variant is None:
        if not isinstance(saved, dict):
            raise CheckpointError(
                f"{path} does not say how its encoder is built, as checkpoints of rsvheat's own "
                "training do: name the variant, too"
            )
        encoder = RSVHeat(**{**saved, **arguments})
    else:
        encoder = create_model(variant, **arguments)
    report = load_checkpoint(encoder, path, stems=stems, inflate_stems=inflate_stems)
    return encoder, report
