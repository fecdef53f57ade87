# SPDX-License-Identifier: Apache-2.0
"""Forward-mode differentiation, ``torch.func`` and ``torch.vmap`` of every operator."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from utils import diffusivity, random

import rsvheat
from rsvheat import _library, ops
from rsvheat.ops import _checks

H, W, C = 3, 4, 2
IMAGES, FEATURES, COEFFICIENTS = (2, C, H, W), (2, H, W, C), (H, W, C)
BOXES = (1, 5)


class Case(NamedTuple):
    """An operator as a function of tensors, all of them float64 and of these shapes."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    # Inputs that have to be positive.
    positive: tuple[int, ...] = ()


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    return ops.frequency_split(x, 0.5, (10, 60))


def boxes(x: Tensor) -> Tensor:
    """Return (..., 5) boxes that overlap, of sides of 2 to 4, from any numbers around 0."""
    return torch.cat((x[..., :2], 3 + torch.tanh(x[..., 2:4]), 20 * x[..., 4:]), -1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    return ops.box_iou_rotated(boxes(a), boxes(b), aligned=True)


def regions(x: Tensor) -> Tensor:
    rois = torch.tensor([[0, 1.5, 1.0, 3.0, 2.0, 20.0], [1, 2.0, 2.0, 5.0, 2.0, -70.0]])
    return ops.roi_align_rotated(x, rois.to(x.device), (1, 2), 1.0, 2)


# By the name of the operator in rsvheat.ops.
CASES: dict[str, list[Case]] = {
    "dct2d": [Case(ops.dct2d, (IMAGES,)), Case(lambda x: ops.dct2d(x, "nhwc"), (FEATURES,))],
    "idct2d": [Case(ops.idct2d, (IMAGES,)), Case(lambda x: ops.idct2d(x, "nhwc"), (FEATURES,))],
    "heat_conduction": [
        Case(ops.heat_conduction, (FEATURES, COEFFICIENTS), positive=(1,)),
        Case(ops.heat_conduction, (FEATURES, (C,)), positive=(1,)),
        Case(lambda x: ops.heat_conduction(x, 0.5), (FEATURES,)),
    ],
    "heat_filter": [
        Case(lambda k: ops.heat_filter(k, H, W), (COEFFICIENTS,), positive=(0,)),
        Case(lambda k: ops.heat_filter(k, H, W), ((),), positive=(0,)),
    ],
    "apply_heat_filter": [Case(ops.apply_heat_filter, (FEATURES, COEFFICIENTS))],
    "frequency_split": [
        Case(split, (IMAGES,)),
        Case(lambda x: split(x)[0], (IMAGES,)),
        Case(lambda x: split(x)[1], (IMAGES,)),
    ],
    "spectral_l1_loss": [
        Case(ops.spectral_l1_loss, (IMAGES, IMAGES)),
        Case(lambda p, t: ops.spectral_l1_loss(p, t, "sum"), (IMAGES, IMAGES)),
    ],
    "multi_domain_loss": [
        Case(
            lambda *inputs: tuple(ops.multi_domain_loss(*inputs, weights=(1, 0.5, 2))),
            (IMAGES, IMAGES, (2, 3, 2, 2), (2, 3, 2, 2)),
        )
    ],
    "gated_layer_norm": [Case(ops.gated_layer_norm, (FEATURES, FEATURES, (C,), (C,)))],
    "add_layer_norm": [Case(ops.add_layer_norm, (FEATURES, FEATURES, (C,), (C,)))],
    "spatial_correction_conv": [
        Case(ops.spatial_correction_conv, (FEATURES, COEFFICIENTS, (C,), (C,), (C, 1, 3, 3), (C,)))
    ],
    "box_iou_rotated": [Case(overlap, (BOXES, BOXES))],
    "roi_align_rotated": [
        Case(regions, (IMAGES,)),
        Case(lambda x: regions(x.permute(0, 3, 1, 2)), (FEATURES,)),
    ],
}
# Operators without derivatives, each with a call; forward mode must refuse them.
NOT_DIFFERENTIABLE: dict[str, Callable[[], Any]] = {}
# Operators whose results are indices.
INDICES = {"nms_rotated", "batched_nms_rotated"}

PARAMETERS = [
    pytest.param(case, id=f"{name}-{number}")
    for name, cases in CASES.items()
    for number, case in enumerate(cases)
]


def test_every_public_operator_is_tested_here() -> None:
    public = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    # Compositions of torch's own operations and of what is tested here.
    composed = {
        name
        for name in public
        if name.startswith(("boxes_", "corners_")) or name.endswith("_loss_rotated")
    }
    here = CASES.keys() | NOT_DIFFERENTIABLE.keys() | INDICES
    assert public - {"use_reference"} - composed == here


@pytest.mark.skipif(not _library.native_available(), reason="nothing was built")
def test_every_native_op_has_rules() -> None:
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("rsvheat::")]
    assert len(names) >= 14
    for key in ("Autograd", "FuncTorchBatched"):
        for name in names:
            # What reads weights in memory or overwrites features: not called with gradients.
            if name.startswith(
                (
                    "rsvheat::_fingerprint",
                    "rsvheat::_lowered_linear",
                    "rsvheat::_add_layer_norm_into",
                )
            ):
                continue
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), (name, key)


