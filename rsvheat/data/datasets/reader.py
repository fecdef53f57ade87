# SPDX-License-Identifier: Apache-2.0
"""The base class of the readers of data sets."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rsvheat.data.normalize import Sensor
from rsvheat.data.skip_report import DataError, OnError, Skip, SkipReport
from rsvheat.data.sources import Indices, Source


@dataclass(frozen=True)
class Split:
    """Part of a data set: for training, validation or testing.

    Attributes:
        source: Scanned source of the samples.
        indices: Indices of the source's samples that belong to the split; None for all.
        used: Indices of the source's samples that training uses, where only some labels are to be
            used; None for all of ``indices``. Statistics for normalization are of ``indices``.
    """

    source: Source
    indices: Indices | None = None
    used: Indices | None = None


@dataclass(frozen=True)
class Scan:
    """Context in which a reader finds its files.

    Attributes:
        seed: Seed of random splits.
        on_error: ``"raise"`` an error at the first sample that cannot be used, or ``"skip"`` it.
        report: Report of the samples that are left out.
    """

    seed: int = 0
    on_error: OnError = "skip"
    report: SkipReport = field(default_factory=SkipReport)

    def __call__(self, source: Source) -> Source:
        """Find a source's samples and report those that cannot be used.

        Args:
            source: Source to scan.

        Returns:
            The source.

        Raises:
            DataError: If there is no sample, or one cannot be used and ``on_error`` is ``"raise"``.
        """
        self.skip(source.scan())
        return source

    def skip(self, skips: Iterable[Skip]) -> None:
        """Report samples that cannot be used.

        Args:
            skips: Samples and reasons.

        Raises:
            DataError: If there is one and ``on_error`` is ``"raise"``.
        """
        skips = list(skips)
        if skips and self.on_error == "raise":
            raise DataError(f"{skips[0].reason} (sample {skips[0].key})")
        self.report.add(skips)


class DatasetReader(ABC):
    """Finds the images and annotations of a data set and splits them.

    To add a data set, derive a class with its layout in ``splits``; a recipe names the class as
    ``data.dataset.class_path``.
    """

    def prepare(self) -> None:  # noqa: B027 - most data sets are not downloaded
        """Download the data set, if asked for; called in one process of a machine."""

    @abstractmethod
    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """Find the samples.

        Args:
            scan: Context: seed, and what to do about samples that cannot be used.

        Returns:
            ``"train"``, ``"val"`` and ``"test"``, those that there are.

        Raises:
            DataError: If files are missing or not as expected.
        """

    def sensors(self) -> dict[str, Sensor]:
        """Return the sensors by modality that are used unless the user gives others.

        The order is that of the network's stems. Modalities that the data lacks are left out.
        """
        return {"optical": Sensor(3), "sar": Sensor(1)}
