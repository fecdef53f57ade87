# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import Tensor

from rsvheat.models import RSVHeat, resize_frequencies, resize_map
from rsvheat.models.freq_embed import FREQ_RESIZES, FrequencyNetwork
from rsvheat.ops import dct2d, heat_conduction, idct2d

SIZES = [(64, 64), (112, 112), (37, 53)]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (5, 19), (64, 40)])
def test_dc_stays_dc_under_frequency(size: tuple[int, int]) -> None:
    table = torch.randn(8, 8, 3)
    resized = resize_frequencies(table, *size, "frequency")
    assert resized.shape == (*size, 3)
    torch.testing.assert_close(resized[0, 0], table[0, 0])


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_dc_moves_under_image_resizing(mode: str) -> None:
    table = torch.randn(8, 8, 3)
    resized = resize_frequencies(table, 5, 5, mode)
    assert (resized[0, 0] - table[0, 0]).abs().min() > 1e-3


def test_bins_that_coincide_keep_their_values() -> None:
    table = torch.randn(8, 6, 2)
    torch.testing.assert_close(resize_frequencies(table, 24, 12)[::3, ::2], table)
    torch.testing.assert_close(resize_frequencies(table, 4, 3), table[::2, ::2])


def test_a_linear_table_is_continued_exactly() -> None:
    # Away from DC, where a spectrum is even and a straight line is not.
    def line(n: int) -> Tensor:
        return (torch.arange(n) * (math.pi / n))[:, None, None].expand(n, 1, 1)

    torch.testing.assert_close(resize_frequencies(line(16), 40, 1)[4:], line(40)[4:])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_short_tables_of_a_constant_stay_constant(size: int) -> None:
    resized = resize_frequencies(torch.full((size, size, 2), 3.0), 7, 9)
    torch.testing.assert_close(resized, torch.full((7, 9, 2), 3.0))


def _filter(height: int, width: int) -> Tensor:
    """Heat filters of a few diffusivities: known in closed form at every size."""
    omega_h = torch.arange(height, dtype=torch.float64) * (math.pi / height)
    omega_w = torch.arange(width, dtype=torch.float64) * (math.pi / width)
    squares = omega_h[:, None, None] ** 2 + omega_w[:, None] ** 2
    return torch.exp(-squares * torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_frequency_resizing_is_closest_to_the_true_filter(size: tuple[int, int]) -> None:
    truth = _filter(*size)
    errors = {
        mode: float((resize_frequencies(_filter(56, 56), *size, mode) - truth).norm())
        for mode in FREQ_RESIZES
    }
    others = min(error for mode, error in errors.items() if mode != "frequency")
    assert errors["frequency"] < 0.1 * others, errors


@pytest.mark.parametrize("mode", FREQ_RESIZES)
def test_table_of_its_own_size_is_returned_as_it_is(mode: str) -> None:
    table = torch.randn(4, 5, 2)
    assert resize_frequencies(table, 4, 5, mode) is table
    assert resize_map(table, 4, 5, mode) is table


def test_pad_appends_zeros_and_cuts_high_frequencies() -> None:
    table = torch.randn(4, 5, 2)
    resized = resize_frequencies(table, 6, 3, "pad")
    assert torch.equal(resized[:4], table[:, :3])
    assert not resized[4:].any()


def test_maps_over_space_stay_centred() -> None:
    ramp = torch.linspace(-1, 1, 9)[:, None, None].expand(9, 4, 1)
    resized = resize_map(ramp, 15, 8)
    torch.testing.assert_close(resized, -resized.flip(0))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"freq_resize must be one of .*'nearest'"):
        resize_frequencies(torch.randn(4, 4, 1), 8, 8, "nearest")


def _disagreement(freq_embed: str, freq_resize: str) -> float:
    """Return how differently one operator conducts one scene sampled at two resolutions."""
    torch.manual_seed(0)
    model = RSVHeat(
        (8,), (1,), 256, {"optical": 1}, 0, freq_embed=freq_embed, freq_resize=freq_resize
    )
    stage = model.stages[0]
    op = stage.blocks[0].op
    with torch.no_grad():
        op.to_k.weight.normal_()
        op.to_k.bias.fill_(2.0)
        k_fine = op.diffusivity(stage.freq_embed, 64, 64)
        # A table is never told the sampling distance: models refuse gsd with one.
        scale = 2.0 if freq_embed == "implicit" else 1.0
        k_coarse = op.diffusivity(stage.freq_embed, 32, 32, scale)
    # Band-limited, so that half the samples hold the same coefficients.
    spectrum = torch.zeros(1, 64, 64, 8)
    spectrum[:, :20, :20] = torch.randn(1, 20, 20, 8)
    fine = heat_conduction(idct2d(spectrum, "nhwc"), k_fine)
    coarse = heat_conduction(idct2d(spectrum[:, :32, :32], "nhwc"), k_coarse)
    expected = dct2d(fine, "nhwc")[:, :20, :20]
    actual = dct2d(coarse, "nhwc")[:, :20, :20]
    return float((actual - expected).norm() / expected.norm())


def test_network_gives_one_scene_one_filter_at_two_resolutions() -> None:
    """The same physical k: what the network promises, and no table can keep."""
    assert _disagreement("implicit", "frequency") < 1e-5
    for mode in FREQ_RESIZES:
        assert _disagreement("table", mode) > 0.1


def test_network_can_learn_to_depend_on_the_sampling_distance() -> None:
    network = FrequencyNetwork(4)
    network(5, 6, 2.0).sum().backward()
    assert network.fc1.weight.grad is not None
    assert network.fc1.weight.grad[:, 2].any()
