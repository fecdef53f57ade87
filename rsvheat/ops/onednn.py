# SPDX-License-Identifier: Apache-2.0
"""Linear layers and convolutions on the CPU, by oneDNN.

In float32 torch multiplies matrices with MKL, which reaches less than half of an AMD CPU's peak;
oneDNN, which is part of every torch for x86, gets near the peak on CPUs of any make. It also fuses
an activation into the product, and takes weights in a blocked layout that can be prepared once.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from rsvheat.ops import _autocast, _checks
from rsvheat.ops._backend import is_jit_tracing
from rsvheat.ops.fingerprint import AVAILABLE, fingerprint, has_values


class _Operators(NamedTuple):
    linear: Callable[..., Tensor]
    pack_linear: Callable[..., Tensor]
    conv: Callable[..., Tensor]
    pack_conv: Callable[..., Tensor]


def _operators() -> _Operators | None:
    """Return oneDNN's operators, which torch's compiler uses, or None where torch lacks them."""
    if not torch._C._has_mkldnn:
        return None
    ops = torch.ops.mkldnn
    try:
        return _Operators(
            ops._linear_pointwise.default,
            ops._reorder_linear_weight.default,
            ops._convolution_pointwise.default,
            ops._reorder_convolution_weight.default,
        )
    except AttributeError:
        return None


_OPERATORS = _operators()


def _lowered_linear() -> Callable[..., Tensor] | None:
    """Return the product of bfloat16 with float32 weights, or None where oneDNN's is to be used.

    CPUs with matrix units (AMX) multiply bfloat16 several times as fast by oneDNN.
    """
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if not AVAILABLE or not hasattr(torch.ops.rsvheat, "_lowered_linear") or has_tiles():
        return None
    return cast(Callable[..., Tensor], torch.ops.rsvheat._lowered_linear.default)


_LOWERED_LINEAR = _lowered_linear()
LOWERED_BLOCK = 32  # its channels are multiples of it
_DTYPES: tuple[torch.dtype, ...] = (torch.float32,)

# Rows of a product from which a linear layer keeps its weight packed. To see whether the weight is
# still the one that was packed takes as long as reading it: with more rows less than a hundredth of
# the product, with fewer as long as oneDNN takes to rearrange the weight within the product. Under
# autocast the weight is rounded within the product, too, where the CPU multiplies bfloat16: to
# round it for oneDNN, once or at each call, takes longer.
PACKED_ROWS = 1025
# Size of a convolution's weight from which it is kept packed for any number of rows: each call
# would bring it into its layout, and a weight that exceeds L2 takes longer to copy than to check.
PACKED_BYTES = 1 << 21
if _OPERATORS is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _DTYPES += (torch.bfloat16,)


class _Packed(NamedTuple):
    """A weight in oneDNN's layout, in slices of its rows, and what it was made of."""

    key: tuple[Hashable, ...]
    weights: list[Tensor]

    # A copy of a model packs its own weights.
    def __deepcopy__(self, memo: dict[int, Any]) -> "_Packed":
        return _NOTHING

    def __reduce__(self) -> tuple[type["_Packed"], tuple[Any, ...]]:
        return _Packed, ((), [])


_NOTHING = _Packed((), [])


class _PackedModule(nn.Module):
    """A layer that keeps its weight packed in evaluation, where no gradient is wanted.

    The copy takes as much memory again as the weight, half of that in bfloat16. It is used while
    the weight's fingerprint is the one it was made of, so that every write to the weight counts.
    ``train()``, a move and a pass that records gradients free the copy.
    """

    weight: Tensor
    bias: Any  # a parameter or None
    _packed = _NOTHING

    def train(self, mode: bool = True) -> "_PackedModule":
        """Set the mode; training frees the packed weight."""
        if mode:
            self._packed = _NOTHING
        return super().train(mode)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._packed = _NOTHING
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _fits(self, x: Tensor) -> bool:
        raise NotImplementedError

    def _type(self, x: Tensor) -> torch.dtype | None:
        """Return the type to compute in if oneDNN may serve the call, else None."""
        if (
            _OPERATORS is None
            or not has_values((x, self.weight, self.bias))
            or not torch.backends.mkldnn.enabled
            or not self._fits(x)
            or x.numel() == 0
        ):
            return None
        if not _autocast.enabled(x):
            return x.dtype if x.dtype in _DTYPES and x.dtype == self.weight.dtype else None
        dtype = torch.get_autocast_dtype("cpu")
        if dtype not in _DTYPES or x.dtype not in _DTYPES or self.weight.dtype not in _DTYPES:
            return None
        return dtype

    def _records_nothing(self, x: Tensor) -> bool:
        """Return whether a call that oneDNN may serve is one of evaluation without gradients."""
        if self.training or not AVAILABLE:
            return False
        recorded = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, self.weight, self.bias)
        )
        if recorded:
            self._packed = _NOTHING  # the next step changes the weight
        return not recorded

    def _pack(
        self, dtype: torch.dtype, pack: Callable[[Tensor], Tensor], slices: int = 1
    ) -> list[Tensor]:
        """Return the slices of the weight in oneDNN's layout and a type."""
        key = (dtype, slices, fingerprint(self.weight))
        packed = self._packed
        if packed.key != key:
            # Outside of inference mode: its tensors could not take part in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                weights = [pack(weight.to(dtype)) for weight in self.weight.chunk(slices)]
            # One assignment: threads that share the model each see a whole one.
            packed = self._packed = _Packed(key, weights)
        return packed.weights

    def _biases(self, slices: int) -> list[Tensor | None]:
        return [None] * slices if self.bias is None else list(self.bias.chunk(slices))


