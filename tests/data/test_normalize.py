# SPDX-License-Identifier: Apache-2.0
import json
import pickle

import numpy as np
import pytest
import torch

from rsvheat.data import (
    ArraySource,
    DataError,
    FolderSource,
    Normalize,
    Normalizer,
    Pixels,
    Sensor,
    Statistics,
    compute_statistics,
    load_statistics,
    save_statistics,
)

RNG = np.random.default_rng(0)


def test_fixed_values_become_minus_one_and_one():
    normalize = Normalize("fixed", low=0, high=[100, 200]).resolve(2)
    values = np.array([[[0, 50, 100, 150]], [[0, 50, 100, 300]]], np.uint16)
    expected = [[[-1, 0, 1, 1]], [[-1, -0.5, 0, 1]]]
    result = normalize(Pixels(values, None))
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result, expected)
    unclipped = Normalize("fixed", low=0, high=[100, 200], clip=False).resolve(2)
    np.testing.assert_array_equal(unclipped(Pixels(values, None))[:, 0, 3], [2, 2])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_mean_and_deviation_of_any_type(dtype):
    values = RNG.integers(0, 200, (3, 9, 8)).astype(dtype)
    mean, std = [10.0, 20.0, 30.5], [2.0, 3.0, 40.0]
    normalize = Normalize(mean=mean, std=std, clip=False).resolve(3)
    expected = (values - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(normalize(Pixels(values, None)), expected, rtol=1e-6, atol=1e-6)
    clipped = Normalize(mean=mean, std=std).resolve(3)
    np.testing.assert_allclose(
        clipped(Pixels(values, None)), expected.clip(-5, 5), rtol=1e-6, atol=1e-6
    )


def test_large_values_keep_their_precision():
    values = np.array(
        [[[16_777_217, 16_777_219]]]
    )  # float32 cannot tell them from their neighbours
    for dtype in ("int32", "float64"):
        result = Normalize(mean=[16_777_216], std=[1]).resolve(1)(
            Pixels(values.astype(dtype), None)
        )
        assert result.flatten().tolist() == [1, 3]


def test_what_is_not_valid_is_filled():
    values = np.array([[[1.0, np.nan, 3.0]], [[4.0, 5.0, 6.0]]], np.float32)
    valid = np.array([[[True, False, False]]])
    result = Normalize("fixed", low=0, high=10).resolve(2)(Pixels(values, valid))
    np.testing.assert_allclose(result, [[[-0.8, 0, 0]], [[-0.2, 0, 0]]], rtol=1e-6)
    filled = Normalize("fixed", low=0, high=10, fill=-2).resolve(2)(Pixels(values, valid))
    assert filled[:, 0, 1:].eq(-2).all()


@pytest.mark.parametrize(("decibels", "factor"), [("power", 10), ("amplitude", 20)])
def test_decibels_are_taken_first_and_zero_has_none(decibels, factor):
    values = np.array([[[1, 10, 100, 0, -3]]], np.float32)
    normalize = Normalize("fixed", low=-20, high=20, decibels=decibels, clip=False).resolve(1)
    expected = [0, factor / 20, factor / 10, 0, 0]
    np.testing.assert_allclose(normalize(Pixels(values, None)).flatten(), expected, rtol=1e-6)
    integers = normalize(Pixels(values.clip(0).astype(np.uint16), None))
    np.testing.assert_allclose(integers.flatten(), expected, rtol=1e-6)


def test_linear_and_decibel_input_agree():
    power = RNG.gamma(2, 0.1, (1, 16, 16)).astype(np.float32)
    linear = Normalize(mean=[-12], std=[4], decibels="power").resolve(1)
    already = Normalize(mean=[-12], std=[4]).resolve(1)
    torch.testing.assert_close(
        linear(Pixels(power, None)), already(Pixels(10 * np.log10(power), None))
    )


def test_inversion_gives_the_values_back():
    values = RNG.random((2, 8, 8)) * 100
    normalize = Normalize(mean=[50, 40], std=[10, 20]).resolve(2)
    image = normalize(Pixels(values, None))
    np.testing.assert_allclose(normalize.invert(image[None])[0], values, rtol=1e-4, atol=1e-4)


def test_normalizers_survive_json_pickle_and_weights_only(tmp_path):
    for clip in (True, False):
        normalize = Normalize("fixed", 0, [1, 2], decibels="power", clip=clip, fill=0.5).resolve(2)
        assert Normalizer.from_dict(json.loads(json.dumps(normalize.to_dict()))) == normalize
        assert pickle.loads(pickle.dumps(normalize)) == normalize
        torch.save(normalize.to_dict(), tmp_path / "file")
        assert Normalizer.from_dict(torch.load(tmp_path / "file")) == normalize
    with pytest.raises(ValueError, match="not the content of a normalizer"):
        Normalizer.from_dict({"center": [0]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "zscore"}, "method must be one of"),
        ({"decibels": "db"}, "decibels must be one of"),
        ({"method": "fixed", "low": 0}, "needs low and high"),
        ({"method": "percentile", "low": 98, "high": 2}, "percentiles must be"),
        ({"method": "percentile", "low": [1, 2]}, "one number each"),
        ({"mean": [1.0]}, "mean and std must be given together"),
        ({"low": 1.0}, "low has no meaning for method 'mean_std'"),
        ({"method": "fixed", "low": 0, "high": 1, "std": [1], "mean": [0]}, "mean has no meaning"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Normalize(**arguments)


def test_what_cannot_be_resolved_is_named():
    for normalize, message in (
        (Normalize(), "needs statistics"),
        (Normalize("fixed", 0, [1, 2]), "high must be one number or 3"),
        (Normalize("fixed", 1, 1), "positive scale"),
        (Normalize(mean=[0, 0, 0], std=[1, 0, 1]), "positive scale"),
    ):
        with pytest.raises(ValueError, match=message):
            normalize.resolve(3)
    source = ArraySource([{"sar": np.ones((1, 4, 4), np.float32)}])
    statistics = compute_statistics(source, {"sar": Sensor(1)})["sar"]
    for bands, normalize in ((2, Normalize()), (1, Normalize(decibels="power"))):
        with pytest.raises(ValueError, match="statistics of 1 bands with decibels 'none'"):
            normalize.resolve(bands, statistics)


def test_a_constant_band_becomes_zero():
    source = ArraySource([{"optical": np.full((1, 4, 4), 7, np.uint8)}])
    statistics = compute_statistics(source, {"optical": Sensor(1)})["optical"]
    for method in ("mean_std", "percentile"):
        normalize = Normalize(method).resolve(1, statistics)
        assert normalize(Pixels(np.full((1, 2, 2), 7, np.uint8), None)).eq(0).all()


def test_the_number_of_bands_is_checked():
    with pytest.raises(ValueError, match="has 2 bands, not 1"):
        Normalize(mean=[0], std=[1]).resolve(1)(Pixels(np.ones((2, 3, 3)), None))
    for arguments, message in (
        ((0,), "bands must be"),
        ((2, [1]), "2 bands"),
        ((1, [0]), "from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Sensor(*arguments)


@pytest.fixture
def images():
    """Forty images of two sensors, with pixels that have no data."""
    samples = []
    for number in range(40):
        optical = RNG.normal([[[100]], [[50]]], [[[10]], [[number + 1]]], (2, 24, 24))
        optical[0, 0, 0] = np.nan
        samples.append(
            {
                "optical": optical.astype(np.float32),
                "sar": RNG.gamma(2, 0.1, (1, 24, 24)).astype(np.float32),
            }
        )
    return samples


def test_statistics_are_those_of_numpy(images):
    sensors = {"optical": Sensor(2), "sar": Sensor(1, normalize=Normalize(decibels="power"))}
    statistics = compute_statistics(ArraySource(images), sensors)
    decibels = 10 * np.log10(np.stack([sample["sar"] for sample in images], 1).reshape(1, -1))
    optical = np.stack([sample["optical"] for sample in images], 1).reshape(2, -1)
    for name, values in (("optical", optical), ("sar", decibels)):
        found = statistics[name]
        np.testing.assert_allclose(found.mean, np.nanmean(values, 1), rtol=1e-5)
        np.testing.assert_allclose(found.std, np.nanstd(values, 1), rtol=1e-5)
        for percent in (0, 2, 50, 98, 99.5):
            expected = np.nanpercentile(values, percent, axis=1)
            np.testing.assert_allclose(found.percentile(percent), expected, rtol=1e-5)
        assert found.images == 40
        assert list(found.pixels) == np.isfinite(values).sum(1).tolist()
    normalized = Normalize("percentile", 5, 95).resolve(2, statistics["optical"])(
        Pixels(images[0]["optical"], None)._replace(valid=np.isfinite(images[0]["optical"]))
    )
    assert normalized.min() == -1
    assert normalized.isfinite().all()


def test_statistics_of_a_sample_are_near_and_seeded(images):
    source, sensors = ArraySource(images), {"optical": Sensor(2), "sar": Sensor(1)}
    every = compute_statistics(source, sensors)
    some = [compute_statistics(source, sensors, images=20, pixels=300, seed=s) for s in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert some[0]["optical"].images == 20
    np.testing.assert_allclose(some[0]["optical"].mean, every["optical"].mean, rtol=0.05)
    chosen = compute_statistics(source, sensors, indices=np.arange(5))
    assert chosen["sar"].images == 5


def test_statistics_are_kept_and_made_again_when_the_data_changes(tmp_path, images):
    sensors, cache = {"optical": Sensor(2), "sar": Sensor(1)}, tmp_path / "runs" / "statistics.json"

    class Counting(ArraySource):
        opened = 0

        def open(self, index, modality):
            Counting.opened += 1
            return super().open(index, modality)

    first = compute_statistics(Counting(images), sensors, cache=cache)
    assert Counting.opened == 80
    assert load_statistics(cache) == first
    assert [path.name for path in cache.parent.iterdir()] == ["statistics.json"]
    assert compute_statistics(Counting(images), sensors, cache=cache) == first
    assert Counting.opened == 80
    for source, changed in (
        (Counting(images[1:]), sensors),
        (Counting(images), {**sensors, "optical": Sensor(2, nodata=100)}),
        (Counting(images, [f"k{i}" for i in range(40)]), sensors),
    ):
        before = Counting.opened
        compute_statistics(source, changed, cache=cache)
        assert Counting.opened > before
    cache.write_text("{}")
    with pytest.raises(ValueError, match=r"statistics.json does not hold statistics"):
        compute_statistics(Counting(images), sensors, cache=cache)


def test_statistics_survive_json(tmp_path, images):
    statistics = compute_statistics(ArraySource(images), {"optical": Sensor(2), "sar": Sensor(1)})
    save_statistics(statistics, tmp_path / "s.json")
    assert load_statistics(tmp_path / "s.json") == statistics
    content = statistics["sar"].to_dict()
    with pytest.raises(ValueError, match="percentiles"):
        Statistics.from_dict({**content, "percentiles": [[1, 2]]})
    with pytest.raises(ValueError, match="not statistics"):
        Statistics.from_dict({"mean": [1]})


def test_statistics_leave_damaged_files_out(tmp_path, folders):
    data = folders(4)
    (tmp_path / "data" / "optical" / "scene001.png").write_text("damaged")
    source = FolderSource(data)
    source.scan()
    statistics = compute_statistics(source, {"optical": Sensor(3), "sar": Sensor(1)})
    assert statistics["optical"].images == 3
    assert statistics["sar"].images == 4
    for number in range(4):
        (tmp_path / "data" / "optical" / f"scene{number:03}.png").write_text("damaged")
    with pytest.raises(
        DataError, match=r"no optical image of .* can be read; the last of them: .*png"
    ):
        compute_statistics(source, {"optical": Sensor(3), "sar": Sensor(1)})


def test_nodata_of_a_sensor_is_left_out(images):
    values = np.zeros((1, 8, 8), np.uint8)
    values[0, :4] = 100
    source = ArraySource([{"sar": values}])
    statistics = compute_statistics(source, {"sar": Sensor(1, nodata=0)})["sar"]
    assert (statistics.mean, statistics.std, statistics.pixels) == ((100,), (0,), (32,))
    with pytest.raises(ValueError, match="no sensor for sar"):
        compute_statistics(source, {})
    with pytest.raises(DataError, match="no valid pixel"):
        compute_statistics(ArraySource([{"sar": values * 0}]), {"sar": Sensor(1, nodata=0)})
