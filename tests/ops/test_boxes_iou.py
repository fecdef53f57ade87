# SPDX-License-Identifier: Apache-2.0
"""box_iou_rotated: exactness, invariances, derivatives, and what torch asks of an operator."""

import itertools
import math

import numpy as np
import pytest
import torch
from rotated_boxes import exact_iou, families, judge, random_boxes, shapely_iou, uniform
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from utils import HALVES, random

from rsvheat import ops
from rsvheat.ops import _boxes_reference as reference

FAMILIES = tuple(families(1))


def ratios(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return ops.box_iou_rotated(boxes1, boxes2, aligned=True)


# ---- Exactness -----------------------------------------------------------------------------------


def test_a_hundred_thousand_random_pairs_match_shapely(native: torch.device) -> None:
    pytest.importorskip("shapely")
    boxes1, boxes2 = random_boxes(100_000).float(), random_boxes(100_000).float()
    expected = shapely_iou(boxes1, boxes2)
    assert (expected > 0).mean() > 0.3
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        iou = ratios(boxes1.to(native, dtype), boxes2.to(native, dtype)).cpu().double().numpy()
        assert np.abs(iou - expected).max() <= bound
        assert iou.min() >= 0
        assert iou.max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact(family: str, implementation: str, device: torch.device) -> None:
    boxes1, boxes2 = families(60)[family]
    # 1e-12 is promised; measured against 60 digits: below 1e-15.
    for dtype, bound in ((torch.float64, 2e-15), (torch.float32, 1e-7)):
        first, second = boxes1.to(dtype), boxes2.to(dtype)
        if family == "tiny" and dtype == torch.float32:
            continue  # float32 has no such numbers
        iou = ratios(first.to(device), second.to(device)).cpu()
        errors = [
            abs(float(value - found))
            for value, found in zip(exact_iou(first, second), iou.tolist(), strict=True)
        ]
        assert max(errors) <= bound
        assert iou.min() >= 0
        assert iou.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_thousand_pairs_of_every_family(family: str, native: torch.device) -> None:
    pytest.importorskip("shapely")
    boxes1, boxes2 = families(100_000)[family]
    if family == "tiny":
        return  # shapely loses them
    # shapely's own error is larger for slivers: it starts from corners.
    sliver = 1e-6 if "thin" in family else 0.0
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        first, second = boxes1.to(dtype), boxes2.to(dtype)
        iou = ratios(first.to(native), second.to(native)).cpu().double().numpy()
        found = judge(first, second, iou, max(bound, sliver))
        assert found.doubtful < 1000
        assert found.error <= bound
        assert iou.min() >= 0
        assert iou.max() <= 1


# Boxes that gave wrong numbers elsewhere, angles as radians clockwise (mmcv) or as given.
CASES = {
    "mmcv 2621": (
        [0, 0, 180.6422, 136.3634, -math.degrees(0.95597)],
        [0, 0, 180.6422, 136.3634, -math.degrees(0.95597)],
    ),
    "mmcv 2952": (
        [135.07, 406.72, 7.9e-7, 1971.1, -math.degrees(1.7708)],
        [151.008, 436.217, 302.016, 313.735, -math.degrees(3.1184)],
    ),
    "negative angles": ([50, 50, 40, 20, -200], [50, 50, 40, 20, 160]),
    "detectron2 2154": (
        [296.6620178222656, 458.73883056640625, 23.515729904174805, 47.677001953125, 0.08795166],
        [296.66201, 458.73882, 23.51573, 47.67702, 0.087951],
    ),
    "detectron2 2167": (
        [2563.74462890625, 1436.7901611328125, 2174.70336914062, 214.095001220703, 115.118347168],
        [2563.74462890625, 1436.7901611328125, 2174.7033691406, 214.095001220703, 115.118347168],
    ),
    "a center far away": (
        [160.0, 153.0, 230.0, 23.0, -37.0],
        [-1.117407639806935e17, 1.3858420478349148e18, 1000.0000610351562, 1000.0, 1612.0],
    ),
    "detectron2 4889": (
        [152.0, 80.0, 1e-3, 340.0, 89.999],
        [151.0, 80.5, 380.0, 2e-3, -0.001],
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_boxes_that_others_got_wrong(name: str, dtype: torch.dtype, native: torch.device) -> None:
    first, second = (torch.tensor([box], dtype=torch.float64).to(dtype) for box in CASES[name])
    iou = ratios(first.to(native), second.to(native)).item()
    bound = 1e-15 if dtype == torch.float64 else 1e-7
    assert iou == pytest.approx(float(exact_iou(first, second)[0]), rel=0, abs=bound)
    if name == "mmcv 2621":
        assert iou == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_known_overlaps(dtype: torch.dtype, implementation: str, device: torch.device) -> None:
    boxes = torch.tensor(
        [[0, 0, 2, 2, 0], [1, 0, 2, 2, 0], [2, 0, 2, 2, 0], [0, 0, 2, 2, 45], [0, 0, 4, 8, 90]],
        dtype=dtype,
        device=device,
    )
    expected = [1, 1 / 3, 0, math.sqrt(0.5), 1 / 8]
    iou = ops.box_iou_rotated(boxes[:1], boxes)[0].cpu()
    torch.testing.assert_close(iou, torch.tensor(expected, dtype=dtype), rtol=1e-7, atol=0)
    assert iou[2] == 0


# ---- Invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_are_those_of_the_reference_on_every_instruction_set(
    dtype: torch.dtype, kernel: torch.device
) -> None:
    for boxes1, boxes2 in families(40).values():
        first, second = boxes1.to(kernel, dtype), boxes2.to(kernel, dtype)
        for aligned in (True, False):
            expected = reference.box_iou_rotated(first, second, aligned)
            assert torch.equal(ops.box_iou_rotated(first, second, aligned), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exchanging_boxes_exchanges_bits(dtype: torch.dtype, native: torch.device) -> None:
    for boxes1, boxes2 in families(50).values():
        first, second = boxes1.to(native, dtype), boxes2.to(native, dtype)
        assert torch.equal(ops.box_iou_rotated(first, second), ops.box_iou_rotated(second, first).T)
        assert torch.equal(ratios(first, second), ops.box_iou_rotated(first, second).diagonal())


def test_the_same_rectangle_written_differently_is_equal(native: torch.device) -> None:
    boxes = random_boxes(500).to(native)
    boxes[:, 4] = (boxes[:, 4] * 16).round() / 16  # so that adding turns rounds nothing
    assert (ratios(boxes, boxes) == 1).all()
    for turns in range(-5, 6):
        other = boxes.clone()
        other[:, 4] += 90 * turns
        if turns % 2:
            other[:, 2:4] = boxes[:, [3, 2]]
        assert (ratios(boxes, other) == 1).all()


def test_moving_both_boxes_changes_nothing(native: torch.device) -> None:
    first, second = random_boxes(500).to(native), random_boxes(500).to(native)
    for boxes in (first, second):
        boxes[:, :2] = (boxes[:, :2] * 1024).round() / 1024
    iou = ratios(first, second)
    for offset in (1.0, 5e5, 5e6, -(2.0**30)):
        shift = torch.tensor([offset, -offset, 0, 0, 0], dtype=torch.float64, device=native)
        assert torch.equal(ratios(first + shift, second + shift), iou)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_results_do_not_depend_on_threads_or_on_other_pairs(
    dtype: torch.dtype, kernel: torch.device
) -> None:
    boxes1, boxes2 = random_boxes(300).to(kernel, dtype), random_boxes(1500).to(kernel, dtype)

    def outputs() -> list[Tensor]:
        leaves = [boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()]
        iou = ops.box_iou_rotated(*leaves)
        pairs = ratios(leaves[0], leaves[1][:300])
        grads = torch.autograd.grad(iou.square().sum() + pairs.sum(), leaves)
        return [iou, pairs, *grads]

    torch.set_num_threads(1)
    expected = outputs()
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for actual, want in zip(outputs(), expected, strict=True):
            assert torch.equal(actual, want)
    part = ops.box_iou_rotated(boxes1[7:8], boxes2[1000:1003])
    assert torch.equal(part, expected[0][7:8, 1000:1003])


# ---- Values that are no boxes --------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_gives_nan(
    value: float, implementation: str, device: torch.device
) -> None:
    good = random_boxes(3).to(device)
    for field in range(5):
        bad = good[:1].clone()
        bad[0, field] = value
        leaf = bad.requires_grad_()
        iou = ops.box_iou_rotated(leaf, torch.cat((good, bad.detach())))
        assert iou.isnan().all()
        (grad,) = torch.autograd.grad(iou.sum(), leaf)
        if implementation == "native":
            assert grad.isnan().all()
        mixed = ops.box_iou_rotated(good, torch.cat((good, bad.detach())))
        assert mixed[:, 3].isnan().all()
        assert mixed[:, :3].isfinite().all()


def test_negative_and_unrepresentable_sides_give_nan(
    implementation: str, device: torch.device
) -> None:
    good = torch.tensor([[1.0, 2, 3, 4, 5]], dtype=torch.float64, device=device)
    for field, value in itertools.chain(
        itertools.product((2, 3), (-1e-30, -5.0, 1e-160, 1e160)), ((0, 1e160), (1, -1e160))
    ):
        bad = good.clone()
        bad[0, field] = value
        assert ratios(good, bad).isnan().all()
        assert ratios(bad, bad).isnan().all()


def test_no_boxes(implementation: str, device: torch.device) -> None:
    some, none = random_boxes(3).to(device), random_boxes(0).to(device)
    assert ops.box_iou_rotated(some, none).shape == (3, 0)
    assert ops.box_iou_rotated(none, some).shape == (0, 3)
    assert ratios(none, none).shape == (0,)
    leaf = some.requires_grad_()
    (grad,) = torch.autograd.grad(ops.box_iou_rotated(leaf, none).sum(), leaf)
    assert torch.equal(grad, torch.zeros_like(some))


# ---- Types and layouts ---------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_types_are_computed_in_float32(
    half: torch.dtype, implementation: str, device: torch.device
) -> None:
    boxes1, boxes2 = random_boxes(30).to(device, half), random_boxes(40).to(device, half)
    iou = ops.box_iou_rotated(boxes1, boxes2)
    assert iou.dtype == torch.float32
    assert torch.equal(iou, ops.box_iou_rotated(boxes1.float(), boxes2.float()))
    assert torch.equal(iou, ops.box_iou_rotated(boxes1.float(), boxes2))
    assert ops.box_iou_rotated(boxes1, boxes2.double()).dtype == torch.float64
    leaf = boxes1.requires_grad_()
    assert torch.autograd.grad(ops.box_iou_rotated(leaf, boxes2).sum(), leaf)[0].dtype == half
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(ops.box_iou_rotated(boxes1, boxes2), iou)


def test_strided_boxes(native: torch.device) -> None:
    wide = random_boxes(60).to(native).repeat(1, 2)
    boxes1, boxes2 = wide[::2, :5], wide.T.contiguous().T[1::2, 5:]
    assert not boxes1.is_contiguous()
    assert torch.equal(
        ops.box_iou_rotated(boxes1, boxes2),
        ops.box_iou_rotated(boxes1.contiguous(), boxes2.contiguous()),
    )


def test_torchvisions_boxes_are_taken(device: torch.device) -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    boxes = random_boxes(8).float().to(device)
    wrapped = tv_tensors.BoundingBoxes(
        boxes, format="CXCYWHR", canvas_size=(100, 100), clamping_mode=None
    )
    iou = ops.box_iou_rotated(wrapped, wrapped)
    assert type(iou) is Tensor
    assert torch.equal(iou, ops.box_iou_rotated(boxes, boxes))


def test_convention_is_torchvisions() -> None:
    pytest.importorskip("shapely")
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    import shapely

    boxes = random_boxes(30)
    corners = transforms.convert_bounding_box_format(
        boxes, "CXCYWHR", "XYXYXYXY", inplace=False
    ).reshape(-1, 4, 2)
    polygons = shapely.polygons(corners.numpy())[:, None]
    intersection = shapely.area(shapely.intersection(polygons, polygons.T))
    union = shapely.area(shapely.union(polygons, polygons.T))
    iou = ops.box_iou_rotated(boxes, boxes).numpy()
    np.testing.assert_allclose(iou, intersection / union, rtol=0, atol=1e-12)


# ---- Derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [True, False])
def test_gradients_match_finite_differences(
    aligned: bool, implementation: str, device: torch.device
) -> None:
    boxes1 = random_boxes(6, 30.0).to(device).requires_grad_()
    boxes2 = random_boxes(6, 30.0).to(device).requires_grad_()
    torch.autograd.gradcheck(
        lambda a, b: ops.box_iou_rotated(a, b, aligned), (boxes1, boxes2), eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("aligned", [True, False])
def test_gradients_are_those_of_the_reference(aligned: bool, kernel: torch.device) -> None:
    boxes1, boxes2 = (random_boxes(200).to(kernel).requires_grad_() for _ in range(2))
    grad = random((200,) if aligned else (200, 200), torch.float64, kernel)
    found = torch.autograd.grad(
        ops.box_iou_rotated(boxes1, boxes2, aligned), (boxes1, boxes2), grad
    )
    expected = torch.autograd.grad(
        reference.box_iou_rotated(boxes1, boxes2, aligned), (boxes1, boxes2), grad
    )
    for actual, want in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, want, rtol=1e-9, atol=1e-11)


def test_gradients_of_slivers_are_finite(native: torch.device) -> None:
    for boxes1, boxes2 in families(50).values():
        for dtype in (torch.float32, torch.float64):
            leaf = boxes1.to(native, dtype).requires_grad_()
            (grad,) = torch.autograd.grad(ratios(leaf, boxes2.to(native, dtype)).sum(), leaf)
            assert grad.isfinite().all()


def test_gradients_of_equal_boxes_are_zero(implementation: str, device: torch.device) -> None:
    boxes = random_boxes(50).to(device)
    leaves = [boxes.clone().requires_grad_(), boxes.clone().requires_grad_()]
    for grad in torch.autograd.grad(ratios(*leaves).sum(), leaves):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_only_the_gradients_that_are_needed(native: torch.device) -> None:
    boxes1, boxes2 = random_boxes(5).to(native), random_boxes(5).to(native)
    for first, second in ((True, False), (False, True)):
        leaves = [boxes1.clone().requires_grad_(first), boxes2.clone().requires_grad_(second)]
        ops.box_iou_rotated(*leaves).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [first, second]
    # An expanded gradient.
    leaf = boxes1.clone().requires_grad_()
    both = torch.autograd.grad(ops.box_iou_rotated(leaf, boxes2).sum(), leaf)[0]
    rows = [
        torch.autograd.grad(ratios(leaf, other.expand(5, 5)).sum(), leaf)[0] for other in boxes2
    ]
    torch.testing.assert_close(both, sum(rows))


def test_second_derivatives(implementation: str, device: torch.device) -> None:
    boxes1 = random_boxes(4, 20.0).to(device).requires_grad_()
    boxes2 = random_boxes(4, 20.0).to(device).requires_grad_()
    torch.autograd.gradgradcheck(ratios, (boxes1, boxes2), eps=1e-6, atol=1e-5)


def test_transforms_of_torch_func(implementation: str, device: torch.device) -> None:
    boxes1, boxes2 = random_boxes(5, 20.0).to(device), random_boxes(5, 20.0).to(device)
    tangent = random((5, 5), torch.float64, device)
    step = 1e-6
    slope = (ratios(boxes1 + step * tangent, boxes2) - ratios(boxes1 - step * tangent, boxes2)) / (
        2 * step
    )
    value, found = torch.func.jvp(lambda b: ratios(b, boxes2), (boxes1,), (tangent,))
    assert torch.equal(value, ratios(boxes1, boxes2))
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = ratios(torch.autograd.forward_ad.make_dual(boxes1, tangent), boxes2)
        forward = torch.autograd.forward_ad.unpack_dual(dual).tangent
        torch.testing.assert_close(forward, found)
    stack = torch.stack((boxes1, boxes2, boxes1.flip(0)), 2)
    for aligned in (False, True):
        for dims in ((2, None), (None, 2), (2, 2)):
            entries = [
                ops.box_iou_rotated(
                    boxes1 if dims[0] is None else stack[..., i],
                    boxes2 if dims[1] is None else stack[..., i],
                    aligned,
                )
                for i in range(3)
            ]
            mapped = torch.func.vmap(
                lambda a, b, aligned=aligned: ops.box_iou_rotated(a, b, aligned), in_dims=dims
            )(*(b if d is None else stack for b, d in zip((boxes1, boxes2), dims, strict=True)))
            assert torch.equal(mapped, torch.stack(entries))
    _, found = torch.func.jvp(lambda b: ops.box_iou_rotated(boxes2, b), (boxes1,), (tangent,))
    slope = ops.box_iou_rotated(boxes2, boxes1 + step * tangent)
    slope = (slope - ops.box_iou_rotated(boxes2, boxes1 - step * tangent)) / (2 * step)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8)
    gradient = torch.func.grad(lambda b: ratios(b, boxes2).sum())(boxes1)
    leaf = boxes1.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(ratios(leaf, boxes2).sum(), leaf)[0])


