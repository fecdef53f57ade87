# SPDX-License-Identifier: Apache-2.0
"""Small image files, and the real ones of a folder beside the checkout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    """Small images take longer on several threads."""
    torch.set_num_threads(1)


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Path of something among the real images; the test is skipped where they are not."""

    def path(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"there are no real images at {SHARED / name}")
        return SHARED / name

    return path


@pytest.fixture
def faults() -> Callable[[str], Path]:
    """Path of a file on which readers once failed; the test is skipped where they are not."""
    folder = SHARED.parent / "faults"

    def path(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"there are no such files at {folder}")
        return folder / name

    return path


@pytest.fixture
def write_png() -> Callable[..., Path]:
    """Write (C, H, W) or (H, W) of uint8 as PNG or, by its name, as JPEG."""
    image = pytest.importorskip("PIL.Image")

    def write(path: Path, values: np.ndarray, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if values.ndim == 3:
            values = np.moveaxis(values, 0, 2)
        image.fromarray(values.squeeze()).save(path, **options)
        return path

    return write


@pytest.fixture
def write_tif() -> Callable[..., Path]:
    """Write (C, H, W) as GeoTIFF."""
    rasterio = pytest.importorskip("rasterio")

    def write(path: Path, values: np.ndarray, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=values.shape[0],
            height=values.shape[1],
            width=values.shape[2],
            **{
                "dtype": values.dtype,
                "crs": "EPSG:32632",
                "transform": rasterio.Affine(10, 0, 0, 0, -10, 0),
                **options,
            },
        ) as file:
            file.write(values)
        return path

    return write


@pytest.fixture
def folders(tmp_path: Path, write_png: Callable[..., Path]) -> Callable[..., dict[str, str]]:
    """Write optical/ and sar/ of the same names; an image's values tell its number."""

    def make(count: int, size: int = 16, name: str = "data") -> dict[str, str]:
        root = tmp_path / name
        for number in range(count):
            rng = np.random.default_rng(number)
            optical = rng.integers(0, 50, (3, size, size)).astype(np.uint8)
            sar = rng.integers(0, 50, (1, size, size)).astype(np.uint8)
            write_png(root / "optical" / f"scene{number:03}.png", optical + number)
            write_png(root / "sar" / f"scene{number:03}.png", sar + number)
        return {"optical": str(root / "optical"), "sar": str(root / "sar")}

    return make
