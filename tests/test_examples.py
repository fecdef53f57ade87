# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsvheat.ops import reference

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.source_tree


def run(name: str, *arguments: str, pythonpath: Path | None = None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests may share the machine
    if pythonpath is not None:
        environment["PYTHONPATH"] = str(pythonpath)
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_demo_checks_times_and_draws(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    done = run("demo_operators.py", "--out", str(tmp_path / "new" / "demo"), "--repeats", "1")
    assert done.returncode == 0, done.stderr
    for step in ("[1/4]", "[2/4]", "[3/4]", "[4/4]"):
        assert step in done.stdout
    assert len(re.findall(r"relative error \d\.\de-\d\d", done.stdout)) == 6
    assert [file.name for file in (tmp_path / "new" / "demo").iterdir()] == ["heat.png"]
    picture = pyplot.imread(tmp_path / "new" / "demo" / "heat.png")
    assert min(picture.shape[:2]) > 1000
    assert picture[..., :3].std() > 0.2  # not blank


def test_demo_reports_a_folder_that_cannot_be_made(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    done = run("demo_operators.py", "--out", str(tmp_path / "file" / "demo"))
    assert done.returncode == 1
    assert re.fullmatch(r"error: the folder .* cannot be made: .*\n", done.stderr)


def test_demo_names_a_missing_matplotlib(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    done = run("demo_operators.py", "--out", str(tmp_path / "demo"), pythonpath=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: the figure needs matplotlib: pip install 'rsvheat[explain]'\n"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import heat_conduction_module

    return heat_conduction_module


def test_module_learns_the_diffusivities():
    done = run("heat_conduction_module.py", "--steps", "120")
    assert done.returncode == 0, done.stderr
    losses = [float(text) for text in re.findall(r"loss (\S+)", done.stdout)]
    assert losses[-1] < 1e-3 * losses[0]
    true, learned = (
        torch.tensor([float(k) for k in re.search(f"{name} k: *(.*)", done.stdout)[1].split()])
        for name in ("true", "learned")
    )
    torch.testing.assert_close(learned, true, rtol=0.05, atol=0)


def test_module_compiles_to_one_graph(module):
    heat = module.HeatConduction(4)
    x = torch.randn(2, 12, 10, 4)
    compiled = torch.compile(heat, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    y.square().sum().backward()
    k = torch.nn.functional.softplus(heat.raw)
    torch.testing.assert_close(y, reference.heat_conduction(x, k))
    (expected,) = torch.autograd.grad(reference.heat_conduction(x, k).square().sum(), heat.raw)
    torch.testing.assert_close(heat.raw.grad, expected)
