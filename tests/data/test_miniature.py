# SPDX-License-Identifier: Apache-2.0
"""The miniature trees have the layouts, codes and traps that they are said to have."""

import numpy as np
import PIL.Image
import pytest

from rsvheat.data import miniature
from rsvheat.data.miniature import (
    AID,
    AIR_POLSAR_SEG,
    ISAID,
    LOVEDA,
    POTSDAM,
    RESISC45,
    WHU_OPT_SAR,
)

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def tiff(path):
    with rasterio.open(path) as file:
        return file.read()


def png(path):
    return np.asarray(PIL.Image.open(path))


def colors(values):
    """Return the set of colors of an image (H, W, 3) or (3, H, W)."""
    if values.shape[0] == 3:
        values = np.moveaxis(values, 0, 2)
    return {tuple(color) for color in np.unique(values.reshape(-1, 3), axis=0).tolist()}


WRITERS = {
    "potsdam": miniature.write_potsdam,
    "isaid": miniature.write_isaid,
    "air_polsar_seg": miniature.write_air_polsar_seg,
    "whu_opt_sar": miniature.write_whu_opt_sar,
    "loveda": miniature.write_loveda,
    "levir_cd": miniature.write_levir_cd,
    "aid": miniature.write_aid,
    "resisc45": miniature.write_resisc45,
}


@pytest.mark.parametrize("name", WRITERS)
def test_trees_are_small_reproducible_and_differ_by_seed(name, tmp_path):
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        tree = WRITERS[name](tmp_path / folder, seed=seed)
        files = sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
        contents.append(
            {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in files}
        )
        assert all(path.exists() for path in tree.traps.values())
        assert tree.root.is_relative_to(tmp_path / folder)
    assert contents[0] == contents[1]
    assert contents[0].keys() == contents[2].keys()
    assert contents[0] != contents[2]
    assert sum(map(len, contents[0].values())) < 2e6


@pytest.mark.parametrize("in_root", [True, False])
def test_potsdam(tmp_path, in_root):
    tree = miniature.write_potsdam(tmp_path, labels_in_root=in_root)
    assert tree.labeled == {"train": ("2_10", "4_12", "6_7", "7_10"), "test": ("2_13", "6_13")}
    table = set(POTSDAM.values())
    seen = set()
    for tile in (name for names in tree.labeled.values() for name in names):
        name = f"top_potsdam_{tile}"
        image = tmp_path / "4_Ortho_RGBIR" / f"{name}_RGBIR.tif"
        with rasterio.open(image) as file:
            assert file.crs.to_epsg() == 32633
            assert file.res == (0.05, 0.05)
            place = file.transform
            four = file.read()
        assert four.shape == (4, 64, 64)
        assert np.array_equal(tiff(tmp_path / "2_Ortho_RGB" / f"{name}_RGB.tif"), four[:3])
        label = tmp_path / ("" if in_root else "5_Labels_all") / f"{name}_label.tif"
        with rasterio.open(label) as file:
            assert file.transform == place
        found = colors(tiff(label))
        seen |= found
        assert (found <= table) == (tile not in ("4_12", "6_7"))
        bare = colors(tiff(tmp_path / "5_Labels_all_noBoundary" / f"{name}_label_noBoundary.tif"))
        assert (0, 0, 0) in bare
        assert bare <= table | {(0, 0, 0)}
    assert table <= seen
    assert len(seen - table) == 2
    assert {"off_palette_4_12", "off_palette_6_7", "boundary", "wrong_labels"} == set(tree.traps)


