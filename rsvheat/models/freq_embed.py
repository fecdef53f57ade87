# SPDX-License-Identifier: Apache-2.0
"""Tables over frequency or space that follow the input's size, and a network in their place."""

import functools
import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from rsvheat.ops import _checks
from rsvheat.ops._backend import is_jit_tracing

FreqResize: TypeAlias = Literal["frequency", "bicubic", "bilinear", "pad"]

FREQ_RESIZES: tuple[str, ...] = get_args(FreqResize)


def check_freq_resize(mode: str) -> None:
    """Raise ValueError unless ``mode`` names a way of resizing."""
    if mode not in FREQ_RESIZES:
        raise ValueError(f"freq_resize must be one of {', '.join(FREQ_RESIZES)}, got {mode!r}")


def resize_frequencies(table: Tensor, height: int, width: int, mode: str = "frequency") -> Tensor:
    """Resample a table over DCT-II frequencies to the spectrum of another size.

    Row n of N stands for the frequency ``n * pi / N``. ``"frequency"`` evaluates the table at
    ``n' * pi / N'`` by cubic convolution, reflected at DC as spectra are and continued linearly by
    up to one bin at the other end: bin 0 stays exactly DC. The other modes treat the table as
    an image, which moves every bin, and are what published code does.

    Args:
        table: (H, W, C), floating point.
        height: H of the result.
        width: W of the result.
        mode: ``"frequency"``, ``"bicubic"`` or ``"bilinear"`` (both with ``align_corners=False``),
            or ``"pad"``: zeros appended, or rows and columns cut off, at the high frequencies.

    Returns:
        (height, width, C), of the dtype of ``table``; ``table`` itself if it has that size.

    Raises:
        ValueError: If ``mode`` is none of these.
    """
    check_freq_resize(mode)
    if table.shape[0] == height and table.shape[1] == width:
        return table
    if mode != "frequency":
        return _resize_image(table, height, width, mode)
    rows = _frequency_weights(table.shape[0], height, table)
    columns = _frequency_weights(table.shape[1], width, table)
    return torch.einsum("hn,wm,nmc->hwc", rows, columns, table)


def resize_map(table: Tensor, height: int, width: int, mode: str = "frequency") -> Tensor:
    """Resample a table over positions in space, as the spatial correction embeddings are.

    Args:
        table: (H, W, C), floating point.
        height: H of the result.
        width: W of the result.
        mode: As for ``resize_frequencies``, except that ``"frequency"``, which has no meaning
            in space, is ``"bicubic"`` here.

    Returns:
        (height, width, C), of the dtype of ``table``; ``table`` itself if it has that size.

    Raises:
        ValueError: If ``mode`` is none of these.
    """
    check_freq_resize(mode)
    if table.shape[0] == height and table.shape[1] == width:
        return table
    return _resize_image(table, height, width, "bicubic" if mode == "frequency" else mode)


def _resize_image(table: Tensor, height: int, width: int, mode: str) -> Tensor:
    if mode == "pad":
        return pad(table, (0, 0, 0, width - table.shape[1], 0, height - table.shape[0]))
    image = table.permute(2, 0, 1)[None]
    image = interpolate(image, (height, width), mode=mode, align_corners=False)
    return image[0].permute(1, 2, 0).contiguous()


def _frequency_weights(size: int, new_size: int, like: Tensor) -> Tensor:
    """Return the (new_size, size) matrix that evaluates ``size`` bins at those of ``new_size``."""
    # Tensors that a compiler, a tracer, a transform or a mode makes belong to its run.
    if (
        torch.compiler.is_compiling()
        or is_jit_tracing()
        or _checks.transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or type(like) not in (Tensor, nn.Parameter)
    ):
        return _evaluation_matrix(size, new_size).to(like.device, like.dtype)
    weights = _kept_evaluation_matrix(size, new_size, like.device, like.dtype)
    if weights.is_cuda:
        # Its memory is not given to others before this stream has used it.
        weights.record_stream(torch.cuda.current_stream(weights.device))
    return weights


