# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import (
    ArraySource,
    Crop,
    DataModule,
    DatasetReader,
    DataSpec,
    LoaderOptions,
    Split,
)
from rsvheat.tasks import ChangeDetectionTask, SegmentationTask
from rsvheat.tasks.evaluation import evaluate
from rsvheat.training import LastCheckpoint, Optimization

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
SMALL = {"encoder_options": TINY, "decoder": "fpn", "model_options": {"channels": 16}}


class Fields(ArraySource):
    """Dark rectangles and bright ones on a gray ground: class 1 and class 2."""

    target, classes = "mask", ("ground", "field", "roof")

    def __init__(self, count, seed, names):
        rng = np.random.default_rng(seed)
        self.masks, samples = [], []
        for _ in range(count):
            mask = np.zeros((64, 80), np.uint8)
            for label in (1, 2):
                top, left = rng.integers(0, 40, 2)
                mask[top : top + 24, left : left + 24] = label
            image = np.choose(mask, [100, 20, 200]) + rng.integers(0, 30, mask.shape)
            self.masks.append(mask)
            samples.append({name: image[None].astype(np.uint8) for name in names})
        super().__init__(samples)

    def read_target(self, index, window):
        rows = slice(window.top, window.top + window.height)
        return self.masks[index][rows, window.left : window.left + window.width]


class Changes(Fields):
    """The date after has one more roof, which is the change."""

    classes = ("no change", "change")

    def __init__(self, count, seed, names=("before", "after")):
        super().__init__(count, seed, names)
        for mask, sample in zip(self.masks, self._samples, strict=True):
            changed = mask == 2
            sample["before"] = np.where(changed[None], 110, sample["before"]).astype(np.uint8)
            mask[:] = changed


class Reader(DatasetReader):
    def __init__(self, source, *arguments):
        self.make = lambda count, seed: source(count, seed, *arguments)

    def splits(self, scan):
        return {"train": Split(scan(self.make(12, 0))), "val": Split(scan(self.make(4, 1)))}

    def sensors(self):
        from rsvheat.data import Sensor

        return {name: Sensor(1) for name in self.make(1, 0).modalities}


def module(reader, **options):
    return DataModule(
        reader,
        crop=Crop(32, 32),
        loader=LoaderOptions(batch_size=8, num_workers=0),
        **options,
    )


@pytest.fixture
def one_sensor():
    return module(Reader(Fields, ("optical",)))


@pytest.mark.parametrize("decoder", ["upernet", "fpn"])
def test_training_learns_the_classes_of_pixels(one_sensor, trainer, decoder):
    options = {"encoder_options": TINY, "decoder": decoder, "model_options": {"channels": 16}}
    task = SegmentationTask(one_sensor.spec, optimization=Optimization(lr=1e-2), **options)
    run = trainer(max_epochs=10)
    run.fit(task, one_sensor)
    logged = dict(run.callback_metrics)
    assert {"val/loss", "val/mean_f1", "train/decoder"} <= set(logged)
    assert ("train/auxiliary" in logged) == (decoder == "upernet")
    assert logged["val/mean_iou"] > 0.5  # chance is below 0.3; measured: 0.58 and 0.8
    run.test(task, one_sensor, verbose=False)
    assert task.scores["mean_iou"] == pytest.approx(float(logged["val/mean_iou"]))
    assert task.scores.pixels == 4 * 64 * 80  # each once, whatever the tiles


def test_an_epoch_covers_the_images(one_sensor):
    one_sensor.setup()
    assert len(one_sensor.datasets["train"]) == 12 * 5  # 64 x 80 in crops of 32 x 32
    more = module(Reader(Fields, ("optical",)), crops=3, overlap=0)
    more.setup()
    assert len(more.datasets["train"]) == 36
    assert len(more.datasets["val"]) == 4 * 2 * 3


