# SPDX-License-Identifier: Apache-2.0
"""Masks become class numbers as their codes say, or an error; never another class."""

import logging
import pickle

import numpy as np
import pytest

pytest.importorskip("PIL")

from rsvheat.data import IGNORE_INDEX, MaskCodes, MaskSource, SampleError, Window
from tests.data.images import png

HALF = Window(1, 2, 3, 4)


@pytest.fixture
def source(tmp_path, write_png):
    """Return a source of one sample with masks of these values, and the masks' paths."""

    def make(codes, *masks, suffix="png", image=None, **options):
        size = masks[0].shape[-2:]
        image = write_png(tmp_path / "image.png", np.zeros((3, *(image or size)), np.uint8))
        paths = []
        for number, values in enumerate(masks):
            path = tmp_path / f"mask{number}.{suffix}"
            paths.append(str(write_png(path, values, **options)))
        return MaskSource([("a", {"optical": str(image)})], [paths], codes), paths

    return make


def read(source, window=None):
    if window is None:
        with source.open(0, "optical") as image:
            window = Window(0, 0, image.height, image.width)
    numbers = source.read_target(0, window)
    assert numbers.dtype == np.int64
    return numbers


def test_values_are_renumbered_in_the_order_of_the_classes(source):
    values = np.array([[0, 10, 20, 30, 255] * 2] * 6, np.uint8)
    codes = MaskCodes(values={"b": [20, 30], "a": 10}, ignored=[0, 255])
    made, _ = source(codes, values)
    assert (made.target, made.classes) == ("mask", ("b", "a"))
    expected = np.array([[255, 1, 0, 0, 255] * 2] * 6)
    np.testing.assert_array_equal(read(made), expected)
    np.testing.assert_array_equal(read(made, HALF), expected[1:4, 2:6])
    np.testing.assert_array_equal(read(pickle.loads(pickle.dumps(made)), HALF), expected[1:4, 2:6])


@pytest.mark.parametrize("size", [(6, 10), (20, 30)])
def test_other_values_are_an_error_or_ignored(source, size):
    values = np.zeros(size, np.uint8)
    values[0, :2] = 7, 9
    made, paths = source(MaskCodes(values={"a": 0, "b": 1}), values)
    with pytest.raises(
        SampleError, match="values 7, 9, which are of no class; known are 0, 1"
    ) as e:
        read(made)
    assert paths[0] in e.value.reason
    made, _ = source(MaskCodes(values={"a": 0, "b": 1}, unknown="ignore"), values)
    assert read(made)[0, :3].tolist() == [255, 255, 0]


