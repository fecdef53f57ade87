# SPDX-License-Identifier: Apache-2.0
"""Each extra is enough for its command: with its dependencies and nothing else."""

import importlib.metadata
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")
pytest.importorskip("PIL")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PROGRAM = Path(__file__).with_name("run_extra.py")

pytestmark = pytest.mark.source_tree

# Hides modules from imports, and from those who ask whether they or their packages are there.
HIDE = """
import importlib.metadata, json, runpy, sys
from importlib.machinery import PathFinder

hidden = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()
without = {name.lower().replace("_", "-") for module in hidden for name in owners[module]}
find = importlib.metadata.Distribution.from_name


def from_name(name):
    if name.lower().replace("_", "-") in without:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)


importlib.metadata.Distribution.from_name = staticmethod(from_name)


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in hidden:
            return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for name in sorted(hidden):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} can be imported")
del sys.argv[1]
"""


def closure(requirements):
    """Return the names of distributions that are installed with these requirements."""
    found, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        key = requirement.name.lower().replace("_", "-"), frozenset(requirement.extras)
        if key in found:
            continue
        found.add(key)
        try:
            needed = importlib.metadata.requires(requirement.name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        markers = [{"extra": extra} for extra in ("", *requirement.extras)]
        for one in map(Requirement, needed):
            if one.marker is None or any(one.marker.evaluate(marker) for marker in markers):
                todo.append(one)
    return {name for name, _ in found}


def hidden(extra):
    """Return top-level modules that are installed here, and would not be with one extra alone."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = list(project["dependencies"])
    if extra != "none":
        requirements += project["optional-dependencies"][extra]
    installed = closure(requirements) | {"rsvheat"}
    modules = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, distributions in modules.items()
        if not installed & {name.lower().replace("_", "-") for name in distributions}
        # The interpreter imports it before the first line of a program.
        and module != "_distutils_hack"
        and module.isidentifier()
    )


def run(extra, code, *words):
    return subprocess.run(
        [sys.executable, "-c", HIDE + code, json.dumps(hidden(extra)), *words],
        capture_output=True,
        text=True,
    )


def test_hidden_is_what_an_extra_does_not_install():
    names = set(hidden("geo"))
    assert {"lightning", "torchmetrics", "matplotlib", "pytest"} <= names
    assert not {"torch", "numpy", "rasterio", "jsonargparse", "PIL", "rsvheat", "yaml"} & names
    assert "jsonargparse" in hidden("none")


def declared():
    return tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]


# Extras that take longer; `make test-extras` installs each.
slow = [pytest.param(extra, marks=pytest.mark.slow) for extra in ("dask", "torchgeo", "test", "mm")]


@pytest.mark.parametrize(
    "extra", ["none", "geo", "explain", "export", "train", "parquet", "stac", *slow]
)
def test_an_extra_is_enough_for_its_command(extra):
    modules = {"geo": "rasterio", "parquet": "pyarrow", "explain": "matplotlib", "mm": "mmengine"}
    modules |= {"export": "onnxruntime", "train": "lightning", "stac": "pystac"}
    for module in {modules.get(extra, extra)} - {"none", "test"}:
        pytest.importorskip(module)
    done = run(extra, f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')", extra)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"extra {extra}: its command runs\n"


def test_all_is_every_extra_but_those_for_work_on_the_package():
    (requirement,) = map(Requirement, declared()["all"])
    assert requirement.name == "rsvheat"
    assert requirement.extras == set(declared()) - {"all", "bench", "test"}


def test_each_extra_is_installed_and_used_by_make():
    text = PYPROJECT.with_name("Makefile").read_text()
    (names,) = (
        line.split("?=")[1].split() for line in text.splitlines() if line[:9] == "EXTRAS ?="
    )
    assert set(names) == set(declared())
    assert set(names) < set(runpy.run_path(str(PROGRAM))["USES"])


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["predict", "image.png", "--checkpoint", "classes.ckpt"], "geo"),
        (["explain", "image.png"], "explain"),
        (["export", "classes.ckpt", "a.onnx"], "export"),
    ],
)
def test_without_its_extra_a_command_names_it(words, extra):
    done = run("none", "from rsvheat.cli import main\nsys.exit(main(sys.argv[1:]))", *words)
    assert done.returncode == 1
    assert done.stderr == (
        f"rsvheat {words[0]}: jsonargparse is not installed; pip install 'rsvheat[{extra}]' brings "
        "it\n"
    )
