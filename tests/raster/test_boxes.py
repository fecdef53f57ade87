# SPDX-License-Identifier: Apache-2.0
"""Boxes of objects in rasters."""

import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
pytest.importorskip("scipy")
import rasterio
from box_scenes import harbor, turned
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from stand_ins import Boxes, OrientedBoxes, trained

from rsvheat import found_boxes
from rsvheat.found_boxes import FoundBoxes, merge
from rsvheat.raster import predict

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
CLASSES = ("ship", "plane")


def read(path):
    """Return the features of a GeoJSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        (ring,) = feature["geometry"]["coordinates"]
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        assert len(ring) == 5
        assert ring[0] == ring[-1]
    return content["features"]


def pixels(features):
    """Return horizontal boxes and class numbers of features without georeference."""
    found = []
    for feature in features:
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert feature["properties"]["class"] == CLASSES[feature["properties"]["label"]]
        found.append((*ring.min(0), *ring.max(0), feature["properties"]["label"]))
    return found


@pytest.fixture
def model():
    return trained(Boxes, classes=CLASSES, size=128)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((200, 300), {"window": 64, "overlap": 16}),
        ((200, 300), {"window": 64, "overlap": 40, "batch_size": 3}),
        ((100, 333), {"window": 80, "overlap": 16}),
        ((60, 50), {"window": 64}),
        ((300, 40), {"window": 50, "overlap": 20}),
    ],
)
def test_each_object_is_found_once_and_whole(model, write_scene, tmp_path, size, options):
    values, expected = harbor(*size)
    result = predict(write_scene(values), tmp_path / "a.geojson", model, **options)
    assert sorted(pixels(read(tmp_path / "a.geojson"))) == sorted(expected)
    kinds = np.bincount([kind for *_, kind in expected], minlength=2)
    assert (result.classes, result.counts) == (CLASSES, tuple(kinds))
    assert str(result).startswith(f"{tmp_path}/a.geojson: {len(expected)} boxes, in ")
    # The same boxes as of one pass over the whole scene.
    one = model.predict(values)
    whole = [(*box, label) for box, label in zip(one.boxes, one.labels, strict=True)]
    assert sorted(whole) == sorted(expected)


@pytest.mark.parametrize("kind", [Boxes, OrientedBoxes])
def test_an_object_that_two_windows_find_is_one(kind, write_scene, tmp_path, monkeypatch):
    """A network whose boxes are a pixel off, towards the middle of what it is shown."""

    class Biased(kind):
        def predict(self, images):
            found = super().predict(images)
            size = images["optical"].shape[-1] / 2
            for one in found:
                boxes = one["boxes"]
                middle = boxes[:, :2] if self.numbers == 5 else (boxes[:, :2] + boxes[:, 2:]) / 2
                shift = (size - middle).sign()
                boxes[:, :2] += shift
                if self.numbers == 4:
                    boxes[:, 2:] += shift
            return found

    values = np.zeros((3, 112, 112), np.uint8)
    for place in (10, 49, 90):  # the seam is at 56
        values[:, place : place + 14, 10:24] = 250
        values[:, 49:63, place : place + 14] = 250
    model = trained(Biased, classes=CLASSES)
    scene = write_scene(values)
    options = {"window": 64, "overlap": 16}
    predict(scene, tmp_path / "a.geojson", model, **options)
    assert len(read(tmp_path / "a.geojson")) == 5
    monkeypatch.setattr(found_boxes, "_IOU", 1.0)
    monkeypatch.setattr(found_boxes, "_IOS", 1.0)
    predict(scene, tmp_path / "b.geojson", model, **options)
    assert len(read(tmp_path / "b.geojson")) > 5


def found_in(boxes, scores, labels, windows):
    """Boxes of several windows, each as left, top, right, bottom."""
    arrays = np.array(boxes, float), np.array(scores, np.float32), np.array(labels)
    return FoundBoxes(*arrays, np.array(windows, float))


LEFT, RIGHT = (0, 0, 64, 64), (48, 0, 112, 64)


def test_boxes_of_other_classes_and_of_one_window_stay():
    boxes = np.array([[50, 9, 60, 19], [51, 9, 61, 19], [51, 8, 61, 18], [30, 9, 40, 19.0]])
    windows = np.array([LEFT, RIGHT, RIGHT, LEFT], float)
    scores, labels = [0.5, 0.9, 0.7, 0.1], [0, 0, 1, 0]
    for far in (0, 4e6):
        shift = np.array((far,) * 4)
        found = found_in(boxes + shift, scores, labels, windows + shift)
        kept, objects = merge(found, (10**7, 10**7))
        assert objects.tolist() == [0, 0, 1, 2]
        assert kept.boxes.tolist() == (boxes[1:] + shift).tolist()
    same = found_in(boxes[:2], [0.5, 0.9], [0, 0], [LEFT, LEFT])
    assert len(merge(same, (64, 112))[0]) == 2
    assert len(merge(FoundBoxes.none(4), (64, 112))[0]) == 0


def test_crossed_oriented_boxes_stay():
    """Their horizontal boxes overlap, they do not."""
    boxes = [[56, 30, 14, 2, 45], [56, 30, 14, 2, 135], [56.2, 30, 14, 2, 45.0]]
    kept, objects = merge(
        found_in(boxes, [0.9, 0.8, 0.7], [0, 0, 0], [LEFT, RIGHT, RIGHT]), (64, 112)
    )
    assert objects.tolist() == [0, 1, 0]
    assert kept.boxes.tolist() == boxes[:2]


@pytest.mark.parametrize("angle", [0.0, 20.0, -70.0])
def test_pieces_of_a_cut_object_are_put_together(angle):
    """An object of 60 pixels that is larger than the 16 that both windows show."""
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))

    def piece(begin, end):
        middle, length = (begin + end) / 2, end - begin
        return [56 + middle * cosine, 30 - middle * sine, length, 6, angle]

    reach = 8 / max(cosine, 0.01)  # along the object to the edge of a window
    boxes = [piece(-30, min(reach, 30)), piece(max(-reach, -30), 30)]
    found = found_in(boxes, [0.6, 0.8], [0, 0], [LEFT, RIGHT])
    kept, _ = merge(found, (64, 112))
    whole = FoundBoxes(np.array([piece(-30, 30)]), kept.scores, kept.labels, kept.seen)
    np.testing.assert_allclose(kept.corners, whole.corners, atol=1e-9)
    assert kept.scores.tolist() == [np.float32(0.8)]


def test_a_whole_box_goes_before_a_cut_one():
    boxes = [[40, 20, 64, 30], [53, 20, 70, 30]]
    windows = [LEFT, RIGHT]
    kept, _ = merge(found_in(boxes, [0.9, 0.5], [0, 0], windows), (64, 112))
    assert kept.boxes.tolist() == [boxes[1]]
    # What ends at the scene's border is whole.
    kept, _ = merge(found_in(boxes, [0.9, 0.5], [0, 0], windows), (64, 64))
    assert kept.boxes.tolist() == [boxes[0]]


@pytest.mark.parametrize("memory", [1.0, 1e-6])
@pytest.mark.parametrize("kind", [Boxes, OrientedBoxes])
def test_objects_larger_than_the_overlap_are_whole(write_scene, tmp_path, kind, memory):
    values = np.zeros((3, 260, 300), np.uint8)
    bars = [(20, 10, 10, 280), (60, 200, 12, 90), (100, 40, 150, 10), (120, 90, 100, 12)]
    for top, left, height, width in bars:
        values[:, top : top + height, left : left + width] = 250
    predict(
        write_scene(values), tmp_path / "a.geojson", trained(kind, classes=CLASSES),
        window=80, overlap=24, memory=memory,
    )  # fmt: skip
    expected = [(left, top, left + width, top + height) for top, left, height, width in bars]
    found = [box[:4] for box in pixels(read(tmp_path / "a.geojson"))]
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.6)


def test_panels_find_what_a_whole_pass_finds(model, write_scene, tmp_path):
    values, expected = harbor(200, 400)
    for memory in (1e-6, 1e-4):
        predict(
            write_scene(values), tmp_path / "a.geojson", model,
            window=64, overlap=16, memory=memory, overwrite=True,
        )  # fmt: skip
        assert sorted(pixels(read(tmp_path / "a.geojson"))) == sorted(expected)


def test_corners_are_torchvisions():
    convert = pytest.importorskip("torchvision.ops").box_convert
    rng = np.random.default_rng(0)
    boxes = rng.uniform([0, 0, 1, 1, -180], [100, 100, 50, 50, 180], (40, 5))
    found = found_in(boxes, np.ones(40), np.zeros(40, int), np.zeros((40, 4)))
    expected = convert(torch.from_numpy(boxes), "cxcywhr", "xyxyxyxy").reshape(40, 4, 2)
    np.testing.assert_allclose(found.corners, expected, atol=1e-10)


@pytest.mark.parametrize("size", [(150, 240), (90, 90)])
def test_oriented_boxes_keep_their_angle(write_scene, tmp_path, size):
    values, expected = turned(*size)
    scene = write_scene(values)
    model = trained(OrientedBoxes, classes=CLASSES)
    predict(scene, tmp_path / "a.geojson", model, window=80, overlap=40)
    features = read(tmp_path / "a.geojson")
    assert len(features) == len(expected)
    centers = np.array([np.array(f["geometry"]["coordinates"][0])[:4].mean(0) for f in features])
    for x, y, angle in expected:
        i = np.hypot(*(centers - (x, y)).T).argmin()
        assert np.hypot(*(centers[i] - (x, y))) < 1
        # Counter-clockwise from the right became clockwise from the top.
        off = (features[i]["properties"]["angle"] - (90 - angle)) % 180
        assert min(off, 180 - off) < 4


@pytest.mark.slow
def test_a_harbor_of_ten_thousand_ships_is_that_of_one_pass(write_scene, tmp_path):
    """Every seam is crossed by ships: none is lost, twice or in pieces."""
    geopandas = pytest.importorskip("geopandas")
    values, expected = turned(4020, 4020)
    assert len(expected) >= 9900
    model = trained(OrientedBoxes, classes=CLASSES)
    scene = write_scene(values, **UTM)
    predict(scene, tmp_path / "a.gpkg", model, window=512, overlap=128)
    predict(scene, tmp_path / "b.gpkg", model, window=4020, overlap=0)
    found, whole = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in "ab")
    assert len(found) == len(whole) == len(expected)
    nearest = whole.sindex.nearest(found.centroid, return_all=False)[1]
    assert len(set(nearest)) == len(found)
    same = whole.geometry.values[nearest]
    assert found.geometry.values.hausdorff_distance(same).max() < 1e-2  # of a pixel of 10 m
    assert (found.score.values == whole.score.values[nearest]).all()


# Where boxes lie.


def square(write_scene, **profile):
    values = np.zeros((3, 60, 80), np.uint8)
    values[:, 20:30, 40:60] = 250
    return write_scene(values, **profile)


CORNERS = {(500400, 4999800), (500600, 4999800), (500600, 4999700), (500400, 4999700)}


def test_geojson_is_in_longitude_and_latitude(model, write_scene, tmp_path):
    predict(square(write_scene, **UTM), tmp_path / "a.geojson", model)
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["rsvheat"]["RSVHEAT_SOURCE"] == "scene.tif"
    (feature,) = read(tmp_path / "a.geojson")
    ring = np.array(feature["geometry"]["coordinates"][0])
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", *ring.T)
    assert {(round(a), round(b)) for a, b in zip(x, y, strict=True)} == CORNERS
    # The right-hand rule of RFC 7946.
    a, b = ring[:-1].T
    assert (a * np.roll(b, -1) - np.roll(a, -1) * b).sum() > 0
    properties = feature["properties"]
    assert properties == {"class": "plane", "label": 1, "score": round(200 / 201, 4)}


def test_geopackage_is_in_the_scenes_reference_system(model, write_scene, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    geopandas = pytest.importorskip("geopandas")
    result = predict(square(write_scene, **UTM), tmp_path / "ships.gpkg", model)
    assert result.counts == (0, 1)
    frame = geopandas.read_file(tmp_path / "ships.gpkg")
    assert frame.crs == rasterio.CRS.from_epsg(32632).to_wkt()
    assert set(frame.geometry[0].exterior.coords) == CORNERS
    assert frame.geometry[0].exterior.is_ccw
    assert frame["class"].tolist() == ["plane"]
    assert frame["score"].tolist() == [round(200 / 201, 4)]
    assert pyogrio.list_layers(tmp_path / "ships.gpkg")[:, 0].tolist() == ["ships"]
    info = pyogrio.read_info(tmp_path / "ships.gpkg")
    assert info["layer_metadata"]["RSVHEAT_SOURCE"] == "scene.tif"
    many = write_scene(harbor(200, 300)[0], "many.tif", **UTM)
    predict(many, tmp_path / "ships.gpkg", model, window=64, overwrite=True)
    predict(many, tmp_path / "many.geojson", model, window=64)
    frame = geopandas.read_file(tmp_path / "ships.gpkg")
    assert len(frame) == len(read(tmp_path / "many.geojson")) == len(harbor(200, 300)[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("many.geojson", "many.tif", "scene.tif", "ships.gpkg")
    ]


@pytest.mark.parametrize("suffix", ["geojson", "gpkg"])
def test_nothing_found_is_a_file_without_boxes(suffix, model, write_scene, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "gpkg":
        geopandas = pytest.importorskip("geopandas")
    result = predict(write_scene(np.zeros((3, 40, 40), np.uint8), **UTM), path, model)
    assert result.counts == (0, 0)
    if suffix == "gpkg":
        frame = geopandas.read_file(path)
        assert (len(frame), frame.crs.to_epsg()) == (0, 32632)
        assert {"class", "label", "score"} <= set(frame.columns)
    else:
        assert read(path) == []


def test_rotated_grids_and_ground_control_points(model, write_scene, tmp_path):
    turned = Affine.translation(500000, 5000000) @ Affine.rotation(30) @ Affine.scale(10, -10)
    expected = {tuple(np.round(turned @ (x, y))) for x in (40, 60) for y in (20, 30)}
    points = [
        GroundControlPoint(row, column, *(turned @ (column, row)))
        for row in (0, 60)
        for column in (0, 80)
    ]
    for number, place in enumerate(
        ({"crs": "EPSG:32632", "transform": turned}, {"gcps": (points, "EPSG:32632")})
    ):
        scene = square(write_scene, name=f"{number}.tif", **place)
        predict(scene, tmp_path / f"{number}.geojson", model)
        (feature,) = read(tmp_path / f"{number}.geojson")
        ring = np.array(feature["geometry"]["coordinates"][0])
        x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32632", *ring.T)
        assert {(round(a), round(b)) for a, b in zip(x, y, strict=True)} == expected


def test_angles_are_from_the_maps_north(write_scene, tmp_path):
    """Of a box along the image's columns: north, or 60 degrees where the grid is turned by -60."""
    values = np.zeros((3, 60, 60), np.uint8)
    values[:, 10:40, 20:28] = 250
    model = trained(OrientedBoxes, classes=CLASSES, size=64)
    turned = Affine.translation(500000, 5000000) @ Affine.rotation(-60) @ Affine.scale(10, -10)
    for name, place, angle in (("a", UTM, 0), ("b", {**UTM, "transform": turned}, 60)):
        scene = write_scene(values, f"{name}.tif", **place)
        predict(scene, tmp_path / f"{name}.geojson", model)
        (feature,) = read(tmp_path / f"{name}.geojson")
        off = (feature["properties"]["angle"] - angle) % 180
        assert min(off, 180 - off) < 1


