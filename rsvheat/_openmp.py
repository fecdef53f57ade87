# SPDX-License-Identifier: Apache-2.0
"""Waits of OpenMP's threads, which run torch's operators, on a shared machine.

Imports nothing that is slow: it has to run before torch is loaded.
"""

import os
import sys
from collections.abc import MutableMapping

# Each of them says how long a thread that has nothing to do spins before it sleeps.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

SPIN_COUNT = 10_000
"""Rounds of waiting, 0.1 to 0.4 ms: longer than Python takes from one operator to the next, and
shorter than a time slice of the scheduler. GNU's OpenMP waits 300,000 rounds unless told, several
ms: on a core that another process wants, a thread then spins away the time that the thread it
waits for would need."""

BLOCK_TIME = "1"
"""The same for the OpenMP of Intel and LLVM, in ms; its default is 200."""


def shorten_waits(environ: MutableMapping[str, str] | None = None) -> bool:
    """Choose how long idle threads spin, for this process and those that it starts.

    OpenMP reads these variables when torch loads it. Nothing is changed after that, or where the
    user has set one of ``WAIT_VARIABLES``.

    Args:
        environ: Environment to change; by default that of this process.

    Returns:
        Whether the environment was changed.
    """
    environ = os.environ if environ is None else environ
    if "torch" in sys.modules or any(name in environ for name in WAIT_VARIABLES):
        return False
    environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    environ["KMP_BLOCKTIME"] = BLOCK_TIME
    return True
