# SPDX-License-Identifier: Apache-2.0
"""Score a trained network, or an encoder by nearest neighbors and a linear probe."""

from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat evaluate --checkpoint runs/mine/last.ckpt --data.dataset.root images"


def run(arguments: list[str]) -> None:
    """Run the command."""
    from rsvheat import cli
    from rsvheat.tasks.evaluation import evaluate
    from rsvheat.training.console import quieten

    if not cli.debugging:
        quieten()
    defaults = {"data.dataset": {"class_path": "rsvheat.data.ClassFolders"}, "data.crop.size": 64}
    scores = run_function(evaluate, arguments, __name__, defaults, positional=False)
    for method, score in scores.items():
        print(f"{method}: {score}")
