# SPDX-License-Identifier: Apache-2.0
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsvheat.data import ArraySource, ConcatSource, DataError, FileSource, FolderSource, SampleError
from rsvheat.data.sources import tile_windows


def keys(source):
    return [source.key(index) for index in range(len(source))]


def test_files_of_the_same_name_are_pairs(folders):
    source = FolderSource(folders(3))
    assert len(source) == 0
    assert source.scan() == []
    assert keys(source) == ["scene000", "scene001", "scene002"]
    assert source.present(1) == ("optical", "sar")
    for modality, bands in (("optical", 3), ("sar", 1)):
        with source.open(1, modality) as reader:
            assert (reader.bands, reader.height, reader.width) == (bands, 16, 16)
        assert Path(source.file(1, modality)).name == "scene001.png"


def test_folders_are_searched_deeply_and_only_for_images(tmp_path, folders):
    data = folders(2)
    for modality in data:
        root = tmp_path / "data" / modality
        (root / "north" / "a").mkdir(parents=True)
        shutil.copy(root / "scene000.png", root / "north" / "a" / "scene000.PNG")
        (root / "scene000.png.aux.xml").touch()
        (root / "notes.txt").touch()
        (root / ".hidden").mkdir()
        shutil.copy(root / "scene000.png", root / ".hidden" / "scene009.png")
        shutil.copy(root / "scene000.png", root / "._scene000.png")
    source = FolderSource(data)
    source.scan()
    assert keys(source) == ["north/a/scene000", "scene000", "scene001"]


def test_names_are_mapped(tmp_path, folders):
    data = folders(2)
    for path in Path(data["sar"]).iterdir():
        path.rename(path.with_name(path.name.replace("scene", "ROIs_s1_")))
    for path in Path(data["optical"]).iterdir():
        path.rename(path.with_name(path.name.replace("scene", "ROIs_s2_")))
    with pytest.raises(DataError, match=r"no file has the same name in .* Should stem_map"):
        FolderSource(data).scan()
    source = FolderSource(data, stem_map={"sar": ("_s1_", "_s2_")})
    assert source.scan() == []
    assert keys(source) == ["ROIs_s2_000", "ROIs_s2_001"]
    assert source.group(1) == "ROIs_s2_001"
    assert source.group(1, r"_s2_(\d+)") == "001"
    assert source.group(1, r"([A-Z]+)\w*_(\d+)") == "ROI/001"
    assert source.group(1, "ROIs") == "ROIs"
    with pytest.raises(DataError, match=r"'\^x' is not found in the sample 'ROIs_s2_000'"):
        source.group(0, "^x")


def test_files_without_a_partner_are_reported_or_kept(folders):
    data = folders(4)
    Path(data["sar"], "scene001.png").unlink()
    Path(data["optical"], "scene003.png").unlink()
    source = FolderSource(data)
    skips = source.scan()
    assert keys(source) == ["scene000", "scene002"]
    assert [(skip.kind, skip.key) for skip in skips] == [
        ("unmatched", "scene001"),
        ("unmatched", "scene003"),
    ]
    assert "optical/scene001.png: no sar image has this name" in skips[0].reason
    source = FolderSource(data, unmatched="keep")
    assert source.scan() == []
    assert [source.present(index) for index in range(4)] == [
        ("optical", "sar"),
        ("optical",),
        ("optical", "sar"),
        ("sar",),
    ]


def test_unpaired_folders_are_single_images(folders):
    source = FolderSource(folders(2), paired=False)
    assert source.scan() == []
    assert keys(source) == ["optical/scene000", "optical/scene001", "sar/scene000", "sar/scene001"]
    assert [source.present(index) for index in range(4)] == [("optical",)] * 2 + [("sar",)] * 2


def test_sources_are_joined(folders):
    pairs = FolderSource(folders(2, name="pairs"))
    single = FolderSource({"optical": folders(3, name="single")["optical"]})
    array = ArraySource([{"dem": np.zeros((1, 5, 5), np.float32)}])
    joined = ConcatSource([pairs, single, array])
    assert joined.scan() == []
    assert joined.modalities == ("optical", "sar", "dem")
    assert keys(joined) == [
        "0/scene000", "0/scene001", "1/scene000", "1/scene001", "1/scene002", "2/000000",
    ]  # fmt: skip
    assert [joined.present(i) for i in (1, 4, 5)] == [("optical", "sar"), ("optical",), ("dem",)]
    assert "single/optical/scene002.png" in joined.file(4, "optical")
    assert joined.file(5, "dem") is None
    with joined.open(5, "dem") as reader:
        assert reader.height == 5
    assert keys(ConcatSource([single])) == ["scene000", "scene001", "scene002"]


