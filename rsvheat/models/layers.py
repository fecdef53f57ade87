# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the encoder. Features are (B, H, W, C) throughout."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, relu

from rsvheat.models._filter_cache import FilterCache
from rsvheat.models.freq_embed import FrequencyNetwork, FrequencyTable
from rsvheat.ops import _autocast, _checks, apply_heat_filter, heat_conduction, heat_filter

# As in the published encoders: the stem's norms differ from all others.
STEM_NORM_EPS = 1e-6
NORM_EPS = 1e-5


class Conv2dNHWC(nn.Conv2d):
    """A 2-D convolution of NHWC features, (B, H, W, C) -> (B, H', W', C').

    The kernels of torch for channels-last tensors read and write this layout; nothing is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Stochastic depth: in training, zero whole samples and scale up the others.

    Args:
        rate: Probability of zeroing, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with samples dropped."""
        if not self.training or self.rate == 0:
            return x
        return x * dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.rate)

    def extra_repr(self) -> str:
        """Return the rate for ``repr``."""
        return f"{self.rate:g}"


class Stem(nn.Module):
    """Two convolutions of stride 2, each with a norm: an image to features at stride 4.

    Args:
        in_chans: Bands of the image.
        dim: Channels of the features, even.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv2dNHWC(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim // 2, eps=STEM_NORM_EPS)
        self.act = nn.GELU()
        self.conv2 = Conv2dNHWC(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(dim, eps=STEM_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, ceil(H / 4), ceil(W / 4), C), of images (B, H, W, bands)."""
        y: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return y


class Downsample(nn.Module):
    """A convolution of stride 2 and a norm between two stages.

    Args:
        dim: Channels that come in.
        out_dim: Channels that go out.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = Conv2dNHWC(dim, out_dim, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, ceil(H / 2), ceil(W / 2), C')."""
        y: Tensor = self.norm(self.conv(x))
        return y


class Mlp(nn.Module):
    """Linear, GELU, Linear on the channels.

    Args:
        dim: Channels in and out.
        hidden: Channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of ``x``, (..., C)."""
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class HeatOperator(nn.Module):
    """Gated heat conduction whose diffusivity k is predicted from a frequency embedding.

    Args:
        dim: Channels.
        spatial_correction: Whether features are corrected by an embedding of their position first.
        cache: Where evaluation keeps filters, shared by the blocks of a model.

    Source: vHeat (arXiv 2405.16555), heat conduction operator; RS-vHeat (arXiv 2411.17984), spatial
    correction embeddings.
    """

    def __init__(self, dim: int, spatial_correction: bool, cache: FilterCache) -> None:
        super().__init__()
        self.correction_norm = nn.LayerNorm(dim, eps=NORM_EPS) if spatial_correction else None
        self.dwconv = Conv2dNHWC(dim, dim, 3, padding=1, groups=dim)
        self.linear = nn.Linear(dim, 2 * dim)
        self.to_k = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.act = nn.SiLU()
        self.out_linear = nn.Linear(dim, dim)
        self.cache = cache

    def train(self, mode: bool = True) -> "HeatOperator":
        """Set the mode; training drops the filters kept for evaluation."""
        if mode:
            self.cache.drop(id(self))
        return super().train(mode)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # A move or a change of dtype may restore both address and version with other values.
        self.cache.drop(id(self))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def diffusivity(
        self,
        freq_embed: FrequencyTable | FrequencyNetwork,
        height: int,
        width: int,
        scale: float = 1.0,
    ) -> Tensor:
        """Return k in pixel**2 of the features, (height, width, C), float32 or float64.

        Args:
            freq_embed: The stage's frequency embedding.
            height: H of the features.
            width: W of the features.
            scale: Ground sampling distance over the reference one: k in pixels shrinks by its
                square.
        """
        weight = self.to_k.weight
        # float32 also under autocast: half types would move k by up to half a percent.
        with _autocast.disabled(weight):
            embedding = freq_embed(height, width, scale)
            if weight.dtype == torch.float64:
                k = relu(self.to_k(embedding))
            else:
                bias = self.to_k.bias
                k = relu(linear(embedding.float(), weight.float(), bias.float()))
            return k if scale == 1.0 else k / scale**2

    def _conduct(
        self, x: Tensor, freq_embed: FrequencyTable | FrequencyNetwork, scale: float
    ) -> Tensor:
        height, width = x.shape[1], x.shape[2]
        sources = (*freq_embed.parameters(), *self.to_k.parameters())
        if not self._may_cache(x, sources):
            return heat_conduction(x, self.diffusivity(freq_embed, height, width, scale))
        # k depends on how a table is resized, which users may switch on a built model.
        resize = freq_embed.resize if isinstance(freq_embed, FrequencyTable) else None
        key = (id(self), height, width, scale, resize, x.device)
        kept = self.cache.get(key, sources)
        if kept is None:
            # Outside inference mode: its tensors could not take part in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                k = self.diffusivity(freq_embed, height, width, scale)
                kept = heat_filter(k, height, width)
            self.cache.put(key, sources, kept)
        return apply_heat_filter(x, kept)

    def _may_cache(self, x: Tensor, sources: tuple[Tensor, ...]) -> bool:
        if self.training or torch.compiler.is_compiling():
            return False
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return False
        # Inference tensors have no versions, and what is made of fake ones is fake.
        if any(source.is_inference() for source in sources):
            return False
        return not any(_checks.is_fake(tensor) for tensor in (x, *sources))

    def forward(
        self,
        x: Tensor,
        freq_embed: FrequencyTable | FrequencyNetwork,
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
        if self.correction_norm is not None and spatial_correction_embed is not None:
            x = self.correction_norm(relu(x + spatial_correction_embed))
        x, gate = self.linear(self.dwconv(x)).chunk(2, dim=-1)
        x = self.out_norm(self._conduct(x, freq_embed, scale))
        y: Tensor = self.out_linear(x * self.act(gate))
        return y


class HeatBlock(nn.Module):
    """Heat operator and MLP, each with a norm, a residual connection and stochastic depth.

    Args:
        dim: Channels.
        norm_position: ``"post"`` norms what the operator or MLP returns, ``"pre"`` what goes in.
        layer_scale: First value of the factors on the residual branches; None for no factors.
        spatial_correction: As for :class:`HeatOperator`.
        mlp_ratio: Hidden channels of the MLP per channel.
        drop_path: Rate of stochastic depth.
        cache: As for :class:`HeatOperator`.
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
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.op = HeatOperator(dim, spatial_correction, cache)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma1, self.gamma2 = None, None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(
        self,
        x: Tensor,
        freq_embed: FrequencyTable | FrequencyNetwork,
        spatial_correction_embed: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Return features of the shape of ``x``; arguments as for :class:`HeatOperator`."""
        context = (freq_embed, spatial_correction_embed, scale)
        if self.norm_position == "pre":
            x = self._add(x, self.op(self.norm1(x), *context), self.gamma1)
            return self._add(x, self.mlp(self.norm2(x)), self.gamma2)
        x = self._add(x, self.norm1(self.op(x, *context)), self.gamma1)
        return self._add(x, self.norm2(self.mlp(x)), self.gamma2)

    def _add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        branch = self.drop_path(branch)
        return x + branch if gamma is None else x + branch * gamma
