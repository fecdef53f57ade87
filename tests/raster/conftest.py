# SPDX-License-Identifier: Apache-2.0
"""A small classifier that knows colors, and scenes for it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("rasterio")

import rasterio
from raster.quilts import CLASSES, SIDE, patch
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Normalizer, Pixels, Statistics
from rsvheat.data.normalize import PERCENTILES
from rsvheat.data.spec import DataSpec
from rsvheat.models import RSVHeat
from rsvheat.models.classification import Classifier


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    images = [patch(name, rng) for name in CLASSES for _ in range(16)]
    labels = torch.arange(len(CLASSES)).repeat_interleave(16)
    values = np.stack(images, 1).reshape(3, -1)
    mean, std = tuple(values.mean(1).tolist()), tuple(values.std(1).tolist())
    percentiles = tuple(tuple(band) for band in np.percentile(values, PERCENTILES, 1).T.tolist())
    pixels = (values.shape[1],) * 3
    statistics = {"optical": Statistics(mean, std, percentiles, "none", len(images), pixels)}
    normalizer = Normalizer(mean, std, 5.0)
    x = torch.stack([normalizer(Pixels(image, None)) for image in images])
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Classifier(
        RSVHeat(
            dims=(8, 16, 16, 16),
            depths=(1, 1, 1, 1),
            img_size=SIDE,
            modalities={"optical": 3},
            num_classes=len(CLASSES),
            norm_position="pre",
            layer_scale=None,
        ),
        len(CLASSES),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(12):
            optimizer.zero_grad()
            logits = network({"optical": x[rows]})
            torch.nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.1).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    torch.random.set_rng_state(state)
    spec = DataSpec({"optical": 3}, "label", CLASSES, (SIDE, SIDE))
    path = tmp_path_factory.mktemp("classes") / "best.ckpt"
    TrainedModel(network, spec, {"optical": normalizer}, statistics).save(path)
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
