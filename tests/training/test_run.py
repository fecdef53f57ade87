# SPDX-License-Identifier: Apache-2.0
"""Runs that end early, and go on as if they had not."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from utils import data_module

from rsvheat import cli
from rsvheat.data import ClassFolders
from rsvheat.tasks import ClassificationTask
from rsvheat.training import CheckpointWriteError, Run
from rsvheat.training import run as run_module

# Stochastic depth draws from torch's own generator.
OPTIONS = {
    "encoder_options": {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "drop_path": 0.3},
    "images_every": 1,
}
EPOCHS, STEPS = 3, 5  # and batches in an epoch


@pytest.fixture
def train(pretraining, pair_data, trainer, tmp_path):
    """Run or continue a run in a folder."""

    def run(folder, *callbacks, resume=False, data=None, **options):
        seed_everything(1, workers=True)
        run = Run(
            tmp_path / folder,
            resume=resume,
            monitor="train/loss_epoch",
            **{"ema": 0.9, "save_every": 2, **options},
        )
        arguments = run.trainer_arguments()
        arguments["callbacks"] = [*callbacks, *arguments["callbacks"]]
        fitted = trainer(**{**arguments, "max_epochs": EPOCHS, "log_every_n_steps": 1})
        data = pair_data(**(data or {}))
        fitted.fit(pretraining(**OPTIONS), data, ckpt_path=run.checkpoint)
        return run

    return run


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("images_per_second")
    return rows


def differences(a, b, where=""):
    """Names of the values in which two checkpoints are not the same bits."""
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{where}: {set(a) ^ set(b)}"]
        return [name for key in a for name in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)}"]
        pairs = enumerate(zip(a, b, strict=True))
        return [name for i, (x, y) in pairs for name in differences(x, y, f"{where}[{i}]")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


def assert_same_run(folder, other):
    """Losses, weights, moments, averages, generators and progress are the same bits."""
    assert rows(folder) == rows(other)
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(path / name, weights_only=True) for path in (folder, other))
        for checkpoint in (a, b):
            # Where it lies may differ; its last score but the best Lightning does not restore.
            (best,) = (v for k, v in checkpoint["callbacks"].items() if k.startswith("ModelCh"))
            for key in list(best):
                if key.endswith(("path", "dirpath", "models", "current_score")):
                    best.pop(key)
        assert differences(a, b) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder of the run that the others have to equal; made by the first test that asks."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def whole(train, undisturbed):
    if not undisturbed.exists():
        train(undisturbed)
    return undisturbed


class Stop(Callback):
    """Ends a run after a step."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            self.how()


class GoneError(Exception):
    pass


def _vanish():
    raise GoneError


