# SPDX-License-Identifier: Apache-2.0
"""Windows of image files: normalized for a model, and as pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsvheat._display import display
from rsvheat.data import Normalize, Normalizer, Window, open_image
from rsvheat.data.skip_report import SampleError

# Largest side of a window in pixels: features of a larger one would take gigabytes.
MOST_PIXELS = 2048
# Sentinel-2 stacks begin with bands 1 (coastal), 2 (blue), 3 (green), 4 (red).
_NATURAL_COLORS: dict[int, tuple[int, ...]] = {12: (3, 2, 1), 13: (3, 2, 1)}


@dataclass(frozen=True)
class ImageWindow:
    """A window of an image file.

    Attributes:
        source: Path of the file.
        image: Image (bands, H, W), normalized, float32.
        picture: Picture (H, W, 3), from 0 to 1; pixels without data are gray.
        rgb: Bands of ``image`` that the picture shows, counted from 0; None if ``image`` lacks one.
        modality: Modality whose stem takes the image.
        window: Place of the window in the file.
        size: Height and width of the file's image in pixels.
        bands: Bands of the file that ``image`` holds, counted from 1.
        normalization: Origin of the normalization, in words.
        point: Row and column within the window.
        missing: Share of the values without data.
    """

    source: str
    image: Tensor
    picture: NDArray[np.float32]
    rgb: tuple[int, ...] | None
    modality: str
    window: Window
    size: tuple[int, int]
    bands: tuple[int, ...]
    normalization: str
    point: tuple[int, int]
    missing: float


def read_window(
    path: str | os.PathLike[str],
    modalities: Mapping[str, int],
    modality: str | None = None,
    *,
    bands: Sequence[int] | None = None,
    rgb: Sequence[int] | None = None,
    window: Window | Sequence[int] | None = None,
    size: int = 256,
    point: tuple[int, int] | None = None,
    normalizers: Mapping[str, Normalizer] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageWindow:
    """Read a window of an image file at its own resolution.

    Of a GeoTIFF only the blocks that the window touches are read.

    Args:
        path: Path of a GeoTIFF, PNG, JPEG or similar file.
        modalities: Number of bands by modality that the model takes.
        modality: Modality of the image; by default the first that takes as many bands.
        bands: Bands of the file, counted from 1; all by default.
        rgb: Bands of the file, counted from 1, that are shown as red, green and blue, or the one
            that is shown as gray; by default the first three of ``bands`` or, of a Sentinel-2 stack
            of 12 or 13 bands, the natural colors 4, 3, 2.
        window: Row, column, height and width in pixels; by default ``size`` pixels a side around
            ``point``.
        size: Side of the window in pixels; smaller images are taken whole.
        point: Row and column in the file; by default the center of the window, or that of the image
            without one.
        normalizers: Normalization by modality, as saved in a checkpoint; it precedes ``mean`` and
            ``std``.
        mean: Mean of each band in the file's unit; by default, as ``std``, that of the window.
        std: Standard deviation of each band.

    Returns:
        The window.

    Raises:
        FileNotFoundError: If there is no such file.
        SampleError: If the file is damaged, has other bands than the model takes, or no data in the
            window.
        ValueError: If an argument is not as above.
    """
    if not 1 <= size <= MOST_PIXELS:
        raise ValueError(f"size must be 1 to {MOST_PIXELS} pixels, got {size}")
    with open_image(path) as reader:
        whole = reader.height, reader.width
        part = _window(whole, window, size, point, reader.name)
        at = point or (part.top + part.height // 2, part.left + part.width // 2)
        at = at[0] - part.top, at[1] - part.left
        if not (0 <= at[0] < part.height and 0 <= at[1] < part.width):
            raise ValueError(f"point {_pixel(point or at)} is outside of the window {tuple(part)}")
        chosen = reader.data_bands if bands is None else tuple(bands)
        name = _modality(modalities, modality, len(chosen), reader.stored, reader.name)
        pixels = reader.read(part, None if bands is None else chosen)
        shown = pixels if rgb is None else reader.read(part, rgb)
    values, valid = pixels
    known = np.ones((1, 1, 1), bool) if valid is None else valid
    mask = np.broadcast_to(known, values.shape)
    if not mask.reshape(len(values), -1).any(1).all():
        raise SampleError("empty", f"{path} has no data in {tuple(part)}")
    if normalizers and name in normalizers:
        normalizer, how = normalizers[name], "as in the training of the checkpoint"
    else:
        normalizer, how = _own(values, mask, mean, std)
    order = _NATURAL_COLORS.get(len(values)) if rgb is None else None
    if rgb is not None and set(rgb) <= set(chosen):
        order = tuple(chosen.index(band) for band in rgb)
    seen = np.where(
        True if shown.valid is None else shown.valid, shown.values.astype(np.float32), np.nan
    )
    return ImageWindow(
        source=os.fspath(path),
        image=normalizer(pixels),
        picture=display(seen, order if rgb is None else None),
        rgb=order,
        modality=name,
        window=part,
        size=whole,
        bands=chosen,
        normalization=how,
        point=at,
        missing=float(1 - mask.mean()),
    )


def _window(
    whole: tuple[int, int],
    window: Sequence[int] | None,
    size: int,
    point: tuple[int, int] | None,
    name: str,
) -> Window:
    height, width = whole
    if point is not None and not (0 <= point[0] < height and 0 <= point[1] < width):
        raise ValueError(
            f"point {_pixel(point)} is outside of {name}, which has {height} rows and {width} "
            "columns"
        )
    if window is not None:
        if len(window) != 4:
            raise ValueError(f"window must be row, column, height, width, got {list(window)}")
        part = Window._make(window)
        if max(part.height, part.width) > MOST_PIXELS:
            raise ValueError(f"window may have {MOST_PIXELS} pixels a side, got {tuple(part)}")
        return part
    center = point or (height // 2, width // 2)
    starts = [
        min(max(middle - size // 2, 0), max(side - size, 0))
        for middle, side in zip(center, whole, strict=True)
    ]
    return Window(starts[0], starts[1], min(size, height), min(size, width))


def _pixel(point: Sequence[int]) -> str:
    return f"{point[0]},{point[1]} (row, column)"


def _modality(
    modalities: Mapping[str, int], modality: str | None, bands: int, stored: int, name: str
) -> str:
    takes = ", ".join(f"{count} ({key})" for key, count in modalities.items())
    there = f"{name} has {bands} band{'s' * (bands != 1)}"
    if modality is None:
        fitting = [key for key, count in modalities.items() if count == bands]
        if not fitting:
            possible = [count for count in modalities.values() if count <= stored]
            advice = _advice(possible[0]) if possible else ""
            raise SampleError("bands", f"{there}, the model takes {takes}{advice}")
        return fitting[0]
    if modality not in modalities:
        raise ValueError(f"modality must be one of {', '.join(modalities)}, got {modality!r}")
    wanted = modalities[modality]
    if wanted != bands:
        advice = _advice(wanted) if wanted <= stored else ""
        raise SampleError("bands", f"{there}, modality {modality!r} takes {wanted}{advice}")
    return modality


def _advice(bands: int) -> str:
    return f": choose them, such as --bands {','.join(map(str, range(1, bands + 1)))}"


def _own(
    values: NDArray[np.number],
    mask: NDArray[np.bool_],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Normalizer, str]:
    how = "by the mean and standard deviation given"
    if mean is None or std is None:
        if mean is not None or std is not None:
            raise ValueError("mean and std must be given together")
        how = "by its own mean and standard deviation, band by band; the weights name no others"
        exact = [band[valid].astype(np.float64) for band, valid in zip(values, mask, strict=True)]
        mean = [float(band.mean()) for band in exact]
        std = [float(band.std()) or 1.0 for band in exact]
    return Normalize(mean=mean, std=std).resolve(len(values)), how
