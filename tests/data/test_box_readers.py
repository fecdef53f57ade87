# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets of boxes, on miniature trees with their traps and on real images."""

import itertools
import json
import pickle
import re
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("rasterio")
pytest.importorskip("PIL")
import PIL.Image

pytest.importorskip("torchvision")

from rsvheat.data import (
    DIOR,
    DIORR,
    DOTA,
    FAIR1M,
    HRSID,
    NWPUVHR10,
    SSDD,
    BoxFolders,
    Crop,
    DataError,
    DataModule,
    LoaderOptions,
    SARAircraft,
    Scan,
    miniature,
)

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def samples(splits):
    """Yield split, source and index of each sample."""
    for name, split in splits.items():
        indices = range(len(split.source)) if split.indices is None else split.indices
        yield from ((name, split.source, int(index)) for index in indices)


def by_split(splits):
    found = {name: [] for name in splits}
    for name, source, index in samples(splits):
        found[name].append(source.key(index))
    return {name: sorted(keys) for name, keys in found.items()}


def check_boxes(splits, tree, oriented):
    """Compare the boxes of all samples with those that were written."""
    seen = set()
    for _, source, index in samples(splits):
        key = source.key(index)
        found = source.boxes(index)
        wanted = tree.boxes[key]
        assert [source.classes[label] for label in found.labels] == [b.name for b in wanted], key
        assert found.difficult.tolist() == [box.difficult for box in wanted]
        corners = np.array([box.corners for box in wanted]).reshape(-1, 4, 2)
        if oriented:
            np.testing.assert_array_equal(found.boxes, corners)
        else:
            np.testing.assert_array_equal(found.boxes.min(1), corners.min(1))
            np.testing.assert_array_equal(found.boxes.max(1), corners.max(1))
        assert source.target == ("oriented_boxes" if oriented else "boxes")
        seen.add(key)
    assert len(seen) > 3
    return seen


def check_batches(reader, **options):
    """Return the specification of a data module over a reader that gave batches."""
    crop = Crop(32, 48, **options.pop("crop", {}))
    data = DataModule(
        reader,
        crop=crop,
        loader=LoaderOptions(batch_size=2, num_workers=0),
        on_error="raise",
        **options,
    )
    data.prepare_data()
    data.setup()
    boxes = 0
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    for batch in itertools.chain(*loaders):
        for name, bands in data.spec.modalities.items():
            assert batch["images"][name].shape[1:] == (bands, 32, 32)
            assert batch["images"][name].isfinite().all()
        for box, labels, hard in zip(
            batch["boxes"], batch["labels"], batch["difficult"], strict=True
        ):
            assert box.shape == (len(labels), 4 if data.spec.target == "boxes" else 5)
            assert len(hard) == len(labels)
            if data.spec.target == "boxes":
                assert ((box >= 0) & (box <= 32)).all()
                assert (box[:, 2:] > box[:, :2]).all()
            else:
                assert (box[:, 2:4] > 0).all()
            boxes += len(labels)
    assert boxes > 3
    assert pickle.loads(pickle.dumps(data.datasets["train"].source)).classes == data.spec.classes
    return data.spec


# Miniature trees ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("oriented", [False, True])
def test_dior(tmp_path, oriented, other, caplog):
    tree = miniature.write_dior(tmp_path, oriented=oriented, other_spelling=other)
    kind = DIORR if oriented else DIOR
    splits = kind(str(tmp_path)).splits(Scan(on_error="raise"))
    assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
    check_boxes(splits, tree, oriented)
    assert "00003: 1 of" in caplog.text
    assert "have no area" in caplog.text
    assert splits["train"].source.classes == miniature.DIOR
    both = kind(str(tmp_path), train_on="trainval").splits(Scan(on_error="raise"))
    assert by_split(both)["train"] == sorted(tree.labeled["train"] + tree.labeled["val"])
    assert set(both) == {"train", "test"}
    assert check_batches(kind(str(tmp_path))).modalities == {"optical": 3}


