# SPDX-License-Identifier: Apache-2.0
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rsvheat.data import (
    ArraySource,
    ConcatSource,
    Crop,
    DataError,
    FileSource,
    FolderSource,
    ImageDataset,
    Normalize,
    ResumableSampler,
    SampleIndex,
    Sensor,
    Skip,
    SkipReport,
    collate,
)

# As they are in the file: 0 to 255 of an array become -1 to 1.
PLAIN = Normalize("fixed", low=-1, high=1, clip=False)


def dataset(source, crop=None, *, bands=None, **options):
    skips = source.scan()
    bands = bands or {"optical": 3, "sar": 1}
    sensors = {name: Sensor(bands.get(name, 1), normalize=PLAIN) for name in source.modalities}
    normalizers = {name: PLAIN.resolve(sensor.bands) for name, sensor in sensors.items()}
    crop = crop or Crop(8, 12)
    made = ImageDataset(source, sensors, normalizers, crop, **options)
    return made, skips


def numbered(height, width, bands=1):
    """An image whose pixels tell where they are."""
    grid = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    return np.concatenate([grid + 1e5 * band for band in range(bands)])


def test_all_modalities_are_cropped_and_turned_alike():
    image = numbered(20, 30, 3)
    source = ArraySource([{"optical": image, "sar": image[:1].copy()}])
    data, _ = dataset(source, Crop(8, 8))
    seen = set()
    for epoch in range(60):
        sample = data[SampleIndex(epoch, 0)]
        assert sample["images"]["optical"].shape == (3, 8, 8)
        torch.testing.assert_close(sample["images"]["optical"][0], sample["images"]["sar"][0])
        torch.testing.assert_close(sample["images"]["optical"][2] - 2e5, sample["images"]["sar"][0])
        corner, right, below = (
            int(sample["images"]["sar"][0, i, j]) for i, j in ((0, 0), (0, 1), (1, 0))
        )
        seen.add((right - corner, below - corner))
    assert seen == {(a * s, b * t) for a, b in ((1, 30), (30, 1)) for s in (1, -1) for t in (1, -1)}


def test_evaluation_takes_the_centre_upright():
    image = numbered(20, 30)
    data, _ = dataset(ArraySource([{"sar": image}]), Crop(8, 8, augment=False))
    np.testing.assert_array_equal(data[0]["images"]["sar"], image[:, 6:14, 11:19])
    data, _ = dataset(ArraySource([{"sar": image}]), Crop(20, augment=False))
    np.testing.assert_array_equal(data[0]["images"]["sar"], image[:, :, 5:25])
    data, _ = dataset(ArraySource([{"sar": image}]), Crop(20, 448, augment=False))
    np.testing.assert_array_equal(data[0]["images"]["sar"], image[:, :, 5:25])


def test_windows_are_resized_without_aliases():
    checkerboard = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)[None]
    data, _ = dataset(ArraySource([{"sar": checkerboard}]), Crop(16, 64, augment=False))
    inner = data[0]["images"]["sar"][:, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)


def test_scale_changes_the_window():
    sides = set()
    for epoch in range(40):
        window = Crop(8, 20, scale=(0.5, 1)).choose(30, 40, np.random.default_rng(epoch))
        sides.add(window.height)
        assert window.height == window.width
        assert window.top + window.height <= 30
        assert window.left + window.width <= 40
    assert min(sides) == 10
    assert max(sides) == 20


def test_windows_without_data_are_drawn_again():
    image = np.full((1, 64, 64), np.nan, np.float32)
    image[:, 40:, 40:] = 1
    data, _ = dataset(ArraySource([{"sar": image}]), Crop(8, 8))
    parts = [
        float((data[SampleIndex(epoch, 0)]["images"]["sar"] != 0).float().mean())
        for epoch in range(50)
    ]
    free = np.isfinite(image[0]).mean()
    assert np.mean(np.array(parts) >= 0.5) > 0.6 > 4 * free
    data, _ = dataset(ArraySource([{"sar": image * np.nan}, {"sar": image}]), Crop(8, 8))
    sample = data[SampleIndex(0, 0)]
    assert sample["key"] == "000001"
    assert all(skip.kind == "empty" for skip in sample["skipped"])
    assert "no valid pixel" in sample["skipped"][0].reason