def test_a_trained_segmentation_comes_back_and_is_evaluated(one_sensor, trainer, tmp_path):
    task = SegmentationTask(one_sensor.spec, optimization=Optimization(lr=5e-3), **SMALL)
    last = LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, one_sensor)
    trained = TrainedModel.load(last.path, device="cpu")
    assert trained.task == "segmentation"
    assert trained.window == 32
    x = {"optical": torch.randn(1, 1, 40, 50)}
    assert torch.equal(trained.network.predict(x), task.eval().network.predict(x))
    fresh = module(Reader(Fields, ("optical",)))
    scores = evaluate(fresh, str(last.path), output=str(tmp_path / "scores"))
    trainer().test(task, one_sensor, verbose=False)
    assert scores["segmentation"] == task.scores
    assert (tmp_path / "scores/segmentation.png").exists()
    again = SegmentationTask.load_from_checkpoint(last.path)
    assert torch.equal(again.eval().network.predict(x), trained.network.predict(x))


def test_class_weights_are_those_of_the_training_masks(one_sensor, trainer):
    task = SegmentationTask(
        one_sensor.spec, class_weights="median", losses={"cross_entropy": 1.0, "dice": 0.5}, **SMALL
    )
    trainer(max_epochs=1).fit(task, one_sensor)
    weights = task.loss.class_weights
    assert weights[0] < weights[1]
    assert weights[0] < weights[2]
    counts = one_sensor.class_counts()
    assert sum(counts) == 60 * 32 * 32
    assert counts[0] > max(counts[1:])


def test_turned_versions_are_averaged(one_sensor, trainer):
    task = SegmentationTask(one_sensor.spec, turns=True, **SMALL).eval()
    one_sensor.setup()
    batch = next(iter(one_sensor.val_dataloader()))
    with torch.no_grad():
        mean = task._turned(batch)
        turned = {"optical": torch.rot90(batch["images"]["optical"].flip(-1), 1, (-2, -1))}
        other = task._turned({**batch, "images": turned})
    expected = torch.rot90(mean.flip(-1), 1, (-2, -1))
    torch.testing.assert_close(other, expected, atol=1e-4, rtol=1e-4)
    assert torch.allclose(mean.sum(1), torch.full_like(mean[:, 0], 8.0), atol=1e-4)


def test_either_sensor_may_be_missing(trainer):
    data = module(Reader(Fields, ("optical", "sar")))
    task = SegmentationTask(
        data.spec, modality_dropout=0.5, optimization=Optimization(lr=5e-3), **SMALL
    )
    run = trainer(max_epochs=4)
    run.fit(task, data)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    task.eval()
    with torch.no_grad():
        for name in ("optical", "sar"):
            alone = {**batch, "images": {name: batch["images"][name]}}
            alone["index"] = {name: batch["index"][name]}
            predicted = task(alone).argmax(1)
            counted = batch["mask"] != 255
            assert (predicted == batch["mask"])[counted].float().mean() > 0.7


@pytest.mark.parametrize("swap", [0.0, 0.5])
def test_change_is_found_between_dates(trainer, swap):
    data = module(Reader(Changes))
    assert data.spec.modalities == {"before": 1, "after": 1}
    task = ChangeDetectionTask(data.spec, swap=swap, optimization=Optimization(lr=1e-2), **SMALL)
    assert dict(task.network.encoder.modalities) == {"optical": 1}
    run = trainer(max_epochs=6)
    run.fit(task, data)
    found = float(run.callback_metrics["val/change_f1"])
    assert found > 0.6
    run.test(task, data, verbose=False)
    assert task.scores["change_f1"] == pytest.approx(found)


def test_dates_of_different_sensors_have_stems_of_their_own(trainer, tmp_path):
    data = module(Reader(Changes))
    dates = {"before": "optical", "after": "sar"}
    task = ChangeDetectionTask(data.spec, dates=dates, **SMALL)
    assert dict(task.network.encoder.modalities) == {"optical": 1, "sar": 1}
    last = LastCheckpoint(tmp_path)
    trainer(max_epochs=1, callbacks=[last]).fit(task, data)
    trained = TrainedModel.load(last.path, device="cpu")
    assert trained.network.dates == dates
    with pytest.raises(ValueError, match="0 for dates of different stems"):
        ChangeDetectionTask(data.spec, dates=dates, swap=0.5, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "sea"}, "background must be one of ground, field, roof, got 'sea'"),
        ({"decoder": "unet"}, "decoder must be one of"),
        ({"losses": "hinge"}, "terms must be of"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    spec = DataSpec({"optical": 1}, "mask", ("ground", "field", "roof"), (32, 32))
    with pytest.raises(ValueError, match=message):
        SegmentationTask(spec, **{**SMALL, **options})
