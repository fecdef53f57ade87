# SPDX-License-Identifier: Apache-2.0
"""Segmentation in two processes is scored and calibrated as in one."""

import os
import runpy
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys

import torch
from fields import SMALL, Fields, Reader, module
from lightning.pytorch import Trainer, seed_everything

from rsvheat.tasks import SegmentationTask
from rsvheat.training import AtomicCheckpointIO, Optimization


class Few(Fields):
    # Tiles do not divide among two processes, nor among their batches.
    def __init__(self, count, seed, names):
        super().__init__(3 if count == 4 else count, seed, names)


def run(processes, strategy):
    seed_everything(1)
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    data = module(Reader(Few, ("optical",)), crops=2)
    task = SegmentationTask(
        data.spec, optimization=Optimization(lr=1e-2, warmup=0.0), panels=2, **SMALL
    )
    trainer.fit(task, data)
    trained = [p.detach().abs().sum() for p in task.parameters()]
    # The same weights from here on, whatever the rounding of two processes.
    torch.manual_seed(0)
    for parameter in task.network.parameters():
        parameter.data = torch.randn_like(parameter) / max(parameter.numel(), 1) ** 0.5
    scorer = Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    [values] = scorer.validate(task, data, verbose=False)
    scorer.test(task, data, verbose=False)
    return {
        "trained": trained,
        "values": values,
        "scores": task.scores.to_dict(),
        "calibration": task.uncalibrated.to_dict(),
        "images": [tuple(image) for image in task.images],
        "worst": [panel.key for panel in task.worst],
    }


if __name__ == "__main__":
    result = run(2, "ddp")
    torch.save(result, f"{sys.argv[1]}{torch.distributed.get_rank()}")
"""


def test_two_processes_score_what_one_does(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = os.path.dirname(os.path.dirname(__file__))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    done = subprocess.run(
        [sys.executable, *map(str, words), str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = [torch.load(tmp_path / f"out{rank}") for rank in range(2)]
    for a, b in zip(both[0]["trained"], both[1]["trained"], strict=True):
        assert torch.equal(a, b)  # the processes train one network
    expected = runpy.run_path(str(script))["run"](1, "auto")
    for result in both:
        assert result["scores"] == expected["scores"]
        assert result["scores"]["pixels"] == 3 * 64 * 80
        assert result["worst"] == expected["worst"]
        assert [row[:2] for row in result["images"]] == [row[:2] for row in expected["images"]]
        for name in ("expected_calibration_error", "count"):
            assert result["calibration"][name] == pytest.approx(expected["calibration"][name])
        for name in ("val/loss", "val/mean_iou", "val/overall_accuracy"):
            assert result["values"][name] == pytest.approx(expected["values"][name], rel=1e-5)
        # Processes draw other pixels for it, and agree on it.
        assert result["values"]["val/temperature"] == both[0]["values"]["val/temperature"]
        assert result["values"]["val/temperature"] == pytest.approx(
            expected["values"]["val/temperature"], rel=0.2
        )
