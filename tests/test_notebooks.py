# SPDX-License-Identifier: Apache-2.0
"""The notebooks run, from either folder that one would start them in, and have their outputs."""

import itertools
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("rasterio")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
# Numbers in the printed text of a notebook, and what they must exceed.
FOUND = {
    "backbone": {r"classes: (\d+)%": 50},
    "change": {r"IoU of the change (\d+)%": 20},
    "explain": {},
    "operators": {r"(0\.\d+) after \d+ steps": 0.9},
    "pretraining": {r"bundled weights +\S+ among 1, (\S+)% among 5": 5},
    "segment_geotiff": {r"water +IoU +(\S+)%": 60},
    "ships": {r"(\d+) ships with a score": 3},
}
# Code after the cell of parameters, for a run that shows that all cells work.
QUICK = {
    "backbone": "epochs = 1",
    "change": "epochs = 1",
    "pretraining": "epochs = 1",
    "segment_geotiff": "epochs = 1",
    "ships": "epochs = 1",
}

pytestmark = pytest.mark.source_tree
notebooks = pytest.mark.parametrize("name", FOUND)


@pytest.fixture
def run(monkeypatch):
    """Execute a notebook in a folder; an exception in one of its cells is raised."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests may share the machine

    def call(name, folder=FOLDER, *, parameters=None, cells=None):
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
        notebook.cells = notebook.cells[:cells]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if parameters is not None and "parameters" in cell.metadata.get("tags", ()):
                cell.source = parameters
        nbclient.NotebookClient(
            notebook, timeout=900, resources={"metadata": {"path": str(folder)}}
        ).execute()
        return notebook

    return call


def outputs(notebook):
    """Return what kinds of output each code cell has: names of streams, or types of data."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = [output.get("name") or sorted(output["data"]) for output in cell.outputs]
            # A stream comes in one or several pieces.
            found.append([kind for kind, _ in itertools.groupby(kinds)])
    return found


def texts(notebook):
    """Return what a notebook prints."""
    found = [output.get("text", "") for c in notebook.cells for output in c.get("outputs", [])]
    return "".join(found)


def check(name, notebook):
    """What a notebook claims in numbers is so."""
    for pattern, least in FOUND[name].items():
        number = re.search(pattern, texts(notebook))
        assert number, texts(notebook)
        assert float(number[1]) > least


def test_each_notebook_is_here():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(FOUND)


@notebooks
def test_runs_and_shows_what_is_committed(run, name):
    before = sorted(ROOT.iterdir()), sorted(FOLDER.iterdir())
    executed = run(name, parameters=QUICK.get(name, ""))
    assert outputs(executed) == outputs(nbformat.read(FOLDER / f"{name}.ipynb", 4))
    assert (sorted(ROOT.iterdir()), sorted(FOLDER.iterdir())) == before


@pytest.mark.slow
@notebooks
def test_finds_what_it_claims_within_two_minutes(run, name):
    began = time.monotonic()
    check(name, run(name))
    assert time.monotonic() - began < 120


def test_finds_its_images_from_the_root_of_the_project(run):
    assert outputs(run("operators", ROOT, cells=2)) == [["stdout"]]


@notebooks
def test_committed_outputs_are_worth_looking_at(name):
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, 4)
    check(name, notebook)
    pictures = sum(["image/jpeg", "text/plain"] in cell for cell in outputs(notebook))
    assert pictures >= 1
    assert path.stat().st_size < 1_000_000
    text = path.read_text(encoding="utf-8")
    assert '"name": "stderr"' not in text
    assert str(ROOT) not in text
    assert re.search(r'"/(?:root|home|tmp|work)/', text) is None


@notebooks
def test_links_lead_to_files(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    headings = {title.replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in targets:
        assert target[1:] in headings if target[0] == "#" else (FOLDER / target).exists(), target
