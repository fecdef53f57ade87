# SPDX-License-Identifier: Apache-2.0
"""The RS-vHeat and vHeat encoder: four stages of heat conduction for images of any size."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from rsvheat.models._filter_cache import FilterCache
from rsvheat.models.freq_embed import (
    Embedding,
    FreqResize,
    FrequencyNetwork,
    FrequencyTable,
    check_freq_resize,
    resize_map,
)
from rsvheat.models.layers import (
    NORM_EPS,
    Downsample,
    HeatBlock,
    LayerNorm,
    Stem,
    is_unchanged,
    pool_features,
)
from rsvheat.models.load_report import LoadReport
from rsvheat.models.parameter_groups import parameter_groups
from rsvheat.ops._backend import is_jit_tracing

NormPosition: TypeAlias = Literal["post", "pre"]
FreqEmbed: TypeAlias = Literal["table", "implicit"]

DEFAULT_MODALITIES = {"optical": 3, "sar": 1}


class Stage(nn.Module):
    """Blocks of one resolution, with the downsampling that leads there and their embeddings.

    Args:
        in_dim: Channels of the stage before; None for the first.
        dim: Channels.
        size: (H, W) of the tables.
        drop_path: Rate of stochastic depth of each block.
        norm_position: Position of the norms, as for ``RSVHeat``.
        layer_scale: First value of the layer scales, as for ``RSVHeat``.
        spatial_correction: Whether positions have embeddings, as for ``RSVHeat``.
        freq_embed: Kind of the frequency embedding, as for ``RSVHeat``.
        freq_resize: Resampling of the tables, as for ``RSVHeat``.
        mlp_ratio: Ratio of hidden channels to channels of the MLPs.
        cache: Cache of the filters that evaluation keeps.
    """

    def __init__(
        self,
        in_dim: int | None,
        dim: int,
        size: tuple[int, int],
        drop_path: Sequence[float],
        *,
        norm_position: str,
        layer_scale: float | None,
        spatial_correction: bool,
        freq_embed: str,
        freq_resize: str,
        mlp_ratio: float,
        cache: FilterCache,
    ) -> None:
        super().__init__()
        self.freq_resize, self.cache = freq_resize, cache
        self.grad_checkpointing = False
        self.downsample = None if in_dim is None else Downsample(in_dim, dim)
        self.freq_embed: Embedding
        if freq_embed == "table":
            self.freq_embed = FrequencyTable(*size, dim, freq_resize)
        else:
            self.freq_embed = FrequencyNetwork(dim)
        self.spatial_correction_embed: nn.Parameter | None = None
        if spatial_correction:
            self.spatial_correction_embed = nn.Parameter(torch.empty(*size, dim))
            nn.init.trunc_normal_(self.spatial_correction_embed, std=0.02)
        self.blocks = nn.ModuleList(
            HeatBlock(dim, norm_position, layer_scale, spatial_correction, mlp_ratio, rate, cache)
            for rate in drop_path
        )

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Return features, (B, H, W, C), of those of the stage before or of the stem.

        Args:
            x: Features, (B, H, W, C), at this stage's resolution or, with a downsampling, twice.
            scale: Ground sampling distance over the reference one.
        """
        return self.run([x], scale)

    def run(self, held: list[Tensor], scale: float) -> Tensor:
        """Return ``forward`` of the only tensor of a list, and take it out.

        An argument stays in memory until the call returns. In a list, the features of the stage
        before can be freed as soon as they were used.

        Args:
            held: The features, (B, H, W, C).
            scale: Ground sampling distance over the reference one.
        """
        x = held.pop()
        if self.downsample is not None:
            x = self.downsample(x)
        correction: Tensor | None = self.spatial_correction_embed
        if correction is not None:
            correction = resize_map(correction, x.shape[1], x.shape[2], self.freq_resize)
        traced = torch.compiler.is_compiling() or is_jit_tracing()
        with nullcontext() if self.training or traced else self.cache.one_check():
            for block in self.blocks:
                arguments = (x, self.freq_embed, correction, scale)
                if self.recomputes():
                    x = checkpoint(block, *arguments, use_reentrant=False)
                else:
                    x = block(*arguments)
        return x

    def recomputes(self) -> bool:
        """Return whether activations of a call now are recomputed in the backward pass."""
        return self.grad_checkpointing and self.training and torch.is_grad_enabled()


