# SPDX-License-Identifier: Apache-2.0
"""Attaches the formulas of ``rsvheat.ops._derivatives`` to the native ops.

``torch.library.register_autograd`` knows reverse mode alone: it gives zero for forward-mode
derivatives, and an error under ``torch.func.grad``. Each op therefore has a kernel of its own for
the dispatch key Autograd. As with torch's own ops, a call of that kernel belongs to one level of
nested transforms, and its redispatch reaches the next level. A ``torch.autograd.Function`` would
go through all levels by itself; hence the base class that stays at one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import _C
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from rsvheat.ops import _derivatives

# Keeps the registrations alive.
_library: torch.library.Library | None = None


def register() -> None:
    """Attach the derivatives to the native ops."""
    global _library
    _library = torch.library.Library("rsvheat", "IMPL")  # type: ignore[no-untyped-call]
    for name, formulas in _derivatives.FORMULAS.items():
        kernel = _kernel(getattr(torch.ops.rsvheat, name).default, formulas)
        _library.impl(name, kernel, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]


class _Call(NamedTuple):
    """Circumstances of an op's call, apart from its arguments.

    Attributes:
        keyset: Dispatch keys of the call.
        transformed: Whether it runs under a transform of ``torch.func``.
        grad: Whether reverse mode was enabled.
        forward_grad: Whether forward mode was enabled.
    """

    keyset: Any
    transformed: bool
    grad: bool
    forward_grad: bool


def _kernel(op: Any, formulas: _derivatives.Formulas) -> Callable[..., Any]:
    """Return the kernel of ``op`` for the dispatch key Autograd."""

    def below(keyset: Any, args: tuple[Any, ...]) -> Any:
        with _C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & _C._after_autograd_keyset, *args)

    # The arguments of the op are followed by a _Call.
    def forward(*args: Any) -> Any:
        *args, call = args  # type: ignore[assignment]
        if not call.transformed:
            return below(call.keyset, args)
        # Here both modes are off, for this level; outer levels need them.
        with (
            torch.set_grad_enabled(call.grad),
            forward_ad._set_fwd_grad_enabled(call.forward_grad),
        ):
            return below(call.keyset, args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        formulas.setup(ctx, inputs[:-1], output)

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        return *formulas.backward(ctx, *grads), None

    def jvp(ctx: Any, *tangents: Any) -> Any:
        # The tensors of the outer levels may have tangents, those of this level must have none.
        # forward_ad.unpack_dual looks for a level that a compiled graph does not tell it of.
        saved = [
            None if t is None else torch._VF._unpack_dual(t, level=0)[0] for t in ctx.saved_tensors
        ]
        with forward_ad._set_fwd_grad_enabled(True):
            return formulas.jvp(ctx, saved, *tangents[:-1])

    # torch.autograd.Function has it; torch's compiler of backward passes asks for it.
    def _compiled_autograd_key(ctx: Any) -> tuple[Any, ...]:
        return (ctx._autograd_function_id,)

    members = (forward, setup_context, backward, jvp, _compiled_autograd_key)
    function = type(
        f"rsvheat_{op._opname}",
        (_SingleLevelFunction,),
        {member.__name__: staticmethod(member) for member in members},
    )

    def kernel(keyset: Any, *args: Any) -> Any:
        grad = torch.is_grad_enabled()
        if _C._are_functorch_transforms_active():
            call = _Call(keyset, True, grad, _C._is_fwd_grad_enabled())
            with enable_single_level_autograd_function():
                return function.apply(*args, call)  # type: ignore[attr-defined]
        if (grad and _C._any_requires_grad(*args)) or forward_ad._current_level >= 0:
            return function.apply(*args, _Call(keyset, False, grad, True))  # type: ignore[attr-defined]
        return below(keyset, args)

    return kernel