@functools.lru_cache(maxsize=128)
def _kept_evaluation_matrix(
    size: int, new_size: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # Training must be able to save it for its backward pass.
    with torch.inference_mode(False):
        return _evaluation_matrix(size, new_size).to(device, dtype)


def _evaluation_matrix(size: int, new_size: int) -> Tensor:
    nodes = torch.arange(-2, size + 2, dtype=torch.float32, device="cpu")
    bins = torch.arange(new_size, dtype=torch.float32, device="cpu")
    distance = ((bins * (size / new_size))[:, None] - nodes).abs()
    # Cubic convolution with a = -1/2: exact for parabolas between the bins.
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights @ _continuation(size)


def _continuation(size: int) -> Tensor:
    """Return the (size + 4, size) matrix that continues ``size`` bins by two at either end."""
    matrix = torch.zeros(size + 4, size, device="cpu")
    last = size - 1
    for row, node in enumerate(range(-2, size + 2)):
        if node <= last:
            matrix[row, min(abs(node), last)] = 1
        else:
            matrix[row, last] += 1 + (node - last)
            matrix[row, max(last - 1, 0)] -= node - last
    return matrix


class FrequencyTable(nn.Module):
    """A learned frequency value embedding (FVE) per bin, resampled where the size differs.

    Args:
        height: H of the table.
        width: W of the table.
        channels: C.
        resize: How the table follows another size, see ``resize_frequencies``.
    """

    def __init__(self, height: int, width: int, channels: int, resize: str = "frequency") -> None:
        super().__init__()
        check_freq_resize(resize)
        self.resize = resize
        self.table = nn.Parameter(torch.empty(height, width, channels))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, height: int, width: int, scale: float = 1.0) -> Tensor:
        """Return the embedding of each frequency, (height, width, C).

        Args:
            height: H of the features.
            width: W of the features.
            scale: Not used: a table is tied to pixels.
        """
        return resize_frequencies(self.table, height, width, self.resize)

    def extra_repr(self) -> str:
        """Return size and resizing for ``repr``."""
        return f"{tuple(self.table.shape)}, resize={self.resize!r}"


class FrequencyNetwork(nn.Module):
    """A small network over (omega_h, omega_w, log ground sampling distance) instead of a table.

    It sees frequencies per meter, relative to the reference sampling distance, so that one scene
    at two resolutions has one diffusivity per meter. The log sampling distance starts with weight
    0: what depends on resolution beyond that is learned.

    Args:
        channels: C.
        hidden: Width of the two hidden layers.
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, channels)
        self.act = nn.GELU()
        self.reset_scale()

    def reset_scale(self) -> None:
        """Make the output independent of the log ground sampling distance."""
        nn.init.zeros_(self.fc1.weight[:, 2].detach())

    def forward(self, height: int, width: int, scale: float = 1.0) -> Tensor:
        """Return the embedding of each frequency, (height, width, C).

        Args:
            height: H of the features.
            width: W of the features.
            scale: Ground sampling distance over the reference one.
        """
        weight = self.fc1.weight
        rows = torch.arange(height, device=weight.device, dtype=weight.dtype)
        columns = torch.arange(width, device=weight.device, dtype=weight.dtype)
        # Compressed, because frequencies relative to the reference are not bounded by pi.
        omega_h = torch.log1p(rows * (math.pi / (height * scale)))[:, None].expand(height, width)
        omega_w = torch.log1p(columns * (math.pi / (width * scale))).expand(height, width)
        log_scale = torch.full_like(omega_h, math.log(scale))
        x = torch.stack((omega_h, omega_w, log_scale), dim=-1)
        y: Tensor = self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))
        return y


Embedding: TypeAlias = FrequencyTable | FrequencyNetwork
