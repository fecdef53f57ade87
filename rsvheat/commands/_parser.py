# SPDX-License-Identifier: Apache-2.0
"""What the commands' arguments have in common."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rsvheat.cli import UsageError, summary
from rsvheat.commands._recipes import with_recipes


def one_line(self: Any, message: str, ex: Exception | None = None) -> NoReturn:
    """Report wrong arguments; an ArgumentParser's ``error``."""
    if not self.exit_on_error:
        # A parser of nested arguments: the command's says whose they are.
        raise argparse.ArgumentError(None, condense(message)) from ex
    program = self.prog.replace(" [options]", "")
    raise UsageError(f"{condense(message)} (see {program} --help)") from ex


class PlainParser(argparse.ArgumentParser):
    """For commands that need nothing but Python.

    Args:
        name: Of the command's module.
    """

    error = one_line

    def __init__(self, name: str) -> None:
        super().__init__(**texts(name))


def condense(message: str) -> str:
    """Return the part of jsonargparse's many lines that says what is wrong.

    It nests what went wrong with each type that a value might have had. The innermost key and the
    first complaint about it are what matters.
    """
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    keys = re.findall(r'Parser key "([^"]+)"', message)
    begin = "Expected|Problem|Does not|Option"
    complaint = [i for i, line in enumerate(lines) if re.match(begin, line)]
    # What a nested parser said has been through here already.
    nested = re.search(r"^[ -]*--([\w.]+): (.+)$", message, re.MULTILINE)
    if keys and nested:
        return f"--{'.'.join((*dict.fromkeys(keys), nested[1]))}: {nested[2]}"
    required = re.search(r"the following arguments are required: ([\w.]+)", message)
    if keys and required:
        return f"--{'.'.join((*dict.fromkeys(keys), required[1]))} is required"
    if not keys or not complaint:
        return " ".join(lines)
    last = max(i for i, line in enumerate(lines) if "Parser key" in line)
    found = next((i for i in complaint if i >= last and "Union" not in lines[i]), complaint[0])
    text = lines[found]
    if text.endswith(":") and found + 1 < len(lines):
        text = f"{text} {lines[found + 1]}"
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("Got value:", "got")
    return f"--{'.'.join(dict.fromkeys(keys))}: {text}"


def texts(name: str) -> dict[str, Any]:
    """Return what an ArgumentParser says of a command.

    Args:
        name: Of its module.
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
        arguments: The command line's.
        option: Of the values true and false, with its dashes.
        text: Whether it takes texts too: then what follows is its value unless it is an option.
    """

    def is_value(word: str) -> bool:
        return not word.startswith("-") if text else word.lower() in ("true", "false")

    following = [*arguments, "-"][1:]
    return [
        f"{word}=true" if word == option and not is_value(after) else word
        for word, after in zip(arguments, following, strict=True)
    ]


def run_function(
    function: Callable[..., Any],
    arguments: list[str],
    name: str,
    defaults: dict[str, Any] | None = None,
    positional: bool = True,
) -> Any:
    """Call a function with arguments from the command line and configuration files.

    Args:
        function: Its annotations and docstring say what there is.
        arguments: The command line's.
        name: Of the command's module.
        defaults: Instead of the function's.
        positional: Whether what is required has no ``--name``.

    Returns:
        What the function does.
    """
    import jsonargparse

    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is False:
            arguments = flag(arguments, f"--{parameter.name}")

    class Parser(jsonargparse.ArgumentParser):
        error = one_line

    return jsonargparse.auto_cli(
        function,
        with_recipes(arguments),
        set_defaults=defaults,
        as_positional=positional,
        parser_class=Parser,
        **texts(name),
    )
