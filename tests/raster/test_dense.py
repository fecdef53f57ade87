# SPDX-License-Identifier: Apache-2.0
"""Classes of pixels, and change."""

import json
import sys
from contextlib import closing

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
import rasterio
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter
from stand_ins import Boxes, Differences, Pixels, trained

import rsvheat
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError, Normalizer, read_image
from rsvheat.data.spec import DataSpec
from rsvheat.models.classification import Classifier
from rsvheat.raster import draw_map, predict, read_map
from rsvheat.raster.dense import DensePredictor
from rsvheat.raster.predictor import Options, open_scenes

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
CLASSES = ("field", "water", "road")
# The stand-in sees 3 pixels around each: nearer to the border, one pass sees zeros and not mirrored
# pixels.
CONTEXT = 3


def texture(height, width, bands=3, seed=0):
    noise = np.random.default_rng(seed).normal(size=(bands, height, width))
    return (gaussian_filter(noise, (0, 3, 3)) * 400 + 100).clip(1, 255).astype(np.uint8)


@pytest.fixture
def model():
    model = trained(Pixels, classes=CLASSES)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(3)  # so that classes change often, and probabilities are far from even
    return model


def maps(path):
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [
        ((150, 210), 48, 16),
        ((97, 65), 40, 20),
        ((64, 64), 64, 16),
        ((150, 33), 32, 31),
        ((20, 300), 64, 24),
        ((9, 7), 32, 16),
    ],
)
@pytest.mark.parametrize("memory", [1.0, 1e-6])
def test_blended_windows_are_one_pass(model, write_scene, size, window, overlap, memory):
    """Of a network that is covariant under translation, away from the scene's border."""
    values = texture(*size)
    scene = write_scene(values, **UTM)
    expected = model.predict(values)
    options = Options(window=window, overlap=overlap, batch_size=3, memory=memory)
    labels, probabilities = np.full(size, 99, np.uint8), np.zeros(size, np.float32)
    windows = 0
    with open_scenes(scene, {"optical": 3}) as scenes:
        predictor = DensePredictor(model, scenes, options)
        with closing(predictor.parts()) as parts:
            for number, part in parts:
                height, width = part.labels.shape
                there = np.s_[part.first : part.first + height, part.left : part.left + width]
                assert (labels[there] == 99).all()
                labels[there], probabilities[there] = part.labels, part.probabilities
                windows += number
    assert windows == predictor.windows
    assert (labels != 99).all()
    inner = np.s_[CONTEXT : size[0] - CONTEXT, CONTEXT : size[1] - CONTEXT]
    best = expected.probabilities.max(0)
    np.testing.assert_allclose(probabilities[inner], best[inner], atol=1e-4)
    second = np.sort(expected.probabilities, 0)[1]
    sure = best - second > 1e-3
    assert np.array_equal(labels[inner][sure[inner]], expected.labels[inner][sure[inner]])


def test_without_overlap_seams_are_visible(model, write_scene):
    """What blending is for: the same comparison fails without it."""
    values = texture(96, 96)
    expected = model.predict(values).probabilities.max(0)
    with open_scenes(write_scene(values, **UTM), {"optical": 3}) as scenes:
        options = Options(window=32, overlap=0)
        parts = list(DensePredictor(model, scenes, options).parts())
    found = np.concatenate([part.probabilities for _, part in parts])
    assert np.abs(found - expected)[28:36, 3:-3].max() > 0.01


