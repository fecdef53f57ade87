# SPDX-License-Identifier: Apache-2.0
"""README's Python and its commands run as printed, and what it points to exists."""

import functools
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rsvheat import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
# What a comment right before a block says why it is not run, and the block.
SHELL = re.findall(r"(?:<!-- not run by a test: (.*?) -->\n)?```sh\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.source_tree


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the commands read, in which they leave their results for each other."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def bash(script: str, folder: Path, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, whose environment is the tests'."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",  # tests may share the machine
        **options,
    }
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def title(block: str) -> str:
    return block.splitlines()[0]


@pytest.mark.parametrize("block", PYTHON, ids=title)
def test_python_of_readme_runs(block: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})


# In the order of the file: later commands go on with what earlier ones wrote.
@pytest.mark.parametrize("block", [block for why, block in SHELL if not why], ids=title)
def test_commands_of_readme_run(block: str, checkout: Path) -> None:
    for package in ("lightning", "rasterio", "matplotlib", "onnxruntime"):
        pytest.importorskip(package)
    for command in commands(block):
        done = bash(command, checkout)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr


def commands(block: str) -> list[str]:
    """Return a block's commands, lines that go on joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def words(command: str) -> list[str]:
    """Return a command's words, without variables before it and comments after it."""
    found = shlex.split(command, comments=True)
    return [w for i, w in enumerate(found) if not re.fullmatch(r"\w+=.*", w) or i > 0]


def check_installation(command: str, checkout: Path) -> None:
    """The extras exist."""
    found = re.fullmatch(r"pip install '\.\[(.*)\]'", command)
    assert found, command
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    for extra in found[1].split(","):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


def check_target(command: str, checkout: Path) -> None:
    """Make knows how to make it."""
    found = words(command)
    assert found[0] == "make"
    done = bash(shlex.join([*found, "-n"]), checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def check_usage(command: str, checkout: Path) -> None:
    """Scripts, their subcommands and options exist, and marks of tests."""
    program, *arguments = words(command)
    if Path(program).name == "pytest":
        option, mark = arguments
        text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
        assert (option, f'"{mark}: ' in text) == ("-m", True)
        return
    assert Path(program).name == "python"
    script, options = split(arguments)
    assert options
    for option in options:
        assert re.search(rf"{option}(?![\w-])", usages(checkout)[script]), command


def split(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return a script with its operator or subcommand, and its options."""
    script = itertools.takewhile(lambda word: not word.startswith("--"), arguments)
    return tuple(script), [word for word in arguments if word.startswith("--")]


# In one process, as these scripts import much. A subcommand that does not exist leaves no text.
_HELP = """
import contextlib, importlib, io, json, pathlib, sys
sys.path.insert(0, "benchmarks")
texts = []
for path, *words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        importlib.import_module(pathlib.Path(path).stem).main([*words, "--help"])
    texts.append(text.getvalue())
print(json.dumps(texts))
"""


@functools.cache
def usages(checkout: Path) -> dict[tuple[str, ...], str]:
    """Return what scripts say of their options."""
    found = (words(command) for why, block in SHELL if why for command in commands(block))
    scripts = [split(rest)[0] for program, *rest in found if Path(program).name == "python"]
    done = bash(shlex.join(["python", "-c", _HELP, json.dumps(scripts)]), checkout)
    assert done.returncode == 0, done.stderr
    return dict(zip(scripts, json.loads(done.stdout), strict=True))


# Why blocks may be left out, and what can be said of them all the same.
CHECKS: dict[str, Callable[[str, Path], None]] = {
    "installs": check_installation,
    "make": check_target,
    "GPU": check_usage,
    "hours": check_usage,
}


@pytest.mark.parametrize(("why", "block"), [(w, b) for w, b in SHELL if w], ids=lambda v: title(v))
def test_commands_that_are_not_run_exist(why: str, block: str, checkout: Path) -> None:
    assert why in CHECKS
    for command in commands(block):
        CHECKS[why](command, checkout)


def test_most_commands_are_run() -> None:
    run = [command for why, block in SHELL if not why for command in commands(block)]
    assert len(run) >= 10
    used = {words(command)[1] for command in run if command.startswith("rsvheat ")}
    assert used == set(cli._commands()) - {"demo"}  # which make demo is


def test_files_of_readme_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert targets
    assert [t for t in targets if not (README.parent / t).exists()] == []


def test_sections_that_readme_links_to_exist() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(#([^)]+)\)", TEXT)
    assert targets
    assert [t for t in targets if t not in anchors] == []
