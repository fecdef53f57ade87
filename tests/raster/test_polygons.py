# SPDX-License-Identifier: Apache-2.0
"""Polygons of maps, and their areas on the ground."""

import json

import numpy as np
import pytest
import scipy.ndimage

pytest.importorskip("rasterio")
pytest.importorskip("shapely")
import rasterio
import rasterio.features
import shapely
from rasterio.transform import Affine
from stand_ins import Pixels, trained

from rsvheat.data import DataError
from rsvheat.raster import polygons as module
from rsvheat.raster import predict, write_polygons
from rsvheat.raster.scene import Georeference

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
CLASSES = ("field", "water", "road")


@pytest.fixture
def map_of(tmp_path):
    """Write labels as a map."""

    def write(labels, **profile):
        path = tmp_path / "map.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=labels.shape[0], width=labels.shape[1], count=1,
            dtype="uint8", nodata=255, **profile,
        ) as file:  # fmt: skip
            file.write(labels, 1)
            file.update_tags(RSVHEAT_CLASSES=json.dumps(CLASSES), RSVHEAT_STRIDE="1")
        return path

    return write


def patches(height, width, seed=0):
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = scipy.ndimage.gaussian_filter(noise, 2)
    labels = np.digitize(smooth, [-0.06, 0.0, 0.06]).astype(np.uint8)
    labels[labels == 3] = 255
    return labels


def read(path):
    features = json.loads(path.read_text())["features"]
    found = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features]
    return found, [feature["properties"] for feature in features]


@pytest.mark.parametrize("rows", [1, 7, 2048])
def test_polygons_of_strips_are_those_of_the_whole(map_of, tmp_path, monkeypatch, rows):
    labels = patches(60, 45)
    monkeypatch.setattr(module, "_ROWS", rows)
    result = write_polygons(map_of(labels), tmp_path / "a.geojson")
    found, about = read(tmp_path / "a.geojson")
    whole = rasterio.features.shapes(labels, labels != 255, connectivity=4)
    expected = {}
    for shape, label in whole:
        polygon = shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:])
        expected[polygon.normalize().wkb_hex] = int(label)
    assert result.count == len(found) == len(expected)
    assert {
        p.normalize().wkb_hex: a["label"] for p, a in zip(found, about, strict=True)
    } == expected
    assert all(a["class"] == CLASSES[a["label"]] for a in about)
    assert [a["pixels"] for a in about] == [round(p.area) for p in found]
    counts = [sum(a["pixels"] for a in about if a["label"] == i) for i in range(3)]
    assert counts == np.bincount(labels.ravel(), minlength=256)[:3].tolist()


def test_small_areas_are_left_out_and_borders_made_simpler(map_of, tmp_path):
    labels = patches(60, 60)
    path = map_of(labels)
    write_polygons(path, tmp_path / "all.geojson")
    write_polygons(path, tmp_path / "large.geojson", min_pixels=20, simplify=1.5)
    everything, about = read(tmp_path / "all.geojson")
    large, _ = read(tmp_path / "large.geojson")
    assert len(large) == sum(a["pixels"] >= 20 for a in about) < len(everything)
    corners = [shapely.get_num_coordinates(found).sum() for found in (everything, large)]
    assert corners[1] < 0.7 * corners[0]
    assert all(polygon.is_valid for polygon in large)
    with pytest.raises(ValueError, match="min_pixels must be at least 1"):
        write_polygons(path, tmp_path / "b.geojson", min_pixels=0)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_formats_agree(map_of, tmp_path, suffix):
    geopandas = pytest.importorskip("geopandas")
    pytest.importorskip("pyogrio")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = map_of(patches(40, 40), **UTM)
    write_polygons(path, tmp_path / "a.geojson")
    result = write_polygons(path, tmp_path / f"a{suffix}")
    reader = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    frame = reader(tmp_path / f"a{suffix}")
    assert frame.crs.to_epsg() == 32632
    assert len(frame) == result.count
    assert frame.geometry.is_valid.all()
    np.testing.assert_allclose(frame.square_metres, frame.geometry.area)
    np.testing.assert_allclose(frame.square_metres, 100 * frame["pixels"])
    _, about = read(tmp_path / "a.geojson")
    assert sorted(frame["class"]) == sorted(a["class"] for a in about)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a.geojson", f"a{suffix}", "map.tif"]
    )
    empty = map_of(np.full((10, 10), 255, np.uint8), **UTM)
    write_polygons(empty, tmp_path / f"a{suffix}", overwrite=True)
    assert len(reader(tmp_path / f"a{suffix}")) == 0


