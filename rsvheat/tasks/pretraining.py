# SPDX-License-Identifier: Apache-2.0
"""Self-supervised pretraining as a Lightning module."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from rsvheat.data.spec import DataSpec
from rsvheat.models import (
    PretrainingOutput,
    RSVHeatPretraining,
    create_pretraining_model,
    parameter_groups,
)
from rsvheat.training.logs import EpochMeans
from rsvheat.training.optimization import Optimization
from rsvheat.training.task import Task

PRETRAINING = Optimization()


class PretrainingTask(Task):
    """Trains an encoder without annotation, by ``rsvheat.models.RSVHeatPretraining``.

    Each step logs ``train/loss`` with its parts, statistics of the features that reveal collapse,
    and the learning rate, in several processes those of the first; each epoch logs
    ``train/<name>_epoch``, means over its batches and all processes. Masks and views follow from
    the seed, the epoch, the batch and the process alone, so a run that resumes from a checkpoint
    draws those that it would have drawn.

    After training, ``task.network.encoder`` is what to keep; ``rsvheat.load_checkpoint`` finds
    it in the checkpoint.

    Args:
        spec: Description of the data, from ``rsvheat.data.DataModule.spec``.
        variant: Name of the encoder, as for ``rsvheat.create_model``.
        encoder_options: Further arguments of ``rsvheat.models.RSVHeat``.
        optimization: Optimizer and learning rate.
        seed: Seed of masks and views.
        images_every: Number of epochs between pictures of input, bands and reconstruction in
            TensorBoard; 0 for none.
        images: Number of samples in such a picture.
        **options: Further arguments of ``rsvheat.models.RSVHeatPretraining``.

    Raises:
        ValueError: If there is no such variant, or an argument has a wrong value.
    """

    def __init__(
        self,
        spec: DataSpec,
        variant: str = "rsvheat_nano",
        *,
        encoder_options: Mapping[str, Any] | None = None,
        optimization: Optimization = PRETRAINING,
        seed: int = 0,
        images_every: int = 10,
        images: int = 8,
        **options: Any,
    ) -> None:
        network = create_pretraining_model(
            variant,
            spec.modalities,
            img_size=spec.size,
            encoder_options=encoder_options,
            **options,
        )
        super().__init__(network, optimization, seed)
        self.network: RSVHeatPretraining
        self.images_every = images_every
        self.images = images
        self.epoch_means = EpochMeans()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it with its parts."""
        if batch_idx == 0 and self.images_every and self.current_epoch % self.images_every == 0:
            self._log_pictures(batch)
        generator = self._generator(self.step_seed(batch_idx, 1))
        output = self.network(batch["images"], batch["index"], generator)
        tensors = {"loss": output.loss.detach(), **output.losses, **output.statistics}
        # One copy from the device for all of them.
        values = dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
        self.log_step(values, batch_idx)
        self.epoch_means.update(values)
        loss: Tensor = output.loss
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        for name, value in self.epoch_means.compute(self.trainer).items():
            # The same in all processes already; Lightning warns unless told to see to that.
            self.log(f"train/{name}_epoch", value, sync_dist=True)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Log the loss on other images, with masks that are the same in every epoch."""
        generator = self._generator(self.seed + batch_idx)
        output = self.network(batch["images"], batch["index"], generator)
        values = {"loss": output.loss, **output.losses, **output.statistics}
        self.log_dict(
            {f"val/{name}": value for name, value in values.items()},
            # Samples, not images: as many in each process, or Lightning's mean over them is off.
            batch_size=batch["size"],
            sync_dist=True,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with weight decay, and those without."""
        return parameter_groups(self.network, weight_decay=self.optimization.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of the network and its data, and the means so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_means"] = self.epoch_means.state_dict(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume the means."""
        self.epoch_means.load_state_dict(checkpoint["epoch_means"], self.global_rank)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    @torch.no_grad()
    def _log_pictures(self, batch: Mapping[str, Any]) -> None:
        """Log pictures of the batch's first samples; by every process, as losses span them."""
        index = {name: rows[rows < self.images] for name, rows in batch["index"].items()}
        images = {name: batch["images"][name][: len(rows)] for name, rows in index.items()}
        self.network.eval()
        generator = self._generator(self.seed)
        output = self.network(images, index, generator, with_images=True)
        self.network.train()
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger) and self.trainer.is_global_zero:
                for name, picture in pictures(output, self.images).items():
                    logger.experiment.add_image(f"images/{name}", picture, self.global_step)


def pictures(output: PretrainingOutput, samples: int) -> dict[str, Tensor]:
    """Compose pictures of the input, bands and reconstruction of a step.

    Args:
        output: Output of the network, with images.
        samples: Largest number of rows.

    Returns:
        By modality (3, H, W) in [0, 1]: a row per image, and in it the image, its low and high band
        and its reconstruction. They share the image's scale, the high band around medium gray.
    """
    result = {}
    for name, target in output.target.items():
        rows = []
        for row in range(min(samples, len(target))):
            low, high = torch.aminmax(target[row].float())
            span = (high - low).clamp(min=1e-6)
            images = [(target, low), (output.low[name], low), (output.high[name], -span / 2)]
            if name in output.reconstruction:
                images.append((output.reconstruction[name], low))
            shown = [((image[row].float() - zero) / span).clamp(0, 1) for image, zero in images]
            rows.append(torch.cat([_rgb(image) for image in shown], dim=2))
        if rows:
            result[name] = torch.cat(rows, dim=1).cpu()
    return result


def _rgb(image: Tensor) -> Tensor:
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
