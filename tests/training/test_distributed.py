# SPDX-License-Identifier: Apache-2.0
"""Two processes on the CPU compute what one does on the batches of both."""

import os
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from rsvheat.checkpoint import load_encoder

SCRIPT = """
import sys

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.distributed.tensor import DTensor

from rsvheat.augmentation import RandomView
from rsvheat.data import ClassFolders, Crop, DataModule, ImageFolders, LoaderOptions
from rsvheat.masking import FrequencyMasking
from rsvheat.tasks import ClassificationTask, PretrainingTask
from rsvheat.training import AtomicCheckpointIO, Optimization

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}


class Keep(Callback):
    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        step = {}
        for name, parameter in pl_module.named_parameters():
            grad = parameter.grad
            step[name] = (grad.full_tensor() if isinstance(grad, DTensor) else grad).clone()
        self.gradients.append(step)


def trainer(processes, strategy, callbacks=()):
    seed_everything(1)
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
    )


def pretrain(objective, folder, processes=1, strategy="auto", checkpoint=None):
    run = trainer(processes, strategy, [keep := Keep()])
    options = {}
    if objective == "contrastive":  # views that do not depend on the process
        options["augmentation"] = RandomView(
            scale=(1, 1), ratio=(1, 1), dihedral=False, contrast=0, brightness=0, channel_shift=0
        )
    data = DataModule(
        ImageFolders(
            {"optical": f"{folder}/optical", "sar": f"{folder}/sar"},
            unmatched="keep",
            val_fraction=0,
        ),
        crop=Crop(32, augment=False),
        loader=LoaderOptions(8 // processes, num_workers=0),
    )
    task = PretrainingTask(
        data.spec,
        encoder_options=TINY,
        optimization=Optimization(lr=1e-3, warmup=0.0),
        images_every=1,
        objective=objective,
        masking=FrequencyMasking(ratio=(0.25, 0.25), join="low"),
        decoder_dim=8,
        **options,
    )
    run.fit(task, data)
    if checkpoint:
        run.save_checkpoint(checkpoint)
    return keep.gradients


def classify(folder, processes=1, strategy="auto"):
    run = trainer(processes, strategy)
    # More than one batch a process, the last of which has nothing new for one of them.
    data = DataModule(
        ClassFolders(folder, folder), crop=Crop(32), loader=LoaderOptions(2, num_workers=0)
    )
    task = ClassificationTask(data.spec, encoder_options=TINY)
    task.network.encoder.head.fc.bias.data[0] = 9.0  # finds the two samples of the first class
    [values] = run.validate(task, data, verbose=False)
    run.test(task, data, verbose=False)
    return {**values, "scores": task.scores.to_dict()}


if __name__ == "__main__":
    out, strategy, pairs, alone, scenes = sys.argv[1:]
    two = {"processes": 2, "strategy": strategy}
    results = {"contrastive": pretrain("contrastive", pairs, **two, checkpoint=f"{out}.ckpt")}
    if strategy == "ddp":
        results["paper"] = pretrain("paper", pairs, **two)
        results["alone"] = pretrain("contrastive", alone, **two)
        results["scores"] = classify(scenes, **two)
    if torch.distributed.get_rank() == 0:
        torch.save(results, out)
"""


@pytest.fixture(scope="module")
def folders(pairs: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``alone`` has no pairs: most batches of a process are of one sensor; ``scenes`` 5 images."""
    folder = tmp_path_factory.mktemp("distributed")
    for sensor in ("optical", "sar"):
        (folder / "alone" / sensor).mkdir(parents=True)
        for i, path in enumerate(sorted((pairs / sensor).iterdir())[:8]):
            (folder / "alone" / sensor / f"{sensor}{i}.png").symlink_to(path)
    few = sorted(scenes.glob("*/*_00000.png")) + sorted(scenes.glob("*/*_00001.png"))[:1]
    for i, path in enumerate(few):
        (folder / "scenes" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / "scenes" / path.parent.name / f"{i}.png").symlink_to(path)
    return {"pairs": pairs, "alone": folder / "alone", "scenes": folder / "scenes"}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "two_processes.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def functions(script: Path) -> dict[str, Any]:
    return runpy.run_path(str(script))


@pytest.fixture(scope="module")
def both(script: Path, folders: dict[str, Path]):
    """What two processes that torchrun started come to, with a strategy."""

    @cache
    def run(strategy: str) -> dict[str, Any]:
        out = script.with_name(strategy)
        words = [script, out, strategy, folders["pairs"], folders["alone"], folders["scenes"]]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        done = subprocess.run(
            [sys.executable, *torchrun, *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(out)

    return run


@pytest.mark.parametrize(
    ("strategy", "case"),
    [("ddp", "contrastive"), ("ddp", "paper"), ("ddp", "alone"), ("fsdp2", "contrastive")],
)
def test_gradients_are_those_of_one_process_on_all_samples(
    strategy, case, both, functions, folders
):
    """Batches mix pairs with images of one sensor alone, and processes get different ones."""
    objective = "paper" if case == "paper" else "contrastive"
    folder = folders["alone" if case == "alone" else "pairs"]
    steps, expected = both(strategy)[case], functions["pretrain"](objective, folder)
    assert len(steps) == len(expected) == 2
    for actual, step in zip(steps, expected, strict=True):
        assert set(actual) == set(step)
        difference = sum(float((actual[name] - step[name]).square().sum()) for name in step)
        size = sum(float(grad.square().sum()) for grad in step.values())
        # Measured: 7e-7 in the first step.
        assert (difference / size) ** 0.5 < 2e-5


def test_sharded_weights_are_saved_as_one_file_like_any_others(both, script):
    weights = []
    for strategy in ("ddp", "fsdp2"):
        both(strategy)
        encoder, report = load_encoder(script.with_name(f"{strategy}.ckpt"))
        assert not report.missing
        weights.append(encoder.state_dict())
    for name, value in weights[0].items():
        # Adam's first steps are of the gradients' signs, which may differ where they are tiny.
        assert float((weights[1][name] - value).abs().mean()) < 1e-4, name


def test_scores_count_each_sample_once(both, functions, folders):
    """Five samples do not divide among two processes, nor among their batches."""
    actual, expected = both("ddp")["scores"], functions["classify"](folders["scenes"])
    assert actual["scores"] == expected.pop("scores")
    assert (actual["scores"]["samples"], actual["val/accuracy"]) == (5, pytest.approx(0.4))
    assert {name: actual[name] for name in expected} == pytest.approx(expected)


ENDING = """
import sys, threading, time

import torch
from torch import distributed

from rsvheat.data import DataSpec
from rsvheat.tasks import ClassificationTask

class Slow:
    def __del__(self):
        ending.set()
        time.sleep(0.4)

path, rank = sys.argv[1], int(sys.argv[2])
store = distributed.FileStore(path, 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
ClassificationTask(DataSpec({"optical": 3}, "label", ("a", "b"), (32, 32))).setup("fit")
ending, tensor = threading.Event(), torch.ones(1)
if rank == 0:
    tensor.slow = Slow()
    distributed.all_reduce(tensor, async_op=True)
    del tensor  # From here on it is gloo's alone.
    store.set("sent", "")
    ending.wait()
else:
    store.wait(["sent"])
    distributed.all_reduce(tensor)
"""


def test_messages_may_end_after_the_work(tmp_path):
    """A thread of gloo that lets go of a tensor while Python ends would abort the process."""
    processes = [
        subprocess.Popen([sys.executable, "-c", ENDING, tmp_path / "store", str(rank)])
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
