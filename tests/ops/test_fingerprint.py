# SPDX-License-Identifier: Apache-2.0
"""Fingerprints change with every element, and are there only for tensors with values."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from utils import random

from rsvheat.ops import fingerprint as fingerprints
from rsvheat.ops.fingerprint import fingerprint, has_values

pytestmark = pytest.mark.skipif(not fingerprints.AVAILABLE, reason="nothing was built")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8], ids=str
)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (67, 33), (7, 3, 3, 3), ()])
def test_every_element_counts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (random(shape) * 50).to(dtype)
    seen = {fingerprint(x)}
    assert fingerprint(x.clone()) in seen
    for i in range(x.numel()):
        changed = x.clone()
        changed.view(-1)[i] += 1
        seen.add(fingerprint(changed))
    assert len(seen) == x.numel() + 1


def test_shape_type_and_order_count() -> None:
    x = random((4, 6, 2, 2))
    seen = {
        fingerprint(x),
        fingerprint(x.view(6, 4, 2, 2)),
        fingerprint(x.view(torch.int32)),
        fingerprint(x.to(memory_format=torch.channels_last)),
        fingerprint(x.flip(0)),
        fingerprint(-x),
        fingerprint(x.roll(1)),
    }
    assert len(seen) == 7


def test_tensors_of_any_strides() -> None:
    x = random((12, 10))
    for view in (x[::2], x[:, 3:7], x.t(), x[:1].expand(5, 10), x[:, :1], x[:0], x.t()[::3]):
        assert fingerprint(view)[0] == fingerprint(view)[0]
        before = fingerprint(view)
        if view.numel():
            view.data[(0,) * view.dim()] += 1
            assert fingerprint(view) != before
    # What lies between the elements of a view does not count.
    before = fingerprint(x[::2])
    x[1] += 1
    assert fingerprint(x[::2]) == before


def test_threads_do_not_count() -> None:
    x = random((1024, 700))
    expected = fingerprint(x)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert fingerprint(x) == expected


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_parameters_in_every_mode(context: type) -> None:
    weight = nn.Parameter(random((5, 4)))
    expected = fingerprint(weight)
    with context():
        assert has_values((weight, None))
        assert fingerprint(weight) == expected
        weight.data.add_(1)
        assert fingerprint(weight) != expected


def test_tensors_without_values() -> None:
    assert has_values(())
    assert not has_values((torch.empty(2, device="meta"),))
    assert not has_values((random((2, 2)).to_sparse(),))
    with FakeTensorMode():
        assert not has_values((torch.empty(2),))

    class Subclass(Tensor):
        pass

    assert not has_values((random((2,)).as_subclass(Subclass),))
    inside = []
    torch.func.vmap(lambda x: inside.append(has_values((x,))) or x)(random((2, 2)))
    torch.func.grad(lambda x: inside.append(has_values((x,))) or x.sum())(random((2,)))
    with forward_ad.dual_level():
        inside.append(has_values((random((2,)),)))
    assert inside == [False, False, False]