def test_dior_without_lists_and_with_other_classes(tmp_path):
    tree = miniature.write_dior(tmp_path)
    for path in (tmp_path / "ImageSets/Main").iterdir():
        path.unlink()
    splits = DIOR(str(tmp_path)).splits(Scan(on_error="raise"))
    expected = {"train": sorted(tree.labeled["train"] + tree.labeled["val"])}
    assert by_split(splits) == {**expected, "test": sorted(tree.labeled["test"])}
    path = tree.traps["spelling"]
    path.write_text(path.read_text().replace("<name>ship", "<name>boat"))
    scan = Scan()
    assert "00001" not in by_split(DIOR(str(tmp_path)).splits(scan))["train"]
    assert "'boat' is of no class; known are airplane" in str(scan.report)
    with pytest.raises(DataError, match="'boat' is of no class"):
        DIOR(str(tmp_path)).splits(Scan(on_error="raise"))


def test_sar_aircraft(tmp_path):
    tree = miniature.write_sar_aircraft(tmp_path)
    for root in (tmp_path, tree.root):
        splits = SARAircraft(str(root)).splits(Scan(on_error="raise"))
        assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
        check_boxes(splits, tree, False)
    assert "A320/321" in splits["train"].source.classes
    assert check_batches(SARAircraft(str(tree.root))).modalities == {"sar": 1}
    splits = SARAircraft(str(tree.root), types=False).splits(Scan(on_error="raise"))
    assert splits["train"].source.classes == ("aircraft",)
    for path in (tree.root / "ImageSets/Main").iterdir():
        path.unlink()
    splits = SARAircraft(str(tree.root), val_fraction=0.25).splits(Scan(on_error="raise"))
    assert {name: len(keys) for name, keys in by_split(splits).items()} == {"train": 6, "val": 2}


@pytest.mark.parametrize("layout", ["official", "numbered", "flat"])
@pytest.mark.parametrize("oriented", [False, True])
def test_ssdd(tmp_path, oriented, layout):
    tree = miniature.write_ssdd(tmp_path, oriented=oriented, layout=layout)
    reader = SSDD(str(tmp_path), oriented=oriented)
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
    check_boxes(splits, tree, oriented)
    if layout == "official":
        reader = SSDD(str(tmp_path), oriented=oriented, val_fraction=0.25)
        assert check_batches(reader).modalities == {"sar": 1}


@pytest.mark.parametrize("oriented", [False, True])
def test_hrsid(tmp_path, oriented):
    tree = miniature.write_hrsid(tmp_path)
    reader = HRSID(str(tmp_path), oriented=oriented, val_fraction=0.25)
    splits = HRSID(str(tmp_path), oriented=oriented).splits(Scan(on_error="raise"))
    assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
    check_boxes(splits, tree, oriented)
    assert check_batches(reader).modalities == {"sar": 1}


def test_nwpu_vhr10(tmp_path):
    tree = miniature.write_nwpu_vhr10(tmp_path)
    splits = NWPUVHR10(str(tmp_path)).splits(Scan(on_error="raise"))
    assert check_boxes(splits, tree, False) == set(tree.boxes)
    assert {name: len(keys) for name, keys in by_split(splits).items()} == {
        "train": 8, "val": 2, "test": 2,
    }  # fmt: skip
    assert by_split(splits)["train"][:2] == ["negative/001", "negative/002"]
    again = NWPUVHR10(str(tmp_path), negative=False).splits(Scan(on_error="raise"))
    assert by_split(again)["train"] == by_split(splits)["train"][2:]
    other = NWPUVHR10(str(tmp_path), negative=False).splits(Scan(seed=1, on_error="raise"))
    assert by_split(other) != by_split(again)
    assert check_batches(NWPUVHR10(str(tmp_path))).classes == miniature.NWPU_VHR10


