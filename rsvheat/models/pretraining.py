# SPDX-License-Identifier: Apache-2.0
"""Self-supervised pretraining of the encoder on optical, SAR or other images, paired or not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import interpolate, l1_loss, pixel_shuffle

from rsvheat.augmentation import RandomView
from rsvheat.losses import (
    cosine_consistency,
    effective_rank,
    feature_std,
    gather_samples,
    info_nce,
    variance_hinge,
    world_size,
)
from rsvheat.masking import FrequencyMasking
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.layers import LayerNorm, pool_features
from rsvheat.models.registry import create_model
from rsvheat.ops import spectral_l1_loss

Objective: TypeAlias = Literal["contrastive", "paper"]

# Masking of the contrastive objective: every fourth view lacks 20 to 30 % of its coefficients, by
# direction. Measured on EuroSAT's images: masking every other view costs 1 to 2 points of kNN
# accuracy, and dropping high bands of every other 2 more, since textures tell classes apart.
VIEW_MASKING = (FrequencyMasking(shape="wedge", join="high", probability=0.25),)


@dataclass
class PretrainingOutput:
    """Output of a pretraining step.

    Attributes:
        loss: Weighted sum of ``losses``, 0-dim; the value to differentiate.
        losses: Unweighted parts, 0-dim: ``spatial``, ``frequency``, ``contrastive`` and, if asked
            for, ``variance``. Parts of weight 0 are left out. In several processes spatial and
            frequency are those of the local images, and their mean over the processes that of all.
        statistics: Signs of collapse in the pooled features of all processes: ``feature_std``
            and ``effective_rank``, see ``rsvheat.losses``.
        target: Images to be reconstructed, (N, C, H, W), by modality: the input, or its views.
        low: Images that the encoder saw, by modality; with the paper's objective the low bands.
        high: Remainders ``target - low``, by modality; with the paper's objective the encoder sees
            these, too.
        reconstruction: Images of the spatial decoder, by modality. These four are filled with
            ``with_images`` only, and detached.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]
    target: dict[str, Tensor] = field(default_factory=dict)
    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    reconstruction: dict[str, Tensor] = field(default_factory=dict)


class Decoder(nn.Module):
    """Decodes images from the features of the last two stages, through a bottleneck.

    Both are brought to the same channels and added at the finer stage's size. Two pixel shuffles
    with a convolution between them lead to the input's size, so that a position of stride 16 also
    contributes to its neighbors.

    Args:
        dims: Channels of the two stages, the finer first.
        bands: Channels of the images, by modality; each has a last layer of its own.
        stride: Pixels of an image per position of the finer stage, a power of 2.
        dim: Channels of the sum.
    """

    def __init__(
        self, dims: tuple[int, int], bands: Mapping[str, int], stride: int, dim: int
    ) -> None:
        super().__init__()
        self.inner = 2 ** (int(math.log2(stride)) // 2)
        self.outer = stride // self.inner
        narrow = max(dim // 4, 8)
        self.fine = nn.Linear(dims[0], dim)
        self.coarse = nn.Linear(dims[1], dim)
        self.norm = LayerNorm(dim)
        self.act = nn.GELU()
        self.expand = nn.Linear(dim, narrow * self.inner**2)
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv2d(narrow, channels * self.outer**2, 3, padding=1)
                for name, channels in bands.items()
            }
        )

    def forward(self, features: Sequence[Tensor], modality: str, size: Sequence[int]) -> Tensor:
        """Return images, (N, bands, H, W).

        Args:
            features: Channels-last maps of the two stages, the finer first.
            modality: Modality of the images.
            size: Size (H, W) of the images.
        """
        fine, coarse = features
        coarse = self.coarse(coarse).permute(0, 3, 1, 2)
        coarse = interpolate(coarse, fine.shape[1:3], mode="bilinear", align_corners=False)
        x = self.act(self.norm(self.fine(fine) + coarse.permute(0, 2, 3, 1)))
        x = pixel_shuffle(self.expand(x).permute(0, 3, 1, 2), self.inner)
        x = pixel_shuffle(self.heads[modality](self.act(x)), self.outer)
        # Features have ceil(H / stride) rows, as of an image padded below and on the right.
        return x[:, :, : size[0], : size[1]]


