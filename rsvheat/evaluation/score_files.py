# SPDX-License-Identifier: Apache-2.0
"""Files of scores: JSON, and with it tables and pictures."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from rsvheat._files import replacing


class Measure(NamedTuple):
    """A score and what it means.

    Attributes:
        value: Value from 0 to 1 (kappa from -1); NaN where it is not defined.
        definition: Formula, classes in the mean, and what does not count.
        classes: Number of classes in the mean; None where there is no mean.
    """

    value: float
    definition: str
    classes: int | None = None


def none_for_nan(value: float) -> float | None:
    """Return None for NaN, which JSON does not have.

    Args:
        value: Number.
    """
    return None if math.isnan(value) else value


class ScoreFiles(ABC):
    """Scores that can be saved.

    Attributes:
        file_name: Name of the files without suffix, unless another one is given.
    """

    file_name: ClassVar[str] = "scores"

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""

    @abstractmethod
    def _writers(self) -> dict[str, Callable[[Path], object]]:
        """Return functions that write the other files, by the ends of the files' names."""

    @abstractmethod
    def figure(self) -> Any:
        """Return the main picture as a Matplotlib figure."""

    def _write_figure(self, path: Path) -> None:
        self.figure().savefig(path, dpi=150)

    def save(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Write the files, all or none: ``<name>.json``, tables and pictures.

        Args:
            folder: Folder of the files, which is made if it does not exist.
            name: Name of the files without suffix; ``file_name`` by default.
            about: Further entries of the JSON file.

        Returns:
            The files, the JSON file first.
        """
        folder, name = Path(folder), name or self.file_name
        content = json.dumps({**(about or {}), **self.to_dict()}, indent=1, allow_nan=False)
        writers = self._writers()
        with replacing(folder) as temporary:
            (temporary / f"{name}.json").write_text(content + "\n")
            for end, write in writers.items():
                write(temporary / f"{name}{end}")
        return [folder / f"{name}{end}" for end in (".json", *writers)]


class MeasuredScores(ScoreFiles):
    """Scores with measures by name, each with its definition."""

    @abstractmethod
    def measures(self) -> dict[str, Measure]:
        """Return the measures by name."""

    def __getitem__(self, name: str) -> float:
        """Return the value of one of ``measures``.

        Args:
            name: Name of the measure, such as ``"mean_iou"`` or ``"map50"``.

        Raises:
            KeyError: If there is none of that name.
        """
        measures = self.measures()
        if name not in measures:
            raise KeyError(f"no score is named {name!r}; there are {', '.join(measures)}")
        return measures[name].value
