# SPDX-License-Identifier: Apache-2.0
"""Score a trained network, or an encoder by nearest neighbors and a linear probe."""

from rsvheat.commands._parser import flags, one_line, texts
from rsvheat.commands._recipes import with_recipes

EXAMPLE = "rsvheat evaluate --checkpoint runs/mine/last.ckpt --data.dataset.root images"
EXTRAS = ("train",)


def run(arguments: list[str]) -> None:
    """Run the command."""
    import jsonargparse

    from rsvheat import cli
    from rsvheat.data.datamodule import DataModule
    from rsvheat.tasks.evaluation import evaluate
    from rsvheat.training.console import quieten

    if not cli.debugging:
        quieten()

    class Parser(jsonargparse.ArgumentParser):
        error = one_line

    parser = Parser(**texts(__name__))
    parser.add_argument("-c", "--config", action="config", help="Path or name of a recipe.")
    parser.add_class_arguments(DataModule, "data")
    parser.add_function_arguments(evaluate, skip={"data"})
    parser.set_defaults(
        {"data.dataset": {"class_path": "rsvheat.data.ClassFolders"}, "data.crop.size": 64}
    )
    parser.link_arguments("seed", "data.seed")
    config = parser.parse_args(with_recipes(flags(arguments, evaluate)))
    values = vars(parser.instantiate(config))
    values.pop("config")
    for method, scores in evaluate(**values).items():
        print(f"{method}: {scores}")
