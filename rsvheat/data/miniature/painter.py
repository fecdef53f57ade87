# SPDX-License-Identifier: Apache-2.0
"""Small synthetic scenes with objects, and the image files that hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.synthetic import COVERS, Cover, make_scene


class Painter:
    """A scene on which objects are drawn, in pixels and labels alike.

    Args:
        size: Side, or (height, width), in pixels.
        seed: Seed of the scene and the objects.
        classes: Number of classes; objects of a class have a color of their own.
        cover: Land cover that has most of the scene.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        seed: tuple[int, ...],
        classes: int,
        cover: Cover | None = None,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        scene = make_scene(max(height, width), seed, cover=cover)
        self.rng = np.random.default_rng((*seed, 1))
        self.optical = scene.optical[:, :height, :width].copy()
        self.power = scene.sar[:, :height, :width].copy()
        self.covers = scene.cover[:height, :width]
        self.labels = np.zeros((height, width), np.uint8)
        self.numbers = np.zeros((height, width), np.uint8)
        self.paints = np.random.default_rng(7).uniform(0.05, 0.4, (classes, 3)).astype(np.float32)

    def cover(self, labels: Mapping[Cover, int]) -> None:
        """Label the land cover.

        Args:
            labels: Label of each cover.
        """
        table = np.array([labels[name] for name in COVERS], np.uint8)
        self.labels = table[self.covers]

    def add(self, label: int, count: int, side: int) -> None:
        """Draw rectangles of about ``side`` pixels.

        Args:
            label: Label of the objects.
            count: Number of objects.
            side: Largest side in pixels.
        """
        for _ in range(count):
            height, width = self.rng.integers(max(side // 2, 1), side + 1, 2)
            top = self.rng.integers(0, max(self.labels.shape[0] - height, 1))
            left = self.rng.integers(0, max(self.labels.shape[1] - width, 1))
            part = np.s_[..., top : top + height, left : left + width]
            self.labels[part] = label
            self.numbers[part] = self.numbers.max() + 1
            self.optical[part] = self.paints[label][:, None, None]
            self.power[part] *= 1 + label

    def add_polygon(self, label: int, corners: NDArray[np.float64]) -> None:
        """Draw a convex polygon.

        Args:
            label: Label of the object.
            corners: Corners (K, 2) as x and y, clockwise as seen.
        """
        y, x = np.mgrid[: self.labels.shape[0], : self.labels.shape[1]] + 0.5
        inside = np.ones(self.labels.shape, bool)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
            inside &= (x2 - x1) * (y - y1) >= (y2 - y1) * (x - x1)
        self.labels[inside] = label
        self.optical[:, inside] = self.paints[label][:, None]
        self.power[:, inside] *= 8 + label

    def picture(self, bands: int) -> NDArray[np.uint8]:
        """Return red, green, blue and, as a fourth band, near infrared, (bands, H, W)."""
        infrared = 0.4 * np.isin(self.covers, (1, 2)) + 0.1 * self.optical[:1]
        return _gray(np.concatenate((self.optical, infrared))[:bands] / 0.45)

    def radar(self) -> NDArray[np.uint8]:
        """Return decibels as gray values, (1, H, W)."""
        return _gray((10 * np.log10(self.power) + 30) / 40)

    def polarizations(self) -> dict[str, NDArray[np.uint16]]:
        """Return amplitudes by polarization, (1, H, W), skewed as those of a radar."""
        amplitude = 3000 * np.sqrt(self.power)
        cross = 0.4 * amplitude * self.rng.uniform(0.8, 1.2, amplitude.shape)
        bright = np.where(self.rng.random(amplitude.shape) > 0.999, 60000, amplitude)
        values = {"HH": bright, "HV": cross, "VH": cross, "VV": 1.1 * amplitude}
        return {
            name: value.clip(0, 65535).round().astype(np.uint16) for name, value in values.items()
        }

    def colors(self, table: Any) -> NDArray[np.uint8]:
        """Return the labels in colors, (3, H, W).

        Args:
            table: Colors by label.
        """
        colors = np.array(list(table), np.uint8)
        return np.moveaxis(colors[self.labels], 2, 0)

    def instances(self) -> NDArray[np.uint8]:
        """Return the numbers of the objects as colors, (3, H, W)."""
        return np.stack((self.numbers, self.numbers // 2, np.where(self.numbers, 128, 0))).astype(
            np.uint8
        )


def _gray(values: NDArray[Any]) -> NDArray[np.uint8]:
    gray: NDArray[np.uint8] = (255 * values.clip(0, 1)).round().astype(np.uint8)
    return gray


def write_tiff(
    path: Path, values: NDArray[Any], place: tuple[float, float, float, int] | None = None
) -> None:
    """Write a GeoTIFF of bands (C, H, W); ``place`` is left, top, pixel size and EPSG code."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if place is not None:
        left, top, pixel, code = place
        options["transform"] = rasterio.transform.from_origin(left, top, pixel, pixel)
        options["crs"] = f"EPSG:{code}"
    count, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=values.dtype,
            compress="lzw",
            **options,
        ) as file:
            file.write(values)


def write_picture(path: Path, values: NDArray[np.uint8]) -> None:
    """Write bands (C, H, W) as PNG or JPEG by the file's suffix."""
    import PIL.Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(np.ascontiguousarray(np.moveaxis(values, 0, 2).squeeze()))
    if path.suffix == ".jpg":
        image.save(path, quality=92)
    else:
        image.save(path)
