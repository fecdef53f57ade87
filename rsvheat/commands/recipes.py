# SPDX-License-Identifier: Apache-2.0
"""List the recipes that come with rsvheat, or print one."""

from rsvheat.cli import UsageError
from rsvheat.commands._parser import PlainParser
from rsvheat.commands._recipes import description, recipe_paths

EXAMPLE = "rsvheat recipes pretrain_nano_cpu > mine.yaml"


def run(arguments: list[str]) -> None:
    """Run the command."""
    parser = PlainParser(__name__)
    parser.add_argument("name", nargs="?", help="Recipe to print.")
    name = parser.parse_args(arguments).name
    found = recipe_paths()
    if name is None:
        width = max(map(len, found))
        for recipe, path in found.items():
            print(f"{recipe:{width}}  {description(path)}")
    elif name in found:
        print(found[name].read_text(encoding="utf-8"), end="")
    else:
        raise UsageError(f"there is no recipe {name!r}; there are {', '.join(found)}")
