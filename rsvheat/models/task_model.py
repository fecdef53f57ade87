# SPDX-License-Identifier: Apache-2.0
"""The base class of networks that solve a task, and the registry of them."""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn
from typing_extensions import Self

from rsvheat.models.encoder import RSVHeat
from rsvheat.models.parameter_groups import nested_matcher

Output: TypeAlias = Literal["class", "mask", "boxes", "oriented_boxes"]

# Network classes by the name of their task; checkpoints name a task, never a class to import.
TASK_MODELS: dict[str, type["TaskModel"]] = {}

# Tasks of this package, each in a module of its name that is imported when it is asked for: some
# need torchvision, which takes seconds to import.
_BUILT_IN = (
    "classification",
    "segmentation",
    "change_detection",
    "detection",
    "oriented_detection",
)


def find_task_model(task: str) -> type["TaskModel"]:
    """Return the network class of a task.

    Args:
        task: Name of a task of this package, or of a plug-in whose module has been imported.

    Raises:
        ValueError: If there is no such task.
    """
    built_in = [
        name for name in _BUILT_IN if importlib.util.find_spec(f"{__package__}.{name}") is not None
    ]
    if task not in TASK_MODELS and task in built_in:
        importlib.import_module(f"{__package__}.{task}")
    if task not in TASK_MODELS:
        known = ", ".join(dict.fromkeys([*built_in, *TASK_MODELS])) or "none"
        raise ValueError(
            f"there is no task {task!r}; there are: {known}. A plug-in's task is there once its "
            "module is imported"
        )
    return TASK_MODELS[task]


class TaskModel(nn.Module, ABC):
    """A network for one task: an encoder, a decoder and the meaning of its output.

    A subclass that sets ``task`` is registered under that name, also one of a plug-in outside
    of this package. Checkpoints hold the task's name and ``config``, from which
    ``rsvheat.load`` builds the network again.

    Args:
        encoder: Encoder with a stem for each modality.
        num_classes: Number of classes.
        **options: Further arguments of the subclass, plain values (numbers, texts, lists).

    Attributes:
        task: Name of the task.
        output: What ``predict`` returns per image: probabilities of a ``"class"``, of a
            ``"mask"``, or ``"boxes"`` and ``"oriented_boxes"`` with scores and labels.
        encoder: The encoder.
        num_classes: Number of classes.
    """

    task: ClassVar[str]
    output: ClassVar[Output]

    def __init_subclass__(cls, **options: Any) -> None:
        """Register a subclass that names its task."""
        super().__init_subclass__(**options)
        if "task" in cls.__dict__:
            TASK_MODELS[cls.task] = cls

    def __init__(self, encoder: RSVHeat, num_classes: int, **options: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_classes = num_classes
        self.options = options

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which ``from_config`` builds the same architecture."""
        return {
            "encoder": self.encoder.config,
            "num_classes": self.num_classes,
            "options": dict(self.options),
        }

    @property
    def any_sensor(self) -> bool:
        """Whether ``predict`` takes images of some of several modalities, the others left out."""
        return bool(getattr(getattr(self, "features", None), "any_sensor", False))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the network with fresh weights.

        Args:
            config: Value of ``config``.
        """
        encoder = RSVHeat(**config["encoder"])
        return cls(encoder, config["num_classes"], **config["options"])

    @classmethod
    def encoder_arguments(cls, num_classes: int) -> dict[str, Any]:
        """Return arguments of the encoder that the task needs: by default it has no head.

        Args:
            num_classes: Number of classes.
        """
        return {"num_classes": 0}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order the encoder's parameters by depth, in timm's format.

        All other parameters come after them.

        Args:
            coarse: Whether to group by stage instead of by block.
        """
        if hasattr(self.encoder, "group_matcher"):
            return nested_matcher(self.encoder.group_matcher(coarse), "encoder")
        return {"encoder": r"^encoder\."}

    @abstractmethod
    def forward(
        self, images: Mapping[str, Tensor], index: Mapping[str, Tensor] | None = None
    ) -> Any:
        """Return what the loss takes, logits for example.

        Args:
            images: By modality (n, bands, H, W), normalized.
            index: By modality int64 (n,), positions in the batch of the samples that have it; None
                where all samples have every modality. Networks for one modality ignore it.
        """

    @abstractmethod
    def predict(self, images: Mapping[str, Tensor]) -> Any:
        """Return predictions.

        Args:
            images: By modality (B, bands, H, W), normalized.

        Returns:
            For ``output="class"`` probabilities (B, num_classes); for ``"mask"`` probabilities
            (B, num_classes, H, W); for boxes a list with a dictionary per image: ``boxes`` (N, 4)
            XYXY or (N, 5) CXCYWHR in pixels and degrees, ``scores`` (N,) and ``labels`` (N,).
        """
