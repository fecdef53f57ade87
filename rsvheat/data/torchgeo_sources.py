# SPDX-License-Identifier: Apache-2.0
"""Optical-SAR pairs from TorchGeo's datasets (``pip install 'rsvheat[torchgeo]'``)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.readers import ArrayReader, ImageReader
from rsvheat.data.skip_report import DataError, SampleError, Skip
from rsvheat.data.sources import Source


class _TorchGeoSource(Source):
    """Caches the last sample, since its modalities are read one after the other."""

    modalities = ("optical", "sar")

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root)
        self._last: tuple[int, dict[str, NDArray[Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images."""
        return {**self.__dict__, "_last": None}

    def __str__(self) -> str:
        """Return the folder."""
        return f"{type(self).__name__} in {self._root}"

    def present(self, index: int) -> tuple[str, ...]:
        """See ``Source.present``."""
        return self.modalities

    def open(self, index: int, modality: str) -> ImageReader:
        """See ``Source.open``."""
        if self._last is None or self._last[0] != index:
            # TorchGeo passes on rasterio's errors about damaged or missing files: OSErrors.
            try:
                self._last = (index, self._load(index))
            except OSError as error:
                reason = str(error).strip().split("\n")[0]
                raise SampleError("damaged", f"{self}: {reason}") from error
        image = self._last[1][modality]
        return ArrayReader(image, name=f"{self.key(index)} ({modality}) of {self}")

    def _load(self, index: int) -> dict[str, NDArray[Any]]:
        raise NotImplementedError


class SEN12MSSource(_TorchGeoSource):
    r"""SEN12MS: Sentinel-1 in decibels and Sentinel-2 reflectance times 10,000, 256 x 256 pixels.

    Keys are the dataset's file names, ``ROIs1158_spring_s2_1_p30.tif``;
    ``group=r"(ROIs\d+_\w+?)_s2_(\d+)_"`` keeps scenes together.

    Args:
        root: Folder of the dataset, laid out as ``torchgeo.datasets.SEN12MS`` says.
        split: Split, ``"train"`` or ``"test"``.
        optical: Names of the Sentinel-2 bands, natural colors by default.
        sar: Names of the Sentinel-1 bands, ``"VV"`` and ``"VH"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Literal["train", "test"] = "train",
        optical: Sequence[str] = ("B04", "B03", "B02"),
        sar: Sequence[str] = ("VV",),
    ) -> None:
        super().__init__(root)
        self._split, self._optical, self._sar = split, tuple(optical), tuple(sar)
        self._dataset: Any = None

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        datasets = load_datasets()
        try:
            self._dataset = datasets.SEN12MS(
                str(self._root), self._split, [*self._optical, *self._sar]
            )
        except datasets.DatasetNotFoundError as error:
            raise DataError(f"{self._root} does not hold SEN12MS: {_line(error)}") from error
        return []

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return 0 if self._dataset is None else len(self._dataset)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return str(self._dataset.ids[index])

    def _load(self, index: int) -> dict[str, NDArray[Any]]:
        image = self._dataset[index]["image"].numpy()
        return {"optical": image[: len(self._optical)], "sar": image[len(self._optical) :]}


class SSL4EOS12Source(_TorchGeoSource):
    """SSL4EO-S12: Sentinel-1 GRD in decibels and Sentinel-2, 264 x 264 pixels, four seasons.

    Each location and season is a sample; both sensors are of the same season. TorchGeo reads a
    location's four seasons and all bands at once, 60 files; for training at scale write them with
    ``rsvheat.data.write_shards`` once. A part of the dataset's locations will do.

    Args:
        root: Folder of the dataset, laid out as ``torchgeo.datasets.SSL4EOS12`` says.
        level: Processing level of Sentinel-2: ``"s2c"`` (1C) or ``"s2a"`` (2A).
        optical: Names of the Sentinel-2 bands, natural colors by default.
        sar: Names of the Sentinel-1 bands, ``"VV"`` and ``"VH"``.
    """

    seasons = 4

    def __init__(
        self,
        root: str | os.PathLike[str],
        level: Literal["s2c", "s2a"] = "s2c",
        optical: Sequence[str] = ("B4", "B3", "B2"),
        sar: Sequence[str] = ("VV",),
    ) -> None:
        super().__init__(root)
        self._level, self._names = level, {"optical": tuple(optical), "sar": tuple(sar)}
        self._datasets: dict[str, Any] = {}
        self._locations: list[int] = []
        self._location: tuple[int, dict[str, NDArray[Any]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images."""
        return {**super().__getstate__(), "_location": None}

    def scan(self) -> list[Skip]:
        """See ``Source.scan``."""
        datasets = load_datasets()
        try:
            self._datasets = {
                "optical": datasets.SSL4EOS12(str(self._root), self._level, self.seasons),
                "sar": datasets.SSL4EOS12(str(self._root), "s1", self.seasons),
            }
        except datasets.DatasetNotFoundError as error:
            raise DataError(f"{self._root} does not hold SSL4EO-S12: {_line(error)}") from error
        for modality, names in self._names.items():
            known = self._datasets[modality].bands
            unknown = [name for name in names if name not in known]
            if unknown:
                raise DataError(f"{self} has no {modality} band {unknown[0]!r}, only {known}")
        optical, sar = (
            {path.name for path in (self._root / split).iterdir() if path.name.isdigit()}
            for split in (self._level, "s1")
        )
        self._locations = sorted(int(name) for name in optical & sar)
        if not self._locations:
            raise DataError(f"{self._root} has no location with both {self._level} and s1")
        return [
            Skip("unmatched", name, f"{self}: location {name} lacks {self._level} or s1")
            for name in sorted(optical ^ sar)
        ]

    def __len__(self) -> int:
        """See ``Source.__len__``."""
        return len(self._locations) * self.seasons

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        location, season = divmod(index, self.seasons)
        return f"{self._locations[location]:07}#{season}"

    def _load(self, index: int) -> dict[str, NDArray[Any]]:
        location, season = divmod(index, self.seasons)
        if self._location is None or self._location[0] != location:
            images = {m: self._seasons(m, self._locations[location]) for m in self.modalities}
            self._location = (location, images)
        return {name: image[season] for name, image in self._location[1].items()}

    def _seasons(self, modality: str, location: int) -> NDArray[Any]:
        """Return (season, band, H, W) in the order of time; TorchGeo draws a random one."""
        dataset = self._datasets[modality]
        try:
            sample = dataset[location]
        except ValueError as error:  # of random.sample, where a season is missing
            raise SampleError("damaged", f"{self}, location {location}: {error}") from error
        image = sample["image"].numpy()
        image = image.reshape(self.seasons, len(dataset.bands), *image.shape[1:])
        bands = [dataset.bands.index(name) for name in self._names[modality]]
        return image[np.argsort(sample["t"].numpy(), kind="stable")][:, bands]  # type: ignore[no-any-return]


def load_datasets() -> Any:
    """Return torchgeo.datasets, or raise what says how to install it."""
    try:
        import torchgeo.datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this dataset needs {error.name}: pip install 'rsvheat[torchgeo]'", name=error.name
        ) from error
    return torchgeo.datasets


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