# ---- Tracing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [True, False])
def test_opcheck(aligned: bool, native: torch.device) -> None:
    for dtype in (torch.float32, torch.float64):
        boxes1, boxes2 = (random_boxes(4).to(native, dtype) for _ in range(2))
        grad = random((4,) if aligned else (4, 4), dtype, native)
        torch.library.opcheck(torch.ops.rsvheat.box_iou_rotated, (boxes1, boxes2, aligned))
        torch.library.opcheck(
            torch.ops.rsvheat.box_iou_rotated,
            (boxes1.requires_grad_(), boxes2.requires_grad_(), aligned),
        )
        torch.library.opcheck(
            torch.ops.rsvheat._box_iou_rotated_backward,
            (grad, boxes1.detach(), boxes2.detach(), aligned),
        )


def test_compiles_as_one_graph_for_every_count(native: torch.device) -> None:
    device = native

    def function(boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return (
            ops.box_iou_rotated(boxes1, boxes2).square().sum()
            + ratios(boxes1, boxes1.flip(0)).sum()
        )

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, m in ((4, 6), (7, 3)):
        boxes1 = random_boxes(n, 20.0).to(device).requires_grad_()
        boxes2 = random_boxes(m, 20.0).to(device)
        value, expected = compiled(boxes1, boxes2), function(boxes1, boxes2)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            torch.autograd.grad(value, boxes1), torch.autograd.grad(expected, boxes1)
        )