def test_a_map_has_the_scenes_pixels_and_tells_shares(model, write_scene, tmp_path):
    values = texture(70, 90)
    scene = write_scene(values, **UTM)
    paths = {"output": tmp_path / "map.tif", "probability": tmp_path / "p.tif"}
    result = predict(scene, checkpoint=model, overlap=16, **paths)
    found = read_map(tmp_path / "map.tif")
    assert (found.classes, found.stride, found.bands) == (CLASSES, 1, (1, 2, 3))
    assert found.georeference.transform == UTM["transform"]
    assert found.labels.shape == (70, 90)
    assert (result.rows, result.columns, result.nodata) == (70, 90, 0)
    assert result.counts == tuple(np.bincount(found.labels.ravel(), minlength=3).tolist())
    assert sum(result.square_km) == pytest.approx(70 * 90 * 100 / 1e6)
    with rasterio.open(tmp_path / "map.tif") as file:
        tags = file.tags()
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (tags["RSVHEAT_WINDOW"], tags["RSVHEAT_OVERLAP"]) == ("32", "16")
    assert "RSVHEAT_CHECKPOINT" not in tags  # the model was never saved
    expected = 100 * model.predict(values).probabilities.max(0)
    percent = maps(tmp_path / "p.tif").astype(float)
    assert np.abs(percent - expected)[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT].max() <= 0.51


def test_probabilities_of_chosen_classes_are_bands(model, write_scene, tmp_path):
    values = texture(70, 90)
    values[:, :10, :20] = 0
    scene = write_scene(values, nodata=0, **UTM)
    paths = {"output": tmp_path / "map.tif", "probability": tmp_path / "p.tif"}
    predict(scene, checkpoint=model, overlap=16, probability_of=["road", "field"], **paths)
    expected = 100 * model.predict(texture(70, 90)).probabilities[[2, 0]]
    with rasterio.open(tmp_path / "p.tif") as file:
        assert file.descriptions == ("probability of road", "probability of field")
        assert file.scales == (0.01, 0.01)
        found = file.read().astype(float)
    assert (found[:, :10, :20] == 255).all()
    inner = np.s_[:, 10 + CONTEXT : -CONTEXT, CONTEXT:-CONTEXT]
    assert np.abs(found - expected)[inner].max() <= 0.51
    with pytest.raises(ValueError, match=r"probability_of must name classes of field, .*'sea'"):
        predict(scene, checkpoint=model, probability_of=["sea"], overwrite=True, **paths)
    with pytest.raises(ValueError, match="probability_of needs the path of the map"):
        predict(scene, tmp_path / "b.tif", model, probability_of=["road"])


def test_threads_are_set_while_it_predicts(model, write_scene, tmp_path):
    seen = []
    model.network.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    scene = write_scene(texture(32, 32), **UTM)
    predict(scene, tmp_path / "map.tif", model, threads=before + 1)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        predict(scene, tmp_path / "other.tif", model, threads=0)


@pytest.mark.parametrize("kind", ["nodata", "nan", "alpha"])
def test_pixels_without_data_have_no_class(kind, model, write_scene, tmp_path):
    values = texture(70, 90)
    empty = np.zeros((70, 90), bool)
    empty[:40, :50] = True  # whole windows
    empty[50, 60] = empty[69, 89] = True
    if kind == "nan":
        floats = np.where(empty, np.float32(np.nan), values.astype(np.float32))
        scene = write_scene(floats, **UTM)
    elif kind == "alpha":
        scene = write_scene(values, alpha=np.where(empty, 0, 255).astype(np.uint8), **UTM)
    else:
        scene = write_scene(np.where(empty, np.uint8(0), values), nodata=0, **UTM)
    result = predict(scene, tmp_path / "map.tif", model, probability=tmp_path / "p.tif")
    assert np.array_equal(maps(tmp_path / "map.tif") == 255, empty)
    assert np.array_equal(maps(tmp_path / "p.tif") == 255, empty)
    assert result.nodata == empty.sum()
    strict = predict(scene, tmp_path / "map.tif", model, max_nodata=0, overwrite=True)
    assert strict.nodata > result.nodata


def test_windows_without_data_are_not_predicted(model, write_scene, tmp_path, monkeypatch):
    values = texture(70, 90)
    values[:, :, :70] = 0
    seen = []
    infer = type(model).infer
    monkeypatch.setattr(
        type(model),
        "infer",
        lambda self, images, **k: seen.append(len(images["optical"])) or infer(self, images, **k),
    )
    predict(write_scene(values, nodata=0, **UTM), tmp_path / "map.tif", model)
    # The overlap is 8, so windows begin at -2, 20, 40 and 62: two of the four columns, 3 rows.
    assert sum(seen) == 6


