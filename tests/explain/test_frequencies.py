# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import scipy.fft
import torch
from explain.conftest import conducting

from rsvheat.explain import conductions, diffusivity, frequencies, radial_mean, spectra, split_bands
from rsvheat.ops import reference


def test_frequencies_are_those_of_the_operator():
    omega = frequencies(6, 9)
    np.testing.assert_allclose(
        omega**2, reference.omega_squared(6, 9, torch.zeros(1).double())[..., 0], rtol=1e-14
    )
    # Coefficient (2, 3) alone is a wave of that many radians per pixel.
    spectrum = np.zeros((6, 9))
    spectrum[2, 3] = 1
    wave = scipy.fft.idctn(spectrum, norm="ortho")
    rows, columns = np.arange(6)[:, None] + 0.5, np.arange(9) + 0.5
    expected = np.cos(rows * 2 * math.pi / 6) * np.cos(columns * 3 * math.pi / 9)
    np.testing.assert_allclose(wave / wave[0, 0] * expected[0, 0], expected, atol=1e-14)


@pytest.mark.parametrize("size", [(16, 16), (12, 31), (1, 7), (1, 1)])
def test_radial_mean_of_a_known_spectrum(size):
    omega = frequencies(*size)
    radius, mean = radial_mean(omega)
    np.testing.assert_allclose(mean, radius)
    assert radius[0] == 0
    assert (np.diff(radius) > 0).all()
    # Of a function of |omega| the mean is that function, as far as a ring is narrow.
    _, power = radial_mean(np.exp(-omega))
    np.testing.assert_allclose(power, np.exp(-radius), rtol=0.05)
    # Every coefficient counts once: the ring sums add up.
    ring = np.rint(omega * max(size) / math.pi).astype(int).ravel()
    counts = np.bincount(ring)[np.unique(ring)]
    values = np.random.default_rng(0).normal(size=(*size, 2))
    np.testing.assert_allclose(
        (radial_mean(values)[1] * counts[:, None]).sum(0), values.sum((0, 1)), rtol=1e-9
    )


def test_diffusivities_are_those_of_the_calls(encoder, image):
    found = conductions(encoder, image, block="all")
    for one, k in zip(found, diffusivity(encoder, (37, 50), block="all"), strict=True):
        assert k.place == one.place
        np.testing.assert_array_equal(k.k, one.k.numpy())
        expected = reference.exponential_filter(one.k.double()).numpy()
        np.testing.assert_allclose(k.decay, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="size must be"):
        diffusivity(encoder, (0, 3))


def test_diffusivities_follow_the_sampling_distance(one_thread):
    encoder = conducting(freq_embed="implicit", reference_gsd=10.0)
    image = torch.randn(3, 32, 32)
    (k,) = diffusivity(encoder, (32, 32), stages=[0], gsd=20.0)
    (one,) = conductions(encoder, image, stages=[0], gsd=20.0)
    np.testing.assert_array_equal(k.k, one.k.numpy())
    assert not np.allclose(k.k, diffusivity(encoder, (32, 32), stages=[0])[0].k)
    with pytest.raises(ValueError, match="gsd must be above 0"):
        diffusivity(encoder, (32, 32), gsd=-1.0)


def test_spectra_are_the_power_before_and_after(encoder, image):
    first, *others = spectra(encoder, image, block="all")
    assert first.place is None
    power = (scipy.fft.dctn(image.double().numpy(), axes=(1, 2), norm="ortho") ** 2).mean(0)
    np.testing.assert_allclose(first.before, radial_mean(power)[1], rtol=1e-9)
    np.testing.assert_array_equal(first.before, first.after)
    for one, found in zip(others, conductions(encoder, image, block="all"), strict=True):
        transformed = scipy.fft.dctn(found.before[0].double().numpy(), axes=(0, 1), norm="ortho")
        decay = np.exp(-found.k.numpy() * frequencies(*found.k.shape[:2])[..., None] ** 2)
        for part, expected in ((one.before, transformed), (one.after, transformed * decay)):
            np.testing.assert_allclose(part, radial_mean((expected**2).mean(-1))[1], rtol=1e-4)
        assert (one.after <= one.before * (1 + 1e-5)).all()
        np.testing.assert_allclose(one.after[0], one.before[0], rtol=1e-5)  # DC stays


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 37, 50), (13, 9, 5)])
def test_bands_add_up_to_the_image(shape):
    image = torch.randn(shape, dtype=torch.float64)
    state = torch.random.get_rng_state()
    bands = split_bands(image, 0.2)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(bands.low + bands.high, image, rtol=0, atol=1e-12)
    # Independently, by SciPy: low holds the coefficients of a quarter disc, as they are.
    squares = np.arange(shape[1])[:, None] ** 2 + np.arange(shape[2]) ** 2
    spectrum = scipy.fft.dctn(image.numpy(), axes=(1, 2), norm="ortho")
    low = scipy.fft.dctn(bands.low.numpy(), axes=(1, 2), norm="ortho")
    kept = np.abs(low).max(0) > 1e-9
    np.testing.assert_allclose(low[:, kept], spectrum[:, kept], atol=1e-10)
    assert squares[kept].max() < squares[~kept].min()
    np.testing.assert_array_equal(bands.kept, kept)
    assert kept.mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("image", "ratio", "message"),
    [
        (torch.zeros(3, 8), 0.2, "image must be"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 0.2, "image must be"),
        (torch.zeros(3, 8, 8), 0.0, "ratio must be"),
        (torch.zeros(3, 8, 8), 1.0, "ratio must be"),
    ],
)
def test_wrong_arguments_are_named(image, ratio, message):
    with pytest.raises(ValueError, match=message):
        split_bands(image, ratio)
