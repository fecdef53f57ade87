# SPDX-License-Identifier: Apache-2.0
"""Maps read back and shown, and maps of real rasters."""

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("PIL")
import rasterio
import torch
from raster.quilts import CLASSES, SIDE, quilt
from rasterio.transform import Affine

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError, Pixels, open_image
from rsvheat.raster import draw_map, predict, read_map

LABELS = np.random.default_rng(5).integers(0, 3, (3, 4))
UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}


@pytest.fixture
def drawn():
    pytest.importorskip("matplotlib")

    def pixels(figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    return pixels


def test_a_map_is_read_as_it_was_written(write_scene, checkpoint, tmp_path):
    scene = write_scene(quilt(LABELS), **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint, colors={"Roof": "#ff0000"})
    found = read_map(tmp_path / "map.tif")
    assert np.array_equal(found.labels, LABELS)
    assert (found.classes, found.nodata, found.stride) == (CLASSES, 255, SIDE)
    assert found.bands == (1, 2, 3)
    assert found.colors.shape == (3, 3)
    assert found.colors[2].tolist() == [255, 0, 0]
    assert found.georeference.transform == Affine(320, 0, 500000, 0, -320, 5000000)
    # The names are in the map itself.
    (tmp_path / "map.tif.aux.xml").unlink()
    assert read_map(tmp_path / "map.tif").classes == CLASSES


def test_what_is_no_map_is_told(write_scene, checkpoint, tmp_path):
    scene = write_scene(quilt(LABELS), **UTM)
    with pytest.raises(DataError, match=r"scene\.tif is no map of classes"):
        read_map(scene)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.tif"):
        read_map(tmp_path / "none.tif")
    path = predict(scene, tmp_path / "map.tif", checkpoint, stride=4).path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"map\.tif is damaged or no map"):
        read_map(path)


def test_the_map_is_drawn_over_the_scene_in_its_colors(write_scene, checkpoint, tmp_path, drawn):
    values = quilt(LABELS)
    values[:, :SIDE, :SIDE] = 0
    scene = write_scene(values, nodata=0, **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint)
    figure = draw_map(tmp_path / "map.tif", scene, opacity=1.0)
    left, right = figure.axes
    assert left.images[0].get_array().shape == (3 * SIDE, 4 * SIDE, 3)
    assert (left.images[0].get_array()[:SIDE, :SIDE] == 255).all()
    overlay = right.images[1].get_array()
    found = read_map(tmp_path / "map.tif")
    assert (overlay[0, 0] == 0).all()
    assert np.array_equal(overlay[1:, :, :3], found.colors[LABELS[1:]])
    shown = {text.get_text().split("  ")[0] for text in figure.legends[0].get_texts()}
    assert shown == {CLASSES[i] for i in np.unique(found.labels) if i != 255}
    picture = drawn(figure)
    for color in found.colors[np.unique(LABELS)]:
        assert (picture == color).all(-1).mean() > 0.01


def test_a_scene_of_one_band_and_sixteen_bits_is_drawn(write_scene, checkpoint, tmp_path, drawn):
    scene = write_scene(quilt(LABELS)[:1].astype(np.uint16) * 100, **UTM)
    predict(scene, tmp_path / "map.tif", checkpoint, bands=[1, 1, 1])
    image = draw_map(tmp_path / "map.tif", scene, max_side=64).axes[0].images[0].get_array()
    assert image.shape == (48, 64, 3)
    assert (image.min(), image.max()) == (0, 255)


def test_a_map_of_another_scene_is_told(write_scene, checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    predict(write_scene(quilt(LABELS), **UTM), tmp_path / "map.tif", checkpoint)
    other = write_scene(quilt(LABELS.T), "other.tif", **UTM)
    with pytest.raises(DataError, match=r"3 x 4 pixels of 32; it is no map of .*other\.tif"):
        draw_map(tmp_path / "map.tif", other)


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("rasterio/RGB.byte.tif", None),
        ("rasterio/cogeo.tif", None),
        ("rasterio/goes.tif", None),
        ("rasterio/shade.tif", [1, 1, 1]),
        ("naip/m_4709963_se_14_1_20090818.tif", [4, 1, 2]),
    ],
)
def test_real_rasters(shared_data, name, bands, checkpoint, tmp_path):
    """Where they lie, what is missing, and their windows' classes as the data layer reads them."""
    path = shared_data / "geotiff" / name
    result = predict(path, tmp_path / "map.tif", checkpoint, bands=bands, stride=48)
    found = read_map(result.path)
    with rasterio.open(path) as scene, rasterio.open(result.path) as file:
        assert file.crs == scene.crs
        assert file.transform == scene.transform @ Affine.scale(48)
        assert file.shape == tuple(-(-side // 48) for side in scene.shape)
        filled = scene.dataset_mask() > 0
    # Shares of the scene's area, which is 0.1 % to 60 % empty here.
    assert (found.labels != 255).mean() == pytest.approx(filled.mean(), abs=0.12)
    model = TrainedModel.load(checkpoint, device="cpu")
    with open_image(path) as reader, torch.inference_mode():
        image = reader.read(None, bands)
        for (row, column), label in np.ndenumerate(found.labels[1:-1, 1:-1]):
            if label == 255 or (row + column) % 7:
                continue
            part = np.s_[:, 48 * row + 56 : 48 * row + 88, 48 * column + 56 : 48 * column + 88]
            valid = None if image.valid is None else image.valid[part]
            x = model.normalizers["optical"](Pixels(image.values[part], valid))
            assert label == model.network.predict({"optical": x[None]}).argmax()
