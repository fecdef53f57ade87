# SPDX-License-Identifier: Apache-2.0
"""Segmentation and change detection resume a stopped run with the same bits."""

import pytest
import torch
from fields import TINY, Changes, Fields, Reader, module
from lightning.pytorch import Callback, seed_everything

from rsvheat.data import Photometric
from rsvheat.tasks import ChangeDetectionTask, SegmentationTask
from rsvheat.training import Run


class GoneError(Exception):
    pass


class Vanish(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == self.step:
            raise GoneError


# Of two epochs of 4 steps: before a validation and after one.
@pytest.mark.parametrize(("kind", "step"), [("segmentation", 5), ("change", 3)])
def test_a_run_that_vanished_goes_on_with_the_same_bits(kind, step, trainer, tmp_path):
    options = {
        "encoder_options": {**TINY, "drop_path": 0.3},
        "decoder": "fpn",
        "model_options": {"channels": 8, "dropout": 0.2},
        "class_weights": "square_root",
        "panels": 1,
    }

    def fit(folder, *callbacks, resume=False):
        seed_everything(1, workers=True)
        if kind == "change":
            data = module(Reader(Changes), crops=3, transforms=[Photometric()])
            task = ChangeDetectionTask(data.spec, swap=0.5, **options)
        else:
            sensors = ("optical", "sar")
            data = module(Reader(Fields, sensors), crops=3, transforms=[Photometric(noise=0.1)])
            task = SegmentationTask(data.spec, modality_dropout=0.5, **options)
        run = Run(
            tmp_path / folder, resume=resume, monitor=task.monitor, mode=task.mode, save_every=1
        )
        arguments = run.trainer_arguments()
        arguments["callbacks"] = [*callbacks, *arguments["callbacks"]]
        fitted = trainer(**{**arguments, "max_epochs": 2, "log_every_n_steps": 1})
        run.fit(fitted, task, data)
        return torch.load(run.last.path, weights_only=True), run

    whole, run = fit("whole")
    assert (run.folder / "val_worst.png").exists()
    with pytest.raises(GoneError):
        fit("stopped", Vanish(step))
    resumed, run = fit("stopped", resume=True)
    assert resumed["global_step"] == whole["global_step"] == 8
    assert whole["rsvheat"] == resumed["rsvheat"]
    assert whole["rsvheat"]["temperature"] != 1
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for a, b in zip(
        whole["optimizer_states"][0]["state"].values(),
        resumed["optimizer_states"][0]["state"].values(),
        strict=True,
    ):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
    logged = [
        [line.split(",") for line in (tmp_path / name / "metrics.csv").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    speed = logged[0][0].index("images_per_second")
    for a, b in zip(*logged, strict=True):
        assert a[:speed] + a[speed + 1 :] == b[:speed] + b[speed + 1 :]
