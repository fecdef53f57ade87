# SPDX-License-Identifier: Apache-2.0
"""Panels of images with true and predicted boxes, the worst first."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat._colors import class_colors
from rsvheat.evaluation.box_matching import RIGHT, match_boxes
from rsvheat.evaluation.panels import WorstFirst, picture
from rsvheat.ops.box_convert import boxes_to_corners

# Boxes of an image beside which the score is written; more would hide the image.
_MOST_TEXTS = 40


@dataclass(frozen=True)
class BoxPanel:
    """An image with its true and predicted boxes.

    Attributes:
        key: Name of the sample.
        image: Picture, (H, W, 3) from 0 to 1.
        truth: Corners of the true boxes, (M, 4, 2) in pixels of the picture.
        truth_labels: Their classes, (M,).
        found: True boxes that are found, (M,).
        predicted: Corners of the predicted boxes, (N, 4, 2).
        labels: Their classes, (N,).
        scores: Their scores, (N,).
        right: Predicted boxes that are right, (N,).
        score: F1 of the image.
    """

    key: str
    image: NDArray[np.float32]
    truth: NDArray[np.float64]
    truth_labels: NDArray[np.int64]
    found: NDArray[np.bool_]
    predicted: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    score: float


class WorstBoxPanels(WorstFirst[BoxPanel]):
    """The images with the lowest F1 at IoU 0.5 among all that are added, with their boxes.

    F1 is ``2 TP / (2 TP + FP + FN)``, of the boxes from a lowest score on and with their classes.
    Images without true and predicted boxes are left out. Of images with the same F1 those with the
    lower names are kept, so the result does not depend on the order.

    Args:
        count: Number of panels that are kept, at least 1.
        min_score: Lowest score of boxes that are counted and drawn.
        side: Largest side of a kept picture in pixels; larger ones lose rows and columns.
        rgb: Bands shown as red, green and blue, or as gray, as for
            ``rsvheat.explain.display``.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        count: int = 4,
        min_score: float = 0.3,
        side: int = 1024,
        rgb: Sequence[int] | None = None,
    ) -> None:
        super().__init__(count, side)
        self.min_score, self.rgb = min_score, rgb

    def add(
        self,
        key: str,
        image: Tensor,
        prediction: Mapping[str, Tensor],
        boxes: Tensor,
        labels: Tensor,
        valid: Tensor | None = None,
    ) -> float:
        """Take one image into account; return its F1, NaN if it has no boxes.

        Args:
            key: Name of the sample.
            image: Image, (bands, H, W); its values are stretched.
            prediction: Tensors ``boxes`` (N, 4) XYXY or (N, 5) CXCYWHR, ``scores`` and ``labels``
                (N,).
            boxes: True boxes, (M, 4) or (M, 5).
            labels: Their classes, (M,).
            valid: Pixels that hold data, bool (1, H, W); others are gray.
        """
        chosen = prediction["scores"] >= self.min_score
        found, guess, scores = (
            prediction[name].detach().as_subclass(Tensor)[chosen].cpu()
            for name in ("boxes", "labels", "scores")
        )
        truth = boxes.detach().as_subclass(Tensor).cpu().double()
        true_labels = labels.cpu().numpy().astype(np.int64)
        matches = match_boxes(
            found.double(),
            scores.float().numpy(),
            guess.numpy().astype(np.int64),
            truth,
            true_labels,
            np.zeros(len(truth), bool),
            None,
        )
        right = matches.outcomes[:, 0] == RIGHT
        total = len(found) + len(truth)
        score = 2 * int(right.sum()) / total if total else math.nan
        if self.has_place(score, key):
            step = -(-max(image.shape[1:]) // self.side)
            panel = BoxPanel(
                key,
                picture(image, step, self.rgb, valid),
                _corners(truth) / step,
                true_labels,
                matches.found,
                _corners(found.double()) / step,
                guess.numpy().astype(np.int64),
                scores.float().numpy(),
                right,
                score,
            )
            self._keep([panel])
        return score


def _corners(boxes: Tensor) -> NDArray[np.float64]:
    if boxes.shape[1] == 4:
        left, top, right, bottom = boxes.unbind(1)
        corners = torch.stack((left, top, right, top, right, bottom, left, bottom), 1)
        return np.asarray(corners.reshape(-1, 4, 2).numpy())
    return np.asarray(boxes_to_corners(boxes).numpy())


def box_panels_figure(
    panels: Sequence[BoxPanel],
    classes: Sequence[str],
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Any:
    """Draw panels with Matplotlib: a row each, the true boxes beside the predicted ones.

    Boxes that are found, and right ones, have solid lines; missed and wrong ones dotted lines.

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
    from matplotlib.lines import Line2D

    if not panels:
        raise ValueError("there is no panel to draw")
    table = class_colors(classes, colors) / 255
    figure = Figure((10, 5.2 * len(panels) + 0.6), dpi=200, layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False)
    for (left, right), panel in zip(grid, panels, strict=True):
        found, correct = int(panel.found.sum()), int(panel.right.sum())
        for axes in (left, right):
            axes.set_axis_off()
            axes.imshow(panel.image, interpolation="nearest")
        _draw(left, panel.truth, table[panel.truth_labels], panel.found)
        _draw(right, panel.predicted, table[panel.labels], panel.right)
        if len(panel.scores) <= _MOST_TEXTS:
            for corners, label, score in zip(
                panel.predicted, panel.labels, panel.scores, strict=True
            ):
                x, y = corners[corners[:, 1].argmin()]
                style = {"color": "white", "fontsize": 6, "clip_on": True}
                box = {"facecolor": table[label], "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
                right.text(x, y, f"{score:.2f}", va="bottom", bbox=box, **style)
        left.set_title(
            f"{panel.key}, F1 {panel.score:.3f}\ntruth: {found} of {len(panel.found)} boxes found",
            loc="left",
            fontsize=9,
        )
        right.set_title(
            f"prediction: {correct} of {len(panel.right)} boxes right", loc="left", fontsize=9
        )
    occurring = {int(i) for panel in panels for i in (*panel.truth_labels, *panel.labels)}
    handles = [Line2D([], [], color=table[i], lw=2, label=classes[i]) for i in sorted(occurring)]
    handles += [
        Line2D([], [], color="black", lw=2, label="found, right"),
        Line2D([], [], color="black", lw=2, ls=":", label="missed, wrong"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _draw(
    axes: Any, corners: NDArray[np.float64], colors: NDArray[Any], solid: NDArray[np.bool_]
) -> None:
    from matplotlib.collections import PolyCollection

    styles = ["solid" if one else "dotted" for one in solid]
    axes.add_collection(
        PolyCollection(
            list(corners), facecolors="none", edgecolors=colors, linestyles=styles, linewidths=1.2
        ),
        autolim=False,
    )
