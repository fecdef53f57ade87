# SPDX-License-Identifier: Apache-2.0
"""A task and a data set outside of the package are trained, evaluated and used by command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
rasterio = pytest.importorskip("rasterio")

from rsvheat import cli  # noqa: E402

PLUGIN = Path(__file__).parent / "plugins" / "stripes.py"


def run(*words, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as plug-ins stay imported."""
    return subprocess.run(
        [sys.executable, "-m", "rsvheat", *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_a_plugin_is_short():
    assert len(PLUGIN.read_text().splitlines()) <= 60


def test_a_plugin_trains_evaluates_and_predicts(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        """
model: {class_path: stripes.StripesTask, init_args: {optimization: {lr: 0.05}}}
data:
  dataset: {class_path: stripes.StripesReader, init_args: {count: 8}}
  crop: {size: 32, window: 32}
  loader: {batch_size: 4, num_workers: 1, start_method: spawn}
trainer: {accelerator: cpu, max_epochs: 20}
"""
    )
    plugin = ["--plugin", PLUGIN]
    done = run(*plugin, "fit", "--config", "recipe.yaml", "--output", "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["overall_accuracy"] > 0.95
    assert done.stdout.startswith(f"overall accuracy {scores['overall_accuracy']:.4f}")

    data = ["--data.dataset", "stripes.StripesReader", "--data.dataset.count", 8]
    data += ["--data.loader.num_workers", 0]
    words = ["evaluate", "--checkpoint", "run/best.ckpt", *data, "--output", "scores"]
    done = run(*plugin, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "scores/stripes.json").read_text())
    assert again["confusion"] == scores["confusion"]

    line = 127 + 100 * np.sin(np.arange(200) * 0.2)
    scene = np.tile(line.astype(np.uint8), (3, 150, 1))
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", count=3, height=150, width=200, dtype="uint8"
    ) as file:
        file.write(scene)
    words = ["predict", "scene.tif", "--checkpoint", "run/best.ckpt", "--output", "map.tif"]
    done = run(*plugin, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "map.tif") as file:
        found = file.read(1)
    assert found.shape == (150, 200)
    assert (found == (scene[0] > 128)).mean() > 0.9

    done = run(*words, "--overwrite", folder=tmp_path)
    assert done.returncode == 1
    assert "stripes" in done.stderr
    assert "--plugin" in done.stderr


@pytest.mark.parametrize("name", ["no_such_module", "no/such/file.py"])
def test_a_plugin_that_is_not_there_is_told_in_a_line(name, capsys):
    assert cli.main(["--plugin", name, "info"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rsvheat info: --plugin: there is no")
    assert len(error.splitlines()) == 1
