# SPDX-License-Identifier: Apache-2.0
"""Scenes in which one of several sensors has no data."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("rasterio")
import rasterio
from rasterio.transform import Affine
from stand_ins import Pixels, interrupted, trained

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Normalizer
from rsvheat.data.spec import DataSpec
from rsvheat.models import RSVHeat
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.raster import predict

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
SENSORS = {"optical": 3, "sar": 1}
OPTIONS = {"window": 32, "overlap": 8, "batch_size": 3}


@pytest.fixture
def model():
    encoder = RSVHeat(
        dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), img_size=32, modalities=SENSORS, num_classes=0
    )
    network = SegmentationModel(encoder, 3, decoder="fpn", channels=8)
    with torch.no_grad():  # so that the classes of random weights vary
        for parameter in network.decoder.parameters():
            parameter.mul_(3)
    normalizers = {
        name: Normalizer((100.0,) * bands, (50.0,) * bands, 5.0) for name, bands in SENSORS.items()
    }
    return TrainedModel(network, DataSpec(SENSORS, "mask", ("a", "b", "c"), (32, 32)), normalizers)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return {name: rng.integers(1, 255, (n, 128, 150), np.uint8) for name, n in SENSORS.items()}


def read(path):
    with rasterio.open(path) as file:
        return file.read(1).astype(int)


def test_the_sensor_with_data_predicts_alone(model, values, write_scene, tmp_path):
    def mapped(name, sources):
        probability = tmp_path / f"{name}_p.tif"
        result = predict(
            sources, tmp_path / f"{name}.tif", model, probability=probability, **OPTIONS
        )
        return read(tmp_path / f"{name}.tif"), read(probability), result

    whole = {name: write_scene(values[name], f"{name}.tif", nodata=0, **UTM) for name in SENSORS}
    holed = values["optical"].copy()
    holed[:, :70, :80] = 0
    part = write_scene(holed, "part.tif", nodata=0, **UTM)
    both, both_p, result = mapped("both", whole)
    alone, alone_p, _ = mapped("alone", {"sar": whole["sar"]})
    assert json.loads(result.tags["RSVHEAT_SENSORS"]) == {"optical+sar": {"share": 1.0}}
    labels, percent, result = mapped("some", {"optical": part, "sar": whole["sar"]})

    about = json.loads(result.tags["RSVHEAT_SENSORS"])
    assert set(about) == {"optical+sar", "sar"}
    [(left, top, right, bottom)] = about["sar"]["places"]
    assert (left, top) == (0, 0)
    # Windows reach beyond their core by half of the overlap.
    assert 70 - 32 < bottom <= 70 - 4
    assert 80 - 32 < right <= 80 - 4
    assert about["sar"]["share"] == round(bottom * right / (128 * 150), 6)
    assert about["sar"]["share"] + about["optical+sar"]["share"] == pytest.approx(1)
    for suffix in ("", "_p"):
        with rasterio.open(tmp_path / f"some{suffix}.tif") as file:
            assert json.loads(file.tags()["RSVHEAT_SENSORS"]) == about
    # Away from the seam, where windows of both kinds are blended.
    inner, outer = np.s_[: bottom - 8, : right - 8], np.s_[70 + 32 :]
    assert (percent[inner] != both_p[inner]).mean() > 0.1
    for place, expected, expected_p in ((inner, alone, alone_p), (outer, both, both_p)):
        assert np.array_equal(labels[place], expected[place])
        assert np.abs(percent[place] - expected_p[place]).max() <= 1


def test_the_places_survive_an_interruption(model, values, write_scene, tmp_path, monkeypatch):
    sources = {}
    for name, hole in {"optical": np.s_[:, 40:, 50:], "sar": np.s_[:, :60, :45]}.items():
        values[name][hole] = 0
        sources[name] = write_scene(values[name], f"{name}.tif", nodata=0, **UTM)
    whole = predict(sources, tmp_path / "whole.tif", model, **OPTIONS)
    assert set(json.loads(whole.tags["RSVHEAT_SENSORS"])) == {"optical", "sar", "optical+sar"}
    interrupted(monkeypatch, model.network, at=9)
    with pytest.raises(KeyboardInterrupt):
        predict(sources, tmp_path / "again.tif", model, resume=True, **OPTIONS)
    again = predict(sources, tmp_path / "again.tif", model, resume=True, **OPTIONS)
    assert again.tags == whole.tags
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_network_that_needs_all_sensors_gets_all(values, write_scene, tmp_path):
    values["optical"][:, :70] = 0
    sources = {name: write_scene(values[name], f"{name}.tif", nodata=0, **UTM) for name in SENSORS}
    result = predict(sources, tmp_path / "m.tif", trained(Pixels, modalities=SENSORS), **OPTIONS)
    assert result.nodata == 0
    assert "RSVHEAT_SENSORS" not in result.tags