def test_resolution_is_that_of_training(write_scene, tmp_path):
    """Windows of 64 pixels that training resized to 32: the map still has the scene's pixels."""
    model = trained(Pixels, classes=CLASSES, window=64)
    shapes = []
    model.network.first.register_forward_pre_hook(lambda _, x: shapes.append(x[0].shape[-2:]))
    predict(write_scene(texture(100, 130), **UTM), tmp_path / "map.tif", model)
    assert set(shapes) == {(32, 32)}
    assert maps(tmp_path / "map.tif").shape == (100, 130)
    shapes.clear()
    scene = write_scene(texture(100, 130), **UTM)
    predict(scene, tmp_path / "map.tif", model, window=100, overwrite=True)
    assert set(shapes) == {(50, 50)}


def test_several_sensors_of_one_grid(write_scene, tmp_path):
    """A pixel has a class where one of them has data."""
    model = trained(Pixels, {"optical": 3, "sar": 1}, CLASSES)
    optical, sar = texture(50, 60), texture(50, 60, 1, seed=1)
    expected = model.predict({"optical": optical, "sar": sar})
    a, b = write_scene(optical, **UTM), write_scene(sar, "sar.tif", **UTM)
    predict({"sar": b, "optical": a}, tmp_path / "map.tif", model, overlap=16)
    inner = np.s_[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
    found = read_map(tmp_path / "map.tif")
    assert (found.labels[inner] == expected.labels[inner]).mean() > 0.999
    assert found.bands == (1, 2, 3)
    with rasterio.open(tmp_path / "map.tif") as file:
        tags = file.tags()
    assert json.loads(tags["RSVHEAT_SOURCE"]) == {"optical": "scene.tif", "sar": "sar.tif"}
    optical[:, :20], sar[:, :, :20] = 0, 0
    a = write_scene(optical, nodata=0, **UTM)
    b = write_scene(sar, "sar.tif", nodata=0, **UTM)
    predict({"optical": a, "sar": b}, tmp_path / "map.tif", model, overwrite=True)
    empty = np.zeros((50, 60), bool)
    empty[:20, :20] = True
    assert np.array_equal(maps(tmp_path / "map.tif") == 255, empty)
    pytest.importorskip("matplotlib")
    shown = draw_map(tmp_path / "map.tif", b).axes[0].images[0].get_array()
    assert np.array_equal(shown[..., 0], shown[..., 2])  # one band


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 4}, "stride has no meaning for classes of pixels, got 4"),
        ({"min_score": 0.5}, "min_score has no meaning for classes of pixels"),
        ({"overlap": 32}, "overlap must be less than the window's 32 pixels, got 32"),
        ({"overlap": -1}, "overlap must be at least 0 pixels, got -1"),
        ({"output": "map.png"}, r"map\.png must end in \.tif"),
        ({"source": {"sar": "scene.tif"}}, "source must be given for optical, got sar"),
    ],
)
def test_wrong_arguments_are_told(model, write_scene, tmp_path, options, message):
    scene = write_scene(texture(40, 40), **UTM)
    output = tmp_path / options.pop("output", "map.tif")
    with pytest.raises(ValueError, match=message):
        predict(options.pop("source", scene), output, model, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_a_result_that_is_not_finite_is_told_with_its_window(model, write_scene, tmp_path):
    values = texture(90, 90).astype(np.float32)
    scene = write_scene(values, **UTM)
    forward = model.network.forward
    calls = []

    def broken(images):
        calls.append(forward(images))
        if len(calls) == 3:
            calls[-1][0, 1, 5, 5] = np.inf
        return calls[-1]

    model.network.forward = broken
    with pytest.raises(
        FloatingPointError, match=r"scene\.tif: .* window of 32 x 32 pixels at row -2, column 39: "
    ):
        predict(scene, tmp_path / "map.tif", model, batch_size=1)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_is_bounded_by_rows(write_scene, tmp_path):
    """Twice the height may fill GDAL's cache of 64 MiB; a float a class and pixel were 230 MB."""
    from raster.test_predict import _peak

    model = trained(Pixels, classes=[f"class {i}" for i in range(12)])
    grown = []
    for height in (4000, 8000):
        path = tmp_path / f"{height}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=1200,
            height=height,
            count=3,
            dtype="uint8",
            tiled=True,
            sparse_ok=True,
            nodata=0,
            **UTM,
        ) as file:
            window = rasterio.windows.Window(0, height - 300, 300, 300)
            file.write(texture(300, 300), window=window)
        grown.append(_peak(lambda p=path: predict(p, tmp_path / f"{p.stem}_map.tif", model)))
    assert grown[1] < grown[0] + 70e6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("kind", "size", "memory"), [(Pixels, 512, 0.1), (Boxes, 512, 0.03), (Classifier, 128, 0.03)]
)
def test_memory_does_not_depend_on_the_size(kind, size, memory, tmp_path):
    """Two sensors of 30,000 x 30,000 pixels, most of them without data, against 3,000 x 3,000."""
    from raster.test_predict import _peak

    names = {"optical": 3, "sar": 1} if kind is Pixels else {"optical": 3}
    model = trained(kind, modalities=names, size=size)
    suffix = ".geojson" if kind is Boxes else ".tif"
    peaks = []
    for side in (3000, 30000):
        scenes = {}
        for name, bands in names.items():
            scenes[name] = tmp_path / f"{name}_{side}.tif"
            profile = {"width": side, "height": side, "count": bands, "dtype": "uint8", **UTM}
            with rasterio.open(
                scenes[name], "w", driver="GTiff", tiled=True, sparse_ok=True, nodata=0, **profile
            ) as file:
                window = rasterio.windows.Window(side - 600, side - 600, 600, 600)
                file.write(texture(600, 600, bands), window=window)
        output = tmp_path / f"map_{side}{suffix}"
        peaks.append(_peak(lambda s=scenes, o=output: predict(s, o, model, memory=memory)))
    assert peaks[1] < peaks[0] + 50e6


