# SPDX-License-Identifier: Apache-2.0
"""The reference implementations against SciPy in float64."""

import inspect

import numpy as np
import pytest
import scipy.fft
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from utils import (
    FLOATS,
    SUM_TOLERANCE,
    assert_accurate,
    assert_bands_accurate,
    diffused,
    diffusivity,
    exact,
    filtered,
    random,
    scipy_dct2d,
    scipy_idct2d,
    sector,
    sum_dtype,
)

from rsvheat import ops
from rsvheat.ops import reference

TWINS = (
    "dct2d",
    "idct2d",
    "heat_conduction",
    "apply_heat_filter",
    "frequency_split",
    "spectral_l1_loss",
    "multi_domain_loss",
    "gated_layer_norm",
    "add_layer_norm",
    "spatial_correction_conv",
)
SIZES = [(1, 1), (1, 7), (9, 1), (2, 3), (8, 8), (13, 17), (56, 28), (127, 64), (200, 50)]


@pytest.mark.parametrize("name", TWINS)
def test_reference_has_the_public_signature(name: str) -> None:
    public = inspect.signature(getattr(ops, name))
    assert inspect.signature(getattr(reference, name)) == public


def test_every_public_function_has_a_reference() -> None:
    # heat_filter is plain torch itself. Rotated boxes have test_boxes_*.py.
    others = {"heat_filter", "MultiDomainLoss", "use_reference"}
    others |= {name for name in ops.__all__ if "boxes" in name or name.endswith("_rotated")}
    assert {*TWINS, *others} == set(ops.__all__)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 1024, 4096])
def test_dct_matrix_is_orthonormal_and_scipys(n: int) -> None:
    matrix = reference._dct_matrix(n, torch.float64, torch.device("cpu")).numpy()
    rows = np.unique(np.linspace(0, n - 1, 16).astype(int))
    unit = np.zeros((n, len(rows)))
    unit[rows, np.arange(len(rows))] = 1
    expected = scipy.fft.idct(unit, axis=0, norm="ortho").T
    assert np.abs(matrix[rows] - expected).max() < 1e-15 * max(1, np.log2(n))
    assert np.abs(matrix[rows] @ matrix[rows].T - np.eye(len(rows))).max() < 1e-14


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_transforms_match_scipy(height: int, width: int, layout: str, dtype: torch.dtype) -> None:
    shape = (2, 3, height, width) if layout == "nchw" else (2, height, width, 3)
    x = random(shape, dtype)
    assert_accurate(reference.dct2d(x, layout), scipy_dct2d(exact(x), layout))
    assert_accurate(reference.idct2d(x, layout), scipy_idct2d(exact(x), layout))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_heat_conduction_matches_scipy(height: int, width: int, dtype: torch.dtype) -> None:
    x = random((2, height, width, 5), dtype)
    k = diffusivity((height, width, 5), sum_dtype(dtype))
    assert_accurate(reference.heat_conduction(x, k), diffused(exact(x), exact(k)))
    assert_accurate(reference.apply_heat_filter(x, k), filtered(exact(x), exact(k)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_frequency_split_matches_scipy(height: int, width: int, dtype: torch.dtype) -> None:
    x = random((3, 2, height, width), dtype)
    radius, angles = [0.1, 0.5, 0.3], [(0, 90), (20, 70), (45, 45)]
    bands = reference.frequency_split(x, radius, torch.tensor(angles))
    assert_bands_accurate(bands, x, radius, angles)


@pytest.mark.parametrize(
    ("height", "width", "radius", "angles"),
    [
        (8, 8, 0.5, (45, 90)),  # rays through coefficients
        (64, 64, 0.25, (0, 45)),
        (60, 60, 0.3, (30, 60)),
        (30, 40, 0.1, (0, 90)),  # radius 5 of diagonal 50: (3, 4), (4, 3), (5, 0), (0, 5)
        (30, 40, 1.0, (0, 0)),
        (7, 5, 1.0, (90, 90)),
        (16, 16, 0.0, (0, 90)),  # DC alone
        (1, 1, 0.0, (90, 90)),
        (9, 4, 5.0, (0, 90)),  # everything
    ],
)
def test_sector_includes_its_bounds(
    height: int, width: int, radius: float, angles: tuple[float, float]
) -> None:
    mask = reference.sector_mask(
        torch.tensor([radius], dtype=torch.float64),
        torch.tensor([angles], dtype=torch.float64),
        height,
        width,
    )
    np.testing.assert_array_equal(mask[0].numpy(), sector(height, width, radius, angles))
    assert mask[0, 0, 0]


def test_three_four_five_radius_keeps_its_circle() -> None:
    mask = reference.sector_mask(
        torch.tensor([0.1], dtype=torch.float64), torch.tensor([[0.0, 90.0]]).double(), 30, 40
    )[0]
    assert mask[3, 4]
    assert mask[4, 3]
    assert mask[5, 0]
    assert mask[0, 5]
    assert not mask[4, 4]
    assert not mask[0, 6]


def test_losses_match_scipy() -> None:
    pred, target = random((2, 3, 12, 20), torch.float64), random((2, 3, 12, 20), torch.float64)
    error = np.abs(scipy_dct2d(exact(pred - target), "nchw"))
    for reduction, expected in (("mean", error.mean()), ("sum", error.sum())):
        value = reference.spectral_l1_loss(pred, target, reduction).item()
        assert value == pytest.approx(expected, rel=SUM_TOLERANCE[torch.float64])


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> dict[object, torch.Tensor]:
    empty: dict[object, torch.Tensor] = {}
    monkeypatch.setattr(reference, "_matrices", empty)
    return empty


def test_matrices_are_cached_by_size_and_type(matrices) -> None:
    x = random((1, 4, 6, 2))
    for _ in range(2):
        reference.dct2d(x, "nhwc")
        reference.dct2d(x.double(), "nhwc")
        assert len(matrices) == 4
    reference.dct2d(random((1, 1, 1025, 1)))
    assert max(matrix.shape[0] for matrix in matrices.values()) == 6
    for n in range(1, 50):
        reference.dct2d(random((1, 1, n, 1)))
        assert len(matrices) <= reference._MOST_CACHED


def test_matrices_of_traces_are_not_cached(matrices) -> None:
    x = random((1, 1, 5, 5))
    torch.compile(reference.dct2d, backend="eager", fullgraph=True)(x)
    with FakeTensorMode() as mode:
        reference.dct2d(mode.from_tensor(x))
        torch.func.functionalize(reference.dct2d)(mode.from_tensor(x))
    with FakeTensorMode(allow_non_fake_inputs=True):
        reference.dct2d(x)
    torch.func.functionalize(reference.dct2d)(x)
    make_fx(torch.func.functionalize(lambda x: reference.dct2d(x)), tracing_mode="symbolic")(x)
    reference.dct2d(x.to("meta"))
    cached = list(matrices.values())
    assert all(type(matrix) is torch.Tensor for matrix in cached)
    assert not any(torch._is_functional_tensor(matrix) for matrix in cached)
    assert_accurate(reference.dct2d(x), scipy_dct2d(exact(x), "nchw"))


def test_cached_matrix_serves_autograd_after_inference_mode(matrices) -> None:
    with torch.inference_mode():
        reference.dct2d(random((1, 1, 6, 6)))
    assert len(matrices) == 1
    x = random((1, 1, 6, 6)).requires_grad_()
    reference.dct2d(x).sum().backward()
    assert x.grad is not None
