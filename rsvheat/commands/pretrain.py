# SPDX-License-Identifier: Apache-2.0
"""Pretrain an encoder on optical, SAR or other images, without labels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

EXAMPLE = (
    "rsvheat pretrain --config pretrain_nano_cpu --data.folders.optical images/optical "
    "--data.folders.sar images/sar --output runs/mine"
)


def run(arguments: list[str]) -> int:
    """Run the command."""
    from rsvheat.commands._training import TrainingCLI
    from rsvheat.data import OpticalSarDataModule
    from rsvheat.tasks import create_pretraining_task

    def link(parser: "LightningArgumentParser") -> None:
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.size", "model.img_size")
        parser.link_arguments(
            "data", "model.modalities", lambda data: data.modalities, apply_on="instantiate"
        )

    return TrainingCLI(
        __name__,
        create_pretraining_task,
        OpticalSarDataModule,
        arguments,
        run={"output": "runs/pretrain", "monitor": "train/loss_epoch", "mode": "min"},
        trainer={"max_epochs": 100, "gradient_clip_val": 1.0, "log_every_n_steps": 10},
        link=link,
    ).fit()
