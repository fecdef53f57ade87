# SPDX-License-Identifier: Apache-2.0
"""Normalization of scenes that were stretched or calibrated otherwise than training's images."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError, Normalizer, Statistics, Window
from rsvheat.data.normalize import Decibels, to_decibels
from rsvheat.raster.predictor import Scenes
from rsvheat.raster.scene import Scene


def matched(model: TrainedModel, scenes: Scenes) -> TrainedModel:
    """Return a model that brings the bands of scenes to the moments of the training images.

    Args:
        model: Trained network.
        scenes: Scenes by modality, whose mean and standard deviation are estimated from up to 64
            windows all over them.

    Raises:
        ValueError: If there are no statistics of the training images.
        DataError: If a band of a scene has no data.
    """
    normalizers = dict(model.normalizers)
    for name, scene in scenes.items():
        if name not in model.statistics:
            raise ValueError(
                f"{model.path} holds no statistics of its {name} training images, which match "
                "needs: they were normalized by numbers that were given"
            )
        normalizers[name] = _matched(
            normalizers[name], model.statistics[name], scene, model.size[0]
        )
    return replace(model, normalizers=normalizers)


def _matched(normalizer: Normalizer, statistics: Statistics, scene: Scene, size: int) -> Normalizer:
    mean, deviation = _moments(scene, size, normalizer.decibels)
    there, spread = np.array(statistics.mean), np.array(statistics.std)
    # A band that is constant here or there has no factor.
    factor = np.ones_like(mean)
    np.divide(deviation, spread, out=factor, where=(deviation > 0) & (spread > 0))
    center = mean + (np.array(normalizer.center) - there) * factor
    scale = np.array(normalizer.scale) * factor
    return replace(normalizer, center=tuple(center.tolist()), scale=tuple(scale.tolist()))


def _moments(
    scene: Scene, size: int, decibels: Decibels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of a scene's bands, from 8 x 8 windows."""
    height, width = min(size, scene.height), min(size, scene.width)
    tops = np.unique(np.linspace(0, scene.height - height, 8).astype(int)).tolist()
    lefts = np.unique(np.linspace(0, scene.width - width, 8).astype(int)).tolist()
    sums = np.zeros((3, scene.bands))
    for top in tops:
        for left in lefts:
            pixels = to_decibels(scene.read(Window(top, left, height, width)), decibels)
            values = pixels.values.astype(np.float64)
            valid = np.broadcast_to(True if pixels.valid is None else pixels.valid, values.shape)
            values = np.where(valid, values, 0)
            sums += valid.sum((1, 2)), values.sum((1, 2)), np.square(values).sum((1, 2))
    if not sums[0].all():
        raise DataError(f"{scene.name} has bands without data in {len(tops) * len(lefts)} windows")
    mean = sums[1] / sums[0]
    return mean, np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
