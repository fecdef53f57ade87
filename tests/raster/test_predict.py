# SPDX-License-Identifier: Apache-2.0
"""Maps of classes: what is in them, and what they survive."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ElementTree
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
pytest.importorskip("PIL")

import PIL.Image
import rasterio
import rasterio.shutil
from data.images import png
from raster.quilts import CLASSES, SIDE, quilt
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine
from stand_ins import trained

from rsvheat import cli
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError, Normalizer, Pixels, read_image
from rsvheat.data.spec import DataSpec
from rsvheat.models import CheckpointError, create_model
from rsvheat.models.classification import Classifier
from rsvheat.raster import predict, read_map
from rsvheat.raster.scene import Georeference
from rsvheat.raster.writing import Layer, writing

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
LABELS = np.random.default_rng(5).integers(0, 3, (4, 6))


@pytest.fixture
def scene(write_scene):
    """4 x 6 windows of known classes."""
    return write_scene(quilt(LABELS), **UTM)


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, output, errors."""

    def call(*words):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            code = cli.main(["predict", *map(str, words)])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def labels_of(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(1)


def rewrite(checkpoint, path, **changes):
    """Write a checkpoint whose description has other values."""
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "rsvheat": {**content["rsvheat"], **changes}}, path)


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("*"))


# What is in a map.


def test_windows_get_their_classes(scene, checkpoint, tmp_path):
    result = predict(scene, tmp_path / "map.tif", checkpoint)
    assert np.array_equal(labels_of(tmp_path / "map.tif"), LABELS)
    assert (result.rows, result.columns, result.classes) == (4, 6, CLASSES)
    assert result.counts == tuple(np.bincount(LABELS.ravel(), minlength=3).tolist())
    assert result.nodata == 0
    each = (SIDE * 10 / 1000) ** 2
    assert result.square_km == pytest.approx([n * each for n in result.counts])
    assert files(tmp_path) == ["map.tif", "map.tif.aux.xml", "scene.tif"]


def _nearest_means(encoder, images, labels):
    """Make an encoder's head one of nearest class means."""
    with torch.no_grad():
        values = encoder.forward_head(encoder.forward_features(images), pre_logits=True)
        means = torch.stack([values[labels == i].mean(0) for i in range(int(labels.max()) + 1)])
        weight = means - means.mean(0)
        encoder.head.fc.weight.copy_(weight)
        encoder.head.fc.bias.copy_(-(weight * means).sum(1) / 2)


def test_a_mosaic_of_images_is_predicted_as_they_are_one_by_one(tmp_path):
    """Real images, the pretrained encoder with a classifier on top, and exactly its classes."""
    root = Path(__file__).parents[2] / "examples/data/eurosat/test"
    if not root.is_dir():
        pytest.skip("examples/data is not beside the tests")
    classes = sorted(folder.name for folder in root.iterdir())
    paths = [path for name in classes for path in sorted((root / name).iterdir())[:4]]
    images = [read_image(path) for path in paths]
    values = np.stack([image.values for image in images], 1).reshape(3, -1)
    normalize = Normalizer(tuple(values.mean(1).tolist()), tuple(values.std(1).tolist()), 5.0)
    x = torch.stack([normalize(image) for image in images])
    modalities, number = {"optical": 3}, len(classes)
    encoder = create_model(
        "rsvheat_nano", pretrained=True, modalities=modalities, num_classes=number, img_size=64
    ).eval()
    _nearest_means(encoder, x, torch.arange(number).repeat_interleave(4))
    network = Classifier(encoder, number)
    spec = DataSpec(modalities, "label", classes, (64, 64))
    TrainedModel(network, spec, {"optical": normalize}).save(tmp_path / "a.ckpt")
    with torch.inference_mode():
        expected = [int(encoder(image[None]).argmax()) for image in x]
    rows = [np.concatenate([im.values for im in images[i : i + 8]], 2) for i in range(0, 40, 8)]
    mosaic = np.moveaxis(np.concatenate(rows, 1), 0, 2)
    PIL.Image.fromarray(mosaic).save(tmp_path / "mosaic.png")
    predict(tmp_path / "mosaic.png", tmp_path / "map.tif", tmp_path / "a.ckpt", batch_size=7)
    assert labels_of(tmp_path / "map.tif").ravel().tolist() == expected
    assert len(set(expected)) >= 6