@pytest.mark.parametrize("layout", ["devkit", "semantic_masks"])
def test_isaid(tmp_path, layout):
    tree = miniature.write_isaid(tmp_path, layout=layout)
    assert tree.labeled == {"train": ("P0000", "P0001", "P0005"), "val": ("P0003", "P0004")}
    assert tree.unlabeled == {"train": ("P0002",), "test": ("P0006",)}
    sizes, seen = set(), set()
    for split in ("train", "val", "test"):
        images = tmp_path / split / "images"
        masks = images if layout == "devkit" else tmp_path / split / "Semantic_masks"
        for key in (*tree.labeled.get(split, ()), *tree.unlabeled.get(split, ())):
            image = png(images / f"{key}.png")
            sizes.add(image.shape)
            mask = masks / f"{key}_instance_color_RGB.png"
            assert mask.exists() == (key in tree.labeled.get(split, ()))
            if mask.exists():
                values = png(mask)
                assert values.shape == image.shape
                seen |= colors(values)
                assert png(masks / f"{key}_instance_id_RGB.png").shape == image.shape
    assert len(sizes) == 7
    assert seen <= set(ISAID.values())
    assert ISAID["harbor"] in seen
    assert len(seen) > 6
    empty = tree.traps["no_objects"].name.replace(".png", "_instance_color_RGB.png")
    masks = "images" if layout == "devkit" else "Semantic_masks"
    assert not png(tmp_path / "train" / masks / empty).any()


def test_isaid_tiles(tmp_path):
    tree = miniature.write_isaid(tmp_path, layout="tiles")
    padded = set()
    for split, keys in tree.labeled.items():
        for key in keys:
            image = png(tmp_path / split / "images" / f"{key}.png")
            mask = png(tmp_path / split / "images" / f"{key}_instance_color_RGB.png")
            assert image.shape == (64, 64, 3)
            assert mask.shape == (64, 64)
            labels = set(np.unique(mask).tolist())
            assert labels <= {*range(16), 255}
            assert not image[mask == 255].any()
            padded.add(255 in labels)
    assert padded == {True, False}
    assert 255 in png(tree.traps["padding"])
    assert "P0000_0_64_64_128" in tree.labeled["train"]
    assert all(key.startswith("P0002") for key in tree.unlabeled["train"])


def test_air_polsar_seg(tmp_path):
    tree = miniature.write_air_polsar_seg(tmp_path)
    assert tree.root.name == "Raw_AIR-PolarSAR-Seg"
    table, black = set(AIR_POLSAR_SEG.values()), {(0, 0, 0)}
    seen = set()
    for split, keys in tree.labeled.items():
        for key in keys:
            where = tree.root / f"{split}_set"
            bands = [tiff(where / f"{key}_{name}.tiff") for name in ("HH", "HV", "VH", "VV")]
            assert {band.shape for band in bands} == {(1, 64, 64)}
            assert {band.dtype.name for band in bands} == {"uint16"}
            found = colors(png(where / f"{key}_gt.png"))
            assert black <= found <= table | black
            seen |= found
    assert seen == table | black
    names = [path.name for path in (tree.root / "test_set").iterdir()]
    assert sum("-rot" in name for name in names) == 5
    original = tree.root / "train_set" / "AIR-PolarSAR-Seg-5_HV.tiff"
    turned = tree.root / "test_set" / "AIR-PolarSAR-Seg-rot90-5_HV.tiff"
    assert np.array_equal(np.rot90(tiff(original), axes=(1, 2)), tiff(turned))


def test_whu_opt_sar(tmp_path):
    tree = miniature.write_whu_opt_sar(tmp_path)
    assert [len(keys) for keys in tree.labeled.values()] == [4, 2]
    codes = set()
    for key in (name for names in tree.labeled.values() for name in names):
        optical, sar, labels = (
            tiff(tmp_path / kind / f"{key}.tif") for kind in ("optical", "sar", "lbl")
        )
        width = 86 if key == "NH49E002014" else 87
        assert optical.shape == (4, 58, width)
        assert sar.shape == labels.shape == (1, 58, 87)
        found = set(np.unique(labels).tolist())
        assert (255 in found) == (key == "NH49E002014")
        codes |= found
    assert codes == {*WHU_OPT_SAR.values(), 255}
    assert tree.traps["narrow"] == tmp_path / "optical" / "NH49E002014.tif"


