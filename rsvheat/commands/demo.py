# SPDX-License-Identifier: Apache-2.0
"""Pretrain, fine-tune, compare and map on the images that come along, with a report at the end."""

from rsvheat.commands._parser import PlainParser

EXAMPLE = "rsvheat demo"


def run(arguments: list[str]) -> None:
    """Run the command."""
    from rsvheat import cli
    from rsvheat.demo import FINETUNE_EPOCHS, PRETRAIN_EPOCHS, run_demo

    def epochs(of: tuple[int, int]) -> str:
        return f"{of[0]} by default, {of[1]} with --full"

    parser = PlainParser(__name__)
    parser.add_argument("--output", metavar="DIR", default="runs/demo", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random; default: 0")
    parser.add_argument("--data", metavar="DIR", help="holds eurosat_rgb and s1s2_volkov")
    parser.add_argument(
        "--full", action="store_true", help="longer, on the whole datasets in ../shared/data"
    )
    parser.add_argument("--pretrain_epochs", type=int, metavar="N", help=epochs(PRETRAIN_EPOCHS))
    parser.add_argument("--finetune_epochs", type=int, metavar="N", help=epochs(FINETUNE_EPOCHS))
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: torch's")
    parser.add_argument(
        "--restart", action="store_true", help="remove the demo in the folder and begin again"
    )
    options = vars(parser.parse_args(arguments))
    run_demo(**options, quiet=not cli.debugging)
