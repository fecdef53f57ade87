# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes seen by an optical sensor and a radar, for tests, documentation and first runs.

Both sensors see the land cover. Only the optical sensor sees colors and field parcels; only the
radar sees roughness, speckle and the point scatterers of buildings and ships. The scenes are no
substitute for images: they teach nothing about the Earth.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.readers import ArrayReader, ImageReader
from rsvheat.data.skip_report import Skip
from rsvheat.data.sources import Source

Cover: TypeAlias = Literal["water", "fields", "forest", "urban"]
COVERS: tuple[Cover, ...] = get_args(Cover)

# Typical values by cover: reflectance in red, green and blue; sigma nought in dB (C band, VV).
_REFLECTANCE = np.array(
    [[0.02, 0.04, 0.06], [0.14, 0.13, 0.08], [0.03, 0.05, 0.03], [0.17, 0.16, 0.15]]
)
_SIGMA_DB = np.array([-22.0, -12.0, -8.0, -7.0])


@dataclass(frozen=True)
class SyntheticScene:
    """One place, seen by both sensors.

    Attributes:
        optical: Reflectance in red, green and blue, 0 to 1; (3, H, W) float32.
        sar: Sigma nought in linear power; (1, H, W) float32, above 0.
        cover: Index in ``COVERS`` of each pixel; (H, W) uint8.
    """

    optical: NDArray[np.float32]
    sar: NDArray[np.float32]
    cover: NDArray[np.uint8]


