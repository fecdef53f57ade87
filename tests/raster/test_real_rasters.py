# SPDX-License-Identifier: Apache-2.0
"""Maps, boxes and change of real rasters lie where the rasters do, to the pixel.

The networks are stand-ins that say which pixels are brighter than a value, so that every pixel of
the output has a right answer that NumPy and SciPy find without windows.
"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")
pytest.importorskip("shapely")
pytest.importorskip("geopandas")

import geopandas
import rasterio
import scipy.ndimage
import shapely
import torch
from rasterio.warp import Resampling, reproject
from stand_ins import Boxes, Differences, OrientedBoxes, trained

from rsvheat.data import Normalizer
from rsvheat.models.task_model import TaskModel
from rsvheat.raster import predict
from rsvheat.raster.beside import Beside

NAIP = "naip/m_4709963_se_14_1_{}.tif"
YEARS = ("20090818", "20150926", "20200831")
PORT = "port_la_s1/2021-01-05.tif"
SENTINEL1 = "pyrosar_s1/S1A__IW___A_20150309T173017_VV_grd_mli_geo_norm_db.tif"


class Bright(TaskModel):
    """Class 1 where the first band is brighter than the normalization's center."""

    task = "stand_in_bright"
    output = "mask"

    def forward(self, images):
        band = next(iter(images.values()))[:, :1]
        return torch.cat((-band, band), 1)

    def predict(self, images):
        return self(images).float().softmax(1)


def model_of(kind, bands, center, scale=1.0, classes=("dark", "bright"), names=None):
    model = trained(kind, {"optical": bands}, classes, names=names)
    normalizers = {
        name: Normalizer((center,) * bands, (scale,) * bands, 1e6) for name in model.normalizers
    }
    return replace(model, normalizers=normalizers)


@pytest.mark.parametrize(
    ("name", "center"),
    [
        (NAIP.format(YEARS[0]), 119.5),
        (NAIP.format(YEARS[2]), 68.5),
        ("rasterio/RGB.byte.tif", 24.5),
        ("rasterio/cogeo.tif", 74.5),
        ("rasterio/goes.tif", 17.5),
        (PORT, -10.0),
        (SENTINEL1, -11.0),
    ],
)
def test_a_map_is_right_at_every_pixel(shared_data, tmp_path, name, center):
    path = shared_data / "geotiff" / name
    with rasterio.open(path) as scene:
        band, filled = scene.read(1).astype(np.float64), scene.dataset_mask() > 0
        known = scene.read_masks(1) > 0
        bands, profile = scene.count, scene.profile
    output = tmp_path / "map.tif"
    result = predict(path, output, model_of(Bright, bands, center), window=256)
    with rasterio.open(output) as file:
        assert file.crs == profile["crs"]
        assert file.transform == profile["transform"]
        assert file.shape == band.shape
        assert file.nodata == 255
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        labels = file.read(1)
    assert np.array_equal(labels == 255, ~filled)
    assert 0 < (labels == 1).sum() < filled.sum()
    expected = band > center
    assert np.array_equal(labels[known] == 1, expected[known])
    assert result.counts == tuple(int((labels == number).sum()) for number in range(2))

    # Polygons of the map cover the same pixels.
    written = Beside(polygons="gpkg").write(result, {"optical": path})
    areas = geopandas.read_file(next(path for path in written if path.suffix == ".gpkg"))
    assert areas.crs == profile["crs"]
    pixel = abs(profile["transform"].determinant)
    for number, label in enumerate(("dark", "bright")):
        total = areas[areas["class"] == label].area.sum() / pixel
        assert total == pytest.approx(result.counts[number], rel=1e-9)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2), (2, 0)])
def test_change_between_years_of_other_grids(shared_data, tmp_path, before, after):
    paths = [shared_data / "geotiff" / NAIP.format(YEARS[i]) for i in (before, after)]
    names = {"before": 4, "after": 4}
    model = model_of(Differences, 4, 100.0, 40.0, names=names)
    output = tmp_path / "change.tif"
    result = predict(dict(zip(names, paths, strict=True)), output, model, window=256)
    assert result.resampled == (str(paths[1]),)
    with rasterio.open(paths[0]) as first, rasterio.open(paths[1]) as second:
        values = first.read().astype(np.float64)
        other = np.full_like(values, np.nan)
        for number in range(4):
            reproject(
                second.read(number + 1).astype(np.float64),
                other[number],
                src_transform=second.transform,
                src_crs=second.crs,
                dst_transform=first.transform,
                dst_crs=first.crs,
                src_nodata=second.nodata,
                dst_nodata=np.nan,
                resampling=Resampling.bilinear,
            )
        with rasterio.open(output) as file:
            assert (file.crs, file.transform, file.shape) == (
                first.crs, first.transform, first.shape,
            )  # fmt: skip
            labels = file.read(1)
    # Values of 0 are no data in these files, and the file's own type rounds what is interpolated.
    known = (values != 0).all(0) & np.isfinite(other).all(0)
    difference = np.abs(values - other).mean(0) / 40
    clear = known & (np.abs(difference - 1) > 0.02)
    assert clear.mean() > 0.9
    assert np.array_equal(labels[clear] == 1, difference[clear] > 1)
    assert 0 < (labels == 1).mean() < 0.9


@pytest.mark.parametrize("kind", [Boxes, OrientedBoxes])
def test_boxes_of_bright_targets_in_a_port(shared_data, tmp_path, kind):
    """Each bright area of the scene that fits into the overlap has one box, where it lies."""
    path = shared_data / "geotiff" / PORT
    center, overlap = 0.0, 64
    with rasterio.open(path) as scene:
        bright = (scene.read(1) > center) & (scene.dataset_mask() > 0)
        transform, crs = scene.transform, scene.crs
    model = model_of(kind, 2, center, classes=("other", "target"))
    output = tmp_path / "ships.gpkg"
    predict(path, output, model, bands=[1, 1], window=256, overlap=overlap)
    found = geopandas.read_file(output)
    assert found.crs == crs
    areas, _ = scipy.ndimage.label(bright)
    parts = scipy.ndimage.find_objects(areas)
    small = {
        number: part
        for number, part in enumerate(parts, 1)
        if max(side.stop - side.start for side in part) < overlap // 2
    }
    assert len(small) > 50
    tree = shapely.STRtree(found.geometry.to_numpy())
    for number in small:
        rows, columns = np.nonzero(areas == number)
        center_of = shapely.Point(*(transform @ (columns.mean() + 0.5, rows.mean() + 0.5)))
        # Areas of one pixel have boxes without area, at a distance of rounding.
        assert len(tree.query(center_of, "dwithin", 1.0)) >= 1
    if kind is Boxes:
        edges = {
            tuple(np.round((part[1].start, part[0].start, part[1].stop, part[0].stop), 3))
            for part in small.values()
        }
        inverse = ~transform
        seen = []
        for west, south, east, north in found.bounds.to_numpy():
            left, top = inverse @ (west, north)
            right, bottom = inverse @ (east, south)
            seen.append(tuple(np.round((left, top, right, bottom), 3)))
        assert edges <= set(seen)
        assert len(seen) == len(set(seen))