def inputs_of(case: Case, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(
        # Away from 0, where finite differences would step to a negative k.
        0.1 + diffusivity(shape, torch.float64, device)
        if i in case.positive
        else random(shape, torch.float64, device)
        for i, shape in enumerate(case.shapes)
    )


def like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(random(x.shape, x.dtype, x.device) for x in inputs)


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    for a, b in zip(as_tuple(actual), as_tuple(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def scalar(case: Case) -> Callable[..., Tensor]:
    """Return a nonlinear function of all outputs."""
    return lambda *inputs: sum(y.sin().sum() for y in as_tuple(case.function(*inputs)))


def differences(function: Callable[..., Any], inputs: Any, tangents: Any) -> tuple[Tensor, ...]:
    """Return the derivative in a direction by finite differences."""
    step = 1e-6
    above, below = (
        as_tuple(function(*(x + sign * step * t for x, t in zip(inputs, tangents, strict=True))))
        for sign in (1, -1)
    )
    return tuple((a - b) / (2 * step) for a, b in zip(above, below, strict=True))


@pytest.mark.usefixtures("implementation", "one_thread")
@pytest.mark.parametrize("case", PARAMETERS)
class TestTransforms:
    def test_both_modes_and_their_batches(self, case: Case, device: torch.device) -> None:
        inputs = tuple(x.requires_grad_() for x in inputs_of(case, device))
        assert gradcheck(
            case.function,
            inputs,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )
        assert gradgradcheck(case.function, inputs, check_fwd_over_rev=True)

    def test_tangents(self, case: Case, device: torch.device) -> None:
        inputs = inputs_of(case, device)
        tangents = like(inputs)
        expected = differences(case.function, inputs, tangents)
        assert any(t.abs().max() > 1e-3 for t in expected)
        assert_close(func.jvp(case.function, inputs, tangents)[1], expected, 1e-6)
        with torch.no_grad():
            assert_close(func.jvp(case.function, inputs, tangents)[1], expected, 1e-6)
        for requires_grad in (False, True):
            leaves = [x.clone().requires_grad_(requires_grad) for x in inputs]
            with forward_ad.dual_level():
                duals = map(forward_ad.make_dual, leaves, tangents)
                outputs = as_tuple(case.function(*duals))
                found = tuple(forward_ad.unpack_dual(y).tangent for y in outputs)
            assert_close(found, expected, 1e-6)

    def test_tangent_of_one_input(self, case: Case, device: torch.device) -> None:
        inputs = inputs_of(case, device)
        tangents = like(inputs)
        for i, (x, tangent) in enumerate(zip(inputs, tangents, strict=True)):

            def function(x: Tensor, i: int = i) -> Any:
                return case.function(*inputs[:i], x, *inputs[i + 1 :])

            expected = differences(function, (x,), (tangent,))
            assert_close(func.jvp(function, (x,), (tangent,))[1], expected, 1e-6)

    def test_modes_in_each_other(self, case: Case, device: torch.device) -> None:
        inputs, function = inputs_of(case, device), scalar(case)
        numbers = tuple(range(len(inputs)))
        tangents, others = like(inputs), like(inputs)

        def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
            return func.grad(function, numbers)(*inputs)

        def along(*inputs: Tensor) -> Tensor:
            return func.jvp(function, inputs, tangents)[1]

        expected = differences(gradient, inputs, tangents)
        assert_close(func.jvp(gradient, inputs, tangents)[1], expected, 1e-5)
        assert_close(func.grad(along, numbers)(*inputs), expected, 1e-5)
        assert_close(func.vjp(gradient, *inputs)[1](tangents), expected, 1e-5)
        twice = sum((e * o).sum() for e, o in zip(expected, others, strict=True))
        assert_close(func.jvp(along, inputs, others)[1], twice, 1e-5)

    def test_jacobians_and_hessians(self, case: Case, device: torch.device) -> None:
        inputs, function = inputs_of(case, device), scalar(case)
        for jacobian in (func.jacfwd, func.jacrev):
            # The Jacobian times a direction is the derivative in that direction.
            tangent = torch.randn_like(inputs[0])
            rows = jacobian(case.function)(*inputs)
            found = tuple(
                (row * tangent).flatten(row.dim() - tangent.dim()).sum(-1)
                if tangent.dim()
                else row * tangent
                for row in as_tuple(rows)
            )
            first = (tangent, *(torch.zeros_like(x) for x in inputs[1:]))
            assert_close(found, func.jvp(case.function, inputs, first)[1])
        assert_close(func.hessian(function)(*inputs), func.jacrev(func.jacrev(function))(*inputs))

    def test_gradients_like_those_of_autograd(self, case: Case, device: torch.device) -> None:
        leaves = [x.requires_grad_() for x in inputs_of(case, device)]
        expected = torch.autograd.grad(scalar(case)(*leaves), leaves)
        inputs = tuple(x.detach() for x in leaves)
        assert_close(func.grad(scalar(case), tuple(range(len(inputs))))(*inputs), expected)

    def test_tangents_of_cotangents(self, case: Case, implementation, device) -> None:
        if implementation == "twin" and case.function is ops.gated_layer_norm:
            pytest.skip("torch has no such derivative of silu and says so")
        # The forward pass is over when forward mode begins, so only the formulas see tangents.
        leaves = [x.requires_grad_() for x in inputs_of(case, device)]
        outputs = as_tuple(case.function(*leaves))
        cotangents = like(outputs)
        expected = torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(torch.zeros_like(c), c) for c in cotangents]
            found = torch.autograd.grad(outputs, leaves, duals)
            assert_close(tuple(forward_ad.unpack_dual(g).tangent for g in found), expected)

    def test_vmap(self, case: Case, device: torch.device) -> None:
        inputs, size = inputs_of(case, device), 3
        function, numbers = scalar(case), tuple(range(len(inputs)))

        def gradient(*inputs: Tensor) -> Any:
            return func.grad(function, numbers)(*inputs)

        def tangent(*inputs: Tensor) -> Any:
            return func.jvp(case.function, inputs, inputs)[1]

        everything = (0,) * len(inputs)
        last = tuple(x.dim() for x in inputs)
        one_each = [tuple(0 if i == j else None for j in numbers) for i in numbers]
        for dims in {everything, last, *one_each}:
            mapped = tuple(
                x if d is None else torch.stack([(1 + 0.3 * i) * x for i in range(size)], d)
                for x, d in zip(inputs, dims, strict=True)
            )
            entries = [
                tuple(x if d is None else x.select(d, i) for x, d in zip(mapped, dims, strict=True))
                for i in range(size)
            ]
            for inner in (case.function, gradient, tangent):
                rows = [as_tuple(inner(*entry)) for entry in entries]
                expected = tuple(map(torch.stack, zip(*rows, strict=True)))
                assert_close(torch.vmap(inner, in_dims=dims)(*mapped), expected)

            def total(*mapped: Tensor, dims: Any = dims) -> Tensor:
                return torch.vmap(function, in_dims=dims)(*mapped).sum()

            def loop(*mapped: Tensor, dims: Any = dims) -> Tensor:
                pairs = list(zip(mapped, dims, strict=True))
                return sum(
                    function(*(x if d is None else x.select(d, i) for x, d in pairs))
                    for i in range(size)
                )

            assert_close(func.grad(total, numbers)(*mapped), func.grad(loop, numbers)(*mapped))
            directions = like(mapped)
            assert_close(
                func.jvp(total, mapped, directions)[1], func.jvp(loop, mapped, directions)[1]
            )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_tangents_keep_their_type(self, case: Case, dtype, device: torch.device) -> None:
        inputs = tuple(x.to(dtype) for x in inputs_of(case, device))
        tangents = tuple(x.to(dtype) for x in like(inputs))
        values, found = func.jvp(case.function, inputs, tangents)
        single = func.jvp(
            case.function,
            tuple(x.float() for x in inputs),
            tuple(t.float() for t in tangents),
        )[1]
        for y, t, expected in zip(*map(as_tuple, (values, found, single)), strict=True):
            # torch multiplies tangents of 0-dim tensors with numbers in float64.
            assert t.dtype == y.dtype or y.dim() == 0
            torch.testing.assert_close(t.float(), expected.float(), rtol=0.05, atol=0.05)

    def test_compiled(self, case: Case, device: torch.device, implementation: str) -> None:
        if case.function is overlap and implementation == "twin":
            pytest.skip("derivatives of the native op are those of the reference, long to trace")
        inputs = inputs_of(case, device)
        tangents = like(inputs)

        def tangent(*inputs: Tensor) -> Any:
            return func.jvp(case.function, inputs, tangents)[1]

        def gradient(*inputs: Tensor) -> Any:
            return func.grad(scalar(case))(*inputs)

        for function in (tangent, gradient):
            torch._dynamo.reset()
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            assert_close(compiled(*inputs), function(*inputs))


def test_indices_have_no_tangents(device: torch.device) -> None:
    inputs = boxes(random((6, 5), torch.float64, device)), torch.arange(6.0, device=device)
    expected = ops.nms_rotated(*inputs, 0.1)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, torch.ones_like(x)) for x in inputs]
        kept = ops.nms_rotated(*duals, 0.1)
        assert forward_ad.unpack_dual(kept).tangent is None
    assert torch.equal(kept, expected)


