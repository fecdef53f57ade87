# SPDX-License-Identifier: Apache-2.0
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsvheat.data import (
    ArraySource,
    ConcatSource,
    DataError,
    FileSource,
    FolderSource,
    SampleError,
    places,
)
from rsvheat.data.skip_report import is_unicode
from rsvheat.data.sources import check_class_folders, tile_windows

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rasterio.shutil")
Affine = rasterio.Affine


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
    source = FolderSource({"optical": data["optical"]})
    source.scan()
    Path(data["optical"], "scene000.png").unlink()
    with pytest.raises(SampleError, match=r"scene000.png is not there any more"):
        source.open(0, "optical")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folders": {}}, "at least one modality"),
        ({"folders": {"a.b": "a"}}, "'a.b' cannot be"),
        ({"folders": {"a": "a"}, "stem_map": {"b": ("x", "y")}}, "stem_map has"),
        ({"folders": {"a": "a"}, "stem_map": {"a": ("(", "y")}}, "no regular expression"),
        ({"folders": {"a": "a"}, "tile": 0}, "tile must be"),
        ({"folders": {"a": "a"}, "unmatched": "drop"}, "unmatched must be"),
        ({"folders": {"a": "a"}, "extensions": ".tif"}, "extensions must be suffixes"),
        ({"folders": {"a": "a"}, "extensions": ["tif"]}, "extensions must be suffixes"),
        ({"folders": {"a": "a"}, "extensions": []}, "extensions must be suffixes"),
        ({"folders": {"a": "a"}, "extensions": {"a": "tif"}}, "extensions must be suffixes"),
        ({"folders": {"a": "a"}, "extensions": {"b": [".tif"]}}, "extensions must be for a, got"),
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


# Names.


def test_of_a_scene_and_its_preview_one_is_used_and_the_other_named(tmp_path, write_png, write_tif):
    values = np.zeros((3, 8, 8), np.uint8)
    for number in (1, 2):
        write_tif(tmp_path / f"{number}.tif", values)
        write_png(tmp_path / f"{number}.jpg", values)
    write_png(tmp_path / "2.png", values)
    write_png(tmp_path / "3.PNG", values, format="PNG")
    write_png(tmp_path / "3.jpeg", values)
    source = FolderSource({"optical": tmp_path})
    skips = source.scan()
    used = [Path(source.file(index, "optical")).name for index in range(len(source))]
    assert used == ["1.tif", "2.tif", "3.PNG"]
    assert [(skip.kind, skip.key) for skip in skips] == [
        ("name", "1"), ("name", "2"), ("name", "2"), ("name", "3"),
    ]  # fmt: skip
    assert skips[0].reason == f"{tmp_path}/1.jpg: {tmp_path}/1.tif has the same name, and is used"
    source = FolderSource({"optical": tmp_path}, extensions=[".JPG"])
    assert source.scan() == []
    assert keys(source) == ["1", "2"]
    with pytest.raises(DataError, match=r"holds no file that ends in \.webp"):
        FolderSource({"optical": tmp_path}, extensions=[".webp"]).scan()


def test_a_stem_map_that_gives_two_files_one_name_is_an_error(folders):
    source = FolderSource(folders(2), stem_map={"sar": (r"\d+", "")})
    with pytest.raises(DataError, match=r"stem_map gives .*0.png and .*1.png one name, 'scene'"):
        source.scan()


def test_names_that_are_not_utf8_are_skipped_and_named(tmp_path, write_png):
    values = np.zeros((8, 8), np.uint8)
    write_png(tmp_path / "a.png", values)
    odd = write_png(tmp_path / os.fsdecode(b"caf\xe9.png"), values)
    source = FolderSource({"optical": tmp_path})
    (skip,) = source.scan()
    assert keys(source) == ["a"]
    assert (skip.kind, skip.key) == ("name", r"caf\udce9")
    assert skip.reason == rf"{tmp_path}/caf\udce9.png: its name is not UTF-8; rename it"
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"caf\\udce9.png: its name is not UTF-8") as caught:
        source.scan()
    str(caught.value).encode()
    odd.unlink()
    # A line break must not end the line of a report.
    write_png(tmp_path / "a\nb.png", values).write_text("damaged")
    source.scan()
    with pytest.raises(SampleError, match=r"a\\nb.png is not an image"):
        source.open(0, "optical")


