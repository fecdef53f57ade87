# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a full disk."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_disk(largest: int) -> Iterator[None]:
    """The system refuses to write files of more than so many bytes.

    Only for the calls in question, not as a fixture: pytest's own output may be a longer file.
    """
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
