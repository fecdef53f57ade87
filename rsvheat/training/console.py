# SPDX-License-Identifier: Apache-2.0
"""Messages of the commands to their users, and filters of other libraries' messages."""

import logging
import sys
import warnings
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

# Lightning's warnings about things that are intended here.
_NOISE = (
    ".*args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*callback with a model that overrides the configure_model.*",
    ".*WeightAveraging callback, but loading a checkpoint outside.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*smaller than the logging interval.*",
    ".*but have no `val_dataloader`.*",
    "Total length of `.*` across ranks is zero.*",
)


@rank_zero_only
def say(text: str) -> None:
    """Print a message that is not a result to standard error."""
    print(text, file=sys.stderr, flush=True)


class _Say(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def quieten() -> None:
    """Hide those messages of Lightning and other libraries that do not concern users."""
    ours = logging.getLogger("rsvheat")
    if not any(isinstance(handler, _Say) for handler in ours.handlers):
        ours.addHandler(_Say())
    ours.setLevel(logging.INFO if getattr(rank_zero_only, "rank", 0) == 0 else logging.ERROR)
    ours.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore", DeprecationWarning)
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", pattern)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    say(f"warning: {' '.join(str(message).split())}")
