# SPDX-License-Identifier: Apache-2.0
"""Feature maps at strides 4 to 32 of images of one or several sensors, any of which may be missing.

Every sensor has a stem of its own and shares the stages with the others. Its maps are normed, and
the maps of all sensors that a sample has are fused at each stage.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from rsvheat.models.decoding import MapNorm
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.timm_encoder import TimmEncoder
from rsvheat.ops._backend import is_jit_tracing

Encoder: TypeAlias = RSVHeat | TimmEncoder
Fusion: TypeAlias = Literal["gate", "attention", "mean"]

# Takes and returns channels-last features of a stage, (B, H, W, C), given the stage's index.
Between: TypeAlias = Callable[[int, Tensor], Tensor]


class FeaturePyramid(nn.Module):
    """Norms and fusion of an encoder's feature maps.

    The encoder is an argument of ``forward``, not a part of this module, so that it appears
    once among a network's parameters.

    Args:
        encoder: Encoder that the maps come from.
        fusion: How maps of several sensors become one, at each stage: ``"gate"``, ``"attention"``
            or ``"mean"``, see ``GateFusion``, ``AttentionFusion`` and
            ``MeanFusion``. Without effect for an encoder of one modality.
        modality_dropout: Probability with which, in training, a sample that has several sensors
            loses some of them: any subset that is neither empty nor all is equally likely. It is
            drawn from torch's default CPU generator.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self, encoder: Encoder, fusion: Fusion = "attention", modality_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion must be one of {get_args(Fusion)}, got {fusion!r}")
        if not 0 <= modality_dropout <= 1:
            raise ValueError(f"modality_dropout must be from 0 to 1, got {modality_dropout}")
        self.modality_dropout = modality_dropout
        self.norms = map_norms(encoder)
        self.fusions = nn.ModuleList()
        if len(encoder.modalities) > 1:
            build = {"gate": GateFusion, "attention": AttentionFusion, "mean": MeanFusion}[fusion]
            self.fusions.extend(build(dim, list(encoder.modalities)) for dim in encoder.dims)

    @property
    def any_sensor(self) -> bool:
        """Whether there are several sensors, of which some may be left out."""
        return len(self.fusions) > 0

    def forward(
        self,
        encoder: Encoder,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> list[Tensor]:
        """Return a map per stage, (B, C, ceil(H / stride), ceil(W / stride)), the finest first.

        In training every parameter of an RS-vHeat encoder takes part, also the stem of a sensor
        that no sample has: DDP waits for ever for the gradients of a parameter that one process did
        not use.

        Args:
            encoder: Encoder that this module was built for.
            images: Images by modality, (n, bands, H, W), of the same H and W. Modalities may be
                left out or hold images of some samples only.
            index: Samples of the batch that each modality's images show, int64 (n,), each at most
                once; None where every modality that is there has all samples.
            size: Number of samples, B; by default one more than the largest of ``index``.

        Raises:
            ValueError: If a shape does not fit, or a sample has no image of any modality.
        """
        if is_jit_tracing() and index is None and not self.training:
            check_images(encoder, images)
            return self.fuse_complete(encoder, images)
        rows, size = _samples(encoder, images, index, size)
        if not self.fusions:
            [(name, x)] = images.items()
            maps = self._encode(encoder, x, name)
            return maps if index is None else [_scatter(y, rows[name], size) for y in maps]
        images = dict(images)
        if self.training and self.modality_dropout > 0:
            for name, kept in self._draw(rows, size).items():
                images[name], rows[name] = images[name][kept], rows[name][kept]
        first = next(iter(images.values()))
        levels: dict[str, list[Tensor]] = {}
        present = []
        for name, bands in encoder.modalities.items():
            x = images.get(name, first.new_zeros(0, bands, *first.shape[2:]))
            if len(x) == 0 and not (self.training and isinstance(encoder, RSVHeat)):
                continue
            row = rows.get(name, torch.zeros(0, dtype=torch.int64, device=x.device))
            levels[name] = [_scatter(y, row, size) for y in self._encode(encoder, x, name)]
            flags = torch.zeros(size, dtype=torch.bool, device=x.device)
            present.append(flags.index_fill(0, row, True))
        mask = torch.stack(present)
        return [
            fuse({name: maps[i] for name, maps in levels.items()}, mask)
            for i, fuse in enumerate(self.fusions)
        ]

    def fuse_complete(self, encoder: Encoder, images: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the maps of images of which every sample has all, as ``forward`` does.

        Nothing depends on the number of samples, so a traced program takes any.

        Args:
            encoder: Encoder that this module was built for.
            images: Images by modality, (B, bands, H, W), all of the same B, H and W.
        """
        levels = {name: self._encode(encoder, x, name) for name, x in images.items()}
        if not self.fusions:
            [maps] = levels.values()
            return maps
        first = next(iter(images.values()))
        present = torch.ones(len(images), first.shape[0], dtype=torch.bool, device=first.device)
        return [
            fuse({name: maps[i] for name, maps in levels.items()}, present)
            for i, fuse in enumerate(self.fusions)
        ]

    def _encode(self, encoder: Encoder, x: Tensor, modality: str) -> list[Tensor]:
        maps = encode(encoder, x, modality)
        return [norm(y) for norm, y in zip(self.norms, maps, strict=True)]

    def _draw(self, rows: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """Return which images of each modality are kept, by position."""
        drops = (torch.rand(size) < self.modality_dropout).tolist()
        choices = torch.rand(size).tolist()
        places: list[list[tuple[str, int]]] = [[] for _ in range(size)]
        for name, samples in rows.items():
            for place, sample in enumerate(samples.tolist()):
                places[sample].append((name, place))
        kept: dict[str, list[int]] = {name: [] for name in rows}
        for drop, choice, owned in zip(drops, choices, places, strict=True):
            subset = 2 ** len(owned) - 1
            if drop and len(owned) > 1:
                # The bits of 1 to 2**n - 2 are every subset but none and all.
                subset = 1 + int(choice * (subset - 1))
            for bit, (name, place) in enumerate(owned):
                if subset >> bit & 1:
                    kept[name].append(place)
        return {
            name: torch.tensor(sorted(places), dtype=torch.int64, device=rows[name].device)
            for name, places in kept.items()
        }


def _samples(
    encoder: Encoder,
    images: Mapping[str, Tensor],
    index: Mapping[str, Tensor] | None,
    size: int | None,
) -> tuple[dict[str, Tensor], int]:
    """Check a batch; return the samples of each modality's images, and how many there are."""
    check_images(encoder, images)
    # In the encoder's order: what is drawn must not depend on that of a mapping.
    counts = {name: len(images[name]) for name in encoder.modalities if name in images}
    if not counts:
        raise ValueError(f"images must hold at least one of {list(encoder.modalities)}, got none")
    if index is None:
        total = max(counts.values()) if size is None else size
        if set(counts.values()) != {total}:
            raise ValueError(
                f"without index every modality must have all {total} samples of the batch, "
                f"got {counts}"
            )
        return {name: torch.arange(total, device=images[name].device) for name in counts}, total
    for name, count in counts.items():
        if name not in index or index[name].shape != (count,):
            got = tuple(index[name].shape) if name in index else "nothing"
            raise ValueError(f"index[{name!r}] must have shape ({count},), got {got}")
    rows = {name: index[name] for name in counts}
    if size is None:
        size = 1 + max((int(row.max()) for row in rows.values() if len(row)), default=-1)
    # Looking at the values makes the host wait for the device; one full modality is enough.
    if max(counts.values()) != size:
        _check_covered(rows, size)
    return rows, size


def _check_covered(rows: Mapping[str, Tensor], size: int) -> None:
    seen = torch.zeros(size, dtype=torch.bool)
    for name, row in rows.items():
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < size:
            raise ValueError(f"index[{name!r}] must be within 0 to {size - 1}, got {row.tolist()}")
        seen[row.cpu()] = True
    if not seen.all():
        missing = (~seen).nonzero().flatten().tolist()
        raise ValueError(f"samples {missing} of the batch have no image of any modality")


def _scatter(x: Tensor, row: Tensor, size: int) -> Tensor:
    """Return rows at their places among ``size``, zeros elsewhere."""
    return x.new_zeros(size, *x.shape[1:]).index_copy(0, row, x)


def check_images(encoder: Encoder, images: Mapping[str, Tensor]) -> None:
    """Check modalities, bands and sizes.

    Args:
        encoder: Encoder that says which modalities and bands there are.
        images: Images by modality, (n, bands, H, W).

    Raises:
        ValueError: If they do not fit.
    """
    known = encoder.modalities
    for name, x in images.items():
        if name not in known:
            raise ValueError(f"images may hold modalities {list(known)}, got {name!r}")
        if x.dim() != 4 or x.shape[1] != known[name]:
            raise ValueError(
                f"images[{name!r}] must have shape (n, {known[name]}, H, W), got {tuple(x.shape)}"
            )
    # Tracers give sizes as tensors, which are equal but have different hashes.
    shapes = [x.shape[2:] for x in images.values()]
    if any(shape != shapes[0] for shape in shapes):
        sizes = {name: tuple(x.shape[2:]) for name, x in images.items()}
        raise ValueError(f"images of all modalities must have the same H and W, got {sizes}")


def encode(
    encoder: Encoder, x: Tensor, modality: str, between: Between | None = None
) -> list[Tensor]:
    """Return the encoder's maps, (B, C, ceil(H / stride), ceil(W / stride)), the finest first.

    Args:
        encoder: Encoder.
        x: Images, (B, bands, H, W).
        modality: Name of the stem.
        between: Function applied to the features of each stage before they go into the next;
            RS-vHeat and vHeat encoders only.

    Raises:
        ValueError: If ``between`` is given for another encoder.
    """
    if between is None:
        maps: Any = encoder.forward_intermediates(x, modality=modality, intermediates_only=True)
        return list(maps)
    if not isinstance(encoder, RSVHeat):
        raise ValueError("features can be exchanged between the stages of RSVHeat encoders only")
    features, scale = encoder._embed(x, modality, None)
    levels = []
    for i, stage in enumerate(encoder.stages):
        features = between(i, stage(features, scale))
        y = features if encoder.output_norms is None else encoder.output_norms[i](features)
        levels.append(y.permute(0, 3, 1, 2))
    return levels


def build_encoder(config: Mapping[str, Any]) -> Encoder:
    """Build an encoder with fresh weights.

    Args:
        config: Its ``config``, of either class.
    """
    arguments = dict(config)
    if "timm" in arguments:
        return TimmEncoder(arguments.pop("timm"), **arguments)
    return RSVHeat(**arguments)


def keep_maps_only(encoder: Encoder) -> None:
    """Remove the parts of an encoder that its feature maps do not need.

    A parameter without a gradient would stop DDP.

    Args:
        encoder: Encoder, changed in place.
    """
    if isinstance(encoder, RSVHeat):
        encoder.reset_classifier(0, "")
        encoder.prune_intermediate_layers(range(len(encoder.dims)), prune_norm=True)


def map_norms(encoder: Encoder) -> nn.ModuleList:
    """Return a fresh layer norm per stage for the encoder's maps.

    Decoders need them because the stages' residual sums have all scales. Maps of encoders with
    norms of their own (``output_norms``, or batch norms) get the identity.

    Args:
        encoder: Encoder that the maps come from.
    """
    if isinstance(encoder, RSVHeat):
        normed = encoder.output_norms is not None
    else:
        normed = any(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    return nn.ModuleList(nn.Identity() if normed else MapNorm(dim) for dim in encoder.dims)


class MeanFusion(nn.Module):
    """The mean of the maps of the sensors that a sample has.

    Args:
        dim: Number of channels.
        modalities: Names of the sensors.
    """

    def __init__(self, dim: int, modalities: Sequence[str]) -> None:
        super().__init__()

    def forward(self, maps: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the fused map, (B, C, h, w).

        Args:
            maps: Maps by sensor, (B, C, h, w).
            present: Whether each sample has each of these sensors, bool (sensors, B).
        """
        return weighted_sum(maps, _equal_shares(present)[:, :, None, None, None])


class GateFusion(nn.Module):
    """The sum of gated maps; the gates of a position and channel sum to one.

    A layer per sensor turns its map into a score per position and channel. The gates are the
    softmax of the scores over the sensors that the sample has, so a single sensor passes unchanged.
    Fresh weights give the mean.

    Args:
        dim: Number of channels.
        modalities: Names of the sensors.

    Source: gated multimodal units, Arevalo et al. (arXiv 1702.01992), section 3.1, with a softmax
    in place of the sigmoid, so that sensors may be missing.
    """

    def __init__(self, dim: int, modalities: Sequence[str]) -> None:
        super().__init__()
        self.scores = nn.ModuleDict({name: nn.Conv2d(dim, dim, 1) for name in modalities})
        for parameter in self.scores.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the fused map, as ``MeanFusion.forward`` does.

        Args:
            maps: Maps by sensor, (B, C, h, w).
            present: Whether each sample has each of these sensors, bool (sensors, B).
        """
        scores = torch.stack([self.scores[name](x) for name, x in maps.items()])
        return weighted_sum(maps, masked_softmax(scores, present[:, :, None, None, None]))


class AttentionFusion(nn.Module):
    """Attention over the sensors at each position, added to the mean of their maps.

    The query is the mean over the sensors that a sample has; keys and values are the sensors' maps
    plus an embedding of the sensor. Fresh weights give the mean.

    Args:
        dim: Number of channels.
        modalities: Names of the sensors.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.2, over sensors instead of positions.
    """

    def __init__(self, dim: int, modalities: Sequence[str]) -> None:
        super().__init__()
        self.heads = max(dim // 32, 1)
        while dim % self.heads:
            self.heads -= 1
        self.sensors = nn.ParameterDict({name: torch.empty(dim, 1, 1) for name in modalities})
        for embedding in self.sensors.values():
            nn.init.trunc_normal_(embedding, std=0.02)
        self.query = nn.Conv2d(dim, dim, 1)
        self.key = nn.Conv2d(dim, dim, 1, bias=False)  # a constant drops out of the softmax
        self.value = nn.Conv2d(dim, dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)
        for layer in (self.query, self.key, self.value):
            nn.init.trunc_normal_(layer.weight, std=dim**-0.5)
        for parameter in (self.query.bias, self.value.bias, self.out.weight, self.out.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, maps: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the fused map, as ``MeanFusion.forward`` does.

        Args:
            maps: Maps by sensor, (B, C, h, w).
            present: Whether each sample has each of these sensors, bool (sensors, B).
        """
        mean = weighted_sum(maps, _equal_shares(present)[:, :, None, None, None])
        query = self._split(self.query(mean))
        inputs = [x + self.sensors[name] for name, x in maps.items()]
        scores = torch.stack([(query * self._split(self.key(x))).sum(2) for x in inputs])
        scale = query.shape[2] ** -0.5
        weights = masked_softmax(scores * scale, present[:, :, None, None, None])
        values = {name: self._split(self.value(x)) for name, x in zip(maps, inputs, strict=True)}
        attended = weighted_sum(values, weights[:, :, :, None]).flatten(1, 2)
        fused: Tensor = mean + self.out(attended)
        return fused

    def _split(self, x: Tensor) -> Tensor:
        """Return the heads apart: (B, heads, C / heads, h, w)."""
        return torch.unflatten(x, 1, (self.heads, -1))


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Return the softmax over the first dimension, without the entries that are not present.

    Args:
        scores: Scores, (sensors, ...).
        present: Entries to count, bool, broadcast against ``scores``; one at least along the first
            dimension.
    """
    return scores.masked_fill(~present, -torch.inf).softmax(0)


def weighted_sum(maps: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """Return the sum over the sensors of weights times maps.

    Args:
        maps: Maps by sensor.
        weights: Weights, (sensors, ...), broadcast against the maps.
    """
    total: Tensor | None = None
    for x, weight in zip(maps.values(), weights, strict=True):
        part = x * weight.to(x.dtype)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("maps must hold at least one sensor")
    return total


def _equal_shares(present: Tensor) -> Tensor:
    """Return one over the number of sensors of each sample, 0 for those it lacks."""
    shares = present.float()
    return shares / shares.sum(0)
