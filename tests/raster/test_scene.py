# SPDX-License-Identifier: Apache-2.0
"""Scenes hold the pixels that training reads, and know the files that they are made of."""

import os
import shutil
import zipfile

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("PIL")
pytest.importorskip("rasterio")

import PIL.Image
import rasterio
import rasterio.shutil
from data.images import png, source, vrt
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from rsvheat.data import DataError, Window, read_image
from rsvheat.raster.scene import Scene, source_files

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
RNG = np.random.default_rng(0)


def scenes(folder, write_scene):
    """Write scenes of 40 x 60 pixels whose upper half has no data."""
    values = RNG.integers(1, 255, (3, 40, 60)).astype(np.uint8)
    values[:, :20] = 0
    alpha = np.where(np.arange(40)[:, None] < 20, 0, 255).astype(np.uint8).repeat(60, 1)
    yield write_scene(values, "alpha.tif", alpha=alpha, photometric="rgb", **UTM)
    four = np.concatenate([values, values[:1]])
    path = write_scene(four, "five.tif", alpha=alpha, photometric="minisblack", **UTM)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.undefined, ColorInterp.alpha]
    yield path
    yield write_scene(values, "nodata.tif", alpha=alpha, photometric="rgb", nodata=0, **UTM)
    (folder / "trns.png").write_bytes(png(values, trns=bytes(6)))
    yield folder / "trns.png"
    PIL.Image.fromarray(np.moveaxis(values, 0, 2)).save(folder / "masked.jpg", quality=95)
    path = write_scene(values, "mask.tif", **UTM)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(alpha > 0)
    shutil.copy(folder / "mask.tif.msk", folder / "masked.jpg.msk")
    yield path
    yield folder / "masked.jpg"
    rasterio.shutil.copy(path, folder / "virtual.vrt", driver="VRT")
    yield folder / "virtual.vrt"
    (folder / "in").mkdir()
    with zipfile.ZipFile(folder / "in" / "archive.zip", "w") as archive:
        archive.write(folder / "nodata.tif", "nodata.tif")
        archive.write(folder / "trns.png", "trns.png")
    yield f"/vsizip/{folder}/in/archive.zip/nodata.tif"
    yield f"/vsizip/{folder}/in/archive.zip/trns.png"


def test_scenes_hold_what_training_reads(tmp_path, write_scene):
    window = Window(10, 5, 20, 50)
    for path in scenes(tmp_path, write_scene):
        with Scene(path, 3, [1, 2, 3]) as scene:
            found = scene.read(window)
        expected = read_image(path, window, [1, 2, 3])
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.valid, expected.valid)
        assert not found.valid[:, :10].any(), path
        assert found.valid[:, 10:].all(), path


@pytest.mark.parametrize(("name", "bands"), [
    ("alpha5.tif", [1, 2, 3]), ("alpha_nd.tif", None), ("nd0_png.png", None), ("jm.jpg", None),
    ("nd0.tif", None), ("pal.tif", None), ("pages.tif", None), ("mix.vrt", [1, 2, 3]),
])  # fmt: skip
def test_found_files_are_scenes(name, bands, shared_data):
    path = shared_data.parent / "faults" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with Scene(path, 3, bands) as scene:
        found = scene.read(Window(100, 100, 100, 100))
    assert found.values.shape == (3, 100, 100)
    assert (found.valid is None) == (name in ("pal.tif", "pages.tif", "mix.vrt"))


@pytest.mark.parametrize(("name", "message"), [
    ("three.nc", r"three.nc holds 3 data sets; choose one by its name: netcdf:.*:red"),
    ("cint16.tif", r"cint16.tif has complex values \(complex_int16\).* DERIVED_SUBDATASET:AMPL"),
])  # fmt: skip
def test_found_files_that_are_no_scenes_are_told(name, message, shared_data):
    path = shared_data.parent / "faults" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with pytest.raises(DataError, match=message):
        Scene(path, 1)
    other = f"netcdf:{path}:red" if name == "three.nc" else f"DERIVED_SUBDATASET:AMPLITUDE:{path}"
    with Scene(other, 1) as scene:
        assert scene.read(Window(0, 0, 9, 9)).values.shape == (1, 9, 9)


def test_a_scene_is_made_of_all_files_behind_it(tmp_path, write_scene):
    tif = write_scene(np.ones((1, 8, 8), np.uint8), "a.tif", **UTM)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tif, "r+") as file:
        file.write_mask(np.eye(8) > 0)
    assert source_files(tif) == {tif, tmp_path / "a.tif.msk"}
    other = write_scene(np.ones((1, 8, 8), np.uint8), "b.tif", **UTM)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(other, "c.tif")
    shutil.copy(other, tmp_path / "pages.tif")
    inner = vrt(tmp_path / "inner.vrt", 8, 8, f"Byte {source(tif)}", f"Byte {source(other)}")
    names = (inner, f"/vsizip/{tmp_path}/c.zip/c.tif", f"GTIFF_DIR:1:{tmp_path}/pages.tif")
    middle = vrt(tmp_path / "middle.vrt", 8, 8, *(f"Byte {source(name)}" for name in names))
    outer = vrt(tmp_path / "outer.vrt", 8, 8, f"Byte {source(middle)}")
    files = ("outer.vrt", "middle.vrt", "inner.vrt", "a.tif", "b.tif", "c.zip", "pages.tif")
    assert source_files(outer) == {tmp_path / name for name in files}
    relative = inner.read_text().replace("<SourceFilename>", '<SourceFilename relativeToVRT="1">')
    inner.write_text(relative.replace(f"{tmp_path}/", ""))
    assert source_files(outer) == {tmp_path / name for name in files}
    for name in (
        f"/vsizip/{{{tmp_path}/c.zip}}/c.tif",
        f"/vsisubfile/0_{os.path.getsize(other)},{other}",
        f"DERIVED_SUBDATASET:AMPLITUDE:{other}",
    ):
        (path,) = source_files(name)
        assert path.name == ("c.zip" if "zip" in name else "b.tif")
    other.unlink()
    assert source_files(inner) == {tif, inner}  # reading tells what is missing
    assert source_files(tmp_path / "nothing.tif") == set()


def test_a_circle_of_virtual_rasters_ends(tmp_path):
    for name, other in (("a.vrt", "b.vrt"), ("b.vrt", "a.vrt")):
        vrt(tmp_path / name, 8, 8, f"Byte {source(tmp_path / other)}")
    assert source_files(tmp_path / "a.vrt") == {tmp_path / "a.vrt", tmp_path / "b.vrt"}
    with pytest.raises(DataError, match=r"a\.vrt"), Scene(tmp_path / "a.vrt", 1) as scene:
        scene.read(Window(0, 0, 8, 8))
