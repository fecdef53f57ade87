# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark: each operator, its peers, and the floor.

A row turns a problem into a case: a function and its inputs, in the memory layout that suits the
row best. What depends on sizes alone (matrices, masks, compiled code) is prepared outside the
timing, for every row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import rsvheat.ops
from rsvheat.ops import reference


@dataclass(frozen=True)
class Problem:
    """What is computed, where, and by how many threads."""

    op: str
    shape: tuple[int, int, int, int]
    """(B, H, W, C) for heat_conduction, (B, C, H, W) for frequency_split."""
    dtype: torch.dtype
    device: str
    threads: int

    def inputs(self) -> tuple[Tensor, ...]:
        """Return the operator's arguments, the same in every process."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.shape, generator=generator).to(self.device, self.dtype)
        if self.op == "heat_conduction":
            k = 2 * torch.rand(self.shape[1:], generator=generator)
            return x, k.to(self.device)
        batch = self.shape[0]
        radius = torch.linspace(0.1, 0.6, batch, dtype=torch.float64)
        angles = torch.tensor([0.0, 90.0], dtype=torch.float64).repeat(batch, 1)
        angles[::2] = torch.tensor([10.0, 70.0], dtype=torch.float64)
        return x, radius.to(self.device), angles.to(self.device)


@dataclass(frozen=True)
class Case:
    """One row's way to solve a problem."""

    forward: Callable[..., Any]
    inputs: tuple[Any, ...]
    """Arguments of ``forward``; where they are tensors, also what is differentiated."""
    to_op_layout: Callable[[Any], Any] = lambda result: result
    """Turns the result into the operator's own layout, to compare values; not timed."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    prepare: Callable[..., Case]
    """Takes a problem and its inputs."""
    package: str | None = None
    differentiable: bool = True
    compiled: bool = False
    half: bool = True
    """Whether it runs in bfloat16 and float16."""
    devices: tuple[str, ...] = ("cpu", "cuda")

    def unavailable(self, problem: Problem) -> str | None:
        """Return why the row cannot run here, or None."""
        if problem.device not in self.devices:
            return f"does not run on {problem.device}"
        if self.package is not None and find_spec(self.package) is None:
            return f"{self.package.replace('_', '-')} is not installed: pip install -e '.[bench]'"
        if not self.half and problem.dtype in (torch.bfloat16, torch.float16):
            return f"has no {str(problem.dtype).removeprefix('torch.')}"
        return None


def dct_matrix(n: int, like: Tensor) -> Tensor:
    """Return the orthonormal DCT-II matrix, (n, n), in the type and on the device of ``like``."""
    frequency = torch.arange(n, dtype=torch.float64)[:, None]
    position = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * frequency * (position + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like.device, like.dtype)


def _to_nhwc(y: Tensor) -> Tensor:
    return y.permute(0, 2, 3, 1)


def _to_nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def _prepared_filter(x: Tensor, k: Tensor) -> Tensor:
    return rsvheat.ops.heat_filter(k, x.shape[1], x.shape[2]).to(x.dtype)


# heat_conduction. The peers from matmul on are given the prepared filter, which spares them the
# exponentials that the operator and its twins compute from k in each call.


def _floor(problem: Problem, x: Tensor, k: Tensor) -> Case:
    y = torch.ones_like(x)  # written once here, so that its pages exist
    return Case(lambda x, w: torch.mul(x, w, out=y), (x, k.to(x.dtype)))


def _operator(problem: Problem, x: Tensor, k: Tensor) -> Case:
    return Case(rsvheat.ops.heat_conduction, (x, k))


def _operator_prepared(problem: Problem, x: Tensor, k: Tensor) -> Case:
    return Case(rsvheat.ops.apply_heat_filter, (x, rsvheat.ops.heat_filter(k, *x.shape[1:3])))


def _twin(problem: Problem, x: Tensor, k: Tensor) -> Case:
    return Case(reference.heat_conduction, (x, k))


def _compiled_twin(problem: Problem, x: Tensor, k: Tensor) -> Case:
    return Case(torch.compile(reference.heat_conduction, dynamic=False, fullgraph=True), (x, k))


def _matmul(problem: Problem, x: Tensor, k: Tensor) -> Case:
    """Two batched matrix products an axis, forward and inverse, in NHWC."""
    b, h, w, c = x.shape
    rows = dct_matrix(h, x).expand(b, h, h)
    columns = dct_matrix(w, x).expand(b * h, w, w)

    def forward(x: Tensor, gain: Tensor) -> Tensor:
        y = torch.bmm(rows, x.view(b, h, w * c)).view(b * h, w, c)
        y = torch.bmm(columns, y).view(b, h, w, c) * gain
        y = torch.bmm(columns.mT, y.view(b * h, w, c)).view(b, h, w * c)
        return torch.bmm(rows.mT, y).view(b, h, w, c)

    return Case(forward, (x, _prepared_filter(x, k)))


def _conv1d(problem: Problem, x: Tensor, k: Tensor) -> Case:
    """Kernels of width 1 over flattened lines, whose weights are the cosine maps.

    The features come as NCHW and leave as NCHW, copied to NHWC for the operator and back.
    """
    b, h, w, c = x.shape
    rows, columns = dct_matrix(h, x), dct_matrix(w, x)
    weights = [m.contiguous()[..., None] for m in (rows, columns, rows.T, columns.T)]

    def transform(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        y = functional.conv1d(x.view(b, h, w * c), rows)
        return functional.conv1d(y.view(b * h, w, c), columns).view(b, h, w, c)

    def forward(x: Tensor, gain: Tensor) -> Tensor:
        y = transform(x.permute(0, 2, 3, 1).contiguous(), *weights[:2]) * gain
        return transform(y, *weights[2:]).permute(0, 3, 1, 2).contiguous()

    return Case(forward, (_to_nchw(x), _prepared_filter(x, k)), _to_nhwc)


def _scipy(problem: Problem, x: Tensor, k: Tensor) -> Case:
    from scipy.fft import dctn, idctn

    options: dict[str, Any] = {"axes": (1, 2), "norm": "ortho", "workers": problem.threads}

    def forward(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        spectrum = dctn(x, **options)
        spectrum *= gain
        return idctn(spectrum, overwrite_x=True, **options)

    return Case(forward, (x.numpy(), _prepared_filter(x, k).numpy()), torch.from_numpy)


def _ducc0(problem: Problem, x: Tensor, k: Tensor) -> Case:
    from ducc0.fft import dct

    options: dict[str, Any] = {"axes": (1, 2), "inorm": 1, "nthreads": problem.threads}

    def forward(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        spectrum = dct(x, 2, **options)
        spectrum *= gain
        return dct(spectrum, 3, out=spectrum, **options)

    return Case(forward, (x.numpy(), _prepared_filter(x, k).numpy()), torch.from_numpy)


def _torch_dct(problem: Problem, x: Tensor, k: Tensor) -> Case:
    """FFTs of torch (cuFFT on a GPU); features and filter given as NCHW, which suits it."""
    from torch_dct import dct_2d, idct_2d

    def forward(x: Tensor, gain: Tensor) -> Tensor:
        return idct_2d(dct_2d(x, norm="ortho") * gain, norm="ortho")

    gain = _prepared_filter(x, k).permute(2, 0, 1).contiguous()
    return Case(forward, (_to_nchw(x), gain), _to_nhwc)


# frequency_split


def _split_floor(problem: Problem, x: Tensor, radius: Tensor, angles: Tensor) -> Case:
    y, w = torch.ones_like(x), torch.rand_like(x[0])
    return Case(lambda x, w: torch.mul(x, w, out=y), (x, w))


def _split(problem: Problem, x: Tensor, radius: Tensor, angles: Tensor) -> Case:
    return Case(lambda x: rsvheat.ops.frequency_split(x, radius, angles), (x,))


def _split_twin(problem: Problem, x: Tensor, radius: Tensor, angles: Tensor) -> Case:
    return Case(lambda x: reference.frequency_split(x, radius, angles), (x,))


def _split_torch_dct(problem: Problem, x: Tensor, radius: Tensor, angles: Tensor) -> Case:
    """Transform, mask, and one inverse transform a band; the masks are prepared."""
    from torch_dct import dct_2d, idct_2d

    low = reference.sector_mask(radius, angles, *x.shape[2:])[:, None].to(x)
    high = 1 - low

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = dct_2d(x, norm="ortho")
        return idct_2d(spectrum * low, norm="ortho"), idct_2d(spectrum * high, norm="ortho")

    return Case(forward, (x,))


ROWS = {
    "heat_conduction": (
        Row("floor", _floor, differentiable=False),
        Row("rsvheat", _operator),
        Row("rsvheat-prepared", _operator_prepared),
        Row("twin", _twin),
        Row("matmul", _matmul),
        Row("conv1d", _conv1d),
        Row("scipy", _scipy, "scipy", differentiable=False, half=False, devices=("cpu",)),
        Row("ducc0", _ducc0, "ducc0", differentiable=False, half=False, devices=("cpu",)),
        Row("torch-dct", _torch_dct, "torch_dct", half=False),
        Row("compiled-twin", _compiled_twin, compiled=True),
    ),
    "frequency_split": (
        Row("floor", _split_floor, differentiable=False),
        Row("rsvheat", _split),
        Row("twin", _split_twin),
        Row("torch-dct", _split_torch_dct, "torch_dct", half=False),
    ),
}

_IMAGES = ((8, 3, 224, 224), (8, 3, 448, 448))

SHAPES = {
    ("heat_conduction", "cpu"): (
        (8, 56, 56, 128),
        (8, 28, 28, 256),
        (8, 14, 14, 512),
        (8, 7, 7, 1024),
        (1, 128, 128, 256),
        (1, 256, 256, 128),
        (1, 64, 64, 512),
        (1, 32, 32, 1024),
        (1, 200, 200, 128),
        (1, 100, 100, 256),
        (1, 50, 50, 512),
        (1, 25, 25, 1024),
        (2, 120, 200, 128),
        (1, 448, 448, 64),
        (1, 512, 512, 64),
        (1, 1024, 1024, 32),
        (1, 2048, 2048, 16),
    ),
    ("heat_conduction", "cuda"): (
        (64, 56, 56, 128),
        (64, 28, 28, 256),
        (64, 14, 14, 512),
        (8, 256, 256, 128),
        (8, 128, 128, 256),
        (8, 64, 64, 512),
    ),
    ("frequency_split", "cpu"): _IMAGES,
    ("frequency_split", "cuda"): _IMAGES,
}


def truth(problem: Problem) -> tuple[np.ndarray, ...]:
    """Return the operator's result in float64, transformed by SciPy."""
    from scipy.fft import dctn, idctn

    x, *rest = (t.cpu().double() for t in problem.inputs())
    options: dict[str, Any] = {"norm": "ortho", "workers": problem.threads}
    if problem.op == "heat_conduction":
        _, h, w, _ = problem.shape
        omega_h = np.arange(h)[:, None, None] * (math.pi / h)
        omega_w = np.arange(w)[:, None] * (math.pi / w)
        gain = np.exp(-rest[0].numpy() * (omega_h**2 + omega_w**2))
        return (idctn(dctn(x.numpy(), axes=(1, 2), **options) * gain, axes=(1, 2), **options),)
    mask = reference.sector_mask(rest[0], rest[1], *problem.shape[2:]).numpy()
    spectrum = dctn(x.numpy(), axes=(2, 3), **options) * mask[:, None]
    low = idctn(spectrum, axes=(2, 3), **options)
    return low, x.numpy() - low
