# SPDX-License-Identifier: Apache-2.0
"""Scores, calibration and panels of two processes are those of one that sees all images."""

import subprocess
import sys

import torch

from rsvheat.evaluation.calibration import ConfidenceBins
from rsvheat.evaluation.confusion import ConfusionMatrix
from rsvheat.evaluation.panels import WorstPanels

SCRIPT = """
import sys

import torch
from torch import distributed

from rsvheat.evaluation.calibration import ConfidenceBins
from rsvheat.evaluation.confusion import ConfusionMatrix
from rsvheat.evaluation.panels import WorstPanels

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
store = distributed.FileStore(f"{folder}/store", 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
logits, labels = torch.load(f"{folder}/maps", weights_only=True)
matrix, bins, worst = ConfusionMatrix(5), ConfidenceBins(), WorstPanels("abcde", count=3)
# The processes see different numbers of images.
for i in range(6):
    if (i < 2) == (rank == 0):
        matrix.update(logits[[i]], labels[[i]])
        bins.update(logits[[i]].softmax(1), labels[[i]])
        worst.add(f"image {i}", {"x": logits[i]}, labels[i], logits[i].argmax(0))
keys = [panel.key for panel in worst.gather()]
torch.save((matrix.compute(), bins.compute(), keys), f"{folder}/out{rank}")
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_find_what_one_does(tmp_path):
    logits, labels = torch.randn(6, 5, 20, 30), torch.randint(5, (6, 20, 30))
    labels[torch.rand(labels.shape) < 0.1] = 255
    torch.save((logits, labels), tmp_path / "maps")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    matrix, bins, worst = ConfusionMatrix(5), ConfidenceBins(), WorstPanels("abcde", count=3)
    matrix.update(logits, labels)
    bins.update(logits.softmax(1), labels)
    for i in range(6):
        worst.add(f"image {i}", {"x": logits[i]}, labels[i], logits[i].argmax(0))
    for rank in range(2):
        counted, binned, keys = torch.load(tmp_path / f"out{rank}", weights_only=True)
        assert torch.equal(counted, matrix.compute())
        torch.testing.assert_close(binned, bins.compute(), atol=0, rtol=1e-12)
        assert keys == [panel.key for panel in worst.panels]