@pytest.mark.parametrize("version", ["1.0", "1.5", "2.0"])
def test_dota(tmp_path, version):
    tree = miniature.write_dota(tmp_path, version=version)
    reader = DOTA(str(tmp_path), version=version)
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
    check_boxes(splits, tree, True)
    assert splits["train"].source.classes == tree.classes
    if version == "1.0":
        options = {"crop": {"rotation": 180.0, "focus": 0.5}, "balance": 0.5, "overlap": 16}
        assert check_batches(reader, **options).target == "oriented_boxes"
    both = DOTA(str(tmp_path), version=version, train_on="trainval", oriented=False)
    assert len(by_split(both.splits(Scan(on_error="raise")))["train"]) == 6
    if version == "1.5":
        with pytest.raises(ValueError, match="version must be one of"):
            DOTA(str(tmp_path), version="3")


@pytest.mark.parametrize("other", [False, True])
def test_fair1m(tmp_path, other, caplog):
    tree = miniature.write_fair1m(tmp_path, other_layout=other)
    reader = FAIR1M(str(tmp_path), version="2.0")
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == {name: sorted(keys) for name, keys in tree.labeled.items()}
    check_boxes(splits, tree, True)
    assert "1 of 4 boxes have no area" in caplog.text
    assert splits["train"].source.classes == miniature.FAIR1M
    assert check_batches(reader).target == "oriented_boxes"
    one = FAIR1M(str(tmp_path), version="1.0", level="groups", val_fraction=0.4)
    splits = one.splits(Scan(on_error="raise"))
    keys = by_split(splits)
    assert sorted(keys["train"] + keys["val"]) == sorted(tree.labeled["train"])
    assert splits["train"].source.classes == ("Airplane", "Ship", "Vehicle", "Court", "Road")


@pytest.mark.parametrize(
    ("reader", "match"),
    [
        (DIOR, "DIOR: looked for JPEGImages-trainval.*found other/"),
        (DIORR, "DIOR-R: looked for .*Oriented Bounding Boxes; found other/"),
        (SARAircraft, "SAR-AIRcraft-1.0: looked for the folders JPEGImages and Annotations"),
        (SSDD, "SSDD: looked for JPEGImages_train"),
        (HRSID, "HRSID: looked for JPEGImages, annotations/train2017.json"),
        (NWPUVHR10, "NWPU VHR-10: looked for the folders positive image set"),
        (DOTA, "DOTA: looked for images and one of labelTxt-v1.0"),
        (lambda root: FAIR1M(root, version="2.0"), "FAIR1M: looked for images and one of labelXml"),
    ],
)
def test_what_is_missing_is_named(tmp_path, reader, match):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=match) as caught:
        reader(str(tmp_path)).splits(Scan())
    assert "terms: " in str(caught.value)


# Folders of anybody -------------------------------------------------------------------------------


def folders(tree, images, annotations, box_format, **options):
    paths = {"optical": str(tree.root / images)}
    return BoxFolders(paths, str(tree.root / annotations), box_format, **options)


def check_folders(reader, tree, prefix, oriented):
    splits = reader.splits(Scan(on_error="raise"))
    for _, source, index in samples(splits):
        wanted = tree.boxes[prefix + source.key(index)]
        names = [source.classes[label] for label in source.boxes(index).labels]
        assert names == [box.name for box in wanted]
        if oriented:
            corners = np.array([box.corners for box in wanted]).reshape(-1, 4, 2)
            np.testing.assert_allclose(source.boxes(index).boxes, corners, atol=1e-3)
    return splits


def test_folders_of_voc_dota_fair1m_and_nwpu(tmp_path):
    tree = miniature.write_sar_aircraft(tmp_path)
    reader = folders(tree, "JPEGImages", "Annotations", "voc")
    splits = check_folders(reader, tree, "", False)
    names = {box.name for boxes in tree.boxes.values() for box in boxes}
    assert set(splits["train"].source.classes) <= names
    tree = miniature.write_dota(tmp_path / "dota")
    reader = folders(
        tree, "train/images", "train/labelTxt", "dota", oriented=True, val_fraction=0.25
    )
    check_folders(reader, tree, "train/", True)
    tree = miniature.write_fair1m(tmp_path / "fair1m")
    reader = folders(tree, "train/part1/images", "train/part1/labelXml", "fair1m", oriented=True)
    check_folders(reader, tree, "train/part1/", True)
    tree = miniature.write_nwpu_vhr10(tmp_path / "nwpu")
    reader = folders(
        tree, "positive image set", "ground truth", "nwpu", classes=miniature.NWPU_VHR10
    )
    check_folders(reader, tree, "positive/", False)


