# SPDX-License-Identifier: Apache-2.0
"""Change of each pixel between two scenes of one grid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsvheat.checkpoint import TrainedModel
from rsvheat.raster.dense import DensePredictor
from rsvheat.raster.predictor import Options, Scenes

DATES = ("before", "after")


class ChangePredictor(DensePredictor):
    """Classifies the change of every pixel between the scenes ``before`` and ``after``.

    Windows are blended as by ``rsvheat.raster.dense.DensePredictor``; pixels without data in
    one of the scenes have no class.

    Args:
        model: Network whose output is a mask and whose images are ``before`` and ``after``.
        scenes: The two scenes, of one grid.
        options: Options.

    Raises:
        ValueError: If one of the scenes is missing.
    """

    kind = "change of pixels"

    def __init__(self, model: TrainedModel, scenes: Scenes, options: Options) -> None:
        if set(scenes) != set(DATES):
            raise ValueError(
                f"change is between two rasters, {DATES[0]} and {DATES[1]}; got {', '.join(scenes)}"
            )
        super().__init__(model, scenes, options)

    def combine(self, masks: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
        """Return where pixels are predicted: where both dates have data.

        Args:
            masks: Where each date has data (H, W); None for everywhere.
        """
        found = [mask for mask in masks if mask is not None]
        return np.logical_and.reduce(found) if found else None
