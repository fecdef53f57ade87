# SPDX-License-Identifier: Apache-2.0
"""Unusual files as inputs of every task: palettes, masks of every kind, pages, complex values."""

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
import rasterio
from stand_ins import Differences, trained

from rsvheat.data import DataError
from rsvheat.models.task_model import TaskModel
from rsvheat.raster import predict

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

# The four quadrants of the files, as the number of the class.
COLORS = np.array([[40, 60, 200], [40, 180, 50], [200, 50, 40], [120, 120, 120]], np.float32)
CLASSES = ("blue", "green", "red", "gray")
RED = 2


class _Nearest(TaskModel):
    def forward(self, images):
        """Return the squared distance of each pixel to each color, (B, 4, H, W)."""
        colors = (torch.from_numpy(COLORS) - 100) / 50
        return (images["optical"][:, None] - colors[:, :, None, None]).square().sum(2)


class NearestColors(_Nearest):
    """Classes of pixels by the nearest color."""

    task = "stand_in_nearest_colors"
    output = "mask"

    def predict(self, images):
        return (-20 * self(images)).softmax(1)


class MeanColor(_Nearest):
    """Class of a window by the nearest color of most pixels."""

    task = "stand_in_mean_color"
    output = "class"

    def predict(self, images):
        nearest = self(images).argmin(1)
        return torch.stack([(nearest == k).float().mean((1, 2)) for k in range(4)], 1)


class RedBox(_Nearest):
    """One box around the red pixels of a window."""

    task = "stand_in_red_box"
    output = "boxes"

    def predict(self, images):
        found = []
        for nearest in self(images).argmin(1):
            rows, columns = torch.nonzero(nearest == RED, as_tuple=True)
            boxes = torch.zeros(0, 4)
            if len(rows):
                low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
                boxes = torch.tensor([[*low, *high]], dtype=torch.float32)
            labels = torch.full((len(boxes),), RED)
            found.append({"boxes": boxes, "scores": torch.ones(len(boxes)), "labels": labels})
        return found


def content(path):
    """Return the three colors of a file and where they hold data, as GDAL tells them."""
    if path.name == "pages.tif":
        pages = [rasterio.open(f"GTIFF_DIR:{page}:{path}").read(1) for page in (1, 2, 3)]
        return np.stack(pages), np.ones((256, 256), bool)
    with rasterio.open(path) as file:
        valid = file.dataset_mask() > 0
        if path.name in ("alpha5.tif", "alpha_nd.tif"):
            valid = file.read(file.count) > 0
            if file.nodata is not None:
                valid &= (file.read([1, 2, 3]) != file.nodata).all(0)
        if path.name == "pal.tif":
            table = file.colormap(1)
            colors = np.array([table[i][:3] for i in range(256)], np.uint8)
            return np.moveaxis(colors[file.read(1)], 2, 0), valid
        return file.read([1, 2, 3]), valid


def run(kind, path, output, **options):
    if kind is Differences:
        names = ("before", "after")
        model = trained(kind, {"optical": 3}, names=dict.fromkeys(names, 3))
        if options:
            options = {"bands": dict.fromkeys(names, options["bands"])}
        return predict(dict.fromkeys(names, path), output, model, **options)
    model = trained(kind, classes=CLASSES, size=64 if kind is MeanColor else 256)
    return predict(path, output, model, **options)


@pytest.mark.parametrize(
    "name",
    ["alpha5.tif", "alpha_nd.tif", "nd0.tif", "nd0_png.png", "jm.jpg", "pal.tif", "pages.tif",
     "mix.vrt", "u16.tif"],
)  # fmt: skip
def test_unusual_files_are_right_for_every_task(shared_data, tmp_path, name):
    path = shared_data.parent / "faults" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    options = {"bands": [1, 2, 3]} if name in ("alpha5.tif", "mix.vrt") else {}
    values, valid = content(path)
    distances = np.square(values[None] - COLORS[:, :, None, None]).sum(1)
    expected = np.where(valid, distances.argmin(0), 255)
    assert len(np.unique(expected[valid])) >= 2

    run(NearestColors, path, tmp_path / "pixels.tif", **options)
    with rasterio.open(tmp_path / "pixels.tif") as file:
        assert np.array_equal(file.read(1), expected)

    run(MeanColor, path, tmp_path / "windows.tif", **options)
    windows = expected.reshape(4, 64, 4, 64).swapaxes(1, 2).reshape(16, -1)
    most = [255 if (w == 255).mean() > 0.5 else np.bincount(w[w < 255]).argmax() for w in windows]
    with rasterio.open(tmp_path / "windows.tif") as file:
        assert file.read(1).ravel().tolist() == most

    run(RedBox, path, tmp_path / "boxes.gpkg", **options)
    pyogrio = pytest.importorskip("pyogrio")
    found = pyogrio.read_dataframe(tmp_path / "boxes.gpkg")
    rows, columns = np.nonzero(expected == RED)
    assert len(found) == (len(rows) > 0)
    if len(rows):
        with rasterio.open(path) as file:
            corners = [(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)]
            (x0, y0), (x1, y1) = (file.transform @ corner for corner in corners)
        ends = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
        np.testing.assert_allclose(found.total_bounds, ends, atol=1e-6)

    run(Differences, path, tmp_path / "change.tif", **options)
    with rasterio.open(tmp_path / "change.tif") as file:
        assert np.array_equal(file.read(1), np.where(valid, 0, 255))


@pytest.mark.parametrize("kind", [NearestColors, MeanColor, RedBox, Differences])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three.nc", "three.nc holds 3 data sets; choose one by its name: netcdf:"),
        ("cint16.tif", "cint16.tif has complex values"),
        ("scl.tif", "scl.tif has 1 band, and the model takes 3"),
        ("mix.vrt", "mix.vrt has 4 bands, and the model takes 3: choose them"),
    ],
)
def test_files_that_do_not_fit_are_told_for_every_task(shared_data, tmp_path, kind, name, message):
    path = shared_data.parent / "faults" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    output = tmp_path / ("o.gpkg" if kind is RedBox else "o.tif")
    with pytest.raises(DataError) as error:
        run(kind, path, output)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
