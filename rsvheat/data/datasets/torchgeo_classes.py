# SPDX-License-Identifier: Apache-2.0
"""EuroSAT and RESISC45 by TorchGeo (``pip install 'rsvheat[torchgeo]'``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rsvheat.data.datasets.class_folders import Labeled, LabeledFiles
from rsvheat.data.datasets.reader import Scan
from rsvheat.data.normalize import Sensor
from rsvheat.data.skip_report import DataError
from rsvheat.data.torchgeo_sources import load_datasets


class TorchGeoClasses(LabeledFiles):
    """Reads EuroSAT or RESISC45 with TorchGeo's splits.

    Args:
        name: Name of the data set.
        root: Folder of the data set, as TorchGeo's documentation describes it.
        download: Whether to download the data set to ``root`` if it is not there.
        bands: Names of EuroSAT's bands; by default natural colors, ``["B04", "B03", "B02"]``.
        label_fraction: Fraction of each class's training images that is used, at least one image.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        name: Literal["EuroSAT", "RESISC45"],
        root: str,
        *,
        download: bool = False,
        bands: Sequence[str] | None = None,
        label_fraction: float = 1.0,
        modality: str = "optical",
    ) -> None:
        super().__init__(modality, label_fraction)
        if name not in ("EuroSAT", "RESISC45"):
            raise ValueError(f"name must be EuroSAT or RESISC45, got {name!r}")
        if bands is not None and name != "EuroSAT":
            raise ValueError(f"{name} has no bands to choose from")
        self._sensor = Sensor(3)
        if name == "EuroSAT":
            known = load_datasets().EuroSAT.all_band_names
            bands = ["B04", "B03", "B02"] if bands is None else bands
            unknown = [band for band in bands if band not in known]
            if unknown:
                raise ValueError(f"EuroSAT has no band {unknown[0]!r}; it has {', '.join(known)}")
            self._sensor = Sensor(len(bands), [known.index(band) + 1 for band in bands])
        self._name, self._root, self._download = name, root, download

    def prepare(self) -> None:
        """See ``DatasetReader.prepare``."""
        if self._download:
            self._open("train")

    def find(self, scan: Scan) -> tuple[list[str], dict[str, list[Labeled]]]:
        """See ``LabeledFiles.find``."""
        found = {}
        classes: list[str] = []
        for split in ("train", "val", "test"):
            dataset = self._open(split)
            classes = list(dataset.classes)
            found[split] = [
                (f"{classes[label]}/{Path(path).stem}", path, classes[label])
                for path, label in dataset.samples
            ]
        return classes, found

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: self._sensor}

    def _open(self, split: str) -> Any:
        datasets = load_datasets()
        try:
            return getattr(datasets, self._name)(self._root, split, download=self._download)
        except datasets.DatasetNotFoundError as error:
            raise DataError(f"{self._root} does not hold {self._name}: {error}") from error
