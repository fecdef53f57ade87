# SPDX-License-Identifier: Apache-2.0
"""Train a classifier, from scratch or from a pretrained encoder, and score it."""

EXAMPLE = (
    "rsvheat finetune --config finetune_eurosat --data.dataset.root images "
    "--model.checkpoint runs/mine/last.ckpt --output runs/classes"
)
EXTRAS = ("train",)


def run(arguments: list[str]) -> int:
    """Run the command."""
    from rsvheat.commands._training import TrainingCLI
    from rsvheat.tasks import ClassificationTask

    return TrainingCLI(
        __name__,
        arguments,
        ClassificationTask,
        defaults={
            "output": "runs/finetune",
            "data.dataset": {"class_path": "rsvheat.data.ClassFolders"},
            "data.crop.size": 64,
        },
        trainer={"max_epochs": 50},
    ).fit()
