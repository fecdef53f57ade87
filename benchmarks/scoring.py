# SPDX-License-Identifier: Apache-2.0
"""Scores of features: nearest neighbors, a linear probe, retrieval."""

from collections.abc import Mapping
from typing import Any

import torch
from image_sets import Labelled
from torch import Tensor
from torch.nn.functional import normalize

from rsvheat.evaluation.probing import Features, extract_features, knn, linear_probe
from rsvheat.models import RSVHeat, RSVHeatPretraining, pool_features

# The strengths that the linear probe chooses from; on these features others never won.
REGULARIZATION = (1e-1, 1e-2, 1e-3)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).float().mean())


def probes(train: Features, test: Features) -> dict[str, float]:
    """Return the accuracy of nearest neighbours and of the linear probe."""
    linear, _ = linear_probe(train, test.values, regularization=REGULARIZATION)
    return {
        "knn": accuracy(knn(train, test.values, 5), test.labels),
        "linear": accuracy(linear, test.labels),
    }


def frozen(encoder: RSVHeat, data: Labelled) -> dict[str, float]:
    """Return what the features of all stages, their means and deviations, tell."""
    train, test = (
        extract_features(
            encoder,
            (
                {"images": {"optical": data.images[i]}, "label": data.labels[i]}
                for i in rows.split(256)
            ),
            modality="optical",
        )
        for rows in (data.train, data.test)
    )
    return probes(train, test)


def image_statistics(data: Labelled) -> dict[str, Any]:
    """Return what mean, deviation and histogram of each band tell."""
    images = data.images
    edges = torch.quantile(images[data.train].flatten()[::97], torch.linspace(0, 1, 17))[1:-1]
    bins = torch.bucketize(images, edges).flatten(2)
    histogram = torch.stack([(bins == i).float().mean(2) for i in range(16)], dim=2)
    values = torch.cat(
        (images.mean((2, 3)), images.std((2, 3)), histogram.flatten(1).sqrt()), dim=1
    )
    train, test = (Features(values[i], data.labels[i]) for i in (data.train, data.test))
    return probes(train, test)


@torch.inference_mode()
def recalls(network: RSVHeat | RSVHeatPretraining, tiles: Mapping[str, Tensor]) -> dict[str, float]:
    """Rank the optical tiles for each radar tile; return how often its own is first, or in five.

    By cosine similarity of the pooled features, each standardised over the tiles of its modality,
    and of what the projectors make of them, where there are projectors.
    """
    network.eval()
    encoder = network.encoder if isinstance(network, RSVHeatPretraining) else network
    pooled, embedded = {}, {}
    for name, images in tiles.items():
        maps = [
            encoder.forward_intermediates(
                part, modality=name, output_fmt="NHWC", intermediates_only=True
            )
            for part in images.split(64)
        ]
        stages = [
            torch.cat([pool_features([part[i]]) for part in maps]) for i in range(len(maps[0]))
        ]
        features = torch.cat(stages, dim=1)
        pooled[name] = (features - features.mean(0)) / (features.std(0) + 1e-6)
        if isinstance(network, RSVHeatPretraining) and network.projectors:
            embedded[name] = torch.cat(
                [
                    normalize(projector(torch.cat([stages[i] for i in head], dim=1)), dim=1)
                    for head, projector in zip(network.heads, network.projectors, strict=True)
                ],
                dim=1,
            )
    result = {}
    for kind, vectors in (("features", pooled), ("embeddings", embedded)):
        if vectors:
            similar = normalize(vectors["sar"], dim=1) @ normalize(vectors["optical"], dim=1).T
            rank = (similar > similar.diagonal()[:, None]).sum(1)
            result |= {f"{kind}_at_{k}": float((rank < k).float().mean()) for k in (1, 5)}
    return result
