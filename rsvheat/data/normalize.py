# SPDX-License-Identifier: Apache-2.0
"""Normalization of a sensor's values, and the statistics for it."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat._files import complete_file
from rsvheat.data.readers import ImageReader, Pixels, Window
from rsvheat.data.skip_report import DataError, SampleError

if TYPE_CHECKING:
    from rsvheat.data.sources import Indices, Source

Decibels: TypeAlias = Literal["none", "power", "amplitude"]
Method: TypeAlias = Literal["fixed", "percentile", "mean_std"]

# Percentiles that statistics hold; between them they are interpolated.
PERCENTILES: tuple[float, ...] = (
    *(0, 0.1, 0.5, 1, 2, 3, 5, 10, 20, 25, 30, 40, 50),
    *(60, 70, 75, 80, 90, 95, 97, 98, 99, 99.5, 99.9, 100),
)
_DEVIATIONS = 5.0


@dataclass(frozen=True)
class Normalize:
    """Method by which the values of a sensor are normalized.

    First decibels, if asked for, then ``(value - center) / scale`` for each band:

    - ``fixed``: ``low`` becomes -1 and ``high`` 1; ``clip`` limits to [-1, 1]
    - ``percentile``: the same, at two percentiles
    - ``mean_std``: mean and standard deviation; ``clip`` limits to 5 deviations on either side

    Pixels without data (nodata, masked, NaN, infinite, and not above 0 where decibels are taken)
    become ``fill``; the default 0 is the center of each method.

    Args:
        method: Method, one of those above.
        low: Value that becomes -1: for ``fixed`` one for all bands or one for each, for
            ``percentile`` a percentile, 2 by default.
        high: Value that becomes 1, in the same form; for ``percentile`` 98 by default.
        mean: Mean of each band for ``mean_std``; None takes that of the statistics.
        std: Standard deviation of each band for ``mean_std``; None takes that of the statistics.
        decibels: Conversion before that: ``"power"`` takes 10 log10 of the file's values,
            ``"amplitude"`` 20 log10, ``"none"`` nothing: for optical images, and for SAR that is in
            decibels already. All other arguments and statistics refer to the result.
        clip: Whether values are clipped, as said above.
        fill: Value of pixels without data, in normalized units.

    Raises:
        ValueError: If an argument is not as above.
    """

    method: Method = "mean_std"
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    decibels: Decibels = "none"
    clip: bool = True
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, choices in (("method", get_args(Method)), ("decibels", get_args(Decibels))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if self.method == "fixed" and (self.low is None or self.high is None):
            raise ValueError('method "fixed" needs low and high')
        if self.method == "percentile":
            low, high = self._percentiles()
            if not 0 <= low < high <= 100:
                raise ValueError(f"percentiles must be 0 <= low < high <= 100, got {low}, {high}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        given = {
            "fixed": ("low", "high"),
            "percentile": ("low", "high"),
            "mean_std": ("mean", "std"),
        }
        for name in ("low", "high", "mean", "std"):
            if name not in given[self.method] and getattr(self, name) is not None:
                raise ValueError(f"{name} has no meaning for method {self.method!r}")

    def _percentiles(self) -> tuple[float, float]:
        low = 2.0 if self.low is None else self.low
        high = 98.0 if self.high is None else self.high
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            raise ValueError("the percentiles low and high must be one number each")
        return low, high

    @property
    def needs_statistics(self) -> bool:
        """Whether ``resolve`` takes statistics."""
        return self.method == "percentile" or (self.method == "mean_std" and self.mean is None)

    def resolve(self, bands: int, statistics: "Statistics | None" = None) -> "Normalizer":
        """Return the normalizer of a sensor's images.

        Args:
            bands: Number of bands.
            statistics: Statistics of the sensor's values, in decibels if ``decibels`` is set.

        Returns:
            The normalizer.

        Raises:
            ValueError: If statistics are needed and missing, of another number of bands or in
                another unit, or if a band's scale is not positive.
        """
        limit = _DEVIATIONS if self.method == "mean_std" else 1.0
        if self.low is not None and self.high is not None and self.method == "fixed":
            low, high = _per_band("low", self.low, bands), _per_band("high", self.high, bands)
            center, scale = (low + high) / 2, (high - low) / 2
        elif self.mean is not None and self.std is not None:
            center, scale = _per_band("mean", self.mean, bands), _per_band("std", self.std, bands)
        else:
            statistics = self._checked(bands, statistics)
            if self.method == "mean_std":
                center, scale = np.array(statistics.mean), np.array(statistics.std)
            else:
                low, high = (statistics.percentile(percent) for percent in self._percentiles())
                center, scale = (low + high) / 2, (high - low) / 2
        # A band that is constant in all the data carries nothing; it becomes 0.
        scale = np.where((scale == 0) & self.needs_statistics, 1.0, scale)
        if not (np.isfinite(center) & np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(
                f"normalization by {self.method} must have finite values and a positive scale for "
                f"each band, got centers {center.tolist()} and scales {scale.tolist()}"
            )
        return Normalizer(
            tuple(center.tolist()),
            tuple(scale.tolist()),
            limit if self.clip else math.inf,
            self.decibels,
            self.fill,
        )

    def _checked(self, bands: int, statistics: "Statistics | None") -> "Statistics":
        if statistics is None:
            raise ValueError(f"method {self.method!r} needs statistics of the data")
        if len(statistics.mean) != bands or statistics.decibels != self.decibels:
            raise ValueError(
                f"statistics of {len(statistics.mean)} bands with decibels "
                f"{statistics.decibels!r} are not those of {bands} bands with "
                f"decibels {self.decibels!r}"
            )
        return statistics


def _per_band(name: str, value: float | Sequence[float], bands: int) -> NDArray[np.float64]:
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if values.shape not in ((1,), (bands,)):
        raise ValueError(f"{name} must be one number or {bands}, one for each band, got {value}")
    return np.broadcast_to(values, bands)


@dataclass(frozen=True)
class Normalizer:
    """Normalizes images: ``(value - center) / scale``, clipped to ``limit`` on either side.

    Attributes:
        center: Value of each band that becomes 0.
        scale: Difference in each band that becomes 1.
        limit: Bound of clipping in normalized units; infinite for none.
        decibels: Conversion before that, see ``Normalize``.
        fill: Value of pixels without data, in normalized units.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    limit: float
    decibels: Decibels = "none"
    fill: float = 0.0

    def __call__(self, pixels: Pixels) -> Tensor:
        """Normalize an image.

        Args:
            pixels: Values (C, H, W) as they are in the file, and the mask of valid pixels.

        Returns:
            Image (C, H, W), float32, finite.

        Raises:
            ValueError: If the number of bands differs.
        """
        if len(pixels.values) != len(self.center):
            raise ValueError(f"the image has {len(pixels.values)} bands, not {len(self.center)}")
        values, valid = to_decibels(pixels, self.decibels)
        # float32 holds every value of up to 16 bits; others keep their precision up to the end.
        exact = np.float32 if values.itemsize <= 2 or values.dtype == np.float32 else np.float64
        result = values.astype(exact)
        result -= np.array(self.center, exact)[:, None, None]
        result /= np.array(self.scale, exact)[:, None, None]
        if math.isfinite(self.limit):
            np.clip(result, -self.limit, self.limit, out=result)
        if valid is not None:
            result = np.where(valid, result, exact(self.fill))
        return torch.from_numpy(result.astype(np.float32, copy=False))

    def invert(self, image: Tensor) -> Tensor:
        """Return values in the file's unit, in decibels where they were taken.

        Args:
            image: Normalized image (..., C, H, W).

        Returns:
            Image of the same shape and dtype; clipped values stay clipped.
        """
        scale = torch.as_tensor(self.scale, dtype=image.dtype, device=image.device)
        center = torch.as_tensor(self.center, dtype=image.dtype, device=image.device)
        return image * scale[:, None, None] + center[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON and checkpoints."""
        return {
            "center": list(self.center),
            "scale": list(self.scale),
            "limit": self.limit if math.isfinite(self.limit) else None,
            "decibels": self.decibels,
            "fill": self.fill,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Normalizer":
        """Return the normalizer of ``to_dict``.

        Args:
            content: Result of ``to_dict``.

        Raises:
            ValueError: If it is something else.
        """
        try:
            limit = content["limit"]
            return cls(
                tuple(content["center"]),
                tuple(content["scale"]),
                math.inf if limit is None else float(limit),
                content["decibels"],
                float(content["fill"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the content of a normalizer: {content}") from error


def to_decibels(pixels: Pixels, decibels: Decibels) -> Pixels:
    """Return an image in decibels.

    Args:
        pixels: Values (C, H, W), and the mask of valid pixels.
        decibels: Conversion, see ``Normalize``; ``"none"`` returns the image as it is.

    Returns:
        Values in decibels, and the mask of valid pixels: values must be above 0.
    """
    if decibels == "none":
        return pixels
    values, valid = pixels
    positive = values > 0  # NaN is not
    if not positive.all():
        valid = positive if valid is None else valid & positive
        values = np.where(positive, values, 1)
    factor = 10 if decibels == "power" else 20
    return Pixels(factor * np.log10(values, dtype=np.promote_types(values.dtype, "f4")), valid)


@dataclass(frozen=True)
class Sensor:
    """Bands of a modality's files, and their normalization.

    Args:
        bands: Number of bands that the model takes.
        select: Bands of a file that the model takes, from 1 on: ``[1]`` for gray images saved as
            RGB, ``[4, 3, 2]`` for the natural colors of a Sentinel-2 stack. None takes all, and
            files must have just ``bands``, where an alpha channel counts if it has to.
        normalize: Normalization of the values.
        nodata: Value that stands for no data in files that do not say so themselves.

    Raises:
        ValueError: If ``bands`` is below 1, or ``select`` is not that many bands.
    """

    bands: int = 3
    select: Sequence[int] | None = None
    normalize: Normalize = field(default_factory=Normalize)
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.bands < 1:
            raise ValueError(f"bands must be at least 1, got {self.bands}")
        if self.select is not None and (len(self.select) != self.bands or min(self.select) < 1):
            raise ValueError(
                f"select must name {self.bands} bands, counted from 1, got {list(self.select)}"
            )

    def read(self, reader: ImageReader, window: Window | None = None) -> Pixels:
        """Read the sensor's bands.

        Args:
            reader: Reader of an image of the sensor.
            window: Part of the image; None for all of it.

        Returns:
            The values and the mask of valid pixels.

        Raises:
            SampleError: If the file is damaged or has another number of bands.
        """
        select = self.select
        if select is None and reader.bands != self.bands:
            if reader.stored != self.bands:
                raise SampleError(
                    "bands", f"{reader.name} has {reader.bands} bands, expected {self.bands}"
                )
            select = range(1, self.bands + 1)
        values, valid = reader.read(window, select)
        if self.nodata is not None:
            data = values != self.nodata
            if not data.all():
                valid = data if valid is None else valid & data
        return Pixels(values, valid)


@dataclass(frozen=True)
class Statistics:
    """Statistics of a sensor's valid pixels.

    Attributes:
        mean: Mean of each band.
        std: Standard deviation of each band.
        percentiles: Values (bands, 25) at the percentiles ``PERCENTILES``.
        decibels: Unit of the values, see ``Normalize``.
        images: Number of images that were sampled.
        pixels: Number of valid pixels of each band.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    percentiles: tuple[tuple[float, ...], ...]
    decibels: Decibels
    images: int
    pixels: tuple[int, ...]

    def percentile(self, percent: float) -> NDArray[np.float64]:
        """Return a percentile of each band, interpolated between those that are kept.

        Args:
            percent: Percentage from 0 to 100.
        """
        return np.array([np.interp(percent, PERCENTILES, band) for band in self.percentiles])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON and checkpoints."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "percentiles": [list(band) for band in self.percentiles],
            "decibels": self.decibels,
            "images": self.images,
            "pixels": list(self.pixels),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Statistics":
        """Return the statistics of ``to_dict``.

        Args:
            content: Result of ``to_dict``.

        Raises:
            ValueError: If it is something else.
        """
        try:
            statistics = cls(
                tuple(content["mean"]),
                tuple(content["std"]),
                tuple(tuple(band) for band in content["percentiles"]),
                content["decibels"],
                content["images"],
                tuple(content["pixels"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not statistics of data: {error!r}") from error
        if any(len(band) != len(PERCENTILES) for band in statistics.percentiles):
            raise ValueError(f"statistics must have {len(PERCENTILES)} percentiles for each band")
        return statistics


def compute_statistics(
    source: "Source",
    sensors: Mapping[str, Sensor],
    *,
    indices: "Indices | None" = None,
    images: int = 256,
    pixels: int = 4096,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> dict[str, Statistics]:
    """Compute statistics of every sensor from a sample of the data.

    Of ``images`` samples of each modality, drawn without repetition, up to ``pixels`` pixels each
    are taken. Files that cannot be read are left out, as in training.

    Args:
        source: Source of the images.
        sensors: Sensors by modality; their normalization tells whether decibels are taken.
        indices: Samples of the source; None for all.
        images: Largest number of samples of a modality.
        pixels: Largest number of pixels of an image, from a window of up to 1024 pixels a side.
        seed: Seed of the sampling.
        cache: Path of a JSON file. If it holds statistics of the same samples and arguments,
            they are returned; if not, it is written.

    Returns:
        Statistics by modality, of those that the source has.

    Raises:
        DataError: If no sample of a modality can be read.
        ValueError: If a modality has no sensor.
    """
    indices = range(len(source)) if indices is None else indices
    missing = set(source.modalities) - set(sensors)
    if missing:
        raise ValueError(f"there is no sensor for {', '.join(sorted(missing))}")
    fingerprint = _fingerprint(source, sensors, indices, images, pixels, seed)
    if cache is not None:
        cached = _load(Path(cache), fingerprint)
        if cached is not None:
            return cached
    order = np.random.default_rng(seed).permutation(len(indices)).tolist()
    result = {}
    for modality in source.modalities:
        taken: list[NDArray[Any]] = []  # (bands, pixels), NaN where not valid
        problem: SampleError | None = None
        for position in order:
            if len(taken) == images:
                break
            index = int(indices[position])
            if modality not in source.present(index):
                continue
            rng = np.random.default_rng([seed, index])
            try:
                taken.append(
                    _sample_pixels(source, index, modality, sensors[modality], pixels, rng)
                )
            except SampleError as error:
                problem = error
        if not taken:
            raise DataError(
                f"no {modality} image of {source} can be read"
                + (f"; the last of them: {problem}" if problem else ": there is none")
            )
        result[modality] = _summarize(taken, sensors[modality].normalize.decibels, modality, source)
    if cache is not None:
        save_statistics(result, cache, fingerprint)
    return result


def _sample_pixels(
    source: "Source",
    index: int,
    modality: str,
    sensor: Sensor,
    pixels: int,
    rng: np.random.Generator,
) -> NDArray[Any]:
    with source.open(index, modality) as reader:
        height, width = min(reader.height, 1024), min(reader.width, 1024)
        top = int(rng.integers(reader.height - height + 1))
        left = int(rng.integers(reader.width - width + 1))
        values, valid = to_decibels(
            sensor.read(reader, Window(top, left, height, width)), sensor.normalize.decibels
        )
    flat = values.reshape(len(values), -1).astype(np.float64)
    if valid is not None:
        flat = np.where(np.broadcast_to(valid, values.shape).reshape(flat.shape), flat, np.nan)
    if flat.shape[1] > pixels:
        flat = flat[:, rng.choice(flat.shape[1], pixels, replace=False)]
    return flat


def _summarize(
    taken: list[NDArray[Any]], decibels: Decibels, modality: str, source: "Source"
) -> Statistics:
    values = np.concatenate(taken, axis=1)
    counts = np.isfinite(values).sum(1)
    if (counts == 0).any():
        raise DataError(f"the {modality} images of {source} have no valid pixel in some band")
    return Statistics(
        tuple(np.nanmean(values, 1).tolist()),
        tuple(np.nanstd(values, 1).tolist()),
        tuple(tuple(band) for band in np.nanpercentile(values, PERCENTILES, axis=1).T.tolist()),
        decibels,
        len(taken),
        tuple(counts.tolist()),
    )


def _fingerprint(
    source: "Source",
    sensors: Mapping[str, Sensor],
    indices: "Indices",
    images: int,
    pixels: int,
    seed: int,
) -> str:
    """Return a digest of the samples and arguments that statistics depend on."""
    digest = hashlib.sha256()
    for modality in source.modalities:
        sensor = sensors[modality]
        chosen = None if sensor.select is None else list(sensor.select)
        what = [modality, sensor.bands, chosen, sensor.nodata, sensor.normalize.decibels]
        digest.update(json.dumps(what).encode())
    digest.update(json.dumps([len(indices), images, pixels, seed]).encode())
    for index in indices:
        digest.update(source.key(int(index)).encode() + b"\0")
    return digest.hexdigest()


def save_statistics(
    statistics: Mapping[str, Statistics],
    path: str | os.PathLike[str],
    fingerprint: str | None = None,
) -> None:
    """Write statistics as JSON, whole or not at all.

    Args:
        statistics: Statistics by modality.
        path: Path of the file.
        fingerprint: Digest of the data that they were computed from.
    """
    content = {
        "format": "rsvheat statistics 1",
        "fingerprint": fingerprint,
        "modalities": {name: value.to_dict() for name, value in statistics.items()},
    }
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def load_statistics(path: str | os.PathLike[str]) -> dict[str, Statistics]:
    """Read statistics that ``save_statistics`` wrote.

    Args:
        path: Path of the file.

    Returns:
        Statistics by modality.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    return _parse(Path(path))[1]


def _parse(path: Path) -> tuple[str | None, dict[str, Statistics]]:
    try:
        content = json.loads(path.read_text())
        if content["format"] != "rsvheat statistics 1":
            raise ValueError(f"its format is {content['format']!r}")
        statistics = {
            name: Statistics.from_dict(value) for name, value in content["modalities"].items()
        }
        return content["fingerprint"], statistics
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold statistics of data: {error}") from error


def _load(path: Path, fingerprint: str) -> dict[str, Statistics] | None:
    if not path.exists():
        return None
    found, statistics = _parse(path)
    return statistics if found == fingerprint else None
