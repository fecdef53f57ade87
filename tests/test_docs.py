# SPDX-License-Identifier: Apache-2.0
"""The Python and the commands of README and of the documentation run; what they point to exists.

They run in the order of the pages, in one folder: later ones go on with what earlier ones wrote.
"""

import functools
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from rsvheat import cli

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
PAGES = ["README.md", *(f"docs/{name}" for name in NAVIGATION)]
TEXTS = {page: (ROOT / page).read_text("utf-8") for page in PAGES}

# Options that make commands short enough for a test; they come after those of the page.
IN_PROCESS = "--data.loader.num_workers=0"
SHORT_TRAINING = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--data.loader.batch_size=2",
    "--data.statistics_images=8",
    IN_PROCESS,
]
SHORT = {
    **dict.fromkeys(("fit", "finetune", "pretrain"), SHORT_TRAINING),
    "evaluate": [IN_PROCESS, "--panels=1"],
}


class Block(NamedTuple):
    """A block of code of a page, and why it is not run, which a comment right before it says."""

    page: str
    why: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


BLOCKS = [
    Block(page, *found)
    for page, text in TEXTS.items()
    for found in re.findall(
        r"(?:<!-- not run by a test: (.*?) -->\n)?```(python|sh)\n(.*?)```", text, re.DOTALL
    )
]

pytestmark = pytest.mark.source_tree


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the commands read, in which they leave their results for each other."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "plugins", folder / "tests" / "plugins")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> Iterator[None]:
    """Run in the checkout on one thread, as other tests may share the machine."""
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, whose environment is the tests'."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def commands(block: Block) -> list[str]:
    """Return a block's commands, lines that go on joined."""
    lines = re.sub(r"\\\n *", "", block.text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def words(command: str) -> list[str]:
    """Return a command's words, without variables before it and comments after it."""
    found = shlex.split(command, comments=True)
    return [w for i, w in enumerate(found) if not re.fullmatch(r"\w+=.*", w) or i > 0]


def name(command: str) -> str:
    """Return the name of a command of rsvheat."""
    return next(w for w in words(command)[1:] if w in cli._commands())


RUN = [block for block in BLOCKS if not block.why]


@pytest.mark.parametrize("block", RUN, ids=str)
@pytest.mark.usefixtures("_restored")
def test_blocks_run(block: Block, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if block.language == "python":
        exec(compile(block.text, block.page, "exec"), {"__name__": "page"})
        return
    for package in ("lightning", "rasterio", "matplotlib", "onnxruntime"):
        pytest.importorskip(package)
    for command in commands(block):
        if (block.page, command) != FIRST[command]:
            continue  # another page has it, too
        if command.startswith("rsvheat ") and not re.search(r"[$|>]", command):
            # In this process, which has imported what takes seconds.
            code = cli.main([*words(command)[1:], *SHORT.get(name(command), [])])
            assert code == 0, f"{command}\n{capsys.readouterr().err}"
            continue
        done = bash(command, checkout)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr


# The place of each command that runs, the first if there are several.
FIRST = {
    command: (block.page, command)
    for block in reversed(RUN)
    if block.language == "sh"
    for command in commands(block)
}


def check_installation(command: str, checkout: Path) -> None:
    """The extras exist."""
    found = re.fullmatch(r"pip install '(?:\.|rsvheat)\[(.*)\]'", command)
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
    """Scripts, their subcommands and options exist, options of rsvheat, and marks of tests."""
    program, *arguments = words(command)
    if Path(program).suffix == ".sh":
        assert (ROOT / program).exists()
        return
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


def check_options(command: str, checkout: Path) -> None:
    """The command and its options exist; files and clusters that it names need not."""
    program, *_ = words(command)
    assert program in ("rsvheat", "sbatch", "dask"), command
    if program != "rsvheat":
        return
    usage = help_of(name(command))
    for option in re.findall(r"--[\w.]+", command):
        top = option.split(".")[0] if not option.startswith(("--data.", "--model.")) else option
        assert re.search(rf"{re.escape(top)}(?![\w-])", usage) or "." in top, option


def check_syntax(block: Block) -> None:
    """Python compiles; its packages are not installed for this test."""
    compile(block.text, block.page, "exec")


@functools.cache
def help_of(command: str) -> str:
    """Return what a command of rsvheat says of its options."""
    done = bash(f"rsvheat {command} --help", ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    left_out = [b for b in BLOCKS if b.why and b.language == "sh"]
    found = (words(command) for block in left_out for command in commands(block))
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
    "your data": check_options,
    "cluster": check_options,
}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.why], ids=str)
def test_blocks_that_are_not_run_are_possible(block: Block, checkout: Path) -> None:
    if block.language == "python":
        assert block.why == "needs other packages"
        check_syntax(block)
        return
    assert block.why in CHECKS
    for command in commands(block):
        CHECKS[block.why](command, checkout)


def test_every_command_is_run() -> None:
    used = {name(command) for command in FIRST if command.startswith("rsvheat ")}
    assert used == set(cli._commands()) - {"demo"}  # which make demo is


def test_readme_is_short_and_sets_up_everything() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
    made = {
        command.split("#")[0].strip()
        for block in BLOCKS
        if block.page == "README.md" and block.why == "make"
        for command in commands(block)
    }
    assert made >= {"make demo", "make test"}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_exist(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [t for t in targets if not (ROOT / page).parent.joinpath(t).exists()] == []
