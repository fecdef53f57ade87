# SPDX-License-Identifier: Apache-2.0
"""Pretrain, fine-tune, compare and map on bundled images, with a report at the end."""

from rsvheat.commands._parser import PlainParser

EXAMPLE = "rsvheat demo"
EXTRAS = ("train", "geo", "explain")


def run(arguments: list[str]) -> None:
    """Run the command."""
    from rsvheat import cli
    from rsvheat.demo import FINETUNE_EPOCHS, PRETRAIN_EPOCHS, SEGMENT_EPOCHS, run_demo

    def epochs(numbers: tuple[int, int]) -> str:
        return f"number of epochs; {numbers[0]} by default, {numbers[1]} with --full"

    parser = PlainParser(__name__)
    parser.add_argument("--output", metavar="DIR", default="runs/demo", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness; default: 0")
    parser.add_argument("--data", metavar="DIR", help="folder with eurosat_rgb and s1s2_volkov")
    parser.add_argument(
        "--full", action="store_true", help="train longer, on the whole datasets in ../shared/data"
    )
    parser.add_argument("--pretrain_epochs", type=int, metavar="N", help=epochs(PRETRAIN_EPOCHS))
    parser.add_argument("--finetune_epochs", type=int, metavar="N", help=epochs(FINETUNE_EPOCHS))
    parser.add_argument("--segment_epochs", type=int, metavar="N", help=epochs(SEGMENT_EPOCHS))
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads; default: all cores, fewer while others use some",
    )
    parser.add_argument(
        "--restart", action="store_true", help="remove the demo in the folder and begin again"
    )
    options = vars(parser.parse_args(arguments))
    run_demo(**options, quiet=not cli.debugging)