def test_numbers_of_images_are_checked_under_vmap(native: torch.device) -> None:
    if native.type != "cpu":
        pytest.skip("values are read on the CPU only")
    x, rois = random((1, 2, 4, 4)), torch.zeros(3, 2, 6)
    rois[2, 1, 0] = 1
    with pytest.raises(ValueError, match=r"boxes\[:, 0\] must be the number of an image"):
        torch.vmap(lambda rois: ops.roi_align_rotated(x, rois, 2, 1.0, 2))(rois)
    found = torch.vmap(lambda rois: ops.roi_align_rotated(x, rois, 2, 1.0, 2))(rois[:2] + 0.0)
    assert found.shape == (2, 2, 2, 2, 2)


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
def test_forward_mode_refuses_what_has_no_derivative(name: str) -> None:
    with forward_ad.dual_level(), pytest.raises(NotImplementedError):
        NOT_DIFFERENTIABLE[name]()


def test_dual_levels_in_compiled_code(native: torch.device) -> None:
    x, tangent = random((2, 4, 5, 3), device=native), random((2, 4, 5, 3), device=native)

    def function(x: Tensor, tangent: Tensor) -> Tensor:
        with forward_ad.dual_level():
            y = ops.heat_conduction(forward_ad.make_dual(x, tangent), 0.5)
            return forward_ad.unpack_dual(y).tangent

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x, tangent), ops.heat_conduction(tangent, 0.5), 1e-5)


