# SPDX-License-Identifier: Apache-2.0
"""Boxes of tiles become boxes of whole images."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("shapely")
pytest.importorskip("scipy")
from box_scenes import harbor, turned
from stand_ins import Boxes as BoxNetwork
from stand_ins import OrientedBoxes, small_encoder

from rsvheat.data import (
    ArraySource,
    Crop,
    DataModule,
    DatasetReader,
    LoaderOptions,
    Normalize,
    Sensor,
    Split,
)
from rsvheat.data.boxes import Boxes
from rsvheat.tasks import DetectionTask, OrientedDetectionTask

CLASSES = ("ship", "plane")
SIZES = ((150, 230), (64, 64), (200, 70))


class Scenes(ArraySource):
    """Images of rectangles with their boxes, and one without any."""

    classes = CLASSES

    def __init__(self, oriented, enlarged=1):
        self.target = "oriented_boxes" if oriented else "boxes"
        self.found, samples = [], []
        for seed, size in enumerate(SIZES):
            values, boxes = (turned if oriented else harbor)(*size, seed=seed)
            if oriented:
                boxes = [(x, y, 20, 8, angle, 1) for x, y, angle in boxes]
            boxes = np.array(boxes, np.float64).reshape(-1, 6 if oriented else 5)
            boxes[:, :4] *= enlarged
            self.found.append((boxes[:, :-1], boxes[:, -1].astype(np.int64)))
            samples.append({"optical": values.repeat(enlarged, 1).repeat(enlarged, 2)})
        samples.append({"optical": np.zeros((3, 100 * enlarged, 100 * enlarged), np.uint8)})
        self.found.append((np.zeros((0, 5 if oriented else 4)), np.zeros(0, np.int64)))
        super().__init__(samples)

    def read_target(self, index, window):
        boxes, labels = self.found[index]
        corners = Boxes(boxes, labels).corners - np.array((window.left, window.top), np.float64)
        return Boxes(corners, labels)


class Reader(DatasetReader):
    def __init__(self, *arguments):
        self.arguments = arguments

    def splits(self, scan):
        return {"test": Split(scan(Scenes(*self.arguments)))}

    def sensors(self):
        return {"optical": Sensor(3, normalize=Normalize("mean_std", mean=[100.0], std=[50.0]))}


class Network(torch.nn.Module):
    """A stand-in in the place of a detector."""

    def __init__(self, oriented):
        super().__init__()
        self.found = (OrientedBoxes if oriented else BoxNetwork)(small_encoder(), len(CLASSES))

    def forward(self, images, index):
        return images

    def detect(self, images):
        return self.found.predict(images)


def task_and_data(oriented, size=64, window=64, batch=3):
    data = DataModule(
        Reader(oriented, window // size),
        crop=Crop(size, window, augment=False),
        loader=LoaderOptions(batch_size=batch, num_workers=0),
    )
    kind = OrientedDetectionTask if oriented else DetectionTask
    task = kind(data.spec, encoder_options={"dims": [8] * 4, "depths": [1] * 4}, panels=2)
    task.network = Network(oriented)
    return task, data


@pytest.mark.parametrize(
    ("oriented", "sizes"), [(False, (64, 64)), (True, (64, 64)), (False, (64, 128))]
)
def test_objects_of_several_tiles_count_once_and_whole(trainer, oriented, sizes):
    task, data = task_and_data(oriented, *sizes)
    trainer().test(task, data, verbose=False)
    source = data.datasets["test"].source.source
    assert len(data.datasets["test"]) == 28
    assert task.scores.images == 4
    assert sum(task.scores.truths) == sum(task.scores.predictions)
    assert sum(task.scores.truths) == sum(len(labels) for _, labels in source.found)
    # Turned rectangles of pixels are not found exactly.
    measures = [name for name in task.scores.logged() if not oriented or "map50_95" not in name]
    assert {task.scores.logged()[name] for name in measures} == {1.0}
    assert len(task.worst) == 2


def test_classes_keep_the_numbers_of_the_training(trainer):
    task, data = task_and_data(False)
    data.setup()
    data.use_classes(("plane", "car", "ship"))
    network = task.network
    task = DetectionTask(data.spec, encoder_options={"dims": [8] * 4, "depths": [1] * 4})
    network.detect = lambda images: [
        {**one, "labels": 2 - 2 * one["labels"]} for one in network.found.predict(images)
    ]
    task.network = network
    trainer().test(task, data, verbose=False)
    assert task.scores.truths[1] == 0
    assert task.scores.logged()["map50_95"] == 1.0


SCRIPT = """
import sys

import torch
from test_whole_images import task_and_data
from lightning.pytorch import Trainer

task, data = task_and_data(True)
Trainer(
    accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
).test(task, data, verbose=False)
torch.save(task.scores.to_dict(), f"{sys.argv[1]}{torch.distributed.get_rank()}")
"""


def test_two_processes_put_the_same_images_together(trainer, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    paths = os.pathsep.join((str(tests), str(tests / "evaluation")))
    done = subprocess.run(
        [sys.executable, *map(str, words), str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    task, data = task_and_data(True)
    trainer().test(task, data, verbose=False)
    for rank in range(2):
        assert torch.load(tmp_path / f"out{rank}") == task.scores.to_dict()