# In the first epoch before any checkpoint, at a checkpoint, within and at the end of later epochs.
@pytest.mark.parametrize("step", [1, 2, 5, 8, 15])
def test_a_run_that_vanished_goes_on_with_the_same_bits(train, whole, tmp_path, step):
    with pytest.raises(GoneError):
        train("run", Stop(step, _vanish))
    kept = tmp_path / "run/last.ckpt"
    assert kept.exists() == (step > 2)
    train("run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_run_that_vanished_while_an_epoch_ended_does_that_again(train, whole, tmp_path):
    """Step 10 is a time for a checkpoint, but from there a run would not end its epoch."""

    class StopEpoch(Stop):
        def on_train_batch_end(self, trainer, *args):
            pass

        on_train_epoch_end = Stop.on_train_batch_end

    with pytest.raises(GoneError):
        train("run", StopEpoch(10, _vanish))
    train("run", resume=True)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGTERM), (8, signal.SIGINT), (10, signal.SIGTERM)]
)
def test_a_run_that_was_told_to_stop_saves_first(train, whole, tmp_path, step, number):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit):
        train("run", Stop(step, lambda: signal.raise_signal(number)))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] == step
    train("run", resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_the_second_interrupt_does_not_wait(train, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as end:
        train("run", Stop(3, twice))
    assert isinstance(end.value.__context__, KeyboardInterrupt)
    # What was there before stays.
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] == 2


def test_workers_read_the_same(train, whole, tmp_path):
    workers = {"num_workers": 2}
    with pytest.raises(GoneError):
        train("run", Stop(8, _vanish), data=workers)
    train("run", resume=True, data=workers)
    assert_same_run(tmp_path / "run", whole)


def test_a_complete_run_stays_as_it_is(train, whole, tmp_path):
    train("run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*t")}
    train("run", resume=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*t")}
    assert before == after
    assert_same_run(tmp_path / "run", whole)


def test_a_folder_with_a_run_is_not_overwritten(train, tmp_path):
    with pytest.raises(GoneError):
        train("run", Stop(3, _vanish))
    with pytest.raises(ValueError, match="holds a run: go on with --resume"):
        train("run")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*other\.ckpt"):
        train("run", resume=tmp_path / "other.ckpt")


def test_the_newest_checkpoint_is_taken(tmp_path):
    for i, name in enumerate(("hpc_ckpt_1.ckpt", "last.ckpt", "hpc_ckpt_2.ckpt")):
        torch.save({"loops": {}, "global_step": i}, tmp_path / name)
        os.utime(tmp_path / name, (i, i))
    run = Run(tmp_path, resume=True, monitor="a")
    assert run.checkpoint == tmp_path / "hpc_ckpt_2.ckpt"
    assert run.step == 2
    assert Run(tmp_path / "new", resume=True, monitor="a").checkpoint is None


def test_a_truncated_checkpoint_is_named(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        Run(tmp_path, resume=True, monitor="a")


def test_an_unwritable_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointWriteError, match="choose another"):
        Run(tmp_path / "file/run", monitor="a")


@pytest.mark.parametrize(
    "wrong", [{"keep_best": -1}, {"save_every": -1}, {"ema": 1.0}, {"patience": 0}]
)
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Run(tmp_path, monitor="a", **wrong)


def test_checkpoints_hold_the_average(train, tmp_path):
    """Of the weights after every step, with the decay asked for."""
    average = {}

    class Average(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            for name, value in pl_module.state_dict().items():
                if trainer.global_step == 1:
                    average[name] = value.clone()
                else:
                    average[name] += 0.1 * (value - average[name])

    train("run", Average())
    saved = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["state_dict"]
    for name, value in average.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-6)


def test_killed_at_a_random_step_a_command_goes_on_with_the_same_bits(tmp_path, pairs):
    """SIGKILL, by the command line, in a process of its own."""
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
data:
  dataset:
    class_path: rsvheat.data.ImageFolders
    init_args:
      folders: {{optical: {pairs}/optical, sar: {pairs}/sar}}
      unmatched: keep
      val_fraction: 0.0
  crop: {{size: 32, window: null}}
  loader: {{batch_size: 4, num_workers: 0}}
model:
  init_args:
    encoder_options: {{dims: [8, 16, 16, 16], depths: [1, 1, 1, 1], drop_path: 0.3}}
    images_every: 1
trainer: {{accelerator: cpu, max_epochs: 4, log_every_n_steps: 1}}
save_every: 3
ema: 0.9
"""
    )

    def words(folder):
        return ["pretrain", "--config", str(config), "--output", str(tmp_path / folder)]

    killed_at = int(np.random.default_rng().integers(4, 18))
    print(f"killed after step {killed_at} of 20")
    process = subprocess.Popen(
        [sys.executable, "-m", "rsvheat", *words("killed")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    log = Path(tmp_path / "killed/metrics.csv")
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) <= killed_at:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert cli.main([*words("killed"), "--resume"]) == 0
    assert cli.main(words("whole")) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_generators_of_a_resumed_classifier_are_the_same(trainer, scenes, tmp_path):
    """Stopped in the last epoch, whose validation is the first one of the resumed process."""
    options = {"size": 32, "batch_size": 12, "val_fraction": 0.25, "num_workers": 1}

    def fit(folder, *callbacks, resume=False):
        seed_everything(1, workers=True)
        data = data_module(ClassFolders, str(scenes), **options)
        task = ClassificationTask(data.spec, encoder_options=OPTIONS["encoder_options"])
        run = Run(tmp_path / folder, resume=resume, save_every=1, keep_best=0)
        arguments = run.trainer_arguments()
        arguments["callbacks"] = [*callbacks, *arguments["callbacks"]]
        fitted = trainer(**{**arguments, "max_epochs": 2})
        fitted.fit(task, data, ckpt_path=run.checkpoint)
        return torch.load(run.last.path, weights_only=True)

    whole = fit("whole")
    with pytest.raises(GoneError):
        fit("stopped", Stop(whole["global_step"] - 1, _vanish))
    resumed = fit("stopped", resume=True)
    for name in ("state_dict", "optimizer_states", "random_states"):
        assert differences(whole[name], resumed[name]) == []


TRAIN = """
import sys

from rsvheat.training import Run

run = Run(sys.argv[1], resume=True)
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys, scenes):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    before = sorted(os.listdir(folder))
    words = ["finetune", "--data.dataset.root", str(scenes), "--output", str(folder), "--resume"]
    assert cli.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder} is being written by process {process.pid} on " in line
    assert sorted(os.listdir(folder)) == before
    process.communicate()
    run = Run(folder, resume=True)
    # Another run of this process, as in a notebook, takes its place.
    assert Run(folder, resume=True)._lock is run._lock


def test_a_run_that_ended_can_go_on_in_another_process(train, pretraining, pair_data, trainer):
    run = train("run")
    fitted = trainer(**{**run.trainer_arguments(), "max_epochs": 1})
    assert run._lock.held
    run.checkpoint = None
    assert run.fit(fitted, pretraining(**OPTIONS), pair_data()) == 0
    assert not run._lock.held
    code = "import sys; from rsvheat.training import Run; Run(sys.argv[1], resume=True)"
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=True)


def test_other_processes_of_a_run_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module.rank_zero_only, "rank", 1)
    assert Run(tmp_path)._lock is None
    monkeypatch.setattr(run_module.rank_zero_only, "rank", 0)
    assert Run(tmp_path)._lock.held
