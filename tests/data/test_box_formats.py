# SPDX-License-Identifier: Apache-2.0
"""Files of box annotations: what they hold, and errors that name the line."""

import json

import numpy as np
import pytest

pytest.importorskip("PIL")
import PIL.Image

from rsvheat.data import DataError, SampleError
from rsvheat.data.formats import (
    read_coco,
    read_dota,
    read_fair1m,
    read_geo,
    read_instance_mask,
    read_nwpu,
    read_voc,
    read_yolo,
    read_yolo_names,
)

BOX = [[1, 2], [9, 2], [9, 6], [1, 6]]


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_dota_with_and_without_headers(tmp_path):
    lines = "1 2 9 2 9 6 1 6 ship 0\n\n-1.5 2 9 2 9 6 1 6 large vehicle 2\n1 2 9 2 9 6 1 6 plane\n"
    for header in ("", "imagesource:GoogleEarth\ngsd:null\n", "\ufeffimagesource:GF\ngsd:0.1\n"):
        found = read_dota(written(tmp_path / "a.txt", header + lines))
        assert found.names == ("ship", "large vehicle", "plane")
        assert found.difficult.tolist() == [False, True, False]
        np.testing.assert_array_equal(found.corners[0], BOX)
        assert found.corners[1, 0, 0] == -1.5
    assert len(read_dota(written(tmp_path / "b.txt", "imagesource:GF\ngsd:1\n"))) == 0
    with pytest.raises(SampleError, match=r"a\.txt, line 2: 'x' is no coordinate"):
        read_dota(written(tmp_path / "a.txt", "gsd:1\n1 2 9 2 9 6 1 x ship 0"))
    with pytest.raises(SampleError, match="line 1: expected 8 coordinates"):
        read_dota(written(tmp_path / "a.txt", "1 2 9 2"))
    with pytest.raises(SampleError, match="nan"):
        read_dota(written(tmp_path / "a.txt", "1 2 9 2 9 6 1 nan ship 0"))


VOC = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>A320/321</name>"
    "<difficult>1</difficult>{}</object></annotation>"
)
BNDBOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>6</ymax></bndbox>"
SSDD_BOX = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(BOX, 1))


def test_voc_of_all_kinds(tmp_path):
    path = tmp_path / "a.xml"
    for shape in (BNDBOX, f"{BNDBOX}<rotated_bndbox>{SSDD_BOX}</rotated_bndbox>"):
        found = read_voc(written(path, VOC.format(shape)))
        assert found.names == ("A320/321",)
        assert found.difficult.tolist() == [True]
        assert found.size == (20, 30)
        np.testing.assert_array_equal(found.corners[0], BOX)
    quarter = "<robndbox><cx>5</cx><cy>4</cy><w>4</w><h>8</h><angle>1.5707963</angle></robndbox>"
    corners = read_voc(written(path, VOC.format(quarter))).corners[0]
    assert corners.min(0) == pytest.approx([1, 2])
    assert corners.max(0) == pytest.approx([9, 6])
    # Clockwise as seen: the right end of the width goes down.
    tilted = "<robndbox><cx>0</cx><cy>0</cy><w>2</w><h>0.1</h><angle>0.5</angle></robndbox>"
    corners = read_voc(written(path, VOC.format(tilted))).corners[0]
    right = corners[corners[:, 0] > 0].mean(0)
    np.testing.assert_allclose(right, [np.cos(0.5), np.sin(0.5)], atol=1e-6)
    assert len(read_voc(written(path, "<annotation/>"))) == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (VOC.format(""), "has none of robndbox"),
        (VOC.format(BNDBOX.replace("<xmin>1</xmin>", "")), "bndbox has no xmin"),
        (VOC.format(BNDBOX.replace(">9<", ">inf<")), "'inf' is no coordinate"),
        (VOC.format(BNDBOX).replace("A320/321", " "), "object has no name"),
        ("<annotation>", "is not XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "declares a document type"),
    ],
)
def test_damaged_voc_is_named(tmp_path, text, match):
    with pytest.raises(SampleError, match=match):
        read_voc(written(tmp_path / "a.xml", text))


