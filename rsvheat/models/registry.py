# SPDX-License-Identifier: Apache-2.0
"""Building of encoders and task models by name."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from rsvheat.models.checkpoints import load_checkpoint
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.task_model import TaskModel, find_task_model
from rsvheat.models.variants import PRETRAINED, VARIANTS, WEIGHTS


@overload
def create_model(
    name: str,
    *,
    task: None = None,
    classes: None = None,
    pretrained: bool = False,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **options: Any,
) -> RSVHeat: ...


@overload
def create_model(
    name: str,
    *,
    task: str,
    classes: Sequence[str],
    pretrained: bool = False,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **options: Any,
) -> TaskModel: ...


def create_model(
    name: str,
    *,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    pretrained: bool = False,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **options: Any,
) -> RSVHeat | TaskModel:
    """Build a variant, or with ``task`` a complete network for a task on its encoder.

    Args:
        name: One of ``rsvheat_nano|tiny|small|base|large``, ``vheat_tiny|small|base``.
        task: Name of a task, such as ``"segmentation"``; None for the encoder alone.
        classes: Names of the task's classes, in the order of their numbers.
        pretrained: Whether the encoder starts from ``rsvheat/weights/<name>.safetensors``; there is
            one for ``rsvheat_nano``. The card beside it says what it was trained on and how images
            are normalized. By default the encoder then has the file's stems and size, and no
            classifier; with other arguments the file is loaded as by
            ``rsvheat.load_checkpoint``, and parameters that it lacks, such as a classifier's,
            are fresh; ``load_report`` of the encoder says which.
        stems: Name of the pretrained stem, ``"optical"`` or ``"sar"``, by modality, as for
            ``rsvheat.load_checkpoint``.
        inflate_stems: Whether a pretrained stem may be adapted to another number of bands by
            ``rsvheat.models.inflate_stem``; else other bands are an error.
        **options: Arguments of ``rsvheat.models.RSVHeat``, which replace the variant's, and
            with ``task`` those of the task's network.

    Returns:
        The encoder or the task's network, in training mode.

    Raises:
        TypeError: If there is no such option.
        ValueError: If there is no such variant or task, an argument has a wrong value, or there are
            no weights of the variant, or none that fit.
    """
    if name not in VARIANTS:
        raise ValueError(f"no model is named {name!r}; there are {', '.join(VARIANTS)}")
    if task is None:
        if classes is not None:
            raise ValueError("classes are a task's: give task, too, or num_classes instead")
        return _create_encoder(name, pretrained, stems, inflate_stems, options)
    network = find_task_model(task)
    if (
        isinstance(classes, str)
        or not classes
        or not all(isinstance(label, str) for label in classes)
        or len(set(classes)) < len(classes)
    ):
        raise ValueError(f"classes must be different names, one or more, got {classes!r}")
    if "num_classes" in options:
        raise ValueError("num_classes follows from classes: leave it out")
    own, shared = _arguments(network), _arguments(RSVHeat)
    for_encoder = {k: v for k, v in options.items() if k in shared and k not in own}
    for_network = {k: v for k, v in options.items() if k not in for_encoder}
    for_encoder |= network.encoder_arguments(len(classes))
    encoder = _create_encoder(name, pretrained, stems, inflate_stems, for_encoder)
    return network(encoder, len(classes), **for_network)


def _arguments(cls: type) -> set[str]:
    return set(inspect.signature(cls).parameters)


def _create_encoder(
    name: str,
    pretrained: bool,
    stems: Mapping[str, str] | None,
    inflate_stems: bool,
    options: Mapping[str, Any],
) -> RSVHeat:
    if not pretrained:
        return RSVHeat(**{**VARIANTS[name], **options})
    if name not in PRETRAINED:
        raise ValueError(
            f"no weights of {name} come with the package, only of {', '.join(PRETRAINED)}: load a "
            "file with rsvheat.load_checkpoint"
        )
    path = WEIGHTS / f"{name}.safetensors"
    arguments = {**VARIANTS[name], **PRETRAINED[name], **options}
    if arguments.get("modalities") is None and arguments.get("in_chans") is None:
        arguments["modalities"] = _stems(path)
    model = RSVHeat(**arguments)
    report = load_checkpoint(model, path, stems=stems, inflate_stems=inflate_stems)
    if stems is None and not any(part.startswith("stems.") for part in report.loaded):
        raise ValueError(
            f"the weights of {name} have the stems {list(_stems(path))}, none for "
            f"{list(model.modalities)}: say by stems= which one each takes, stems={{}} for none"
        )
    model.load_report = report
    return model


def _stems(path: Path) -> dict[str, int]:
    """Return the bands of a file's stems by name."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {
            key.split(".")[1]: file.get_slice(key).get_shape()[1]
            for key in sorted(file.keys())
            if key.startswith("stems.") and key.endswith(".conv1.weight")
        }