def test_folders_of_coco(tmp_path):
    tree = miniature.write_hrsid(tmp_path)
    train = tree.root / "annotations/train2017.json"
    test = tree.root / "annotations/test2017.json"
    for split in ("train", "test"):
        place = tree.root / split
        place.mkdir()
        for key in tree.labeled[split]:
            (tree.root / "JPEGImages" / f"{key}.jpg").rename(place / f"{key}.jpg")
    reader = BoxFolders(
        {"sar": str(tree.root / "train")},
        str(train),
        "coco",
        oriented=True,
        test_images={"sar": str(tree.root / "test")},
        test_annotations=str(test),
        val_fraction=0.25,
    )
    splits = check_folders(reader, tree, "", True)
    assert {name: len(keys) for name, keys in by_split(splits).items()} == {
        "train": 3, "val": 1, "test": 2,
    }  # fmt: skip
    assert check_batches(reader).modalities == {"sar": 1}


@pytest.mark.parametrize("corners", [False, True])
def test_folders_of_yolo(tmp_path, corners):
    tree = miniature.write_dota(tmp_path)
    images = tmp_path / "train/images"
    labels = tmp_path / "train/labels"
    labels.mkdir()
    for key in tree.labeled["train"]:
        lines = []
        height, width = 64 + 9 * int(key[-4:]), 2 * 64 - 5
        for box in tree.boxes[key]:
            points = np.array(box.corners) / (width, height)
            low, high = points.min(0), points.max(0)
            values = points.ravel() if corners else [*(low + high) / 2, *(high - low)]
            lines.append(" ".join(map(str, [tree.classes.index(box.name), *values])))
        if lines:  # an image without boxes has no file
            (labels / f"{key[-5:]}.txt").write_text("\n".join(lines))
    reader = BoxFolders({"optical": str(images)}, str(labels), "yolo", oriented=corners)
    with pytest.raises(DataError, match="give classes"):
        reader.splits(Scan())
    (tmp_path / "train/data.yaml").write_text(json.dumps({"names": tree.classes}))
    splits = check_folders(reader, tree, "train/", corners)
    assert sum(map(len, by_split(splits).values())) == 4
    assert splits["train"].source.classes == tree.classes


def test_folders_of_geojson_for_one_image_or_all(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "images").mkdir()
    features = []
    for number, left in enumerate((500000, 500100)):
        transform = rasterio.transform.from_origin(left, 5400000, 1, 1)
        options = {"driver": "GTiff", "count": 3, "height": 50, "width": 50, "dtype": "uint8"}
        path = tmp_path / f"images/{number}.tif"
        with rasterio.open(path, "w", crs="EPSG:32632", transform=transform, **options) as file:
            file.write(np.ones((3, 50, 50), np.uint8))
        pixels = ((5, 5), (25, 5), (25, 15), (5, 15), (5, 5))
        ring = [(left + x, 5400000 - y) for x, y in pixels]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"geometry": geometry, "properties": {"class": f"kind {number}"}})
    crs = {"properties": {"name": "EPSG:32632"}}
    path = tmp_path / "all.geojson"
    path.write_text(json.dumps({"features": features, "crs": crs}))
    (tmp_path / "each").mkdir()
    for number, one in enumerate(features):
        text = json.dumps({"features": [one], "crs": crs})
        (tmp_path / f"each/{number}.geojson").write_text(text)
    for annotations in (path, tmp_path / "each"):
        reader = BoxFolders(
            {"optical": str(tmp_path / "images")},
            str(annotations),
            "geo",
            oriented=True,
            val_fraction=0.0,
        )
        source = reader.splits(Scan(on_error="raise"))["train"].source
        assert source.classes == ("kind 0", "kind 1")
        for index in range(2):
            found = source.boxes(index)
            assert found.labels.tolist() == [index]
            expected = [[[5, 5], [25, 5], [25, 15], [5, 15]]]
            np.testing.assert_allclose(found.boxes, expected, atol=1e-6)


