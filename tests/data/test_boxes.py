# SPDX-License-Identifier: Apache-2.0
"""Boxes of windows: polygons against shapely, and motions that commute with the polygon."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("shapely")
import shapely

from rsvheat.data import (
    ArraySource,
    Boxes,
    BoxSource,
    Crop,
    ImageBoxes,
    ImageDataset,
    Normalize,
    SampleIndex,
    Sensor,
    Window,
    collate,
)
from rsvheat.data.polygons import (
    areas,
    areas_within,
    bounds_corners,
    rectangle_corners,
    smallest_rectangle,
)
from rsvheat.data.samplers import repeat_factors
from rsvheat.data.tiles import Tiles
from rsvheat.data.transforms import Motion

PLAIN = Normalize("fixed", low=-1, high=1, clip=False)


def random_boxes(rng, count, size=64.0):
    """Return rotated boxes (N, 5) with centers in and around a square."""
    centers = rng.uniform(-0.1 * size, 1.1 * size, (count, 2))
    sides = rng.uniform(1, size / 2, (count, 2))
    return np.column_stack((centers, sides, rng.uniform(-180, 180, count)))


def same_rectangles(one, other, tolerance):
    """Return whether rectangles (N, 4, 2) are the same sets of points."""
    for a, b in zip(one, other, strict=True):
        distance = shapely.hausdorff_distance(shapely.Polygon(a), shapely.Polygon(b))
        if distance > tolerance:
            return False
    return True


class BoxedArrays(ArraySource):
    """One image with the same boxes for all tests."""

    classes = ("ship", "plane", "car")

    def __init__(self, values, corners, oriented=True, labels=None, difficult=None):
        super().__init__([{"optical": values}])
        self.target = "oriented_boxes" if oriented else "boxes"
        self.corners = corners
        self.numbers = np.zeros(len(corners), np.int64) if labels is None else np.array(labels)
        self.hard = np.zeros(len(corners), bool) if difficult is None else np.array(difficult)

    def read_target(self, index, window):
        moved = self.corners - np.array([window.left, window.top], np.float64)
        return Boxes(moved, self.numbers, self.hard)


def dataset(source, crop, **options):
    source.scan()
    sensors = {"optical": Sensor(1, normalize=PLAIN)}
    return ImageDataset(source, sensors, {"optical": PLAIN.resolve(1)}, crop, **options)


# Geometry -----------------------------------------------------------------------------------------


def test_areas_within_regions_are_those_of_shapely():
    rng = np.random.default_rng(0)
    corners = rectangle_corners(random_boxes(rng, 300))
    frame = bounds_corners(np.array([[0.0, 0.0, 64.0, 64.0]]))[0]
    turned = rectangle_corners(np.array([[30.0, 30.0, 70.0, 50.0, 31.0]]))[0]
    for regions in ((frame,), (frame[::-1],), (frame, turned)):
        common = shapely.Polygon(regions[0])
        for region in regions[1:]:
            common = common.intersection(shapely.Polygon(region))
        expected = [shapely.Polygon(box).intersection(common).area for box in corners]
        assert 0 in expected
        np.testing.assert_allclose(areas_within(corners, *regions), expected, atol=1e-9)
    np.testing.assert_allclose(areas(corners), [shapely.Polygon(box).area for box in corners])


def test_smallest_rectangles_are_those_of_shapely():
    rng = np.random.default_rng(1)
    for count in (3, 4, 7, 40):
        points = rng.uniform(0, 100, (count, 2))
        expected = shapely.minimum_rotated_rectangle(shapely.MultiPoint(points))
        found = shapely.Polygon(smallest_rectangle(points))
        assert found.area == pytest.approx(expected.area)
        assert found.buffer(1e-6).contains(shapely.MultiPoint(points))
    np.testing.assert_array_equal(areas(smallest_rectangle([[1, 2]])), 0)
    np.testing.assert_array_equal(areas(smallest_rectangle([[1, 2], [5, 2], [3, 2]])), 0)


# Motions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 80])
def test_flips_resizes_and_rotations_commute_with_the_polygon(size):
    """Boxes of moved polygons are the moved boxes, and as shapely moves them."""
    rng = np.random.default_rng(2)
    corners = rectangle_corners(random_boxes(rng, 15))
    crop, window = Crop(size, 64, min_inside=0.0), Window(0, 0, 64, 64)
    frame = shapely.box(0, 0, size, size)
    for flip in (False, True):
        for turns in range(4):
            for angle in (0.0, 30.0, -137.5):
                motion = Motion(flip, turns, angle)
                boxes = crop.move_boxes(
                    Boxes(corners, np.arange(15)), window, (64, 64), motion, "oriented_boxes"
                )
                scaled = shapely.polygons(corners * (size / 64))
                if flip:
                    scaled = shapely.transform(scaled, lambda p: [size, 0] + p * [-1, 1])
                theta = np.deg2rad(90 * turns + angle)
                matrix = np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
                middle = size / 2
                moved = shapely.transform(scaled, lambda p: (p - middle) @ matrix.T + middle)  # noqa: B023
                seen = shapely.transform(
                    frame,
                    lambda p: (p - middle) @ matrix.T + middle,  # noqa: B023
                ).intersection(frame)
                expected = [i for i in range(15) if moved[i].intersection(seen).area > 1e-9]
                assert boxes.labels.tolist() == expected
                assert boxes.boxes.dtype == np.float32
                found = rectangle_corners(boxes.boxes.astype(np.float64))
                wanted = [shapely.get_coordinates(moved[i])[:4] for i in expected]
                assert same_rectangles(found, wanted, 1e-4 * size)


def test_horizontal_boxes_are_clipped_and_oriented_ones_keep_their_shape():
    corners = bounds_corners(np.array([[-2.0, 4, 8, 10], [4, 4, 10, 8], [-9, 4, 1, 8]]))
    found = Boxes(corners, np.arange(3), np.array([True, False, False]))
    window, size = Window(10, 10, 16, 16), (100, 100)
    crop = Crop(32, 16)
    moved = crop.move_boxes(found, window, size, Motion(), "boxes")
    np.testing.assert_array_equal(moved.boxes, [[0, 8, 16, 20], [8, 8, 20, 16]])
    assert moved.labels.tolist() == [0, 1]
    assert moved.is_difficult.tolist() == [True, False]
    moved = crop.move_boxes(found, window, size, Motion(), "oriented_boxes")
    np.testing.assert_allclose(moved.boxes[0], [6, 14, 20, 12, 0])
    # The part beyond the image does not count as lost.
    moved = crop.move_boxes(found, window._replace(left=0), size, Motion(), "boxes")
    assert moved.labels.tolist() == [0, 1, 2]
    few = Crop(32, 16, min_inside=0.85)
    assert few.move_boxes(found, window, size, Motion(), "boxes").labels.tolist() == [1]


@pytest.mark.parametrize("oriented", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 180.0])
def test_boxes_move_with_the_pixels_that_they_are_around(oriented, rotation):
    """The bright rectangle of the moved image lies in its moved box, and fills it."""
    y, x = np.mgrid[:96, :128] + 0.5
    angle = 25.0
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = (x - 70) * cos - (y - 40) * sin, (x - 70) * sin + (y - 40) * cos
    values = 1.0 * ((abs(along) < 15) & (abs(across) < 6))[None]
    corners = rectangle_corners(np.array([[70.0, 40, 30, 12, angle]]))
    data = dataset(
        BoxedArrays(values.astype(np.float32), corners, oriented),
        Crop(96, 64, rotation=rotation, rotation_rate=1.0, min_inside=0.99, min_valid=0),
    )
    checked = 0
    for epoch in range(60):
        sample = data[SampleIndex(epoch, 0)]
        if not len(sample["boxes"]):
            continue
        (box,) = sample["boxes"].double().numpy()
        image = sample["images"]["optical"][0].numpy() > 0.5
        rows, columns = np.nonzero(image)
        points = np.column_stack((columns, rows)) + 0.5
        if oriented:
            polygon = shapely.Polygon(rectangle_corners(box[None])[0])
            assert polygon.area == pytest.approx(30 * 12 * 1.5**2, rel=1e-4)
            assert image.sum() == pytest.approx(polygon.area, rel=0.06)
            assert polygon.buffer(1.2).contains(shapely.MultiPoint(points))
        else:
            low, high = points.min(0), points.max(0)
            # The bounds of a rotated box that was rectangular are not looser than need be.
            np.testing.assert_allclose(box[:2], low, atol=2.0)
            np.testing.assert_allclose(box[2:], high, atol=2.0)
        checked += 1
    assert checked >= 10


def test_corners_that_a_rotation_uncovers_hold_no_data():
    values = np.ones((1, 64, 64), np.float32)
    data = dataset(
        BoxedArrays(values, np.zeros((0, 4, 2))), Crop(64, 64, rotation=180, rotation_rate=1.0)
    )
    batch = collate([data[SampleIndex(epoch, 0)] for epoch in range(4)])
    valid = batch["valid"]["optical"]
    assert 0.7 < float(valid.float().mean()) < 0.95
    # Pixels at the border are a mixture.
    assert batch["images"]["optical"][valid].mean() > 0.98
    assert batch["images"]["optical"][~valid].mean() < 0.02
    assert [tuple(boxes.shape) for boxes in batch["boxes"]] == [(0, 5)] * 4
    assert [len(hard) for hard in batch["difficult"]] == [0] * 4


def test_small_and_oblong_images_are_padded_and_not_stretched():
    values = np.ones((1, 20, 48), np.float32)
    corners = bounds_corners(np.array([[40.0, 10, 46, 18]]))
    for window in (64, None):
        sample = dataset(
            BoxedArrays(values, corners, oriented=False), Crop(96, window, augment=False)
        )[0]
        scale = 96 / (window or 48)
        np.testing.assert_allclose(sample["boxes"], np.array([[40, 10, 46, 18]]) * scale)
        assert bool(sample["missing"]["optical"][0, -1, -1])
        assert tuple(sample["boxes"].canvas_size) == (96, 96)


def test_windows_around_boxes_of_rare_classes_are_drawn():
    rng = np.random.default_rng(3)
    corners = rectangle_corners(
        np.column_stack((rng.uniform(20, 380, (40, 2)), np.full((40, 2), 6.0), np.zeros(40)))
    )
    corners[0] = bounds_corners(np.array([[300.0, 300, 306, 306]]))[0]
    source = BoxedArrays(np.ones((1, 400, 400), np.float32), corners, labels=[2] + [1] * 39)
    parts = {}
    for focus in (0.0, 1.0):
        data = dataset(source, Crop(64, 64, focus=focus))
        labels = [data[SampleIndex(epoch, 0)]["labels"].tolist() for epoch in range(30)]
        parts[focus] = np.mean([2 in some for some in labels])
        if focus:  # the center of a box is in every window
            assert np.mean([len(some) > 0 for some in labels]) > 0.95
    assert parts[1.0] > 0.4 > 0.15 > parts[0.0]


def test_images_with_rare_classes_are_repeated():
    labels = [np.array([0, 0]), np.array([0]), np.array([], np.int64), np.array([0, 1])]
    factors = repeat_factors(labels, 0.5)
    np.testing.assert_allclose(factors, [1, 1, 1, np.sqrt(0.5 / 0.25)])
    np.testing.assert_array_equal(repeat_factors(labels[2:3], 0.5), [1])


# Sources and tiles --------------------------------------------------------------------------------


def test_a_source_leaves_out_boxes_without_area_and_keeps_images_without_boxes(caplog):
    corners = bounds_corners(np.array([[1.0, 1, 5, 5], [3, 3, 3, 9], [np.nan, 0, 1, 1]]))
    images = [
        ImageBoxes.of(corners, ["a", "b", "a"], [True, False, False]),
        ImageBoxes.of([], []),
        ImageBoxes.of(corners[:1], ["b"]),
    ]
    files = [(name, {"optical": f"{name}.png"}) for name in "xyz"]
    for oriented in (False, True):
        source = BoxSource(files, images, ["a", "b"], oriented=oriented)
        assert "x: 2 of 3 boxes have no area" in caplog.text
        assert [len(source.boxes(i).labels) for i in range(3)] == [1, 0, 1]
        assert source.boxes(2).labels.tolist() == [1]
        assert source.boxes(0).difficult.tolist() == [True]
        assert source.target == ("oriented_boxes" if oriented else "boxes")
        assert len(source.read_target(0, Window(5, 0, 9, 9)).labels) == 0
        moved = source.read_target(0, Window(2, 4, 9, 9))
        np.testing.assert_array_equal(moved.boxes[0, 0], [-3, -1])
    with pytest.raises(ValueError, match="boxes are of"):
        BoxSource(files, images, ["a"])
    with pytest.raises(ValueError, match="1 annotations for 3 samples"):
        BoxSource(files, images[:1], ["a", "b"])


@pytest.mark.parametrize(("oriented", "overlap"), [(False, 24), (True, 24), (False, 0)])
def test_tiles_count_every_box_once(oriented, overlap):
    rng = np.random.default_rng(4)
    boxes = random_boxes(rng, 80, 150)
    boxes[:, 2:4] = boxes[:, 2:4].clip(1, 20)
    boxes[:, :2] = boxes[:, :2].clip(-3, 153)
    corners = rectangle_corners(boxes)
    difficult = np.arange(80) % 7 == 0
    source = BoxedArrays(
        np.ones((1, 150, 150), np.float32), corners, oriented, np.arange(80), difficult
    )
    tiles = Tiles(source, None, 64, overlap)
    data = dataset(tiles, Crop(64, 64, augment=False, min_inside=0))
    assert len(data) == (16 if overlap else 9)
    counted, held = np.zeros(80, int), np.zeros(80, int)
    for index in range(len(data)):
        sample = data[index]
        held += np.bincount(sample["labels"], minlength=80)
        counted += np.bincount(sample["labels"][~sample["difficult"]], minlength=80)
    image = shapely.box(0, 0, 150, 150)
    shapes = shapely.polygons(corners) if oriented else shapely.envelope(shapely.polygons(corners))
    shown = shapely.area(shapely.intersection(shapes, image)) > 0
    np.testing.assert_array_equal(counted, (shown & ~difficult).astype(int))
    assert held.max() > 1
    with pytest.raises(ValueError, match="tiles are of images with masks or boxes"):
        Tiles(ArraySource([{"optical": np.ones((1, 8, 8), np.float32)}]), None, 8)


def test_wrong_options_are_named():
    for options, match in (
        ({"rotation": 181}, "rotation must be within 0 to 180 degrees, got 181"),
        ({"min_inside": -0.1}, "min_inside must be within 0 to 1"),
        ({"focus": 2}, "focus must be within 0 to 1, got 2"),
    ):
        with pytest.raises(ValueError, match=match):
            Crop(**options)


def test_masks_are_rotated_with_their_images():
    class Masked(ArraySource):
        target, classes = "mask", ("a", "b")

        def read_target(self, index, window):
            values, _ = self.open(index, "optical").read(window)
            return (values[0] > 0).astype(np.int64)

    values = np.full((1, 64, 64), -1, np.float32)
    values[0, 20:40, 24:50] = 1
    data = dataset(Masked([{"optical": values}]), Crop(64, 64, rotation=180, rotation_rate=1.0))
    for epoch in range(4):
        sample = data[SampleIndex(epoch, 0)]
        mask, image = sample["mask"], sample["images"]["optical"][0]
        known = mask != 255
        assert 0.7 < float(known.float().mean()) < 1
        agree = (mask == 1) == (image > 0)
        assert float(agree[known].float().mean()) > 0.99
        assert mask.dtype == torch.int64
