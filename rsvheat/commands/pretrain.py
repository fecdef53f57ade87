# SPDX-License-Identifier: Apache-2.0
"""Pretrain an encoder on optical, SAR or other images, without labels."""

EXAMPLE = (
    "rsvheat pretrain --config pretrain_nano_cpu --data.dataset.folders.optical images/optical "
    "--data.dataset.folders.sar images/sar --output runs/mine"
)
EXTRAS = ("train",)


def run(arguments: list[str]) -> int:
    """Run the command."""
    from rsvheat.commands._training import TrainingCLI
    from rsvheat.tasks import PretrainingTask

    return TrainingCLI(
        __name__,
        arguments,
        PretrainingTask,
        defaults={
            "output": "runs/pretrain",
            "data.dataset": {"class_path": "rsvheat.data.ImageFolders"},
            "data.crop.window": 448,
        },
        trainer={"max_epochs": 100},
    ).fit()