def test_folders_that_do_not_fit_are_named(tmp_path):
    tree = miniature.write_dota(tmp_path)
    for options, match in (
        ({"box_format": "xml"}, "box_format must be one of"),
        ({"box_format": "nwpu"}, "give classes"),
        ({"box_format": "dota", "missing": "no"}, 'missing must be "skip" or "keep"'),
        ({"box_format": "dota", "val_annotations": "a"}, "val_annotations needs val_images"),
        ({"box_format": "dota", "val_images": {"sar": "a"}}, "modalities that images has not"),
        ({"box_format": "dota", "classes": ["a", "a"]}, "classes must differ"),
    ):
        with pytest.raises(ValueError, match=match):
            folders(tree, "train/images", "train/labelTxt", **options)
    for annotations, box_format, match in (
        ("train/labels", "dota", "labels, for the boxes, is no such folder; expected a folder"),
        ("train/labelTxt", "voc", "holds no file that ends in .xml; found P0000.txt"),
        ("train/labelTxt", "coco", "expected a JSON file"),
    ):
        with pytest.raises(DataError, match=match):
            folders(tree, "train/images", annotations, box_format).splits(Scan())
    (tmp_path / "train/labelTxt/P0000.txt").unlink()
    scan = Scan()
    folders(tree, "train/images", "train/labelTxt", "dota").splits(scan)
    assert "P0000.png has no file of boxes" in str(scan.report)


# Real images --------------------------------------------------------------------------------------


def counts(splits):
    """Return numbers of images and of boxes by class name."""
    boxes = Counter()
    images = 0
    for _, source, index in samples(splits):
        images += 1
        boxes.update(source.classes[label] for label in source.boxes(index).labels)
    return images, boxes


def test_real_nwpu_vhr10(shared):
    root = shared("det_nwpu_vhr10")
    numbers = Counter()
    for path in (root / "ground truth").glob("*.txt"):
        numbers.update(re.findall(r"(\d+)\s*$", path.read_text(), re.MULTILINE))
    images, boxes = counts(NWPUVHR10(str(root)).splits(Scan(on_error="raise")))
    assert images == 240
    assert boxes == {miniature.NWPU_VHR10[int(n) - 1]: count for n, count in numbers.items()}
    assert sum(boxes.values()) == 1487


def test_real_fair1m(shared):
    root = shared("obb_fair1m")
    names = Counter()
    flat = 0
    for path in (root / "train/part1/labelXml").glob("*.xml"):
        for element in ET.parse(path).iter("object"):
            points = {point.text for point in element.iter("point")}
            flat += len(points) < 3
            names[element.findtext("possibleresult/name")] += len(points) >= 3
    assert flat == 3
    images, boxes = counts(FAIR1M(str(root), version="1.0").splits(Scan(on_error="raise")))
    assert images == 60
    assert boxes == names
    assert sum(boxes.values()) == 2114
    _, groups = counts(
        FAIR1M(str(root), version="1.0", level="groups").splits(Scan(on_error="raise"))
    )
    assert sum(groups.values()) == 2114


def test_real_dota_and_its_tiles(shared):
    root = shared("det_dota")
    lines = [
        line.split()
        for path in (root / "labelTxt").glob("*.txt")
        for line in path.read_text().splitlines()
        if ":" not in line
    ]
    splits = DOTA(str(root)).splits(Scan(on_error="raise"))
    images, boxes = counts(splits)
    assert (images, boxes) == (2, Counter(words[8] for words in lines))
    hard = sum(splits["train"].source.boxes(i).difficult.sum() for i in range(2))
    assert hard == sum(int(words[9]) for words in lines)
    data = DataModule(
        DOTA(str(root)),
        crop=Crop(256, 512),
        loader=LoaderOptions(batch_size=2, num_workers=0),
        overlap=200,
    )
    data.setup()
    tiles = data.datasets["train_plain"]
    counted = sum(int((~tiles[i]["difficult"]).sum()) for i in range(len(tiles)))
    assert counted == sum(boxes.values()) - hard


