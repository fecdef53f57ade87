# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import PIL.Image
import pytest
import torch

from rsvheat.evaluation.box_panels import WorstBoxPanels, box_panels_figure
from rsvheat.evaluation.panels import save_figure

CLASSES = ("car", "plane")


def sample(right=2, wrong=1, oriented=False, size=(60, 80)):
    """Return an image with four true boxes, of which some are found, and some wrong boxes."""
    truth = torch.tensor([[20.0 * i, 5, 20.0 * i + 10, 25] for i in range(4)])
    moved = truth[:wrong] + torch.tensor([0.0, 30, 0, 30])
    boxes = torch.cat((truth[:right], moved))
    if oriented:
        truth, boxes = (
            torch.cat(((x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2], 0 * x[:, :1]), 1)
            for x in (truth, boxes)
        )
    found = {
        "boxes": boxes,
        "scores": torch.linspace(0.9, 0.4, len(boxes)),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
    }
    return torch.randn(3, *size), found, truth, torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("oriented", [False, True])
def test_f1_is_that_counted_by_hand(oriented):
    worst = WorstBoxPanels()
    assert worst.add("a", *sample(2, 1, oriented)) == pytest.approx(2 * 2 / (4 + 3))
    (panel,) = worst.panels
    assert panel.found.tolist() == [True, True, False, False]
    assert panel.right.tolist() == [True, True, False]
    corners = [[20, 5], [30, 5], [30, 25], [20, 25]]
    np.testing.assert_allclose(panel.truth[1], corners, atol=1e-5)
    np.testing.assert_allclose(panel.predicted[1], corners, atol=1e-5)


def test_boxes_of_low_scores_do_not_count():
    worst = WorstBoxPanels(min_score=0.5)
    assert worst.add("a", *sample(2, 1)) == pytest.approx(2 * 2 / (4 + 2))
    assert len(worst.panels[0].predicted) == 2


def test_boxes_of_the_wrong_class_are_wrong():
    image, found, truth, labels = sample(2, 0)
    found["labels"][0] = 1
    assert WorstBoxPanels().add("a", image, found, truth, labels) == pytest.approx(2 / 6)


def test_the_worst_are_kept_in_any_order():
    for order in ([0, 1, 2, 3, 4], [4, 1, 3, 0, 2]):
        worst = WorstBoxPanels(count=2)
        for right in order:
            worst.add(f"right {right}", *sample(right))
        assert [panel.key for panel in worst.panels] == ["right 0", "right 1"]


def test_images_without_boxes_are_left_out():
    image, found, truth, labels = sample(0, 0)
    worst = WorstBoxPanels()
    assert math.isnan(worst.add("empty", image, found, truth[:0], labels[:0]))
    assert worst.panels == []
    with pytest.raises(ValueError, match="there is no panel to draw"):
        box_panels_figure(worst.panels, CLASSES)


def test_boxes_of_large_images_shrink_with_them():
    worst = WorstBoxPanels(side=40)
    worst.add("large", *sample())
    (panel,) = worst.panels
    assert panel.image.shape == (30, 40, 3)
    np.testing.assert_allclose(panel.truth[1, 0], [10, 2.5])


def test_pictures_show_the_boxes_in_the_colors_of_their_classes(tmp_path):
    worst = WorstBoxPanels()
    image, found, truth, labels = sample(2, 1)
    worst.add("tile 1", torch.zeros_like(image), found, truth, labels)
    colors = {"car": "#ff0000", "plane": "#0000ff"}
    figure = box_panels_figure(worst.panels, CLASSES, colors)
    path = save_figure(tmp_path / "panels.png", figure)
    with PIL.Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels == (255, 0, 0)).all(2)
    height, width = red.shape
    half = red[: height * 4 // 5]
    assert half[:, : width // 2].sum() > 300
    assert half[:, width // 2 :].sum() > 300
    left, right = (axes.get_title(loc="left") for axes in figure.axes)
    assert left == "tile 1, F1 0.571\ntruth: 2 of 4 boxes found"
    assert right == "prediction: 2 of 3 boxes right"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["car", "found, right", "missed, wrong"]


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="count and side must be at least 1, got 0 and 1024"):
        WorstBoxPanels(count=0)
