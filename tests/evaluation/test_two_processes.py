# SPDX-License-Identifier: Apache-2.0
"""Scores, calibration and panels of two processes are those of one that sees all images."""

import subprocess
import sys

import torch

from rsvheat.evaluation.calibration import ConfidenceBins
from rsvheat.evaluation.confusion import ConfusionMatrix
from rsvheat.evaluation.detection_scores import DetectionMetric, DetectionScores
from rsvheat.evaluation.panels import WorstPanels

SCRIPT = """
import sys

import torch
from torch import distributed

from rsvheat.evaluation.calibration import ConfidenceBins
from rsvheat.evaluation.confusion import ConfusionMatrix
from rsvheat.evaluation.detection_scores import DetectionMetric, DetectionScores
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
# Images are dealt in turn. Ties show their order. Of one image the second process gets none.
found = torch.load(f"{folder}/boxes", weights_only=True)
scores = []
for count in (5, 1):
    metric = DetectionMetric(3, oriented=True)
    for one in list(zip(*found))[:count][rank::2]:
        metric.update(*([part] for part in one))
    scores.append(DetectionScores.of(metric, "abc").to_dict())
torch.save(scores, f"{folder}/scores{rank}")
torch.save((matrix.compute(), bins.compute(), keys), f"{folder}/out{rank}")
distributed.barrier()
distributed.destroy_process_group()
"""


def random_boxes():
    """Return predictions of five images, with many equal scores, and the truth."""
    truth = [torch.rand(8, 5) * torch.tensor([200, 200, 40, 40, 90]) + 5 for _ in range(5)]
    labels = [torch.randint(3, (8,)) for _ in range(5)]
    predictions = [
        {
            "boxes": torch.cat((one + torch.rand(8, 5), one + 100)),
            "scores": torch.randint(1, 4, (16,)) / 4,
            "labels": torch.cat((own, torch.randint(3, (8,)))),
        }
        for one, own in zip(truth, labels, strict=True)
    ]
    return predictions, truth, labels


def test_two_processes_find_what_one_does(tmp_path):
    logits, labels = torch.randn(6, 5, 20, 30), torch.randint(5, (6, 20, 30))
    labels[torch.rand(labels.shape) < 0.1] = 255
    torch.save((logits, labels), tmp_path / "maps")
    boxes = random_boxes()
    torch.save(boxes, tmp_path / "boxes")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    matrix, bins, worst = ConfusionMatrix(5), ConfidenceBins(), WorstPanels("abcde", count=3)
    matrix.update(logits, labels)
    bins.update(logits.softmax(1), labels)
    for i in range(6):
        worst.add(f"image {i}", {"x": logits[i]}, labels[i], logits[i].argmax(0))
    scores = []
    for count in (5, 1):
        metric = DetectionMetric(3, oriented=True)
        metric.update(*(part[:count] for part in boxes))
        scores.append(DetectionScores.of(metric, "abc").to_dict())
    assert 0.1 < scores[0]["map50_area"] < 0.9
    for rank in range(2):
        assert torch.load(tmp_path / f"scores{rank}", weights_only=True) == scores
        counted, binned, keys = torch.load(tmp_path / f"out{rank}", weights_only=True)
        assert torch.equal(counted, matrix.compute())
        torch.testing.assert_close(binned, bins.compute(), atol=0, rtol=1e-12)
        assert keys == [panel.key for panel in worst.panels]
