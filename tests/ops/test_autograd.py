# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from utils import diffusivity, random

from rsvheat import ops

SHAPES = [(2, 4, 5, 3), (1, 1, 6, 2), (2, 7, 1, 1), (3, 3, 3, 2), (1, 1, 1, 1)]
K_SHAPES = [(4, 5, 3), (1, 1, 3), (3,), (), (4, 5, 1), (5, 1)]


def leaf(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return random(shape, torch.float64, device).requires_grad_()


def k_leaf(shape: tuple[int, ...], device: torch.device) -> Tensor:
    # Away from 0, where finite differences would step to a negative k.
    return (0.1 + diffusivity(shape, torch.float64, device)).requires_grad_()


def check(function, *inputs: Tensor) -> None:
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.usefixtures("implementation", "one_thread")
class TestGradients:
    @pytest.mark.parametrize("layout", ["nchw", "nhwc"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_transforms(self, shape, layout: str, device: torch.device) -> None:
        check(lambda x: ops.dct2d(x, layout), leaf(shape, device))
        check(lambda x: ops.idct2d(x, layout), leaf(shape, device))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_heat_conduction(self, shape, device: torch.device) -> None:
        check(ops.heat_conduction, leaf(shape, device), k_leaf(shape[1:], device))

    @pytest.mark.parametrize("k_shape", K_SHAPES)
    def test_heat_conduction_with_broadcast_k(self, k_shape, device: torch.device) -> None:
        check(ops.heat_conduction, leaf((2, 4, 5, 3), device), k_leaf(k_shape, device))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_apply_heat_filter(self, shape, device: torch.device) -> None:
        check(ops.apply_heat_filter, leaf(shape, device), leaf(shape[1:], device))

    @pytest.mark.parametrize("k_shape", K_SHAPES)
    def test_prepared_filter(self, k_shape, device: torch.device) -> None:
        def prepared(x: Tensor, k: Tensor) -> Tensor:
            return ops.apply_heat_filter(x, ops.heat_filter(k, 4, 5))

        check(prepared, leaf((2, 4, 5, 3), device), k_leaf(k_shape, device))

    def test_frozen_x_or_frozen_k(self, device: torch.device) -> None:
        x, k = leaf((2, 4, 5, 3), device), k_leaf((4, 5, 3), device)
        for function in (ops.heat_conduction, ops.apply_heat_filter):
            check(lambda x, f=function: f(x, k.detach()), x)
            check(lambda k, f=function: f(x.detach(), k), k)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_frequency_split(self, shape, device: torch.device) -> None:
        x = leaf(shape, device)
        check(lambda x: ops.frequency_split(x, 0.5, (10, 60)), x)
        check(lambda x: ops.frequency_split(x, 0.5, (10, 60))[0], x)
        check(lambda x: ops.frequency_split(x, 0.5, (10, 60))[1], x)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_spectral_l1_loss(self, shape, reduction: str, device: torch.device) -> None:
        pred, target = leaf(shape, device), leaf(shape, device)
        check(lambda p, t: ops.spectral_l1_loss(p, t, reduction), pred, target)
        check(lambda p: ops.spectral_l1_loss(p, target.detach(), reduction), pred)
        check(lambda t: ops.spectral_l1_loss(pred.detach(), t, reduction), target)

    def test_multi_domain_loss(self, device: torch.device) -> None:
        inputs = [leaf((2, 3, 4, 5), device) for _ in range(2)]
        features = [leaf((2, 6, 3, 2), device) for _ in range(2)]
        # All four outputs at once: the total and its parts.
        check(lambda *a: ops.multi_domain_loss(*a, weights=(1, 0.5, 2)), *inputs, *features)

    def test_gradients_of_any_stride(self, device: torch.device) -> None:
        def from_strange_gradients(function, *inputs: Tensor) -> None:
            outputs = function(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for output in outputs:
                for grad in (
                    torch.ones((), dtype=output.dtype, device=device).expand_as(output),
                    random(output.shape[::-1], output.dtype, device).permute(3, 2, 1, 0),
                    random((*output.shape[:3], 2 * output.shape[3]), output.dtype, device)[
                        ..., ::2
                    ],
                ):
                    strange = torch.autograd.grad(output, inputs, grad, retain_graph=True)
                    plain = torch.autograd.grad(
                        output, inputs, grad.contiguous(), retain_graph=True
                    )
                    for a, b in zip(strange, plain, strict=True):
                        torch.testing.assert_close(a, b)

        x, k = leaf((2, 4, 5, 3), device), k_leaf((4, 5, 3), device)
        from_strange_gradients(ops.dct2d, x)
        from_strange_gradients(lambda x: ops.idct2d(x, "nhwc"), x)
        from_strange_gradients(ops.heat_conduction, x, k)
        from_strange_gradients(ops.apply_heat_filter, x, k)
        from_strange_gradients(lambda x: ops.frequency_split(x, 0.4), x)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_gradients_keep_their_types(self, dtype: torch.dtype, device) -> None:
        x = random((2, 8, 6, 4), dtype, device).requires_grad_()
        k = diffusivity((4,), torch.float32, device).requires_grad_()
        grad_x, grad_k = torch.autograd.grad(
            ops.heat_conduction(x, k).sum(), (x, k), create_graph=True
        )
        assert grad_x.dtype == dtype
        assert grad_k.dtype == torch.float32
        twice = torch.autograd.grad(grad_x.float().square().sum() + grad_k.sum(), (x, k))
        assert twice[0].dtype == dtype
        assert twice[1].dtype == torch.float32
        pred = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(ops.multi_domain_loss(pred, 2 * x.detach()).total, pred)
        assert grad.dtype == dtype

    def test_half_diffusivity_gets_its_gradient(self, device: torch.device) -> None:
        x = random((2, 8, 6, 4), torch.float32, device)
        k = diffusivity((4,), torch.bfloat16, device).requires_grad_()
        (grad,) = torch.autograd.grad(ops.heat_conduction(x, k).square().sum(), k)
        assert grad.dtype == torch.bfloat16
        assert (grad < 0).all()

    def test_float64_features_take_float32_k(self, device: torch.device) -> None:
        x = leaf((1, 4, 4, 2), device)
        k = diffusivity((2,), torch.float32, device).requires_grad_()
        y = ops.heat_conduction(x, k)
        grads = torch.autograd.grad(y.sum(), (x, k))
        assert y.dtype == grads[0].dtype == torch.float64
        assert grads[1].dtype == torch.float32


def saved_by(function, *inputs: Tensor) -> list[Tensor]:
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function(*inputs)
    return saved


def storages(tensors: list[Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors}


def test_heat_conduction_saves_x_and_k_alone(native: torch.device) -> None:
    x = random((2, 8, 8, 4), device=native).requires_grad_()
    k = diffusivity((4,), device=native).requires_grad_()
    assert storages(saved_by(ops.heat_conduction, x, k)) == storages([x, k])
    # For grad_x alone k is enough.
    assert storages(saved_by(ops.heat_conduction, x, k.detach())) == storages([k])


def test_transforms_and_split_save_no_images(native: torch.device) -> None:
    x = random((2, 8, 8, 4), device=native).requires_grad_()
    assert saved_by(ops.dct2d, x) == []
    assert saved_by(ops.idct2d, x) == []
    saved = saved_by(lambda x: ops.frequency_split(x, 0.4), x)
    assert sum(t.numel() for t in saved) == 2 + 4  # radius and angles


def test_losses_share_one_transform(native: torch.device) -> None:
    pred = random((2, 3, 8, 8), device=native).requires_grad_()
    target = random((2, 3, 8, 8), device=native)
    calls: list[tuple[str, tuple[object, ...]]] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "rsvheat":
                calls.append((func._opname, args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        loss = ops.multi_domain_loss(pred, target)
    assert [name for name, _ in calls] == ["spectral_l1"]
    assert calls[0][1][2] is True
    with Recorder():
        loss.total.backward()
    assert len(calls) == 1  # the gradient came with the forward pass
    with Recorder(), torch.no_grad():
        ops.spectral_l1_loss(pred, target)
    assert calls[1][1][2] is False  # and is not computed when nobody wants it


def op_samples(device: torch.device) -> list[tuple[str, tuple[object, ...]]]:
    def x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return random(shape, dtype, device)

    k = diffusivity((4, 5, 3), device=device)
    radius = torch.tensor([0.3, 0.6], dtype=torch.float64, device=device)
    angles = torch.tensor([[0, 90], [20, 60]], dtype=torch.float64, device=device)
    nhwc, bf16 = x(2, 4, 5, 3), x(2, 4, 5, 3, dtype=torch.bfloat16)
    samples: list[tuple[str, tuple[object, ...]]] = []
    for name in ("dct2d", "idct2d"):
        samples += [(name, (nhwc, True)), (name, (nhwc, False)), (name, (bf16, True))]
        samples += [(name, (x(0, 4, 5, 3), True)), (name, (x(2, 1, 7, 0), True))]
    for name in ("heat_conduction", "apply_heat_filter"):
        samples += [(name, (nhwc, k)), (name, (bf16, k)), (name, (nhwc.double(), k.double()))]
        samples += [(name, (nhwc, k[:1, :1].expand(4, 5, 3)))]
    for name in ("_heat_conduction_backward", "_apply_heat_filter_backward"):
        for needs in ((True, True), (True, False), (False, True)):
            samples += [(name, (x(2, 4, 5, 3), nhwc, k, *needs))]
    samples += [("frequency_split", (nhwc, radius, angles))]
    samples += [("frequency_split", (bf16, radius, angles))]
    for with_grad in (True, False):
        samples += [("spectral_l1", (nhwc, x(2, 4, 5, 3), with_grad))]
    samples += [("spectral_l1", (bf16, bf16.flip(1), True))]
    return samples


SAMPLE_IDS = [f"{i}-{name}" for i, (name, _) in enumerate(op_samples(torch.device("cpu")))]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)
def test_opcheck(index: int, requires_grad: bool, native: torch.device) -> None:
    name, args = op_samples(native)[index]
    if requires_grad:
        args = tuple(
            arg.clone(memory_format=torch.preserve_format).requires_grad_()
            if isinstance(arg, Tensor) and name != "frequency_split"
            else arg
            for arg in args
        )
        if name == "frequency_split":
            args = (args[0].clone().requires_grad_(), *args[1:])
    torch.library.opcheck(getattr(torch.ops.rsvheat, name).default, args)


def test_spectral_op_finds_its_gradient_later_if_nobody_asked_before(native: torch.device) -> None:
    pred = random((2, 3, 4, 5), device=native).requires_grad_()
    target = random((2, 3, 4, 5), device=native)
    for weights in ((0, 1), (1, 0.5)):
        grads = []
        for with_grad in (True, False):
            sums = torch.ops.rsvheat.spectral_l1(pred, target, with_grad)[:2]
            loss = sum(weight * total for weight, total in zip(weights, sums, strict=True))
            grads += torch.autograd.grad(loss, pred)
        torch.testing.assert_close(*grads)
