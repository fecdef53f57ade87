# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the encoder. Features are (B, H, W, C) throughout."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, relu

from rsvheat.models._filter_cache import FilterCache
from rsvheat.models.freq_embed import Embedding, FrequencyNetwork, FrequencyTable
from rsvheat.ops import (
    _autocast,
    _checks,
    add_layer_norm,
    apply_heat_filter,
    gated_layer_norm,
    heat_conduction,
    heat_filter,
    spatial_correction_conv,
)
from rsvheat.ops._backend import is_jit_tracing, use_native
from rsvheat.ops.fingerprint import AVAILABLE, fingerprint, has_values
from rsvheat.ops.fused import add_layer_norm_into, overwrites
from rsvheat.ops.onednn import Conv2dNHWC, Linear
from rsvheat.ops.recomputed import gated_norm_linear, lowered_layer_norm, recomputed_mlp
from rsvheat.ops.reference import standardize

# As in the published encoders: the stem's norms differ from all others.
STEM_NORM_EPS = 1e-6
NORM_EPS = 1e-5

# Size of an MLP's hidden features in evaluation: a part of the last-level cache that is still large
# enough for products at full speed. On CUDA 16 MiB make four tiles or more of 128 x 128 elements
# for each multiprocessor.
HIDDEN_BYTES = {"cpu": 4 * 2**20, "cuda": 16 * 2**20}

# Size of the largest features that the stem takes at once in evaluation on CUDA, in float32.
STEM_BYTES = 16 * 2**20