@pytest.mark.parametrize("oriented", [False, True])
def test_real_ssdd(shared, oriented):
    root = shared("det_ssdd")
    splits = SSDD(str(root), oriented=oriented).splits(Scan(on_error="raise"))
    for split, number in (("train", "01"), ("test", "02")):
        base = root / ("VOCOBB" if oriented else "VOC")
        found = {path.stem: path for path in (base / f"Annotations{number}").glob("*.xml")}
        source = splits[split].source
        assert sorted(found) == by_split(splits)[split]
        for index in range(len(source)):
            objects = list(ET.parse(found[source.key(index)]).iter("object"))
            assert len(source.boxes(index).labels) == len(objects)
    contents = [
        json.loads((root / f"coco/annotations/{name}.json").read_text())
        for name in ("train", "test")
    ]
    ships = sum(len(content["annotations"]) for content in contents)
    assert counts(splits) == (4, Counter(ship=ships))


def test_real_hrsid(shared):
    root = shared("det_hrsid_coco")
    content = json.loads((root / "annotations_extract.json").read_text())
    scan = Scan()
    splits = HRSID(str(root)).splits(scan)
    assert counts(splits) == (5, Counter(ship=len(content["annotations"])))
    assert "P0001_1200_2000_9600_10400.jpg is not listed" in str(scan.report)
    name = {image["id"]: image["file_name"][:-4] for image in content["images"]}
    source = splits["train"].source
    for index in range(len(source)):
        wanted = [
            a["bbox"] for a in content["annotations"] if name[a["image_id"]] == source.key(index)
        ]
        corners = source.boxes(index).boxes
        found = np.concatenate((corners.min(1), corners.max(1) - corners.min(1)), 1)
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("oriented", [False, True])
def test_real_hrsid_of_masks(shared, oriented):
    shapely = pytest.importorskip("shapely")
    root = shared("det_hrsid")
    splits = HRSID(str(root), oriented=oriented).splits(Scan(on_error="raise"))
    source = splits["train"].source
    assert counts(splits) == (4, Counter(ship=10 + 122 + 8 + 6))
    for index in range(4):
        mask = np.array(PIL.Image.open(root / f"{source.key(index)}_instance_id_RGB.png"))
        colors = [c for c in np.unique(mask.reshape(-1, 3), axis=0) if c.any()]
        for color, corners in zip(colors, source.boxes(index).boxes, strict=True):
            y, x = (mask == color).all(2).nonzero()
            pixels = np.concatenate([np.stack((x + i, y + j), 1) for i in (0, 1) for j in (0, 1)])
            if oriented:
                # Of two rectangles with the least area either may be taken.
                ship, found = shapely.MultiPoint(pixels), shapely.Polygon(corners)
                assert found.buffer(1e-6).covers(ship)
                assert np.isclose(found.area, shapely.oriented_envelope(ship).area)
            else:
                np.testing.assert_array_equal(corners.min(0), pixels.min(0))
                np.testing.assert_array_equal(corners.max(0), pixels.max(0))


def test_real_sar_aircraft(shared):
    root = shared("det_sar_aircraft")
    names = Counter(
        element.findtext("name")
        for path in (root / "Annotations").glob("*.xml")
        for element in ET.parse(path).iter("object")
    )
    splits = SARAircraft(str(root), val_fraction=0.25).splits(Scan(on_error="raise"))
    assert counts(splits) == (4, names)
    assert "A320/321" in names


@pytest.mark.parametrize(
    ("images", "labels", "count"),
    [
        ("obb_dota8/images", "obb_dota8/labels", 8),
        ("obb_houses_tennis/train/images", "obb_houses_tennis/train/labels", 10),
    ],
)
def test_real_yolo(shared, images, labels, count):
    lines = [
        line.split()
        for path in shared(labels).rglob("*.txt")
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    classes = [f"class {number}" for number in range(15)]
    reader = BoxFolders(
        {"optical": str(shared(images))},
        str(shared(labels)),
        "yolo",
        oriented=True,
        classes=classes,
    )
    found, boxes = counts(reader.splits(Scan(on_error="raise")))
    assert found == count
    assert boxes == Counter(classes[int(words[0])] for words in lines)
