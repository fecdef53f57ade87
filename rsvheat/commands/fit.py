# SPDX-License-Identifier: Apache-2.0
"""Train any task from a recipe, and score it."""

EXAMPLE = "rsvheat fit --config finetune_eurosat --data.dataset.root images --output runs/mine"
EXTRAS = ("train",)


def run(arguments: list[str]) -> int:
    """Run the command."""
    from rsvheat.commands._training import TrainingCLI
    from rsvheat.training import Task

    return TrainingCLI(
        __name__, arguments, Task, defaults={"output": "runs/fit"}, trainer={"max_epochs": 50}
    ).fit()