@pytest.mark.parametrize(("height", "width", "tile"), [(7, 10, 4), (8, 8, 4), (3, 9, 4), (1, 1, 5)])
def test_tiles_cover_the_image_and_stay_inside(height, width, tile):
    covered = np.zeros((height, width))
    windows = tile_windows(height, width, tile)
    for top, left, rows, columns in windows:
        assert rows == min(tile, height)
        assert columns == min(tile, width)
        covered[top : top + rows, left : left + columns] += 1
        assert top + rows <= height
        assert left + columns <= width
    assert covered.min() >= 1
    assert len(windows) == -(-height // tile) * -(-width // tile)


@pytest.mark.parametrize("cache", [0, 128])
def test_tiles_are_parts_of_their_image(folders, write_tif, tmp_path, cache):
    data = folders(2, size=40)
    rng = np.random.default_rng(9)
    for number in range(2):
        path = Path(data["sar"], f"scene{number:03}.png")
        path.unlink()
        write_tif(path.with_suffix(".tif"), rng.random((1, 40, 40)), nodata=0)
    source = FolderSource(data, tile=16, cache=cache)
    assert source.scan() == []
    assert len(source) == 18
    assert keys(source)[:3] == ["scene000#0_0", "scene000#0_16", "scene000#0_24"]
    assert {source.group(index) for index in range(18)} == {"scene000", "scene001"}
    whole = FolderSource(data)
    whole.scan()
    for index in range(18):
        for modality in data:
            top, left = map(int, source.key(index).split("#")[1].split("_"))
            with source.open(index, modality) as reader, whole.open(index // 9, modality) as image:
                expected = image.read().values[:, top : top + 16, left : left + 16]
                np.testing.assert_array_equal(reader.read().values, expected)
            assert source.file(index, modality) is None
    assert len(source._decoded) == (2 if cache else 0)  # the PNG, not the TIFF
    assert len(pickle.dumps(source)) < 10_000


def test_small_images_are_not_cut(folders):
    source = FolderSource(folders(2, size=16), tile=16)
    source.scan()
    assert keys(source) == ["scene000", "scene001"]
    assert source.file(0, "sar") is not None


def test_tiles_need_images_of_one_size(folders, write_png):
    data = folders(3, size=40)
    write_png(Path(data["sar"], "scene001.png"), np.zeros((40, 41), np.uint8))
    Path(data["optical"], "scene002.png").write_text("damaged")
    source = FolderSource(data, tile=32)
    first, second = source.scan()
    assert (first.kind, first.key) == ("size", "scene001")
    assert "optical/scene001.png has 40 x 40" in first.reason
    assert "sar/scene001.png has 40 x 41" in first.reason
    assert (second.kind, second.key) == ("damaged", "scene002")
    assert len(source) == 4


def test_what_cannot_be_found_is_named(tmp_path, folders):
    data = folders(1)
    with pytest.raises(DataError, match=r"nowhere, for the sar images, is not a folder"):
        FolderSource({**data, "sar": tmp_path / "nowhere"}).scan()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty, for the sar images, holds no file"):
        FolderSource({**data, "sar": tmp_path / "empty"}).scan()
    shutil.copy(Path(data["sar"], "scene000.png"), Path(data["sar"], "scene000.jpg"))
    with pytest.raises(DataError, match=r"scene000.jpg and .*scene000.png are both called"):
        FolderSource(data).scan()
    source = FolderSource({"optical": data["optical"]})
    source.scan()
    Path(data["optical"], "scene000.png").unlink()
    with pytest.raises(SampleError, match=r"scene000.png is not there any more"):
        source.open(0, "optical")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folders": {}}, "at least one modality"),
        ({"folders": {"key": "a"}}, "'key' cannot be the name of a modality"),
        ({"folders": {"a.b": "a"}}, "'a.b' cannot be"),
        ({"folders": {"a": "a"}, "stem_map": {"b": ("x", "y")}}, "stem_map has"),
        ({"folders": {"a": "a"}, "stem_map": {"a": ("(", "y")}}, "no regular expression"),
        ({"folders": {"a": "a"}, "tile": 0}, "tile must be"),
        ({"folders": {"a": "a"}, "unmatched": "drop"}, "unmatched must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FolderSource(**arguments)


def test_keys_must_differ():
    with pytest.raises(ValueError, match="different keys"):
        FileSource([("a", {"optical": "x.png"}), ("a", {"optical": "y.png"})])
    image = {"optical": np.zeros((1, 2, 2))}
    with pytest.raises(ValueError, match="2 samples need"):
        ArraySource([image, image], ["a", "a"])
    with pytest.raises(ValueError, match="sources must not be empty"):
        ConcatSource([])
