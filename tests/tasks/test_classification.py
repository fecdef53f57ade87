# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from lightning.pytorch import Callback

import rsvheat
from rsvheat.data import ImageFolderDataModule
from rsvheat.evaluation.evaluate import evaluate
from rsvheat.tasks import (
    ClassificationTask,
    create_classification_task,
    load_classifier,
    saved_normalizers,
)
from rsvheat.training import LastCheckpoint, Optimization, Run

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.fixture
def data(scenes):
    return ImageFolderDataModule(
        str(scenes), size=32, batch_size=12, num_workers=0, val_fraction=0.25
    )


@pytest.fixture
def classifier(data):
    def make(**options):
        data.setup()
        return create_classification_task(
            data.classes,
            **{
                "img_size": 32,
                "encoder_options": TINY,
                "optimization": Optimization(lr=3e-3, betas=(0.9, 0.999)),
                **options,
            },
        )

    return make


def test_training_learns_the_classes(classifier, data, trainer):
    task = classifier()
    run = trainer(max_epochs=15)
    run.fit(task, data)
    logged = dict(run.callback_metrics)
    assert {"val/loss", "val/f1", "train/accuracy", "lr"} <= set(logged)
    assert logged["val/accuracy"] >= 0.6  # chance is 0.25; measured: 0.83
    run.test(task, data, verbose=False)
    assert task.scores.accuracy == pytest.approx(float(logged["val/accuracy"]))
    assert sum(task.scores.support) == len(data.datasets["val"])


def test_rates_fall_with_the_distance_to_the_head(classifier, data, trainer):
    task = classifier(layer_decay=0.5)
    rates = {}

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            names = {id(p): name for name, p in pl_module.network.named_parameters()}
            for group in trainer.optimizers[0].param_groups:
                for parameter in group["params"]:
                    rates[names[id(parameter)]] = group["initial_lr"]

    trainer(max_epochs=1, callbacks=[Watch()]).fit(task, data)
    assert rates["head.fc.weight"] == pytest.approx(3e-3)
    assert rates["stages.3.blocks.0.mlp.fc1.weight"] == pytest.approx(3e-3 / 2)
    assert rates["stems.optical.conv1.weight"] == pytest.approx(3e-3 / 2**5)
    assert set(rates) == {name for name, _ in task.network.named_parameters()}


def test_mixup_blends_images_and_targets(classifier, data):
    task = classifier(mixup=1.0, label_smoothing=0.0)
    logged = {}
    task.log_step = lambda values, batch_idx: logged.update(values)
    task.trainer = type("T", (), {"current_epoch": 0, "global_rank": 0})()
    batch = next(iter(data.train_dataloader()))
    seen = []
    task.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task.network.eval()
    loss = task.training_step(batch, 0)
    (blend,) = seen
    # Each blend is a x + (1 - a) y of one share a for all, and the loss that of both labels.
    flat, images = blend.flatten(1), batch["image"].flatten(1)
    solution = torch.linalg.lstsq(images.T, flat.T).solution.T
    share = min(solution.diagonal().tolist(), key=lambda value: abs(value - 0.5))
    partner = (solution - share * torch.eye(len(images))).argmax(1)
    torch.testing.assert_close(
        share * images + (1 - share) * images[partner], flat, atol=1e-3, rtol=1e-3
    )
    logits = task.network(blend)
    expected = share * torch.nn.functional.cross_entropy(logits, batch["label"]) + (
        1 - share
    ) * torch.nn.functional.cross_entropy(logits, batch["label"][partner])
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-3)


def test_a_pretrained_encoder_starts_a_classifier(
    classifier, pretraining, pair_data, trainer, tmp_path
):
    source, last = pretraining(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(source, pair_data())
    task = classifier(checkpoint=last.path, encoder_options=None)
    assert task.network.dims == source.network.encoder.dims
    assert list(task.network.modalities) == ["optical"]
    weights = dict(source.network.encoder.named_parameters())
    for name, parameter in task.network.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(parameter, weights[name]), name


def test_a_classifier_comes_back_with_its_normalisation(classifier, data, trainer, tmp_path):
    task, last = classifier(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, data)
    loaded = load_classifier(last.path)
    assert loaded.classes == task.classes == tuple(data.classes)
    assert loaded.modality == "optical"
    assert not loaded.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), task.eval()(x))
    saved = saved_normalizers(last.path)["optical"]
    assert saved.to_dict() == data.normalizers["optical"].to_dict()


