# SPDX-License-Identifier: Apache-2.0
"""Scores of trained and untrained models, and probes of frozen features."""

from rsvheat.evaluation.classification_scores import Scores, classification_metrics
from rsvheat.evaluation.probing import Features, extract_features, knn, linear_probe, standardize

__all__ = [
    "Features",
    "Scores",
    "classification_metrics",
    "extract_features",
    "knn",
    "linear_probe",
    "standardize",
]