def test_a_sample_depends_on_seed_epoch_and_index_only(folders):
    source = FolderSource(folders(6))
    data, _ = dataset(source, seed=3)
    again, _ = dataset(source, seed=3)
    for _ in range(5):
        again[SampleIndex(7, 2)]
    assert torch.equal(
        data[SampleIndex(1, 4)]["images"]["optical"], again[SampleIndex(1, 4)]["images"]["optical"]
    )
    other, _ = dataset(source, seed=4)
    others = [data[SampleIndex(2, 4)], data[SampleIndex(1, 5)], other[SampleIndex(1, 4)]]
    for other in others:
        assert not torch.equal(
            other["images"]["optical"], again[SampleIndex(1, 4)]["images"]["optical"]
        )
    assert torch.equal(data[4]["images"]["sar"], data[SampleIndex(0, 4)]["images"]["sar"])


def epoch_batches(data, epochs=(0, 1), **options):
    sampler = ResumableSampler(len(data), 4)
    loader = DataLoader(data, 4, sampler=sampler, drop_last=True, collate_fn=collate, **options)
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def same(batch, other):
    assert batch["keys"] == other["keys"]
    assert batch["images"].keys() == other["images"].keys()
    for name in batch["images"]:
        assert torch.equal(batch["images"][name], other["images"][name])
        assert torch.equal(batch["index"][name], other["index"][name])
    assert batch.get("skipped") == other.get("skipped")


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_are_the_same_for_any_number_of_workers(folders, context):
    data, _ = dataset(FolderSource(folders(14)))
    Path(data.source.file(3, "sar")).write_text("damaged")
    expected = epoch_batches(data)
    assert len(expected) == 6
    assert sum(len(batch.get("skipped", ())) for batch in expected) >= 1
    assert expected[0]["keys"] != expected[3]["keys"]
    for workers in (1, 2) if context == "fork" else (2,):
        options = {"num_workers": workers, "multiprocessing_context": context}
        found = epoch_batches(data, persistent_workers=True, **options)
        for batch, other in zip(found, expected, strict=True):
            same(batch, other)


def test_datasets_can_be_pickled(folders):
    data, _ = dataset(ConcatSource([FolderSource(folders(3), tile=12)]))
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[1]["images"]["sar"], data[1]["images"]["sar"])