@pytest.mark.parametrize("encoding", ["utf-8", "gb2312", "gbk", "utf-16"])
def test_fair1m_of_every_encoding(tmp_path, encoding):
    points = "".join(f"<point>{x}.0, {y}.0</point>" for x, y in [*BOX, BOX[0]])
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><annotation><origin>高分二号</origin><objects>'
        "<object><possibleresult><name>Liquid Cargo Ship</name></possibleresult>"
        f"<points>{points}</points></object></objects></annotation>"
    )
    if encoding == "utf-16":  # its declaration cannot be read before it is known
        with pytest.raises(SampleError, match=r"a.xml is (not XML|neither)"):
            read_fair1m(written(tmp_path / "a.xml", text, encoding))
        return
    found = read_fair1m(written(tmp_path / "a.xml", text, encoding))
    assert found.names == ("Liquid Cargo Ship",)
    np.testing.assert_array_equal(found.corners[0], BOX)
    with pytest.raises(SampleError, match="expected four corners"):
        read_fair1m(written(tmp_path / "a.xml", text.replace("<point>9.0, 6.0</point>", "")))


def test_xml_that_says_utf8_and_is_gbk(tmp_path):
    text = VOC.format(BNDBOX).replace("A320/321", "舰船")
    path = written(tmp_path / "a.xml", f'<?xml version="1.0" encoding="utf-8"?>{text}', "gbk")
    assert read_voc(path).names == ("舰船",)
    (tmp_path / "b.xml").write_bytes(b"<a>\xff\xff\x80</a>")
    with pytest.raises(SampleError, match=r"b\.xml is neither"):
        read_voc(tmp_path / "b.xml")
    with pytest.raises(SampleError, match=r"c\.xml cannot be read: No such file"):
        read_voc(tmp_path / "c.xml")


def test_nwpu_with_blanks(tmp_path):
    path = written(tmp_path / "a.txt", "( 1, 2),(9 ,6 ), 2 \r\n\r\n")
    found = read_nwpu(path, ("plane", "ship"))
    assert found.names == ("ship",)
    np.testing.assert_array_equal(found.corners[0], BOX)
    for line in ("(1,2),(9,6),3", "(1,2),(9,6),0", "1,2,9,6,1"):
        with pytest.raises(SampleError, match="line 1: expected"):
            read_nwpu(written(path, line), ("plane", "ship"))


def test_yolo_boxes_corners_and_outlines(tmp_path):
    # Of an image of 20 x 10 pixels.
    lines = (
        "1 0.25 0.4 0.4 0.4\n"
        "0 0.05 0.2 0.45 0.2 0.45 0.6 0.05 0.6\n"
        "0 0.05 0.2 0.25 0.2 0.45 0.2 0.45 0.6 0.05 0.6\n"
    )
    found = read_yolo(written(tmp_path / "a.txt", lines), ("a", "b"), (10, 20))
    assert found.names == ("b", "a", "a")
    for corners in found.corners:
        assert corners.min(0) == pytest.approx([1, 2])
        assert corners.max(0) == pytest.approx([9, 6])
    for line, match in (
        ("2 0 0 1 1", "'2' is no class number from 0 to 1"),
        ("0 0 0 1", "got 3 values"),
        ("a 0 0 1 1", "'a' is no class number"),
    ):
        with pytest.raises(SampleError, match=match):
            read_yolo(written(tmp_path / "a.txt", line), ("a", "b"), (10, 20))
    assert read_yolo_names(tmp_path) is None
    written(tmp_path / "data.yaml", "names: {0: plane, 1: ship}\n")
    assert read_yolo_names(tmp_path / "labels", tmp_path) == ("plane", "ship")
    written(tmp_path / "data.yaml", "names: [plane, ship]\n")
    assert read_yolo_names(tmp_path) == ("plane", "ship")
    written(tmp_path / "classes.txt", "a/b\n\nc d\n")
    assert read_yolo_names(tmp_path) == ("a/b", "c d")
    (tmp_path / "classes.txt").unlink()
    written(tmp_path / "data.yaml", "train: images\n")
    with pytest.raises(DataError, match="has no list of names"):
        read_yolo_names(tmp_path)