class Linear(_PackedModule, nn.Linear):
    """``nn.Linear`` that multiplies with oneDNN on the CPU.

    Products of few rows use the weight as it is, where they can: see ``PACKED_ROWS``.
    """

    def _fits(self, x: Tensor) -> bool:
        return x.dim() > 1 and x.shape[-1] == self.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features) of ``x``, (..., in_features)."""
        return self.slices(x)[0]

    def slices(self, x: Tensor, count: int = 1, activation: str = "none") -> list[Tensor]:
        """Return the output in equal slices of its channels, each contiguous.

        Args:
            x: Features, (..., in_features).
            count: Number of slices.
            activation: Activation, ``"none"`` or ``"gelu"``; fused where no gradient is wanted.
        """
        dtype = self._type(x)
        if dtype is not None and self._records_nothing(x):
            weights = self._prepare(x, dtype, count)
            biases = self._biases(count)
            lowered = x.to(dtype)
            return [
                _product(lowered, weight, bias, activation)
                for weight, bias in zip(weights, biases, strict=True)
            ]
        if dtype is not None:
            outputs = list(_Products.apply(x.to(dtype), self.weight, self.bias, count, False))
        else:
            slices = zip(self.weight.chunk(count), self._biases(count), strict=True)
            outputs = [linear(x, *one) for one in slices]
        return [gelu(y) for y in outputs] if activation == "gelu" else outputs

    def prepared(self, x: Tensor, activation: str = "none") -> Callable[[Tensor], Tensor] | None:
        """Return the layer as it is now, as a function of parts of its input.

        The weight is read once for all parts, not for each to see whether it is still the same.

        Args:
            x: Features of the type and the channels of the parts, (..., in_features).
            activation: Activation, ``"none"`` or ``"gelu"``.

        Returns:
            The function, or None where the layer is to be called for each part.
        """
        dtype = self._type(x)
        if dtype is None or not self._records_nothing(x):
            return None
        (weight,) = self._prepare(x, dtype)
        return lambda part: _product(part.to(dtype), weight, self.bias, activation)

    def _prepare(self, x: Tensor, dtype: torch.dtype, count: int = 1) -> Sequence[Tensor]:
        """Return the slices of the weight, packed where that is worth it."""
        assert _OPERATORS is not None
        rows = x.numel() // self.in_features
        worth = rows >= PACKED_ROWS or dtype != self.weight.dtype
        if worth and not self._is_lowered(rows, dtype, count):
            return self._pack(dtype, _OPERATORS.pack_linear, count)
        return self.weight.chunk(count)

    def type_on_gpu(self, x: Tensor) -> torch.dtype | None:
        """Return the type in which torch multiplies on a GPU, None where nothing is recomputed."""
        if (
            not (x.is_cuda and self.weight.is_cuda)
            or torch.compiler.is_compiling()
            or is_jit_tracing()
            or _checks.transforms_active()
            or not self._fits(x)
        ):
            return None
        if not _autocast.enabled(x):
            return x.dtype if x.dtype == self.weight.dtype else None
        lowered = torch.get_autocast_dtype(x.device.type)
        narrow = (torch.float32, lowered)
        return lowered if x.dtype in narrow and self.weight.dtype in narrow else None

    def _is_lowered(self, rows: int, dtype: torch.dtype, count: int) -> bool:
        """Return whether a float32 weight is rounded within the product."""
        return (
            _LOWERED_LINEAR is not None
            and rows < PACKED_ROWS
            and dtype == torch.bfloat16
            and all(t is None or t.dtype == torch.float32 for t in (self.weight, self.bias))
            and self.in_features % LOWERED_BLOCK == 0
            and self.out_features % (count * LOWERED_BLOCK) == 0
            and bool(torch.ops.rsvheat._lowered_linear_available.default())
        )

    def of_gelu(self, x: Tensor) -> Tensor:
        """Return ``forward`` of the GELU of ``x``.

        Only ``x`` is saved for the backward pass, which recomputes the GELU to save memory: its
        output is as large as ``x``, the largest tensor that a block saves.

        Args:
            x: Features before the GELU, (..., in_features).
        """
        dtype = None
        if torch.is_grad_enabled():
            dtype = self._type(x) or self.type_on_gpu(x)
        if dtype is None or self._records_nothing(x):
            return self.forward(gelu(x))
        (y,) = _Products.apply(x.to(dtype), self.weight, self.bias, 1, True)
        return cast(Tensor, y)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    if _OPERATORS is None or x.device.type != "cpu":
        y = linear(x, weight, None if bias is None else bias.to(x.dtype))
        return gelu(y) if activation == "gelu" else y
    if weight.dtype != x.dtype:
        assert _LOWERED_LINEAR is not None
        return _LOWERED_LINEAR(x, weight, bias, activation == "gelu")
    algorithm = "none" if activation == "gelu" else ""  # not the approximation by tanh
    bias = None if bias is None else bias.to(x.dtype)
    return _OPERATORS.linear(x, weight, bias, activation, [], algorithm)


class _Products(torch.autograd.Function):
    """A Linear layer in slices of its channels, of ``x`` or of its GELU, which is not saved."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, count: int, of_gelu: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, weight)
        ctx.count, ctx.of_gelu = count, of_gelu
        weights = weight.to(x.dtype).chunk(count)
        biases = [None] * count if bias is None else bias.chunk(count)
        x = gelu(x) if of_gelu else x
        return tuple(_product(x, *one) for one in zip(weights, biases, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Tangents of the cotangents would be lost in oneDNN's products, which know none.
        if torch.is_grad_enabled() or _checks.transforms_active():
            return _differentiable_gradients(ctx, grads)
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        flat_grads = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        # First, so that the GELU is gone before the gradient of x, which is as large, is there.
        if need_weight:
            flat = (gelu(x) if ctx.of_gelu else x).reshape(-1, x.shape[-1])
            grad_weight = torch.empty_like(weight)
            for grad, one in zip(flat_grads, grad_weight.chunk(ctx.count), strict=True):
                one.copy_(_transposed_product(grad, flat))
            del flat
        if need_x:
            weights = weight.to(x.dtype).chunk(ctx.count)
            grad_x = _product(grads[0], weights[0].t())
            for grad, one in zip(grads[1:], weights[1:], strict=True):
                grad_x += _product(grad, one.t())
            if ctx.of_gelu:
                torch.ops.aten.gelu_backward.grad_input(grad_x, x, grad_input=grad_x)
        if need_bias:
            grad_bias = torch.cat([grad.sum(0) for grad in flat_grads])
        return grad_x, grad_weight, grad_bias, None, None


def _differentiable_gradients(ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradients by torch's products, since oneDNN's cannot be differentiated again."""
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad = torch.cat(grads, dim=-1)
    flat = grad.reshape(-1, grad.shape[-1])
    grad_x = grad_weight = grad_bias = None
    if need_x:
        grad_x = grad @ weight.to(x.dtype)
        if ctx.of_gelu:
            grad_x = torch.ops.aten.gelu_backward(grad_x, x)
    if need_weight:
        grad_weight = flat.t() @ (gelu(x) if ctx.of_gelu else x).reshape(-1, x.shape[-1])
    if need_bias:
        grad_bias = flat.sum(0)
    return grad_x, grad_weight, grad_bias, None, None


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a.T @ b`` of matrices with many rows."""
    if a.dtype != torch.float32:
        return a.t() @ b  # oneDNN's too
    # oneDNN copies the first operand to transpose it, so that is the smaller one.
    if a.shape[1] <= b.shape[1]:
        return _product(a.t(), b.t())
    return _product(b.t(), a.t()).t()


class Conv2dNHWC(_PackedModule, nn.Conv2d):
    """A 2-D convolution of NHWC features, (B, H, W, C) -> (B, H', W', C').

    oneDNN's kernels for channels-last tensors read and write this layout without copies. Small
    weights are used as they are where the output has few pixels: see ``PACKED_BYTES``.
    """

    def _fits(self, x: Tensor) -> bool:
        return x.dim() == 4 and x.shape[1] == self.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, (B, H, W, C)."""
        # Copying an image of another layout is cheap; features already have this one.
        x = x.contiguous().permute(0, 3, 1, 2)
        dtype = self._type(x)
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if dtype is None or not plain or self.groups > 1 or not self._records_nothing(x):
            return super().forward(x).permute(0, 2, 3, 1)
        rows = x.shape[0] * x.shape[2] * x.shape[3] // math.prod(self.stride)
        small = rows < PACKED_ROWS and self.weight.nbytes < PACKED_BYTES
        if small and dtype == self.weight.dtype:
            return super().forward(x).permute(0, 2, 3, 1)
        assert _OPERATORS is not None
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        pack = _OPERATORS.pack_conv
        (weight,) = self._pack(dtype, lambda w: pack(w, *geometry, x.shape))
        bias = None if self.bias is None else self.bias.to(dtype)
        y = _OPERATORS.conv(x.to(dtype), weight, bias, *geometry, "none", [], "")
        return y.permute(0, 2, 3, 1)
