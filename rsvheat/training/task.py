# SPDX-License-Identifier: Apache-2.0
"""The base class of tasks: Lightning modules that train a network."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from rsvheat.checkpoint import training_content
from rsvheat.data.datamodule import DataModule
from rsvheat.training.fsdp2 import shard
from rsvheat.training.optimization import Optimization
from rsvheat.training.process_exit import end_gently


class Task(LightningModule, ABC):
    """Trains a network.

    All randomness of a step, stochastic depth included, follows from the seed, the epoch, the batch
    and the process. So it is the same for any number of workers that read, and in a run that
    resumes from a checkpoint.

    Args:
        network: Network to train.
        optimization: Optimizer and learning rate.
        seed: Seed of the randomness in its steps.

    Attributes:
        monitor: Name of the logged value by which checkpoints are the best.
        mode: Whether its ``"min"`` or ``"max"`` is the best.
    """

    monitor: ClassVar[str] = "train/loss_epoch"
    mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, network: nn.Module, optimization: Optimization, seed: int) -> None:
        super().__init__()
        self.network = network
        self.optimization = optimization
        self.seed = seed

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters in groups, with their weight decay and ``lr_scale``."""

    def images_in(self, batch: Mapping[str, Any]) -> int:
        """Return the number of images in a batch, those of all modalities counted."""
        return sum(len(images) for images in batch["images"].values())

    def setup(self, stage: str) -> None:
        """Have processes that train together end without an abort."""
        end_gently()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch's own generators for the step."""
        torch.manual_seed(self.step_seed(batch_idx))

    def step_seed(self, batch_idx: int, *purpose: int) -> int:
        """Return the seed of a step, another for each purpose."""
        entropy = (self.seed, self.current_epoch, batch_idx, self.global_rank, *purpose)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule."""
        return self.optimization.configure(self.parameter_groups(), self.trainer)

    def configure_model(self) -> None:
        """Shard the network where the strategy is FSDP2.

        Raises:
            ValueError: If its weights are to be averaged, too: sharded ones cannot be copied.
        """
        if self.device_mesh is not None:
            callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
            if any(isinstance(callback, WeightAveraging) for callback in callbacks):
                raise ValueError("ema does not go with FSDP2: leave it out, or take strategy ddp")
            shard(self.network, self.device_mesh)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the network and its data, if a data module has one."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, DataModule):
            checkpoint["rsvheat"] = training_content(self.network, **data.description())

    def log_step(self, values: Mapping[str, float], batch_idx: int) -> None:
        """Log a step's values, of which ``loss`` has to be finite, and the learning rate.

        Raises:
            FloatingPointError: If it is not: no checkpoint shall replace a good one after that.
        """
        if not math.isfinite(values["loss"]):
            parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise FloatingPointError(
                f"the loss is not finite at epoch {self.current_epoch}, batch {batch_idx} "
                f"({parts}): lower the learning rate, or look at the images"
            )
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss")
        self.log("lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
