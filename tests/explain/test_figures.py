# SPDX-License-Identifier: Apache-2.0
import io
import threading

import numpy as np
import pytest
import torch

from rsvheat import explain

pytest.importorskip("matplotlib")


def drawn(figure):
    """What the figure looks like, (H, W, 4)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(40)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


FIGURES = {
    "temperature": lambda e, x, m: explain.draw_temperature(e, x, m, block="all"),
    "mean": lambda e, x, m: explain.draw_temperature(e, x, m, quantity="mean"),
    "diffusivity": lambda e, x, m: explain.draw_diffusivity(e, tuple(x.shape[1:])),
    "spread": lambda e, x, m: explain.draw_heat_spread(
        e, tuple(x.shape[1:]), (0, 1), background=explain.display(x)
    ),
    "spectra": lambda e, x, m: explain.draw_spectra(e, x, m, block="all"),
    "bands": lambda e, x, m: explain.draw_bands(x),
    "receptive": lambda e, x, m: explain.draw_receptive_field(e, x, m, baseline=e, probes=1),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("modality", "size"), [("sar", (37, 21)), ("sentinel2", (2, 9))])
def test_figures_are_drawn_for_any_image(encoder, name, modality, size, recwarn):
    image = torch.randn(encoder.modalities[modality], *size)
    figure = FIGURES[name](encoder, image, modality)
    picture = drawn(figure)
    assert picture[..., :3].std() > 10  # not blank
    assert len(figure.axes) >= 2
    assert not [str(w.message) for w in recwarn if "layout" in str(w.message).lower()]


@pytest.mark.parametrize("name", ["temperature", "bands", "diffusivity", "spread"])
def test_figures_are_drawn_where_there_is_nothing_to_see(encoder, name):
    drawn(FIGURES[name](encoder, torch.zeros(3, 16, 16), "optical"))


def test_figures_are_alike_in_threads_and_leave_no_global_state(encoder, image):
    from matplotlib import pyplot, rcParams

    before, state = dict(rcParams), torch.random.get_rng_state()
    expected = drawn(explain.draw_temperature(encoder, image))
    found = []

    def draw():
        found.append(drawn(explain.draw_temperature(encoder, image)))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)
    assert pyplot.get_fignums() == []
    assert dict(rcParams) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_notebooks_show_figures(encoder, image):
    """What IPython calls on the value of a cell, with its own formatter for figures."""
    display = pytest.importorskip("IPython.core.pylabtools")
    content = display.print_figure(explain.draw_temperature(encoder, image), base64=False)
    assert content.startswith(b"\x89PNG")


def test_figures_show_what_was_computed(encoder, image):
    field = explain.temperature_fields(encoder, image, stages=[0])[0]
    figure = explain.draw_temperature(encoder, image, stages=[0])
    before, after, change = (axes.images[1].get_array() for axes in figure.axes[1:4])
    unit = np.sqrt(np.mean(field.before**2))
    np.testing.assert_allclose(before[::4, ::4] * unit, field.before)
    np.testing.assert_allclose(after[::4, ::4] * unit, field.after)
    np.testing.assert_allclose(change, after - before)
    assert figure.axes[1].images[1].get_clim() == figure.axes[2].images[1].get_clim()
    low, high = figure.axes[3].images[1].get_clim()
    assert low == -high


def test_pictures_can_be_saved(encoder, image):
    file = io.BytesIO()
    explain.draw_bands(image).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_display_stretches_each_band():
    image = torch.stack([torch.arange(1000.0).view(20, 50) * scale for scale in (1, 5, 2, 9)])
    picture = explain.display(image)
    assert picture.shape == (20, 50, 3)
    np.testing.assert_allclose(picture[..., 0], picture[..., 1], atol=1e-6)
    ramp = picture[..., 0].ravel()
    assert (ramp == 0).mean() == pytest.approx(0.02, abs=2e-3)
    assert (ramp == 1).mean() == pytest.approx(0.02, abs=2e-3)
    np.testing.assert_allclose(ramp[500], 0.5, atol=0.01)
    gray = explain.display(image, rgb=[3])
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    holes = image.numpy().copy()
    holes[:, :2] = np.nan
    assert (explain.display(holes)[:2] == 0.5).all()
    assert explain.display(holes)[2:].max() == 1
    assert (explain.display(torch.ones(2, 3, 3)) == 0).all()


@pytest.mark.parametrize("rgb", [[4], [0, 1], [-1, 0, 1], []])
def test_bands_that_are_not_there_are_refused(rgb):
    with pytest.raises(ValueError, match="rgb must be one or three bands"):
        explain.display(torch.zeros(4, 3, 3), rgb)


def test_backgrounds_must_have_the_images_size(encoder, image):
    with pytest.raises(ValueError, match=r"background must be \(37, 50, 3\), got \(32, 32, 3\)"):
        explain.draw_temperature(encoder, image, background=np.zeros((32, 32, 3)))
    picture = np.zeros((37, 50, 4), np.uint8)
    figure = explain.draw_temperature(encoder, image, background=picture)
    assert figure.axes[0].images[0].get_array().shape == (37, 50, 3)