@pytest.fixture
def damaged(folders, write_png):
    """Eight pairs of which five cannot be used, each for another reason."""
    data = folders(8)
    Path(data["sar"], "scene000.png").unlink()
    content = Path(data["optical"], "scene001.png").read_bytes()
    Path(data["optical"], "scene001.png").write_bytes(content[: len(content) // 2])
    Path(data["sar"], "scene002.png").write_text("this is not an image")
    write_png(Path(data["sar"], "scene003.png"), np.zeros((3, 16, 16), np.uint8))
    write_png(Path(data["sar"], "scene004.png"), np.zeros((15, 16), np.uint8))
    return data


def test_what_cannot_be_used_is_named_counted_and_replaced(damaged):
    data, skips = dataset(FolderSource(damaged))
    report = SkipReport()
    report.add(skips)
    for batch in epoch_batches(data, epochs=range(6), num_workers=2):
        assert batch["size"] == 4
        assert set(batch["keys"]) <= {"scene005", "scene006", "scene007"}
        report.collect(batch)
        assert "skipped" not in batch
    assert report.kinds == {"damaged": 2, "bands": 1, "size": 1, "unmatched": 1}
    assert {skip.key for skip in report} == {f"scene00{number}" for number in range(5)}
    assert report.total > len(report) == 5
    text = str(report)
    for part in (
        f"5 samples skipped, {report.total} times",
        "optical/scene001.png is damaged: ",
        "sar/scene002.png is not an image",
        "sar/scene003.png has 3 bands, expected 1",
        "sar/scene004.png has 15 x 16",
        "optical/scene000.png: no sar image has this name",
    ):
        assert part in text
    one = SkipReport()
    one.load_state_dict({"skipped": [["size", "a", "too small", 3]]})
    assert str(one).startswith("1 sample skipped, 3 times: 1 size\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_can_be_raised_in_one_line(damaged, workers):
    data, _ = dataset(FolderSource(damaged), on_error="raise")
    with pytest.raises(DataError) as caught:
        epoch_batches(data, num_workers=workers)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("/")
    assert "(sample scene00" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_usable_is_one_error(folders, workers):
    data = folders(6)
    for path in Path(data["optical"]).iterdir():
        path.write_text("damaged")
    made, _ = dataset(FolderSource(data))
    with pytest.raises(
        DataError, match=r"none of 100 samples tried can be used; the first of them"
    ):
        made.check()
    with pytest.raises(
        DataError, match=r"^none of 100 samples tried can be used; .*\.png is not an image$"
    ):
        epoch_batches(made, num_workers=workers)


def test_a_sample_is_checked_before_workers_start(damaged):
    data, _ = dataset(FolderSource(damaged))
    assert [skip.key for skip in data.check()][:1] == ["scene001"]
    fine, _ = dataset(FolderSource(damaged), indices=[6])
    assert fine.check() == []


def test_evaluation_leaves_out_instead_of_replacing(damaged):
    files = sorted(Path(damaged["optical"]).iterdir())
    source = FileSource([(path.stem, {"optical": str(path)}) for path in files], range(-1, 7))
    data, _ = dataset(source, Crop(8, augment=False), indices=range(1, 8), replace=False)
    report, labels = SkipReport(), []
    loader = DataLoader(data, 3, collate_fn=collate)
    for batch in loader:
        assert len(batch["images"]["optical"]) == len(batch["label"]) == len(batch["keys"])
        labels += report.collect(batch)["label"].tolist()
    assert labels == [1, 2, 3, 4, 5, 6]
    assert [skip.key for skip in report] == ["scene001"]
    # A batch of which nothing is left has another sample.
    (only,) = DataLoader(torch.utils.data.Subset(data, [0]), 1, collate_fn=collate)
    assert len(only["images"]["optical"]) == 1
    assert only["keys"] != ["scene001"]


def test_reports_are_logged_saved_and_restored(tmp_path, caplog):
    skips = [Skip("damaged", f"k{number}", f"{number}.png is damaged") for number in range(15)]
    report = SkipReport()
    assert str(report) == "no sample was skipped"
    with caplog.at_level(logging.WARNING, "rsvheat.data"):
        report.add(skips)
        report.add(skips[:3])
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "skipped k0: 0.png is damaged"
    assert "more are in the report only" in caplog.messages[-1]
    assert (len(report), report.total, report.kinds) == (15, 18, {"damaged": 15})
    report.save(tmp_path / "skipped.json")
    assert '"key": "k14"' in (tmp_path / "skipped.json").read_text()
    copy = SkipReport()
    torch.save(report.state_dict(), tmp_path / "state")
    copy.load_state_dict(torch.load(tmp_path / "state"))
    assert list(copy) == skips
    assert copy.total == 18
    assert list(report.gather()) == skips


def test_batches_say_which_samples_have_a_modality():
    def sample(key, **images):
        made = {name: torch.full((2, 4, 4), v) for name, v in images.items()}
        return {"key": key, "images": made, "missing": {}, "repeated": False}

    batch = collate(
        [sample("a", sar=1.0), sample("b", sar=2.0, optical=3.0), sample("c", optical=4.0)]
    )
    assert list(batch["images"]) == ["optical", "sar"]
    assert batch["images"]["optical"].shape == (2, 2, 4, 4)
    assert batch["images"]["optical"][:, 0, 0, 0].tolist() == [3, 4]
    assert batch["images"]["sar"][:, 0, 0, 0].tolist() == [1, 2]
    assert batch["index"]["optical"].tolist() == [1, 2]
    assert batch["index"]["sar"].tolist() == [0, 1]
    assert batch["index"]["sar"].dtype == torch.int64
    assert batch["size"] == 3
    assert batch["keys"] == ["a", "b", "c"]
    assert "skipped" not in batch


def test_mixed_sources_make_mixed_batches(folders):
    pairs = FolderSource(folders(4, name="pairs"))
    single = FolderSource({"sar": folders(4, name="single")["sar"]})
    data, _ = dataset(ConcatSource([pairs, single]))
    (batch,) = epoch_batches(data, epochs=[0])[:1]
    for position, key in enumerate(batch["keys"]):
        assert position in batch["index"]["sar"]
        assert (position in batch["index"]["optical"]) == key.startswith("0/")


def test_what_cannot_be_a_batch_is_named():
    image = torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="samples must not be empty"):
        collate([])
    common = {"key": "a", "missing": {}, "repeated": False}
    with pytest.raises(ValueError, match=r"images of sar must be of one shape"):
        collate([{"images": {"sar": part}, **common} for part in (image, image[:, :2])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"window": 0}, "window must be"),
        ({"scale": (0.5, 1.5)}, "scale must be"),
        ({"scale": (0.8, 0.5)}, "scale must be"),
        ({"min_valid": 2}, "min_valid must be"),
    ],
)
def test_wrong_crops_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Crop(**arguments)


def test_wrong_arguments_are_named():
    source = ArraySource([{"sar": numbered(8, 8)}])
    with pytest.raises(ValueError, match=r"no sensor or normalizer is given for \['sar'\]"):
        ImageDataset(source, {}, {}, Crop(8))
    for options, message in (
        ({"on_error": "ignore"}, "on_error must be"),
        ({"indices": []}, "there are no samples"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset(source, **options)
    with pytest.raises(IndexError, match="no sample 1 among 1"):
        dataset(source)[0][1]
