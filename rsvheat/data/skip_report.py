# SPDX-License-Identifier: Apache-2.0
"""Samples that could not be used: why, which and how many."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from torch import distributed

from rsvheat._files import complete_file

OnError: TypeAlias = Literal["skip", "raise"]
Kind: TypeAlias = Literal[
    "damaged", "bands", "size", "empty", "unmatched", "place", "name", "label"
]

_LOGGER = logging.getLogger("rsvheat.data")
_LOGGED = 10  # files named in the log; the report names all


class Skip(NamedTuple):
    """Reason why one sample was left out.

    Attributes:
        kind: ``"damaged"`` for files that cannot be read, ``"bands"`` for a wrong number or type of
            bands, ``"size"`` for modalities of different size and images larger than the memory,
            ``"empty"`` for windows without a valid pixel or without a labeled one, ``"unmatched"``
            for files without the other modality, ``"place"`` for georeferenced pairs that do not
            cover the same ground, ``"name"`` for names that are not UTF-8, or that another file has
            too, ``"label"`` for masks with values or colors of no class. key: Name of the sample.
            reason: One line that names the file.
    """

    kind: Kind
    key: str
    reason: str


class DataError(ValueError):
    """Data that cannot be used; the message names the file.

    Args:
        message: One line. In a worker process, torch adds a traceback to it; the message is cut to
            that line again.

    Attributes:
        details: The text as it was given.
    """

    def __init__(self, message: str) -> None:
        self.details = message
        super().__init__(message.rpartition("DataError: ")[2].strip() or message)


class SampleError(DataError):
    """One sample that cannot be used, while others may.

    Args:
        kind: Kind of the problem, as in ``Skip``.
        reason: One line that names the file. Line breaks, other control characters and bytes that
            are not UTF-8, which file names and messages of libraries may hold, are escaped.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        reason = printable(reason)
        super().__init__(reason)
        self.kind = kind
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Kind, str]]:
        """Pickle both arguments."""
        return type(self), (self.kind, self.reason)


def printable(text: str) -> str:
    """Return a text that any terminal, log or JSON file can hold, on one line.

    Args:
        text: File name or message. Control characters and surrogates, which stand for bytes that
            are not UTF-8, become escapes.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def is_unicode(text: str) -> bool:
    """Return whether a file name is valid Unicode: surrogates stand for bytes that are not.

    Args:
        text: Name or path.
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


class SkipReport:
    """Counts the samples that were left out.

    Worker processes send the skipped samples with the batches. So the report of the main process
    counts those of the batches that it used, for any number of workers. The first files are named
    in the log ``rsvheat.data`` as they occur.
    """

    def __init__(self) -> None:
        self._times: Counter[Skip] = Counter()

    def __len__(self) -> int:
        """Return the number of different samples left out."""
        return len(self._times)

    def __iter__(self) -> Iterator[Skip]:
        """Iterate over the samples that were left out, in the order of first occurrence."""
        return iter(self._times)

    @property
    def total(self) -> int:
        """Number of times that a sample was left out: more than ``len()`` after several epochs."""
        return self._times.total()

    @property
    def kinds(self) -> dict[Kind, int]:
        """The number of different samples by kind, those that occurred."""
        found = Counter(skip.kind for skip in self._times)
        return {kind: found[kind] for kind in get_args(Kind) if found[kind]}

    def add(self, skips: Iterable[Skip]) -> None:
        """Count samples that were left out.

        Args:
            skips: Samples; one that occurs several times counts several times.
        """
        for skip in skips:
            new = skip not in self._times
            self._times[skip] += 1
            if new and len(self) <= _LOGGED:
                more = "; more are in the report only" if len(self) == _LOGGED else ""
                _LOGGER.warning("skipped %s: %s%s", skip.key, skip.reason, more)

    def collect(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Count the samples that were left out of a batch.

        Args:
            batch: Batch of the loader; its entry ``"skipped"``, if any, is removed.

        Returns:
            The batch.
        """
        self.add(batch.pop("skipped", ()))
        return batch

    def gather(self) -> "SkipReport":
        """Return the report of all processes; each of them has to call this.

        Returns:
            The sum over ``torch.distributed``'s ranks; a copy where there is one process.
        """
        parts: list[Any] = [dict(self._times)]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, dict(self._times))
        report = SkipReport()
        for part in parts:
            report._times.update(part)
        return report

    def __str__(self) -> str:
        """Return a line with numbers, then one for each sample."""
        if not self:
            return "no sample was skipped"
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds.items())
        count = f"{len(self)} sample{'s' if len(self) > 1 else ''}"
        lines = [f"{count} skipped, {self.total} times: {kinds}"]
        lines += [f"  {skip.key} ({skip.kind}): {skip.reason}" for skip in self]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Return the report as plain lists and numbers."""
        return {"skipped": [[*skip, times] for skip, times in self._times.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the counts by those of a report that was saved.

        Args:
            state: Result of ``state_dict``.
        """
        self._times = Counter(
            {Skip(kind, key, reason): times for kind, key, reason, times in state["skipped"]}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all.

        Args:
            path: Path of the JSON file.
        """
        content = {
            "samples": len(self),
            "times": self.total,
            "kinds": self.kinds,
            "skipped": [{**skip._asdict(), "times": times} for skip, times in self._times.items()],
        }
        with complete_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
