# SPDX-License-Identifier: Apache-2.0
"""Readers of public data sets, on miniature trees with their traps and on real images."""

import pickle
import shutil

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("rasterio")
pytest.importorskip("PIL")
import PIL.Image
import rasterio

from rsvheat.data import (
    AID,
    IGNORE_INDEX,
    ISAID,
    RESISC45,
    AirPolSARSeg,
    ChangeFolders,
    Crop,
    DataError,
    DataModule,
    LevirCD,
    LoaderOptions,
    LoveDA,
    MaskCodes,
    MaskFolders,
    Potsdam,
    Scan,
    Sensor,
    WhuOptSar,
    Window,
    miniature,
)
from rsvheat.data.miniature.painter import write_tiff

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def keys(split):
    indices = range(len(split.source)) if split.indices is None else split.indices
    return [split.source.key(int(index)) for index in indices]


def by_split(splits):
    return {name: sorted(keys(split)) for name, split in splits.items()}


def labels_of(tree):
    return {name: sorted(some) for name, some in tree.labeled.items()}


def index_of(source, key):
    return [source.key(index) for index in range(len(source))].index(key)


def mask(source, key):
    """Return the class numbers of a whole sample."""
    index = index_of(source, key)
    with source.open(index, source.present(index)[0]) as image:
        return source.read_target(index, Window(0, 0, image.height, image.width))


def numbered(colors, table):
    """Return positions of the colors (3, H, W) in a table, 255 for those that are not in it."""
    result = np.full(colors.shape[1:], IGNORE_INDEX)
    for number, color in enumerate(table):
        result[(colors == np.array(color)[:, None, None]).all(0)] = number
    return result


def tiff(path):
    with rasterio.open(path) as file:
        return file.read()


def png(path):
    values = np.asarray(PIL.Image.open(path))
    return values if values.ndim == 2 else np.moveaxis(values, 2, 0)


def check_batch(reader, target="mask", on_error="raise", **options):
    """Return the specification of a data module over a reader that gave a batch."""
    data = DataModule(
        reader,
        crop=Crop(size=32, window=24),
        loader=LoaderOptions(batch_size=2, num_workers=0),
        on_error=on_error,
        **options,
    )
    data.prepare_data()
    data.setup()
    labels = []
    for batch in data.train_dataloader():
        for name, bands in data.spec.modalities.items():
            assert batch["images"][name].shape == (2, bands, 32, 32)
            assert batch["images"][name].isfinite().all()
        assert batch[target].shape == ((2, 32, 32) if target == "mask" else (2,))
        labels += np.unique(batch[target]).tolist()
    assert data.spec.target == target
    known = set(labels) - {IGNORE_INDEX}
    assert known
    assert known <= set(range(len(data.spec.classes)))
    return data.spec


# Potsdam ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_root", [True, False])
def test_potsdam(tmp_path, in_root, caplog):
    tree = miniature.write_potsdam(tmp_path, labels_in_root=in_root)
    reader = Potsdam(str(tmp_path))
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == labels_of(tree)
    classes = [name for name in miniature.POTSDAM if not name.startswith("clutter")]
    assert splits["train"].source.classes == tuple(classes)
    table = [miniature.POTSDAM[name] for name in classes]
    for split in splits.values():
        for key in keys(split):
            path = tmp_path / ("" if in_root else "5_Labels_all") / f"top_potsdam_{key}_label.tif"
            expected = numbered(tiff(path), table)
            np.testing.assert_array_equal(mask(split.source, key), expected)
            assert (f"top_potsdam_{key}_label.tif: 6 of" in caplog.text) == (key in ("4_12", "6_7"))
    assert check_batch(reader).modalities == {"optical": 3}
    assert check_batch(Potsdam(str(tmp_path), bands="RGBIR")).modalities == {"optical": 4}


def test_potsdam_options(tmp_path):
    tree = miniature.write_potsdam(tmp_path)
    scan = Scan(on_error="raise")
    path = tree.traps["off_palette_4_12"]
    table = list(miniature.POTSDAM.values())
    source = Potsdam(str(tmp_path), clutter="class", nearest=True).splits(scan)["train"].source
    assert source.classes[-1] == "clutter"
    numbers, exact = mask(source, "4_12"), numbered(tiff(path), table)
    np.testing.assert_array_equal(numbers[exact != 255], exact[exact != 255])
    assert numbers[1, 1:4].tolist() == [0, 0, 0]  # 254, 255, 252
    assert numbers[2, 1:4].tolist() == [5, 5, 5]  # 128, 70, 30
    source = Potsdam(str(tmp_path), labels="no_boundary").splits(scan)["train"].source
    boundary = (tiff(tree.traps["boundary"]) == 0).all(0)
    assert boundary.any()
    assert (mask(source, "2_10")[boundary] == IGNORE_INDEX).all()
    splits = Potsdam(str(tmp_path), exclude=["7_10"], val_groups=["6_7"]).splits(scan)
    assert by_split(splits)["train"] == ["2_10", "4_12"]
    assert by_split(splits)["val"] == ["6_7"]
    with pytest.raises(ValueError, match="no tile such as"):
        Potsdam(str(tmp_path), exclude=["7_99"])
    with pytest.raises(ValueError, match="bands must be one of"):
        Potsdam(str(tmp_path), bands="IRRG")


