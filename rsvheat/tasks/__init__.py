# SPDX-License-Identifier: Apache-2.0
"""One Lightning module a task."""

from rsvheat.tasks.change_detection import ChangeDetectionTask
from rsvheat.tasks.classification import ClassificationTask
from rsvheat.tasks.detection import DetectionTask
from rsvheat.tasks.oriented_detection import OrientedDetectionTask
from rsvheat.tasks.pretraining import PretrainingTask, pictures
from rsvheat.tasks.segmentation import SegmentationTask
from rsvheat.tasks.supervised import TASKS, SupervisedTask

__all__ = [
    "TASKS",
    "ChangeDetectionTask",
    "ClassificationTask",
    "DetectionTask",
    "OrientedDetectionTask",
    "PretrainingTask",
    "SegmentationTask",
    "SupervisedTask",
    "pictures",
]
