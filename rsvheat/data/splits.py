# SPDX-License-Identifier: Apache-2.0
"""Seeded splits: by group, by class, and nested parts of the labels."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsvheat._files import complete_file
from rsvheat.data.skip_report import DataError

_FORMAT = "rsvheat split 1"


def split_groups(
    groups: Sequence[str],
    fraction: float,
    seed: int = 0,
    chosen: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples in two so that no group is in both.

    Args:
        groups: Group of each sample, for example its scene.
        fraction: Part of the groups that goes to the second set, rounded, but at least one if the
            fraction is above 0.
        seed: Seed of the choice.
        chosen: Groups of the second set, instead of a random choice.

    Returns:
        Ascending indices of the first and of the second set.

    Raises:
        ValueError: If the fraction is not within 0 to 1 (exclusive), or there is no such group.
        DataError: If nothing would be left for the first set.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must be at least 0 and below 1, got {fraction}")
    names, members = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if chosen is None:
        number = max(1, round(fraction * len(names))) if fraction else 0
        second = np.random.default_rng(seed).permutation(len(names))[:number]
    else:
        unknown = sorted(set(chosen) - set(names.tolist()))
        if unknown:
            raise ValueError(f"there is no group {unknown[0]!r}; there are {_few(names.tolist())}")
        second = np.searchsorted(names, sorted(set(chosen)))
    if len(second) >= len(names):
        raise DataError(
            f"all samples are of the groups {_few(names.tolist())}: none is left for training; set "
            "the validation fraction to 0 or group by a finer pattern"
        )
    inside = np.isin(members, second)
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def stratified_split(
    labels: Sequence[int] | NDArray[np.int64], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Split samples so that each class has the same part in each set.

    Args:
        labels: Class of each sample.
        fractions: Part of each class by set, rounded; the rest is the set ``"train"``.
        seed: Seed of the choice.

    Returns:
        Ascending indices by set, ``"train"`` among them.

    Raises:
        ValueError: If fractions are negative, or sum to 1 or more.
    """
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(f"fractions must not be negative and sum to less than 1, got {fractions}")
    labels = np.asarray(labels, np.int64)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (*fractions, "train")}
    for label in np.unique(labels):
        members = _shuffled(labels, int(label), seed)
        start = 0
        for name, fraction in fractions.items():
            end = start + round(fraction * len(members))
            parts[name].append(members[start:end])
            start = end
        parts["train"].append(members[start:])
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def random_split(
    count: int, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Split samples by chance.

    Args:
        count: Number of samples.
        fractions: Part of the samples by set, rounded; the rest is the set ``"train"``.
        seed: Seed of the choice.

    Returns:
        Ascending indices by set, ``"train"`` among them.

    Raises:
        ValueError: If fractions are negative, or sum to 1 or more.
    """
    return stratified_split(np.zeros(count, np.int64), fractions, seed)


def label_subset(
    labels: Sequence[int] | NDArray[np.int64], fraction: float, seed: int = 0
) -> NDArray[np.int64]:
    """Choose a part of the labeled samples, the same of each class.

    With one seed, a smaller part is within each larger one.

    Args:
        labels: Class of each sample.
        fraction: Part of each class, rounded, but at least one sample.
        seed: Seed of the choice.

    Returns:
        Ascending indices.

    Raises:
        ValueError: If the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label_fraction must be above 0 and at most 1, got {fraction}")
    labels = np.asarray(labels, np.int64)
    chosen = []
    for label in np.unique(labels):
        members = _shuffled(labels, int(label), seed)
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))


def _shuffled(labels: NDArray[np.int64], label: int, seed: int) -> NDArray[np.int64]:
    members = np.flatnonzero(labels == label)
    return np.random.default_rng([seed, label]).permutation(members)


def save_split(
    path: str | os.PathLike[str], sets: Mapping[str, Sequence[str]], **about: Any
) -> None:
    """Write a split as JSON, whole or not at all.

    Args:
        path: Path of the file.
        sets: Keys of the samples by set.
        **about: Further content of the file, such as classes and seed.
    """
    content = {"format": _FORMAT, **about, "sets": {name: list(sets[name]) for name in sets}}
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def load_split(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a split that ``save_split`` wrote.

    Args:
        path: Path of the file.

    Returns:
        Its content: ``"sets"``, and the further content.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text())
    except ValueError as error:
        raise DataError(f"{path} is not a split: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path} is not a split ({_FORMAT!r})")
    return content


def _few(names: Sequence[str]) -> str:
    listed = ", ".join(names[:8])
    return f"{listed} and {len(names) - 8} more" if len(names) > 8 else listed
