# SPDX-License-Identifier: Apache-2.0
"""Effective receptive fields: which pixels the features in the middle of an image depend on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsvheat.explain.recording import as_batch, evaluating, places
from rsvheat.models import RSVHeat


@dataclass(frozen=True)
class ReceptiveField:
    """Dependence of the features at one position of a stage on each pixel.

    Attributes:
        stage: Number of the stage, from 0 on.
        stride: Pixels of the image from one position of the stage's grid to the next.
        center: Row and column of the pixel that the position is centered on.
        sensitivity: Sensitivity (H, W) to each pixel of the image, float64; adds up to 1.
    """

    stage: int
    stride: int
    center: tuple[int, int]
    sensitivity: NDArray[np.float64]

    def radius(self, share: float) -> float:
        """Return the radius in pixels, around the center, that holds a share of the sensitivity.

        Args:
            share: Share of the sensitivity, above 0, up to 1.
        """
        rows, columns = (
            np.arange(n) - c for n, c in zip(self.sensitivity.shape, self.center, strict=True)
        )
        distance = np.hypot(rows[:, None], columns).ravel()
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(self.sensitivity.ravel()[order])
        # Rounding may leave the whole a little below 1.
        return float(distance[order][np.searchsorted(held, min(share, held[-1]))])


def effective_receptive_field(
    encoder: RSVHeat,
    images: Tensor,
    modality: str | None = None,
    *,
    stages: Sequence[int] | None = None,
    probes: int = 8,
    gsd: float | None = None,
    seed: int = 0,
) -> list[ReceptiveField]:
    """Return which pixels the features in the middle of images depend on, stage by stage.

    The sensitivity to a pixel is the sum of the squared derivatives of all of a stage's channels at
    the middle of its grid, with respect to all bands of the pixel. Instead of one backward pass a
    channel it takes ``probes`` of them, each of the channels' sum with random signs, whose squared
    derivative is the same in the mean. Images are averaged, and so are the probes.

    Args:
        encoder: Encoder that is looked at; its mode stays as it was.
        images: Image (bands, H, W), or several (N, bands, H, W), normalized as in the model's
            training.
        modality: Modality whose stem takes the image; the model's first by default.
        stages: Numbers of the stages, from 0 on, or negative from the end; all by default.
        probes: Number of backward passes for each image and stage.
        gsd: Ground sampling distance in meters per pixel, for models that take one.
        seed: Seed of the random signs.

    Returns:
        One entry for each stage, from first to last.

    Raises:
        ValueError: If an argument is not as above, or the features do not depend on the images.

    Source: W. Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks (arXiv 1701.04128).
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    if images.dim() == 4 and len(images) == 0:
        raise ValueError("images must hold at least one")
    chosen = sorted({place.stage for place, _ in places(encoder, stages, 0)})
    generator = torch.Generator().manual_seed(seed)
    sums = [torch.zeros(images.shape[-2:], dtype=torch.float64) for _ in chosen]
    shapes: list[tuple[int, int]] = []
    with evaluating(encoder), _frozen(encoder), torch.enable_grad():
        for image in images if images.dim() == 4 else [images]:
            x = as_batch(encoder, image, modality).requires_grad_()
            _, maps = encoder.forward_intermediates(
                x, chosen, stop_early=True, modality=modality, gsd=gsd
            )
            shapes = [(y.shape[2] // 2, y.shape[3] // 2) for y in maps]
            for total, y, (row, column) in zip(sums, maps, shapes, strict=True):
                features = y[0, :, row, column]
                for _ in range(probes):
                    signs = torch.randint(2, features.shape, generator=generator) * 2.0 - 1
                    (gradient,) = torch.autograd.grad(
                        features, x, signs.to(features), retain_graph=True
                    )
                    total += gradient[0].double().square().sum(0).cpu()
    fields = []
    for stage, total, (row, column) in zip(chosen, sums, shapes, strict=True):
        if not total.sum() > 0:
            raise ValueError(f"the features of stage {stage} do not depend on the images")
        stride = 4 * 2**stage
        center = (row * stride, column * stride)
        fields.append(ReceptiveField(stage, stride, center, (total / total.sum()).numpy()))
    return fields


@contextmanager
def _frozen(encoder: nn.Module) -> Iterator[None]:
    """Compute no gradients of parameters, so that the encoder takes its path of evaluation."""
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