def test_numbers_of_a_palette_are_read_and_not_its_colors(tmp_path, source, write_png):
    values = np.arange(24, dtype=np.uint8).reshape(1, 4, 6) % 3
    made, paths = source(MaskCodes(values={"a": 0, "b": 1, "c": 2}), values)
    plte = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for bits in (2, 8):
        with open(paths[0], "wb") as file:
            file.write(png(values, bits, plte=plte))
        np.testing.assert_array_equal(MaskSource.read_target(made, 0, HALF), values[0, 1:4, 2:6])
        made._kept = None
    # The colors of the same file, where colors are listed.
    made = MaskSource(
        [("a", {"optical": str(tmp_path / "image.png")})],
        paths,
        MaskCodes(colors={"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}),
    )
    np.testing.assert_array_equal(read(made, HALF), 2 - values[0, 1:4, 2:6])


def test_gray_of_few_bits_is_not_spread(source):
    values = np.arange(24, dtype=np.uint8).reshape(1, 4, 6) % 4
    made, paths = source(MaskCodes(values={str(i): i for i in range(4)}), values)
    with open(paths[0], "wb") as file:
        file.write(png(values, 2))
    np.testing.assert_array_equal(read(made), values[0])


def test_three_equal_bands_hold_values_and_others_do_not(source):
    values = np.ones((3, 6, 8), np.uint8)
    codes = MaskCodes(values={"a": 0, "b": 1})
    assert (read(source(codes, values)[0]) == 1).all()
    values[2, 0, 0] = 0
    with pytest.raises(SampleError, match="has 3 bands that differ"):
        read(source(codes, values)[0])


COLORS = {"white": (255, 255, 255), "blue": (0, 0, 255)}


def colored(size=(6, 8)):
    values = np.zeros((3, *size), np.uint8)
    values[2] = 255
    values[:2, :, : size[1] // 2] = 255
    return values


def test_colors_must_match_exactly_and_others_are_ignored_and_named_once(source, caplog):
    values = colored()
    values[:, 1, 1:3] = np.array([[254, 255, 252], [128, 70, 30]]).T
    values[:, 0, 0] = 0
    codes = MaskCodes(colors=COLORS, ignored_colors=[(0, 0, 0)])
    made, paths = source(codes, values)
    with caplog.at_level(logging.WARNING, "rsvheat.data"):
        numbers = read(made)
        read(made, HALF)
    expected = np.zeros((6, 8), int)
    expected[:, 4:] = 1
    expected[1, 1:3] = expected[0, 0] = IGNORE_INDEX
    np.testing.assert_array_equal(numbers, expected)
    told = [message for message in caplog.messages if paths[0] in message]
    assert len(told) == 1
    assert "2 of 48 pixels" in told[0]
    assert "(128, 70, 30)" in told[0]
    # With nearest, gray brown is nearest to black and ignored with it, the other is white.
    numbers = read(source(MaskCodes(colors=COLORS, nearest=True), values)[0])
    assert numbers[1, 1] == 0
    assert numbers[1, 2] in (0, 1)
    assert IGNORE_INDEX not in numbers


def test_a_mask_of_other_colors_is_an_error(source):
    with pytest.raises(SampleError, match=r"none of the classes' colors .* \(255, 0, 0\)"):
        read(source(MaskCodes(colors=COLORS), colored()[::-1] * np.uint8([[[1]], [[0]], [[0]]]))[0])


def test_colors_in_jpeg_are_the_nearest(source):
    values = colored((16, 32))
    made, _ = source(MaskCodes(colors=COLORS, nearest=True), values, suffix="jpg", quality=60)
    numbers = read(made)
    assert numbers[:, :12].max() == 0
    assert numbers[:, 20:].min() == 1


def test_files_of_class_numbers_where_colors_are_wanted_are_an_error(source):
    with pytest.raises(SampleError, match="has 1 bands of uint8; a mask of colors has 3"):
        read(source(MaskCodes(colors=COLORS), np.ones((6, 8), np.uint8))[0])


def test_with_values_and_colors_the_bands_decide(source):
    codes = MaskCodes(values={"white": 1, "blue": 2}, colors=COLORS, ignored=[0])
    expected = np.zeros((6, 8), int)
    expected[:, 4:] = 1
    np.testing.assert_array_equal(read(source(codes, colored())[0]), expected)
    expected[0, 0] = IGNORE_INDEX
    values = (expected + 1).astype(np.uint8)
    values[0, 0] = 0
    np.testing.assert_array_equal(read(source(codes, values)[0]), expected)


def test_binary_masks(source):
    road, car = np.zeros((2, 6, 8), np.uint8)
    road[:, :4], car[2, 2:6] = 255, 1
    expected = np.full((6, 8), 255)
    expected[:, :4] = 0
    expected[2, 2:6] = 1
    made, _ = source(MaskCodes(binary=["road", "car"]), road, car)
    assert made.classes == ("road", "car")
    np.testing.assert_array_equal(read(made), expected)
    made, _ = source(MaskCodes(binary=["road", "car"], background="rest"), road, car)
    assert made.classes == ("rest", "road", "car")
    np.testing.assert_array_equal(read(made), (expected + 1) % 256)


def test_threshold_of_binary_masks(source, caplog):
    values = np.array([[0, 3, 250, 255]] * 4, np.uint8)
    codes = MaskCodes(binary=["change"], background="no change", threshold=127)
    assert read(source(codes, values)[0])[0].tolist() == [0, 0, 1, 1]
    assert "several values above 127" in caplog.text


def test_mask_of_another_size_names_both(source):
    made, paths = source(MaskCodes(values={"a": 0}), np.zeros((6, 9), np.uint8), image=(6, 8))
    with pytest.raises(SampleError, match=r"6 x 9 pixels, its image .*image.png 6 x 8") as caught:
        read(made)
    assert caught.value.kind == "size"
    assert paths[0] in caught.value.reason


def test_damaged_and_missing_masks_are_named(source, tmp_path):
    made, _ = source(MaskCodes(values={"a": 0}), np.zeros((6, 8), np.uint8))
    (tmp_path / "mask0.png").write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"mask0\.png is not an image"):
        read(made)
    (tmp_path / "mask0.png").unlink()
    with pytest.raises(SampleError, match=r"mask0\.png is not there any more"):
        read(made)


def test_nodata_is_ignored_and_tiff_is_read_by_windows(source, write_tif, tmp_path, caplog):
    values = np.zeros((1, 6, 8), np.int16)
    values[0, 1:, 2:] = 1
    values[0, 0] = -9999
    made, _ = source(
        MaskCodes(values={"a": 0, "b": 1}), values[0].astype(np.uint8) % 2, suffix="tif"
    )
    write_tif(tmp_path / "mask0.tif", values, nodata=-9999)
    numbers = read(made, Window(0, 1, 2, 3))
    assert numbers.tolist() == [[255, 255, 255], [0, 1, 1]]
    assert made._kept is None
    write_tif(tmp_path / "mask0.tif", np.maximum(values, 0), nodata=0)
    assert read(made, Window(0, 1, 2, 3)).tolist() == [[255, 255, 255], [255, 1, 1]]
    assert "names 0 as nodata, the value of a" in caplog.text


def test_masks_of_floating_point_numbers(source, write_tif, tmp_path):
    values = np.array([[[0, 1, np.nan, 1]] * 4], np.float32)
    codes = MaskCodes(values={"a": 0, "b": 1})
    made, _ = source(codes, np.zeros((4, 4), np.uint8), suffix="tif")
    write_tif(tmp_path / "mask0.tif", values)
    assert read(made)[0].tolist() == [0, 1, 255, 1]
    write_tif(tmp_path / "mask0.tif", values + 0.5)
    with pytest.raises(SampleError, match="has fractions"):
        read(made)


def test_negative_values(source, write_tif, tmp_path):
    made, _ = source(
        MaskCodes(values={"dry": 0, "water": 1}, ignored=[-1]),
        np.zeros((4, 4), np.uint8),
        suffix="tif",
    )
    write_tif(tmp_path / "mask0.tif", np.array([[[-1, 0, 1, 0]] * 4], np.int16))
    assert read(made)[0].tolist() == [255, 0, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of values, colors and binary"),
        ({"binary": ["a"], "values": {"a": 1}}, "binary excludes"),
        ({"values": {"a": 1, "b": 1}}, "a and b have the same value, 1"),
        ({"values": {"a": 1}, "ignored": [1]}, "ignored ones and a have the same value"),
        ({"colors": {"a": (0, 0, 0), "b": [0, 0, 0]}}, r"same color, \(0, 0, 0\)"),
        ({"colors": {"a": (0, 0, 256)}}, "3 numbers from 0 to 255"),
        ({"values": {"a": 1}, "colors": {"b": (0, 0, 0)}}, "the same classes in the same order"),
        ({"values": {"a": 1}, "background": "b"}, "background is for binary"),
        ({"binary": ["a", "a"]}, "different names"),
        ({"values": {"a": 1}, "unknown": "skip"}, "unknown must be"),
        ({"values": {False: 0, True: 1}}, "must be text, got False: put it in quotes"),  # no, yes
        ({"colors": {1: (0, 0, 0)}}, "must be text, got 1"),
        ({"binary": ["a", True]}, "must be text, got True"),
    ],
)
def test_codes_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskCodes(**arguments)


def test_sources_that_make_no_sense():
    codes = MaskCodes(binary=["a", "b"])
    with pytest.raises(ValueError, match="must have 2 mask files"):
        MaskSource([("a", {"optical": "a.png"})], ["a.png"], codes)
    with pytest.raises(ValueError, match="0 masks for 1 samples"):
        MaskSource([("a", {"optical": "a.png"})], [], codes)
