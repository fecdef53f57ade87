# SPDX-License-Identifier: Apache-2.0
"""Panels of images, truth and prediction, the worst first."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

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


class Ranked(Protocol):
    """A panel with a name and a score."""

    @property
    def key(self) -> str:
        """Name of the sample."""

    @property
    def score(self) -> float:
        """Score of the sample."""


RankedT = TypeVar("RankedT", bound=Ranked)


class WorstFirst(Generic[RankedT]):
    """The panels with the lowest scores; of equal scores those with the lower names.

    So the result does not depend on the order in which panels come.

    Args:
        count: Number of panels that are kept, at least 1.
        side: Largest side of a kept panel in pixels; larger ones lose rows and columns.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, count: int, side: int) -> None:
        if count < 1 or side < 1:
            raise ValueError(f"count and side must be at least 1, got {count} and {side}")
        self.count = count
        self.side = side
        self._kept: list[RankedT] = []

    def has_place(self, score: float, key: str) -> bool:
        """Return whether a panel would be kept.

        Args:
            score: Score of the sample; NaN is not kept.
            key: Name of the sample.
        """
        if math.isnan(score):
            return False
        return len(self._kept) < self.count or (score, key) < _rank(self._kept[-1])

    def _keep(self, panels: Sequence[RankedT]) -> None:
        self._kept = sorted((*self._kept, *panels), key=_rank)[: self.count]

    @property
    def panels(self) -> list[RankedT]:
        """The panels that were added in this process, the worst first."""
        return list(self._kept)

    def gather(self) -> list[RankedT]:
        """Return the panels of all processes, the worst first; every process has to call it."""
        if world_size() > 1:
            lists: list[Any] = [None] * world_size()
            distributed.all_gather_object(lists, self._kept)
            everything = {panel.key: panel for panels in lists for panel in panels}
            self._kept = []
            self._keep(list(everything.values()))
        return self.panels


class WorstPanels(WorstFirst[Panel]):
    """The panels with the lowest mean IoU among all that are added.

    Images of which no pixel counts are left out. Of images with the same score those with the
    lower names are kept, so the result does not depend on the order.

    Args:
        classes: Class names by label.
        count: Number of panels that are kept, at least 1.
        side: Largest side of a kept panel in pixels; larger ones lose rows and columns.
        rgb: Bands shown as red, green and blue, or as gray, by name of the image, as for
            ``rsvheat.explain.display``.

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
        super().__init__(count, side)
        self.classes = tuple(classes)
        self.rgb = dict(rgb or {})

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
        if not self.has_place(score, key):
            return score
        step = -(-max(truth.shape) // self.side)
        pictures = {
            name: picture(image, step, self.rgb.get(name), (valid or {}).get(name))
            for name, image in images.items()
        }
        true, guessed = (
            classes[::step, ::step].to("cpu", torch.uint8).numpy() for classes in (truth, predicted)
        )
        self._keep([Panel(key, pictures, true, guessed, score)])
        return score


def panels_figure(
    panels: Sequence[Panel],
    classes: Sequence[str],
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Any:
    """Draw panels with Matplotlib: a row each, of the images, the truth and the prediction.

    Args:
        panels: Panels, at least one.
        classes: Class names by label.
        colors: Colors by class name, as for ``rsvheat.raster.class_colors``.

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
    size = (2.4 * len(columns), 2.6 * len(panels) + 0.25 * len(classes))
    figure = Figure(size, dpi=120, layout="constrained")
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


def save_figure(path: str | os.PathLike[str], figure: Any) -> Path:
    """Write a Matplotlib figure as a PNG file, whole or not at all.

    Args:
        path: Path of the file; its folder is made if need be.
        figure: The figure, such as ``panels_figure`` returns.

    Returns:
        The path.
    """
    path = Path(path)
    with complete_file(path) as temporary:
        figure.savefig(temporary)
    return path


def _rank(panel: Ranked) -> tuple[float, str]:
    return panel.score, panel.key


def picture(
    image: Tensor, step: int = 1, rgb: Sequence[int] | None = None, valid: Tensor | None = None
) -> NDArray[np.float32]:
    """Return an image as people see it, (h, w, 3) from 0 to 1, gray where nothing holds data.

    Args:
        image: Image, (bands, H, W); its values are stretched.
        step: Distance of the rows and columns that are kept.
        rgb: Bands shown as red, green and blue, or as gray, as for ``rsvheat.explain.display``.
        valid: Pixels that hold data, bool (1, H, W).
    """
    shown = image.detach()[:, ::step, ::step].float().cpu()
    if valid is not None:
        shown = torch.where(valid[:, ::step, ::step].cpu(), shown, torch.nan)
    if shown.isnan().all():
        return np.full((*shown.shape[1:], 3), 0.5, np.float32)
    return display(shown, rgb)
