# SPDX-License-Identifier: Apache-2.0
"""The notebook runs, from either folder that one would start it in, and has its output."""

import re
from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
PATH = ROOT / "examples/rsvheat.ipynb"

pytestmark = pytest.mark.source_tree


@pytest.fixture
def run(monkeypatch):
    """Execute cells in a folder; an exception in one of them is raised."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests may share the machine

    def call(folder, cells):
        notebook = nbformat.read(PATH, 4)
        notebook.cells = notebook.cells[:cells]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbclient.NotebookClient(
            notebook, timeout=900, resources={"metadata": {"path": str(folder)}}
        ).execute()
        return notebook

    return call


def outputs(notebook):
    """Return what kinds of output each code cell has: names of streams, or types of data."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [output.get("name") or sorted(output["data"]) for output in cell.outputs] for cell in code
    ]


def test_notebook_runs_in_its_folder_and_shows_what_is_committed(run):
    before = sorted(ROOT.iterdir()), sorted(PATH.parent.iterdir())
    executed = run(PATH.parent, None)
    committed = nbformat.read(PATH, 4)
    assert outputs(executed) == outputs(committed)
    assert sum(["image/jpeg", "text/plain"] in cell for cell in outputs(executed)) >= 6
    text = "".join(
        output.get("text", "") for c in executed.cells for output in c.get("outputs", [])
    )
    right = int(text.split(" classes: ")[1].split("%")[0])
    assert right > 40, "10 % is chance"
    assert (sorted(ROOT.iterdir()), sorted(PATH.parent.iterdir())) == before


def test_notebook_finds_its_images_from_the_root_of_the_project(run):
    assert outputs(run(ROOT, 2)) == [["stdout"]]


def test_notebook_is_small_enough_to_be_shown_and_says_nothing_of_a_machine():
    assert PATH.stat().st_size < 500_000
    text = PATH.read_text(encoding="utf-8")
    assert '"name": "stderr"' not in text
    assert str(ROOT) not in text


def test_links_of_the_notebook_lead_to_files():
    text = "\n".join(c.source for c in nbformat.read(PATH, 4).cells if c.cell_type == "markdown")
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("#")]
    assert targets
    assert [t for t in targets if not (PATH.parent / t).exists()] == []