def test_exported_programs_have_tangents(native: torch.device) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.heat_conduction(x, 0.5)

    x, tangent = random((2, 4, 5, 3), device=native), random((2, 4, 5, 3), device=native)
    module = torch.export.export(Module(), (x,)).module()
    assert_close(func.jvp(module, (x,), (tangent,))[1], ops.heat_conduction(tangent, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tangents_under_autocast(dtype: torch.dtype, native: torch.device) -> None:
    x, tangent = random((2, 4, 5, 3), device=native), random((2, 4, 5, 3), device=native)
    expected = ops.heat_conduction(tangent, 0.5)
    with torch.autocast(native.type, dtype):
        y, found = func.jvp(lambda x: ops.heat_conduction(x, 0.5), (x,), (tangent,))
    assert y.dtype == found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_backward_ops_without_derivatives_say_so(native: torch.device) -> None:
    if native.type != "cpu":
        pytest.skip("the fused steps have native ops on the CPU alone")
    x, weight = random((4, 3)), random((3,))

    def backward(x: Tensor) -> Tensor:
        op = torch.ops.rsvheat._gated_layer_norm_backward
        return op(x, x, x, weight, weight, 1e-5)[0]

    with pytest.raises(NotImplementedError, match="_gated_layer_norm_backward has no derivatives"):
        func.jvp(backward, (x,), (x,))
    with pytest.raises(NotImplementedError, match="_gated_layer_norm_backward has no derivatives"):
        func.grad(lambda x: backward(x).sum())(x)


def test_values_are_checked_under_vmap(device: torch.device) -> None:
    k = torch.tensor([1.0, -1.0], device=device)
    with pytest.raises(ValueError, match=r"got values from -1\.0 to 1\.0"):
        torch.vmap(lambda k: ops.heat_filter(k, 4, 5))(k)
    x = random((2, 1, 3, 4, 5), device=device)
    if device.type == "cpu":
        with pytest.raises(ValueError, match="radius must be finite and >= 0"):
            torch.vmap(ops.frequency_split)(x, k)
        angles = torch.tensor([[10.0, 20.0], [20.0, 10.0]])
        with pytest.raises(ValueError, match="angle_0 <= angle_1"):
            torch.vmap(lambda x, a: ops.frequency_split(x, 0.5, a))(x, angles)


def test_mapped_axes_have_entries(native: torch.device) -> None:
    with pytest.raises(ValueError, match="dct2d cannot be mapped over an axis of size 0"):
        torch.vmap(ops.dct2d)(torch.empty(0, 2, 3, 4, 5, device=native))


def test_split_of_samples_with_their_own_radii(native: torch.device) -> None:
    x, radii = random((3, 2, 2, 4, 5), device=native), torch.tensor([0.2, 0.5, 0.8], device=native)
    low, high = torch.vmap(ops.frequency_split)(x, radii)
    for i in range(3):
        assert_close((low[i], high[i]), ops.frequency_split(x[i], radii[i].item()), 1e-6)


def test_transforms_are_seen() -> None:
    seen = []
    x = torch.ones(2)
    assert not _checks.transforms_active()
    torch.vmap(lambda x: seen.append(_checks.transforms_active()) or x)(x)
    func.jvp(lambda x: seen.append(_checks.transforms_active()) or x, (x,), (x,))
    with forward_ad.dual_level():
        seen.append(_checks.transforms_active())
    assert seen == [True] * 3
    assert not _checks.transforms_active()


@pytest.mark.parametrize("training", [False, True])
def test_encoder(training: bool, one_thread: None) -> None:
    options = {"dims": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "img_size": 32, "num_classes": 3}
    models = [
        rsvheat.models.RSVHeat(**options, modalities={"optical": 3}).double().train(training)
        for _ in range(2)
    ]
    model, x = models[0], random((2, 3, 32, 32), torch.float64)
    weights = dict(model.named_parameters())
    tangents = {name: torch.randn_like(w) for name, w in weights.items()}

    def of_weights(weights: dict[str, Tensor], x: Tensor = x) -> Tensor:
        return func.functional_call(model, weights, (x,))

    step = 1e-8  # so small that no ReLU changes sides
    with torch.no_grad():
        model(x)  # what evaluation keeps must not take part in what follows
        above, below = (
            of_weights({name: w + sign * step * tangents[name] for name, w in weights.items()})
            for sign in (1, -1)
        )
        expected = (above - below) / (2 * step)
        found = func.jvp(of_weights, (weights,), (tangents,))[1]
        assert_close(found, expected, 1e-5)
        assert_close(func.jvp(model, (x,), (x,))[1], differences(model, (x,), (x,)), 1e-5)

    # Gradients of tangents, and tangents of gradients; torch's layer norm has the former wrong.
    def total(x: Tensor) -> Tensor:
        return model(x).square().sum()

    by_reverse = func.jvp(func.grad(total), (x,), (x,))[1]
    by_forward = func.grad(lambda y: func.jvp(total, (y,), (x,))[1])(x)
    assert_close(by_forward, by_reverse)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return of_weights(weights, image[None]).square().sum()

    by_sample = torch.vmap(func.grad(loss), in_dims=(None, 0))(weights, x)
    for i in range(2):
        alone = torch.autograd.grad(loss(weights, x[i]), list(weights.values()))
        for name, grad in zip(weights, alone, strict=True):
            assert_close(by_sample[name][i], grad)

    stacked = func.stack_module_state(models)
    together = torch.vmap(lambda *state: func.functional_call(model, state, (x,)))(*stacked)
    for y, alone in zip(together, models, strict=True):
        assert_close(y, alone(x))