def make_scene(
    size: int = 256, seed: int | tuple[int, ...] = 0, *, cover: Cover | None = None, looks: int = 4
) -> SyntheticScene:
    """Make a scene of about 10 m a pixel.

    Land cover follows smooth random fields. Reflectance is that of the cover, with the colors of
    parcels, shading and haze; backscatter is that of the cover, with the wetness of parcels and
    bright points in towns and on water, times the gamma-distributed speckle of ``looks``
    independent looks, which has mean 1 and variance 1 / ``looks``.

    Args:
        size: Side in pixels.
        seed: Seed; the same seed and arguments give the same scene.
        cover: Cover that has most of the scene; None for a random mixture.
        looks: Number of looks of the radar image.

    Raises:
        ValueError: If an argument is not as above.
    """
    if size < 8 or looks < 1 or cover not in (None, *COVERS):
        raise ValueError(
            f"size must be at least 8, looks at least 1, cover one of {COVERS} or None; "
            f"got {size}, {looks}, {cover!r}"
        )
    rng = np.random.default_rng(seed)
    wanted = rng.dirichlet(np.ones(4))
    if cover is not None:
        wanted = 0.25 * wanted + 0.75 * np.eye(4)[COVERS.index(cover)]
    # The highest of four smooth fields wins; their offsets make the shares about the wanted ones.
    fields = (
        np.stack([_smooth(size, rng, 2.0) for _ in COVERS])
        + 0.7 * np.log(wanted + 1e-3)[:, None, None]
    )
    covers = fields.argmax(0).astype(np.uint8)
    water, urban = covers == COVERS.index("water"), covers == COVERS.index("urban")

    parcels = _parcels(size, rng)
    farmed = covers == COVERS.index("fields")
    green = rng.uniform(0, 1, parcels.max() + 1)[parcels]  # of a crop: bare soil to full canopy
    optical = _REFLECTANCE[covers]
    crop = (1 - green)[..., None] * [0.20, 0.16, 0.11] + green[..., None] * [0.04, 0.09, 0.03]
    optical = np.where(farmed[..., None], crop, optical)
    wet = rng.normal(0, 2.5, parcels.max() + 1)[parcels]
    sigma_db = _SIGMA_DB[covers] + np.where(farmed, wet, 0)

    blocks = rng.random((size // 4 + 1, size // 4 + 1)).repeat(4, 0).repeat(4, 1)[:size, :size]
    optical += np.where(urban, 0.2 * (blocks - 0.5), 0)[..., None]
    points = rng.random((size, size))
    bright = (urban & (points > 0.97)) | (water & (points > 0.9995))
    sigma_db = sigma_db + np.where(bright, rng.uniform(10, 22, points.shape), 0)
    optical += np.where(water & bright, 0.3, 0)[..., None]

    optical *= 1 + 0.15 * _smooth(size, rng, 1.2)[..., None] * ~water[..., None]
    optical = optical * rng.uniform(0.8, 1.2) + rng.uniform(0, 0.02)
    optical += rng.normal(0, 0.002, optical.shape)
    speckle = rng.gamma(looks, 1 / looks, sigma_db.shape)
    sar = 10 ** ((sigma_db + rng.normal(0, 0.5)) / 10) * np.maximum(speckle, 1e-6)
    optical = np.moveaxis(optical, 2, 0).clip(0, 1)
    return SyntheticScene(optical.astype(np.float32), sar[None].astype(np.float32), covers)


def _smooth(size: int, rng: np.random.Generator, power: float) -> NDArray[np.float64]:
    """Return a periodic random field of mean 0 and deviation 1; amplitude ~ frequency**-power."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) * frequency**-power
    field = np.fft.irfft2(spectrum, (size, size))
    return (field - field.mean()) / field.std()  # type: ignore[no-any-return]


def _parcels(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a number for each pixel: rectangles of a grid with uneven lines, turned."""
    angle = rng.uniform(0, np.pi / 2)
    row, column = np.mgrid[:size, :size] - size / 2
    along = column * np.cos(angle) + row * np.sin(angle)
    across = row * np.cos(angle) - column * np.sin(angle)
    lines = [np.cumsum(rng.uniform(8, 40, size // 4)) - 2 * size for _ in range(2)]
    strips = np.searchsorted(lines[0], across)
    shifts = rng.uniform(0, 40, len(lines[0]) + 1)  # so that parcels of strips do not line up
    return strips * (len(lines[1]) + 1) + np.searchsorted(lines[1], along + shifts[strips])  # type: ignore[no-any-return]


class SyntheticSource(Source):
    """Scenes of ``make_scene``, made when they are read.

    Modality ``"optical"`` is reflectance; ``"sar"`` is linear power, for which
    ``Normalize(decibels="power")`` is made.

    Args:
        count: Number of scenes.
        size: Side of the scenes in pixels.
        seed: Seed of all scenes.
    """

    modalities = ("optical", "sar")

    def __init__(self, count: int, size: int = 256, seed: int = 0) -> None:
        self._count, self._size, self._seed = count, size, seed
        self._last: tuple[int, SyntheticScene] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images."""
        return {**self.__dict__, "_last": None}

    def __str__(self) -> str:
        """Return the number of scenes."""
        return f"{self._count} synthetic scenes"

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        return []

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return self._count

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return f"scene_{index:06}"

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return self.modalities

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        if self._last is None or self._last[0] != index:
            self._last = (index, make_scene(self._size, (self._seed, index)))
        values = self._last[1].optical if modality == "optical" else self._last[1].sar
        return ArrayReader(values, name=f"{self.key(index)} ({modality})")


def write_pairs(folder: str | os.PathLike[str], count: int, size: int = 256, seed: int = 0) -> None:
    """Write scenes as PNG: ``optical/`` in RGB, ``sar/`` in gray, the same names.

    Optical images show reflectance 0 to 0.4, radar images -30 to 10 dB, as 0 to 255.

    Args:
        folder: Folder of the two folders, which is created if it does not exist.
        count: Number of scenes.
        size: Side of the scenes in pixels.
        seed: Seed of all scenes.
    """
    for index in range(count):
        scene = make_scene(size, (seed, index))
        decibels = 10 * np.log10(scene.sar)
        _write(Path(folder, "optical", f"scene_{index:06}.png"), scene.optical / 0.4)
        _write(Path(folder, "sar", f"scene_{index:06}.png"), (decibels + 30) / 40)


def write_classes(
    folder: str | os.PathLike[str], count: int, size: int = 64, seed: int = 0
) -> None:
    """Write optical scenes as PNG, a folder for each cover that has most of the scene.

    Args:
        folder: Folder of the classes' folders, which is created if it does not exist.
        count: Number of scenes of each class.
        size: Side of the scenes in pixels.
        seed: Seed of all scenes.
    """
    for number, cover in enumerate(COVERS):
        for index in range(count):
            scene = make_scene(size, (seed, number, index), cover=cover)
            _write(Path(folder, cover, f"{cover}_{index:05}.png"), scene.optical / 0.4)


def _write(path: Path, image: NDArray[Any]) -> None:
    import PIL.Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (255 * image.clip(0, 1)).round().astype(np.uint8)
    PIL.Image.fromarray(np.moveaxis(values, 0, 2).squeeze()).save(path)
