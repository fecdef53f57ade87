# SPDX-License-Identifier: Apache-2.0
import random
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import small_disk
from lightning.pytorch import Callback

from rsvheat.training import AtomicCheckpointIO, CheckpointWriteError, LastCheckpoint, RandomState
from rsvheat.training.run_checkpoints import _random_state, _set_random_state, check_folder

USAGE = namedtuple("usage", "total used free")


def _unwritable(tmp_path: Path) -> Path:
    """A folder that not even root can make."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


def _never(*args):
    pytest.fail("a step was made")


def test_a_checkpoint_comes_back(tmp_path):
    content = {"loops": {}, "value": torch.arange(3), "list": [1, "two"]}
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "deep/er/a.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "deep/er/a.ckpt")
    assert torch.equal(loaded["value"], content["value"])
    assert loaded["list"] == content["list"]
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["a.ckpt"]


def test_a_failed_write_leaves_the_last_good_one(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"loops": {}, "step": 1}, path)

    def fill_disk(content, file):
        Path(file).write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", fill_disk)
    with pytest.raises(CheckpointWriteError, match=r"file write failed.*MiB are free.*--resume"):
        io.save_checkpoint({"loops": {}, "step": 2}, path)
    monkeypatch.undo()
    assert io.load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_disk_that_takes_no_more_leaves_the_last_good_one(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    with small_disk(10_000):
        io.save_checkpoint({"loops": {}, "step": 1}, path)
        with pytest.raises(CheckpointWriteError, match=r"cannot write the checkpoint .*a\.ckpt"):
            io.save_checkpoint({"loops": {}, "big": torch.zeros(100_000)}, path)
    assert io.load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_damaged_and_foreign_files_are_named(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    with pytest.raises(FileNotFoundError, match=r"a\.ckpt"):
        io.load_checkpoint(path)
    io.save_checkpoint({"loops": {}, "big": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.ckpt is damaged"):
        io.load_checkpoint(path)
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"a\.ckpt is damaged or no checkpoint"):
        io.load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"a\.ckpt does not hold the state of a run"):
        io.load_checkpoint(path)


def test_an_unwritable_folder_is_told(tmp_path):
    with pytest.raises(CheckpointWriteError, match=r"cannot write to the folder .*file/folder"):
        check_folder(_unwritable(tmp_path))
    check_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_unwritable_folder_stops_a_run_before_its_first_step(
    tmp_path, pair_data, pretraining, trainer
):
    task = pretraining()
    task.training_step = _never
    run = trainer(callbacks=[LastCheckpoint(_unwritable(tmp_path))])
    with pytest.raises(CheckpointWriteError):
        run.fit(task, pair_data())


def test_too_little_space_stops_a_run_before_its_first_step(
    tmp_path, pair_data, pretraining, trainer, monkeypatch
):
    task = pretraining()
    task.training_step = _never
    size = 3 * sum(parameter.nbytes for parameter in task.parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, 3 * size - 1))
    run = trainer(callbacks=[LastCheckpoint(tmp_path / "run", others=1)])
    with pytest.raises(CheckpointWriteError, match="checkpoints need about"):
        run.fit(task, pair_data())


def test_a_run_that_has_its_checkpoints_needs_less_space(
    tmp_path, pair_data, pretraining, trainer, monkeypatch
):
    task = pretraining()
    size = 3 * sum(parameter.nbytes for parameter in task.parameters())
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").write_bytes(bytes(size))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, 2 * size))
    run = trainer(max_epochs=1, callbacks=[LastCheckpoint(tmp_path / "run", others=1)])
    run.fit(task, pair_data())
    assert (tmp_path / "run/last.ckpt").exists()


def test_what_a_killed_run_left_half_written_goes(tmp_path, pair_data, pretraining, trainer):
    left = tmp_path / "run/.unfinished-abc"
    left.mkdir(parents=True)
    (left / "last.ckpt").write_bytes(b"half")
    run = trainer(max_epochs=1, callbacks=[LastCheckpoint(tmp_path / "run")])
    run.fit(pretraining(), pair_data())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


class _Fail(Callback):
    """Raises after a step, or within it."""

    def __init__(self, step, within):
        self.step, self.within = step, within

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.within and trainer.global_step == self.step:
            raise RuntimeError("within")

    def on_train_batch_end(self, trainer, *args):
        if not self.within and trainer.global_step == self.step:
            trainer.fit_loop._data_fetcher.iterator = _Broken()


class _Broken:
    def __next__(self):
        raise RuntimeError("the data broke")


@pytest.mark.parametrize(("within", "kept"), [(False, 2), (True, None)])
def test_an_error_between_steps_leaves_a_checkpoint_and_one_within_does_not(
    tmp_path, pair_data, pretraining, trainer, within, kept
):
    run = trainer(callbacks=[_Fail(2, within), LastCheckpoint(tmp_path / "run")])
    with pytest.raises(RuntimeError, match="within" if within else "the data broke"):
        run.fit(pretraining(), pair_data())
    path = tmp_path / "run/last.ckpt"
    assert path.exists() == (kept is not None)
    if kept is not None:
        assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == kept


def test_checkpoints_within_an_epoch_wait_for_accumulated_gradients(
    tmp_path, pair_data, pretraining, trainer
):
    saved = []

    class Watch(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            saved.append(checkpoint["global_step"])
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            assert progress["ready"] % 2 == 0 or progress["ready"] == 5

    run = trainer(
        max_epochs=1,
        accumulate_grad_batches=2,
        plugins=[Watch()],
        callbacks=[LastCheckpoint(tmp_path, every_n_steps=1)],
    )
    run.fit(pretraining(), pair_data())  # 5 batches, 3 steps
    assert saved == [1, 2, 3]  # the last by the end of the epoch


def test_generators_are_kept_as_plain_values(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)  # leaves a second value for the next call
    np.random.standard_normal(3)
    state = _random_state(torch.device("cpu"))
    torch.save(state, tmp_path / "state")

    def draw():
        numbers = [random.gauss(0, 1), random.random()]
        numbers += [*np.random.standard_normal(2), np.random.rand(), *torch.rand(2).tolist()]
        return numbers

    expected = draw()
    _set_random_state(torch.load(tmp_path / "state", weights_only=True), torch.device("cpu"))
    assert draw() == expected


def test_generators_of_processes_that_a_run_did_not_have_stay(tmp_path):
    class Elsewhere:
        global_rank = 1

    torch.manual_seed(5)
    before = torch.get_rng_state()
    checkpoint = {"random_states": [_random_state(torch.device("cpu"))], "loops": {}}
    torch.manual_seed(6)
    callback = RandomState()
    callback.on_load_checkpoint(Elsewhere(), None, checkpoint)
    callback.on_train_start(Elsewhere(), None)
    assert not torch.equal(torch.get_rng_state(), before)
