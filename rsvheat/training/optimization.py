# SPDX-License-Identifier: Apache-2.0
"""The optimizer: learning rates by batch and step, and which parameters decay."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

REFERENCE_BATCH = 256


def warmup_cosine(step: int, total: int, warmup: int, floor: float) -> float:
    """Return the factor on the learning rate at a step.

    The factor rises linearly over the first ``warmup`` steps, is above 0 at the first of them, and
    falls along half a cosine to ``floor`` at step ``total``.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Optimization:
    """AdamW, and its learning rate by batch size and step.

    Args:
        base_lr: Learning rate for a global batch of 256 images; it is scaled linearly with the
            batch: the loader's, times the processes, times the batches accumulated.
        lr: Learning rate for any batch size, instead of ``base_lr``.
        weight_decay: Weight decay of AdamW; biases, norms and embeddings do not decay.
        betas: Decay rates of AdamW's two moments.
        warmup: Share of the steps over which the rate rises linearly; then it falls along half a
            cosine.
        floor: Share of the rate that is left at the end.

    Raises:
        ValueError: If a value is out of its range.
    """

    base_lr: float = 2e-4
    lr: float | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.05
    floor: float = 0.01

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "betas", tuple(self.betas))  # a list where it comes from a file
        if not self.base_lr > 0 or (self.lr is not None and not self.lr > 0):
            raise ValueError(f"base_lr and lr must be above 0, got {self.base_lr} and {self.lr}")
        if not 0 <= self.warmup < 1 or not 0 <= self.floor <= 1:
            raise ValueError(
                "warmup must be at least 0 and below 1 and floor from 0 to 1, got "
                f"{self.warmup} and {self.floor}"
            )

    def learning_rate(self, trainer: Trainer) -> float:
        """Return the highest learning rate of a run.

        Raises:
            ValueError: If ``lr`` is not given and the loader does not tell its batch size.
        """
        if self.lr is not None:
            return self.lr
        _ = trainer.estimated_stepping_batches  # loads the data loader
        loader = trainer.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        size: int | None = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", 0)
        if not size:
            raise ValueError(
                "the training data loader does not tell its batch size, by which base_lr is "
                "scaled: give lr instead"
            )
        processes = trainer.world_size * trainer.accumulate_grad_batches
        return self.base_lr * size * processes / REFERENCE_BATCH

    def configure(self, groups: list[dict[str, Any]], trainer: Trainer) -> dict[str, Any]:
        """Return the optimizer and the schedule, set at every step, in Lightning's format.

        Args:
            groups: Parameter groups; one with ``lr_scale`` gets that share of the rate.
            trainer: Trainer that knows the number of steps and the batch size.

        Raises:
            ValueError: If the run has no end, or as for ``learning_rate``.
        """
        total = trainer.estimated_stepping_batches
        if not 0 < total < math.inf:
            raise ValueError("the cosine schedule needs an end: set max_epochs or max_steps")
        lr = self.learning_rate(trainer)
        for group in groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        optimizer = AdamW(groups, lr=lr, betas=self.betas, weight_decay=self.weight_decay)
        warmup = int(self.warmup * total)
        course = partial(warmup_cosine, total=int(total), warmup=warmup, floor=self.floor)
        scheduler = {"scheduler": LambdaLR(optimizer, course), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