COCO = {
    "images": [
        {"id": 70, "file_name": "a/1.png", "height": 10, "width": 20},
        {"id": 9, "file_name": "2.png"},
    ],
    "categories": [{"id": 9, "name": "ship"}, {"id": 2, "name": "plane"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 70,
            "category_id": 9,
            "bbox": [1, 2, 8, 4],
            "segmentation": [[5, 2, 9, 4, 5, 6, 1, 4]],
            "iscrowd": 1,
        }
    ],
}


def test_coco(tmp_path):
    path = written(tmp_path / "a.json", json.dumps(COCO))
    content = read_coco(path)
    assert content.classes == ("plane", "ship")
    assert list(content.images) == ["a/1.png", "2.png"]
    boxes = content.images["a/1.png"]
    np.testing.assert_array_equal(boxes.corners[0], BOX)
    assert (boxes.names, boxes.size) == (("ship",), (10, 20))
    assert boxes.difficult.tolist() == [True]
    assert len(content.images["2.png"]) == 0
    corners = read_coco(path, oriented=True).images["a/1.png"].corners[0]
    np.testing.assert_array_equal(corners, [[5, 2], [9, 4], [5, 6], [1, 4]])


def test_masks_of_objects(tmp_path):
    shapely = pytest.importorskip("shapely")
    colors = np.zeros((40, 60, 3), np.uint8)
    colors[2:5, 3:10] = (0, 0, 128)
    colors[2:5, 6] = (0, 1, 0)  # parts the first
    y, x = np.mgrid[:40, :60]
    slanted = (abs(x - y - 15) < 4) & (abs(x + y - 55) < 16)
    colors[slanted] = (1, 0, 0)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(colors).save(path)
    boxes = read_instance_mask(path, "ship")
    assert (boxes.names, boxes.size) == (("ship",) * 3, (40, 60))
    assert not boxes.difficult.any()
    found = np.concatenate((boxes.corners.min(1), boxes.corners.max(1)), 1)
    outline = (x[slanted].min(), y[slanted].min(), x[slanted].max() + 1, y[slanted].max() + 1)
    np.testing.assert_array_equal(found, [(3, 2, 10, 5), (6, 2, 7, 5), outline])
    corners = read_instance_mask(path, "ship", oriented=True).corners
    np.testing.assert_array_equal(corners[:2].min(1), [(3, 2), (6, 2)])
    pixels = [shapely.box(i, j, i + 1, j + 1) for i, j in zip(x[slanted], y[slanted], strict=True)]
    wanted = shapely.oriented_envelope(shapely.union_all(pixels))
    one = shapely.Polygon(corners[2])
    assert one.symmetric_difference(wanted).area < 1e-9 * wanted.area
    PIL.Image.fromarray(colors[..., 2]).save(path)
    assert len(read_instance_mask(path, "ship")) == 1
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    assert len(read_instance_mask(path, "ship")) == 0
    alpha = np.where(slanted, 255, 0).astype(np.uint8)
    PIL.Image.fromarray(np.dstack((colors, alpha))).save(path)
    assert len(read_instance_mask(path, "ship")) == 1
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    with pytest.raises(SampleError, match="has 1 bands of float32; a mask of objects has 1 or 3"):
        read_instance_mask(path, "ship")


def test_damaged_coco_is_named(tmp_path):
    path = tmp_path / "a.json"
    for change, match in (
        ({"images": COCO["images"][1:]}, "annotation 1 is of the image 70 and the category 9"),
        ({"categories": []}, "which are not both listed"),
        ({"annotations": None}, "is not a file of COCO"),
        ({"images": [COCO["images"][0], {**COCO["images"][0], "id": 1}]}, "a file name twice"),
    ):
        with pytest.raises(DataError, match=match):
            read_coco(written(path, json.dumps({**COCO, **change})))
    with pytest.raises(DataError, match="is not a file of COCO"):
        read_coco(written(path, "{"))
    crowd = {**COCO["annotations"][0], "segmentation": {"counts": [1], "size": [1, 1]}}
    with pytest.raises(DataError, match="has no polygon"):
        read_coco(written(path, json.dumps({**COCO, "annotations": [crowd]})), oriented=True)


