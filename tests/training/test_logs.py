# SPDX-License-Identifier: Apache-2.0
import csv
import re
import time

import pytest
import torch
from lightning.pytorch import Callback

from rsvheat.training import CSVLog, ImagesPerSecond, LastCheckpoint, ProgressLines
from rsvheat.training.logs import EpochMeans


def _read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_names_become_columns_and_rows_are_there_at_once(tmp_path):
    log = CSVLog(tmp_path / "run")
    log.log_metrics({"a": 1.5, "epoch": 0}, step=0)
    assert _read(tmp_path / "run") == [{"epoch": "0", "step": "0", "a": "1.5"}]
    log.log_metrics({"b": 2, "epoch": 0}, step=3)
    assert _read(tmp_path / "run") == [
        {"epoch": "0", "step": "0", "a": "1.5", "b": ""},
        {"epoch": "0", "step": "3", "a": "", "b": "2"},
    ]


def test_a_run_that_goes_on_drops_what_comes_after_its_checkpoint(tmp_path):
    log = CSVLog(tmp_path)
    for step in range(5):
        log.log_metrics({"a": step}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(",6")  # killed while it wrote
    log = CSVLog(tmp_path, from_step=3)
    log.log_metrics({"a": 33}, 3)
    assert [row["a"] for row in _read(tmp_path)] == ["0", "1", "2", "33"]


def test_a_new_run_starts_a_new_file(tmp_path):
    CSVLog(tmp_path).log_metrics({"a": 1}, 4)
    CSVLog(tmp_path).log_metrics({"a": 2}, 0)
    assert [row["step"] for row in _read(tmp_path)] == ["0"]


def test_epoch_means_go_on_from_their_state():
    class Alone:
        world_size = 1

    whole, part = EpochMeans(), EpochMeans()
    for value in (1.0, 2.0):
        whole.update({"a": value, "b": 0.1 * value})
        part.update({"a": value, "b": 0.1 * value})
    rest = EpochMeans()
    rest.load_state_dict(part.state_dict(Alone()), rank=0)
    for means in (whole, rest):
        means.update({"a": 6.0, "b": 0.7})
    assert whole.compute(Alone()) == rest.compute(Alone())
    whole.update({"a": 5.0})
    assert whole.compute(Alone()) == {"a": 5.0}
    elsewhere = EpochMeans()
    elsewhere.load_state_dict(part.state_dict(Alone()), rank=1)
    assert set(elsewhere.state_dict(Alone()).values()) == {0.0}


def test_speed_and_progress_are_told(pair_data, pretraining, trainer, capsys, monkeypatch):
    class Slow(Callback):
        def on_before_optimizer_step(self, *args):
            time.sleep(0.05)

    seen = trainer(callbacks=[Slow(), ImagesPerSecond(), ProgressLines()])
    seen.fit(pretraining(), pair_data())
    # At most 8 images of 4 samples in at least 0.05 s.
    assert 1 < seen.callback_metrics["images_per_second"] < 160
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    pattern = r"epoch 2/2: train/loss \S+, images_per_second \S+, 0:00:00 left"
    assert re.fullmatch(pattern, lines[1]), lines[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(pair_data, pretraining, trainer, value, tmp_path):
    class Break(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                with torch.no_grad():
                    next(iter(pl_module.network.parameters())).fill_(value)

    last = LastCheckpoint(tmp_path / "run")
    with pytest.raises(FloatingPointError, match="not finite at epoch 1, batch 1"):
        trainer(callbacks=[Break(), last]).fit(pretraining(), pair_data())
    kept = torch.load(last.path, weights_only=True)
    assert kept["global_step"] == 5
    assert all(x.isfinite().all() for x in kept["state_dict"].values() if x.is_floating_point())