# Options and what goes wrong.


def test_low_scores_are_left_out(model, write_scene, tmp_path):
    values, _ = harbor(100, 100)
    scene, one = write_scene(values), model.predict(values)
    least = float(np.median(one.scores))
    result = predict(scene, tmp_path / "a.geojson", model, min_score=least)
    scores = [f["properties"]["score"] for f in read(tmp_path / "a.geojson")]
    assert sorted(scores) == pytest.approx(sorted(s for s in one.scores if s >= least), abs=1e-4)
    assert sum(result.counts) == len(scores) < len(one.scores)


def test_objects_without_data_are_dropped(model, write_scene, tmp_path):
    values = np.full((3, 64, 64), 20, np.float32)
    values[:, 10:20, 10:20] = values[:, 40:50, 40:50] = 250
    values[:, :30] = np.nan
    # Missing pixels become 0, which the network takes for background; an object among them is
    # claimed by a network that always claims it.
    always = {
        "boxes": torch.tensor([[10.0, 10, 20, 20], [40, 40, 50, 50]]),
        "scores": torch.tensor([0.9, 0.8]),
        "labels": torch.tensor([0, 0]),
    }
    model.network.predict = lambda images: [always] * len(images["optical"])
    result = predict(write_scene(values), tmp_path / "a.geojson", model, window=64)
    assert result.counts == (1, 0)
    assert pixels(read(tmp_path / "a.geojson")) == [(40, 40, 50, 50, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output": "a.tif"},
            r"a\.tif must end in \.gpkg, \.fgb, \.parquet, \.geojson, \.json for boxes",
        ),
        ({"stride": 4}, "stride has no meaning for boxes, got 4"),
        ({"probability": "p.tif"}, r"probability has no meaning for boxes, got p\.tif"),
        ({"colors": {"ship": "#000000"}}, "colors has no meaning for boxes"),
        ({"overlap": 128}, "overlap must be less than the window's 128 pixels, got 128"),
        ({"min_score": 2.0}, r"min_score must be within 0 to 1, got 2\.0"),
    ],
)
def test_wrong_arguments_are_told(model, write_scene, tmp_path, options, message):
    scene = square(write_scene)
    output = tmp_path / options.pop("output", "a.geojson")
    with pytest.raises(ValueError, match=message):
        predict(scene, output, model, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_an_older_file_stays_unless_it_is_to_be_replaced(model, write_scene, tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text("older")
    scene = square(write_scene)
    with pytest.raises(FileExistsError, match=r"a\.geojson is there already: --overwrite"):
        predict(scene, path, model)
    model.network.predict = lambda images: 1 / 0
    with pytest.raises(ZeroDivisionError):
        predict(scene, path, model, overwrite=True)
    assert path.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.geojson", "scene.tif"]


def test_geopackage_needs_pyogrio(model, write_scene, tmp_path, monkeypatch):
    scene = square(write_scene)
    monkeypatch.setitem(sys.modules, "pyogrio.raw", None)
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(ModuleNotFoundError, match="pyogrio"):
        predict(scene, tmp_path / "a.gpkg", model)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_results_that_are_not_finite_are_told_with_their_window(model, write_scene, tmp_path):
    bad = {"boxes": torch.full((1, 4), torch.nan), "scores": torch.ones(1), "labels": torch.ones(1)}
    model.network.predict = lambda images: [bad] * len(images["optical"])
    with pytest.raises(FloatingPointError, match="60 x 80 pixels at row 0, column 0"):
        predict(square(write_scene), tmp_path / "a.geojson", model)


def test_the_command_writes_boxes_to_runs_maps(model, write_scene, tmp_path, capsys, monkeypatch):
    pytest.importorskip("jsonargparse")
    from rsvheat import cli
    from rsvheat.commands import predict as command

    scene = square(write_scene, **UTM)
    model.save(tmp_path / "c.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    words = [str(scene), "--checkpoint", "c.ckpt", "--min_score=0.5", "--overwrite"]
    assert cli.main(["predict", *words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("runs/maps/scene.geojson: 1 boxes, in ")
    assert out[1].split() == ["plane", "1"]
    assert len(read(tmp_path / "runs/maps/scene.geojson")) == 1
