# SPDX-License-Identifier: Apache-2.0
"""The recipes that come with the package, and their names on the command line."""

from pathlib import Path

from rsvheat.cli import UsageError

FOLDER = Path(__file__).parents[1] / "recipes"


def recipe_paths() -> dict[str, Path]:
    """Return the recipes' files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def description(path: Path) -> str:
    """Return the first comment of a recipe after its license."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return next((line for line in comments if not line.startswith("SPDX")), "")


def with_recipes(arguments: list[str]) -> list[str]:
    """Replace names of recipes by their paths.

    Args:
        arguments: Arguments from the command line; a recipe's name may follow ``--config`` or
            ``-c``.

    Raises:
        UsageError: If there is neither a file nor a recipe of a name.
    """
    result = list(arguments)
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            continue
        if equals:
            result[i] = f"{option}={_path(value)}"
        elif i + 1 < len(arguments):
            result[i + 1] = _path(arguments[i + 1])
    return result


def _path(value: str) -> str:
    recipes = recipe_paths()
    if Path(value).is_file():
        return value
    if value not in recipes:
        raise UsageError(
            f"there is no file and no recipe {value!r}; the recipes are {', '.join(recipes)}"
        )
    return str(recipes[value])
