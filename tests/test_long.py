# SPDX-License-Identifier: Apache-2.0
"""What only shows after many repetitions: `make test-long` runs it in full size, over hours.

``RSVHEAT_LONG`` is the share of that size that is run, 1 by default: 0.1 makes 5 of 50 kills.
"""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import small_encoder
from training_fixtures import TINY

pytest.importorskip("lightning")

from lightning.pytorch import Callback, Trainer
from utils import data_module

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import ClassFolders, Normalizer
from rsvheat.data.spec import DataSpec
from rsvheat.data.synthetic import write_classes
from rsvheat.models.classification import Classifier
from rsvheat.tasks import ClassificationTask
from rsvheat.training import Optimization

pytestmark = pytest.mark.slow

SHARE = float(os.environ.get("RSVHEAT_LONG", "1"))
KILLS = max(1, round(50 * SHARE))
PREDICTIONS = max(20, round(2000 * SHARE))
STEPS = max(20, round(500 * SHARE))
# What the allocator, caches and warnings may take after the first part of the calls.
MAY_GROW = 8 * 2**20


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_classes(folder, 12, 32)
    return folder


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def assert_flat(memory: list[int]) -> None:
    """Assert that the last half of the measurements does not exceed the first one's."""
    half = len(memory) // 2
    grown = max(memory[half:]) - max(memory[:half])
    assert grown < MAY_GROW, f"{grown / 2**20:.1f} MiB more: {[m // 2**20 for m in memory]} MiB"


def test_memory_is_flat_over_predictions(tmp_path: Path) -> None:
    """Of rasters whose sizes differ, so that caches by size fill up, too."""
    rasterio = pytest.importorskip("rasterio")
    from rsvheat.raster import predict

    torch.set_num_threads(1)
    spec = DataSpec({"optical": 3}, "label", ("a", "b"), (32, 32))
    network = Classifier(small_encoder(num_classes=2), 2).eval()
    model = TrainedModel(network, spec, {"optical": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)})
    random = np.random.default_rng(0)
    paths = []
    for i in range(4):
        side = 64 + 32 * i
        paths.append(tmp_path / f"{i}.tif")
        profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
        profile["transform"] = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
        with rasterio.open(paths[-1], "w", crs="EPSG:32632", **profile) as file:
            file.write(random.integers(1, 255, (3, side, side), dtype=np.uint8))
    memory = []
    every = max(1, PREDICTIONS // 20)
    for i in range(PREDICTIONS):
        result = predict(paths[i % 4], tmp_path / "map.tif", model, window=32, overwrite=True)
        assert sum(result.counts) > 0
        if i % every == 0:
            memory.append(resident())
    assert_flat(memory[len(memory) // 5 :])


class Memory(Callback):
    def __init__(self) -> None:
        self.measured: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        if trainer.global_step % max(1, STEPS // 20) == 0:
            self.measured.append(resident())


def test_memory_is_flat_over_training_steps(tmp_path: Path, scenes: Path) -> None:
    torch.set_num_threads(1)
    data = data_module(ClassFolders, str(scenes), size=32, batch_size=12, val_fraction=0.25)
    task = ClassificationTask(data.spec, encoder_options=TINY, optimization=Optimization(lr=1e-3))
    memory = Memory()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[memory],
        default_root_dir=tmp_path,
    )
    trainer.fit(task, data)
    assert trainer.global_step == STEPS
    assert_flat(memory.measured[len(memory.measured) // 5 :])


def command(scenes: Path, output: Path, *words: str, epochs: int, workers: int = 1) -> list[str]:
    return [
        *(sys.executable, "-m", "rsvheat", "finetune", f"--data.dataset.root={scenes}"),
        *("--data.crop.size=32", "--data.loader.batch_size=12", f"--output={output}"),
        *(f"--data.loader.num_workers={workers}", "--trainer.accelerator=cpu"),
        *(f"--trainer.max_epochs={epochs}", "--save_every=1", "--keep_best=0"),
        '--model.init_args.encoder_options={"dims":[8,16,16,16],"depths":[1,1,1,1],"drop_path":0.3}',
        *words,
    ]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, scenes: Path
) -> None:
    """By SIGKILL, SIGTERM and SIGINT in turn, at any time from the first import on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    epochs = 3 * KILLS
    whole = command(scenes, tmp_path / "whole", epochs=epochs)
    subprocess.run(whole, check=True, env=environment, capture_output=True)
    random = np.random.default_rng()
    killed = command(scenes, tmp_path / "killed", "--resume", epochs=epochs)
    for i in range(KILLS):
        process = subprocess.Popen(
            killed, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # About as long as it takes to start, and a few steps more.
        wait = random.uniform(2, 20)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3])
        errors = _end(process)
        assert process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM,
                                      -signal.SIGINT, 128 + signal.SIGINT), errors  # fmt: skip
        # Not even the workers of a killed process keep its lock.
        assert "is being written by" not in errors
    subprocess.run(killed, check=True, env=environment, capture_output=True)
    checkpoints = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "killed")
    ]
    for name in ("state_dict", "optimizer_states", "random_states", "lr_schedulers"):
        assert _same(*(checkpoint[name] for checkpoint in checkpoints)), name
    assert not list((tmp_path / "killed").glob(".unfinished-*"))


def _end(process: subprocess.Popen[str]) -> str:
    """Wait for a process that was told to end, and return its messages."""
    try:
        return process.communicate(timeout=600)[1]
    finally:
        process.kill()


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def test_three_processes_train_together_and_resume(tmp_path: Path, scenes: Path) -> None:
    """By command, stopped by a signal to the first of them; one lock for all three."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # With plain DDP weights differ: it rebuilds its buckets after a process's first step, and they
    # decide in which order three gradients are added up. This strategy keeps its first buckets.
    strategy = "--trainer.strategy=ddp_find_unused_parameters_true"
    options = ("--trainer.devices=3", strategy, "--data.loader.batch_size=3")
    epochs = max(4, round(40 * SHARE))

    def words(name: str, *more: str) -> list[str]:
        return command(scenes, tmp_path / name, *options, *more, epochs=epochs, workers=0)

    subprocess.run(words("whole"), check=True, env=environment, capture_output=True, timeout=3600)
    process = subprocess.Popen(
        words("stopped"), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / "stopped/last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = _end(process)
    assert process.returncode == 128 + signal.SIGTERM, errors
    subprocess.run(
        words("stopped", "--resume"), check=True, env=environment, capture_output=True, timeout=3600
    )
    checkpoints = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)
        for name in ("whole", "stopped")
    ]
    assert len(checkpoints[0]["random_states"]) == 3
    for name in ("state_dict", "optimizer_states", "random_states"):
        assert _same(*(checkpoint[name] for checkpoint in checkpoints)), name