def test_meta_tensors_and_flops(native: torch.device) -> None:
    boxes1, boxes2 = random_boxes(4).to(native), random_boxes(6).to(native)
    meta = ops.box_iou_rotated(boxes1.to("meta"), boxes2.to("meta"))
    assert meta.shape == (4, 6)
    assert meta.dtype == torch.float64
    leaf = boxes1.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        iou = ops.box_iou_rotated(leaf, boxes2)
    assert counter.get_total_flops() == 250 * 24
    with FlopCounterMode(display=False) as counter:
        iou.sum().backward()
    assert counter.get_total_flops() == 500 * 24


# ---- Errors --------------------------------------------------------------------------------------


def test_errors_name_the_argument(implementation: str) -> None:
    good = random_boxes(3)
    for bad, error, message in (
        ([[1.0] * 5], TypeError, "boxes2 must be a torch.Tensor, got list"),
        (good.long(), TypeError, "boxes2 must be float32, float64, bfloat16 or float16"),
        (good[:, :4], ValueError, r"boxes2 must have shape \(N, 5\).*got \(3, 4\)"),
        (good[0], ValueError, r"boxes2 must have shape \(N, 5\).*got \(5,\)"),
        (good.to("meta"), ValueError, "boxes2 must be on boxes1's device cpu, got meta"),
    ):
        with pytest.raises(error, match=message):
            ops.box_iou_rotated(good, bad)
    with pytest.raises(ValueError, match="as many in boxes1 as in boxes2, got 3 and 2"):
        ops.box_iou_rotated(good, good[:2], aligned=True)
    with pytest.raises(TypeError, match="aligned must be a bool, got int"):
        ops.box_iou_rotated(good, good, aligned=1)


def test_the_native_op_checks_for_itself(native: torch.device) -> None:
    op, good = torch.ops.rsvheat.box_iou_rotated, random_boxes(3).to(native)
    for boxes1, boxes2, aligned, message in (
        (good, good[:, :4], False, "boxes2 must be"),
        (good, good.float(), False, "boxes2 must be of dtype Double"),
        (good.half(), good.half(), False, "boxes1 must be float32 or float64"),
        (good, good[:2], True, "3 and 2"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op(boxes1, boxes2, aligned)
    with pytest.raises(RuntimeError, match="grad must have the shape"):
        torch.ops.rsvheat._box_iou_rotated_backward(uniform(3, 2).to(native), good, good, False)
