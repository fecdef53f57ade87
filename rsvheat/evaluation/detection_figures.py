# SPDX-License-Identifier: Apache-2.0
"""Pictures of detection scores: curves of precision and recall, and types of errors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsvheat.evaluation.average_precision import Curve

# Points that a curve is drawn with at most.
_POINTS = 1000
# Colors of the types of errors, told apart with all kinds of color vision (Okabe and Ito).
_COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#999999", "#D55E00")


def curves_figure(
    classes: Sequence[str], curves: Sequence[Curve | None], ap: Sequence[float], title: str
) -> Any:
    """Draw the precision of each class over its recall.

    Args:
        classes: Class names by label.
        curves: Precision and recall by class; None for those that are not drawn.
        ap: Average precision by class.
        title: Title of the picture.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    drawn = [i for i, curve in enumerate(curves) if curve is not None]
    drawn.sort(key=lambda i: -ap[i])
    figure = Figure(figsize=(8.5, max(5.0, 0.2 * len(drawn) + 1)), layout="constrained")
    axes = figure.subplots()
    styles = ("solid", "dashed", "dotted", "dashdot")
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for place, i in enumerate(drawn):
        curve = curves[i]
        assert curve is not None
        # Interpolated precision: the highest at this recall or above, which AP is computed from.
        highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
        recall = np.concatenate(([0.0], curve.recall, curve.recall[-1:]))
        precision = np.concatenate((highest[:1], highest, [0.0] * min(len(highest), 1)))
        if not len(highest):
            recall, precision = np.zeros(1), np.zeros(1)
        step = -(-len(recall) // _POINTS)
        shown = np.unique([*range(0, len(recall), step), len(recall) - 1])
        axes.step(
            recall[shown],
            precision[shown],
            where="pre",
            color=colors[place % 10],
            linestyle=styles[place // 10 % len(styles)],
            linewidth=1.4,
            label=f"{classes[i]} {ap[i]:.3f}",
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.set_title(title)
    if drawn:
        figure.legend(loc="outside right upper", fontsize=8, title="AP at IoU 0.5")
    else:
        axes.text(0.5, 0.5, "no class has true boxes", ha="center", va="center")
    return figure


def errors_figure(
    classes: Sequence[str],
    errors: Mapping[str, Sequence[int]],
    gains: Mapping[str, float],
    measure: str,
) -> Any:
    """Draw the types of errors: what each costs, and how many there are of each class.

    Args:
        classes: Class names by label.
        errors: Number of errors by type and class.
        gains: What the measure would gain without a type.
        measure: Name of the measure.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    names = list(errors)
    figure = Figure(figsize=(11, max(3.6, 0.28 * len(classes) + 1.6)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    values = [0.0 if math.isnan(gains[name]) else 100 * gains[name] for name in names]
    bars = left.barh(names, values, color=_COLORS)
    left.bar_label(bars, [f" {value:.1f}" for value in values], fontsize=8)
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set(xlabel="points", title=f"gain of {measure} without the errors")
    begin = np.zeros(len(classes))
    for name, color in zip(names, _COLORS, strict=True):
        counts = np.array(errors[name])
        right.barh(classes, counts, left=begin, color=color, label=name)
        begin += counts
    right.invert_yaxis()
    right.set(xlabel="number", title="errors by class")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
