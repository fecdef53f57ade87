# SPDX-License-Identifier: Apache-2.0
"""A demo: pretraining, fine-tuning, maps and a report, in minutes on a CPU."""

import errno
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from rsvheat._locks import Lock
from rsvheat.demo.images import DemoImages, find_images, full_folder, shipped_images
from rsvheat.demo.state import State

# Steps by name: each has a folder, and this is the file in it that other steps need.
STEPS = {
    "pretrain": "last.ckpt",
    "finetune": "last.ckpt",
    "scratch": None,
    "probe": None,
    "map": "map.tif",
    "segment": "last.ckpt",
}

# Epochs of the default demo, and of the full one.
PRETRAIN_EPOCHS = (60, 24)
FINETUNE_EPOCHS = (40, 30)
SEGMENT_EPOCHS = (16, 80)
_TRAINED = ("pretrain", "finetune", "segment")

# Modules that the steps import beside the package's own requirements, and the extras with them.
_NEEDED = ("lightning", "torchmetrics", "tensorboard", "PIL", "rasterio", "matplotlib")
_EXTRAS = "rsvheat[train,geo,explain]"


def run_demo(
    output: str | os.PathLike[str] = "runs/demo",
    *,
    data: str | os.PathLike[str] | None = None,
    full: bool = False,
    seed: int = 0,
    pretrain_epochs: int | None = None,
    finetune_epochs: int | None = None,
    segment_epochs: int | None = None,
    threads: int | None = None,
    restart: bool = False,
    quiet: bool = True,
) -> Path:
    """Pretrain, fine-tune, compare, map and report, a folder for each step.

    A step that is complete is not done again, and one that was stopped goes on where it was, to
    the same results on the same machine with the same number of threads.

    Args:
        output: Folder of the demo.
        data: Folder with ``eurosat_rgb`` and ``s1s2_volkov`` instead of the bundled images.
        full: Whether to train longer, on the whole datasets: those in ``data`` or else in
            ``../shared/data``, relative to the working folder or the checkout.
        seed: Seed of weights, order of samples, views and splits.
        pretrain_epochs: Number of epochs of pretraining; by default that of the demo or of the full
            one.
        finetune_epochs: Number of epochs of fine-tuning, and of training from scratch; by default
            that of the demo or of the full one.
        segment_epochs: Number of epochs of segmentation; by default that of the demo or of the full
            one.
        threads: Number of torch's threads; by default torch's own choice and, in training, fewer
            as long as other processes use some of the cores.
        restart: Whether to remove the demo in the folder, and begin again.
        quiet: Whether to hide most messages of Lightning and other libraries.

    Returns:
        The report.

    Raises:
        ValueError: If a number is below 1, or the folder holds a demo of other settings.
        ImportError: If a package is missing.
        DataError: If images are missing.
        InUseError: If another process makes a demo in the folder.
        OSError: If the folder cannot be written to, or its disk is full.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the demo needs {', '.join(missing)}: pip install '{_EXTRAS}' brings all of it"
        )
    for name, value in (
        ("pretrain_epochs", pretrain_epochs),
        ("finetune_epochs", finetune_epochs),
        ("segment_epochs", segment_epochs),
        ("threads", threads),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if data is None and not full:
        images = shipped_images()
    else:
        images = find_images(full_folder() if data is None else Path(data))
    settings = {
        "seed": seed,
        "data": str(images.folder.resolve()) if images.test_classes is None else "shipped",
        "pretrain_epochs": pretrain_epochs or PRETRAIN_EPOCHS[full],
        "finetune_epochs": finetune_epochs or FINETUNE_EPOCHS[full],
        "segment_epochs": segment_epochs or SEGMENT_EPOCHS[full],
    }
    try:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder):
            state = State(folder, settings, STEPS, restart)
            if state.report.exists():
                print(f"this demo is done; its report is {state.report}")
            else:
                _run(state, images, settings, threads, quiet)
    except OSError as error:
        # Writers of checkpoints know how much is free, and have no number.
        if error.errno != errno.ENOSPC and type(error).__name__ != "CheckpointWriteError":
            raise
        reason = str(error).partition(". Checkpoints written")[0]
        raise OSError(
            f"{reason}: what is complete stays; the same command goes on from there, when there "
            f"is room in {output}"
        ) from error
    return state.report


def _run(
    state: State,
    images: DemoImages,
    settings: dict[str, Any],
    threads: int | None,
    quiet: bool,
) -> None:
    # Imported here: they take seconds, and a demo that is complete does not need them.
    import torch

    from rsvheat.demo.running import run_steps
    from rsvheat.demo.steps import Demo
    from rsvheat.training.console import quieten

    if quiet:
        quieten()
    if threads is not None:
        torch.set_num_threads(threads)
    epochs = {f"{name}_epochs": settings[f"{name}_epochs"] for name in _TRAINED}
    demo = Demo(state.folder, images, settings["seed"], **epochs, threads=threads)
    # The logger that reports how each parameter was loaded, which is of no interest here.
    reports = logging.getLogger("rsvheat.tasks")
    level = reports.level
    if quiet:
        reports.setLevel(logging.WARNING)
    try:
        run_steps(state, demo)
    finally:
        reports.setLevel(level)
