# SPDX-License-Identifier: Apache-2.0
"""Scores of frozen features: nearest neighbors and a linear probe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from rsvheat.data.splits import stratified_split
from rsvheat.models import RSVHeat, pool_features

# Strengths of regularization that the linear probe chooses from.
REGULARIZATION = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Features:
    """Features of labeled images.

    Attributes:
        values: Features (N, D), float32.
        labels: Labels (N,), int64.
    """

    values: Tensor
    labels: Tensor


def extract_features(
    encoder: RSVHeat,
    batches: Iterable[Mapping[str, Any]],
    *,
    modality: str | None = None,
    stages: Sequence[int] | None = None,
    deviation: bool = True,
) -> Features:
    """Compute features of images with an encoder that is not trained further.

    Args:
        encoder: Encoder with random or trained weights; it is in evaluation mode afterwards.
        batches: Batches with ``images`` and ``label``, see ``rsvheat.data.sample``.
        modality: Modality of the images; the encoder's first by default.
        stages: Stages of which features are pooled, as for
            ``rsvheat.models.RSVHeat.forward_intermediates``; None for all.
        deviation: Whether the channels' standard deviations over space follow their means.

    Returns:
        Features and labels, on the CPU.

    Raises:
        ValueError: If there is no batch, or images do not fit.
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    name = modality or encoder.default_modality
    values, labels = [], []
    with torch.inference_mode():
        for batch in batches:
            maps = encoder.forward_intermediates(
                batch["images"][name].to(device, non_blocking=True),
                list(stages) if stages is not None else None,
                output_fmt="NHWC",
                intermediates_only=True,
                modality=name,
            )
            assert isinstance(maps, list)
            values.append(pool_features(maps, deviation=deviation).cpu())
            labels.append(batch["label"])
    if not values:
        raise ValueError("there are no images to take features of")
    # A tensor made in inference mode cannot be part of a computation that is differentiated.
    return Features(torch.cat(values).clone(), torch.cat(labels))


def standardize(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return features shifted and scaled so that each of ``train`` has mean 0 and deviation 1.

    Constant features become 0.
    """
    deviation, mean = torch.std_mean(train, dim=0, correction=0)
    scale = torch.where(deviation > 1e-6 * mean.abs().clamp(min=1e-6), 1 / deviation, 0)
    return tuple((x - mean) * scale for x in (train, *others))


def knn(train: Features, test: Tensor, k: int = 5, *, chunk: int = 1024) -> Tensor:
    """Predict by the majority of the k nearest training samples.

    The nearest samples have the largest cosine similarity after ``standardize``. Of labels with
    the same number of votes, that of the larger sum of similarities wins.

    Args:
        train: Features whose labels are known.
        test: Features (N, D).
        k: Number of neighbors, from 1 to the number of training samples.
        chunk: Number of test samples at a time, which bounds the memory.

    Returns:
        Labels, (N,).

    Raises:
        ValueError: If ``k`` is not as above.
    """
    if not 1 <= k <= len(train.labels):
        raise ValueError(f"k must be 1 to the {len(train.labels)} training samples, got {k}")
    known, asked = (normalize(x, dim=1) for x in standardize(train.values, test))
    classes = int(train.labels.max()) + 1
    predicted = []
    for rows in asked.split(chunk):  # type: ignore[no-untyped-call]
        similarity, nearest = (rows @ known.T).topk(k)
        # Votes decide: all similarities together amount to half a vote at most.
        votes = 1 + (1 + similarity) / (4 * k)
        total = torch.zeros(len(rows), classes).scatter_add_(1, train.labels[nearest], votes)
        predicted.append(total.argmax(1))
    return torch.cat(predicted)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on standardized features.

    Attributes:
        weight: Weights (classes, D).
        bias: Biases (classes,).
        regularization: Factor on half the squared norm of ``weight`` beside the mean cross
            entropy.
    """

    weight: Tensor
    bias: Tensor
    regularization: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of standardized features (N, D)."""
        return x @ self.weight.T + self.bias


def linear_probe(
    train: Features,
    test: Tensor,
    *,
    regularization: Sequence[float] = REGULARIZATION,
    held_out: float = 0.2,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """Predict by multinomial logistic regression on standardized features.

    It is fitted by L-BFGS. The strength of regularization is the one that is best on a part of the
    training samples that is held out while it is chosen; then all of them are used.

    Args:
        train: Features whose labels are known.
        test: Features (N, D).
        regularization: Strengths to choose from; with a single one, nothing is held out.
        held_out: Share of the training samples that is held out, the same of each class.
        seed: Seed of the choice of held-out samples.

    Returns:
        Labels, (N,), and the strength chosen.

    Raises:
        ValueError: If there is nothing to choose from, or a class has a single sample to hold out.
    """
    if not regularization or not all(strength >= 0 for strength in regularization):
        raise ValueError(f"regularization must be numbers of at least 0, got {regularization}")
    classes = int(train.labels.max()) + 1
    strengths = sorted(regularization, reverse=True)
    chosen = strengths[0]
    if len(strengths) > 1:
        parts = stratified_split(train.labels.numpy(), {"held_out": held_out}, seed)
        fit, held = (torch.from_numpy(parts[name]) for name in ("train", "held_out"))
        if len(held) == 0:
            raise ValueError(
                f"of {len(train.labels)} training samples none can be held out to choose among "
                f"{len(strengths)} strengths of regularization: give one"
            )
        x, y = standardize(train.values[fit], train.values[held])
        probe, best = None, -1.0
        for strength in strengths:
            probe = _fit(x, train.labels[fit], classes, strength, probe)
            right = float((probe(y).argmax(1) == train.labels[held]).float().mean())
            if right > best:
                chosen, best = strength, right
    x, y = standardize(train.values, test)
    return _fit(x, train.labels, classes, chosen)(y).argmax(1), chosen


def _fit(
    x: Tensor, labels: Tensor, classes: int, strength: float, start: LinearProbe | None = None
) -> LinearProbe:
    weight = torch.zeros(classes, x.shape[1]) if start is None else start.weight.clone()
    bias = torch.zeros(classes) if start is None else start.bias.clone()
    probe = LinearProbe(weight.requires_grad_(), bias.requires_grad_(), strength)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=200,
        tolerance_grad=1e-5,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(probe(x), labels) + strength / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearProbe(weight.detach(), bias.detach(), strength)
