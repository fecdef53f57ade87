# SPDX-License-Identifier: Apache-2.0
"""Terms on features for the pretraining objective, and statistics that tell whether it collapses.

The terms on images, L1 in space and in the DCT domain, are operators: see ``rsvheat.ops``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.nn.functional import cosine_similarity, normalize


def cosine_consistency(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Compare two sets of feature maps by direction, position by position.

    The mean of ``1 - cos(a, b)`` along the channels over samples and positions, averaged over
    levels: 0 for maps that agree up to positive factors, 2 for opposite ones. Nothing keeps
    features of different images apart: a constant satisfies it. See ``variance_hinge`` and
    ``info_nce``.

    Args:
        features_a: Channels-last maps (N, H, W, C) or vectors (N, C), a level each.
        features_b: Maps or vectors to compare with, of the same shapes.

    Returns:
        0-dim float32 or float64 tensor; zero, with a gradient, for N = 0.

    Raises:
        ValueError: If the levels' numbers or shapes differ.

    Source: RS-vHeat (arXiv 2411.17984), contrastive term; 1 - cosine as in
    ``rsvheat.ops.multi_domain_loss``, without its images.
    """
    if len(features_a) != len(features_b) or not features_a:
        raise ValueError(
            "features_a and features_b must have the same number of levels, at least 1, "
            f"got {len(features_a)} and {len(features_b)}"
        )
    terms = []
    for a, b in zip(features_a, features_b, strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"features_b must have features_a's shape {tuple(a.shape)}, got {tuple(b.shape)}"
            )
        distance = 1 - cosine_similarity(_precise(a), _precise(b), dim=-1)
        terms.append(distance.mean() if distance.numel() else distance.sum())
    return torch.stack(terms).mean()


def info_nce(embeddings: Tensor, samples: Tensor, temperature: float = 0.2) -> Tensor:
    """Tell each sample's views from those of all others (InfoNCE, NT-Xent with many positives).

    With unit vectors z and anchors i that have another view,
    ``-mean_i mean_{j in P(i)} log(exp(z_i.z_j / t) / sum_{k != i} exp(z_i.z_k / t))``
    where P(i) are the other embeddings of the same sample: augmented views, other modalities.

    Args:
        embeddings: Vectors (N, D) of any length; they are normalized here.
        samples: Integers (N,); embeddings with the same number are views of one sample.
        temperature: Temperature t, above 0.

    Returns:
        0-dim float32 or float64 tensor; zero, with a gradient, where no sample has two views.

    Raises:
        ValueError: If a shape or the temperature is not as above.

    Source: van den Oord et al. (arXiv 1807.03748); Chen et al. (arXiv 2002.05709), NT-Xent;
    Khosla et al. (arXiv 2004.11362), eq. 2, for several positives.
    """
    if embeddings.dim() != 2 or samples.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (N, D) and samples (N,), "
            f"got {tuple(embeddings.shape)} and {tuple(samples.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    with torch.autocast(embeddings.device.type, enabled=False):
        z = normalize(_precise(embeddings), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarity = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
        positive = (samples[:, None] == samples) & ~itself
        log_likelihood = similarity - similarity.logsumexp(1, keepdim=True)
        count = positive.sum(1)
        # An anchor's mean over its positives; anchors without any count for nothing.
        total = log_likelihood.masked_fill(~positive, 0).sum(1) / count.clamp(min=1)
        return -total.sum() / (count > 0).sum().clamp(min=1)


def variance_hinge(features: Tensor, target: float = 1.0) -> Tensor:
    """Penalize channels that vary less than ``target`` over the batch.

    The mean over channels of ``relu(target - std)`` of the features, each sample scaled to length
    ``sqrt(D)``: constant features give ``target``, features spread over all directions 0.

    Args:
        features: Features (N, D).
        target: Sufficient standard deviation; 1 is that of isotropic features.

    Returns:
        0-dim float32 or float64 tensor; zero, with a gradient, for N < 2.

    Source: Bardes et al. (arXiv 2105.04906), variance term, on the sphere.
    """
    if len(features) < 2:
        return _precise(features).sum() * 0
    return (target - _sphere(features).var(0).add(1e-6).sqrt()).relu().mean()


def feature_std(features: Tensor) -> Tensor:
    """Return the mean standard deviation of a channel, each sample scaled to length sqrt(D).

    1 where features spread over all directions alike, 0 where all are one: collapse. Features with
    a large common part sit between, so its course says more than its value.

    Args:
        features: Features (N, D); for N below 2 the result is 0.
    """
    if len(features) < 2:
        return torch.zeros((), device=features.device)
    return _sphere(features.detach()).var(0, correction=0).sqrt().mean()


def effective_rank(features: Tensor) -> Tensor:
    """Return the number of directions that features use: the covariance's participation ratio.

    ``(sum of eigenvalues)**2 / sum of squared eigenvalues``: 1 where one direction holds all
    variance, D where all hold the same, 0 where there is none. It needs no decomposition.

    Args:
        features: Features (N, D).
    """
    x = _precise(features.detach())
    x = x - x.mean(0) if len(x) else x
    with torch.autocast(x.device.type, enabled=False):
        gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    trace = gram.diagonal().sum()
    # Relative to what rounding leaves of features that are all alike.
    floor = torch.finfo(x.dtype).eps ** 2 * _precise(features.detach()).square().sum()
    rank = trace.square() / gram.square().sum().clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(trace > floor, rank, torch.zeros_like(rank))


def gather_samples(x: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of their ranks, with gradients.

    For losses that every process computes alike from the rows of all: gradients reach the local
    rows only, times the number of processes, so that the mean over the processes that DDP and FSDP
    take is the gradient of that loss. Nothing is sent in the backward pass, which therefore may
    differ from rank to rank. Ranks may hold different numbers of rows, none included; each must
    call this equally often. In a single process this is ``x`` itself.

    Args:
        x: Rows (n, ...), of the same trailing shape and dtype on all ranks.
    """
    world = world_size()
    if world == 1:
        return x
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.empty_like(count) for _ in range(world)]
    distributed.all_gather(counts, count)
    sizes = [int(size) for size in counts]
    own = x.detach()
    padded = torch.cat((own, own.new_zeros(max(sizes) - len(x), *x.shape[1:])))
    rows = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(rows, padded)
    parts = [row[:size] for row, size in zip(rows, sizes, strict=True)]
    parts[distributed.get_rank()] = _scale_gradient(x, world)
    return torch.cat(parts)


def world_size() -> int:
    """Return the number of processes that train together, 1 without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        size: int = distributed.get_world_size()
        return size
    return 1


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    if not x.requires_grad:
        return x
    y: Tensor = x.view_as(x)
    y.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return y


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _sphere(features: Tensor) -> Tensor:
    return normalize(_precise(features), dim=1) * math.sqrt(features.shape[1])
