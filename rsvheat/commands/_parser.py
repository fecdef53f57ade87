# SPDX-License-Identifier: Apache-2.0
"""Parsers of the commands' arguments."""

import argparse
import inspect
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rsvheat.cli import UsageError, summary
from rsvheat.commands._recipes import with_recipes


def one_line(self: Any, message: str, ex: Exception | None = None) -> NoReturn:
    """Report wrong arguments; an ArgumentParser's ``error``."""
    if not self.exit_on_error:
        # A parser of nested arguments: the command's says whose they are.
        raise argparse.ArgumentError(None, message) from ex
    program = self.prog.replace(" [options]", "")
    raise UsageError(f"{condense(message, ex)} (see {program} --help)") from ex


class PlainParser(argparse.ArgumentParser):
    """Parses the arguments of commands that need nothing but Python.

    Args:
        name: Name of the command's module.
    """

    error = one_line

    def __init__(self, name: str) -> None:
        super().__init__(**texts(name))


def condense(message: str, error: BaseException | None = None) -> str:
    """Return in one line what is wrong with the arguments.

    jsonargparse nests what went wrong with each type that a value might have had in many lines. The
    exceptions behind them are chained: the last one has the reason, those before it name the keys.

    Args:
        message: Message of the parser.
        error: Exception behind the message.
    """
    keys: list[str] = []
    while error is not None:
        message = str(error)
        if message.startswith('Parser key "'):
            key = message.split('"')[1]
            keys += [] if keys[-1:] == [key] else [key]
        error = error.__cause__ or error.__context__
    reason = " ".join(message.split("\n")[0].split())
    reason = reason.replace("<class '", "").replace("'>", "")
    return f"--{'.'.join(keys)}: {reason}" if keys else " ".join(message.split())


def texts(name: str) -> dict[str, Any]:
    """Return the texts of a command's ArgumentParser.

    Args:
        name: Name of the command's module.
    """
    module = sys.modules[name]
    return {
        "prog": f"rsvheat {name.rpartition('.')[2]}",
        "description": summary(module),
        "epilog": f"example: {module.EXAMPLE}",
    }


def flag(arguments: list[str], option: str, *, text: bool = False) -> list[str]:
    """Give an option that stands alone the value true.

    Args:
        arguments: Arguments from the command line.
        option: Name of an option with the values true and false, with its dashes.
        text: Whether it takes texts, too: then the next word is its value unless it is an option.
    """

    def is_value(word: str) -> bool:
        return not word.startswith("-") if text else word.lower() in ("true", "false")

    following = [*arguments, "-"][1:]
    return [
        f"{word}=true" if word == option and not is_value(after) else word
        for word, after in zip(arguments, following, strict=True)
    ]


def flags(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """Give options of a function that are false by default and stand alone the value true.

    Args:
        arguments: Arguments from the command line.
        function: Function whose parameters are options.
    """
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is False:
            arguments = flag(arguments, f"--{parameter.name}")
    return arguments


def run_function(function: Callable[..., Any], arguments: list[str], name: str) -> Any:
    """Call a function with arguments from the command line and configuration files.

    Args:
        function: Function whose annotations and docstring describe the arguments.
        arguments: Arguments from the command line; required ones have no ``--name``.
        name: Name of the command's module.

    Returns:
        Result of the function.
    """
    import jsonargparse

    arguments = flags(arguments, function)

    class Parser(jsonargparse.ArgumentParser):
        error = one_line

    return jsonargparse.auto_cli(
        function, with_recipes(arguments), parser_class=Parser, **texts(name)
    )
