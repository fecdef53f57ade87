# SPDX-License-Identifier: Apache-2.0
"""Scene classification: an encoder with its own head."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rsvheat.models.encoder import RSVHeat
from rsvheat.models.task_model import Output, TaskModel


class Classifier(TaskModel):
    """Gives each image one class, by the encoder's own head.

    Images of several modalities go through their stems one by one; their logits are averaged.

    Args:
        encoder: Encoder whose head has ``num_classes`` classes.
        num_classes: Number of classes.
        modality: Stem that all images go through; None uses every stem that has images.

    Raises:
        ValueError: If the encoder has another number of classes, or no such stem.
    """

    task: ClassVar[str] = "classification"
    output: ClassVar[Output] = "class"

    def __init__(self, encoder: RSVHeat, num_classes: int, *, modality: str | None = None) -> None:
        if encoder.num_classes != num_classes:
            raise ValueError(
                f"num_classes is {num_classes}, and the encoder's head has {encoder.num_classes}: "
                "build the encoder with the same number"
            )
        if modality is not None and modality not in encoder.modalities:
            raise ValueError(
                f"modality must be one of {list(encoder.modalities)}, got {modality!r}"
            )
        super().__init__(encoder, num_classes, modality=modality)
        self.modality = modality

    @classmethod
    def encoder_arguments(cls, num_classes: int) -> dict[str, Any]:
        """See ``TaskModel.encoder_arguments``: the encoder's own head classifies."""
        return {"num_classes": num_classes}

    def forward(
        self, images: Mapping[str, Tensor], index: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return logits.

        Args:
            images: By modality (B, bands, H, W), normalized. Other modalities than the option
                ``modality`` are ignored, if that is set.
            index: Not used: every sample has all modalities.

        Returns:
            Logits (B, num_classes), averaged over the modalities.

        Raises:
            ValueError: If there are no images for a stem, or images for no stem.
        """
        stems = list(self.encoder.modalities)
        names = list(images) if self.modality is None else [self.modality]
        unknown = [name for name in names if name not in stems or name not in images]
        if unknown or not names:
            raise ValueError(
                f"images are given for {list(images)}, and the network takes "
                f"{stems if self.modality is None else names}"
            )
        logits = [self.encoder(images[name], name) for name in stems if name in names]
        return torch.stack(logits).mean(0) if len(logits) > 1 else logits[0]

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities.

        Args:
            images: As for ``forward``.

        Returns:
            Probabilities (B, num_classes), float32.

        Raises:
            ValueError: As for ``forward``.
        """
        logits: Tensor = self(images)
        return logits.float().softmax(1)
