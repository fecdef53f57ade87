# SPDX-License-Identifier: Apache-2.0
"""Panels of images, truth and prediction, the worst first."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from rsvheat._colors import class_colors
from rsvheat._display import display
from rsvheat._files import complete_file
from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.evaluation.segmentation_scores import SegmentationScores
from rsvheat.losses import world_size

# Color of pixels that do not count.
NOT_COUNTED = (190, 190, 190)


@dataclass(frozen=True)
class Panel:
    """One image, or the images of several sensors or dates, with truth and prediction.

    Attributes:
        key: Name of the sample.
        images: Pictures by name, (H, W, 3) from 0 to 1.
        truth: True classes, (H, W); 255 for pixels that do not count.
        predicted: Predicted classes, (H, W).
        score: Mean IoU of the image, over the classes that occur in it.
    """

    key: str
    images: Mapping[str, NDArray[np.float32]]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    score: float


class WorstPanels:
    """The panels with the lowest mean IoU among all that are added.

    Images of which no pixel counts are left out. Of images with the same score those with the
    lower names are kept, so the result does not depend on the order.

    Args:
        classes: Class names by label.
        count: Number of panels that are kept, at least 1.
        side: Largest side of a kept panel in pixels; larger ones lose rows and columns.
        rgb: Bands shown as red, green and blue, or as gray, by name of the image, as for
            :func:`rsvheat.explain.display`.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        classes: Sequence[str],
        count: int = 8,
        side: int = 512,
        rgb: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if count < 1 or side < 1:
            raise ValueError(f"count and side must be at least 1, got {count} and {side}")
        self.classes = tuple(classes)
        self.count = count
        self.side = side
        self.rgb = dict(rgb or {})
        self._kept: list[Panel] = []

    def add(
        self,
        key: str,
        images: Mapping[str, Tensor],
        truth: Tensor,
        predicted: Tensor,
        valid: Mapping[str, Tensor] | None = None,
    ) -> float:
        """Take one image into account; return its mean IoU, NaN if no pixel counts.

        Args:
            key: Name of the sample.
            images: Images by sensor or date, (bands, H, W); their values are stretched.
            truth: True classes, integers (H, W); 255 for pixels that do not count.
            predicted: Predicted classes, integers (H, W).
            valid: Pixels that hold data, bool (1, H, W), by name of the image; others are gray.
        """
        score = SegmentationScores.score(predicted[None], truth[None], self.classes)["mean_iou"]
        if math.isnan(score) or (
            len(self._kept) == self.count and (score, key) >= _rank(self._kept[-1])
        ):
            return score
        step = -(-max(truth.shape) // self.side)
        pictures = {}
        for name, image in images.items():
            shown = image.detach()[:, ::step, ::step].float().cpu()
            if valid is not None and name in valid:
                shown = torch.where(valid[name][:, ::step, ::step].cpu(), shown, torch.nan)
            pictures[name] = _picture(shown, self.rgb.get(name))
        true, guessed = (
            classes[::step, ::step].to("cpu", torch.uint8).numpy() for classes in (truth, predicted)
        )
        self._keep([Panel(key, pictures, true, guessed, score)])
        return score

    def _keep(self, panels: Sequence[Panel]) -> None:
        self._kept = sorted((*self._kept, *panels), key=_rank)[: self.count]

    @property
    def panels(self) -> list[Panel]:
        """The panels that were added in this process, the worst first."""
        return list(self._kept)

    def gather(self) -> list[Panel]:
        """Return the panels of all processes, the worst first; every process has to call it."""
        if world_size() > 1:
            lists: list[Any] = [None] * world_size()
            distributed.all_gather_object(lists, self._kept)
            everything = {panel.key: panel for panels in lists for panel in panels}
            self._kept = []
            self._keep(list(everything.values()))
        return self.panels


def panels_figure(
    panels: Sequence[Panel],
    classes: Sequence[str],
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Any:
    """Draw panels with Matplotlib: a row each, of the images, the truth and the prediction.

    Args:
        panels: Panels, at least one.
        classes: Class names by label.
        colors: Colors by class name, as for :func:`rsvheat.raster.class_colors`.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ValueError: If there is no panel, or a color is wrong.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not panels:
        raise ValueError("there is no panel to draw")
    table = np.concatenate((class_colors(classes, colors), [NOT_COUNTED])).astype(np.uint8)
    names = list(dict.fromkeys(name for panel in panels for name in panel.images))
    columns = [*names, "truth", "prediction"]
    figure = Figure(
        figsize=(2.4 * len(columns), 2.6 * len(panels) + 0.25 * len(classes)), layout="constrained"
    )
    grid = figure.subplots(len(panels), len(columns), squeeze=False)
    for row, panel in zip(grid, panels, strict=True):
        maps = {
            "truth": table[np.minimum(panel.truth, len(classes))],
            "prediction": table[np.minimum(panel.predicted, len(classes))],
        }
        for axes, name in zip(row, columns, strict=True):
            axes.set_axis_off()
            picture = {**panel.images, **maps}.get(name)
            if picture is not None:
                axes.imshow(picture, interpolation="nearest")
        row[0].set_title(f"{panel.key}, mean IoU {panel.score:.3f}", loc="left", fontsize=8)
    for axes, name in zip(grid[0][1:], columns[1:], strict=True):
        axes.set_title(name, fontsize=8)
    handles = [
        Patch(facecolor=color / 255, edgecolor="black", label=name)
        for name, color in zip((*classes, "does not count"), table, strict=True)
    ]
    if not any((panel.truth == IGNORE_INDEX).any() for panel in panels):
        handles.pop()
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(columns)), fontsize=8
    )
    return figure


def save_panels(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    classes: Sequence[str],
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Path:
    """Write panels as a PNG file, whole or not at all.

    Args:
        path: Path of the file; its folder is made if need be.
        panels: Panels, at least one.
        classes: Class names by label.
        colors: Colors by class name, as for :func:`panels_figure`.

    Returns:
        The path.

    Raises:
        ValueError: As for :func:`panels_figure`.
    """
    path = Path(path)
    figure = panels_figure(panels, classes, colors)
    with complete_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _rank(panel: Panel) -> tuple[float, str]:
    return panel.score, panel.key


def _picture(image: Tensor, rgb: Sequence[int] | None) -> NDArray[np.float32]:
    """Return an image as people see it, gray where nothing holds data."""
    if image.isnan().all():
        return np.full((*image.shape[1:], 3), 0.5, np.float32)
    return display(image, rgb)