def test_potsdam_without_labels_or_images(tmp_path):
    with pytest.raises(DataError, match=r"no such folder.*ISPRS \(2D"):
        Potsdam(str(tmp_path / "none")).splits(Scan())
    tree = miniature.write_potsdam(tmp_path)
    tree.traps["wrong_labels"].unlink()
    scan = Scan()
    splits = Potsdam(str(tmp_path), bands="RGBIR").splits(scan)
    assert "7_10" not in keys(splits["train"])
    assert [(skip.kind, skip.key) for skip in scan.report] == [("unmatched", "7_10")]
    with pytest.raises(DataError, match=r"top_potsdam_7_10_label\.tif has no image"):
        Potsdam(str(tmp_path), bands="RGBIR").splits(Scan(on_error="raise"))
    shutil.rmtree(tmp_path / "5_Labels_all_noBoundary")
    with pytest.raises(DataError, match=r"looked for .*_noBoundary\.tif.*found 2_Ortho_RGB/, "):
        Potsdam(str(tmp_path), labels="no_boundary").splits(Scan())


# iSAID --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["devkit", "semantic_masks", "tiles"])
def test_isaid(tmp_path, layout):
    tree = miniature.write_isaid(tmp_path, layout=layout)
    reader, scan = ISAID(str(tmp_path)), Scan()
    splits = reader.splits(scan)
    assert by_split(splits) == labels_of(tree)
    lacking = {skip.key for skip in scan.report}
    assert lacking == set(tree.unlabeled["train"])
    assert scan.report.kinds == {"unmatched": len(lacking)}
    assert splits["train"].source.classes == tree.classes
    where = "Semantic_masks" if layout == "semantic_masks" else "images"
    for name, split in splits.items():
        for key in keys(split):
            values = png(tmp_path / name / where / f"{key}_instance_color_RGB.png")
            expected = values
            if layout != "tiles":
                expected = numbered(values, miniature.ISAID.values())
                assert IGNORE_INDEX not in expected
            np.testing.assert_array_equal(mask(split.source, key), expected)
    for path in tree.root.rglob("P0002*"):
        path.unlink()
    # Tiles of little more than padding may give crops without a class.
    check_batch(reader, on_error="skip" if layout == "tiles" else "raise")
    ignoring = ISAID(str(tmp_path), background="ignore").splits(Scan())["train"].source
    key = ignoring.key(0)
    assert ignoring.classes == tree.classes[1:]
    with_background = mask(splits["train"].source, key)
    expected = np.where(with_background == IGNORE_INDEX, 0, with_background) - 1
    np.testing.assert_array_equal(mask(ignoring, key), expected % 256)


def test_isaid_in_folders_of_mmsegmentation(tmp_path):
    tree = miniature.write_isaid(tmp_path / "tiles", layout="tiles")
    for split in ("train", "val"):
        for path in (tree.root / split / "images").iterdir():
            kind = "ann_dir" if "instance" in path.name else "img_dir"
            (tmp_path / "mm" / kind / split).mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "mm" / kind / split / path.name)
    assert by_split(ISAID(str(tmp_path / "mm")).splits(Scan())) == labels_of(tree)
    shutil.rmtree(tmp_path / "mm" / "ann_dir")
    with pytest.raises(DataError, match=r"does not hold iSAID: looked for P0000.*found img_dir/"):
        ISAID(str(tmp_path / "mm")).splits(Scan())


# AIR-PolSAR-Seg -----------------------------------------------------------------------------------


def test_air_polsar_seg(tmp_path):
    tree = miniature.write_air_polsar_seg(tmp_path)
    for root in (tmp_path, tree.root):
        reader = AirPolSARSeg(str(root))
        splits = reader.splits(Scan(on_error="raise"))
        assert by_split(splits) == labels_of(tree)
    assert splits["train"].source.classes == tree.classes
    source, key = splits["test"].source, "AIR-PolarSAR-Seg-40"
    expected = numbered(
        png(tree.root / "test_set" / f"{key}_gt.png"), miniature.AIR_POLSAR_SEG.values()
    )
    np.testing.assert_array_equal(mask(source, key), expected)
    assert (expected[:8, :8] == IGNORE_INDEX).all()
    with source.open(index_of(source, key), "sar") as image:
        values, valid = image.read(Window(3, 5, 7, 9), [4, 1])
        assert (image.bands, image.dtype) == (4, np.uint16)
    assert valid is None
    for band, name in zip(values, ("VV", "HH"), strict=True):
        whole = tiff(tree.root / "test_set" / f"{key}_{name}.tiff")
        np.testing.assert_array_equal(band, whole[0, 3:10, 5:14])
    assert pickle.loads(pickle.dumps(source)).key(0) == source.key(0)
    assert check_batch(reader).modalities == {"sar": 4}
    held_out = AirPolSARSeg(str(root), val_fraction=0.25).splits(Scan())
    assert {name: len(keys(split)) for name, split in held_out.items()} == {
        "train": 3, "val": 1, "test": 2
    }  # fmt: skip


def test_air_polsar_seg_with_a_file_missing(tmp_path):
    tree = miniature.write_air_polsar_seg(tmp_path)
    (tree.root / "train_set" / "AIR-PolarSAR-Seg-12_VH.tiff").unlink()
    scan = Scan()
    splits = AirPolSARSeg(str(tmp_path)).splits(scan)
    assert len(splits["train"].source) == 3
    (skip,) = scan.report
    assert skip.kind == "unmatched"
    assert "no file VH" in skip.reason
    with pytest.raises(DataError, match="AICyberTeam"):
        AirPolSARSeg(str(tmp_path / "nothing")).splits(scan)


# WHU-OPT-SAR --------------------------------------------------------------------------------------