def test_only_classifiers_are_loaded_as_such(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.ckpt")
    with pytest.raises(rsvheat.models.CheckpointError, match="no checkpoint of fine-tuning"):
        load_classifier(tmp_path / "a.ckpt")
    assert saved_normalizers(tmp_path / "a.ckpt") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"mixup": -1.0}, "mixup at least 0"),
        ({"encoder_options": {**TINY, "num_classes": 3}}, "3 classes, and"),
    ],
)
def test_wrong_arguments_are_named(classifier, options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


def test_the_best_checkpoint_is_kept_and_patience_ends_a_run(classifier, data, trainer, tmp_path):
    task = classifier(optimization=Optimization(lr=1e-12, warmup=0))  # stays as it is
    run = Run(tmp_path / "run", monitor="val/accuracy", mode="max", patience=2)
    fitted = trainer(**{**run.trainer_arguments(), "max_epochs": 20})
    fitted.fit(task, data)
    assert fitted.current_epoch == 3
    best = torch.load(tmp_path / "run/best.ckpt", weights_only=True)
    last = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert best["epoch"] == 0
    assert last["epoch"] == 2


def test_evaluation_scores_what_it_is_asked_for(classifier, data, trainer, tmp_path):
    task, last = classifier(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=3, callbacks=[last]).fit(task, data)
    scores = evaluate(data, str(last.path), output=str(tmp_path / "scores"), device="cpu")
    assert set(scores) == {"classifier"}
    trainer().test(task, data, verbose=False)
    assert scores["classifier"] == task.scores
    about = json.loads((tmp_path / "scores/classifier.json").read_text())
    assert about["checkpoint"] == str(last.path)
    assert about["images"] == "val"
    probes = evaluate(
        data, str(last.path), methods=["knn", "linear"], neighbours=3, output=None, device="cpu"
    )
    assert set(probes) == {"knn", "linear"}
    random = [evaluate(data, output=None, device="cpu")["linear"] for _ in range(2)]
    assert random[0] == random[1]


def test_a_classifier_of_other_classes_is_refused(classifier, data, trainer, tmp_path, scenes):
    task, last = classifier(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, data)
    content = torch.load(last.path, weights_only=True)
    content["classifier"]["classes"][0] = "another"
    torch.save(content, last.path)
    with pytest.raises(ValueError, match="is for the classes another"):
        evaluate(data, str(last.path), output=None)
    with pytest.raises(ValueError, match="needs a checkpoint"):
        evaluate(data, methods=["classifier"], output=None)
    held = ImageFolderDataModule(str(scenes), size=32, val_fraction=0.0, num_workers=0)
    with pytest.raises(ValueError, match="nothing is held out"):
        evaluate(held, output=None)


def test_heads_must_fit_the_classes():
    encoder = rsvheat.create_model("rsvheat_nano", num_classes=4, img_size=32)
    with pytest.raises(ValueError, match="4 classes, and 2 are named: a, b"):
        ClassificationTask(encoder, ["a", "b"])


def test_weights_of_the_package_start_a_classifier(data):
    task = create_classification_task(["a", "b"], pretrained=True, img_size=64)
    packaged = dict(rsvheat.create_model("rsvheat_nano", pretrained=True).named_parameters())
    for name, parameter in task.network.named_parameters():
        if not name.startswith("head.fc"):
            assert torch.equal(parameter, packaged[name]), name
    assert task.network.num_classes == 2
    scores = evaluate(data, pretrained=True, methods=["linear"], output=None, device="cpu")
    assert scores != evaluate(data, methods=["linear"], output=None, device="cpu")


def test_weights_come_from_one_place(data):
    with pytest.raises(ValueError, match="not both"):
        create_classification_task(["a", "b"], checkpoint="a.ckpt", pretrained=True)
    with pytest.raises(ValueError, match="not both"):
        evaluate(data, "a.ckpt", pretrained=True, methods=["knn"], output=None)
