# SPDX-License-Identifier: Apache-2.0
"""The command ``rsvheat``: finds its commands, runs one, and reports errors in one line.

Each module of ``rsvheat.commands`` whose name has no leading underscore is a command. The first
line of its docstring is its help, ``EXAMPLE`` an example of its use, and ``run(arguments)`` runs it
and may return an exit code. Slow imports are inside of that function. ``EXTRAS`` names the extras
that install the packages that it needs, if there are any, and ``OPTION_EXTRAS`` the extra of an
option that needs another one.
"""

import importlib
import importlib.metadata
import os
import pkgutil
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rsvheat import commands

FAILURE, USAGE, INTERRUPTED = 1, 2, 128 + signal.SIGINT

# Commands that the overview lists first, in the order of a project; others follow by name.
_WORKFLOW = ("demo", "pretrain", "finetune", "fit", "evaluate", "predict", "explain", "export")

# Modules whose name differs from that of their distribution.
_DISTRIBUTIONS = {"PIL": "pillow"}

# Whether ``--debug`` was given.
debugging = False


class UsageError(Exception):
    """The arguments of a command are wrong; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Arguments after the program's name; those of ``sys.argv`` by default.

    Returns:
        Exit code: 0 when done, 1 after a failure, 2 for wrong usage, and as shells count them 130
        after SIGINT and 143 after SIGTERM.
    """
    global debugging
    words = list(sys.argv[1:] if arguments is None else arguments)
    debugging = "--debug" in words
    words = [word for word in words if word != "--debug"]
    plugins, words = _plugins(words)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else USAGE
    if words[0] == "--version":
        print(f"rsvheat {importlib.metadata.version('rsvheat')}")
        return 0
    name = words[0]
    try:
        for plugin in plugins:
            _import_plugin(plugin)
        return _command(name).run(words[1:]) or 0
    except UsageError as error:
        return _failed(error, name, USAGE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        # Lightning turns a KeyboardInterrupt into a SystemExit.
        if isinstance(end.__context__, KeyboardInterrupt):
            return INTERRUPTED
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        # The reader of the output, such as head, has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        return _failed(error, name, FAILURE)


def _plugins(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of ``--plugin``, and the other words."""
    plugins: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--plugin":
            others.append(word)
        else:
            plugins.append(value if equals else next(rest, ""))
    return plugins, others


def _import_plugin(name: str) -> None:
    """Import a module, which registers its tasks; processes that read data import it, too.

    Args:
        name: Name of the module, or path of its file.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"--plugin: there is no file {name}")
        sys.path.insert(0, str(path.resolve().parent))
        name = path.stem
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UsageError(f"--plugin: there is no module and no file {name!r}") from None


def _commands() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    names = sorted(name for name in names if not name.startswith("_"))
    return [name for name in _WORKFLOW if name in names] + [
        name for name in names if name not in _WORKFLOW
    ]


def _command(name: str) -> ModuleType:
    if name not in _commands():
        raise UsageError(f"there is no command {name!r}; there are {', '.join(_commands())}")
    return importlib.import_module(f"rsvheat.commands.{name}")


def command_modules() -> dict[str, ModuleType]:
    """Return the modules of all commands by name, in the order of a project."""
    return {name: _command(name) for name in _commands()}


def _overview() -> str:
    modules = command_modules()
    width = max(map(len, modules))
    lines = [
        "usage: rsvheat [--debug] [--plugin MODULE_OR_FILE] COMMAND ...",
        "",
        "Foundation models for remote sensing by heat conduction.",
        "",
        "commands:",
        *(f"  {name:{width}}  {summary(module)}" for name, module in modules.items()),
        "",
        "options:",
        "  -h, --help  This text; after a command, that command's.",
        "  --version   The version.",
        "  --debug     After an error, its traceback too.",
        "  --plugin F  A module or Python file of your own tasks and data sets, to be imported.",
        "",
        "examples:",
        *(f"  {module.EXAMPLE}" for module in modules.values()),
    ]
    return "\n".join(lines)


def summary(module: ModuleType) -> str:
    """Return a command's help in a line."""
    return (module.__doc__ or "").strip().split("\n")[0]


def _failed(error: Exception, name: str, code: int) -> int:
    if debugging:
        traceback.print_exception(error)
    print(f"rsvheat {name}: {_line(error, name)}", file=sys.stderr)
    if not debugging and not _is_expected(error):
        print("This is unexpected; --debug shows where it happened", file=sys.stderr)
    return code


def _is_expected(error: Exception) -> bool:
    """Return whether an error's message is meant for users of the command."""
    ours = isinstance(error, UsageError | ValueError | OSError | ImportError | ArithmeticError)
    return ours or type(error).__name__ == "MisconfigurationException"


def _line(error: Exception, command: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package != "rsvheat":
            return _missing(package, command)
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return text if text and _is_expected(error) else f"{type(error).__name__}: {text}"


def _missing(module: str, command: str) -> str:
    """Say which extra brings a module; of several the command's, or the one that brings least."""
    name = re.sub("[-_.]+", "-", _DISTRIBUTIONS.get(module, module)).lower()
    extras: dict[str, set[str]] = {}
    for requirement in importlib.metadata.requires("rsvheat") or ():
        found = re.match(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]", requirement)
        if found:
            needed = re.sub("[-_.]+", "-", found[1]).lower()
            extras.setdefault(found[2], set()).add(needed)
    bringing = [extra for extra in extras if name in extras[extra]]
    if not bringing:
        return f"{module} is not installed"
    own = getattr(sys.modules.get(f"rsvheat.commands.{command}"), "EXTRAS", ())
    extra = next(
        (extra for extra in own if extra in bringing),
        min(bringing, key=lambda extra: len(extras[extra])),
    )
    return f"{module} is not installed; pip install 'rsvheat[{extra}]' brings it"