def test_whu_opt_sar(tmp_path):
    tree = miniature.write_whu_opt_sar(tmp_path)
    reader = WhuOptSar(str(tmp_path))
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == labels_of(tree)
    source = splits["train"].source
    assert source.classes == tree.classes[1:]
    assert source.modalities == ("optical", "sar")
    for key in keys(splits["train"]):
        values = tiff(tmp_path / "lbl" / f"{key}.tif")[0].astype(int)
        expected = np.where(np.isin(values, (0, 255)), IGNORE_INDEX, values // 10 - 1)
        narrow = key == "NH49E002014"
        expected = expected[:, : 86 if narrow else 87]
        index = index_of(source, key)
        for modality in ("optical", "sar"):
            with source.open(index, modality) as image:
                assert (image.height, image.width) == expected.shape
                whole = tiff(tmp_path / modality / f"{key}.tif")[..., : expected.shape[1]]
                bands = range(1, len(whole) + 1)
                np.testing.assert_array_equal(image.read(None, bands).values, whole)
            assert (source.file(index, modality) is None) == narrow
        np.testing.assert_array_equal(mask(source, key), expected)
    assert check_batch(reader).modalities == {"optical": 4, "sar": 1}
    held_out = WhuOptSar(str(tmp_path), val_groups=["NI49E021010"]).splits(Scan())
    assert keys(held_out["val"]) == ["NI49E021010"]


def test_whu_opt_sar_with_scenes_that_cannot_be_used(tmp_path):
    miniature.write_whu_opt_sar(tmp_path)
    narrow = tiff(tmp_path / "sar" / "NH50E003001.tif")[:, :, :-5]
    place = (0, 0, 5, 32649)
    write_tiff(tmp_path / "sar" / "NH50E003001.tif", narrow)
    write_tiff(tmp_path / "optical" / "NH49E001013.tif", np.zeros((4, 58, 87), "u1"), place)
    (tmp_path / "lbl" / "NH49E001014.tif").rename(tmp_path / "lbl" / "NH12E001014.tif")
    scan = Scan()
    splits = WhuOptSar(str(tmp_path)).splits(scan)
    assert by_split(splits) == {"train": ["NH49E002014", "NI49E021010"], "test": ["NH50E014003"]}
    assert scan.report.kinds == {"size": 1, "unmatched": 2, "place": 1}


def test_whu_opt_sar_as_tiles(tmp_path, caplog):
    tree = miniature.write_whu_opt_sar(tmp_path, tiles=True)
    splits = WhuOptSar(str(tmp_path)).splits(Scan(on_error="raise"))
    scenes = {name: {key.split("_")[0] for key in keys(split)} for name, split in splits.items()}
    assert scenes == {
        "train": {"NH49E001013", "NH49E002014", "NH50E003001", "NI49E021010"},
        "test": {"NH49E001014", "NH50E014003"},
    }
    assert "by chance" not in caplog.text
    splits = WhuOptSar(str(tmp_path), tile_split="folders").splits(Scan(on_error="raise"))
    assert by_split(splits) == labels_of(tree)
    assert "by chance: parts of each scene are in training and test" in caplog.text
    with pytest.raises(DataError, match="looked for optical, sar and lbl"):
        WhuOptSar(str(tmp_path / "train" / "opt")).splits(Scan())


# LoveDA -------------------------------------------------------------------------------------------


def test_loveda(tmp_path):
    tree = miniature.write_loveda(tmp_path)
    reader = LoveDA(str(tmp_path))
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == labels_of(tree)
    source = splits["train"].source
    assert source.classes == tree.classes
    values = png(tree.traps["no_data"])
    expected = np.where(values == 0, IGNORE_INDEX, values.astype(int) - 1)
    np.testing.assert_array_equal(mask(source, "Rural/1"), expected)
    assert IGNORE_INDEX in expected
    check_batch(reader)
    urban = LoveDA(str(tmp_path), domains=["Urban"]).splits(Scan())
    assert by_split(urban) == {"train": ["Urban/1366", "Urban/1367"], "val": ["Urban/3514"]}
    # Folders in lower case, as some copies have them.
    for name in ("Train", "Val"):
        (tmp_path / name).rename(tmp_path / name.lower())
    assert by_split(reader.splits(Scan())) == labels_of(tree)
    with pytest.raises(DataError, match=r"Train/Rural/images_png.*found Rural/, Urban/.*CC-BY-NC"):
        LoveDA(str(tmp_path / "train")).splits(Scan())


# LEVIR-CD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folders", "lists", "names"])
def test_levir_cd(tmp_path, layout):
    tree = miniature.write_levir_cd(tmp_path, tiles=layout != "folders")
    if layout == "names":
        shutil.rmtree(tmp_path / "list")
    reader = LevirCD(str(tmp_path))
    splits = reader.splits(Scan(on_error="raise"))
    assert by_split(splits) == labels_of(tree)
    source = splits["train"].source
    assert source.classes == ("no change", "change")
    assert source.modalities == ("before", "after")
    for key in keys(splits["train"]):
        folder = tmp_path / "train" if layout == "folders" else tmp_path
        values = png(folder / "label" / f"{key}.png")
        assert set(np.unique(values)) <= {0, 255}
        np.testing.assert_array_equal(mask(source, key), values // 255)
        with source.open(index_of(source, key), "after") as image:
            np.testing.assert_array_equal(image.read().values, png(folder / "B" / f"{key}.png"))
    assert check_batch(reader).modalities == {"before": 3, "after": 3}


def test_levir_cd_whose_lists_name_missing_files(tmp_path):
    miniature.write_levir_cd(tmp_path, tiles=True)
    with open(tmp_path / "list" / "val.txt", "a") as file:
        file.write("val_99_0000_0000.png\n")
    scan = Scan()
    LevirCD(str(tmp_path)).splits(scan)
    assert [(skip.kind, skip.key) for skip in scan.report] == [("unmatched", "val_99_0000_0000")]
    shutil.rmtree(tmp_path / "B")
    with pytest.raises(DataError, match=r"looked for A, B and label .* found A/, label/, list/"):
        LevirCD(str(tmp_path)).splits(scan)


# AID and RESISC45 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("other_spelling", [False, True])
def test_aid(tmp_path, other_spelling):
    tree = miniature.write_aid(tmp_path, size=16, per_class=5, other_spelling=other_spelling)
    parts = []
    for root, seed in ((tmp_path, 0), (tree.root, 0), (tmp_path, 1)):
        splits = AID(str(root), 0.2).splits(Scan(seed, "raise"))
        assert splits["train"].source.classes == tree.classes
        for name, count in (("train", 1), ("test", 4)):
            source = splits[name].source
            assert np.bincount(source.labels).tolist() == [count] * 30
            for index, key in enumerate(keys(splits[name])):
                assert key.split("/")[0] == tree.classes[source.labels[index]]
        parts.append(set(keys(splits["train"])))
        assert not parts[-1] & set(keys(splits["test"]))
    assert parts[0] == parts[1] != parts[2]
    splits = AID(str(tmp_path), 0.6, val_fraction=1 / 3).splits(Scan())
    sizes = {name: len(split.source) for name, split in splits.items()}
    assert sizes == {"train": 60, "val": 30, "test": 60}
    shutil.rmtree(tree.root / "Pond")
    with pytest.raises(DataError, match=r"folders Pond \(searched .*Airport/.*Wuhan University"):
        AID(str(tmp_path)).splits(Scan())
    with pytest.raises(ValueError, match="train_fraction"):
        AID(str(tmp_path), 1.0)


def test_resisc45(tmp_path):
    tree = miniature.write_resisc45(tmp_path, size=32, per_class=5)
    reader = RESISC45(str(tmp_path))
    splits = reader.splits(Scan(on_error="raise"))
    assert splits["train"].source.classes == tree.classes
    assert sorted([*keys(splits["train"]), *keys(splits["test"])]) == sorted(
        key.removesuffix(".jpg") for key in tree.labeled["all"]
    )
    assert (len(splits["train"].source), len(splits["test"].source)) == (45, 180)
    check_batch(reader, "label")
    with pytest.raises(DataError, match="too few images for a train part"):
        RESISC45(str(tmp_path), 0.01).splits(Scan())


# MaskFolders --------------------------------------------------------------------------------------

CODES = MaskCodes(values={"a": 0, "b": 1})


@pytest.fixture
def mask_folders(tmp_path, write_png):
    """Write optical/, sar/ and mask/ of the same names."""

    def make(*names, suffix="", size=24):
        for number, name in enumerate(names):
            rng = np.random.default_rng(number)
            for kind, bands in (("optical", 3), ("sar", 1), ("mask", 1)):
                values = rng.integers(0, 2 if kind == "mask" else 256, (bands, size, size))
                end = suffix if kind == "mask" else ""
                write_png(tmp_path / kind / f"{name}{end}.png", values.astype(np.uint8))
        return {"optical": str(tmp_path / "optical"), "sar": str(tmp_path / "sar")}

    return make


def test_mask_folders_of_two_modalities(tmp_path, mask_folders):
    images = mask_folders("x_0", "x_1", "y_0", "y_1", suffix="_label")
    reader = MaskFolders(
        images,
        str(tmp_path / "mask"),
        CODES,
        stem_map={"mask": ("_label$", "")},
        group="^[a-z]",
        val_fraction=0.5,
    )
    splits = reader.splits(Scan(on_error="raise"))
    sets = [{key[0] for key in keys(split)} for split in splits.values()]
    assert sorted(map(sorted, sets)) == [["x"], ["y"]]
    source = splits["train"].source
    np.testing.assert_array_equal(mask(source, "y_1"), png(tmp_path / "mask" / "y_1_label.png"))
    assert check_batch(reader).modalities == {"optical": 3, "sar": 1}
    only = MaskFolders({"sar": images["sar"]}, str(tmp_path / "mask_"), CODES)
    with pytest.raises(DataError, match="is not a folder"):
        only.splits(Scan())


def test_mask_folders_without_counterparts(tmp_path, mask_folders):
    images = mask_folders("a", "b", "c", "d")
    (tmp_path / "mask" / "a.png").unlink()
    (tmp_path / "optical" / "b.png").unlink()
    (tmp_path / "sar" / "b.png").unlink()
    (tmp_path / "sar" / "c.png").unlink()
    arguments = images, str(tmp_path / "mask"), CODES
    scan = Scan()
    splits = MaskFolders(*arguments, val_fraction=0).splits(scan)
    assert by_split(splits) == {"train": ["d"]}
    reasons = {skip.key: skip.reason for skip in scan.report}
    assert reasons.keys() == {"a", "b", "c"}
    assert "no mask image" in reasons["a"]
    assert "mask/b.png: no optical and no sar" in reasons["b"]
    scan = Scan()
    splits = MaskFolders(*arguments, missing="keep", val_fraction=0).splits(scan)
    assert by_split(splits) == {"train": ["c", "d"]}
    assert splits["train"].source.present(0) == ("optical",)
    reasons = {skip.key: skip.reason for skip in scan.report}
    assert reasons.keys() == {"a", "b"}
    assert "no mask file" in reasons["a"]
    assert "mask/b.png: no optical or sar file" in reasons["b"]
    with pytest.raises(DataError, match="no mask image"):
        MaskFolders(*arguments).splits(Scan(on_error="raise"))


def test_mask_folders_choose_files_by_suffix(tmp_path, mask_folders):
    images = mask_folders("a", "b", "c")
    for path in (tmp_path / "optical").iterdir():
        PIL.Image.open(path).resize((48, 48)).save(path.with_suffix(".jpg"))
    masks = str(tmp_path / "mask")
    for extensions, suffix, skipped in (
        ([".png", ".jpg"], ".png", 3),
        ({"optical": [".png"]}, ".png", 0),
        ({"optical": [".PNG", ".jpg"], "mask": [".tif", ".png"]}, ".png", 3),
    ):
        scan = Scan()
        reader = MaskFolders(images, masks, CODES, extensions=extensions, val_fraction=0)
        source = reader.splits(scan)["train"].source
        assert [source.file(i, "optical")[-4:] for i in range(len(source))] == [suffix] * 3
        assert scan.report.kinds == ({"name": skipped} if skipped else {})
    with pytest.raises(DataError, match=r"for the mask images, holds no file that ends in \.jpg"):
        MaskFolders({"optical": images["optical"]}, masks, CODES, extensions=[".jpg"]).splits(
            Scan()
        )


def test_images_and_masks_may_lie_in_one_folder(tmp_path, mask_folders):
    mask_folders("a", "b")
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("a", "b"):
        PIL.Image.open(tmp_path / "optical" / f"{name}.png").save(folder / f"{name}.jpg")
        shutil.copy(tmp_path / "mask" / f"{name}.png", folder)
    codes = MaskCodes(binary=["b"], background="a")
    for masks, of in ((str(folder), CODES), ({"b": str(folder)}, codes)):
        extensions = {"optical": [".jpg"], "mask": [".png"]}
        reader = MaskFolders(
            {"optical": str(folder)}, masks, of, extensions=extensions, val_fraction=0
        )
        source = reader.splits(Scan(on_error="raise"))["train"].source
        assert len(source) == 2
        assert source.file(0, "optical") == str(folder / "a.jpg")
        np.testing.assert_array_equal(mask(source, "a"), png(folder / "a.png"))


def test_mask_folders_with_wildcards_and_other_folders(tmp_path, mask_folders, write_png):
    mask_folders("a", "b")
    for kind in ("optical", "mask"):
        for city in ("Bonn [1]", "Rome"):
            shutil.copytree(tmp_path / kind, tmp_path / "cities" / city / kind)
        shutil.copytree(tmp_path / kind, tmp_path / "held out" / kind)
    (tmp_path / "cities" / "Oslo" / "optical").mkdir(parents=True)
    scan = Scan()
    splits = MaskFolders(
        {"optical": str(tmp_path / "cities" / "*" / "optical")},
        str(tmp_path / "cities" / "*" / "mask"),
        CODES,
        val_groups=["Rome"],
        group="^[^/]+",
        test_images={"optical": str(tmp_path / "held out" / "optical")},
        test_masks=str(tmp_path / "held out" / "mask"),
    ).splits(scan)
    assert by_split(splits) == {
        "train": ["Bonn [1]/a", "Bonn [1]/b"],
        "val": ["Rome/a", "Rome/b"],
        "test": ["a", "b"],
    }
    (skip,) = scan.report
    assert skip.key == "Oslo"
    assert "mask goes with it" in skip.reason


def test_mask_folders_of_a_file_a_class(tmp_path, mask_folders, write_png):
    images = mask_folders("a", "b", "c")
    masks = {}
    for number, name in enumerate(("A320/321", "road")):
        masks[name] = str(tmp_path / f"binary{number}")
        for key in "abc":
            values = np.zeros((24, 24), np.uint8)
            values[number : number + 3] = 255
            write_png(tmp_path / f"binary{number}" / f"{key}.png", values)
    codes = MaskCodes(binary=["A320/321", "road"], background="rest")
    reader = MaskFolders({"optical": images["optical"]}, masks, codes)
    source = reader.splits(Scan(on_error="raise"))["train"].source
    assert mask(source, "b")[:5, 0].tolist() == [1, 2, 2, 2, 0]
    assert check_batch(reader).classes == ("rest", "A320/321", "road")
    (tmp_path / "binary1" / "b.png").unlink()
    with pytest.raises(DataError, match=r"no mask 1 \(road\) image"):
        reader.splits(Scan(on_error="raise"))
    with pytest.raises(ValueError, match="a folder for each of A320/321, road"):
        MaskFolders({"optical": "x"}, {"road": "y"}, codes)
    with pytest.raises(ValueError, match="one folder"):
        MaskFolders({"optical": "x"}, {"road": "y"}, CODES)


def test_bad_masks_are_left_out_of_batches_and_named(tmp_path, mask_folders, write_png):
    images = mask_folders("a", "b", "c", "d")
    write_png(tmp_path / "mask" / "a.png", np.full((24, 24), 7, np.uint8))
    write_png(tmp_path / "mask" / "b.png", np.zeros((20, 24), np.uint8))
    (tmp_path / "mask" / "c.png").write_bytes(b"")
    data = DataModule(
        MaskFolders({"optical": images["optical"]}, str(tmp_path / "mask"), CODES, val_fraction=0),
        crop=Crop(size=16),
        loader=LoaderOptions(batch_size=4, num_workers=0),
    )
    data.setup()
    for batch in data.train_dataloader():
        assert set(batch["keys"]) == {"d"}
    assert data.report.kinds == {"damaged": 1, "size": 1, "label": 1}


def test_mask_folders_arguments(tmp_path):
    for arguments, message in (
        ({"val_images": {"optical": "x"}}, "must be given together"),
        ({"val_images": {"sar": "x"}, "val_masks": "y"}, "modalities that images has not"),
        ({"stem_map": {"sar": ("a", "b")}}, "no modality and not mask"),
        ({"missing": "drop"}, "missing must be"),
        ({"extensions": ["png"]}, "extensions must be suffixes"),
        ({"extensions": {"sar": [".png"]}}, "extensions must be for optical, mask"),
        ({"val_fraction": 1.0}, "fractions must"),
    ):
        with pytest.raises(ValueError, match=message):
            MaskFolders({"optical": "a"}, "b", CODES, **arguments)
    with pytest.raises(ValueError, match="name of a modality"):
        MaskFolders({"mask": "a"}, "b", CODES)


def test_readers_are_made_from_plain_values(tmp_path):
    """As recipes give them."""
    jsonargparse = pytest.importorskip("jsonargparse")
    from rsvheat.data import DatasetReader

    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(DatasetReader, "dataset")
    arguments = {
        "images": {"optical": "a", "sar": "b"},
        "masks": "c",
        "codes": {"colors": {"house": [1, 2, 3]}, "ignored_colors": [[0, 0, 0]]},
        "stem_map": {"mask": ["_l$", ""]},
        "extensions": {"optical": [".jpg"]},
    }
    plain = {
        "rsvheat.data.MaskFolders": arguments,
        "rsvheat.data.ChangeFolders": {
            "before": "a",
            "after": "b",
            "label": "c",
            "align": True,
            "extensions": [".tif"],
        },
        "rsvheat.data.Potsdam": {"root": "a", "exclude": ["7_10"], "clutter": "class"},
        "rsvheat.data.WhuOptSar": {"root": "a", "val_fraction": 0.1},
        "rsvheat.data.AID": {"root": "a", "train_fraction": 0.2},
    }
    for path, values in plain.items():
        parsed = parser.parse_object({"dataset": {"class_path": path, "init_args": values}})
        reader = parser.instantiate(parsed).dataset
        assert type(reader).__name__ == path.split(".")[-1]
        if path.endswith("MaskFolders"):
            assert reader.codes.classes == ("house",)
            assert (reader.codes.colors, reader.codes.ignored_colors) == (
                {"house": [1, 2, 3]}, [[0, 0, 0]]
            )  # fmt: skip


# ChangeFolders ------------------------------------------------------------------------------------


def change_folders(tmp_path, **options):
    folders = (str(tmp_path / name) for name in ("t1", "t2", "change"))
    return ChangeFolders(*folders, **options)


def test_change_folders_choose_files_by_suffix(tmp_path, write_png):
    for folder in ("t1", "t2", "change"):
        for suffix in (".png", ".jpg"):
            values = np.full((1 if folder == "change" else 3, 16, 16), 255, np.uint8)
            write_png(tmp_path / folder / f"a{suffix}", values)
    for extensions, suffixes in (
        ([".jpg", ".png"], (".jpg", ".jpg", ".jpg")),
        ({"after": [".jpg"], "label": [".png"]}, (".png", ".jpg", ".png")),
    ):
        scan = Scan()
        reader = change_folders(tmp_path, extensions=extensions, val_fraction=0)
        source = reader.splits(scan)["train"].source
        files = [source.file(0, "before"), source.file(0, "after"), source.masks(0)[0]]
        assert tuple(path[-4:] for path in files) == suffixes
        assert scan.report.total == (3 if isinstance(extensions, list) else 1)
    with pytest.raises(ValueError, match="extensions must be for before, after, label"):
        change_folders(tmp_path, extensions={"mask": [".png"]})


@pytest.fixture
def pairs(tmp_path, write_tif):
    """Write t1/, t2/ and change/; of pair b the second date is two pixels away, c differs in size,
    d is turned by 180 degrees, e lies elsewhere, and f has another pixel size and system."""
    affine = rasterio.Affine
    ground = np.arange(1, 1 + 40 * 40, dtype=np.uint16).reshape(1, 40, 40)
    here = affine(10, 0, 500000, 0, -10, 5000000)
    part = np.s_[:, 8:32, 8:32]
    seen = here @ affine.translation(8, 8)

    def write(name, values, transform, **options):
        write_tif(tmp_path / "t1" / f"{name}.tif", ground[part], transform=seen)
        write_tif(tmp_path / "t2" / f"{name}.tif", values, transform=transform, **options)
        label = np.zeros((1, 24, 24), np.uint8)
        label[:, 3:9, 4:8] = 255
        write_tif(tmp_path / "change" / f"{name}.tif", label, transform=seen)

    write("a", ground[part], seen)
    write("b", ground[:, 10:34, 6:30], here @ affine.translation(6, 10))
    write("c", ground, here)
    turned = seen @ affine.translation(24, 24) @ affine.scale(-1, -1)
    write("d", ground[part][:, ::-1, ::-1], turned)
    write("e", ground[part], here @ affine.translation(900, 0))
    return ground[part]


def test_change_folders_report_pairs_that_disagree(tmp_path, pairs):
    scan = Scan()
    reader = change_folders(tmp_path, val_fraction=0)
    assert by_split(reader.splits(scan)) == {"train": ["a"]}
    assert {skip.key: skip.kind for skip in scan.report} == {
        "b": "place", "c": "size", "d": "place", "e": "place"
    }  # fmt: skip
    assert all("align=True" in skip.reason for skip in scan.report)
    with pytest.raises(DataError, match=r"rows and .* columns away from"):
        reader.splits(Scan(on_error="raise"))


def test_change_folders_align_the_second_date(tmp_path, pairs):
    scan = Scan()
    reader = change_folders(tmp_path, align=True, val_fraction=0)
    split = reader.splits(scan)["train"]
    assert keys(split) == ["a", "b", "c", "d"]
    (skip,) = scan.report
    assert (skip.key, skip.kind) == ("e", "place")
    assert "no ground in common" in skip.reason
    source = pickle.loads(pickle.dumps(split.source))
    for index, key in enumerate("abcd"):
        with source.open(index, "before") as before, source.open(index, "after") as after:
            assert (after.bands, after.stored, after.dtype) == (1, 1, np.uint16)
            values, valid = after.read()
            np.testing.assert_array_equal(before.read().values, pairs)
            window = Window(5, 3, 6, 11)
            np.testing.assert_array_equal(
                after.read(window).values, values[:, 5:11, 3:14], err_msg=key
            )
        covered = np.ones((1, 24, 24), bool)
        if key == "b":
            covered[:, :2] = covered[:, :, 22:] = False
        assert (valid is None) == (key != "b")
        if valid is not None:
            np.testing.assert_array_equal(valid, covered)
        np.testing.assert_array_equal(values[covered], pairs[covered], err_msg=key)
        assert (source.file(index, "after") is None) == (key != "a")
        assert source.read_target(index, window)[0, 1:].tolist() == [1] * 4 + [0] * 6
    sensors = {"before": Sensor(1), "after": Sensor(1)}
    assert check_batch(reader_of(source), sensors=sensors).classes == ("no change", "change")


def reader_of(source):
    """Return a reader that gives a scanned source."""
    from rsvheat.data import DatasetReader, Split

    class Given(DatasetReader):
        def splits(self, scan):
            return {"train": Split(source)}

    return Given()


def test_change_folders_align_across_reference_systems(tmp_path, write_tif):
    """A smooth field of coordinates reads alike on both grids."""
    affine = rasterio.Affine
    utm = affine(10, 0, 500000, 0, -10, 5000000)
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    write_tif(tmp_path / "t1" / "a.tif", columns[None] + 0.5, transform=utm, crs="EPSG:32632")
    from rasterio.warp import calculate_default_transform, transform

    place, width, height = calculate_default_transform(
        "EPSG:32632", "EPSG:4326", 64, 64, *rasterio.transform.array_bounds(64, 64, utm)
    )
    rows, columns = np.mgrid[:height, :width] + 0.5
    longitude, latitude = place @ (columns.ravel(), rows.ravel())
    x, _ = transform("EPSG:4326", "EPSG:32632", longitude, latitude)
    values = ((np.array(x) - 500000) / 10).reshape(1, height, width).astype(np.float32)
    write_tif(tmp_path / "t2" / "a.tif", values, transform=place, crs="EPSG:4326")
    write_tif(tmp_path / "change" / "a.tif", np.zeros((1, 64, 64), np.uint8), transform=utm)
    source = change_folders(tmp_path, align=True, val_fraction=0).splits(Scan())["train"].source
    with source.open(0, "before") as before, source.open(0, "after") as after:
        error = (after.read().values - before.read().values)[:, 2:-2, 2:-2]
    assert np.abs(error).max() < 0.2  # GDAL approximates the transform by an eighth of a pixel


def test_change_folders_with_other_names_and_jpeg_masks(tmp_path, write_png):
    for number in range(3):
        rng = np.random.default_rng(number)
        for name in ("t1", "t2"):
            values = rng.integers(0, 256, (3, 32, 32)).astype(np.uint8)
            write_png(tmp_path / name / f"{number}_{name}.png", values)
        label = np.zeros((32, 32), np.uint8)
        label[8:24, 8:24] = 255
        write_png(tmp_path / "change" / f"{number}.jpg", label, quality=50)
    reader = change_folders(
        tmp_path,
        stem_map={"before": ("_t1$", ""), "after": ("_t2$", "")},
        threshold=127,
        val_fraction=0.3,
        val={name: str(tmp_path / name) for name in ("before", "after", "label")},
    )
    with pytest.raises(DataError, match="before, for the before images, is not a folder"):
        reader.splits(Scan())
    reader._folders.pop("val")
    splits = reader.splits(Scan(on_error="raise"))
    assert {name: len(keys(split)) for name, split in splits.items()} == {"train": 2, "val": 1}
    numbers = mask(splits["train"].source, "1")
    assert numbers.sum() == 256
    check_batch(reader)
    with pytest.raises(ValueError, match="val must have before, after, label"):
        change_folders(tmp_path, val={"before": "x"})


# Real images --------------------------------------------------------------------------------------


def test_real_potsdam_patch(shared):
    root = shared("seg_potsdam")
    splits = Potsdam(str(root)).splits(Scan(on_error="raise"))
    assert by_split(splits) == {"train": ["2_10_0_0_512_512"]}
    values = png(root / "ann_dir" / "2_10_0_0_512_512.png").astype(int)
    numbers = mask(splits["train"].source, "2_10_0_0_512_512")
    np.testing.assert_array_equal(numbers, (values - 1) % 256)
    with splits["train"].source.open(0, "optical") as image:
        red, _, blue = image.read().values.astype(int)
    # The buildings of this crop have red roofs.
    building = numbers == 1
    assert (red - blue)[building].mean() > (red - blue)[~building].mean() + 20


def test_real_isaid(shared):
    root = shared("isaid")
    splits = ISAID(str(root)).splits(Scan(on_error="raise"))
    assert by_split(splits) == {"train": ["P0005"], "val": ["P0003", "P0004"]}
    for name, split in splits.items():
        for key in keys(split):
            numbers = mask(split.source, key)
            values = png(root / name / "images" / f"{key}_instance_color_RGB.png")
            np.testing.assert_array_equal(numbers, numbered(values, miniature.ISAID.values()))
            assert IGNORE_INDEX not in numbers
            assert {8, 9} <= set(np.unique(numbers))  # vehicles
    check_batch_of_one(ISAID(str(root)), "train")


def check_batch_of_one(reader, name, **options):
    data = DataModule(
        reader,
        crop=Crop(size=64, window=128),
        loader=LoaderOptions(batch_size=1, num_workers=0),
        on_error="raise",
        **options,
    )
    data.setup()
    batch = next(iter(data.loader(name)))
    assert batch["mask"].shape == (1, 64, 64)
    return batch


def test_real_loveda(shared):
    root = shared("seg_loveda")
    names = ("background", "building", "road", "water", "barren", "forest", "agriculture")
    codes = MaskCodes(values={name: i for i, name in enumerate(names, 1)}, ignored=[0])
    reader = MaskFolders({"optical": str(root / "img_dir")}, str(root / "ann_dir"), codes)
    splits = reader.splits(Scan(on_error="raise"))
    assert sorted([*keys(splits["train"]), *keys(splits["val"])]) == ["0", "1", "2"]
    source = splits["train"].source
    for key in "012":
        values = png(root / "ann_dir" / f"{key}.png").astype(int)
        np.testing.assert_array_equal(mask(source, key), (values - 1) % 256)
    check_batch_of_one(reader, "val")


DUBAI = {
    "building": [60, 16, 152],
    "land": [132, 41, 246],
    "road": [110, 193, 228],
    "vegetation": [254, 221, 58],
    "water": [226, 169, 41],
}


def test_real_dubai(shared, caplog):
    root = shared("seg_dubai")
    reader = MaskFolders(
        {"optical": str(root / "Tile *" / "images")},
        str(root / "Tile *" / "masks"),
        MaskCodes(colors=DUBAI, ignored_colors=[[155, 155, 155]]),
        val_groups=["Tile 5"],
        group="^[^/]+",
    )
    splits = reader.splits(Scan(on_error="raise"))
    assert {name: len(keys(split)) for name, split in splits.items()} == {"train": 18, "val": 9}
    assert {key.split("/")[0] for key in keys(splits["val"])} == {"Tile 5"}
    source = splits["val"].source
    numbers = mask(source, "Tile 5/image_part_003")
    counts = np.bincount(numbers.ravel(), minlength=256)
    assert counts[[1, 2, 3, 4, 255]].tolist() == [461927, 23124, 525, 701787, 3945]
    check_batch_of_one(reader, "val")
    assert "colors of no class" not in caplog.text


def test_real_levir_cd(shared):
    root = shared("levir_cd")
    splits = LevirCD(str(root)).splits(Scan(on_error="raise"))
    assert by_split(splits) == {"test": ["test_1", "test_2", "test_3"]}
    numbers = mask(splits["test"].source, "test_1")
    assert np.bincount(numbers.ravel()).tolist() == [1035387, 13189]
    batch = check_batch_of_one(LevirCD(str(root)), "test")
    assert batch["images"].keys() == {"before", "after"}


def test_real_optical_and_radar_floods(shared):
    root = shared("optsar_ombria")
    folders = {
        split: {
            name: str(root / sensor / split / "AFTER")
            for name, sensor in (("optical", "OmbriaS2"), ("sar", "OmbriaS1"))
        }
        for split in ("train", "test")
    }
    reader = MaskFolders(
        folders["train"],
        {"water": str(root / "OmbriaS1" / "train" / "MASK")},
        MaskCodes(binary=["water"], background="land"),
        test_images=folders["test"],
        test_masks={"water": str(root / "OmbriaS1" / "test" / "MASK")},
        stem_map=dict.fromkeys(("optical", "sar", "mask"), (r".*_(\d+)$", r"\1")),
    )
    with pytest.raises(ValueError, match="must name a folder for each of water"):
        MaskFolders(folders["train"], "masks", MaskCodes(binary=["water"]))
    splits = reader.splits(Scan(on_error="raise"))
    assert {name: len(keys(split)) for name, split in splits.items()} == {
        "train": 42, "val": 10, "test": 14
    }  # fmt: skip
    source = splits["test"].source
    assert np.bincount(mask(source, "0019").ravel()).tolist() == [62013, 3523]
    with source.open(0, "sar") as sar:
        np.testing.assert_array_equal(
            sar.read().values[0], png(root / "OmbriaS1" / "test" / "AFTER" / "S1_after_0019.png")
        )


def test_real_aid(shared):
    root = shared("cls_aid150")
    with pytest.raises(DataError, match="too few images for a t"):
        AID(str(root)).splits(Scan())
    names = {path.name for path in root.iterdir() if path.is_dir()}
    assert names == set(AID.names) == set(miniature.AID)