def test_number_signs_in_names_are_no_tiles(tmp_path, write_png):
    for name in ("scene #1", "scene #2", "north#1_2", "north#1_3"):
        write_png(tmp_path / f"{name}.png", np.zeros((8, 12), np.uint8))
    source = FolderSource({"optical": tmp_path})
    source.scan()
    names = ["north#1_2", "north#1_3", "scene #1", "scene #2"]
    assert [source.group(index) for index in range(4)] == names
    source = FolderSource({"optical": tmp_path}, tile=8)
    source.scan()
    assert keys(source)[:2] == ["north#1_2#0_0", "north#1_2#0_4"]
    assert [source.group(index) for index in range(8)] == [n for n in names for _ in range(2)]
    joined = ConcatSource([source, source])
    joined.scan()
    assert joined.group(8) == "1/north#1_2"
    assert joined.group(15, r"\d/(\w+)") == "scene"


# What is in folders.


def test_links_to_folders_are_followed_but_not_round_in_circles(tmp_path, folders):
    data = folders(2)
    away = tmp_path / "away"
    Path(data["optical"]).rename(away)
    root = Path(data["optical"])
    (root / "real").mkdir(parents=True)
    (root / "linked").symlink_to(away)
    shutil.copy(away / "scene000.png", root / "real")
    (root / "real" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "file.png").symlink_to(away / "scene001.png")
    source = FolderSource({"optical": root})
    skips = source.scan()
    assert keys(source) == ["file", "linked/scene000", "linked/scene001", "real/scene000"]
    assert [skip.key for skip in skips] == ["self", "self"]
    assert all("Too many levels of symbolic links" in skip.reason for skip in skips)


