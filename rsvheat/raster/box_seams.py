# SPDX-License-Identifier: Apache-2.0
"""Boxes of rows of windows, and one box for each object that reaches over seams between windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsvheat.found_boxes import FoundBoxes, merge
from rsvheat.raster.journal import Journal


@dataclass(frozen=True)
class RowBoxes:
    """Boxes that a row of windows of a panel found.

    Attributes:
        inside: Boxes within the core of their window.
        crossing: Boxes that reach over a seam between cores.
    """

    inside: FoundBoxes
    crossing: FoundBoxes


class BoxSeams:
    """Puts together the boxes of rows of windows, in the order in which they are predicted.

    Args:
        shape: Height and width of the scene.
        panels: First and last column of the cores of each panel, from left to right.
        rows: Number of rows of windows in a panel.
        numbers: 4 for horizontal boxes, 5 for oriented ones.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        panels: Sequence[tuple[float, float]],
        rows: int,
        numbers: int,
    ) -> None:
        self._shape, self._panels, self._rows = shape, panels, rows
        self._nothing = FoundBoxes.none(numbers)
        self._panel = self._row = 0
        # Boxes that the next row, this panel or the next one may find again.
        self._above = self._reaching = self._waiting = self._nothing

    def add(self, part: RowBoxes) -> Iterator[FoundBoxes]:
        """Take the next row of windows.

        Args:
            part: Boxes of the row.

        Yields:
            Boxes that no later window can find again.
        """
        objects, numbers = merge(self._above + part.crossing, self._shape)
        recent = np.isin(np.arange(len(objects)), numbers[len(self._above) :])
        self._above = objects[recent]
        yield self._within(part.inside + objects[~recent])
        self._row += 1
        if self._row < self._rows:
            return
        yield self._within(self._above)
        waiting, _ = merge(self._waiting + self._reaching, self._shape)
        later = waiting.extents[:, 2] > self._panels[self._panel][1]
        yield waiting[~later]
        self._waiting = waiting[later]
        self._above = self._reaching = self._nothing
        self._row, self._panel = 0, self._panel + 1
        if self._panel == len(self._panels):
            yield self._waiting

    def _within(self, found: FoundBoxes) -> FoundBoxes:
        """Return the boxes within the panel, and keep those that reach out of it."""
        edges = self._panels[self._panel]
        left, _, right, _ = found.extents.T
        inner = (left >= edges[0]) & (right <= edges[1])
        self._reaching = self._reaching + found[~inner]
        return found[inner]


class RowsFile:
    """Boxes of rows of windows on disk, from which another process goes on.

    Args:
        path: Path of the file.
        journal: Journal, which says how much of the file is complete.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal, self._rows = path, journal, 0
        path.touch()

    def read(self) -> Iterator[RowBoxes]:
        """Yield the rows that a killed process wrote.

        Raises:
            FileExistsError: If they are of another prediction.
        """
        content = self._journal.read() or {"parts": 0, "bytes": 0}
        with self._path.open("r+b") as file:
            file.truncate(content["bytes"])
            for _ in range(content["parts"]):
                arrays = [np.load(file, allow_pickle=False) for _ in range(8)]
                yield RowBoxes(FoundBoxes(*arrays[:4]), FoundBoxes(*arrays[4:]))
        self._rows = content["parts"]

    def write(self, part: RowBoxes) -> None:
        """Add a row.

        Args:
            part: Boxes of the row.
        """
        with self._path.open("ab") as file:
            for found in (part.inside, part.crossing):
                for values in (found.boxes, found.scores, found.labels, found.seen):
                    np.save(file, values)
        self._rows += 1
        self._journal.write({"parts": self._rows, "bytes": self._path.stat().st_size})

    def remove(self) -> None:
        """Remove the file and the journal, as the output is complete."""
        self._journal.remove()
        self._path.unlink()
