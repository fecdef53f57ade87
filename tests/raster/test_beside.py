# SPDX-License-Identifier: Apache-2.0
"""Files beside a prediction."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("shapely")
import PIL.Image
import rasterio
from rasterio.transform import Affine
from stand_ins import Boxes, Differences, Pixels, trained

from rsvheat.cli import main
from rsvheat.raster import predict
from rsvheat.raster.beside import Beside

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
CLASSES = ("field & wood", "water", "<road>")


@pytest.fixture
def scene(write_scene):
    values = np.random.default_rng(0).integers(1, 255, (3, 40, 60), np.uint8)
    return write_scene(values, **UTM)


@pytest.fixture
def mapped(scene, tmp_path):
    result = predict(scene, tmp_path / "map.tif", trained(Pixels, classes=CLASSES))
    return result, {"optical": scene}


def pictures(page):
    """Return the pictures of a page by their names."""
    found = re.findall(r'<img id="(\w+)"[^>]*src="data:image/\w+;base64,([^"]+)"', page)
    return {
        name: np.array(PIL.Image.open(io.BytesIO(base64.b64decode(text)))) for name, text in found
    }


def test_a_style_has_the_names_and_colors_of_the_map(mapped):
    result, sources = mapped
    (path,) = Beside(style=True).write(result, sources)
    entries = ElementTree.parse(path).getroot().findall(".//paletteEntry")
    assert [entry.get("label") for entry in entries] == list(CLASSES)
    with rasterio.open(result.path) as file:
        table = file.colormap(1)
    colors = ["#" + bytes(table[i][:3]).hex() for i in range(3)]
    assert [entry.get("color") for entry in entries] == colors
    assert [entry.get("value") for entry in entries] == ["0", "1", "2"]


def test_a_stac_item_says_where_the_scene_is(mapped, tmp_path):
    pystac = pytest.importorskip("pystac")
    result, sources = mapped
    Beside(stac=True, polygons="geojson").write(result, sources)
    item = pystac.Item.from_file(str(tmp_path / "map.stac.json"))
    west, south, east, north = item.bbox
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", [west, east], [south, north])
    np.testing.assert_allclose((*x, *y), (500000, 500600, 4999600, 5000000), atol=2)
    assert item.properties["proj:code"] == "EPSG:32632"
    assert item.properties["rsvheat:classes"] == list(CLASSES)
    assert {name: asset.href for name, asset in item.assets.items()} == {
        "prediction": "map.tif",
        "polygons": "map.geojson",
    }


def test_a_page_shows_the_map_over_the_scene(mapped, tmp_path):
    result, sources = mapped
    (path,) = Beside(report=True).write(result, sources)
    page = path.read_text()
    shown = pictures(page)
    with rasterio.open(sources["optical"]) as file, rasterio.open(result.path) as labels:
        values = np.moveaxis(file.read(), 0, 2)
        table = np.array([labels.colormap(1)[i] for i in range(3)], np.uint8)
        expected = table[labels.read(1)]
    assert np.array_equal(shown["map"], expected)
    assert shown["first"].shape == values.shape
    # Nothing comes from elsewhere, and names are no markup.
    assert not re.search(r"https?://|<link|src=\"(?!data:)", page)
    assert "&lt;road&gt;" in page
    assert "<road>" not in page
    areas = re.findall(r'<td class="number">([\d.,]+)</td></tr>', page)
    expected_areas = sorted((a for a in result.square_km if a), reverse=True)
    assert [float(area) for area in areas] == pytest.approx(expected_areas, abs=1e-3)
    bars = [int(text.replace(",", "")) for text in re.findall(r": ([\d,]+)</title>", page)]
    assert sum(bars) == sum(result.counts) == 2400
    assert tuple(bars) == result.confidence


def test_a_page_of_change_has_both_dates_on_one_grid(write_scene, tmp_path):
    before = np.full((3, 40, 60), 90, np.uint8)
    a = write_scene(before, "a.tif", **UTM)
    finer = {**UTM, "transform": Affine(5, 0, 500000, 0, -5, 5000000)}
    b = write_scene(np.repeat(np.repeat(before + 100, 2, 1), 2, 2), "b.tif", **finer)
    names = {"before": 3, "after": 3}
    model = trained(Differences, modalities={"optical": 3}, names=names)
    sources = {"before": a, "after": b}
    result = predict(sources, tmp_path / "map.tif", model)
    (path,) = Beside(report=True).write(result, sources)
    shown = pictures(path.read_text())
    assert shown["first"].shape == shown["second"].shape == (40, 60, 3)
    assert abs(shown["first"].mean() - 90) < 3
    assert abs(shown["second"].mean() - 190) < 3
    assert 'id="date"' in path.read_text()


@pytest.mark.parametrize("bands", [3, 4])
def test_a_page_is_white_where_the_second_date_has_no_data(write_scene, tmp_path, bands):
    a = write_scene(np.full((bands, 40, 60), 90, np.uint8), "a.tif", **UTM)
    moved = {**UTM, "transform": Affine(10, 0, 500200, 0, -10, 5000000)}
    b = write_scene(np.full((bands, 40, 60), 190, np.uint8), "b.tif", **moved)
    names = {"before": bands, "after": bands}
    model = trained(Differences, modalities={"optical": bands}, names=names)
    sources = {"before": a, "after": b}
    result = predict(sources, tmp_path / "map.tif", model)
    (path,) = Beside(report=True).write(result, sources)
    second = pictures(path.read_text())["second"].astype(int)
    assert (second[:, :16] > 235).all()
    assert (abs(second[:, 24:] - 190) < 20).all()


def test_a_page_shows_boxes_as_they_lie(write_scene, tmp_path):
    values = np.zeros((3, 60, 80), np.uint8)
    values[:, 20:30, 40:60] = 250
    scene = write_scene(values, **UTM)
    result = predict(scene, tmp_path / "a.geojson", trained(Boxes, classes=("a", "b"), size=128))
    (path,) = Beside(report=True).write(result, {"optical": scene})
    page = path.read_text()
    assert 'viewBox="0 0 80 60"' in page
    assert 'd="M40 20L60 20L60 30L40 30Z"' in page


def test_the_command_writes_all_of_them_for_each_scene(scene, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    pytest.importorskip("matplotlib")
    pytest.importorskip("pystac")
    trained(Pixels, classes=CLASSES).save(tmp_path / "c.ckpt")
    (tmp_path / "scenes").mkdir()
    for name in "ab":
        (tmp_path / f"scenes/{name}.tif").write_bytes(scene.read_bytes())
    words = ["--checkpoint", str(tmp_path / "c.ckpt"), "--polygons", "geojson", "--style"]
    words += ["--picture", "--stac", "--report", "--output"]
    assert main(["predict", str(scene), *words, str(tmp_path / "one/map.tif")]) == 0
    names = {"map.tif", "map.tif.aux.xml", "map.geojson", "map.qml", "map.png", "map.html"}
    names.add("map.stac.json")
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    assert main(["predict", str(tmp_path / "scenes"), *words, str(tmp_path / "many")]) == 0
    expected = {name.replace("map", letter) for name in names for letter in "ab"}
    assert {path.name for path in (tmp_path / "many").iterdir()} == {*expected, "summary.json"}
    content = json.loads((tmp_path / "many/summary.json").read_text())
    assert content["done"] == 2
    capsys.readouterr()
    (tmp_path / "one/map.tif").unlink()
    assert main(["predict", str(scene), *words, str(tmp_path / "one/map.tif")]) == 1
    assert "map.geojson is there already: --overwrite" in capsys.readouterr().err


def test_what_is_of_maps_is_not_of_boxes(scene, tmp_path):
    for name in ("style", "picture"):
        with pytest.raises(ValueError, match=f"{name} is of maps"):
            Beside(**{name: True}).check(tmp_path / "a.gpkg", True, False)
    with pytest.raises(ValueError, match="polygons must be one of"):
        Beside(polygons="shp")
