# SPDX-License-Identifier: Apache-2.0
"""Heat filters kept between calls in evaluation mode."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor


class _Entry(NamedTuple):
    filter: Tensor
    made_of: Hashable


class FilterCache:
    """Filters by owner and size, bounded in bytes, each valid for the weights it was made of.

    Args:
        max_bytes: Bound on the size of all filters together; 0 keeps none.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._entries: dict[Hashable, _Entry] = {}
        self._last_used: dict[Hashable, int] = {}
        self._pass = 0
        self._lock = threading.Lock()
        self._checked = threading.local()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Size of the filters held, in bytes."""
        return sum(entry.filter.nbytes for entry in self._entries.values())

    def next_pass(self) -> None:
        """Say that a forward pass begins: filters that the last two did not use may make room."""
        self._pass += 1

    @contextmanager
    def one_check(self) -> Iterator[None]:
        """Let ``check`` take each fingerprint once until the context ends, in this thread.

        The blocks of a stage share its frequency embedding, which each of them would read else.
        """
        self._checked.values = {}
        try:
            yield
        finally:
            self._checked.values = None

    def check(
        self, weights: Sequence[Tensor], fingerprint: Callable[[Tensor], Hashable]
    ) -> Hashable:
        """Return the fingerprints of weights, those that ``one_check`` keeps included.

        Args:
            weights: Weights that a filter is made of.
            fingerprint: Function that returns the fingerprint of a weight.
        """
        known = getattr(self._checked, "values", None)
        if known is None:
            return tuple(map(fingerprint, weights))
        for weight in weights:
            # With the weight, so that its identity is not that of another one.
            if id(weight) not in known:
                known[id(weight)] = (weight, fingerprint(weight))
        return tuple(known[id(weight)][1] for weight in weights)

    def get(self, key: Hashable, made_of: Hashable) -> Tensor | None:
        """Return the filter stored under a key, or None if there is none made of these weights.

        Args:
            key: Owner and size.
            made_of: Fingerprints of the weights.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.made_of != made_of:
                self._remove(key)
                return None
            self._last_used[key] = self._pass
            return entry.filter

    def put(self, key: Hashable, made_of: Hashable, value: Tensor) -> None:
        """Store a filter, unless it does not fit beside those in use.

        Args:
            key: Owner and size.
            made_of: Fingerprints of the weights.
            value: Filter.
        """
        with self._lock:
            self._remove(key)
            # Entries of the last pass stay: in a model larger than the bound, evicting them would
            # mean that each block drops the filter which a later one needs in the next pass.
            for old in sorted(self._entries, key=self._last_used.__getitem__):
                if self.nbytes + value.nbytes <= self.max_bytes:
                    break
                if self._last_used[old] < self._pass - 1:
                    self._remove(old)
            if self.nbytes + value.nbytes <= self.max_bytes:
                self._entries[key] = _Entry(value, made_of)
                self._last_used[key] = self._pass

    def drop(self, owner: Hashable) -> None:
        """Forget every filter whose key is a tuple that begins with ``owner``."""
        with self._lock:
            for key in [key for key in self._entries if isinstance(key, tuple) and key[0] == owner]:
                self._remove(key)

    def _remove(self, key: Hashable) -> None:
        self._entries.pop(key, None)
        self._last_used.pop(key, None)

    # A copy of a model makes its own filters; neither they nor the lock can be pickled.
    def __deepcopy__(self, memo: dict[int, Any]) -> "FilterCache":
        return FilterCache(self.max_bytes)

    def __reduce__(self) -> tuple[type["FilterCache"], tuple[int]]:
        return FilterCache, (self.max_bytes,)
