# SPDX-License-Identifier: Apache-2.0
"""Records inputs and outputs of the heat conduction operators while an encoder computes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from rsvheat.models import RSVHeat
from rsvheat.models.layers import HeatBlock, HeatOperator, predict_diffusivity

# The blocks of a stage that are recorded: one, negative from the end, or all.
Block: TypeAlias = int | Literal["all"]


@dataclass(frozen=True, order=True)
class Place:
    """A block of an encoder.

    Attributes:
        stage: Number of its stage, from 0.
        block: Number in the stage, from 0.
        stride: Pixels of the image from one position of the stage's grid to the next. The position
            (i, j) is centered on the image's pixel (i * stride, j * stride).
    """

    stage: int
    block: int
    stride: int

    def __str__(self) -> str:
        """Return the name that figures show."""
        return f"stage {self.stage}, block {self.block}"


@dataclass(frozen=True)
class Conduction:
    """One heat conduction, ``after = idct2d(dct2d(before) * exp(-k * |omega|**2))``.

    Attributes:
        place: Block of the encoder.
        before: Input of the operator, (B, H, W, C): a block's features after its spatial
            correction, depthwise convolution and linear layer.
        after: Output of the operator, (B, H, W, C), before norm and gate.
        k: Thermal diffusivity, (H, W, C) by frequency, in squared positions of the stage's grid;
            float32 or float64.
    """

    place: Place
    before: Tensor
    after: Tensor
    k: Tensor


def places(
    encoder: RSVHeat, stages: Sequence[int] | None = None, block: Block = -1
) -> list[tuple[Place, HeatOperator]]:
    """Return blocks of an encoder and their operators, from first to last.

    Args:
        encoder: Encoder.
        stages: Numbers of the stages, from 0, negative from the end; None for all.
        block: Number of the block in each stage, from 0, negative from the end; or ``"all"``.

    Raises:
        ValueError: If there is no such stage or block.
    """
    count = len(encoder.stages)
    chosen = range(count) if stages is None else stages
    if len(chosen) == 0 or not all(-count <= stage < count for stage in chosen):
        raise ValueError(f"stages must be within {-count} to {count - 1}, got {list(chosen)}")
    found = []
    for stage in sorted({stage % count for stage in chosen}):
        blocks = cast(Sequence[HeatBlock], encoder.stages[stage].blocks)
        depth = len(blocks)
        if block != "all" and not -depth <= block < depth:
            raise ValueError(
                f"block must be 'all' or within {-depth} to {depth - 1} in stage {stage}, "
                f"got {block}"
            )
        for i in range(depth) if block == "all" else [block % depth]:
            found.append((Place(stage, i, 4 * 2**stage), blocks[i].op))
    return found


@contextmanager
def record(
    encoder: RSVHeat, stages: Sequence[int] | None = None, block: Block = -1
) -> Iterator[list[Conduction]]:
    """Record inputs and outputs of an encoder's heat conduction operators.

    Within the context every call of the encoder adds one entry per block to the list. The encoder
    computes the same on the same path, kept filters and fused operators included; the tensors are
    copies. Contexts may be nested; threads that share an encoder record each other's calls.

    Args:
        encoder: Encoder.
        stages: Numbers of the stages, from 0, negative from the end; None for all.
        block: Number of the block in each stage, from 0, negative from the end; or ``"all"``.

    Yields:
        List of the records, empty at first.

    Raises:
        ValueError: If there is no such stage or block.
    """
    found: list[Conduction] = []
    handles = [
        operator.conduction.register_forward_hook(_recorder(place, found))
        for place, operator in places(encoder, stages, block)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _recorder(place: Place, found: list[Conduction]) -> Callable[..., None]:
    def recorded(module: nn.Module, arguments: tuple[Any, ...], after: Tensor) -> None:
        before, freq_embed, to_k, scale = arguments
        with torch.no_grad():
            k = predict_diffusivity(freq_embed, to_k, before.shape[1], before.shape[2], scale)
        # Copies: later steps of a block may write over both.
        found.append(Conduction(place, before.detach().clone(), after.detach().clone(), k.detach()))

    return recorded


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards each module back into its mode.

    Args:
        encoder: Model.
    """
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            if training:
                module.train()  # drops what evaluation has kept
        for module, training in modes.items():
            module.training = training


def conductions(
    encoder: RSVHeat,
    image: Tensor,
    modality: str | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: Block = -1,
    gsd: float | None = None,
) -> list[Conduction]:
    """Return inputs and outputs of an encoder's heat conduction operators for an image.

    The encoder runs in evaluation mode, and is left in the mode it was in.

    Args:
        encoder: Encoder.
        image: Image, (bands, H, W), normalized as in the encoder's training.
        modality: Name of the stem; the encoder's first by default.
        stages: Numbers of the stages, from 0, negative from the end; None for all.
        block: Number of the block in each stage, from 0, negative from the end; or ``"all"``.
        gsd: Ground sampling distance in meters per pixel, for encoders that take one.

    Returns:
        One entry for each block, from first to last, with a batch of 1.

    Raises:
        ValueError: If the image, the modality or a block is not as above.
    """
    batch = as_batch(encoder, image, modality)
    last = max(place.stage for place, _ in places(encoder, stages, block))
    with evaluating(encoder), torch.no_grad(), record(encoder, stages, block) as found:
        encoder.forward_intermediates(
            batch, [last], stop_early=True, intermediates_only=True, modality=modality, gsd=gsd
        )
    return found


def as_batch(encoder: RSVHeat, image: Tensor, modality: str | None) -> Tensor:
    """Return an image as a batch of 1, on the device and in the type of the encoder's weights.

    Args:
        encoder: Encoder.
        image: Image, (bands, H, W).
        modality: Name of the stem; the encoder's first by default.

    Raises:
        ValueError: If the image is of another shape, or holds NaN or infinite values.
    """
    name = encoder.default_modality if modality is None else modality
    if name not in encoder.modalities:
        raise ValueError(f"modality must be one of {list(encoder.modalities)}, got {modality!r}")
    bands = encoder.modalities[name]
    if image.dim() != 3 or image.shape[0] != bands or image.numel() == 0:
        raise ValueError(
            f"image must be ({bands}, H, W) for modality {name!r}, got {tuple(image.shape)}; the "
            f"model's modalities are {encoder.modalities}"
        )
    if not image.is_floating_point() or not image.isfinite().all():
        raise ValueError(f"image must hold finite floating-point values, got {image.dtype}")
    weight = next(encoder.stems.parameters())
    return image[None].to(weight.device, weight.dtype)
