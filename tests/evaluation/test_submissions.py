# SPDX-License-Identifier: Apache-2.0
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from rsvheat.evaluation.submissions import merge_windows, write_dota, write_fair1m
from rsvheat.ops.box_convert import corners_to_boxes

CLASSES = ("plane", "small-vehicle", "Small Car")


def boxes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "boxes": torch.rand(n, 5, generator=g) * torch.tensor([500.0, 500, 60, 20, 90]) + 10,
        "scores": torch.rand(n, generator=g),
        "labels": torch.arange(n) % 2,
    }


def same_rectangles(corners, expected):
    """Compare corners, (N, 4, 2) with rectangles by their corners, in the written precision."""
    found = corners_to_boxes(torch.tensor(corners, dtype=torch.float64))
    torch.testing.assert_close(found[:, :4], expected[:, :4].double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found[:, 4], expected[:, 4].double(), atol=0.2, rtol=0)


def test_dota_has_a_file_for_each_class(tmp_path):
    predictions = {"P0001": boxes(5), "P0002": boxes(0), "P0003": boxes(4, seed=1)}
    files = write_dota(tmp_path / "dota", predictions, CLASSES)
    assert [file.name for file in files] == [f"Task1_{name}.txt" for name in CLASSES]
    assert files[2].read_text() == ""
    rows = [line.split() for line in files[0].read_text().splitlines()]
    assert [row[0] for row in rows] == ["P0001"] * 3 + ["P0003"] * 2
    numbers = np.array([[float(word) for word in row[1:]] for row in rows])
    own = torch.cat([predictions[name]["boxes"][::2] for name in ("P0001", "P0003")])
    scores = torch.cat([predictions[name]["scores"][::2] for name in ("P0001", "P0003")])
    np.testing.assert_allclose(numbers[:, 0], scores, atol=1e-6)
    same_rectangles(numbers[:, 1:].reshape(-1, 4, 2), own)


def test_fair1m_has_a_file_for_each_image(tmp_path):
    predictions = {"12": {**boxes(3), "labels": torch.tensor([0, 2, 2])}, "13": boxes(0)}
    files = write_fair1m(tmp_path, predictions, CLASSES, author="a & b")
    assert [file.name for file in files] == ["12.xml", "13.xml"]
    root = ElementTree.parse(files[0]).getroot()
    assert root.findtext("source/filename") == "12.tif"
    assert root.findtext("research/author") == "a & b"
    objects = root.findall("objects/object")
    names = [one.findtext("possibleresult/name") for one in objects]
    assert names == ["plane", "Small Car", "Small Car"]
    scores = [float(one.findtext("possibleresult/probability")) for one in objects]
    np.testing.assert_allclose(scores, predictions["12"]["scores"], atol=1e-6)
    points = [
        [[float(x) for x in point.text.split(",")] for point in one.findall("points/point")]
        for one in objects
    ]
    points = np.array(points)
    assert points.shape == (3, 5, 2)
    assert np.array_equal(points[:, 0], points[:, 4])
    same_rectangles(points[:, :4], predictions["12"]["boxes"])
    assert ElementTree.parse(files[1]).findall("objects/object") == []


def test_fair1m_is_read_like_its_annotation(tmp_path):
    formats = pytest.importorskip("rsvheat.data.formats.fair1m")
    given = boxes(3)
    (file,) = write_fair1m(tmp_path, {"1": given}, CLASSES)
    read = formats.read_fair1m(file)
    assert list(read.names) == ["plane", "small-vehicle", "plane"]
    same_rectangles(read.corners, given["boxes"])


@pytest.mark.parametrize("write", [write_dota, write_fair1m])
def test_an_archive_holds_the_same_files(write, tmp_path):
    predictions = {"P1": boxes(4), "P2": boxes(2)}
    files = write(tmp_path / "folder", predictions, CLASSES)
    (archive,) = write(tmp_path / "submission.zip", predictions, CLASSES)
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == [file.name for file in files]
        for file in files:
            assert content.read(file.name).decode() == file.read_text()


def test_windows_are_merged_in_pixels_of_the_image():
    one = torch.tensor([[900.0, 100, 40, 20, 30], [500.0, 500, 40, 20, 0]])
    # The first object again, seen from a window that begins at column 824, less well.
    again = torch.tensor([[76.5, 100, 40, 20, 30], [300.0, 100, 40, 20, 0]])
    windows = [
        {"boxes": one, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([0, 0])},
        {"boxes": again, "scores": torch.tensor([0.8, 0.7]), "labels": torch.tensor([0, 1])},
    ]
    merged = merge_windows(windows, [(0, 0), (824, 0)])
    np.testing.assert_allclose(merged["scores"], [0.9, 0.7, 0.5])
    assert merged["boxes"].tolist() == [
        [900, 100, 40, 20, 30],
        [1124, 100, 40, 20, 0],
        [500, 500, 40, 20, 0],
    ]
    assert merged["labels"].tolist() == [0, 1, 0]
    assert len(merge_windows([], [])["boxes"]) == 0
    with pytest.raises(ValueError, match="an origin for each window, got 1 for 2"):
        merge_windows(windows, [(0, 0)])


def test_what_cannot_be_written_is_named(tmp_path):
    for write in (write_dota, write_fair1m):
        with pytest.raises(ValueError, match="P1: labels must be 0 to 0, got 0 to 1"):
            write(tmp_path, {"P1": boxes(2)}, ["plane"])
        broken = {**boxes(2), "scores": torch.tensor([0.5, torch.nan])}
        with pytest.raises(ValueError, match="P1: boxes and scores must be finite"):
            write(tmp_path, {"P1": broken}, CLASSES)
        flat = {**boxes(2), "boxes": torch.zeros(2, 4)}
        with pytest.raises(ValueError, match=r"P1: boxes must have shape \(N, 5\)"):
            write(tmp_path, {"P1": flat}, CLASSES)
    with pytest.raises(ValueError, match="must not hold spaces, got 'a b'"):
        write_dota(tmp_path, {"a b": boxes(1)}, CLASSES)
    with pytest.raises(ValueError, match="'ship/boat' cannot be part"):
        write_dota(tmp_path, {"a": boxes(1)}, ["ship/boat", "plane"])
    with pytest.raises(ValueError, match="'a/b' cannot be part"):
        write_fair1m(tmp_path, {"a/b": boxes(1)}, CLASSES)
    assert list(tmp_path.iterdir()) == []
