# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import scipy.fft
import torch
from explain.conftest import conducting

from rsvheat.explain import conductions, heat_spread, over_image, temperature_fields
from rsvheat.models.layers import HeatOperator


def with_diffusivity(k):
    """An encoder that conducts with one k at all frequencies and in all channels."""
    encoder = conducting()
    for module in encoder.modules():
        if isinstance(module, HeatOperator):
            torch.nn.init.zeros_(module.to_k.weight)
            torch.nn.init.constant_(module.to_k.bias, k)
    return encoder


def test_contrast_is_the_distance_from_equilibrium(encoder, image):
    fields = temperature_fields(encoder, image, block="all")
    found = conductions(encoder, image, block="all")
    for field, one in zip(fields, found, strict=True):
        u = one.before[0].double().numpy()
        expected = np.sqrt(((u - u.mean((0, 1))) ** 2).mean(-1))
        np.testing.assert_allclose(field.before, expected, rtol=1e-12)
        # By Parseval: the mean square is the power of all coefficients but DC.
        v = scipy.fft.dctn(one.after[0].double().numpy(), axes=(0, 1), norm="ortho")
        power = (v**2).mean(-1).sum() - (v[0, 0] ** 2).mean()
        np.testing.assert_allclose((field.after**2).sum(), power, rtol=1e-10)
        assert (field.after**2).sum() < (field.before**2).sum()


def test_mean_temperature_keeps_its_mean(encoder, image):
    for field in temperature_fields(encoder, image, quantity="mean"):
        assert field.before.min() < field.before.mean()
        np.testing.assert_allclose(field.after.mean(), field.before.mean(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="quantity must be one of"):
        temperature_fields(encoder, image, quantity="norm")


@pytest.mark.parametrize("size", [(64, 48), (37, 50)])
def test_heat_of_one_diffusivity_is_scipys(one_thread, size):
    point, times = (30, 20), (0, 0.5, 3)
    for spread in heat_spread(with_diffusivity(0.5), size, point, times=times, block="all"):
        height, width = spread.temperature.shape[1:]
        assert (height, width) == tuple(-(-side // spread.place.stride) for side in size)
        impulse = np.zeros((height, width))
        impulse[spread.point] = 1
        rows, columns = (np.arange(n) * math.pi / n for n in (height, width))
        omega = rows[:, None] ** 2 + columns**2
        for time, temperature in zip(times, spread.temperature, strict=True):
            spectrum = scipy.fft.dctn(impulse, norm="ortho") * np.exp(-0.5 * time * omega)
            np.testing.assert_allclose(
                temperature, scipy.fft.idctn(spectrum, norm="ortho"), atol=1e-14
            )


def test_heat_of_one_diffusivity_is_a_gaussian(one_thread):
    k, time = 0.75, 8
    (spread,) = heat_spread(with_diffusivity(k), (260, 260), (128, 128), times=[time], stages=[0])
    assert spread.point == (32, 32)
    y, x = np.ogrid[-32:33, -32:33]
    expected = np.exp(-(x**2 + y**2) / (4 * k * time)) / (4 * math.pi * k * time)
    np.testing.assert_allclose(spread.temperature[0], expected, atol=1e-7)


def test_heat_is_kept_and_evens_out(one_thread):
    times = (0, 0.5, 2, 8, 1e4)
    for spread in heat_spread(with_diffusivity(1.0), (40, 72), (39, 0), times=times):
        heat = spread.temperature
        np.testing.assert_allclose(heat.sum((1, 2)), 1, rtol=1e-12)
        # The maximum principle: no point grows hotter, and none colder than 0 but for what the
        # frequencies beyond pi, which a grid has not, would have had left.
        assert (np.diff(heat.max((1, 2))) < 0).all()
        for time, field in zip(times, heat, strict=True):
            assert field.min() > -math.exp(-time * math.pi**2) - 1e-15
        np.testing.assert_allclose(heat[-1], 1 / heat[0].size, rtol=1e-6)


def test_heat_of_learnt_diffusivities_is_what_the_model_conducts(encoder):
    """At t = 1 an impulse among the features spreads as heat_spread says."""
    (spread,) = heat_spread(encoder, (32, 32), (8, 20), times=[1], stages=[0])
    operator, stage = encoder.stages[0].blocks[0].op, encoder.stages[0]
    impulse = torch.zeros(1, 8, 8, 8)
    impulse[0, 2, 5] = 1
    encoder.eval()
    with torch.no_grad():
        y = operator.conduction(impulse, stage.freq_embed, operator.to_k, 1.0)[0].mean(-1)
    np.testing.assert_allclose(spread.temperature[0], y, atol=1e-6)


def test_channels_are_chosen(encoder):
    def heat(channels):
        return heat_spread(encoder, (32, 32), stages=[0], channels=channels)[0].temperature

    each = np.stack([heat([channel]) for channel in range(8)])
    np.testing.assert_allclose(each.mean(0), heat(None), atol=1e-15)
    np.testing.assert_allclose(each[[-1, 2]].mean(0), heat([-1, 2]), atol=1e-15)
    with torch.no_grad():
        k = encoder.stages[0].blocks[0].op.diffusivity(encoder.stages[0].freq_embed, 8, 8)
    most = k.mean((0, 1)).argsort(descending=True)[:3].tolist()
    np.testing.assert_allclose(each[most].mean(0), heat(3), atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point": (32, 0)}, "point must be within 32 x 40 pixels, got 32, 0"),
        ({"point": (0, -1)}, "point must be"),
        ({"times": []}, "times must be"),
        ({"times": [-1.0]}, "times must be"),
        ({"channels": 0}, "channels as a number"),
        ({"channels": [8]}, "channels must be within -8 to 7"),
        ({"gsd": 10.0}, "only models with freq_embed='implicit'"),
        ({"size": (0, 40)}, "size must be"),
    ],
)
def test_wrong_arguments_are_named(encoder, arguments, message):
    with pytest.raises(ValueError, match=message):
        heat_spread(**{"encoder": encoder, "size": (32, 40), "point": (0, 0), **arguments})


def test_fields_lie_over_the_pixels_that_they_are_of():
    field = np.arange(12.0).reshape(3, 4)
    smooth = over_image(field, (10, 13), 4)
    assert smooth.shape == (10, 13)
    np.testing.assert_array_equal(smooth[::4, ::4], field)
    np.testing.assert_allclose(smooth[2, 6], field[:2, 1:3].mean())
    np.testing.assert_array_equal(smooth[9], smooth[8])  # beyond the last row
    nearest = over_image(field, (10, 13), 4, smooth=False)
    np.testing.assert_array_equal(nearest[::4, ::4], field)
    assert set(nearest.ravel()) == set(field.ravel())
    assert nearest[1, 0] == field[0, 0]
    assert nearest[2, 0] == field[1, 0]
    np.testing.assert_array_equal(over_image(np.ones((1, 1)), (3, 2), 32), np.ones((3, 2)))


def test_grids_are_centred_on_multiples_of_the_stride():
    """What over_image assumes: a stem's position (i, j) sees the pixels around (4 i, 4 j)."""
    encoder = conducting()
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    features = encoder.stems["optical"](x.permute(0, 2, 3, 1))
    (gradient,) = torch.autograd.grad(features[0, 3, 5, 0], x)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
    columns = gradient.abs().sum((0, 1, 2)).nonzero()[:, 0]
    assert (rows.min() + rows.max()) / 2 == 4 * 3
    assert (columns.min() + columns.max()) / 2 == 4 * 5