def test_whu_opt_sar_tiles_leak(tmp_path):
    tree = miniature.write_whu_opt_sar(tmp_path, tiles=True)
    scenes = {
        split: {key.rsplit("_", 1)[0] for key in keys} for split, keys in tree.labeled.items()
    }
    assert len(scenes["train"] & scenes["test"]) == 6
    for split, keys in tree.labeled.items():
        for key in keys:
            shapes = [tiff(tmp_path / split / kind / f"{key}.tif").shape for kind in ("opt", "sar")]
            assert shapes == [(4, 29, 29), (1, 29, 29)]
            assert tiff(tmp_path / split / "lbl" / f"{key}.tif").shape == (1, 29, 29)


def test_loveda(tmp_path):
    tree = miniature.write_loveda(tmp_path)
    codes = set()
    for split in ("Train", "Val", "Test"):
        keys = tree.labeled.get(split.lower(), tree.unlabeled.get(split.lower()))
        assert {key.split("/")[0] for key in keys} == {"Rural", "Urban"}
        for key in keys:
            domain, number = key.split("/")
            where = tmp_path / split / domain
            assert png(where / "images_png" / f"{number}.png").shape == (64, 64, 3)
            mask = where / "masks_png" / f"{number}.png"
            assert mask.exists() == (split != "Test")
            if mask.exists():
                codes |= set(np.unique(png(mask)).tolist())
    assert codes == {0, *LOVEDA.values()}
    assert 0 in png(tree.traps["no_data"])


def test_levir_cd(tmp_path):
    tree = miniature.write_levir_cd(tmp_path)
    assert {split: len(keys) for split, keys in tree.labeled.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    assert tree.labeled["val"] == ("val_1", "val_2")
    for split, keys in tree.labeled.items():
        for key in keys:
            before, after, label = (
                png(tmp_path / split / kind / f"{key}.png") for kind in ("A", "B", "label")
            )
            assert before.shape == after.shape == (64, 64, 3)
            assert label.shape == (64, 64)
            changed = label == 255
            assert set(np.unique(label).tolist()) <= {0, 255}
            assert changed.any() == (key != "train_2")
            # The light differs everywhere, and what was built differs more.
            same = before * 0.85 // 1 + 10
            assert np.array_equal(after[~changed], same[~changed])
            if changed.any():
                assert np.abs(after[changed] - same[changed]).mean() > 10
    assert not png(tree.traps["no_change"]).any()


def test_levir_cd_tiles(tmp_path):
    tree = miniature.write_levir_cd(tmp_path, tiles=True)
    for split, keys in tree.labeled.items():
        lines = (tmp_path / "list" / f"{split}.txt").read_text().splitlines()
        assert lines == [f"{key}.png" for key in keys]
        for key in keys:
            for kind in ("A", "B", "label"):
                assert png(tmp_path / kind / f"{key}.png").shape[:2] == (32, 32)
    assert "test_2_0000_0032" in tree.labeled["test"]


def test_scene_classes(tmp_path):
    assert (len(AID), len(RESISC45)) == (30, 45)
    assert list(AID) == sorted(AID)
    assert list(RESISC45) == sorted(RESISC45)
    tree = miniature.write_aid(tmp_path, per_class=2)
    assert sorted(path.name for path in tree.root.iterdir()) == list(AID)
    assert tree.labeled["all"][2] == "BareLand/bareland_1.jpg"
    tree = miniature.write_aid(tmp_path / "other", per_class=1, other_spelling=True)
    assert (tree.root / "Bareland" / "bareland_1.jpg").exists()
    tree = miniature.write_resisc45(tmp_path, per_class=2)
    assert sorted(path.name for path in tree.root.iterdir()) == list(RESISC45)
    for key in tree.labeled["all"]:
        assert png(tree.root / key).shape == (64, 64, 3)
    assert "sea_ice/sea_ice_002.jpg" in tree.labeled["all"]
