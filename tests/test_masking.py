# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from utils import random, scipy_dct2d, sector

from rsvheat.masking import FrequencyMasking

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(64, 64), (32, 32), (48, 80), (97, 31)]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fractions(masking: FrequencyMasking, height: int, width: int, batch: int = 64) -> np.ndarray:
    """Return the fraction of coefficients in each drawn sector, by the sectors' definition."""
    radius, angles = masking.draw(batch, height, width, _generator())
    masks = [
        sector(height, width, r, a) for r, a in zip(radius.tolist(), angles.tolist(), strict=True)
    ]
    return np.array([mask.mean() for mask in masks])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", ["disc", "wedge"])
def test_sectors_hold_the_drawn_ratio_of_coefficients(shape, size):
    fractions = _fractions(FrequencyMasking(shape=shape), *size)
    # A radius or a direction holds up to this many coefficients, which stay together.
    together = max(size) if shape == "wedge" else 8
    assert fractions.min() >= 0.2 - together / math.prod(size)
    assert fractions.max() <= 0.3 + 1e-9
    assert np.ptp(fractions) > 0.08, "ratios are drawn per sample, over the whole range"


def test_narrow_sectors_hold_the_drawn_ratio_where_they_can():
    fractions = _fractions(FrequencyMasking(angle=(45, 90)), 64, 64)
    assert fractions.min() >= 0.2 - 8 / 64**2
    assert fractions.max() <= 0.3 + 1e-9
    narrow = FrequencyMasking(angle=(10, 10))
    radius, _ = narrow.draw(64, 64, 64, _generator())
    assert radius.min() > 0.7, "a sector too narrow for its ratio takes every radius"
    assert 0.05 < _fractions(narrow, 64, 64).max() < 0.2


def test_narrow_sectors_have_the_drawn_width():
    _, angles = FrequencyMasking(angle=(45, 60)).draw(256, 32, 32, _generator())
    widths = angles[:, 1] - angles[:, 0]
    assert widths.min() >= 45
    assert widths.max() <= 60
    assert angles.min() >= 0
    assert angles.max() <= 90
    assert angles[:, 0].std() > 5


def test_wedges_take_every_direction():
    radius, angles = FrequencyMasking(shape="wedge").draw(512, 64, 64, _generator())
    assert (radius > 1).all()
    assert angles.min() < 2
    assert angles.max() > 88


@pytest.mark.parametrize("shape", ["disc", "wedge"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bands_add_up_to_the_image_and_share_no_coefficient(shape, dtype):
    x = random((8, 3, 32, 48), dtype)
    low, high = FrequencyMasking(shape=shape).split(x, _generator())
    torch.testing.assert_close(low + high, x)
    spectra = [scipy_dct2d(band.double().numpy(), "nchw") for band in (low, high)]
    assert np.abs(spectra[0] * spectra[1]).max() < 1e-5
    held = np.abs(spectra[0]) > 1e-5
    assert (held[:, :1] == held).mean() > 0.999, "channels share a sector"
    assert 0.19 < held.mean() < 0.31


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 2)])
@pytest.mark.parametrize("shape", ["disc", "wedge"])
def test_bands_of_tiny_images_add_up(shape, size):
    x = random((4, 1, *size))
    low, high = FrequencyMasking(shape=shape).split(x, _generator())
    torch.testing.assert_close(low + high, x)


def test_low_band_is_a_low_pass_by_default():
    low, _ = FrequencyMasking().split(random((4, 1, 64, 64)), _generator())
    spectrum = np.abs(scipy_dct2d(low.double().numpy(), "nchw"))
    n, m = np.arange(64)[:, None], np.arange(64)
    assert spectrum[:, :, np.hypot(n, m) > 64 * math.sqrt(0.3 * 4 / math.pi) + 1].max() < 1e-4
    assert spectrum[:, :, np.hypot(n, m) < 30].mean() > 0.5


@pytest.mark.parametrize("join", ["low", "high", "either", "mosaic"])
def test_same_seed_same_view(join):
    masking = FrequencyMasking(join=join, probability=0.5)
    x = random((8, 2, 40, 40))
    first, again = (masking.hide(x, _generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, masking.hide(x, _generator(4)))
    torch.manual_seed(3)
    unseeded = masking.hide(x)
    torch.manual_seed(3)
    assert torch.equal(unseeded, masking.hide(x))


def test_hide_shows_one_band_of_the_original_size():
    x = random((6, 2, 40, 56))
    low, high = FrequencyMasking().split(x, _generator())
    assert torch.equal(FrequencyMasking(join="low").hide(x, _generator()), low)
    shown = FrequencyMasking(join="high").hide(x, _generator())
    torch.testing.assert_close(shown, high + x.mean((2, 3), keepdim=True))


def test_views_keep_the_mean_of_each_channel():
    x = random((6, 2, 40, 56)) + 3
    for join in ("low", "high", "either"):
        shown = FrequencyMasking(shape="wedge", join=join).hide(x, _generator())
        torch.testing.assert_close(shown.mean((2, 3)), x.mean((2, 3)))


def test_either_takes_one_band_a_sample_and_mosaic_one_a_patch():
    x = random((16, 1, 40, 56))
    either = FrequencyMasking(join="either", patch=8)
    bits = {}
    for name in ("either", "mosaic"):
        masking = FrequencyMasking(join=name, patch=8)
        low, high = masking.split(x, _generator())
        shown = masking.hide(x, _generator())
        from_low = shown == low
        from_high = shown == high + x.mean((2, 3), keepdim=True)
        assert (from_low | from_high).all()
        bits[name] = from_low[:, 0].float()
    per_sample = bits["either"].mean((1, 2))
    assert set(per_sample.round(decimals=2).tolist()) == {0.0, 1.0}
    patches = bits["mosaic"].unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4))
    assert ((patches > 0.99) | (patches < 0.01)).all()
    assert 0.3 < patches.mean() < 0.7
    assert either.split(x, _generator())[0].shape == x.shape


def test_probability_is_the_share_of_masked_samples():
    x = random((400, 1, 8, 8))
    shown = FrequencyMasking(probability=0.25).hide(x, _generator())
    unchanged = (shown == x).flatten(1).all(1).float().mean()
    assert 0.68 < unchanged < 0.82
    assert torch.equal(FrequencyMasking(probability=0).hide(x, _generator()), x)


def test_gradients_pass_through_what_is_shown():
    x = random((2, 1, 16, 16)).requires_grad_()
    shown = FrequencyMasking(join="low").hide(x, _generator())
    # A projection: applied to what it returned, it changes nothing.
    (gradient,) = torch.autograd.grad(shown, x, shown.detach())
    torch.testing.assert_close(gradient, shown.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": (0.3, 0.2)}, "ratio must be"),
        ({"ratio": (0.0, 0.2)}, "ratio must be"),
        ({"ratio": (0.2, 1.0)}, "ratio must be"),
        ({"angle": (0, 90)}, "angle must be"),
        ({"angle": (45, 91)}, "angle must be"),
        ({"shape": "ring"}, "shape must be one of disc, wedge, got 'ring'"),
        ({"join": "both"}, "join must be one of low, high, either, mosaic, got 'both'"),
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"probability": 1.5}, "probability must be within 0 to 1, got 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrequencyMasking(**arguments)


def test_lists_of_a_recipe_are_as_good_as_tuples():
    assert FrequencyMasking(ratio=[0.2, 0.3]) == FrequencyMasking()
    assert hash(FrequencyMasking(angle=[45, 90])) == hash(FrequencyMasking(angle=(45, 90)))
