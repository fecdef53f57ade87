# SPDX-License-Identifier: Apache-2.0
"""Types that appear in the signatures of the operators."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

Layout: TypeAlias = Literal["nchw", "nhwc"]
Reduction: TypeAlias = Literal["mean", "sum"]
# One value for the batch, or one per sample.
PerSample: TypeAlias = float | Sequence[float] | Tensor
# (angle_0, angle_1), or a (B, 2) tensor.
Angles: TypeAlias = tuple[PerSample, PerSample] | Tensor
# Feature maps of one view: one tensor, or one per level.
Features: TypeAlias = Tensor | Sequence[Tensor]


class MultiDomainLoss(NamedTuple):
    """The multi-domain loss and its parts, 0-dim tensors.

    Attributes:
        total: Weighted sum of the parts; the value to differentiate.
        spatial: Mean absolute error in space, unweighted.
        spectral: Mean absolute error of the orthonormal DCT-II coefficients, unweighted.
        cosine: Mean of one minus the cosine similarity of the features, unweighted.
    """

    total: Tensor
    spatial: Tensor
    spectral: Tensor
    cosine: Tensor
