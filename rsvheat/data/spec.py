# SPDX-License-Identifier: Apache-2.0
"""Description of a data set for a task: bands, target, classes and size."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

Target: TypeAlias = Literal["none", "label", "mask", "boxes", "oriented_boxes"]

# Value of mask pixels that neither losses nor metrics count: unlabeled and without data.
IGNORE_INDEX = 255
# Label of samples that metrics do not count, since another process or batch has them, too.
IGNORE_LABEL = -1


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

    # Not a dataclass: jsonargparse would ask for its fields where a data module gives a whole one.
    def __init__(
        self,
        modalities: Mapping[str, int],
        target: Target = "none",
        classes: Sequence[str] = (),
        size: tuple[int, int] = (224, 224),
    ) -> None:
        if not modalities:
            raise ValueError("modalities must name at least one modality")
        if target not in get_args(Target):
            raise ValueError(f"target must be one of {get_args(Target)}, got {target!r}")
        if target == "mask" and len(classes) > IGNORE_INDEX:
            raise ValueError(f"masks hold at most {IGNORE_INDEX} classes, got {len(classes)}")
        self.modalities = dict(modalities)
        self.target: Target = target
        self.classes = tuple(classes)
        self.size = (size[0], size[1])

    def __eq__(self, other: object) -> bool:
        """Return whether another specification has the same values."""
        return isinstance(other, DataSpec) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Return a hash of the values."""
        return hash(repr(self))

    def __repr__(self) -> str:
        """Return the arguments."""
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"DataSpec({values})"

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
        """Return the specification of ``to_dict``.

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
