# SPDX-License-Identifier: Apache-2.0
"""``python -m rsvheat`` is the command ``rsvheat``."""

import sys

from rsvheat.cli import main

if __name__ == "__main__":
    sys.exit(main())
