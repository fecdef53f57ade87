# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of weights: values computed of weights may be kept while these are the same.

autograd's version counters do not see every write: ``p.data.mul_()``, ``p.detach().numpy()[:] = 0``
and fused optimizers leave them as they are. So the memory itself is read before kept values are
used, by a kernel that runs at the speed of memory.

Only weights in the CPU's memory have a fingerprint. Reading one of a GPU's would make the CPU wait
for the GPU, which costs more than what is kept, and is not allowed while a CUDA graph is captured;
and a graph that holds kept values instead of their computation would never see new weights.
"""

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor, nn

from rsvheat import _library
from rsvheat.ops import _checks
from rsvheat.ops._backend import is_jit_tracing

# The kernel is one of the compiled operators.
AVAILABLE = _library.native_available() and hasattr(torch.ops.rsvheat, "_fingerprint")


def has_values(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether tensors hold values in the CPU's memory that a call may read.

    False while a compiler, a tracer or a transform of ``torch.func`` runs the program with other
    values in their place.

    Args:
        tensors: Operands of a call; None for those that it is without.
    """
    return not (
        torch.compiler.is_compiling() or is_jit_tracing() or _checks.transforms_active()
    ) and all(
        tensor is None
        or (
            type(tensor) in (Tensor, nn.Parameter)
            and tensor.device.type == "cpu"
            and tensor.layout is torch.strided
            and not torch._is_functional_tensor(tensor)
        )
        for tensor in tensors
    )


def fingerprint(tensor: Tensor) -> Hashable:
    """Return a value that changes with every element of a tensor, its type, shape and strides.

    Tensors that differ have the same value with a chance of 2^-32 at most, and never if they
    differ in one element of 32 bits or fewer.

    Args:
        tensor: Tensor for which ``has_values`` is true.
    """
    number: int = torch.ops.rsvheat._fingerprint.default(tensor)
    return number, tensor.dtype, tensor.shape, tensor.stride()
