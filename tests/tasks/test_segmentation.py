# SPDX-License-Identifier: Apache-2.0
import csv
import json
import warnings

import pytest
import torch
from fields import SMALL, TINY, Changes, Fields, Reader, module

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError, DataSpec
from rsvheat.tasks import ChangeDetectionTask, SegmentationTask
from rsvheat.tasks.evaluation import evaluate
from rsvheat.training import LastCheckpoint, Optimization, Run


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
    scores = evaluate(fresh, str(last.path), output=str(tmp_path / "scores"), panels=2)
    trainer().test(task, one_sensor, verbose=False)
    assert scores["segmentation"] == task.scores
    assert trained.temperature == task.temperature != 1
    assert {path.name.removeprefix("segmentation") for path in (tmp_path / "scores").iterdir()} == {
        *(".csv", ".json", ".png", "_calibration.json", "_calibration.png"),
        *("_images.csv", "_worst.png"),
    }
    with (tmp_path / "scores/segmentation_images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = [float(row["mean_iou"]) for row in rows]
    assert means == sorted(means)
    assert sum(int(row["pixels"]) for row in rows) == 4 * 64 * 80
    right = sum(int(row["pixels"]) * float(row["overall_accuracy"]) for row in rows)
    assert right / (4 * 64 * 80) == pytest.approx(task.scores["overall_accuracy"])
    calibration = json.loads((tmp_path / "scores/segmentation_calibration.json").read_text())
    assert sum(calibration["count"]) == 4 * 64 * 80
    assert calibration["temperature"] == task.temperature
    plain = calibration["without_temperature"]["expected_calibration_error"]
    assert calibration["expected_calibration_error"] < plain  # it was fitted on these images
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
        mean = task._turned(batch).softmax(1)
        turned = {"optical": torch.rot90(batch["images"]["optical"].flip(-1), 1, (-2, -1))}
        other = task._turned({**batch, "images": turned}).softmax(1)
    expected = torch.rot90(mean.flip(-1), 1, (-2, -1))
    torch.testing.assert_close(other, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mean, task(batch).softmax(1), atol=1e-3)


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
        ({"absent_classes": "skip"}, "absent_classes must be one of .*, got 'skip'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    spec = DataSpec({"optical": 1}, "mask", ("ground", "field", "roof"), (32, 32))
    with pytest.raises(ValueError, match=message):
        SegmentationTask(spec, **{**SMALL, **options})


def test_each_sensor_is_scored_alone(trainer, tmp_path):
    data = module(Reader(Fields, ("optical", "sar")))
    task = SegmentationTask(data.spec, modality_dropout=0.5, background="ground", **SMALL)
    last = LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, data)

    def scores(**options):
        fresh = module(Reader(Fields, ("optical", "sar")))
        return evaluate(fresh, str(last.path), output=str(tmp_path / "scores"), **options)

    both, alone = scores(panels=0), scores(sensors=["sar"], turns=True, background="roof", panels=0)
    assert list(alone) == ["segmentation_sar"]
    assert alone["segmentation_sar"].confusion != both["segmentation"].confusion
    assert both["segmentation"].background == "ground"  # as in training
    assert alone["segmentation_sar"].background == "roof"
    about = json.loads((tmp_path / "scores/segmentation_sar.json").read_text())
    assert (about["sensors"], about["turns"]) == (["sar"], True)
    assert "sensors" not in json.loads((tmp_path / "scores/segmentation.json").read_text())
    with pytest.raises(ValueError, match=r"sensors must be some of optical, sar, got \['lidar'\]"):
        scores(sensors=["lidar"])


def test_classes_that_are_never_seen_are_named(trainer):
    class Few(Fields):
        classes = ("ground", "field", "roof", "sea")

    data = module(Reader(Few, ("optical",)), crops=1)
    task = SegmentationTask(data.spec, panels=0, class_weights="square_root", **SMALL)
    with pytest.warns(UserWarning, match="training samples is of sea: the network learns never"):
        trainer(max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0).fit(task, data)
    weights = task.loss.class_weights
    assert float(weights[3]) == float(weights.max())
    for choice in ("raise", "ignore"):
        task = SegmentationTask(data.spec, panels=0, absent_classes=choice, **SMALL)
        run = trainer(max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "no pixel of the first epoch")
            if choice == "ignore":
                run.fit(task, data)
                continue
            with pytest.raises(DataError, match="training samples is of sea; absent_classes="):
                run.fit(task, data)


def test_a_result_that_is_not_finite_is_no_class(one_sensor, trainer):
    task = SegmentationTask(one_sensor.spec, **SMALL)
    with torch.no_grad():
        next(task.network.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="result for 000000@0_0 is not finite"):
        trainer().test(task, one_sensor, verbose=False)


def test_bfloat16_trains_and_scores(one_sensor, trainer):
    task = SegmentationTask(one_sensor.spec, optimization=Optimization(lr=1e-2), **SMALL)
    run = trainer(max_epochs=3, precision="bf16-mixed")
    run.fit(task, one_sensor)
    assert run.callback_metrics["val/mean_iou"] > 0.3
    assert 0.05 < task.temperature < 20
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters())


def test_frozen_stages_stay_and_deeper_layers_learn_faster(one_sensor, trainer):
    task = SegmentationTask(
        one_sensor.spec, frozen_stages=2, layer_decay=0.5, panels=0,
        optimization=Optimization(lr=1e-2, warmup=0.0), **SMALL,
    )  # fmt: skip
    before = {name: value.clone() for name, value in task.named_parameters()}
    trainer(max_epochs=1, limit_val_batches=0).fit(task, one_sensor)
    moved = {n: float((v - before[n]).detach().abs().mean()) for n, v in task.named_parameters()}
    frozen = [n for n in moved if "encoder.stems" in n or "stages.0" in n or "stages.1" in n]
    assert frozen
    assert all(moved[name] == 0 for name in frozen)
    weight = "network.encoder.stages.{}.blocks.0.mlp.fc1.weight"
    assert 0 < moved[weight.format(2)] < moved[weight.format(3)]


def test_the_best_checkpoint_is_of_the_best_validation(one_sensor, trainer, tmp_path):
    """Validations lie within an epoch, and the run ends after two without progress."""

    class Worse(SegmentationTask):
        def compute_scores(self):
            # Of the second validation on, the scores become worse.
            scores = super().compute_scores()
            self.validations = getattr(self, "validations", 0) + 1
            rows = [list(row) for row in scores.confusion]
            rows[0][1] += 10_000 * abs(self.validations - 2)
            return type(scores)(scores.classes, tuple(map(tuple, rows)))

    task = Worse(one_sensor.spec, panels=0, optimization=Optimization(lr=1e-3), **SMALL)
    run = Run(tmp_path / "run", monitor=task.monitor, mode=task.mode, patience=2)
    options = {"max_epochs": 5, "val_check_interval": 3, "num_sanity_val_steps": 0}
    fitted = trainer(**{**run.trainer_arguments(), **options})
    fitted.fit(task, one_sensor)
    assert fitted.global_step == 7 + 6  # of 35: validated after steps 3, 6, 10 and 13
    best = torch.load(tmp_path / "run/best.ckpt", weights_only=True)
    assert best["global_step"] == 6
    assert (tmp_path / "run/last.ckpt").exists()
