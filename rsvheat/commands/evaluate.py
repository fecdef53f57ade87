# SPDX-License-Identifier: Apache-2.0
"""Score a classifier, or an encoder by nearest neighbours and a linear probe."""

from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat evaluate --checkpoint runs/mine/last.ckpt --data.root images"


def run(arguments: list[str]) -> None:
    """Run the command."""
    from rsvheat import cli
    from rsvheat.evaluation.evaluate import evaluate
    from rsvheat.training.console import quieten

    if not cli.debugging:
        quieten()
    data = {"class_path": "rsvheat.data.ImageFolderDataModule"}
    scores = run_function(evaluate, arguments, __name__, {"data": data}, positional=False)
    for method, score in scores.items():
        print(f"{method}: overall accuracy {score.accuracy:.4f}, mean F1 {score.mean_f1:.4f}")
