# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("rasterio")

from rsvheat.data import FAIR1M, Scan, miniature

pytestmark = pytest.mark.source_tree


@pytest.fixture
def detection(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import detection

    return detection


def test_small_vehicles_are_one_class_and_all_images_stay(detection, tmp_path):
    miniature.write_fair1m(tmp_path)
    every = FAIR1M(str(tmp_path), version="1.0", val_fraction=0.25).splits(Scan())
    small = detection.SmallVehicles(str(tmp_path)).splits(Scan())
    number = 0
    for split in ("train", "val"):
        source, others = small[split].source, every[split].source
        assert source.classes == ("small vehicle",)
        assert list(small[split].indices) == list(every[split].indices)
        for index in range(len(others)):
            names = [others.classes[label] for label in others.boxes(index).labels]
            wanted = [name in ("Small Car", "Van") for name in names]
            number += sum(wanted)
            assert (source.boxes(index).boxes == others.boxes(index).boxes[wanted]).all()
    assert number > 0


@pytest.mark.parametrize("level", ["groups", "fine"])
def test_options_differ_from_their_first_row_in_one_thing(detection, level):
    assert len({str(option.whole(level)) for option in detection.OPTIONS.values()}) == len(
        detection.OPTIONS
    )
    for option in detection.OPTIONS.values():
        assert len(option.setting) + len(option.network) <= 1
        setting = option.whole(level)
        model = detection.network_of("nano, from scratch", setting, ("a", "b"))
        assert model.options["detector"] == setting.options["detector"]
        learned = {name for name in model.state_dict() if name.startswith(option.learned)}
        assert learned


def test_rates_are_chosen_without_the_test_images(detection, tmp_path):
    miniature.write_fair1m(tmp_path)
    whole = detection.GROUPS.reader(str(tmp_path)).splits(Scan())
    part = detection.TrainingPart(str(tmp_path)).splits(Scan())
    train, held_out = (set(part[name].indices) for name in ("train", "val"))
    assert train
    assert held_out
    assert not train & held_out
    assert train | held_out == set(whole["train"].indices)


def test_peers_that_are_not_there_are_named(detection):
    if importlib.util.find_spec("oriented_det"):
        pytest.skip("oriented-det is installed")
    with pytest.raises(ModuleNotFoundError, match="oriented_det"):
        detection.OrientedDet(2)