@pytest.mark.parametrize(("stride", "batch_size"), [(32, 1), (21, 5), (50, 3), (19, 1000)])
def test_each_pixel_is_the_class_of_the_window_around_it(
    scene, checkpoint, tmp_path, stride, batch_size
):
    """However rows are read and batched: against windows that are cut from the whole image."""
    predict(
        scene,
        tmp_path / "map.tif",
        checkpoint,
        stride=stride,
        batch_size=batch_size,
        probability=tmp_path / "p.tif",
    )
    image = read_image(scene).values
    model = TrainedModel.load(checkpoint, device="cpu")
    normalize = model.normalizers["optical"]
    found, percent = labels_of(tmp_path / "map.tif"), labels_of(tmp_path / "p.tif")
    height, width = image.shape[1:]
    assert found.shape == (-(-height // stride), -(-width // stride))
    with torch.inference_mode():
        for (row, column), label in np.ndenumerate(found):
            top = min(max(row * stride + (stride - SIDE) // 2, 0), height - SIDE)
            left = min(max(column * stride + (stride - SIDE) // 2, 0), width - SIDE)
            part = Pixels(image[:, top : top + SIDE, left : left + SIDE], None)
            chance, expected = model.network.predict({"optical": normalize(part)[None]})[0].max(0)
            assert label == expected
            assert percent[row, column] == pytest.approx(100 * float(chance), abs=0.51)


def test_windows_of_another_side_are_resized_to_the_classifiers(write_scene, checkpoint, tmp_path):
    large = write_scene(quilt(LABELS).repeat(2, 1).repeat(2, 2), **UTM)
    result = predict(large, tmp_path / "map.tif", checkpoint, window=2 * SIDE)
    assert np.array_equal(labels_of(result.path), LABELS)


def test_windows_are_by_default_those_of_training(write_scene, checkpoint, tmp_path):
    """Of a classifier that saw windows of 64 pixels, resized to 32."""
    rewrite(checkpoint, tmp_path / "a.ckpt", window=2 * SIDE)
    large = write_scene(quilt(LABELS).repeat(2, 1).repeat(2, 2), **UTM)
    predict(large, tmp_path / "map.tif", tmp_path / "a.ckpt")
    assert np.array_equal(labels_of(tmp_path / "map.tif"), LABELS)


def test_a_scene_that_is_smaller_than_a_window_is_mirrored(write_scene, checkpoint, tmp_path):
    scene = write_scene(quilt(np.array([[1, 2]]))[:, :20], **UTM)
    result = predict(scene, tmp_path / "map.tif", checkpoint)
    assert labels_of(result.path).tolist() == [[1, 2]]
    assert sum(result.square_km) == pytest.approx(20 * 64 * 100 / 1e6)
    one = write_scene(quilt(np.array([[2]]))[:, :1, :1], "one.tif", **UTM)
    assert labels_of(predict(one, tmp_path / "one_map.tif", checkpoint).path).tolist() == [[2]]


def test_the_encoder_gets_its_windows_in_batches(scene, checkpoint, tmp_path, monkeypatch):
    sizes = []
    infer = TrainedModel.infer
    monkeypatch.setattr(
        TrainedModel,
        "infer",
        lambda self, images, **options: (
            sizes.append(len(images["optical"])) or infer(self, images, **options)
        ),
    )
    predict(scene, tmp_path / "map.tif", checkpoint, batch_size=12)
    assert sizes == [12, 12]


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_precision(scene, checkpoint, tmp_path, precision):
    predict(scene, tmp_path / "map.tif", checkpoint, precision=precision)
    assert np.array_equal(labels_of(tmp_path / "map.tif"), LABELS)


def test_a_scene_of_another_stretch_is_matched(write_scene, checkpoint, tmp_path):
    """Doubled contrast, 16 bits and another order of magnitude: the classes are what they were."""
    labels = np.tile([[0, 1, 2], [1, 2, 0], [2, 0, 1]], (2, 2))
    values = quilt(labels)
    stretched = values.astype(np.uint16) * 20 + 3000
    stretched[:, :SIDE, :SIDE] = 0
    scene = write_scene(stretched, nodata=0, **UTM)
    plain = predict(scene, tmp_path / "plain.tif", checkpoint)
    assert not np.array_equal(labels_of(plain.path).ravel()[1:], labels.ravel()[1:])
    predict(scene, tmp_path / "map.tif", checkpoint, match=True)
    assert labels_of(tmp_path / "map.tif")[0, 0] == 255
    assert np.array_equal(labels_of(tmp_path / "map.tif").ravel()[1:], labels.ravel()[1:])


def test_matching_needs_statistics_and_data(scene, write_scene, checkpoint, tmp_path):
    empty = write_scene(np.zeros((3, 40, 40), np.uint8), "empty.tif", nodata=0, **UTM)
    with pytest.raises(DataError, match=r"empty\.tif has bands without data"):
        predict(empty, tmp_path / "map.tif", checkpoint, match=True)
    rewrite(checkpoint, tmp_path / "a.ckpt", statistics={})
    with pytest.raises(ValueError, match=r"a\.ckpt holds no statistics"):
        predict(scene, tmp_path / "map.tif", tmp_path / "a.ckpt", match=True)


# Where a map lies.


def test_the_maps_pixels_lie_on_the_windows(scene, checkpoint, tmp_path):
    predict(scene, tmp_path / "map.tif", checkpoint, stride=8)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs == rasterio.CRS.from_epsg(32632)
        assert file.transform == Affine(80, 0, 500000, 0, -80, 5000000)


def test_rotated_scenes_have_rotated_maps(write_scene, checkpoint, tmp_path):
    turned = Affine.translation(1e5, 2e6) @ Affine.rotation(30) @ Affine.scale(3, -2)
    scene = write_scene(quilt(LABELS), crs="EPSG:32632", transform=turned)
    result = predict(scene, tmp_path / "map.tif", checkpoint)
    with rasterio.open(tmp_path / "map.tif") as file:
        corner = file.transform @ (6, 4)
    assert corner == pytest.approx(turned @ (6 * SIDE, 4 * SIDE))
    assert sum(result.square_km) == pytest.approx(24 * SIDE**2 * 6 / 1e6)


def test_ground_control_points_and_rpcs_are_scaled(write_scene, checkpoint, tmp_path):
    points = [
        GroundControlPoint(r, c, 8 + c / 1e3, 50 - r / 1e3) for r in (0, 128) for c in (0, 192)
    ]
    scene = write_scene(quilt(LABELS), gcps=(points, "EPSG:4326"))
    assert predict(scene, tmp_path / "map.tif", checkpoint).square_km is None
    with rasterio.open(tmp_path / "map.tif") as file:
        found, crs = file.gcps
    assert crs == rasterio.CRS.from_epsg(4326)
    assert [(p.row, p.col, p.x, p.y) for p in found] == [
        (p.row / SIDE, p.col / SIDE, p.x, p.y) for p in points
    ]
    one = [1.0] + [0.0] * 19
    rpcs = RPC(0, 1, 50, 1, one, one, 63.5, 64, 8, 1, one, one, 95.5, 96, -1, -1)
    scene = write_scene(quilt(LABELS), "rpc.tif", rpcs=rpcs)
    predict(scene, tmp_path / "map.tif", checkpoint, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "map.tif") as file:
            found = file.rpcs
    assert (found.line_off, found.samp_off) == (1.5, 2.5)  # the middle of 4 x 6 pixels
    assert (found.line_scale, found.samp_scale) == (2, 3)
    assert found.lat_off == 50


@pytest.mark.parametrize("suffix", ["png", "jpg", "vrt"])
def test_pictures_and_virtual_rasters(suffix, run, scene, checkpoint, tmp_path):
    source = tmp_path / f"picture.{suffix}"
    if suffix == "vrt":
        rasterio.shutil.copy(scene, source, driver="VRT")
    else:
        image = PIL.Image.fromarray(np.moveaxis(quilt(LABELS), 0, 2))
        image.save(source, **({"quality": 95} if suffix == "jpg" else {}))
    code, out, err = run(source, "--checkpoint", checkpoint, "--output", tmp_path / "map.tif")
    assert (code, err) == (0, "")
    assert "4 x 6 pixels" in out
    assert ("km2" in out) == (suffix == "vrt")
    found = read_map(tmp_path / "map.tif")
    assert np.array_equal(found.labels, LABELS)
    assert (found.georeference.crs is None) == (suffix != "vrt")
    assert (found.georeference.transform is None) == (suffix != "vrt")


def test_coordinates_that_are_not_to_scale_have_no_area(write_scene, checkpoint, tmp_path):
    scene = write_scene(quilt(LABELS), crs="EPSG:3857", transform=Affine(10, 0, 1e6, 0, -10, 8e6))
    assert predict(scene, tmp_path / "map.tif", checkpoint).square_km is None
    feet = write_scene(
        quilt(LABELS), "feet.tif", crs="EPSG:2263", transform=Affine(10, 0, 1e6, 0, -10, 2e5)
    )
    area = predict(feet, tmp_path / "feet_map.tif", checkpoint).square_km
    assert sum(area) == pytest.approx(128 * 192 * 100 * 0.3048006096**2 / 1e6)


# What the file is.


def test_a_map_is_a_cog_with_names_colors_and_provenance(scene, checkpoint, tmp_path):
    predict(scene, tmp_path / "deep/map.tif", checkpoint, stride=8, colors={"Roof": "#ff0000"})
    with rasterio.open(tmp_path / "deep/map.tif") as file:
        structure, tags = file.tags(ns="IMAGE_STRUCTURE"), file.tags()
        assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert file.block_shapes == [(512, 512)]
        assert (file.dtypes, file.nodata, file.count) == (("uint8",), 255, 1)
        assert file.colorinterp == (ColorInterp.palette,)
        assert file.colormap(1)[2] == (255, 0, 0, 255)
        assert file.colormap(1)[255] == (0, 0, 0, 0)
        assert file.descriptions == ("class",)
    assert json.loads(tags["RSVHEAT_CLASSES"]) == list(CLASSES)
    assert tags["RSVHEAT_CHECKPOINT"] == "best.ckpt"
    assert tags["RSVHEAT_SOURCE"] == "scene.tif"
    assert (tags["RSVHEAT_WINDOW"], tags["RSVHEAT_STRIDE"]) == ("32", "8")
    assert tags["TIFFTAG_SOFTWARE"].startswith("rsvheat 0")
    names = ElementTree.parse(tmp_path / "deep/map.tif.aux.xml").findall(
        "PAMRasterBand[@band='1']/CategoryNames/Category"
    )
    assert [name.text for name in names] == list(CLASSES)


def test_large_maps_have_overviews_of_classes_only(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (700, 650), np.uint8)
    layer = Layer(tmp_path / "map.tif", "uint8", 255, "class", "mode", names=CLASSES)
    with writing(layer, 700, 650, Georeference(UTM["crs"], UTM["transform"])) as writer:
        for row in range(0, 700, 70):
            writer.write(row, values[row : row + 70])
    with rasterio.open(tmp_path / "map.tif") as file:
        assert np.array_equal(file.read(1), values)
        assert file.overviews(1) == [2]
        assert set(np.unique(file.read(1, out_shape=(350, 325)))) == {0, 1, 2}


def test_gdal_finds_the_names(scene, checkpoint, tmp_path):
    """In a virtual raster that GDAL makes of the map, the names are GDAL's own."""
    predict(scene, tmp_path / "map.tif", checkpoint)
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "map.vrt", driver="VRT")
    root = ElementTree.parse(tmp_path / "map.vrt")
    names = [name.text for name in root.findall("VRTRasterBand/CategoryNames/Category")]
    assert names == list(CLASSES)


def test_probabilities(scene, checkpoint, tmp_path):
    predict(scene, tmp_path / "map.tif", checkpoint, probability=tmp_path / "p.tif")
    with rasterio.open(tmp_path / "p.tif") as file:
        assert (file.dtypes, file.nodata, file.scales) == (("uint8",), 255, (0.01,))
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        values = file.read(1)
    assert values.shape == (4, 6)
    assert values.min() >= 34
    assert values.max() <= 100
    assert files(tmp_path) == ["map.tif", "map.tif.aux.xml", "p.tif", "scene.tif"]
    paths = {"output": tmp_path / "map.tif", "probability": tmp_path / "p.tif", "overwrite": True}
    predict(scene, checkpoint=checkpoint, probability_of=CLASSES[::-1], **paths)
    with rasterio.open(tmp_path / "p.tif") as file, rasterio.open(tmp_path / "map.tif") as labels:
        bands = file.read()[::-1]
        assert np.array_equal(bands.argmax(0), labels.read(1))
    assert np.array_equal(bands.max(0), values)
    assert np.abs(bands.sum(0, dtype=int) - 100).max() <= 2


# No data.


def holes():
    """Whole window (0, 0), 70 % of (0, 1), 30 % of (1, 0)."""
    empty = np.zeros((4 * SIDE, 6 * SIDE), bool)
    empty[:SIDE, :SIDE] = True
    empty[:SIDE, SIDE : SIDE + 22] = True
    empty[SIDE : SIDE + 10, :SIDE] = True
    return empty


@pytest.mark.parametrize("kind", ["nodata", "given", "alpha", "mask", "nan"])
def test_windows_without_data_have_no_class(kind, write_scene, checkpoint, tmp_path):
    values, options = quilt(LABELS), {}
    if kind == "nan":
        values = np.where(holes(), np.float32(np.nan), values.astype(np.float32))
        scene = write_scene(values, **UTM)
    elif kind in ("nodata", "given"):
        values = np.where(holes(), np.uint8(0), values)
        scene = write_scene(values, **UTM, **({"nodata": 0} if kind == "nodata" else {}))
        options = {"nodata": 0} if kind == "given" else {}
    elif kind == "alpha":
        scene = write_scene(values, alpha=np.where(holes(), 0, 255).astype(np.uint8), **UTM)
    else:
        scene = write_scene(values, **UTM)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(scene, "r+") as file:
            file.write_mask(~holes())
    result = predict(
        scene, tmp_path / "map.tif", checkpoint, probability=tmp_path / "p.tif", **options
    )
    found, expected = labels_of(tmp_path / "map.tif"), LABELS.copy()
    expected[0, :2] = 255
    expected[1, 0] = found[1, 0]  # a third of it is missing
    assert np.array_equal(found, expected)
    assert np.array_equal(labels_of(tmp_path / "p.tif") == 255, expected == 255)
    assert result.nodata == 2
    tolerant = predict(
        scene, tmp_path / "map.tif", checkpoint, max_nodata=1, overwrite=True, **options
    )
    assert tolerant.nodata == 1  # where there is nothing at all
    strict = predict(
        scene, tmp_path / "map.tif", checkpoint, max_nodata=0, overwrite=True, **options
    )
    assert strict.nodata == 3


def test_missing_pixels_are_what_they_were_in_training(write_scene, checkpoint, tmp_path):
    """Compared with the data layer, by probability: labels alone would tell little."""
    values = np.where(holes(), np.uint8(0), quilt(LABELS))
    scene = write_scene(values, nodata=0, **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint, probability=tmp_path / "p.tif")
    model = TrainedModel.load(checkpoint, device="cpu")
    image = model.normalizers["optical"](read_image(scene, (SIDE, 0, SIDE, SIDE)))
    assert (image[:, :10] == 0).all()
    with torch.inference_mode():
        chance = model.network.predict({"optical": image[None]}).max()
    assert labels_of(tmp_path / "p.tif")[1, 0] == pytest.approx(100 * float(chance), abs=0.51)


def test_pixels_of_a_fine_map_that_hold_no_data_have_no_class(write_scene, checkpoint, tmp_path):
    """Even where the window around them has enough."""
    values = quilt(LABELS)
    values[:, :, :40] = 0
    scene = write_scene(values, nodata=0, **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint, stride=4)
    found = labels_of(tmp_path / "map.tif")
    assert (found[:, :10] == 255).all()
    assert (found[:, 10:] != 255).all()


@pytest.mark.parametrize("kind", ["PNG with tRNS", "JPEG with .msk", "alpha and nodata", "alpha5"])
def test_pixels_without_data_have_no_class_whatever_says_so(
    write_scene, checkpoint, tmp_path, kind
):
    """The left half of the scene; training reads the same files in the same way."""
    values = np.clip(quilt(LABELS), 1, 255)
    height, width = values.shape[1:]
    data = np.arange(width) >= width // 2
    values[:, :, ~data] = 0
    alpha = np.broadcast_to(np.where(data, 255, 0), (height, width)).astype(np.uint8)
    options = {}
    if kind == "PNG with tRNS":
        path = tmp_path / "scene.png"
        path.write_bytes(png(values, trns=bytes(6)))
    elif kind == "JPEG with .msk":
        path = tmp_path / "scene.jpg"
        PIL.Image.fromarray(np.moveaxis(values, 0, 2)).save(path, quality=95)
        mask = write_scene(values, "mask.tif", **UTM)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(mask, "r+") as file:
            file.write_mask(alpha)
        (tmp_path / "mask.tif.msk").rename(tmp_path / "scene.jpg.msk")
    elif kind == "alpha and nodata":
        path = write_scene(values, alpha=alpha, photometric="rgb", nodata=0, **UTM)
    else:
        path = write_scene(np.concatenate([values, values[:1]]), alpha=alpha, **UTM)
        options = {"bands": [1, 2, 3]}
    predict(path, tmp_path / "map.tif", checkpoint, **options)
    found = labels_of(tmp_path / "map.tif")
    assert (found[:, :3] == 255).all()
    assert np.array_equal(found[:, 3:], LABELS[:, 3:])
    np.testing.assert_array_equal(read_image(path, bands=[1, 2, 3]).valid.all(0), alpha > 0)


# Bands.


def test_bands_are_chosen_and_ordered(write_scene, checkpoint, tmp_path):
    values = quilt(LABELS)
    mixed = np.stack([values[2], np.zeros_like(values[0]), values[0], values[1]])
    scene = write_scene(mixed, photometric="minisblack", **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint, bands=[3, 4, 1])
    assert np.array_equal(labels_of(tmp_path / "map.tif"), LABELS)


@pytest.mark.parametrize(
    ("bands", "options", "message"),
    [
        (4, {}, r"scene\.tif has 4 bands, and the model takes 3: .* --bands \[1,2,3\]"),
        (1, {}, r"scene\.tif has 1 band, and the model takes 3$"),
        (2, {}, r"scene\.tif has 2 bands, and the model takes 3$"),
        (4, {"bands": [1, 2]}, r"bands must name 3 bands, as the model takes, got \[1, 2\]"),
        (4, {"bands": [1, 2, 5]}, r"scene\.tif has 4 bands, asked for \[1, 2, 5\]"),
        (4, {"bands": [0, 1, 2]}, r"counted from 1, got \[0, 1, 2\]"),
    ],
)
def test_wrong_bands_are_told(write_scene, checkpoint, tmp_path, bands, options, message):
    values = np.zeros((bands, 40, 40), np.uint8)
    scene = write_scene(values, photometric="minisblack", **UTM)
    with pytest.raises(ValueError, match=message):
        predict(scene, tmp_path / "map.tif", checkpoint, **options)
    assert files(tmp_path) == ["scene.tif"]


# Memory.


def _peak(function):
    """Return how much more memory the process had than before, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

    before = status("VmRSS")
    function()
    return status("VmHWM") - before


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_scene(write_scene, checkpoint, tmp_path):
    """20,000 x 20,000 pixels of 3 bands are 1.2 GB."""
    scene = tmp_path / "large.tif"
    side = 20_000
    with rasterio.open(
        scene,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype="uint8",
        tiled=True,
        blockxsize=512,
        blockysize=512,
        sparse_ok=True,
        bigtiff="yes",
        nodata=0,
        **UTM,
    ) as file:
        file.write(quilt(LABELS), window=rasterio.windows.Window(side - 192, side - 128, 192, 128))
    result = []
    grown = _peak(
        lambda: result.append(
            predict(scene, tmp_path / "map.tif", checkpoint, window=250, max_nodata=0.95)
        )
    )
    # All but the last window is empty.
    assert (result[0].nodata, sum(result[0].counts)) == (6399, 1)
    assert grown < 300e6


# What goes wrong.


def cut(path, part=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png", "vrt"])
def test_a_raster_cut_short_is_named_and_an_older_map_stays(
    suffix, run, scene, checkpoint, tmp_path
):
    """Half of the rows have been written when it is found."""
    source = tmp_path / f"cut.{suffix}"
    image = PIL.Image.fromarray(np.moveaxis(quilt(LABELS), 0, 2))
    if suffix == "tif":
        shutil.copy(scene, source)
    elif suffix == "vrt":
        rasterio.shutil.copy(scene, source, driver="VRT")
    else:
        image.save(source)
    output = tmp_path / "out/map.tif"
    words = ["--checkpoint", checkpoint, "--output", output, "--batch_size", "1"]
    assert run(source, *words)[0] == 0
    before = {path: path.read_bytes() for path in output.parent.iterdir()}
    cut(scene if suffix == "vrt" else source)
    code, out, err = run(source, *words, "--overwrite")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert f"cut.{suffix}" in err
    assert "damaged" in err
    assert {path: path.read_bytes() for path in output.parent.iterdir()} == before
    shutil.rmtree(output.parent)
    assert run(source, *words)[0] == 1
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder"])
def test_files_that_are_no_raster_are_told(kind, run, checkpoint, tmp_path):
    source = tmp_path / "scene.tif"
    if kind == "text":
        source.write_text("<!doctype html><html></html>")
    elif kind == "empty":
        source.touch()
    elif kind == "folder":
        source.mkdir()
    code, _, err = run(source, "--checkpoint", checkpoint, "--output", tmp_path / "map.tif")
    assert code == 1
    assert len(err.splitlines()) == 1
    parts = {"missing": "there is no file", "folder": "has no rasters"}
    assert parts.get(kind, "cannot be opened, or is damaged") in err
    assert "scene.tif" in err


@pytest.mark.parametrize("kind", ["missing", "encoder", "cut", "html", "normalizers", "classes"])
def test_wrong_checkpoints_are_told(kind, scene, checkpoint, tmp_path):
    path = tmp_path / "wrong.ckpt"
    if kind == "encoder":
        rewrite(checkpoint, path, task="pretraining")
    elif kind == "normalizers":
        rewrite(checkpoint, path, normalizers={})
    elif kind == "classes":
        trained(Classifier, classes=[f"class {i}" for i in range(256)]).save(path)
    elif kind == "cut":
        shutil.copy(checkpoint, path)
        cut(path)
    elif kind == "html":
        path.write_text("<html>Not found</html>")
    message = {
        "missing": r"no checkpoint file at .*wrong\.ckpt",
        "encoder": r"wrong\.ckpt is a checkpoint of pretraining",
        "cut": r"wrong\.ckpt is truncated",
        "html": r"wrong\.ckpt is a web page",
        "normalizers": r"wrong\.ckpt does not say how optical images were normalized",
        "classes": r"wrong\.ckpt has 256 classes; a map holds up to 255",
    }[kind]
    with pytest.raises((CheckpointError, FileNotFoundError, ValueError), match=message):
        predict(scene, tmp_path / "map.tif", path)
    assert "map.tif" not in files(tmp_path)


def test_a_map_that_is_there_stays_unless_it_is_to_be_replaced(run, scene, checkpoint, tmp_path):
    words = [scene, "--checkpoint", checkpoint, "--output", tmp_path / "map.tif"]
    assert run(*words)[0] == 0
    before = (tmp_path / "map.tif").read_bytes()
    code, _, err = run(*words, "--stride", "16")
    assert code == 1
    assert err == f"rsvheat predict: {tmp_path}/map.tif is there already: --overwrite replaces it\n"
    assert (tmp_path / "map.tif").read_bytes() == before
    assert run(*words, "--stride", "16", "--overwrite")[0] == 0
    assert labels_of(tmp_path / "map.tif").shape == (8, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "map.png"}, r"map\.png must end in \.tif"),
        ({"output": "scene.tif", "overwrite": True}, r"scene\.tif is the scene itself"),
        ({"probability": "map.tif"}, "output and probability are the same file"),
        ({"window": 0}, "window must be at least 1 pixel, got 0"),
        ({"stride": -1}, "stride must be at least 1 pixel, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_nodata": 1.5}, "max_nodata must be within 0 to 1, got 1.5"),
        ({"overlap": 4}, "overlap has no meaning for classes of windows, got 4"),
        ({"min_score": 0.5}, "min_score has no meaning for classes of windows"),
        ({"bands": {"sar": [1]}}, "bands must be given for optical, got sar"),
        ({"precision": "int8"}, "precision must be one of .*'float32'.*, got 'int8'"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"colors": {"Tree": "#000000"}}, "colors has 'Tree'; the classes are Forest, Lake & Sea"),
    ],
)
def test_wrong_arguments_are_told(scene, checkpoint, tmp_path, options, message):
    output = tmp_path / options.pop("output", "map.tif")
    if "probability" in options:
        options["probability"] = tmp_path / options["probability"]
    with pytest.raises(ValueError, match=message):
        predict(scene, output, checkpoint, **options)
    assert files(tmp_path) == ["scene.tif"]


def test_a_folder_that_cannot_be_written_is_told_before_the_work_starts(
    run, scene, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(TrainedModel, "infer", _never)
    (tmp_path / "file").touch()
    code, _, err = run(scene, "--checkpoint", checkpoint, "--output", tmp_path / "file/map.tif")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert f"{tmp_path}/file" in err


def _never(self, images, **options):
    raise AssertionError("the work has started")


def test_too_little_space_is_told_before_the_work_starts(scene, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainedModel, "infer", _never)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2 * 24 - 1))
    with pytest.raises(OSError, match=r"the map may need 48 bytes, 47 bytes are free"):
        predict(scene, tmp_path / "map.tif", checkpoint)
    assert files(tmp_path) == ["scene.tif"]


@contextmanager
def small_disk(folder):
    """A disk of its own, of 256 KiB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 4096, 12288, 28672])
def test_a_disk_that_becomes_full_leaves_the_older_map(
    run, scene, checkpoint, tmp_path, monkeypatch, free
):
    """With room for nothing, for a part of the rows, for the rows and a part of the map."""
    with small_disk(tmp_path / "disk") as disk:
        words = [scene, "--checkpoint", checkpoint, "--output", disk / "map.tif"]
        assert run(*words)[0] == 0
        before = {path: path.read_bytes() for path in disk.iterdir()}
        rng = np.random.default_rng(0)

        def fill(self, images, **options):
            if not (disk / "others").exists():
                room = shutil.disk_usage(disk).free - free
                (disk / "others").write_bytes(bytes(room))
            return torch.from_numpy(rng.random((len(images["optical"]), 3), np.float32))

        monkeypatch.setattr(TrainedModel, "infer", fill)
        code, out, err = run(*words, "--stride", "1", "--overwrite", "--batch_size", "2000")
        (disk / "others").unlink()
        assert (code, out) == (1, ""), (code, out, err)
        assert len(err.splitlines()) == 1
        assert "map.tif cannot be written" in err
        assert "are free)" in err
        assert {path: path.read_bytes() for path in disk.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_command_leaves_no_map(number, run, scene, checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "out/map.tif"
    words = [scene, "--checkpoint", checkpoint, "--output", output, "--batch_size", "1"]
    child = os.fork()
    if child == 0:
        code = 99
        try:
            infer = TrainedModel.infer
            steps = []

            def slow(self, images, **options):
                steps.append(time.sleep(0.02 if len(steps) < 10 else 60))
                return infer(self, images, **options)

            TrainedModel.infer = slow
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = cli.main(["predict", *map(str, words)])
        finally:
            os._exit(code)
    for _ in range(600):
        time.sleep(0.05)
        if list(tmp_path.glob("out/.unfinished-*/rows-map.tif")):
            break
    time.sleep(0.4)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    if number == signal.SIGKILL:
        assert os.WIFSIGNALED(status)
        assert not output.exists()
    else:
        assert os.waitstatus_to_exitcode(status) == 128 + number
        assert files(tmp_path / "out") == []
    # The next one finds nothing in its way, and leaves nothing of it.
    assert run(*words)[0] == 0
    assert files(tmp_path / "out") == ["map.tif", "map.tif.aux.xml"]


def test_a_result_that_is_not_finite_is_told_with_its_window(run, scene, checkpoint, tmp_path):
    """Finite weights whose products overflow: no confident map, and one line."""
    model = TrainedModel.load(checkpoint, device="cpu")
    with torch.no_grad():
        model.network.encoder.head.norm.weight.fill_(1e38)
        model.network.encoder.head.fc.weight.mul_(1e3)
    model.save(tmp_path / "large.ckpt")
    words = ["--checkpoint", tmp_path / "large.ckpt", "--output", tmp_path / "map.tif"]
    code, out, err = run(scene, *words, "--batch_size", 4)
    assert (code, out) == (1, "")
    assert err.startswith(
        "rsvheat predict: scene.tif: the network's result is not finite in the window of 32 x 32 "
        "pixels at row 0, column "
    )
    assert len(err.splitlines()) == 1
    assert files(tmp_path) == ["large.ckpt", "scene.tif"]


def test_the_checkpoint_is_read_once(run, scene, checkpoint, tmp_path, monkeypatch):
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(a) or load(*a, **k))
    words = ["--checkpoint", checkpoint, "--output", tmp_path / "map.tif", "--match"]
    assert run(scene, *words)[0] == 0
    assert len(calls) == 1


def test_the_command_needs_a_checkpoint(run, scene):
    code, _, err = run(scene)
    assert code == 2
    assert err.startswith("rsvheat predict: --checkpoint: name one of fine-tuning")


def test_the_command_writes_to_runs_maps_and_tells_shares(
    run, scene, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text('Forest: "#00ff00"')
    code, out, err = run("scene.tif", "--checkpoint", checkpoint, "--colors", "c.yaml")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("runs/maps/scene.tif: 4 x 6 pixels, 0 without data, in ")
    count = np.bincount(LABELS.ravel()).max()
    assert f"{count / 24:.1%}" in lines[1]
    assert "km2" in lines[1]
    found = read_map("runs/maps/scene.tif")
    assert found.colors[0].tolist() == [0, 255, 0]
    assert (
        run(
            *("scene.tif", "--checkpoint", checkpoint, "--overwrite", "--bands=[3,2,1]"),
            "--colors={Forest: '#0000ff'}",
        )[0]
        == 0
    )
    assert read_map("runs/maps/scene.tif").colors[0].tolist() == [0, 0, 255]