class Head(nn.Module):
    """Norm, pooling, dropout and a linear classifier.

    Args:
        dims: Number of channels of each stage's features.
        num_classes: Number of classes; 0 for no classifier, which returns the pooled features.
        global_pool: Pooling, as for ``RSVHeat``.
        drop_rate: Rate of dropout before the classifier.
    """

    norm: nn.Module

    def __init__(
        self, dims: Sequence[int], num_classes: int, global_pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.drop_rate = drop_rate
        self.global_pool: str | None = None
        self.reset(num_classes, global_pool)

    @property
    def dim(self) -> int:
        """Number of channels that the classifier takes."""
        return 2 * sum(self.dims) if self.global_pool == "moments" else self.dims[-1]

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Reset the classifier and, optionally, the pooling.

        Args:
            num_classes: Number of classes; 0 for no classifier.
            global_pool: Pooling, as for ``RSVHeat``; None to leave it as it is.

        Raises:
            ValueError: If either is out of range.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        if global_pool is not None:
            if global_pool not in ("avg", "moments", ""):
                raise ValueError(f"global_pool must be 'avg', 'moments' or '', got {global_pool!r}")
            before, self.global_pool = self.global_pool, global_pool
            if before is None or (before == "moments") != (global_pool == "moments"):
                # Moments have all scales. They are standardized by the batch, as probes of frozen
                # features standardize them by the training images.
                self.norm = (
                    nn.BatchNorm1d(self.dim, affine=False)
                    if global_pool == "moments"
                    else LayerNorm(self.dim, eps=NORM_EPS)
                )
        self.fc: nn.Module = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.dim, num_classes)
            _init_linear(self.fc)
            if self.global_pool == "moments":
                nn.init.zeros_(self.fc.weight)  # hundreds of features of deviation 1 add up

    def forward(self, x: Tensor | Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes), or pooled features, of features (B, H, W, C).

        Args:
            x: Features of the last stage, or for moments those of every stage.
            pre_logits: Whether to leave out the classifier.
        """
        y: Tensor = self.norm(x if isinstance(x, Tensor) else pool_features(x))
        if self.global_pool == "avg":
            y = y.mean((1, 2))
        y = dropout(y, self.drop_rate, self.training)
        if not pre_logits:
            y = self.fc(y)
        return y.permute(0, 3, 1, 2) if y.dim() == 4 else y


class RSVHeat(nn.Module):
    """The encoder of RS-vHeat, and of vHeat with ``spatial_correction=False``.

    Takes images of any height and width, another one at each call. Every convolution of stride 2
    rounds up, so features have ``ceil(H / stride)`` rows as if the image had been padded and the
    features cropped, and heat is reflected at the image's own border instead of leaking into
    padding; published encoders do the same. Features are channels-last inside, and NCHW tensors
    with channels-last strides where they leave.

    On the CPU, in evaluation mode and where no gradient reaches the frequency embeddings,
    diffusivities and their filters are computed once per size and kept in ``filter_cache`` (512 MiB
    at most, see its ``max_bytes``) until the weights change, in whatever way they are written, or
    training resumes. On other devices they are computed in each call.

    Args:
        dims: Channels of each stage, even.
        depths: Blocks of each stage.
        img_size: Side in pixels, or (height, width), of the images that the tables are made for.
        modalities: Names of the stems and the number of bands each takes; by default
            ``{"optical": 3, "sar": 1}``, or ``{"optical": in_chans}``.
        num_classes: Classes of the head; 0 for a backbone.
        norm_position: Norms after the operator and the MLP (``"post"``) or before (``"pre"``).
        layer_scale: First value of learned factors on the residual branches; None for no factors.
        spatial_correction: Whether positions have learned embeddings (SCE), one table per stage.
        freq_embed: k from a ``"table"`` of frequency value embeddings per stage, or ``"implicit"``
            from a small network over frequency and ground sampling distance.
        freq_resize: How tables follow another size: see
            ``rsvheat.models.freq_embed.resize_frequencies`` and
            ``rsvheat.models.freq_embed.resize_map``.
        output_norms: Whether each stage's features from ``forward_intermediates`` are normed,
            as published backbones for dense tasks do.
        drop_path: Largest rate of stochastic depth; it grows linearly over the blocks.
        in_chans: Bands of the only stem; instead of ``modalities``.
        reference_gsd: Ground sampling distance, in meters per pixel, at which the network of
            ``freq_embed="implicit"`` gives k in pixel**2, and what a call without ``gsd`` means.
        mlp_ratio: Hidden channels of the MLPs per channel.
        drop_rate: Rate of dropout before the classifier.
        global_pool: What the head sees. ``"avg"``: the mean of the last stage's normed features;
            ``"moments"``: mean and deviation over space of every stage's channels, standardized
            by the batch in training, see ``rsvheat.models.pool_features``, which tells small
            images of textures apart much sooner; ``""``: every position of the last stage by
            itself, for logits at each.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), vHeat (arXiv 2405.16555).
    """

    load_report: LoadReport | None = None
    """Report of the loading, if the model was built with pretrained weights."""

    # rsvheat.models.hub, which imports this file, sets them.
    from_pretrained: ClassVar[Callable[..., "RSVHeat"]]
    save_pretrained: Callable[..., str | None]
    push_to_hub: Callable[..., str]

    def __init__(
        self,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        img_size: int | Sequence[int] = 224,
        modalities: Mapping[str, int] | None = None,
        num_classes: int = 1000,
        norm_position: NormPosition = "post",
        layer_scale: float | None = 1e-5,
        spatial_correction: bool = True,
        freq_embed: FreqEmbed = "table",
        freq_resize: FreqResize = "frequency",
        output_norms: bool = False,
        drop_path: float = 0.0,
        in_chans: int | None = None,
        *,
        reference_gsd: float = 1.0,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        dims, depths = tuple(dims), tuple(depths)
        _check_architecture(dims, depths)
        _check_choice("norm_position", norm_position, get_args(NormPosition))
        _check_choice("freq_embed", freq_embed, get_args(FreqEmbed))
        check_freq_resize(freq_resize)
        for name, rate in (("drop_path", drop_path), ("drop_rate", drop_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
        _check_positive("reference_gsd", reference_gsd)
        self.dims, self.depths = dims, depths
        self.img_size = _image_size(img_size)
        self.modalities = _modalities(modalities, in_chans)
        self.norm_position = norm_position
        self.freq_embed = freq_embed
        self.freq_resize = freq_resize
        self.reference_gsd = float(reference_gsd)
        self.layer_scale = layer_scale
        self.spatial_correction = spatial_correction
        self.drop_path = drop_path
        self.mlp_ratio = mlp_ratio
        self.num_classes = num_classes
        self.num_features = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            for i, dim in enumerate(dims)
        ]
        self.filter_cache = FilterCache()

        self.stems = nn.ModuleDict(
            {name: Stem(bands, dims[0]) for name, bands in self.modalities.items()}
        )
        rates = _drop_path_rates(drop_path, depths)
        self.stages = nn.ModuleList(
            Stage(
                None if i == 0 else dims[i - 1],
                dims[i],
                _feature_size(self.img_size, 4 * 2**i),
                rates[i],
                norm_position=norm_position,
                layer_scale=layer_scale,
                spatial_correction=spatial_correction,
                freq_embed=freq_embed,
                freq_resize=freq_resize,
                mlp_ratio=mlp_ratio,
                cache=self.filter_cache,
            )
            for i in range(len(dims))
        )
        self.output_norms: nn.ModuleList | None = None
        if output_norms:
            self.output_norms = nn.ModuleList(LayerNorm(dim, eps=NORM_EPS) for dim in dims)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _init_linear(module)
        for module in self.modules():
            if isinstance(module, FrequencyNetwork):
                module.reset_scale()
        self.head = Head(dims, num_classes, global_pool, drop_rate)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this encoder: numbers, strings, tuples and dictionaries."""
        return {
            "dims": self.dims,
            "depths": self.depths,
            "img_size": self.img_size,
            "modalities": dict(self.modalities),
            "num_classes": self.num_classes,
            "norm_position": self.norm_position,
            "layer_scale": self.layer_scale,
            "spatial_correction": self.spatial_correction,
            "freq_embed": self.freq_embed,
            "freq_resize": self.freq_resize,
            "output_norms": self.output_norms is not None,
            "drop_path": self.drop_path,
            "reference_gsd": self.reference_gsd,
            "mlp_ratio": self.mlp_ratio,
            "drop_rate": self.head.drop_rate,
            "global_pool": self.head.global_pool,
        }

    @property
    def head_hidden_size(self) -> int:
        """Number of features that the classifier takes."""
        return self.head.dim

    @property
    def default_modality(self) -> str:
        """The modality of a call that names none: the first."""
        return next(iter(self.modalities))

    def forward(self, x: Tensor, modality: str | None = None, gsd: float | None = None) -> Tensor:
        """Return the logits of images.

        Args:
            x: (B, bands, H, W), floating point, H and W from 1 on.
            modality: Name of the stem; the first one by default.
            gsd: Ground sampling distance of the images in meters per pixel, for
                ``freq_embed="implicit"``; ``reference_gsd`` by default.

        Returns:
            (B, num_classes); pooled features (B, C) with ``num_classes=0``; with
            ``global_pool=""`` NCHW maps of either.

        Raises:
            ValueError: If the modality is unknown, or the shape or ``gsd`` does not fit.
        """
        if self.head.global_pool == "moments":
            maps = self.forward_intermediates(
                x, output_fmt="NHWC", intermediates_only=True, modality=modality, gsd=gsd
            )
            y: Tensor = self.head(maps)
            return y
        return self.forward_head(self.forward_features(x, modality, gsd))

    def forward_features(
        self, x: Tensor, modality: str | None = None, gsd: float | None = None
    ) -> Tensor:
        """Return the features of the last stage, before the head's norm.

        Args:
            x: Images, (B, bands, H, W).
            modality: Name of the stem; the first one by default.
            gsd: Ground sampling distance in meters per pixel, as for ``forward``.

        Returns:
            (B, C, ceil(H / 32), ceil(W / 32)) for four stages.

        Raises:
            ValueError: If the modality is unknown, or the shape or ``gsd`` does not fit.
        """
        x, scale = self._embed(x, modality, gsd)
        held = [x]
        del x
        for stage in self.stages:
            held.append(_run_stage(stage, held, scale))
        return held.pop().permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with ``pre_logits`` pooled features, of the last stage's features.

        Args:
            x: Features of ``forward_features``, (B, C, H, W).
            pre_logits: Whether to leave out the classifier.

        Raises:
            ValueError: If the head pools the features of every stage.
        """
        if self.head.global_pool == "moments":
            raise ValueError(
                "a head with global_pool='moments' takes the features of every stage, not only "
                "the last: call the model"
            )
        y: Tensor = self.head(x.permute(0, 2, 3, 1), pre_logits)
        return y

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        modality: str | None = None,
        gsd: float | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the features of several stages; the signature is timm's.

        Args:
            x: Images, (B, bands, H, W).
            indices: Stages to return, negative ones counted from the end; a number n for the last
                n; None for all. They are returned in the stages' order.
            norm: Whether to apply the head's norm to the last stage's features. Models with output
                norms apply those to every stage instead, always.
            stop_early: Whether to stop after the last stage that is returned.
            output_fmt: Layout of the features, ``"NCHW"`` or ``"NHWC"``.
            intermediates_only: Whether to return only the list.
            modality: Name of the stem; the first one by default.
            gsd: Ground sampling distance in meters per pixel, as for ``forward``.

        Returns:
            Feature maps at strides 4, 8, 16, 32, (B, C, ceil(H / stride), ceil(W / stride));
            unless ``intermediates_only``, in a pair after the last stage's features, as
            ``forward_features`` returns them (with ``stop_early``, of the last stage that ran).

        Raises:
            ValueError: If the modality is unknown, the shape or ``gsd`` does not fit, or an index
                or the layout is not as above.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        if norm and self.head.global_pool == "moments" and self.output_norms is None:
            raise ValueError("a head with global_pool='moments' norms no maps: leave norm=False")
        take = self._stage_indices(indices)
        x, scale = self._embed(x, modality, gsd)
        intermediates = []
        for i, stage in enumerate(self.stages[: max(take) + 1] if stop_early else self.stages):
            x = stage(x, scale)
            if i in take:
                y = x
                if self.output_norms is not None:
                    y = self.output_norms[i](y)
                elif norm and i == len(self.dims) - 1:
                    y = self.head.norm(y)
                intermediates.append(y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y)
        if intermediates_only:
            return intermediates
        return x.permute(0, 3, 1, 2), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the parts that the features of some stages do not need; the signature is timm's.

        Args:
            indices: Stages whose features are needed, as for ``forward_intermediates``.
            prune_norm: Whether to remove the head's norm.
            prune_head: Whether to remove the classifier.

        Returns:
            Indices of the stages, not negative, ascending.
        """
        take = self._stage_indices(indices)
        self.stages = self.stages[: max(take) + 1]
        if self.output_norms is not None:
            self.output_norms = self.output_norms[: max(take) + 1]
        if prune_norm:
            self.head.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the classifier: a Linear layer, or Identity without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one.

        Args:
            num_classes: Number of classes; 0 for no classifier.
            global_pool: Pooling, ``"avg"``, ``"moments"`` or ``""``; None to leave it as it is.

        Raises:
            ValueError: If either is out of range.
        """
        self.head.reset(num_classes, global_pool)
        self.head.to(next(self.stems.parameters()).device)
        self.num_classes = num_classes

    def set_grad_checkpointing(
        self, enable: bool = True, stages: Iterable[int] | None = None
    ) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them.

        With the first stage, those of the stem too, which at high resolutions are as large.

        Args:
            enable: Whether activations are recomputed.
            stages: Stages for which this is set; None for all.

        Raises:
            ValueError: If there is no such stage.
        """
        chosen = set(range(len(self.stages)) if stages is None else stages)
        if not chosen <= set(range(len(self.stages))):
            raise ValueError(f"stages must be within 0 to {len(self.stages) - 1}, got {stages}")
        for i, stage in enumerate(self.stages):
            if isinstance(stage, Stage) and i in chosen:
                stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the names of embeddings and layer scales, which weight decay leaves alone.

        Norms and biases are not named: optimizers tell them by their single dimension.
        """
        ends = (".table", "spatial_correction_embed", ".gamma1", ".gamma2")
        return {name for name, _ in self.named_parameters() if name.endswith(ends)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order the parameters by depth, in timm's format.

        Args:
            coarse: Whether to group by stage instead of by block.
        """
        if coarse:
            return {"stem": r"^stems", "blocks": r"^stages\.(\d+)"}
        return {
            "stem": r"^stems",
            "blocks": [
                # A stage's downsampling and embeddings count to its first block.
                (r"^stages\.(\d+)\.(?!blocks\.)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            ],
        }

    def get_parameter_groups(
        self, lr: float | None = None, weight_decay: float = 0.05, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Return the trainable parameters in groups, with their names.

        Args:
            lr: Learning rate of the head, as for
                ``rsvheat.models.parameter_groups.parameter_groups``.
            weight_decay: Weight decay of parameters of two dimensions or more that
                ``no_weight_decay`` does not name; 0 for the others.
            layer_decay: Factor on the learning rate for each block between a parameter and the
                head, above 0 and at most 1.

        Returns:
            Groups of ``rsvheat.models.parameter_groups.parameter_groups``, each with
            ``param_names``, too.

        Raises:
            ValueError: If ``layer_decay`` is not as above.
        """
        groups = parameter_groups(self, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
        names = {parameter: name for name, parameter in self.named_parameters()}
        for group in groups:
            group["param_names"] = [names[parameter] for parameter in group["params"]]
        return groups

    def _stage_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.stages)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise ValueError(f"indices as a number must be 1 to {count}, got {indices}")
            return list(range(count - indices, count))
        if len(indices) == 0 or not all(-count <= i < count for i in indices):
            raise ValueError(f"indices must be within {-count} to {count - 1}, got {indices}")
        return sorted({i % count for i in indices})

    def _embed(self, x: Tensor, modality: str | None, gsd: float | None) -> tuple[Tensor, float]:
        """Return the stem's features, NHWC, and the ground sampling distance's scale."""
        name = self.default_modality if modality is None else modality
        if name not in self.modalities:
            raise ValueError(f"modality must be one of {list(self.modalities)}, got {modality!r}")
        if x.dim() != 4 or x.shape[1] != self.modalities[name]:
            raise ValueError(
                f"images of modality {name!r} must have shape (B, {self.modalities[name]}, H, W), "
                f"got {tuple(x.shape)}; the model's modalities are {self.modalities}"
            )
        scale = 1.0
        if gsd is not None:
            if self.freq_embed != "implicit":
                raise ValueError(
                    "gsd has no effect on tables, which are tied to pixels: leave it out, or build "
                    "the model with freq_embed='implicit'"
                )
            _check_positive("gsd", gsd)
            scale = gsd / self.reference_gsd
        if not torch.compiler.is_compiling():
            self.filter_cache.next_pass()
        x = x.permute(0, 2, 3, 1)
        stem, first = self.stems[name], self.stages[0]
        recomputed = isinstance(first, Stage) and first.recomputes()
        y = checkpoint(stem, x, use_reentrant=False) if recomputed else stem(x)
        return y, scale


def _run_stage(stage: nn.Module, held: list[Tensor], scale: float) -> Tensor:
    """Return a stage's features of the only tensor of a list, which is taken out."""
    if is_unchanged(stage, Stage):
        return cast(Stage, stage).run(held, scale)
    y: Tensor = stage(held.pop(), scale)
    return y


def _init_linear(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value}")


def _check_architecture(dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
    if len(dims) == 0 or len(dims) != len(depths):
        raise ValueError(f"dims and depths must have one entry per stage, got {dims} and {depths}")
    if any(dim < 2 or dim % 2 for dim in dims[:1]) or any(dim < 1 for dim in dims):
        raise ValueError(f"dims must be positive and the first even, got {dims}")
    if any(depth < 1 for depth in depths):
        raise ValueError(f"depths must be at least 1, got {depths}")


def _image_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or any(side < 1 for side in size):
        raise ValueError(f"img_size must be a positive side or (height, width), got {img_size}")
    return size[0], size[1]


def _feature_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _modalities(modalities: Mapping[str, int] | None, in_chans: int | None) -> dict[str, int]:
    if in_chans is not None:
        if modalities is not None:
            raise ValueError("give modalities or in_chans, not both")
        modalities = {"optical": in_chans}
    elif modalities is None:
        modalities = DEFAULT_MODALITIES
    if len(modalities) == 0:
        raise ValueError("modalities must name at least one stem")
    for name, bands in modalities.items():
        # Names become attributes of a ModuleDict and parts of parameter names.
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"modality names must be identifiers other than methods, got {name!r}")
        if bands < 1:
            raise ValueError(f"modality {name!r} must have at least 1 band, got {bands}")
    return dict(modalities)


def _drop_path_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    total = sum(depths)
    rates = iter(largest * i / max(total - 1, 1) for i in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]
