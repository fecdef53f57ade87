# SPDX-License-Identifier: Apache-2.0
"""A safe end of processes that train together."""

import atexit
import time
from functools import cache

from torch import distributed

# Seconds that gloo's threads may need on one core, however many processes share it.
_GRACE_S = 1.0


@cache
def end_gently() -> None:
    """Give the threads of gloo time to finish before Python ends.

    They free the buffers of the last messages after the main thread has continued. A thread that
    does so while Python ends aborts the process, although all its work is done. Nothing tells when
    they have finished: destroying the groups does not wait for them as long as something refers to
    the groups, as torch's own caches of device meshes do.
    """
    atexit.register(_wait)


def _wait() -> None:
    if distributed.is_available() and distributed.is_initialized():
        time.sleep(_GRACE_S)