def is_unchanged(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module is of the class the model was built with, and has no hooks.

    Fused operators replace the calls of such modules. Modules that a user has replaced or hooked
    are called.

    Args:
        module: Module of a model.
        kind: Class that it was built with.
    """
    return type(module) is kind and not (
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class LayerNorm(nn.LayerNorm):
    """A layer norm over the channels, whose tangents have the right gradients.

    torch's own, as of 2.15, gives the right tangents (forward mode) and the right gradients, and
    without a word wrong gradients of its tangents.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of ``x``.

        Args:
            x: Features, (..., C).
        """
        if not _checks.transforms_active():
            return super().forward(x)
        unit, _ = standardize(_autocast.to_float32(x), self.eps)
        if self.weight is not None:
            unit = unit * self.weight
        if self.bias is not None:
            unit = unit + self.bias
        return unit if _autocast.enabled(x) else unit.to(x.dtype)


def pool_features(features: Sequence[Tensor], *, deviation: bool = True) -> Tensor:
    """Describe images by the mean, and the deviation, of each channel over space.

    Args:
        features: Channels-last maps (N, H, W, C) of some stages.
        deviation: Whether standard deviations follow each stage's means.

    Returns:
        (N, D), float32 or float64; D is the sum of the channels, or twice that.
    """
    parts = []
    for maps in features:
        maps = maps if maps.dtype == torch.float64 else maps.float()
        variance, mean = torch.var_mean(maps, dim=(1, 2), correction=0)
        # The root of 0 has no derivative: maps of one position have no deviation.
        parts += [mean, (variance + 1e-6).sqrt()] if deviation else [mean]
    return torch.cat(parts, dim=1)


class DropPath(nn.Module):
    """Stochastic depth: in training, zero whole samples and scale up the others.

    timm and torchvision have the same layer, but importing either takes longer than torch, and
    their random numbers differ from those of runs that go on from a checkpoint.

    Args:
        rate: Probability that a sample is zeroed, from 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with samples dropped."""
        if not self.drops():
            return x
        return x * dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.rate)

    def drops(self) -> bool:
        """Return whether a call may drop anything."""
        return self.training and self.rate > 0

    def extra_repr(self) -> str:
        """Return the rate for ``repr``."""
        return f"{self.rate:g}"


class Stem(nn.Module):
    """Two convolutions of stride 2, each with a norm: an image to features at stride 4.

    Args:
        in_chans: Number of bands of the image.
        dim: Number of channels of the features, even.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv2dNHWC(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = LayerNorm(dim // 2, eps=STEM_NORM_EPS)
        self.act = nn.GELU()
        self.conv2 = Conv2dNHWC(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = LayerNorm(dim, eps=STEM_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, ceil(H / 4), ceil(W / 4), C), of images (B, H, W, bands).

        Under autocast they are of its type, as all features that blocks add to.
        """
        images, rows = self._at_once(x)
        height = _halved(_halved(x.shape[1]))
        if images >= x.shape[0] and rows >= height:
            return self._embed(x)
        features: Tensor | None = None
        for i, part in enumerate(torch.split(x, images)):
            for first in range(0, height, rows):
                y = self._embed_rows(part, first, min(first + rows, height))
                if features is None:
                    features = y.new_empty(x.shape[0], height, *y.shape[2:])
                features[i * images : i * images + len(part), first : first + rows] = y
        assert features is not None
        return features

    def _embed(self, x: Tensor) -> Tensor:
        x = self.act(_lowered_norm(self.norm1, self.conv1(x)))
        return _lowered_norm(self.norm2, self.conv2(x))

    def _embed_rows(self, x: Tensor, first: int, end: int) -> Tensor:
        """Return rows ``first`` to before ``end`` of the features of images.

        A convolution pads its input. Where that is no border of the image, the outermost row of the
        output is wrong, and left out.
        """
        middle = max(0, 2 * first - 2)
        top = max(0, 2 * middle - 2)
        rows = x[:, top : 2 * min(2 * end, _halved(x.shape[1]))]
        y = self.conv1(rows)[:, middle - top // 2 :]
        y = self.conv2(self.act(_lowered_norm(self.norm1, y)))[:, first - middle // 2 :]
        return _lowered_norm(self.norm2, y)

    def _at_once(self, x: Tensor) -> tuple[int, int]:
        """Return how many images, and of their features how many rows, are taken at a time.

        Modules with hooks get everything at once.
        """
        if (
            not x.is_cuda
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or is_jit_tracing()
            or not all(
                is_unchanged(module, kind)
                for module, kind in (
                    (self.conv1, Conv2dNHWC),
                    (self.norm1, LayerNorm),
                    (self.act, nn.GELU),
                    (self.conv2, Conv2dNHWC),
                    (self.norm2, LayerNorm),
                )
            )
        ):
            return x.shape[0], x.shape[1]
        # Two rows between the convolutions make one of the features.
        row = 2 * _halved(x.shape[2]) * self.conv1.out_channels * 4
        rows = max(1, STEM_BYTES // max(row, 1))
        return max(1, rows // max(_halved(_halved(x.shape[1])), 1)), rows


def _lowered_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Return the norm of features, under autocast in its type."""
    if (
        _recomputes(x)
        and isinstance(norm, LayerNorm)
        and _is_affine_norm(norm)
        and _autocast.enabled(x)
        and x.dtype == torch.get_autocast_dtype(x.device.type)
        and norm.weight.dtype == torch.float32
    ):
        return lowered_layer_norm(x, *_norm_parameters(norm))
    return _autocast.lowered(norm(x))


def _recomputes(x: Tensor) -> bool:
    """Return whether what lies between two layers is computed again in the backward pass."""
    return (
        x.is_cuda
        and torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or is_jit_tracing() or _checks.transforms_active())
    )


def _halved(size: int) -> int:
    """Return the size after a convolution of stride 2 that keeps every point's neighbors."""
    return -(-size // 2)


class Downsample(nn.Module):
    """A convolution of stride 2 and a norm between two stages.

    Args:
        dim: Number of input channels.
        out_dim: Number of output channels.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = Conv2dNHWC(dim, out_dim, 3, stride=2, padding=1, bias=False)
        self.norm = LayerNorm(out_dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, ceil(H / 2), ceil(W / 2), C'); under autocast of its type."""
        return _lowered_norm(self.norm, self.conv(x))


class Mlp(nn.Module):
    """Linear, GELU, Linear on the channels.

    Args:
        dim: Number of input and output channels.
        hidden: Number of hidden channels.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of ``x``, (..., C)."""
        if not _is_exact_gelu(self.act) or not is_unchanged(self.fc1, Linear):
            y: Tensor = self.fc2(self.act(self.fc1(x)))
        elif torch.is_grad_enabled() and not is_jit_tracing() and is_unchanged(self.fc2, Linear):
            dtype = self.fc1.type_on_gpu(x)
            biases = self.fc1.bias, self.fc2.bias
            if dtype is None or any(bias is None for bias in biases):
                y = self.fc2.of_gelu(self.fc1(x))
            else:
                layers = self.fc1.weight, biases[0], self.fc2.weight, biases[1]
                y = recomputed_mlp(x.to(dtype), *layers)
        else:
            y = self.fc2(self.fc1.slices(x, activation="gelu")[0])
        return y

    def prepared(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the MLP, its products prepared for parts of ``x`` where they can be.

        Args:
            x: Features, (..., C).
        """
        first = self.fc1.prepared(x, "gelu") if _is_exact_gelu(self.act) else None
        if first is None:
            return self
        second = self.fc2.prepared(first(x.view(-1, x.shape[-1])[:1]))
        return self if second is None else lambda part: second(first(part))


def _is_exact_gelu(act: nn.Module) -> bool:
    return is_unchanged(act, nn.GELU) and act.approximate == "none"


def _is_affine_norm(norm: nn.Module) -> bool:
    return is_unchanged(norm, LayerNorm) and norm.weight is not None and norm.bias is not None


def _norm_parameters(norm: LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


class HeatConduction(nn.Module):
    """Heat conduction of features, whose diffusivity k is predicted from a frequency embedding.

    A module of its own, so that ``register_forward_hook`` shows what is conducted. It has no
    parameters: the layer that predicts k is the operator's, under the name that checkpoints have.

    Args:
        cache: Cache of the filters that evaluation keeps, shared by the blocks of a model.
    """

    def __init__(self, cache: FilterCache) -> None:
        super().__init__()
        self.cache = cache

    def train(self, mode: bool = True) -> "HeatConduction":
        """Set the mode; training frees the filters kept for evaluation."""
        if mode:
            self.cache.drop(id(self))
        return super().train(mode)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self.cache.drop(id(self))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, freq_embed: Embedding, to_k: nn.Linear, scale: float) -> Tensor:
        """Return features of the shape of ``x``.

        Args:
            x: Features, (B, H, W, C).
            freq_embed: Frequency embedding of the stage.
            to_k: Layer that predicts k from the embedding.
            scale: Ground sampling distance over the reference one.
        """
        height, width = x.shape[1], x.shape[2]
        sources = (*freq_embed.parameters(), *to_k.parameters())
        if not (self._may_cache(x, sources) and _depends_on_parameters(freq_embed, to_k)):
            return heat_conduction(x, predict_diffusivity(freq_embed, to_k, height, width, scale))
        # k depends on how a table is resized, which users may switch on a built model.
        resize = freq_embed.resize if isinstance(freq_embed, FrequencyTable) else None
        key = (id(self), height, width, scale, resize)
        made_of = self.cache.check(sources, fingerprint)
        kept = self.cache.get(key, made_of)
        if kept is None:
            # Outside inference mode: its tensors could not take part in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                k = predict_diffusivity(freq_embed, to_k, height, width, scale)
                kept = heat_filter(k, height, width)
            self.cache.put(key, made_of, kept)
        return apply_heat_filter(x, kept)

    def _may_cache(self, x: Tensor, sources: tuple[Tensor, ...]) -> bool:
        if self.training or not AVAILABLE or not has_values((x, *sources)):
            return False
        recorded = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if recorded:
            self.cache.drop(id(self))  # the next step changes the weights
        return not recorded


def _depends_on_parameters(freq_embed: Embedding, to_k: nn.Linear) -> bool:
    """Return whether k follows from parameters alone: not from hooks, masks or other modules."""
    parts = [module for module in freq_embed.modules() if module is not freq_embed]
    return (
        is_unchanged(to_k, Linear)
        and (is_unchanged(freq_embed, FrequencyTable) or is_unchanged(freq_embed, FrequencyNetwork))
        and all(is_unchanged(part, nn.Linear) or _is_exact_gelu(part) for part in parts)
    )


def predict_diffusivity(
    freq_embed: Embedding, to_k: nn.Linear, height: int, width: int, scale: float = 1.0
) -> Tensor:
    """Return k in pixel**2 of the features, (height, width, C), float32 or float64.

    Args:
        freq_embed: Frequency embedding of the stage.
        to_k: Layer that predicts k from the embedding.
        height: H of the features.
        width: W of the features.
        scale: Ground sampling distance over the reference one: k in pixels shrinks by its square.
    """
    weight = to_k.weight
    # float32 also under autocast: half types would move k by up to half a percent.
    with _autocast.disabled(weight):
        embedding = freq_embed(height, width, scale)
        if weight.dtype in (torch.float32, torch.float64):
            k = relu(to_k(embedding))
        else:
            k = relu(linear(embedding.float(), weight.float(), to_k.bias.float()))
        return k if scale == 1.0 else k / scale**2


class HeatOperator(nn.Module):
    """Gated heat conduction with a spatial correction, between two linear layers.

    Args:
        dim: Number of channels.
        spatial_correction: Whether features are first corrected by an embedding of their position.
        cache: Cache of the filters that evaluation keeps, shared by the blocks of a model.

    Source: vHeat (arXiv 2405.16555), heat conduction operator; RS-vHeat (arXiv 2411.17984), spatial
    correction embeddings.
    """

    def __init__(self, dim: int, spatial_correction: bool, cache: FilterCache) -> None:
        super().__init__()
        self.correction_norm = LayerNorm(dim, eps=NORM_EPS) if spatial_correction else None
        self.dwconv = Conv2dNHWC(dim, dim, 3, padding=1, groups=dim)
        self.linear = Linear(dim, 2 * dim)
        self.to_k = Linear(dim, dim)
        self.conduction = HeatConduction(cache)
        self.out_norm = LayerNorm(dim, eps=NORM_EPS)
        self.act = nn.SiLU()
        self.out_linear = Linear(dim, dim)

    def diffusivity(
        self, freq_embed: Embedding, height: int, width: int, scale: float = 1.0
    ) -> Tensor:
        """Return k as ``predict_diffusivity`` does.

        Args:
            freq_embed: Frequency embedding of the stage.
            height: H of the features.
            width: W of the features.
            scale: Ground sampling distance over the reference one.
        """
        return predict_diffusivity(freq_embed, self.to_k, height, width, scale)

    def forward(
        self,
        x: Tensor,
        freq_embed: Embedding,
        spatial_correction_embed: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Return features of the shape of ``x``.

        Args:
            x: Features, (B, H, W, C).
            freq_embed: The stage's frequency embedding.
            spatial_correction_embed: (H, W, C), if the operator has a spatial correction.
            scale: Ground sampling distance over the reference one.
        """
        x = self._correct(x, spatial_correction_embed)
        if is_unchanged(self.linear, Linear):
            x, gate = self.linear.slices(x, 2)
        else:
            x, gate = self.linear(x).chunk(2, dim=-1)
        x = self.conduction(x, freq_embed, self.to_k, scale)
        if _is_affine_norm(self.out_norm) and is_unchanged(self.act, nn.SiLU):
            weight, bias, eps = _norm_parameters(self.out_norm)
            last = self.out_linear
            if (
                _recomputes(x)
                and is_unchanged(last, Linear)
                and last.bias is not None
                and last.type_on_gpu(x) == x.dtype == gate.dtype
                and use_native(x)
            ):
                weight, bias = _checks.channel_parameters(x, weight=weight, bias=bias)
                return gated_norm_linear(x, gate, weight, bias, last.weight, last.bias, eps)
            x = gated_layer_norm(x, gate, weight, bias, eps)
        else:
            x = self.out_norm(x) * self.act(gate)
        y: Tensor = self.out_linear(x)
        return y

    def _correct(self, x: Tensor, embed: Tensor | None) -> Tensor:
        norm, conv = self.correction_norm, self.dwconv
        y: Tensor
        if norm is None or embed is None:
            y = conv(x)
        elif _is_affine_norm(norm) and is_unchanged(conv, Conv2dNHWC) and conv.bias is not None:
            weight, bias, eps = _norm_parameters(norm)
            y = spatial_correction_conv(x, embed, weight, bias, conv.weight, conv.bias, eps)
        else:
            y = conv(norm(relu(x + embed)))
        return y


class HeatBlock(nn.Module):
    """Heat operator and MLP, each with a norm, a residual connection and stochastic depth.

    Args:
        dim: Number of channels.
        norm_position: Position of the norms: ``"post"`` norms the output of the operator and of the
            MLP, ``"pre"`` their input.
        layer_scale: First value of the factors on the residual branches; None for no factors.
        spatial_correction: Whether features are first corrected by an embedding of their position.
        mlp_ratio: Ratio of hidden channels to channels of the MLP.
        drop_path: Rate of stochastic depth.
        cache: Cache of the filters that evaluation keeps, shared by the blocks of a model.
    """

    def __init__(
        self,
        dim: int,
        norm_position: str,
        layer_scale: float | None,
        spatial_correction: bool,
        mlp_ratio: float,
        drop_path: float,
        cache: FilterCache,
    ) -> None:
        super().__init__()
        self.norm_position = norm_position
        self.norm1 = LayerNorm(dim, eps=NORM_EPS)
        self.op = HeatOperator(dim, spatial_correction, cache)
        self.norm2 = LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma1, self.gamma2 = None, None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(
        self,
        x: Tensor,
        freq_embed: Embedding,
        spatial_correction_embed: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Return features of the shape of ``x``; arguments as for ``HeatOperator``."""
        context = (freq_embed, spatial_correction_embed, scale)
        if self.norm_position == "pre":
            x = self._add(x, self.op(self.norm1(x), *context), self.gamma1)
        else:
            x = self._add_normed(x, self.op(x, *context), self.norm1, self.gamma1)
        rows = self._mlp_rows(x)
        if rows is None:
            return self._add_mlp(x)
        mlp = self.mlp.prepared(x)
        norm = None
        if self.norm_position == "post" and _is_affine_norm(self.norm2) and overwrites(x):
            norm = self._scaled_norm(self.norm2, self.gamma2)
        for part in torch.split(x.view(-1, x.shape[-1]), rows):
            if norm is None:
                part.copy_(self._add_mlp(part, mlp))
            else:
                add_layer_norm_into(part, mlp(part), *norm)
        return x

    def _add_mlp(self, x: Tensor, mlp: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        mlp = self.mlp if mlp is None else mlp
        if self.norm_position == "pre":
            return self._add(x, mlp(self.norm2(x)), self.gamma2)
        return self._add_normed(x, mlp(x), self.norm2, self.gamma2)

    def _mlp_rows(self, x: Tensor) -> int | None:
        """Return the number of pixels that the MLP takes at a time; None for all at once.

        In evaluation on the CPU and on CUDA the hidden features of a part, which are the largest
        tensor, fit the cache, and ``x`` is overwritten part by part. Modules that a user has
        replaced or hooked get all pixels at once.
        """
        hidden_bytes = HIDDEN_BYTES.get(x.device.type)
        if (
            hidden_bytes is None
            or torch.is_grad_enabled()
            or self.drop_path.drops()
            or torch.compiler.is_compiling()
            or is_jit_tracing()
            or not x.is_contiguous()
        ):
            return None
        mlp = self.mlp
        if not (
            is_unchanged(mlp, Mlp)
            and is_unchanged(mlp.fc1, Linear)
            and is_unchanged(mlp.act, nn.GELU)
            and is_unchanged(mlp.fc2, Linear)
            and is_unchanged(self.norm2, LayerNorm)
        ):
            return None
        pixel = mlp.fc1.out_features * x.element_size()
        if x.numel() // x.shape[-1] * pixel <= 2 * hidden_bytes:
            return None
        return hidden_bytes // pixel

    def _add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        branch = self.drop_path(branch)
        return x + branch if gamma is None else x + branch * gamma

    def _add_normed(
        self, x: Tensor, branch: Tensor, norm: LayerNorm, gamma: Tensor | None
    ) -> Tensor:
        if self.drop_path.drops() or not _is_affine_norm(norm):
            return self._add(x, norm(branch), gamma)
        return add_layer_norm(x, branch, *self._scaled_norm(norm, gamma))

    @staticmethod
    def _scaled_norm(norm: LayerNorm, gamma: Tensor | None) -> tuple[Tensor, Tensor, float]:
        weight, bias, eps = _norm_parameters(norm)
        if gamma is not None:
            weight, bias = weight * gamma, bias * gamma
        return weight, bias, eps