def test_areas_in_longitude_and_latitude_are_those_of_the_ellipsoid(map_of, tmp_path):
    pyproj = pytest.importorskip("pyproj")
    labels = patches(30, 40)
    place = {"crs": "EPSG:4326", "transform": Affine(0.01, 0, 10, 0, -0.02, 60)}
    write_polygons(map_of(labels, **place), tmp_path / "a.geojson")
    found, about = read(tmp_path / "a.geojson")
    geod = pyproj.Geod(ellps="WGS84")
    for polygon, properties in zip(found, about, strict=True):
        # Parallels are no geodesics, which makes a difference of about 1e-6 for short ones.
        dense = shapely.segmentize(polygon, 1e-3)
        expected = abs(geod.geometry_area_perimeter(dense)[0])
        assert properties["square_metres"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32632", Affine(10, 0, 0, 0, -10, 0), 100.0),
        ("EPSG:2263", Affine(1, 0, 0, 0, -1, 0), 0.3048006096**2),  # US survey feet
        ("EPSG:32632", Affine.rotation(30) @ Affine.scale(3, -2), 6.0),
    ],
)
def test_pixels_of_projected_rasters_have_one_area(crs, transform, expected):
    place = Georeference(rasterio.CRS.from_user_input(crs), transform)
    np.testing.assert_allclose(place.row_areas(5, 3), expected, rtol=1e-9)


def test_areas_of_the_whole_earth_and_of_unknown_scale():
    whole = Georeference(rasterio.CRS.from_epsg(4326), Affine(1, 0, -180, 0, -1, 90))
    # Of the ellipsoid of WGS 84, 510,065,621.724 km2.
    assert 360 * whole.row_areas(0, 180).sum() == pytest.approx(5.10065621724e14, rel=1e-11)
    for crs in ("EPSG:3857", "EPSG:3395"):
        place = Georeference(rasterio.CRS.from_user_input(crs), Affine.identity())
        assert place.row_areas(0, 1) is None
    assert Georeference().row_areas(0, 2) is None


def test_a_map_in_longitude_and_latitude_tells_areas(write_scene, tmp_path):
    values = np.random.default_rng(0).integers(1, 255, (3, 40, 60), np.uint8)
    scene = write_scene(values, crs="EPSG:4326", transform=Affine(0.1, 0, 10, 0, -0.1, 60))
    result = predict(scene, tmp_path / "map.tif", trained(Pixels, classes=CLASSES))
    with rasterio.open(tmp_path / "map.tif") as file:
        labels, place = file.read(1), Georeference.of(file)
    areas = np.broadcast_to(place.row_areas(0, 40)[:, None], labels.shape)
    expected = [areas[labels == i].sum() / 1e6 for i in range(3)]
    np.testing.assert_allclose(result.square_km, expected)


def test_what_is_no_map_is_told(write_scene, tmp_path):
    with pytest.raises(DataError, match="is no map of classes"):
        write_polygons(write_scene(np.ones((1, 8, 8), np.uint8)), tmp_path / "a.geojson")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        write_polygons(tmp_path / "absent.tif", tmp_path / "a.geojson")
    assert not (tmp_path / "a.geojson").exists()
