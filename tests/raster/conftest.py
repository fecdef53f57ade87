# SPDX-License-Identifier: Apache-2.0
"""A small classifier that knows colours, and scenes for it."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")
pytest.importorskip("rasterio")

import PIL.Image
import rasterio
from lightning.pytorch import Trainer
from raster.quilts import CLASSES, SIDE, patch
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from rsvheat.data import ImageFolderDataModule
from rsvheat.tasks import create_classification_task
from rsvheat.training import AtomicCheckpointIO, Optimization


@pytest.fixture(autouse=True)
def _quiet_and_quick(_reproducible: None) -> Iterator[None]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 32 x 32 pixels that training saved."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for i in range(16):
            image = np.moveaxis(patch(name, rng), 0, 2)
            PIL.Image.fromarray(image).save(folder / name / f"{i}.png")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = ImageFolderDataModule(
        str(folder), size=SIDE, batch_size=12, num_workers=0, val_fraction=0.0
    )
    data.setup()
    task = create_classification_task(
        data.classes,
        img_size=SIDE,
        encoder_options={"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
        optimization=Optimization(lr=1e-2, betas=(0.9, 0.999)),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=8,
        default_root_dir=str(folder),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        plugins=[AtomicCheckpointIO()],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer.fit(task, data)
        path = folder / "best.ckpt"
        trainer.save_checkpoint(path)
    torch.set_num_threads(threads)
    return path


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """Write a GeoTIFF of (bands, H, W)."""

    def write(values: np.ndarray, name: str = "scene.tif", **profile: Any) -> Path:
        bands, height, width = values.shape
        alpha = profile.pop("alpha", None)
        gcps = profile.pop("gcps", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                tmp_path / name,
                "w",
                driver="GTiff",
                width=width,
                height=height,
                count=bands + (alpha is not None),
                dtype=values.dtype,
                **profile,
            ) as file:
                file.write(values, list(range(1, bands + 1)))
                if alpha is not None:
                    file.write(alpha, bands + 1)
                    file.colorinterp = [*file.colorinterp[:bands], ColorInterp.alpha]
                if gcps is not None:
                    file.gcps = gcps
        return tmp_path / name

    return write


@pytest.fixture
def shared_data() -> Path:
    """Real imagery that lies beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder
