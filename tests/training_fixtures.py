# SPDX-License-Identifier: Apache-2.0
"""Fixtures: small data, tasks and trainers."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from utils import data_module

from rsvheat.data import DataModule, DataSpec, ImageFolders
from rsvheat.data.synthetic import write_classes, write_pairs
from rsvheat.tasks import PretrainingTask
from rsvheat.training import AtomicCheckpointIO, Optimization

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def _quiet_and_quick(_reproducible: None) -> Iterator[None]:
    """Small models run slower on several threads; Lightning says much."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``optical`` and ``sar``: 14 pairs, 4 optical and 4 radar images alone."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, 22, 40)
    for i in range(4):
        (folder / f"sar/scene_{2 * i:06}.png").unlink()
        (folder / f"optical/scene_{2 * i + 9:06}.png").unlink()
    return folder


@pytest.fixture
def pair_data(pairs: Path) -> Callable[..., DataModule]:
    """Make a data module of ``pairs``, 5 batches of 4."""

    def make(**options: Any) -> DataModule:
        return data_module(
            ImageFolders,
            {"optical": str(pairs / "optical"), "sar": str(pairs / "sar")},
            **{
                "unmatched": "keep",
                "size": 32,
                "window": None,
                "batch_size": 4,
                "val_fraction": 0.0,
                **options,
            },
        )

    return make


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with folders of images by class."""
    folder = tmp_path_factory.mktemp("scenes")
    write_classes(folder, 12, 32)
    return folder


@pytest.fixture
def pretraining() -> Callable[..., PretrainingTask]:
    """Make a task of a tiny model."""

    def make(**options: Any) -> PretrainingTask:
        return PretrainingTask(
            DataSpec({"optical": 3, "sar": 1}, size=(32, 32)),
            **{
                "encoder_options": TINY,
                "optimization": Optimization(lr=1e-3),
                "decoder_dim": 8,
                **options,
            },
        )

    return make


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Make a trainer that shows nothing."""

    def make(callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
        return Trainer(
            **{
                "accelerator": "cpu",
                "max_epochs": 2,
                "default_root_dir": str(tmp_path),
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
                "callbacks": list(callbacks),
                "plugins": [AtomicCheckpointIO()],
                **options,
            }
        )

    return make
