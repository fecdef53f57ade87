# SPDX-License-Identifier: Apache-2.0
"""roi_align_rotated: its definition, torchvision's at angle 0, derivatives, layouts, borders."""

import math

import numpy as np
import pytest
import torch
from rotated_boxes import uniform
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from utils import FLOATS, HALVES, random

from rsvheat import ops
from rsvheat.ops import _boxes_reference as reference


def regions(
    count: int, batch: int, height: int, width: int, scale: float = 0.25, angle: float | None = None
) -> Tensor:
    """Return boxes (K, 6), float64, at borders and outside of the features, too."""
    size = torch.tensor([width, height]) / scale
    turn = 720 * uniform(count, 1) - 360 if angle is None else torch.full((count, 1), angle)
    return torch.cat(
        (
            torch.randint(0, batch, (count, 1)),
            (1.4 * uniform(count, 2) - 0.2) * size,
            uniform(count, 2) * size,
            turn,
        ),
        1,
    ).double()


def by_definition(
    x: np.ndarray, boxes: np.ndarray, size: tuple[int, int], scale: float, ratio: int
):
    """Return the bins' means, one point after the other."""
    _, channels, height, width = x.shape
    y = np.zeros((len(boxes), channels, *size))
    for k, (image, center_x, center_y, w, h, degrees) in enumerate(boxes):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        bin_h, bin_w = h * scale / size[0], w * scale / size[1]
        rows, columns = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for i, j in np.ndindex(size[0] * rows, size[1] * columns):
            across = (j + 0.5) * bin_w / columns - w * scale / 2
            down = (i + 0.5) * bin_h / rows - h * scale / 2
            at_x = center_x * scale - 0.5 + across * cos + down * sin
            at_y = center_y * scale - 0.5 - across * sin + down * cos
            if not (-1 <= at_x <= width and -1 <= at_y <= height):
                continue
            at_x, at_y = min(max(at_x, 0), width - 1), min(max(at_y, 0), height - 1)
            left, top = int(at_x), int(at_y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            u, v = at_x - left, at_y - top
            plane = x[int(image)]
            upper = (1 - u) * plane[:, top, left] + u * plane[:, top, right]
            lower = (1 - u) * plane[:, bottom, left] + u * plane[:, bottom, right]
            y[k, :, i // rows, j // columns] += ((1 - v) * upper + v * lower) / (rows * columns)
    return y


CASES = [((7, 7), 0.25, 0), ((3, 2), 0.25, 2), ((1, 4), 0.5, 3), ((5, 5), 0.1, 0)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("size", "scale", "ratio"), CASES)
def test_matches_the_definition(
    size: tuple[int, int],
    scale: float,
    ratio: int,
    dtype: torch.dtype,
    implementation: str,
    device: torch.device,
) -> None:
    x, boxes = random((2, 5, 9, 12), dtype, device), regions(10, 2, 9, 12).to(device)
    y = ops.roi_align_rotated(x, boxes, size, scale, ratio)
    assert y.dtype == dtype
    exact = torch.from_numpy(
        by_definition(x.double().cpu().numpy(), boxes.cpu().numpy(), size, scale, ratio)
    )
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}.get(dtype, 2e-3)
    torch.testing.assert_close(y.double().cpu(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_at_angle_zero_it_is_torchvisions(
    ratio: int, implementation: str, device: torch.device
) -> None:
    torchvision_ops = pytest.importorskip("torchvision.ops")
    x = random((2, 6, 20, 30), torch.float64, device)
    boxes = regions(200, 2, 20, 30, angle=0.0).to(device)
    whole = boxes.round()
    halves = whole + torch.tensor([0, 0.5, 0.5, 0, 0, 0], device=device)
    for rois in (boxes, whole, halves):
        low, high = rois[:, 1:3] - rois[:, 3:5] / 2, rois[:, 1:3] + rois[:, 3:5] / 2
        expected = torchvision_ops.roi_align(
            x, torch.cat((rois[:, :1], low, high), 1), (7, 5), 0.25, ratio or -1, aligned=True
        )
        y = ops.roi_align_rotated(x, rois, (7, 5), 0.25, ratio)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        y = ops.roi_align_rotated(x.float(), rois, (7, 5), 0.25, ratio)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("turns", [-3, -1, 1, 2, 3, 4])
def test_quarter_turns_turn_the_bins(turns: int, native: torch.device) -> None:
    x, boxes = random((1, 4, 16, 16), torch.float64, native), regions(20, 1, 16, 16).to(native)
    turned = boxes.clone()
    turned[:, 5] += 90 * turns
    if turns % 2:
        turned[:, 3:5] = boxes[:, [4, 3]]
    expected = ops.roi_align_rotated(x, boxes, (6, 6), 0.25, 2)
    y = ops.roi_align_rotated(x, turned, (6, 6), 0.25, 2)
    torch.testing.assert_close(torch.rot90(y, turns, (2, 3)), expected, rtol=0, atol=1e-12)


def test_turning_image_and_boxes_changes_nothing(native: torch.device) -> None:
    x, boxes = random((1, 4, 16, 16), torch.float64, native), regions(20, 1, 16, 16).to(native)
    expected = ops.roi_align_rotated(x, boxes, 5, 0.25, 3)
    turned = boxes.clone()  # by 90 degrees, counter-clockwise
    turned[:, 1], turned[:, 2] = boxes[:, 2], 64 - boxes[:, 1]
    turned[:, 5] += 90
    y = ops.roi_align_rotated(torch.rot90(x, 1, (2, 3)), turned, 5, 0.25, 3)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    mirrored = boxes.clone()
    mirrored[:, 1] = 64 - boxes[:, 1]
    mirrored[:, 5] = -boxes[:, 5]
    y = ops.roi_align_rotated(x.flip(3), mirrored, 5, 0.25, 3).flip(3)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_constants_inside_stay_and_nothing_comes_from_far_outside(
    implementation: str, device: torch.device
) -> None:
    x = torch.full((1, 3, 40, 40), 2.5, device=device)
    inside = torch.tensor([[0, 80.0, 80.0, 60.0, 40.0, 33.0]], device=device)
    y = ops.roi_align_rotated(x, inside, 7, 0.25)
    torch.testing.assert_close(y, torch.full_like(y, 2.5))
    outside = torch.tensor([[0, 800.0, 80.0, 60.0, 40.0, 33.0]], device=device)
    assert not ops.roi_align_rotated(x, outside, 7, 0.25).any()
    # A border's value reaches one pixel out.
    point = torch.tensor([[0, -1.9, 80.0, 0.0, 0.0, 0.0], [0, -2.1, 80, 0, 0, 0]], device=device)
    y = ops.roi_align_rotated(x, point, 1, 0.25, 1)
    assert y[0].tolist() == [[[2.5]]] * 3
    assert not y[1].any()


def test_boxes_without_area_and_huge_ones(implementation: str, device: torch.device) -> None:
    x = random((1, 3, 8, 8), torch.float64, device)
    empty = torch.tensor([[0, 16.0, 16.0, 0.0, 0.0, 30.0]], dtype=torch.float64, device=device)
    assert not ops.roi_align_rotated(x, empty, 2, 0.25).any()  # no points, as in torchvision
    y = ops.roi_align_rotated(x, empty, 2, 0.25, 2)
    torch.testing.assert_close(y, x[:, :, 3:5, 3:5].mean((2, 3), keepdim=True).expand_as(y))
    if implementation == "native":
        huge = empty.clone()
        huge[:, 3:5] = 1e9
        assert ops.roi_align_rotated(x, huge, 7, 0.25).abs().max() < 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_boxes_that_are_none_give_nan(
    value: float, implementation: str, device: torch.device
) -> None:
    x = random((1, 3, 8, 8), torch.float32, device).requires_grad_()
    good = torch.tensor([[0, 16.0, 16.0, 8.0, 4.0, 30.0]], device=device)
    for field in range(1, 6):
        boxes = good.repeat(2, 1)
        boxes[1, field] = value
        y = ops.roi_align_rotated(x, boxes, 2, 0.25, 2)
        assert y[1].isnan().all()
        assert y[0].isfinite().all()
    negative = good.clone()
    negative[0, 3] = -1
    assert ops.roi_align_rotated(x, negative, 2, 0.25, 2).isnan().all()


# ---- Layouts and types ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("count", "height", "width"), [(9, 9, 12), (2, 60, 50)])
def test_layouts_agree(
    count: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    implementation: str,
    device: torch.device,
) -> None:
    x = random((2, 20, height, width), dtype, device)
    boxes = regions(count, 2, height, width).to(device)
    last = x.to(memory_format=torch.channels_last)
    y = ops.roi_align_rotated(x, boxes, (3, 4), 0.25, 2)
    y_last = ops.roi_align_rotated(last, boxes, (3, 4), 0.25, 2)
    assert y.is_contiguous()
    assert y_last.is_contiguous(memory_format=torch.channels_last)
    # The CPU's kernels for few boxes add in another order; a 16-bit result may round differently.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y, y_last, rtol=2 * eps, atol=4 * eps)
    grad = random(y.shape, dtype, device)
    grads = []
    for features in (x, last, x.transpose(2, 3).contiguous().transpose(2, 3)):
        leaf = features.detach().requires_grad_()
        y = ops.roi_align_rotated(leaf, boxes, (3, 4), 0.25, 2)
        grads.append(torch.autograd.grad(y, leaf, grad)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=4 * eps, atol=16 * eps)
    assert torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_features_keep_their_type_under_autocast(
    half: torch.dtype, implementation: str, device: torch.device
) -> None:
    x, boxes = random((2, 5, 9, 12), half, device), regions(9, 2, 9, 12).to(device)
    y = ops.roi_align_rotated(x, boxes, 3, 0.25)
    with torch.autocast(device.type, dtype=half):
        assert torch.equal(ops.roi_align_rotated(x, boxes, 3, 0.25), y)
        assert ops.roi_align_rotated(x.float(), boxes, 3, 0.25).dtype == torch.float32
    # Sums are kept in float32: rounded once.
    exact = ops.roi_align_rotated(x.float(), boxes, 3, 0.25).to(half)
    torch.testing.assert_close(y, exact, rtol=2 * torch.finfo(half).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_results_do_not_depend_on_threads_or_on_the_other_boxes(
    dtype: torch.dtype, kernel: torch.device
) -> None:
    x, boxes = random((2, 70, 20, 30), dtype, kernel), regions(60, 2, 20, 30).to(kernel)
    grad = random((60, 70, 7, 7), dtype, kernel)

    def outputs() -> list[Tensor]:
        found = []
        for few, features in (
            (60, x),
            (1, x),
            (60, x.contiguous(memory_format=torch.channels_last)),
        ):
            leaf = features.clone().requires_grad_()
            y = ops.roi_align_rotated(leaf, boxes[:few], 7, 0.25)
            found += [y, torch.autograd.grad(y, leaf, grad[:few])[0]]
        return found

    torch.set_num_threads(1)
    expected = outputs()
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for actual, want in zip(outputs(), expected, strict=True):
            assert torch.equal(actual, want)
    assert torch.equal(ops.roi_align_rotated(x, boxes[11:41], 7, 0.25), expected[0][11:41])


def test_native_and_reference_agree(kernel: torch.device) -> None:
    x, many = random((2, 33, 20, 30), torch.float64, kernel), regions(60, 2, 20, 30).to(kernel)
    x.requires_grad_()
    for ratio, boxes in ((0, many), (2, many), (0, many[:3]), (2, many[:3])):
        y = ops.roi_align_rotated(x, boxes, (3, 5), 0.25, ratio)
        expected = reference.roi_align_rotated(x, boxes, (3, 5), 0.25, ratio)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        grad = random(y.shape, torch.float64, kernel)
        torch.testing.assert_close(
            torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, x, grad)
        )


# ---- Derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 2])
def test_derivatives(ratio: int, implementation: str, device: torch.device) -> None:
    x = random((2, 2, 5, 4), torch.float64, device).requires_grad_()
    boxes = regions(5, 2, 5, 4).to(device)

    def function(x: Tensor) -> Tensor:
        return ops.roi_align_rotated(x, boxes, (2, 3), 0.25, ratio)

    torch.autograd.gradcheck(function, x)
    torch.autograd.gradgradcheck(function, x)
    # Linear: the derivative along a direction is the function of it.
    tangent = random(x.shape, torch.float64, device)
    value, found = torch.func.jvp(function, (x.detach(),), (tangent,))
    torch.testing.assert_close(value, function(x).detach())
    torch.testing.assert_close(found, function(tangent))
    with torch.autograd.forward_ad.dual_level():
        dual = function(torch.autograd.forward_ad.make_dual(x.detach(), tangent))
        torch.testing.assert_close(
            torch.autograd.forward_ad.unpack_dual(dual).tangent, function(tangent)
        )
    stack = torch.stack((x.detach(), tangent))
    mapped = torch.func.vmap(function)(stack)
    torch.testing.assert_close(mapped, torch.stack([function(one) for one in stack]))
    gradient = torch.func.grad(lambda x: function(x).square().sum())(x.detach())
    (expected,) = torch.autograd.grad(function(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_no_gradient_reaches_boxes(device: torch.device) -> None:
    boxes = regions(3, 1, 5, 4).to(device).requires_grad_()
    y = ops.roi_align_rotated(random((1, 2, 5, 4), torch.float64, device), boxes, 2, 0.25)
    assert not y.requires_grad


# ---- Tracing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
def test_opcheck(channels_last: bool, native: torch.device) -> None:
    boxes = regions(3, 2, 5, 4).to(native)
    features, result = (
        ((2, 5, 4, 3), (3, 2, 2, 3)) if channels_last else ((2, 3, 5, 4), (3, 3, 2, 2))
    )
    for dtype in (torch.float64, torch.bfloat16):
        x, grad = random(features, dtype, native), random(result, dtype, native)
        op = torch.ops.rsvheat.roi_align_rotated
        torch.library.opcheck(op, (x.requires_grad_(), boxes, 2, 2, 0.25, 0, channels_last))
        op = torch.ops.rsvheat._roi_align_rotated_backward
        torch.library.opcheck(op, (grad.requires_grad_(), boxes, 2, 5, 4, 0.25, 2, channels_last))


def test_compiles_as_one_graph_for_every_shape(native: torch.device) -> None:
    device = native

    def function(x: Tensor, boxes: Tensor) -> Tensor:
        return ops.roi_align_rotated(x, boxes, (2, 3), 0.25, 2)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for count, height, width in ((4, 6, 5), (7, 9, 12)):
        x = random((2, 3, height, width), torch.float32, device).requires_grad_()
        boxes = regions(count, 2, height, width).to(device)
        y, expected = compiled(x, boxes), function(x, boxes)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(
            torch.autograd.grad(y.square().sum(), x),
            torch.autograd.grad(expected.square().sum(), x),
        )


def test_exports_as_operators_of_torch_alone() -> None:
    class Crop(torch.nn.Module):
        def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
            return ops.roi_align_rotated(x, boxes, 3, 0.25, 2)

    x, boxes = random((1, 4, 9, 12)), regions(5, 1, 9, 12)
    with ops.use_reference():
        program = torch.export.export(
            Crop(), (x, boxes), dynamic_shapes=({}, {0: torch.export.Dim("boxes")})
        )
    assert not any("rsvheat" in str(node.target) for node in program.graph.nodes)
    boxes = regions(8, 1, 9, 12)
    torch.testing.assert_close(program.module()(x, boxes), Crop()(x, boxes))
    with (
        ops.use_reference(),
        pytest.raises(Exception, match="sampling_ratio must be positive where the reference"),
    ):
        torch.compile(ops.roi_align_rotated, fullgraph=True, backend="eager")(x, boxes, 3, 0.25)


def test_meta_tensors_and_flops(native: torch.device) -> None:
    x, boxes = random((2, 3, 5, 4), device=native).requires_grad_(), regions(6, 2, 5, 4).to(native)
    meta = ops.roi_align_rotated(x.to("meta"), boxes.to("meta"), (2, 3), 0.25)
    assert meta.shape == (6, 3, 2, 3)
    for ratio, points in ((3, 9), (0, 4)):
        with FlopCounterMode(display=False) as counter:
            y = ops.roi_align_rotated(x, boxes, (2, 3), 0.25, ratio)
        assert counter.get_total_flops() == 8 * points * y.numel()
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        assert counter.get_total_flops() == 8 * points * y.numel()


# ---- Errors --------------------------------------------------------------------------------------


def test_no_boxes(implementation: str, device: torch.device) -> None:
    x = random((2, 3, 5, 4), device=device).requires_grad_()
    for ratio in (0, 2):
        y = ops.roi_align_rotated(x, torch.zeros(0, 6, device=device), (2, 3), 0.25, ratio)
        assert y.shape == (0, 3, 2, 3)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


def test_errors_name_the_argument(implementation: str) -> None:
    x, boxes = random((2, 3, 5, 4)), regions(3, 2, 5, 4)
    for arguments, error, message in (
        ((x[0], boxes, 2), ValueError, r"features must have 4 dimensions \(B, C, H, W\)"),
        ((x.long(), boxes, 2), TypeError, "features must be float32"),
        ((x[:, :, :0], boxes, 2), ValueError, "height and width of at least 1"),
        ((x, boxes[:, :5], 2), ValueError, r"boxes must have shape \(K, 6\).*got \(3, 5\)"),
        ((x, boxes.to("meta"), 2), ValueError, "boxes must be on features's device cpu"),
        ((x, boxes, 0), ValueError, "output_size must be one or two positive ints, got 0"),
        ((x, boxes, (2, 3, 4)), ValueError, "output_size must be one or two positive ints"),
        ((x, boxes, 2.5), TypeError, "output_size must be an int or a pair of ints, got 2.5"),
        ((x, boxes, 2, 0.0), ValueError, "spatial_scale must be finite and positive, got 0.0"),
        ((x, boxes, 2, "1"), TypeError, "spatial_scale must be a number, got str"),
        ((x, boxes, 2, 1.0, 1.5), TypeError, "sampling_ratio must be an int, got float"),
        ((x, boxes, 2, 1.0, 5000), ValueError, "sampling_ratio must be at most 1024, got 5000"),
    ):
        with pytest.raises(error, match=message):
            ops.roi_align_rotated(*arguments)
    for image in (-1.0, 2.0, 0.5, math.nan):
        bad = boxes.clone()
        bad[1, 0] = image
        with pytest.raises(ValueError, match=r"number of an image, 0 to 1, but boxes\[1, 0\] is"):
            ops.roi_align_rotated(x, bad, 2)


def test_the_native_op_checks_for_itself() -> None:
    op, x, boxes = torch.ops.rsvheat.roi_align_rotated, random((2, 5, 4, 3)), regions(3, 2, 5, 4)
    bad = boxes.clone()
    bad[2, 0] = 2
    for arguments, message in (
        ((x[0], boxes, 2, 2, 1.0, 0), r"x must be \(B, H, W, C\)"),
        ((x[:, :0], boxes, 2, 2, 1.0, 0), "height and width of x must be positive"),
        ((x, boxes.float(), 2, 2, 1.0, 0), "boxes must be of dtype Double"),
        ((x, boxes[:, :5], 2, 2, 1.0, 0), "boxes must be"),
        ((x, boxes, 0, 2, 1.0, 0), "output_size must be positive"),
        ((x, boxes, 2, 2, 0.0, 0), "spatial_scale must be positive"),
        ((x, boxes, 2, 2, 1.0, 5000), "sampling_ratio must be at most 1024"),
        ((x, bad, 2, 2, 1.0, 0), r"0 to 1, but boxes\[2, 0\] is 2"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op(*arguments, True)
    backward = torch.ops.rsvheat._roi_align_rotated_backward
    grad = random((3, 2, 2, 3))
    for arguments, message in (
        ((grad[:2], boxes, 2, 5, 4, 1.0, 0), "grad_y must have a row for each of the 3 boxes"),
        ((grad, boxes, 2, 0, 4, 1.0, 0), "must have positive height and width"),
        ((grad, bad, 2, 5, 4, 1.0, 0), r"boxes\[2, 0\] is 2"),
    ):
        with pytest.raises(RuntimeError, match=message):
            backward(*arguments, True)
