# SPDX-License-Identifier: Apache-2.0
"""The base class of tasks on annotated images, and the registry of them."""

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from typing_extensions import Self

from rsvheat.checkpoint import TrainedModel, load_encoder
from rsvheat.data.spec import DataSpec, Target
from rsvheat.evaluation import save_figure
from rsvheat.models import RSVHeat, create_model, parameter_groups
from rsvheat.models.task_model import TaskModel
from rsvheat.training.logs import CSVLog
from rsvheat.training.optimization import Optimization
from rsvheat.training.task import Task

_LOGGER = logging.getLogger("rsvheat.tasks")

FINETUNING = Optimization(base_lr=5e-4, betas=(0.9, 0.999))

# Task classes by the name of their network's task: how a checkpoint is evaluated.
TASKS: dict[str, type["SupervisedTask"]] = {}

# Arguments that choose the first weights; a checkpoint replaces these.
_INITIALIZATION = ("checkpoint", "pretrained", "stems", "inflate_stems")


class Scores(Protocol):
    """Scores of a network on a set of samples."""

    def logged(self) -> dict[str, float]:
        """Return the values that training logs, by name."""

    def __str__(self) -> str:
        """Return the most important values in one line."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""

    def save(
        self, folder: str | PathLike[str], name: str = ..., about: Mapping[str, Any] | None = ...
    ) -> Any:
        """Write the scores as files, and return their paths."""


class SupervisedTask(Task):
    """Trains a task model on annotated images, from scratch or from a trained encoder.

    To add a task, write a ``rsvheat.models.task_model.TaskModel`` and derive a class that
    names it as ``model`` and has ``losses``, ``metrics`` and ``compute_scores``. It
    is registered for evaluation when it is defined, also in a module outside of this package.

    Logs ``train/loss`` and the other losses, ``val/loss`` and what ``compute_scores`` gives.
    After a test ``scores`` is set.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, as for ``rsvheat.create_model``; by default that of the
            checkpoint, and ``"rsvheat_nano"`` without one.
        checkpoint: Path of the weights to start from, of any task, of pretraining or published; see
            ``rsvheat.load_checkpoint``.
        pretrained: Whether to start from the bundled weights instead.
        encoder_options: Further arguments of ``rsvheat.models.RSVHeat``.
        stems: Stem of the weights that each modality takes, see ``rsvheat.load_checkpoint``.
        inflate_stems: Whether stems may be adapted to another number of bands, see
            ``rsvheat.load_checkpoint``.
        model_options: Further arguments of the task model.
        optimization: Optimizer and the learning rate, which is that of the decoder or head.
        layer_decay: Factor on the learning rate for each block between a parameter and the head.
        frozen_stages: Number of the encoder's first stages that are not trained, stems included.
        seed: Seed of the randomness in its steps.

    Attributes:
        model: Class of the network.
        target: Kind of annotation that the task learns from.
        scored: Metrics of the samples seen since the last scores.
        scores: Scores of the last test.

    Raises:
        ValueError: If the data does not fit the task, or an argument is not as above.
        FileNotFoundError: If there is no such checkpoint.
        CheckpointError: If the checkpoint is damaged or does not fit.
    """

    model: ClassVar[type[TaskModel]]
    target: ClassVar[Target]
    mode: ClassVar[Literal["min", "max"]] = "max"

    def __init_subclass__(cls, **options: Any) -> None:
        """Register a subclass that names its network."""
        super().__init_subclass__(**options)
        if "model" in cls.__dict__:
            TASKS[cls.model.task] = cls

    def __init__(
        self,
        spec: DataSpec,
        variant: str | None = None,
        *,
        checkpoint: str | None = None,
        pretrained: bool = False,
        encoder_options: Mapping[str, Any] | None = None,
        stems: Mapping[str, str] | None = None,
        inflate_stems: bool = False,
        model_options: Mapping[str, Any] | None = None,
        optimization: Optimization = FINETUNING,
        layer_decay: float = 1.0,
        frozen_stages: int = 0,
        seed: int = 0,
    ) -> None:
        # Hyperparameters of a checkpoint are plain values.
        if isinstance(spec, Mapping):
            spec = DataSpec.from_dict(spec)
        if isinstance(optimization, Mapping):
            optimization = Optimization(**optimization)
        if spec.target != self.target:
            raise ValueError(
                f"{type(self).__name__} learns from annotation of the kind {self.target!r}, and "
                f"the data set has {spec.target!r}"
            )
        arguments = {
            "modalities": self.stems_of(spec, model_options or {}),
            "img_size": spec.size,
            **self.model.encoder_arguments(len(spec.classes)),
            **(encoder_options or {}),
        }
        if checkpoint is None:
            variant = variant or "rsvheat_nano"
            encoder = create_model(
                variant,
                pretrained=pretrained,
                stems=stems,
                inflate_stems=inflate_stems,
                **arguments,
            )
        elif pretrained:
            raise ValueError("give a checkpoint or pretrained, not both")
        else:
            encoder, report = load_encoder(
                checkpoint, variant, stems=stems, inflate_stems=inflate_stems, **arguments
            )
            _LOGGER.info("%s", report)
        network = self.model(encoder, len(spec.classes), **(model_options or {}))
        super().__init__(network, optimization, seed)
        self.network: TaskModel
        self.spec, self.layer_decay, self.frozen_stages = spec, layer_decay, frozen_stages
        self.save_hyperparameters(ignore=list(_INITIALIZATION), logger=False)
        self.hparams.update(
            {"variant": variant or "rsvheat_nano", "encoder_options": encoder.config}
        )
        self.val_loss = MeanMetric()
        self.scored = self.metrics()
        self.scores: Scores | None = None
        self._freeze()

    @classmethod
    def around(cls, trained: TrainedModel) -> Self:
        """Return a task that scores a trained network, in ``Trainer.test``.

        Args:
            trained: Result of ``rsvheat.load``.
        """
        task = cls(trained.spec)
        task.network = trained.network
        return task

    @classmethod
    def stems_of(cls, spec: DataSpec, model_options: Mapping[str, Any]) -> dict[str, int]:
        """Return the bands of the encoder's stems by name: those of the modalities by default.

        Args:
            spec: Description of the data.
            model_options: Further arguments of the task model.
        """
        return dict(spec.modalities)

    @abstractmethod
    def losses(self, output: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of a batch by name.

        Args:
            output: Output of the network.
            batch: Batch, see ``rsvheat.data.sample``.

        Returns:
            Losses by name; ``"loss"`` is the one that is minimized, others are logged.
        """

    @abstractmethod
    def metrics(self) -> Metric | MetricCollection:
        """Return new metrics of torchmetrics, which add up over all processes."""

    @abstractmethod
    def compute_scores(self) -> Scores:
        """Return the scores of ``self.scored``."""

    def update_scores(self, output: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch to ``self.scored``; the ignored label keeps repeated samples out.

        Args:
            output: Output of the network.
            batch: Batch, see ``rsvheat.data.sample``.
        """
        self.scored.update(output, batch[self.target])

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the network's output for a batch."""
        return self.network(batch["images"], batch["index"])

    def training_losses(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return the losses of a training step; tasks that blend or mask samples override it."""
        return self.losses(self(batch), batch)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        losses = self.training_losses(batch, batch_idx)
        # One copy from the device for all of them.
        values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
        self.log_step(dict(zip(losses, values, strict=True)), batch_idx)
        return losses["loss"]

    def validation_loss(self, output: Any, batch: Mapping[str, Any]) -> Tensor:
        """Return the mean loss of a validation batch."""
        return self.losses(output, batch)["loss"]

    def validation_weight(self, batch: Mapping[str, Any]) -> int:
        """Return the weight of a validation batch's loss: the samples that no other batch has."""
        return int((~batch["repeated"]).sum())

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Score a batch."""
        self.add_validation(self(batch), batch, batch_idx)

    def add_validation(self, output: Any, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add a validation batch to the scores and the loss.

        Args:
            output: Output of the network.
            batch: Batch, see ``rsvheat.data.sample``.
            batch_idx: Number of the batch.
        """
        self.update_scores(output, batch)
        weight = self.validation_weight(batch)
        if weight:
            self.val_loss.update(self.validation_loss(output, batch), weight)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        scores = self.compute_scores()
        self.scored.reset()
        # Lightning's own mean rounds the number of samples where processes have different ones.
        self.log("val/loss", self.val_loss.compute(), sync_dist=True)
        self.val_loss.reset()
        for name, value in scores.logged().items():
            self.log(f"val/{name}", value, prog_bar=f"val/{name}" == self.monitor, sync_dist=True)

    def log_figure(self, name: str, figure: Any) -> None:
        """Log a picture of validation samples: to TensorBoard, and beside a run's table of losses.

        Args:
            name: Name such as ``"val/worst"``, whose file is ``val_worst.png``.
            figure: Matplotlib figure.
        """
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, self.global_step)
            elif isinstance(logger, CSVLog):
                save_figure(logger.path.with_name(f"{name.replace('/', '_')}.png"), figure)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> STEP_OUTPUT:
        """Add a batch to the scores."""
        self.update_scores(self(batch), batch)
        return None

    def on_test_epoch_end(self) -> None:
        """Set and log the scores."""
        self.scores = self.compute_scores()
        self.scored.reset()
        for name, value in self.scores.logged().items():
            self.log(f"test/{name}", value, sync_dist=True)

    def save_test(
        self,
        folder: str | PathLike[str],
        name: str = "scores",
        about: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Write the results of the last test as files.

        Args:
            folder: Folder of the files; made if need be.
            name: Name with which the files begin.
            about: Further entries of the JSON files.

        Returns:
            The files, those of the scores first.

        Raises:
            RuntimeError: If there was no test.
        """
        if self.scores is None:
            raise RuntimeError("there are no results of a test to write")
        return list(self.scores.save(folder, name, about))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters by weight decay and distance to the head."""
        return parameter_groups(
            self.network,
            weight_decay=self.optimization.weight_decay,
            layer_decay=self.layer_decay,
        )

    def _frozen(self) -> list[torch.nn.Module]:
        encoder: RSVHeat = self.network.encoder
        if not 0 <= self.frozen_stages <= len(encoder.stages):
            raise ValueError(
                f"frozen_stages must be 0 to {len(encoder.stages)}, got {self.frozen_stages}"
            )
        if self.frozen_stages == 0:
            return []
        return [encoder.stems, *encoder.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        """Keep frozen stages in evaluation mode, without stochastic depth."""
        for module in self._frozen():
            module.eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the network and its data; make hyperparameters plain values."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"] = _plain(self.hparams)


def _plain(value: Any) -> Any:
    """Return dictionaries, lists, numbers and texts, which ``weights_only=True`` reads."""
    if isinstance(value, DataSpec):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
