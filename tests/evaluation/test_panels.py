# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import PIL.Image
import pytest
import torch

from rsvheat._colors import class_colors
from rsvheat.evaluation.panels import NOT_COUNTED, WorstPanels, panels_figure, save_figure

CLASSES = ("land", "water", "road")


def sample(wrong=0.0, size=(40, 60), bands=3, seed=0):
    """Return an image, its truth, and a prediction wrong in that share of the columns."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(bands, *size, generator=generator)
    truth = torch.randint(3, size, generator=generator)
    predicted = truth.clone()
    columns = round(wrong * size[1])
    predicted[:, :columns] = (truth[:, :columns] + 1) % 3
    return {"optical": image}, truth, predicted


def test_the_worst_are_kept_in_any_order():
    shares = {f"s{i}": i / 10 for i in range(8)}
    for names in (list(shares), list(shares)[::-1]):
        worst = WorstPanels(CLASSES, count=3)
        scores = {name: worst.add(name, *sample(shares[name])) for name in names}
        assert [panel.key for panel in worst.panels] == ["s7", "s6", "s5"]
        assert [panel.score for panel in worst.panels] == [scores[f"s{i}"] for i in (7, 6, 5)]
        assert scores["s0"] == 1


def test_ties_go_by_name():
    for names in ("cab", "bca"):
        worst = WorstPanels(CLASSES, count=2)
        for name in names:
            worst.add(name, *sample(0.5))
        assert [panel.key for panel in worst.panels] == ["a", "b"]


def test_images_of_which_nothing_counts_are_left_out():
    worst = WorstPanels(CLASSES)
    images, truth, predicted = sample()
    assert math.isnan(worst.add("empty", images, torch.full_like(truth, 255), predicted))
    assert worst.panels == []
    with pytest.raises(ValueError, match="there is no panel to draw"):
        panels_figure(worst.panels, CLASSES)


def test_large_images_lose_rows_and_columns():
    worst = WorstPanels(CLASSES, side=64)
    images, truth, predicted = sample(0.2, size=(100, 200))
    worst.add("large", images, truth, predicted)
    (panel,) = worst.panels
    assert panel.truth.shape == panel.predicted.shape == (25, 50)
    assert panel.images["optical"].shape == (25, 50, 3)
    assert np.array_equal(panel.truth, truth[::4, ::4].numpy())


def test_pictures_show_the_chosen_bands_and_gray_without_data():
    worst = WorstPanels(CLASSES, rgb={"optical": (3, 2, 1)})
    images, truth, predicted = sample(bands=12)
    valid = torch.ones(1, 40, 60, dtype=torch.bool)
    valid[:, :5] = False
    images["sar"] = torch.randn(2, 40, 60)
    nothing = torch.zeros_like(valid)
    worst.add("x", images, truth, predicted, {"optical": valid, "sar": nothing})
    pictures = worst.panels[0].images
    assert (pictures["optical"][:5] == 0.5).all()
    order = np.argsort(pictures["optical"][5:, :, 0].ravel(), kind="stable")
    shown = images["optical"][3, 5:].numpy().ravel()[order]
    assert (np.diff(shown[100:-100]) >= 0).all()
    assert (pictures["sar"] == 0.5).all()


def test_the_grid_shows_images_truth_and_prediction(tmp_path):
    worst = WorstPanels(CLASSES, count=2)
    for i in range(3):
        images, truth, _ = sample(0.3 * i)
        truth[:10] = 255
        worst.add(f"s{i}", {"before": images["optical"], "after": images["optical"]}, truth, truth)
    figure = panels_figure(worst.panels, CLASSES, {"road": "#010203"})
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in grid[0][1:]] == ["after", "truth", "prediction"]
    assert grid[0][0].get_title(loc="left").startswith("s0, mean IoU")
    truth = worst.panels[0].truth
    table = class_colors(CLASSES, {"road": "#010203"})
    (drawn,) = grid[0][2].get_images()
    pixels = drawn.get_array()
    assert (pixels[truth == 255] == NOT_COUNTED).all()
    for label in range(3):
        assert (pixels[truth == label] == table[label]).all()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*CLASSES, "does not count"]
    path = save_figure(tmp_path / "new" / "worst.png", figure)
    assert PIL.Image.open(path).size[0] > 500
    assert [file.name for file in path.parent.iterdir()] == ["worst.png"]


def test_tensorboard_takes_the_figure(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    worst = WorstPanels(CLASSES)
    worst.add("x", *sample(0.5))
    with SummaryWriter(tmp_path) as writer:
        writer.add_figure("val/panels", panels_figure(worst.panels, CLASSES), 3)
    (events,) = tmp_path.iterdir()
    assert b"val/panels" in events.read_bytes()


def test_numbers_are_checked():
    with pytest.raises(ValueError, match="count and side must be at least 1, got 0 and 512"):
        WorstPanels(CLASSES, count=0)