class Projector(nn.Module):
    """Two layers between pooled features and the embeddings that InfoNCE compares.

    Batch statistics are used in evaluation too, and none are kept: the model has no state besides
    its parameters.

    Args:
        in_dim: Number of pooled features.
        hidden: Number of hidden channels.
        out_dim: Number of channels of the embeddings.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden, bias=False)
        self.norm1 = nn.BatchNorm1d(hidden, track_running_stats=False)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, out_dim, bias=False)
        self.norm2 = nn.BatchNorm1d(out_dim, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (N, out_dim) of pooled features (N, in_dim), N of at least 2."""
        y: Tensor = self.norm2(self.fc2(self.act(self.norm1(self.fc1(x)))))
        return y


class RSVHeatPretraining(nn.Module):
    """Pretrains an encoder without labels; afterwards keep ``model.encoder``.

    A batch may hold any of the encoder's modalities, and aligned images of one sample in several
    of them. For a modality that it does not hold nothing is computed; its parameters get zero
    gradients, so that processes with different modalities train together.

    ``objective="paper"``: each image is split into a low and a high band
    (``rsvheat.masking.FrequencyMasking.split``). Both pass the shared
    encoder, their features are fused stage by stage, and a spatial and a frequency decoder on the
    last two fused stages reconstruct the image: L1 in space, L1 between DCT coefficients. For
    samples seen in two modalities the contrastive term is one minus the cosine similarity of their
    low-band features and of their high-band features, by position and stage. As low + high is the
    image, nothing is hidden, and a constant satisfies the third term: watch ``feature_std``.
    ``variance_weight`` answers a collapse.

    ``objective="contrastive"``, the default: of each image ``views`` crops are taken, and parts of
    their spectra are hidden. From the rest, the encoder's input, the decoders reconstruct the whole
    crop. The contrastive term is InfoNCE between the views of a sample, those of all
    modalities, with every other image in the batch, on all processes, as a negative.

    Args:
        encoder: Encoder to pretrain, with at least two stages. Its classifier is not used.
        objective: ``"contrastive"`` or ``"paper"``.
        masking: Masking of the views' spectra: one for the paper's objective, for the contrastive
            one any number, applied one after the other.
        augmentation: Random views for the contrastive objective, ``RandomView()`` by default; the
            paper's has none.
        views: Number of views of each image in a step, at least 1, for the contrastive objective;
            with 1, only samples in several modalities have positives.
        weights: Weights of the spatial, frequency and contrastive terms, at least 0. Terms of
            weight 0 are not computed.
        variance_weight: Weight of a hinge on the deviation of the pooled features over the batch,
            ``rsvheat.losses.variance_hinge``.
        temperature: Temperature of InfoNCE.
        heads: Groups of stages. Each group's features, pooled as ``pool_features`` does, have
            a projector and an InfoNCE of their own, whose mean is the contrastive term. By default
            all stages together, the last two together, and the last. With one head over all
            stages the early ones, which see textures and colors, solve the task, and the last
            ones learn less.
        projection: Numbers of hidden and output channels of the projectors.
        decoder_dim: Number of channels of the decoders.
        fusion: Fusion of low- and high-band features: ``"sum"``, or ``"linear"``, a learned layer
            over both.

    Raises:
        ValueError: If an argument is not as above.

    Source: RS-vHeat (arXiv 2411.17984), pretraining; InfoNCE as in ``rsvheat.losses.info_nce``.
    """

    def __init__(
        self,
        encoder: RSVHeat,
        *,
        objective: Objective = "contrastive",
        masking: FrequencyMasking | Sequence[FrequencyMasking] | None = None,
        augmentation: RandomView | None = None,
        views: int = 2,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        variance_weight: float = 0.0,
        temperature: float = 0.15,
        heads: Sequence[Sequence[int]] | None = None,
        projection: tuple[int, int] = (256, 128),
        decoder_dim: int = 64,
        fusion: Literal["sum", "linear"] = "sum",
    ) -> None:
        super().__init__()
        if objective not in get_args(Objective):
            raise ValueError(
                f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}"
            )
        if fusion not in ("sum", "linear"):
            raise ValueError(f"fusion must be 'sum' or 'linear', got {fusion!r}")
        if len(encoder.dims) < 2:
            raise ValueError(f"encoder must have at least 2 stages, got {len(encoder.dims)}")
        if views < 1:
            raise ValueError(f"views must be at least 1, got {views}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        factors = (*weights, variance_weight)
        if len(factors) != 4 or not all(0 <= factor < math.inf for factor in factors):
            raise ValueError(
                "weights must be three finite numbers of at least 0 and variance_weight one, "
                f"got {weights} and {variance_weight}"
            )
        if masking is None:
            masking = FrequencyMasking() if objective == "paper" else VIEW_MASKING
        self.maskings = (masking,) if isinstance(masking, FrequencyMasking) else tuple(masking)
        if objective == "paper" and len(self.maskings) != 1:
            raise ValueError(f"masking must be one for objective 'paper', got {len(self.maskings)}")
        if objective == "paper" and augmentation is not None:
            raise ValueError("augmentation must be None for objective 'paper', which has no views")
        if augmentation is None and objective == "contrastive":
            augmentation = RandomView()
        self.encoder = encoder
        self.objective = objective
        self.augmentation = augmentation
        self.views = views if objective == "contrastive" else 1
        names = ("spatial", "frequency", "contrastive", "variance")
        self.weights = dict(zip(names, factors, strict=True))
        self.temperature = temperature
        count = len(encoder.dims)
        if heads is None:
            heads = (range(count), (count - 2, count - 1), (count - 1,))
        fits = [len(head) > 0 and all(-count <= i < count for i in head) for head in heads]
        if not fits or not all(fits):
            raise ValueError(
                f"heads must be groups of stages within {-count} to {count - 1}, got {heads}"
            )
        self.heads = [[i % count for i in head] for head in heads]

        dims = encoder.dims[-2:]
        stride = 4 * 2 ** (count - 2)
        self.decoders = nn.ModuleDict(
            {
                name: Decoder((dims[0], dims[1]), encoder.modalities, stride, decoder_dim)
                for name in ("spatial", "frequency")
                if self.weights[name] > 0
            }
        )
        self.fusions = nn.ModuleList()
        if objective == "paper" and fusion == "linear":
            self.fusions.extend(nn.Linear(2 * dim, dim) for dim in dims)
        self.projectors = nn.ModuleList()
        if objective == "contrastive" and self.weights["contrastive"] > 0:
            self.projectors.extend(
                Projector(2 * sum(encoder.dims[i] for i in head), *projection)
                for head in self.heads
            )

    def forward(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        with_images: bool = False,
    ) -> PretrainingOutput:
        """Compute the objective of a batch.

        Args:
            images: Normalized images (N, bands, H, W) by modality, N from 0 on; H and W may differ
                between modalities. With the paper's objective those of a pair must agree.
            index: Sample of the batch that each image shows, int64 (N,), by modality; each sample
                at most once. None if every modality holds the same samples in the same order.
            generator: Source of all randomness but stochastic depth; torch's own by default.
            with_images: Whether images are returned, too.

        Returns:
            The loss, its parts, statistics and images.

        Raises:
            ValueError: If a modality is unknown, or shapes do not fit.
        """
        index = self._check(images, index)
        seen = {
            name: self._see(name, images[name], generator)
            for name in self.encoder.modalities
            if name in index
        }
        pairs = self._pairs(index)
        # Means over all processes, though each has other images: see _mean.
        image_count = sum(len(view.target) for view in seen.values())
        pair_count = sum(len(rows) for rows in pairs.values())
        image_total, pair_total = self._totals(image_count, pair_count)

        losses, pictures = self._reconstruct(seen, image_total)
        pooled = gather_samples(self._pool(seen))
        if self.weights["contrastive"] > 0:
            if self.objective == "paper":
                losses["contrastive"] = self._consistency(seen, pairs, pair_total)
            else:
                samples = [index[name].repeat(self.views) for name in seen]
                losses["contrastive"] = self._info_nce(pooled, samples)
        if self.weights["variance"] > 0:
            losses["variance"] = variance_hinge(pooled)
        total = self._zeros()
        for name, loss in losses.items():
            total = total + self.weights[name] * loss
        output = PretrainingOutput(
            loss=_AttachParameters.apply(total, *self.parameters()),
            losses={name: loss.detach() for name, loss in losses.items()},
            statistics={
                "feature_std": feature_std(pooled),
                "effective_rank": effective_rank(pooled),
            },
        )
        if with_images:
            output.target = {name: view.target.detach() for name, view in seen.items()}
            output.low = {name: view.low.detach() for name, view in seen.items()}
            output.high = {name: output.target[name] - low for name, low in output.low.items()}
            output.reconstruction = {name: image.detach() for name, image in pictures.items()}
        return output

    def _see(self, modality: str, x: Tensor, generator: torch.Generator | None) -> "_Seen":
        """Pass the visible part of the images through the encoder."""
        if self.augmentation is None:
            low, high = self.maskings[0].split(x, generator)
            features = self._encode(torch.cat((low, high)), modality)
            halves = [maps.chunk(2) for maps in features]
            return _Seen(x, low, [[half[0] for half in halves], [half[1] for half in halves]])
        target = torch.cat([self.augmentation(x, generator) for _ in range(self.views)])
        shown = target
        for masking in self.maskings:
            shown = masking.hide(shown, generator)
        return _Seen(target, shown, [self._encode(shown, modality)])

    def _encode(self, x: Tensor, modality: str) -> list[Tensor]:
        features = self.encoder.forward_intermediates(x, modality=modality, output_fmt="NHWC")
        return list(features[1])

    def _pool(self, seen: Mapping[str, "_Seen"]) -> Tensor:
        """Return the pooled features of all images, (N, D), the mean over their bands."""
        pooled = [self._zeros(0, 2 * sum(self.encoder.dims))]
        for view in seen.values():
            each = [pool_features(maps) for maps in view.bands]
            pooled.append(torch.stack(each).mean(0))
        return torch.cat(pooled)

    def _reconstruct(
        self, seen: Mapping[str, "_Seen"], total: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms on images, and the images of the spatial decoder."""
        terms: dict[str, list[Tensor]] = {name: [] for name in self.decoders}
        pictures = {}
        for modality, view in seen.items():
            fused = self._fuse(view.bands)
            target = view.target if view.target.dtype == torch.float64 else view.target.float()
            for name, decoder in self.decoders.items():
                image = decoder(fused, modality, target.shape[2:]).to(target.dtype)
                distance = l1_loss if name == "spatial" else spectral_l1_loss
                terms[name].append(len(target) * distance(image, target))
                if name == "spatial":
                    pictures[modality] = image
        return {name: self._mean(values, total) for name, values in terms.items()}, pictures

    def _fuse(self, bands: list[list[Tensor]]) -> list[Tensor]:
        """Return the last two stages' features of all bands as one."""
        if len(bands) == 1:
            return bands[0][-2:]
        low, high = (maps[-2:] for maps in bands)
        if not self.fusions:
            return [a + b for a, b in zip(low, high, strict=True)]
        return [
            fuse(torch.cat((a, b), dim=-1))
            for fuse, a, b in zip(self.fusions, low, high, strict=True)
        ]

    def _pairs(self, index: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """Return, for any two modalities, the rows (n, 2) in them that show the same sample."""
        if self.objective != "paper" or self.weights["contrastive"] == 0:
            return {}
        return {
            (a, b): (index[a][:, None] == index[b]).nonzero() for a, b in combinations(index, 2)
        }

    def _consistency(
        self, seen: Mapping[str, "_Seen"], pairs: Mapping[tuple[str, str], Tensor], total: int
    ) -> Tensor:
        terms = []
        for names, rows in pairs.items():
            a, b = (
                [maps[rows[:, side]] for band in seen[name].bands for maps in band[-2:]]
                for side, name in enumerate(names)
            )
            terms.append(len(rows) * cosine_consistency(a, b))
        return self._mean(terms, total)

    def _info_nce(self, pooled: Tensor, samples: list[Tensor]) -> Tensor:
        rank = distributed.get_rank() if world_size() > 1 else 0
        first = torch.zeros(0, dtype=torch.int64, device=pooled.device)
        # Sample 0 of one process is not sample 0 of another.
        numbers = gather_samples(torch.cat((first, *samples)) + (rank << 32))
        if len(pooled) < 2:
            return pooled.sum() * 0
        stages = torch.split(pooled, [2 * dim for dim in self.encoder.dims], dim=1)
        terms = []
        for head, projector in zip(self.heads, self.projectors, strict=True):
            embeddings = projector(torch.cat([stages[i] for i in head], dim=1))
            terms.append(info_nce(embeddings, numbers, self.temperature))
        return torch.stack(terms).mean()

    def _zeros(self, *shape: int) -> Tensor:
        """Return zeros in the type of losses: float32, or float64 for a model in float64."""
        first = next(self.parameters())
        dtype = first.dtype if first.dtype == torch.float64 else torch.float32
        return torch.zeros(shape, dtype=dtype, device=first.device)

    def _totals(self, *counts: int) -> list[int]:
        """Return counts added up over all processes."""
        if world_size() == 1:
            return list(counts)
        totals = torch.tensor(counts, device=next(self.parameters()).device)
        distributed.all_reduce(totals)
        return [int(total) for total in totals]

    def _mean(self, sums: Sequence[Tensor], total: int) -> Tensor:
        """Return the sum of local sums over ``total``, so that the processes' mean is the mean."""
        value = self._zeros()
        for part in sums:
            value = value + part * (world_size() / max(total, 1))
        return value

    def _check(
        self, images: Mapping[str, Tensor], index: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Return the index of the modalities that hold images, in the encoder's order."""
        known = self.encoder.modalities
        for name, x in images.items():
            if name not in known:
                raise ValueError(f"images may hold modalities {list(known)}, got {name!r}")
            if x.dim() != 4 or x.shape[1] != known[name]:
                raise ValueError(
                    f"images[{name!r}] must have shape (N, {known[name]}, H, W), "
                    f"got {tuple(x.shape)}"
                )
        present = [name for name in known if name in images]
        if index is None:
            sizes = {name: len(images[name]) for name in present}
            if len(set(sizes.values())) > 1:
                raise ValueError(f"without index modalities must be of one length, got {sizes}")
            index = {
                name: torch.arange(sizes[name], device=images[name].device) for name in present
            }
        for name in present:
            if name not in index or index[name].shape != images[name].shape[:1]:
                got = tuple(index[name].shape) if name in index else "nothing"
                raise ValueError(f"index[{name!r}] must be ({len(images[name])},), got {got}")
        return {name: index[name] for name in present if len(images[name]) > 0}


@dataclass
class _Seen:
    """Images of one modality and their features.

    Attributes:
        target: Images to be reconstructed, (N, C, H, W).
        low: Their visible part, or their low band.
        bands: Channels-last feature maps of all stages, of the image shown or of low and high band.
    """

    target: Tensor
    low: Tensor
    bands: list[list[Tensor]]


class _AttachParameters(torch.autograd.Function):
    """A loss that gives each parameter a gradient, zero where nothing else does.

    Without it DDP waits forever for the gradients of a modality that a process did not see.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (
            parameter.new_zeros(()).expand_as(parameter) if needed else None
            for parameter, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        return grads[0], *zeros


def create_pretraining_model(
    variant: str,
    modalities: Mapping[str, int] | None = None,
    *,
    img_size: int | Sequence[int] = 224,
    encoder_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> RSVHeatPretraining:
    """Build a pretraining model around a new encoder, with random weights.

    Args:
        variant: Name of the encoder, as for ``rsvheat.create_model``.
        modalities: Numbers of bands by modality; by default ``{"optical": 3, "sar": 1}``.
        img_size: Side in pixels, or (height, width), of the images.
        encoder_options: Further arguments of ``rsvheat.models.RSVHeat``.
        **options: Arguments of ``RSVHeatPretraining``.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: If there is no such variant, or an argument has a wrong value.
    """
    encoder = create_model(
        variant,
        **{
            "num_classes": 0,
            "modalities": modalities,
            "img_size": img_size,
            **(encoder_options or {}),
        },
    )
    return RSVHeatPretraining(encoder, **options)
