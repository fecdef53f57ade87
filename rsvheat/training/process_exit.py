# SPDX-License-Identifier: Apache-2.0
"""How processes that train together end."""

import atexit
import time
from functools import cache

from torch import distributed

# Its threads need a moment on one core, of however many others wait for it.
_GRACE_S = 1.0


@cache
def end_gently() -> None:
    """Give the threads of gloo time to finish before Python ends.

    They let go of the tensors of the last messages after the main thread went on. One that does so
    while Python ends aborts the process, all of whose work is done by then. Nothing says when they
    are through: destroying the groups does not wait for them as long as anything refers to these,
    and torch's own caches of device meshes do.
    """
    atexit.register(_wait)


def _wait() -> None:
    if distributed.is_available() and distributed.is_initialized():
        time.sleep(_GRACE_S)