def test_large_maps_are_drawn_at_low_resolution(model, write_scene, tmp_path):
    pytest.importorskip("matplotlib")
    scene = write_scene(texture(300, 200), **UTM)
    result = predict(scene, tmp_path / "map.tif", model)
    figure = draw_map(tmp_path / "map.tif", scene, max_side=60)
    scene_axes, map_axes = figure.axes
    assert scene_axes.images[0].get_array().shape == (60, 40, 3)
    overlay = map_axes.images[1]
    assert overlay.get_array().shape == (60, 40, 4)
    assert overlay.get_extent() == [0, 200, 300, 0]
    # Shares are of the whole map, not of what is shown.
    shares = {text.get_text() for text in figure.legends[0].get_texts()}
    counts = zip(result.classes, result.counts, strict=True)
    assert shares == {f"{name}  {count / 60000:.1%}" for name, count in counts if count}


def test_flipped_and_rotated_versions_are_averaged(model, write_scene, tmp_path):
    """The map of a turned scene is the turned map, which a single version's is not."""
    values = texture(90, 90)
    scenes = {
        "a": write_scene(values, "a.tif"),
        "b": write_scene(np.rot90(values, 1, (1, 2)).copy(), "b.tif"),
    }
    found = {}
    for turns in (False, True):
        for name, scene in scenes.items():
            path = tmp_path / f"{name}_map.tif"
            percent = tmp_path / f"{name}_percent.tif"
            options = {"turns": turns, "probability": percent, "overwrite": True}
            result = predict(scene, path, model, **options)
            assert result.tags.get("RSVHEAT_TURNS") == ("true" if turns else None)
            with rasterio.open(percent) as file:
                found[turns, name] = file.read(1).astype(int)
    # One window of the middle, by the definition.
    image = model.normalizers["optical"](rsvheat.data.Pixels(values, None))[None]
    versions = []
    for flip in (False, True):
        for turn in range(4):
            version = torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1))
            with torch.no_grad():
                output = model.network.predict({"optical": version})
            output = torch.rot90(output, -turn, (-2, -1))
            versions.append(output.flip(-1) if flip else output)
    expected = 100 * torch.stack(versions).mean(0)[0].amax(0).numpy()
    assert np.abs(found[True, "a"] - expected)[8:-8, 8:-8].max() <= 1
    differences = [
        np.abs(np.rot90(found[turns, "a"]) - found[turns, "b"]).max() for turns in (False, True)
    ]
    assert differences[0] > 5
    assert differences[1] <= 1