# Georeferenced ------------------------------------------------------------------------------------


def feature(ring, **attributes):
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return {"type": "Feature", "geometry": geometry, "properties": attributes}


def geojson(path, *features, **more):
    return written(path, json.dumps({"type": "FeatureCollection", "features": features, **more}))


def at(transform, point):
    """Return the coordinates of a pixel's corner on the map."""
    return transform.c + transform.a * point[0], transform.f + transform.e * point[1]


@pytest.fixture
def geotiff(tmp_path):
    """A GeoTIFF of UTM zone 32 in 0.5 m, with its transform from pixels."""
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.transform.from_origin(500000, 5400000, 0.5, 0.5)
    path = tmp_path / "scene.tif"
    options = {"driver": "GTiff", "count": 1, "height": 40, "width": 60, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=transform, **options) as file:
        file.write(np.ones((1, 40, 60), np.uint8))
    return path, transform


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3857"])
def test_georeferenced_polygons_come_back_in_pixels(tmp_path, geotiff, suffix, crs):
    geopandas = pytest.importorskip("geopandas")
    import shapely

    image, transform = geotiff
    turned = [[10.5, 5.25], [30.5, 15.25], [25.5, 25.25], [5.5, 15.25]]
    cut = [[50, 30], [80, 30], [80, 38], [50, 38]]
    away = [[500, 30], [510, 30], [510, 38], [500, 38]]
    outline = [[10, 10], [15, 8], [20, 10], [20, 16], [10, 16]]
    pixels = [turned, cut, away, outline]
    rings = [[at(transform, point) for point in ring] for ring in pixels]
    frame = geopandas.GeoDataFrame(
        {"kind": ["ship", "plane", "ship", "car"], "difficult": [False, True, False, False]},
        geometry=[shapely.Polygon(ring) for ring in rings],
        crs="EPSG:32632",
    ).to_crs(crs)
    path = tmp_path / f"boxes{suffix}"
    frame.to_file(path)
    boxes = read_geo(path, class_field="kind").on_image(image)
    assert boxes.names == ("ship", "plane", "car")
    assert boxes.difficult.tolist() == [False, True, False]
    for found, ring in zip(boxes.corners[:2], (turned, cut), strict=True):
        order = [int(np.abs(found - point).sum(1).argmin()) for point in np.array(ring)]
        assert sorted(order) == [0, 1, 2, 3]
        np.testing.assert_allclose(found[order], ring, atol=0.01)
    np.testing.assert_allclose(boxes.corners[2].min(0), [10, 8], atol=0.05)
    np.testing.assert_allclose(boxes.corners[2].max(0), [20, 16], atol=0.05)
    assert boxes.size == (40, 60)
    with pytest.raises(DataError, match="has no attribute 'class', but"):
        read_geo(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_polygons_over_images_without_georeference_are_in_pixels(tmp_path):
    pytest.importorskip("rasterio")
    PIL.Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "a.png")
    path = geojson(tmp_path / "a.geojson", feature(BOX, **{"class": "ship"}))
    np.testing.assert_array_equal(read_geo(path).on_image(tmp_path / "a.png").corners[0], BOX)
    empty = geojson(tmp_path / "b.geojson")
    assert len(read_geo(empty).on_image(tmp_path / "a.png")) == 0


def test_damaged_geojson_is_named(tmp_path):
    path = tmp_path / "a.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [0, 0]}}
    for features, match in (
        ([point], "has a Point, expected polygons"),
        ([feature(BOX)], "has no attribute 'class', but none"),
        ([feature(BOX[:2], **{"class": "a"})], "has 2 corners"),
        ([{"type": "Feature"}], "is not GeoJSON"),
    ):
        with pytest.raises(DataError, match=match):
            read_geo(geojson(path, *features))
    with pytest.raises(DataError, match="is not GeoJSON"):
        read_geo(written(path, "[]"))
    pytest.importorskip("pyogrio")
    with pytest.raises(DataError, match=r"a\.gpkg"):
        read_geo(written(tmp_path / "a.gpkg", "no database"))
