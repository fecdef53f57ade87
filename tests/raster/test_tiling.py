# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import numpy as np
import pytest

from rsvheat.raster.tiling import blending_weight, cores, panels, window_starts

CASES = [
    (length, size, overlap)
    for length in (1, 31, 32, 33, 63, 64, 65, 100, 1000)
    for size, overlap in ((32, 0), (32, 8), (32, 16), (32, 31), (33, 7), (1, 0))
]


@pytest.mark.parametrize(("length", "size", "overlap"), CASES)
def test_windows_cover_an_axis_with_their_overlap_and_margin(length, size, overlap):
    margin = overlap // 4
    starts = window_starts(length, size, overlap, margin)
    assert starts[0] <= -margin
    assert starts[-1] + size >= length + margin
    assert all(0 < b - a <= size - overlap for a, b in itertools.pairwise(starts))
    if len(starts) > 1:
        assert (starts[0], starts[-1] + size) == (-margin, length + margin)
    weight = blending_weight(size, overlap, margin)
    total = np.zeros(length)
    for start in starts:
        first, last = max(start, 0), min(start + size, length)
        total[first:last] += weight[first - start : last - start]
    assert total.min() > 0


def test_no_more_windows_than_needed():
    assert window_starts(1000, 250, 0) == [0, 250, 500, 750]
    assert window_starts(1001, 250, 0) == [0, 188, 376, 563, 751]
    assert window_starts(10, 32, 8, 2) == [-11]


@pytest.mark.parametrize(("size", "overlap"), [(32, 8), (64, 16), (40, 20), (32, 1), (32, 0)])
def test_weights_of_neighbors_add_up_to_one(size, overlap):
    weight = blending_weight(size, overlap, overlap // 4)
    assert weight.shape == (size,)
    np.testing.assert_array_equal(weight, weight[::-1])
    np.testing.assert_allclose(weight[size - overlap :] + weight[:overlap], 1, atol=1e-6)
    assert (weight[overlap : size - overlap] == 1).all()
    assert (weight[: overlap // 4] == 0).all()
    # It is smooth: of a linear ramp every step would be 1 / (its length).
    assert np.abs(np.diff(weight)).max() <= (1.6 / max(1, overlap - 2 * (overlap // 4)))


def test_cores_are_the_whole_axis_once():
    assert cores([0, 24, 48], 32) == [(-math.inf, 28), (28, 52), (52, math.inf)]
    assert cores([0], 32) == [(-math.inf, math.inf)]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize(("width", "size", "overlap"), [(300, 64, 16), (300, 64, 40), (50, 64, 8)])
def test_panels_have_every_window_of_their_columns(width, size, overlap, most):
    margin = overlap // 4
    starts = window_starts(width, size, overlap, margin)
    found = panels(starts, size, margin, width, most)
    assert [found[0].left, found[-1].right] == [0, width]
    assert [panel.right for panel in found[:-1]] == [panel.left for panel in found[1:]]
    for panel in found:
        for x in range(panel.left, panel.right):
            over = [s for s in starts if s + margin <= x < s + size - margin]
            assert set(over) <= set(panel.windows)
        for start in panel.windows:
            assert panel.columns[0] <= max(start, 0)
            assert min(start + size, width) <= panel.columns[1]
