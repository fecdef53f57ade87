# SPDX-License-Identifier: Apache-2.0
"""Heat conduction operators and the RS-vHeat foundation model for remote sensing."""

import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rsvheat.checkpoint import TrainedModel


def _is_command() -> bool:
    """Whether this process is the command ``rsvheat``, which answers before torch is imported."""
    if "-m" in sys.orig_argv[:-1]:
        return sys.orig_argv[sys.orig_argv.index("-m") + 1] == "rsvheat"
    return Path(sys.argv[0]).stem == "rsvheat"


if TYPE_CHECKING or not _is_command():
    from rsvheat import models, ops
    from rsvheat._library import BuildInfo, build_info, package_version
    from rsvheat.models import CheckpointError, create_model, load_checkpoint

    __version__ = package_version()
else:

    def __getattr__(name: str) -> Any:
        """Import what is asked for."""
        from importlib import import_module

        if name in ("models", "ops"):
            return import_module(f"rsvheat.{name}")
        if name == "__version__":
            return import_module("rsvheat._library").package_version()
        for home in ("rsvheat._library", "rsvheat.models") if name in __all__ else ():
            if hasattr(import_module(home), name):
                return getattr(import_module(home), name)
        raise AttributeError(f"module 'rsvheat' has no attribute {name!r}")


def load(path: str | PathLike[str], *, device: "str | torch.device" = "auto") -> "TrainedModel":
    """Load a trained network with its classes, normalization and sizes.

    Args:
        path: Checkpoint of any task, such as ``runs/classes/best.ckpt``.
        device: Device to compute on, such as ``"cpu"`` or ``"cuda:1"``; ``"auto"`` is a GPU if
            there is one.

    Returns:
        The model, see :meth:`rsvheat.checkpoint.TrainedModel.predict` for its use.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, or holds no network for a task.
        ValueError: If the device cannot be used.
    """
    from rsvheat.checkpoint import TrainedModel

    return TrainedModel.load(path, device=device)


__all__ = [
    "BuildInfo",
    "CheckpointError",
    "__version__",
    "build_info",
    "create_model",
    "load",
    "load_checkpoint",
    "models",
    "ops",
]