def test_what_is_no_file_and_no_folder_is_named(tmp_path, folders, monkeypatch):
    root = Path(folders(1)["optical"])
    (root / "broken.tif").symlink_to(root / "nothing.tif")
    (root / "class").symlink_to(root / "nothing")
    (root / "notes.txt").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.tif")
    (root / "folder.tif").mkdir()
    shutil.copy(root / "scene000.png", root / "folder.tif")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (root / name).mkdir()
        shutil.copy(root / "scene000.png", root / name)
    source = FolderSource({"optical": root})
    skips = source.scan()
    assert keys(source) == ["scene000", "folder.tif/scene000"]
    assert [(skip.kind, skip.key, skip.reason) for skip in skips] == [
        ("damaged", "broken", f"{root}/broken.tif is a link to a file or folder that is not there"),
        ("damaged", "class", f"{root}/class is a link to a file or folder that is not there"),
        ("damaged", "pipe", f"{root}/pipe.tif is a device, socket or pipe, not a file"),
    ]
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("folder.tif"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert source.scan()[-1].reason == f"{root}/folder.tif cannot be read: Permission denied"


def test_sets_are_not_classes(tmp_path, write_png):
    def tree(name, *names):
        for folder in names:
            write_png(tmp_path / name / folder / "a.png", np.zeros((4, 4), np.uint8))
        return tmp_path / name

    check_class_folders(tree("good", "Forest", "River", ".hidden"))
    check_class_folders(tree("vehicles", "train", "bus", "ship"))
    check_class_folders(tree("one", "Forest"))
    root = tree("split", "train/Forest", "train/River", "test/Forest", "__MACOSX/train")
    with pytest.raises(
        DataError,
        match=f"the folders of {root} would be classes, and are test, train: give "
        f"root={root}/train and test_root={root}/test",
    ):
        check_class_folders(root)
    root = tree("three", "Train/a", "val/a", "Test/a", "notes/b")
    with pytest.raises(
        DataError, match=f"root={root}/Train and test_root={root}/Test and val_root"
    ):
        check_class_folders(root)
    root = tree("only", "train/Forest", "train/River")
    with pytest.raises(DataError, match=f"are train: give root={root}/train$"):
        check_class_folders(root)
    for names in (("train_set", "test_set"), ("Training Data", "Test Data"), ("my-train", "val")):
        with pytest.raises(DataError, match=r"would be .* give root=.*[Tt]rain.* and \w+_root="):
            check_class_folders(tree(names[0], *names))
    check_class_folders(tree("stations", "train station", "test pattern", "river"))
    with pytest.raises(DataError, match=r"are test: give root=\S+/lonely/test$"):
        check_class_folders(tree("lonely", "test/a"))
    with pytest.raises(DataError, match="are images and masks: MaskFolders reads"):
        check_class_folders(tree("masks", "images", "masks"))
    root = tree("nested", "EuroSAT/Forest", "EuroSAT/River")
    with pytest.raises(DataError, match=f"would be the only class: give root={root}/EuroSAT"):
        check_class_folders(root)
    with pytest.raises(DataError, match="is not a folder"):
        check_class_folders(tmp_path / "nowhere")


# Where pairs lie.

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def write_pair(write_tif, folder, name="a", **other):
    """Write two files, the second with another georeference."""
    values = np.zeros((1, 20, 30), np.uint8)
    write_tif(folder / "optical" / f"{name}.tif", values, **UTM)
    write_tif(folder / "sar" / f"{name}.tif", values, **{**UTM, **other})


def moved(columns, rows):
    return {"transform": UTM["transform"] @ Affine.translation(columns, rows)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (moved(0, 0.6), r"lies \+0.6 rows and \+0.0 columns away from"),
        (moved(-1000, 7), r"lies \+7.0 rows and -1000.0 columns away from"),
        ({"transform": UTM["transform"] @ Affine(1, 0, 0, 0, -1, 20)}, "is flipped or rotated"),
        ({"transform": UTM["transform"] @ Affine(-1, 0, 30, 0, -1, 20)}, "is flipped or rotated"),
        ({"transform": UTM["transform"] @ Affine.scale(2)}, "has pixels of another size or"),
        ({"transform": UTM["transform"] @ Affine.rotation(5)}, "has pixels of another size or"),
        ({"crs": "EPSG:32633"},
         r"has another reference system and grid \(EPSG:32633, EPSG:32632\) than"),
        ({"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 9, 0, -1e-4, 45)},
         r"has another reference system and grid \(EPSG:4326, EPSG:32632\) than"),
        ({"crs": 'LOCAL_CS["here",UNIT["metre",1]]'}, "has another reference system and grid"),
    ],
)  # fmt: skip
def test_pairs_that_lie_elsewhere_are_reported(tmp_path, write_tif, other, message):
    write_pair(write_tif, tmp_path)
    write_pair(write_tif, tmp_path, "b", **other)
    folders = {"optical": tmp_path / "optical", "sar": tmp_path / "sar"}
    for unmatched in ("skip", "keep"):
        source = FolderSource(folders, unmatched=unmatched)
        (skip,) = source.scan()
        assert (skip.kind, skip.key) == ("place", "b")
        assert re.search(rf"sar/b.tif {message}.* {tmp_path}/optical/b.tif", skip.reason)
        assert keys(source) == ["a"]
    source = FolderSource(folders, compare_places=False)
    assert source.scan() == []
    assert keys(source) == ["a", "b"]
    for modality in folders:
        (tmp_path / modality / "a.tif").unlink()
    with pytest.raises(DataError, match=f"no image of .* can be used; .*b.tif {message}"):
        FolderSource(folders).scan()


@pytest.mark.parametrize(
    "other",
    [
        moved(0.4, -0.4),
        {"endianness": "big", "compress": "deflate", "tiled": True, "blockxsize": 16,
         "blockysize": 16},
        {"bigtiff": "yes"},
        # The same system by another name, or without one.
        {"crs": "+proj=utm +zone=32 +datum=WGS84 +units=m"},
        {"crs": "EPSG:25832"},
        {"crs": None},
        {"crs": None, "transform": Affine.identity()},
        {"dtype": "float32"},
    ],
)  # fmt: skip
def test_pairs_of_the_same_ground_are_kept(tmp_path, write_tif, other):
    write_pair(write_tif, tmp_path, **other)
    source = FolderSource({"optical": tmp_path / "optical", "sar": tmp_path / "sar"})
    assert source.scan() == []


def test_pairs_differ_in_size_or_are_damaged(tmp_path, write_tif):
    write_pair(write_tif, tmp_path)
    write_pair(write_tif, tmp_path, "b")
    write_tif(tmp_path / "sar" / "b.tif", np.zeros((1, 20, 31), np.uint8), **UTM)
    write_pair(write_tif, tmp_path, "c")
    content = (tmp_path / "sar" / "c.tif").read_bytes()
    (tmp_path / "sar" / "c.tif").write_bytes(content[:40])
    source = FolderSource({"optical": tmp_path / "optical", "sar": tmp_path / "sar"})
    (skip,) = source.scan()
    assert (skip.kind, skip.key) == ("size", "b")
    assert "optical/b.tif has 20 x 30 pixels" in skip.reason
    assert "sar/b.tif has 20 x 31" in skip.reason
    assert keys(source) == ["a", "c"]  # reading tells what is wrong with c
    with pytest.raises(SampleError, match=r"c.tif cannot be opened"):
        source.open(1, "sar")


def test_world_files_and_jpeg_2000_are_compared_too(tmp_path, write_png, write_tif):
    values = np.zeros((1, 20, 30), np.uint8)
    for folder in ("optical", "sar"):
        write_png(tmp_path / folder / "a.png", values)
        write_png(tmp_path / folder / "b.jpg", values)
        (tmp_path / folder / "c").mkdir()
    text = "10\n0\n0\n-10\n{}\n4999995\n"
    for folder, x in (("optical", 500_005), ("sar", 500_025)):
        (tmp_path / folder / "a.pgw").write_text(text.format(x))
    (tmp_path / "optical" / "b.jgw").write_text(text.format(0))
    write_tif(tmp_path / "tif" / "c.tif", values, **UTM)
    with rasterio.open(tmp_path / "tif" / "c.tif") as file:
        rasterio.shutil.copy(file, tmp_path / "optical" / "d.jp2", driver="JP2OpenJPEG")
    write_tif(tmp_path / "sar" / "d.tif", values, **{**UTM, **moved(1, 0)})
    source = FolderSource({"optical": tmp_path / "optical", "sar": tmp_path / "sar"})
    skips = source.scan()
    assert [(skip.kind, skip.key) for skip in skips] == [("place", "a"), ("place", "d")]
    assert "sar/a.png lies +0.0 rows and +2.0 columns away from" in skips[0].reason
    assert keys(source) == ["b"]


def test_headers_of_equal_places_are_not_read_by_gdal(tmp_path, write_tif, monkeypatch):
    for name in ("a", "b"):
        write_pair(write_tif, tmp_path, name)
    monkeypatch.setattr(places, "_place", lambda path: pytest.fail(f"GDAL reads {path}"))
    source = FolderSource({"optical": tmp_path / "optical", "sar": tmp_path / "sar"})
    assert source.scan() == []


def test_what_is_skipped_has_one_printable_line():
    error = SampleError("damaged", "a\n\x1b[31m\udce9.tif is damaged")
    assert error.reason == r"a\n\x1b[31m\udce9.tif is damaged"
    assert is_unicode("é#日")
    assert not is_unicode("\udce9")
