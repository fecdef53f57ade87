# SPDX-License-Identifier: Apache-2.0
"""Scores of trained and untrained models, calibration, panels, and probes of frozen features."""

from rsvheat.evaluation.box_panels import (
    BoxPanel,
    WorstBoxPanels,
    box_panels_figure,
)
from rsvheat.evaluation.calibration import (
    Calibration,
    ConfidenceBins,
    LogitSample,
    fit_temperature,
    sample_pixels,
)
from rsvheat.evaluation.classification_scores import Scores, classification_metrics
from rsvheat.evaluation.confusion import ConfusionMatrix, count_confusion
from rsvheat.evaluation.detection_scores import DetectionMetric, DetectionScores
from rsvheat.evaluation.panels import Panel, WorstPanels, panels_figure, save_figure
from rsvheat.evaluation.probing import Features, extract_features, knn, linear_probe, standardize
from rsvheat.evaluation.score_files import Measure
from rsvheat.evaluation.seed_scores import SeedScores, Spread
from rsvheat.evaluation.segmentation_scores import SegmentationScores
from rsvheat.evaluation.submissions import merge_windows, write_dota, write_fair1m
from rsvheat.evaluation.whole_images import WholeImages

__all__ = [
    "BoxPanel",
    "Calibration",
    "ConfidenceBins",
    "ConfusionMatrix",
    "DetectionMetric",
    "DetectionScores",
    "Features",
    "LogitSample",
    "Measure",
    "Panel",
    "Scores",
    "SeedScores",
    "SegmentationScores",
    "Spread",
    "WholeImages",
    "WorstBoxPanels",
    "WorstPanels",
    "box_panels_figure",
    "classification_metrics",
    "count_confusion",
    "extract_features",
    "fit_temperature",
    "knn",
    "linear_probe",
    "merge_windows",
    "panels_figure",
    "sample_pixels",
    "save_figure",
    "standardize",
    "write_dota",
    "write_fair1m",
]