@pytest.mark.parametrize(("kind", "output"), [(Classifier, "m.tif"), (Boxes, "m.geojson")])
def test_turns_are_for_classes_of_pixels(kind, output, write_scene, tmp_path):
    scene = write_scene(texture(40, 40))
    with pytest.raises(ValueError, match="turns has no meaning for"):
        predict(scene, tmp_path / output, trained(kind), turns=True)


# Change.


@pytest.fixture
def dates(write_scene):
    """Two dates, and where they differ."""
    before = texture(80, 100)
    after = before.copy()
    changed = np.zeros((80, 100), bool)
    changed[10:30, 20:50] = changed[60:70, 60:95] = True
    after[:, changed] = 255 - after[:, changed] // 4
    before[:, changed] //= 4
    paths = write_scene(before, "a.tif", **UTM), write_scene(after, "b.tif", **UTM)
    return *paths, changed


@pytest.fixture
def change():
    return trained(Differences, names={"before": 3, "after": 3}, classes=("same", "changed"))


def test_change_is_found(dates, change, tmp_path):
    a, b, changed = dates
    result = predict({"before": a, "after": b}, tmp_path / "map.tif", change)
    assert np.array_equal(maps(tmp_path / "map.tif") == 1, changed)
    assert result.counts == (8000 - changed.sum(), changed.sum())
    # The other way round nothing is different for this stand-in.
    predict({"after": a, "before": b}, tmp_path / "map.tif", change, overwrite=True)
    assert np.array_equal(maps(tmp_path / "map.tif") == 1, changed)


def test_change_is_known_where_both_dates_have_data(dates, change, write_scene, tmp_path):
    a, b, _ = dates
    with rasterio.open(a) as file:
        values = file.read()
    values[:, :20] = 0
    holes = write_scene(values, "holes.tif", nodata=0, **UTM)
    for pair in ({"before": holes, "after": b}, {"before": b, "after": holes}):
        predict(pair, tmp_path / "map.tif", change, overwrite=True)
        found = maps(tmp_path / "map.tif")
        assert (found[:20] == 255).all()
        assert (found[20:] != 255).all()


