# SPDX-License-Identifier: Apache-2.0
"""What a map may replace, and what lies beside it."""

import os
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("PIL")
pytest.importorskip("rasterio")

import rasterio
from data.images import source, vrt
from rasterio.transform import Affine

from rsvheat.raster.scene import Georeference
from rsvheat.raster.writing import Layer, _size, check_output, check_separate, writing

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def write_map(path, value=1, **options):
    layer = Layer(path, "uint8", 255, "class", "mode", **options)
    with writing(layer, 4, 6, Georeference(), overwrite=True) as rows:
        rows.write(0, np.full((4, 6), value, np.uint8))
    return path


def test_outputs_do_not_replace_what_a_scene_is_made_of(tmp_path, write_scene):
    values = np.ones((1, 8, 8), np.uint8)
    tif = write_scene(values, "scene.tif", **UTM)
    virtual = vrt(tmp_path / "scene.vrt", 8, 8, f"Byte {source(tif)}")
    nested = vrt(tmp_path / "nested.vrt", 8, 8, f"Byte {source(virtual)}")
    (tmp_path / "k").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    for output in (tif, tmp_path / "k" / ".." / "scene.tif", tmp_path / "linked" / "scene.tif"):
        with pytest.raises(ValueError, match=r"scene\.tif is the scene itself"):
            check_separate({"output": output}, [tif])
        for name in (virtual, nested, f"GTIFF_DIR:1:{tif}", f"/vsisubfile/0_999,{tif}"):
            with pytest.raises(
                ValueError, match=r"scene\.tif is a part of the scene .*scene\.|nest"
            ):
                check_separate({"output": output}, ["nothing.tif", name])
    other = write_scene(values, "other.tif", **UTM)
    check_separate({"output": other, "probability": tmp_path / "new.tif"}, [nested])
    check_separate({"output": tmp_path / "map.tif"}, [tmp_path / "nothing.tif"])
    assert read(tif) == 1


def test_outputs_are_different_files(tmp_path, monkeypatch):
    (tmp_path / "k").mkdir()
    monkeypatch.chdir(tmp_path)
    for first, second in (("k/m.tif", "k/../k/m.tif"), ("m.tif", f"{tmp_path}/k/../m.tif")):
        outputs = {"output": tmp_path / first, "probability": tmp_path / second}
        with pytest.raises(ValueError, match=r"output and probability are the same file, .*m\.tif"):
            check_separate(outputs, [])
    check_separate({"output": tmp_path / "k" / "m.tif", "probability": tmp_path / "m.tif"}, [])


def read(path):
    with rasterio.open(path) as file:
        return int(file.read(1)[0, 0])


@pytest.mark.parametrize("target", ["scene.tif", "nothing.tif"])
def test_symbolic_links_are_refused(tmp_path, write_scene, target):
    scene = write_scene(np.full((1, 4, 6), 7, np.uint8), "scene.tif", **UTM)
    link = tmp_path / "map.tif"
    link.symlink_to(tmp_path / target)
    message = rf"map\.tif is a symbolic link: name the file itself, {tmp_path}/{target}"
    for check in (
        lambda: check_output(link, True),
        lambda: check_output(link, False),
        lambda: check_separate({"output": link}, []),
        lambda: write_map(link),
    ):
        with pytest.raises(ValueError, match=message):
            check()
    assert link.is_symlink()
    assert read(scene) == 7


def test_what_lies_beside_an_older_map_is_not_about_the_new_one(tmp_path):
    """Names of classes that a map of probabilities has not, statistics, overviews, a mask."""
    path = write_map(tmp_path / "map.tif", names=["a", "b"])
    assert (tmp_path / "map.tif.aux.xml").exists()
    for suffix in (".msk", ".ovr"):
        shutil.copy(path, f"{path}{suffix}")
    (tmp_path / "map.tif.qml").touch()  # a style is the user's
    write_map(path, 2)
    assert sorted(os.listdir(tmp_path)) == ["map.tif", "map.tif.qml"]
    assert read(path) == 2
    write_map(path, names=["c", "d"])
    with rasterio.open(path) as file:
        assert file.files == [str(path), f"{path}.aux.xml"]


def test_names_of_any_characters_are_valid_xml(tmp_path):
    names = [
        "a\x00b",
        "tab\tnew\nline",
        "\x1b[31mred",
        "<&>\"'",
        "é日𝄞",
        "\udce9",
        "\ufffe",
    ]
    path = write_map(tmp_path / "map.tif", names=names, tags={"RSVHEAT_SOURCE": "\udce9\x01.tif"})
    found = [
        name.text
        for name in ElementTree.parse(f"{path}.aux.xml").findall(
            "PAMRasterBand/CategoryNames/Category"
        )
    ]
    mark = "\ufffd"
    assert found == [f"a{mark}b", "tab\tnew\nline", f"{mark}[31mred", *names[3:5], mark, mark]
    with rasterio.open(path) as file:
        assert file.tags()["RSVHEAT_SOURCE"] == f"{mark}{mark}.tif"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (48, "48 bytes"), (1024, "1.0 KiB"), (3 * 2**19, "1.5 MiB"),
     (2**30 - 1, "1024.0 MiB"), (5 * 2**32, "20.0 GiB")],
)  # fmt: skip
def test_sizes_have_a_unit_in_which_they_are_not_zero(number, text):
    assert _size(number) == text
