# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from rsvheat.data import Window
from rsvheat.raster.grid import Grid

CASES = [
    (100, 70, 16, 16),
    (100, 70, 16, 5),
    (64, 64, 64, 64),
    (65, 63, 64, 64),
    (10, 200, 32, 8),
    (101, 97, 17, 40),
    (33, 50, 32, 1),
]


@pytest.mark.parametrize("case", CASES)
def test_cells_cover_the_scene_once(case):
    grid = Grid(*case)
    covered = np.zeros((grid.height, grid.width), int)
    areas = grid.areas(0, grid.rows)
    for row in range(grid.rows):
        for column in range(grid.columns):
            top, left, height, width = grid.cell(row, column)
            covered[top : top + height, left : left + width] += 1
            assert areas[row, column] == height * width
    assert (covered == 1).all()


@pytest.mark.parametrize("case", CASES)
def test_windows_are_inside_whole_and_around_their_cells(case):
    grid = Grid(*case)
    for row in range(grid.rows):
        for column in range(grid.columns):
            top, left, height, width = grid.window(row, column)
            assert 0 <= top <= top + height <= grid.height
            assert 0 <= left <= left + width <= grid.width
            assert (height, width) == (min(grid.size, grid.height), min(grid.size, grid.width))
            if grid.stride <= grid.size:
                cell = grid.cell(row, column)
                assert top <= cell.top < cell.top + cell.height <= top + height
                assert left <= cell.left < cell.left + cell.width <= left + width


def test_a_window_has_its_cell_in_the_middle():
    grid = Grid(1000, 1000, 64, 16)
    assert grid.window(10, 20) == Window(160 - 24, 320 - 24, 64, 64)
    assert grid.window(0, 0) == Window(0, 0, 64, 64)
    assert grid.window(62, 62) == Window(936, 936, 64, 64)
    assert Grid(1000, 1000, 64, 100).window(1, 2) == Window(118, 218, 64, 64)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 0), (-3, 1)])
def test_sizes_are_checked(window, stride):
    with pytest.raises(ValueError, match=r"(window|stride) must be at least 1 pixel"):
        Grid(10, 10, window, stride)