def test_change_needs_two_dates_of_common_ground(dates, change, write_scene, tmp_path):
    a, b, _ = dates
    output = tmp_path / "map.tif"
    with pytest.raises(ValueError, match="between two rasters, before and after; got before"):
        predict(a, output, change)
    unplaced = write_scene(texture(80, 99), "unplaced.tif")
    with pytest.raises(DataError, match=r"unplaced\.tif has 80 x 99 pixels, .*a\.tif has 80 x 100"):
        predict({"before": a, "after": unplaced}, output, change)
    far = write_scene(texture(80, 100), "far.tif", **{**UTM, "crs": "EPSG:32633"})
    with pytest.raises(DataError, match=r"far\.tif cannot be resampled .* no ground in common"):
        predict({"before": a, "after": far}, output, change)
    assert not output.exists()
    with pytest.raises(ValueError, match=r"b\.tif is the scene itself"):
        predict({"before": a, "after": b}, b, change, overwrite=True)


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_dates_of_different_grids_are_compared_where_they_overlap(
    change, write_scene, tmp_path, crs
):
    """The second date is finer, starts elsewhere, and may be in another reference system."""
    rows, columns = np.mgrid[:80, :100]
    smooth = 128 + 20 * np.sin(rows / 9) + 20 * np.cos(columns / 11)
    before = np.repeat(smooth[None], 3, 0).astype(np.uint8)
    after = before.copy()
    after[:, 40:60, 50:70] += 80
    a = write_scene(before, "a.tif", **UTM)
    whole = write_scene(after, "whole.tif", **UTM)
    b = tmp_path / "b.tif"
    left, right, bottom, top = 500200, 501000, 4999200, 4999900  # rows 10 to 80, columns 20 to 100
    bounds = rasterio.warp.transform_bounds(UTM["crs"], crs, left, bottom, right, top)
    with rasterio.open(whole) as file:
        transform = rasterio.transform.from_bounds(*bounds, 320, 280)
        with rasterio.vrt.WarpedVRT(
            file, crs=crs, transform=transform, width=320, height=280, nodata=0
        ) as warped:
            rasterio.shutil.copy(warped, b, driver="GTiff")
    result = predict({"before": a, "after": b}, tmp_path / "map.tif", change)
    found = maps(tmp_path / "map.tif")
    assert "b.tif was interpolated bilinearly" in str(result)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert json.loads(file.tags()["RSVHEAT_RESAMPLED"]) == {"after": "bilinear"}
    assert (found[:9] == 255).all()
    assert (found[:, :19] == 255).all()
    assert (found[12:78, 22:98] != 255).all()
    changed = np.zeros((80, 100), bool)
    changed[40:60, 50:70] = True
    inner = np.s_[12:78, 22:98]
    assert ((found == 1) != changed)[inner].mean() < 0.01


def test_the_command_takes_further_rasters_by_name(dates, change, tmp_path, capsys, monkeypatch):
    pytest.importorskip("jsonargparse")
    from rsvheat import cli

    a, b, changed = dates
    change.save(tmp_path / "c.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    words = [str(a), "--checkpoint", "c.ckpt", "--also.after", str(b), "--overlap", "12"]
    assert cli.main(["predict", *words]) == 0
    assert "runs/maps/a.tif: 80 x 100 pixels" in capsys.readouterr().out
    assert np.array_equal(maps(tmp_path / "runs/maps/a.tif") == 1, changed)
    code = cli.main(["predict", *words, "--also.before", str(b), "--overwrite"])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert "--also: " in err


# The package's own networks.


def test_networks_of_the_package_from_a_checkpoint_to_a_map(dates, write_scene, tmp_path):
    """Two sensors of which one may be missing, and two dates; a window here is the whole scene."""
    a, b, _ = dates
    sar = write_scene(texture(80, 100, 1), "sar.tif", **UTM)
    small = {"dims": (8, 16, 16, 16), "depths": (1, 1, 1, 1), "img_size": 32, "channels": 8}
    sensors, both = {"optical": 3, "sar": 1}, {"before": 3, "after": 3}
    for task, stems, names, given in (
        ("segmentation", sensors, sensors, {"optical": a, "sar": sar}),
        ("segmentation", sensors, sensors, {"sar": sar}),
        ("change_detection", {"optical": 3}, both, {"before": a, "after": b}),
    ):
        network = rsvheat.create_model(
            "rsvheat_nano", task=task, classes=["x", "y"], modalities=stems, **small
        )
        spec = DataSpec(names, "mask", ("x", "y"), (32, 32))
        normalizers = {
            name: Normalizer((100.0,) * bands, (50.0,) * bands, 5.0)
            for name, bands in names.items()
        }
        TrainedModel(network, spec, normalizers).save(tmp_path / "a.ckpt")
        model = rsvheat.load(tmp_path / "a.ckpt", device="cpu")
        assert model.task == task
        result = predict(given, tmp_path / "map.tif", model, window=120, overlap=0, overwrite=True)
        assert sum(result.counts) == 8000
        # The only window is 120 pixels wide, and mirrored beyond the scene.
        padded = {
            name: np.pad(read_image(path).values, ((0, 0), (20, 20), (10, 10)), "symmetric")
            for name, path in given.items()
        }
        assert np.array_equal(maps(result.path), model.predict(padded).labels[20:100, 10:110])
