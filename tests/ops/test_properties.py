# SPDX-License-Identifier: Apache-2.0
"""What holds for every input, by the native ops and by the reference."""

import math

import pytest
import torch
from torch import Tensor
from utils import HALVES, diffusivity, random

from rsvheat import ops

pytestmark = pytest.mark.usefixtures("implementation")

SHAPES = [(2, 8, 8, 4), (1, 7, 13, 5), (3, 1, 16, 2), (2, 31, 1, 3), (1, 1, 1, 1), (2, 56, 28, 17)]
EPS = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def assert_close(actual: Tensor, expected: Tensor, eps: float) -> None:
    error = (actual.double() - expected.double()).norm()
    assert error <= eps * expected.double().norm() + 1e-30


def assert_same(actual: Tensor, expected: Tensor, implementation: str) -> None:
    """Bit for bit by the kernels; a matrix product may depend on strides and on broadcasting."""
    if implementation == "native":
        assert torch.equal(actual, expected)
    else:
        assert_close(actual, expected, 1e-6)


def inner(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_diffusivity_is_identity(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    x = random(shape, dtype, device)
    assert_close(ops.heat_conduction(x, 0.0), x, EPS[dtype])
    assert_close(
        ops.apply_heat_filter(x, ops.heat_filter(0, *shape[1:3]).to(device)), x, EPS[dtype]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_is_kept(shape: tuple[int, ...], device: torch.device) -> None:
    x = random(shape, torch.float64, device)
    y = ops.heat_conduction(x, diffusivity(shape[1:], torch.float64, device))
    torch.testing.assert_close(y.mean((1, 2)), x.mean((1, 2)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_large_diffusivity_leaves_the_mean_alone(
    shape: tuple[int, ...], device: torch.device
) -> None:
    x = random(shape, torch.float64, device)
    y = ops.heat_conduction(x, 1e30)
    torch.testing.assert_close(y, x.mean((1, 2), keepdim=True).expand_as(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_infinite_diffusivity_leaves_the_mean_alone(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    x = random(shape, dtype, device)
    expected = x.double().mean((1, 2), keepdim=True).expand_as(x)
    infinite = torch.full((), math.inf, device=device)
    for k in (math.inf, 1e300, 10**400, infinite, infinite.expand(shape[1:]), infinite.half()):
        assert_close(ops.heat_conduction(x, k), expected, EPS[dtype])
        filtered = ops.apply_heat_filter(x, ops.heat_filter(k, *shape[1:3]).to(device))
        assert_close(filtered, expected, EPS[dtype])


def test_infinite_diffusivity_removes_a_coefficient(device: torch.device) -> None:
    x = random((2, 6, 5, 3), torch.float64, device)
    for index in ((0, 0, 1), (0, 2, 1), (3, 0, 0), (5, 4, 2)):
        k = diffusivity((6, 5, 3), torch.float64, device)
        gain = ops.heat_filter(k, 6, 5)
        k[index] = math.inf
        gain[index] = 1 if index[:2] == (0, 0) else 0
        assert_close(ops.heat_conduction(x, k), ops.apply_heat_filter(x, gain), 1e-14)
        assert torch.equal(ops.heat_filter(k, 6, 5), gain)


def test_derivatives_at_infinite_diffusivity(device: torch.device) -> None:
    x = random((2, 6, 5, 3), torch.float64, device).requires_grad_()
    k = diffusivity((6, 5, 3), torch.float64, device)
    k[0, 0, 0] = k[2, 3, 1] = math.inf
    k.requires_grad_()
    large = k.detach().clamp(max=1e6).requires_grad_()
    grads, expected = (
        torch.autograd.grad(ops.heat_conduction(x, k).sin().sum(), (x, k), create_graph=True)
        for k in (k, large)
    )
    tangents = [torch.ones_like(x), torch.ones_like(k)]
    for grad, other in zip(grads, expected, strict=True):
        assert_close(grad, other, 1e-12)
    # The kernels' exponential ends at the smallest normal number.
    assert max(abs(grads[1][0, 0, 0]), abs(grads[1][2, 3, 1])) < 1e-300
    twice = [
        torch.autograd.grad(sum((g * g).sum() for g in first), (x, k))
        for first, k in ((grads, k), (expected, large))
    ]
    for grad, other in zip(*twice, strict=True):
        assert_close(grad, other, 1e-12)
    pairs = [
        torch.func.jvp(ops.heat_conduction, (x.detach(), k.detach()), tuple(tangents))
        for k in (k, large)
    ]
    assert_close(pairs[0][1], pairs[1][1], 1e-12)


def test_nan_is_refused_or_spreads_over_its_channel(
    device: torch.device, implementation: str
) -> None:
    x = random((2, 6, 5, 3), torch.float64, device)
    for index in ((0, 0, 1), (3, 2, 1), (5, 4, 1)):
        k = diffusivity((6, 5, 3), torch.float64, device)
        k[index] = math.nan
        with pytest.raises(ValueError, match="k must be >= 0, got values from nan to nan"):
            ops.heat_filter(k, 6, 5)
        if implementation == "native" and device.type == "cpu":
            with pytest.raises(RuntimeError, match="k holds a negative or NaN value"):
                ops.heat_conduction(x, k)
        else:
            y = ops.heat_conduction(x, k)
            assert y[..., 1].isnan().all()
            assert y[..., ::2].isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_two_steps_add_their_diffusivities(shape: tuple[int, ...], device: torch.device) -> None:
    x = random(shape, torch.float64, device)
    k1, k2 = (diffusivity(shape[1:], torch.float64, device) for _ in range(2))
    twice = ops.heat_conduction(ops.heat_conduction(x, k1), k2)
    assert_close(ops.heat_conduction(x, k1 + k2), twice, 1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_heat_conduction_is_self_adjoint(shape: tuple[int, ...], device: torch.device) -> None:
    a, b = random(shape, torch.float64, device), random(shape, torch.float64, device)
    k = diffusivity(shape[1:], torch.float64, device)
    left, right = inner(ops.heat_conduction(a, k), b), inner(a, ops.heat_conduction(b, k))
    assert left == pytest.approx(right, abs=1e-12 * math.sqrt(a.numel()))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_operator_itself(
    shape: tuple[int, ...], device: torch.device, implementation: str
) -> None:
    x = random(shape, torch.float32, device).requires_grad_()
    k, grad_y = diffusivity(shape[1:], device=device), random(shape, torch.float32, device)
    (grad_x,) = torch.autograd.grad(ops.heat_conduction(x, k), x, grad_y)
    assert_same(grad_x, ops.heat_conduction(grad_y, k), implementation)


def test_maximum_principle(device: torch.device) -> None:
    # Heat flows from warm to cold: no new extremes, for one k a channel.
    x = (random((2, 24, 40, 6), torch.float64, device) > 1.5).double()
    y = ops.heat_conduction(x, torch.tensor([0.0, 2.0, 5.0, 20.0, 100.0, 1e4]).to(device))
    assert y[..., 1:].min() >= -1e-3
    assert y[..., 1:].max() <= 1 + 1e-3
    spread = (y.amax((1, 2)) - y.amin((1, 2))).mean(0)
    assert (spread.diff() < 0).all()


@pytest.mark.parametrize("k", [0.7, torch.tensor(0.7), torch.full((5,), 0.7)], ids=repr)
def test_filter_is_heat_conduction_prepared(k: float | Tensor, device: torch.device) -> None:
    x = random((2, 9, 12, 5), torch.float32, device)
    k = k.to(device) if isinstance(k, Tensor) else k
    gain = ops.heat_filter(k, 9, 12).to(device)
    assert gain.shape == (9, 12, 1 if not isinstance(k, Tensor) or k.dim() == 0 else 5)
    assert_close(ops.apply_heat_filter(x, gain), ops.heat_conduction(x, k), 1e-6)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_undoes_the_transform(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: torch.device
) -> None:
    x = random(shape, dtype, device)
    eps = (2 if dtype in HALVES else 1) * EPS[dtype]
    assert_close(ops.idct2d(ops.dct2d(x, layout), layout), x, eps)
    assert_close(ops.dct2d(ops.idct2d(x, layout), layout), x, eps)


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_keeps_inner_products(shape: tuple[int, ...], device: torch.device) -> None:
    a, b = random(shape, torch.float64, device), random(shape, torch.float64, device)
    tolerance = 1e-12 * math.sqrt(a.numel())
    assert inner(ops.dct2d(a), ops.dct2d(b)) == pytest.approx(inner(a, b), abs=tolerance)
    assert inner(ops.dct2d(a), b) == pytest.approx(inner(a, ops.idct2d(b)), abs=tolerance)


def test_layouts_agree(device: torch.device) -> None:
    x = random((2, 3, 12, 20), torch.float64, device)
    nhwc = ops.dct2d(x.permute(0, 2, 3, 1), "nhwc")
    assert_close(nhwc.permute(0, 3, 1, 2), ops.dct2d(x), 1e-14)


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_bands_add_up_to_the_image(dtype: torch.dtype, device: torch.device) -> None:
    x = random((4, 3, 20, 28), dtype, device)
    low, high = ops.frequency_split(x, [0.0, 0.2, 0.5, 2.0], (0, 90))
    assert_close(low.double() + high.double(), x, EPS[dtype])
    # Radius 0 leaves DC, radius 2 everything.
    mean = x[0].double().mean((1, 2), keepdim=True).expand_as(x[0])
    assert_close(low[0], mean, max(EPS[dtype], 1e-13))
    assert_close(low[3], x[3], EPS[dtype])


def test_bands_are_orthogonal_projections(device: torch.device) -> None:
    x = random((2, 3, 17, 32), torch.float64, device)
    radius, angles = [0.3, 0.6], ([0, 20], [90, 50])
    low, high = ops.frequency_split(x, radius, angles)
    assert inner(low, high) == pytest.approx(0, abs=1e-11)
    low_again, nothing = ops.frequency_split(low, radius, angles)
    assert_close(low_again, low, 1e-13)
    assert nothing.abs().max() < 1e-13


def test_spectral_loss_of_equal_images_is_zero_and_symmetric(device: torch.device) -> None:
    a, b = random((2, 3, 9, 8), device=device), random((2, 3, 9, 8), device=device)
    assert ops.spectral_l1_loss(a, a).item() == 0
    assert ops.spectral_l1_loss(a, b).item() == pytest.approx(
        ops.spectral_l1_loss(b, a).item(), rel=1e-6
    )


def test_spectral_loss_is_the_loss_of_the_transforms(device: torch.device) -> None:
    a, b = (random((2, 3, 9, 8), torch.float64, device) for _ in range(2))
    expected = torch.nn.functional.l1_loss(ops.dct2d(a), ops.dct2d(b))
    torch.testing.assert_close(ops.spectral_l1_loss(a, b), expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x[:, ::2, 1:, ::3],
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: x.flip(1),
        lambda x: x[:, :1].expand(-1, 9, -1, -1),
        lambda x: x[..., :1].expand(-1, -1, -1, 6),
    ],
    ids=["transposed", "sliced", "permuted", "flipped", "expanded rows", "expanded channels"],
)
def test_strides_do_not_matter(view, device: torch.device, implementation: str) -> None:
    x = view(random((2, 8, 10, 6), device=device))
    k = diffusivity(x.shape[1:], device=device)
    strided_k = k.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    dense = x.contiguous()
    for actual, expected in (
        (ops.dct2d(x), ops.dct2d(dense)),
        (ops.idct2d(x, "nhwc"), ops.idct2d(dense, "nhwc")),
        (ops.heat_conduction(x, k), ops.heat_conduction(dense, k)),
        (ops.heat_conduction(dense, strided_k), ops.heat_conduction(dense, k)),
        (ops.apply_heat_filter(x, strided_k), ops.apply_heat_filter(dense, k)),
        (torch.cat(ops.frequency_split(x, 0.4)), torch.cat(ops.frequency_split(dense, 0.4))),
        (ops.spectral_l1_loss(x, 2 * dense), ops.spectral_l1_loss(dense, 2 * dense)),
    ):
        assert_same(actual, expected, implementation)


def test_strided_column_of_diffusivities(device: torch.device, implementation: str) -> None:
    # One channel whose values are not neighbours: only strides of axes longer than 1 count.
    k = diffusivity((8, 10, 7), device=device)[..., 3:4]
    x = random((2, 8, 10, 1), device=device)
    assert_same(ops.heat_conduction(x, k), ops.heat_conduction(x, k.contiguous()), implementation)


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (2, 4, 5, 0)])
def test_empty_batches_and_channels(shape: tuple[int, ...], device: torch.device) -> None:
    x = random(shape, device=device).requires_grad_()
    k = diffusivity(shape[1:], device=device).requires_grad_()
    y = ops.heat_conduction(x, k)
    assert y.shape == shape
    grad_x, grad_k = torch.autograd.grad(y.sum(), (x, k))
    assert grad_x.shape == shape
    assert grad_k.shape == k.shape
    assert not grad_k.any()
    assert ops.apply_heat_filter(x, ops.heat_filter(k, 4, 5)).shape == shape
    assert ops.dct2d(x, "nhwc").shape == shape
    images = x.detach().permute(0, 3, 1, 2)
    assert ops.idct2d(images).shape == images.shape
    low, high = ops.frequency_split(images, 0.5)
    assert low.shape == high.shape == images.shape
    assert ops.spectral_l1_loss(images, images, "sum").item() == 0
    assert math.isnan(ops.spectral_l1_loss(images, images).item())  # as torch's l1_loss


def test_inputs_are_left_alone(device: torch.device) -> None:
    x, k = random((2, 8, 9, 4), device=device), diffusivity((8, 9, 4), device=device)
    before, k_before = x.clone(), k.clone()
    ops.dct2d(x), ops.idct2d(x, "nhwc"), ops.heat_conduction(x, k), ops.apply_heat_filter(x, k)
    ops.frequency_split(x, 0.5), ops.spectral_l1_loss(x, 2 * x), ops.heat_filter(k, 8, 9)
    assert torch.equal(x, before)
    assert torch.equal(k, k_before)


@pytest.mark.parametrize(
    ("radius", "angles"),
    [
        (0.4, (15, 60)),
        ([0.4, 0.4], (15.0, 60.0)),
        (torch.tensor(0.4, dtype=torch.float64), torch.tensor([15, 60])),
        (torch.tensor([0.4, 0.4]).double(), torch.tensor([[15, 60], [15, 60]])),
        (0.4, ([15, 15], torch.tensor([60, 60]))),
        (torch.tensor([0.4, 0.4], dtype=torch.float64).requires_grad_(), (torch.tensor(15), 60)),
    ],
)
def test_forms_of_radius_and_angles_agree(
    radius, angles, device: torch.device, implementation: str
) -> None:
    x = random((2, 3, 12, 15), device=device)
    expected = ops.frequency_split(x, 0.4, (15, 60))
    bands = ops.frequency_split(x, radius, angles)
    assert_same(torch.cat(bands), torch.cat(expected), implementation)
    assert not bands[0].requires_grad


def test_samples_have_their_own_sectors(device: torch.device, implementation: str) -> None:
    x = random((3, 2, 16, 12), device=device)
    radius, angles = [0.2, 0.5, 0.9], torch.tensor([[0.0, 90.0], [0.0, 45.0], [30.0, 60.0]])
    low, _ = ops.frequency_split(x, radius, angles)
    for i in range(3):
        alone, _ = ops.frequency_split(x[i : i + 1], radius[i], tuple(angles[i].tolist()))
        assert_same(low[i : i + 1], alone, implementation)
