# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

pytest.importorskip("rsvheat.evaluation.detection_scores")

from box_scenes import BOXES, SIZE, bright_rectangles, truth
from lightning.pytorch import Callback

from rsvheat.checkpoint import TrainedModel, finite_rows
from rsvheat.data import (
    ArraySource,
    Crop,
    DataModule,
    DatasetReader,
    DataSpec,
    LoaderOptions,
    Sensor,
    Split,
)
from rsvheat.data.sample import Boxes
from rsvheat.tasks import DetectionTask, OrientedDetectionTask
from rsvheat.tasks.evaluation import evaluate
from rsvheat.training import LastCheckpoint, Optimization

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
SMALL = {"channels": 16, "finest": 4, "proposals": 60, "regions": 64}
# Task and whether its boxes are oriented.
KINDS = [(DetectionTask, False), (OrientedDetectionTask, True)]


class Rectangles(ArraySource):
    """Bright rectangles; the last image has none."""

    classes = ("first", "second")

    def __init__(self, count, oriented, bands=3):
        self.target = "oriented_boxes" if oriented else "boxes"
        self.found, samples = [], []
        for number in range(count):
            chosen = BOXES[: 1 + number % len(BOXES)] if number < count - 1 else ()
            values = bright_rectangles(chosen).numpy() * 200
            noise = np.random.default_rng(number).integers(0, 20, values.shape)
            boxes, labels = truth(oriented, chosen)
            self.found.append(Boxes(boxes.numpy(), labels.numpy()))
            samples.append({"optical": (values + noise).astype(np.uint8)[:bands]})
        super().__init__(samples)

    def read_target(self, index, window):
        return self.found[index]


class Reader(DatasetReader):
    def __init__(self, oriented):
        self.oriented = oriented

    def splits(self, scan):
        return {
            "train": Split(scan(Rectangles(8, self.oriented))),
            "val": Split(scan(Rectangles(5, self.oriented))),
        }

    def sensors(self):
        return {"optical": Sensor(3)}


def module(oriented, batch=4):
    return DataModule(
        Reader(oriented),
        crop=Crop(SIZE, None, augment=False),
        loader=LoaderOptions(batch_size=batch, num_workers=0),
    )


def make(kind, data, lr=1e-2, **options):
    torch.manual_seed(0)
    return kind(
        data.spec,
        encoder_options=TINY,
        optimization=Optimization(lr=lr, warmup=0.1),
        **{"model_options": SMALL, **options},
    )


@pytest.mark.parametrize(("kind", "oriented"), KINDS)
def test_training_finds_boxes_and_comes_back(kind, oriented, trainer, tmp_path):
    data = module(oriented, batch=2)
    task = make(kind, data)
    last = LastCheckpoint(tmp_path / "run")
    run = trainer(max_epochs=20, callbacks=[last], check_val_every_n_epoch=20)
    run.fit(task, data)
    logged = dict(run.callback_metrics)
    assert {"train/loss", "train/classes", "train/boxes", "val/loss", task.monitor} <= set(logged)
    assert logged[task.monitor] > 0.2  # 0 without training
    run.test(task, data, verbose=False)
    assert task.scores.images == 5
    assert task.scores[task.monitor.partition("/")[2]] == pytest.approx(float(logged[task.monitor]))

    trained = TrainedModel.load(last.path, device="cpu")
    assert trained.task == task.network.task
    x = {"optical": torch.randn(2, 3, 50, 70)}
    for one, other in zip(trained.network.predict(x), task.eval().network.predict(x), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    scores = evaluate(module(oriented), str(last.path), output=str(tmp_path / "scores"))
    assert scores[trained.task].to_dict() == task.scores.to_dict()
    for end in (".json", ".csv", ".png", "_errors.png", "_worst.png"):
        assert (tmp_path / f"scores/{trained.task}{end}").exists()
    again = kind.load_from_checkpoint(last.path)
    assert again.network.config == trained.network.config
    predicted = trained.predict(np.uint8(200 * bright_rectangles().numpy()))
    assert len(predicted.boxes) > 0
    assert predicted.classes == ("first", "second")


class GoneError(Exception):
    pass


class Stop(Callback):
    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == 3:
            raise GoneError


@pytest.mark.parametrize(("kind", "oriented"), KINDS)
def test_a_resumed_run_ends_with_the_same_bits(kind, oriented, trainer, tmp_path):
    """Anchors and proposals are sampled at random in each step."""

    def fit(*callbacks, resume=None):
        torch.manual_seed(0)
        data = module(oriented)
        task = make(kind, data)
        run = trainer(max_epochs=2, callbacks=[LastCheckpoint(tmp_path), *callbacks])
        run.fit(task, data, ckpt_path=resume)
        return {**task.network.state_dict(), **run.callback_metrics}

    whole = fit()
    with pytest.raises(GoneError):
        fit(Stop())
    resumed = fit(resume=str(tmp_path / "last.ckpt"))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_values_that_are_not_finite_stop_training_and_scoring(trainer):
    data = module(False)
    task = make(DetectionTask, data)
    with torch.no_grad():
        task.network.head.rpn.head.bbox_pred.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the loss is not finite at epoch 0, batch 0"):
        trainer(max_epochs=1, num_sanity_val_steps=0).fit(task, data)
    with pytest.raises(FloatingPointError, match=r"the network's result for .* is not finite"):
        trainer().test(task, data, verbose=False)
    assert finite_rows(task.network.predict({"optical": torch.zeros(1, 3, 32, 32)})) == [False]


def test_repeated_samples_are_not_scored():
    data = module(False, batch=5)
    task = make(DetectionTask, data).eval()
    data.setup()
    batch = next(iter(data.val_dataloader()))
    repeated = torch.tensor([False, False, True, True, True])
    task.update_scores(task(batch), {**batch, "repeated": repeated})
    assert task.compute_scores().images == 2


def test_data_of_another_kind_is_refused():
    spec = DataSpec({"optical": 3}, "oriented_boxes", ("a",), (32, 32))
    with pytest.raises(ValueError, match="learns from annotation of the kind 'boxes'"):
        DetectionTask(spec, encoder_options=TINY)
