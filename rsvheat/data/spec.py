# SPDX-License-Identifier: Apache-2.0
"""What a data set offers to a task: bands, targets, classes and sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Target: TypeAlias = Literal["none", "label", "mask", "boxes", "oriented_boxes"]

# Value of mask pixels and class labels that neither losses nor metrics count: unlabeled pixels,
# pixels without data, and samples that another process has, too.
IGNORE_INDEX = 255


@dataclass(frozen=True)
class DataSpec:
    """Describes the samples of a data module, so that a task can build a fitting network.

    Args:
        modalities: Number of bands by modality, in the order of the network's stems.
        target: Kind of the annotation: ``"label"`` a class per image, ``"mask"`` a class per
            pixel, ``"boxes"`` horizontal and ``"oriented_boxes"`` oriented boxes with a class each,
            ``"none"`` for images without annotation.
        classes: Class names by label; empty without annotation.
        size: Height and width of the samples in pixels.

    Raises:
        ValueError: If an argument is not as above.
    """

    modalities: Mapping[str, int]
    target: Target = "none"
    classes: Sequence[str] = ()
    size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.modalities:
            raise ValueError("modalities must name at least one modality")
        if self.target not in get_args(Target):
            raise ValueError(f"target must be one of {get_args(Target)}, got {self.target!r}")
        if len(self.classes) > IGNORE_INDEX and self.target == "mask":
            raise ValueError(f"masks hold at most {IGNORE_INDEX} classes, got {len(self.classes)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints."""
        return {
            "modalities": dict(self.modalities),
            "target": self.target,
            "classes": list(self.classes),
            "size": list(self.size),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DataSpec":
        """Return the specification of :meth:`to_dict`.

        Args:
            content: Its result.

        Raises:
            ValueError: If the content is something else.
        """
        try:
            height, width = content["size"]
            return cls(
                dict(content["modalities"]),
                content["target"],
                tuple(content["classes"]),
                (int(height), int(width)),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the specification of a data set: {content}") from error
