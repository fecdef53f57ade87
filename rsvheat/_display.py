# SPDX-License-Identifier: Apache-2.0
"""Images as people see them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Percentiles of an image's values that become black and full color.
_SHOWN = (2.0, 98.0)


def display(image: Tensor | NDArray[Any], rgb: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Return an image as people see it: each band stretched from its 2nd to its 98th percentile.

    Args:
        image: Image, (bands, H, W), in any unit; NaN where there is no data.
        rgb: Bands that are red, green and blue, or the one that is gray, counted from 0; by default
            the first three, or the first where there are fewer.

    Returns:
        (H, W, 3), from 0 to 1.

    Raises:
        ValueError: If the image has no such bands.
    """
    bands = pick_bands(image, rgb)
    return stretch(bands, *limits(bands))


def pick_bands(image: Tensor | NDArray[Any], rgb: Sequence[int] | None) -> NDArray[np.float32]:
    """Return the three bands that are shown, (3, H, W).

    Args:
        image: Image, (bands, H, W).
        rgb: Bands, as for ``display``.

    Raises:
        ValueError: If the image has no such bands.
    """
    values = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, np.float32)
    count = len(values)
    chosen = list(range(3) if count >= 3 else range(1)) if rgb is None else list(rgb)
    if values.ndim != 3 or len(chosen) not in (1, 3) or not all(0 <= i < count for i in chosen):
        raise ValueError(
            f"rgb must be one or three bands of an image of (bands, H, W), got {chosen} for "
            f"{values.shape}"
        )
    return values[chosen * (4 - len(chosen)) if len(chosen) == 1 else chosen]


def limits(bands: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lowest value that is shown of each band, and the span up to the highest.

    Args:
        bands: Bands, (3, H, W).
    """
    low, high = np.nanpercentile(bands, _SHOWN, axis=(1, 2), keepdims=True)
    return low, np.where(high > low, high - low, 1)


def stretch(
    bands: NDArray[np.float32], low: NDArray[Any], span: NDArray[Any]
) -> NDArray[np.float32]:
    """Return bands as an image, (H, W, 3) from 0 to 1.

    Args:
        bands: Bands, (3, H, W).
        low: Value that becomes 0.
        span: Distance from there to the value that becomes 1.
    """
    # Pixels without data are medium gray.
    shown = np.nan_to_num(np.clip((bands - low) / span, 0, 1), nan=0.5)
    result: NDArray[np.float32] = np.moveaxis(shown, 0, 2).astype(np.float32)
    return result
