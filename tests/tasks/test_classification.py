# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from lightning.pytorch import Callback
from utils import data_module

import rsvheat
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import ClassFolders, DataSpec
from rsvheat.tasks import ClassificationTask
from rsvheat.tasks.evaluation import evaluate
from rsvheat.training import LastCheckpoint, Optimization, Run

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.fixture
def data(scenes):
    return data_module(ClassFolders, str(scenes), size=32, batch_size=12, val_fraction=0.25)


@pytest.fixture
def classifier(data):
    def make(**options):
        return ClassificationTask(
            data.spec,
            **{
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
    assert rates["encoder.head.fc.weight"] == pytest.approx(3e-3)
    assert rates["encoder.stages.3.blocks.0.mlp.fc1.weight"] == pytest.approx(3e-3 / 2)
    assert rates["encoder.stems.optical.conv1.weight"] == pytest.approx(3e-3 / 2**5)
    assert set(rates) == {name for name, _ in task.network.named_parameters()}


def test_mixup_blends_images_and_targets(classifier, data):
    task = classifier(mixup=1.0, label_smoothing=0.0)
    logged = {}
    task.log_step = lambda values, batch_idx: logged.update(values)
    task.trainer = type("T", (), {"current_epoch": 0, "global_rank": 0})()
    batch = next(iter(data.train_dataloader()))
    seen = []
    task.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["optical"]))
    task.network.eval()
    loss = task.training_step(batch, 0)
    (blend,) = seen
    # Each blend is a x + (1 - a) y of one share a for all, and the loss that of both labels.
    flat, images = blend.flatten(1), batch["images"]["optical"].flatten(1)
    solution = torch.linalg.lstsq(images.T, flat.T).solution.T
    share = min(solution.diagonal().tolist(), key=lambda value: abs(value - 0.5))
    partner = (solution - share * torch.eye(len(images))).argmax(1)
    torch.testing.assert_close(
        share * images + (1 - share) * images[partner], flat, atol=1e-3, rtol=1e-3
    )
    logits = task.network({"optical": blend})
    expected = share * torch.nn.functional.cross_entropy(logits, batch["label"]) + (
        1 - share
    ) * torch.nn.functional.cross_entropy(logits, batch["label"][partner])
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-3)


def test_a_pretrained_encoder_starts_a_classifier(
    classifier, pretraining, pair_data, trainer, tmp_path
):
    source, last = pretraining(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(source, pair_data())
    task = classifier(checkpoint=str(last.path), encoder_options=None)
    encoder = task.network.encoder
    assert encoder.dims == source.network.encoder.dims
    assert list(encoder.modalities) == ["optical"]
    weights = dict(source.network.encoder.named_parameters())
    for name, parameter in encoder.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(parameter, weights[name]), name


def test_a_classifier_comes_back_with_its_normalisation(classifier, data, trainer, tmp_path):
    task, last = classifier(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, data)
    trained = TrainedModel.load(last.path, device="cpu")
    assert trained.task == "classification"
    assert trained.spec == task.spec == data.spec
    x = {"optical": torch.randn(2, 3, 32, 32)}
    assert torch.equal(trained.network(x), task.eval().network(x))
    assert trained.normalizers == data.normalizers
    assert trained.window is None
    # As Lightning's users do, and without the weights that it started from.
    again = ClassificationTask.load_from_checkpoint(last.path)
    assert torch.equal(again.eval().network(x), task.network(x))
    assert again.optimization == task.optimization


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"mixup": -1.0}, "mixup at least 0"),
        ({"encoder_options": {**TINY, "num_classes": 3}}, "num_classes is 4, and"),
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4, got 5"),
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
    assert set(scores) == {"classification"}
    trainer().test(task, data, verbose=False)
    assert scores["classification"] == task.scores
    about = json.loads((tmp_path / "scores/classification.json").read_text())
    assert about["checkpoint"] == str(last.path)
    assert about["images"] == "val"
    probes = evaluate(
        data, str(last.path), methods=["knn", "linear"], neighbors=3, output=None, device="cpu"
    )
    assert set(probes) == {"knn", "linear"}
    random = [evaluate(data, output=None, device="cpu")["linear"] for _ in range(2)]
    assert random[0] == random[1]


def test_classes_are_matched_by_name(classifier, data, trainer, tmp_path, scenes):
    task, last = classifier(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=3, callbacks=[last]).fit(task, data)
    expected = evaluate(data, str(last.path), output=None)["classification"]
    content = torch.load(last.path, weights_only=True)
    head = content["state_dict"]
    order = [2, 0, 3, 1]
    content["rsvheat"]["spec"]["classes"] = [data.spec.classes[i] for i in order]
    for name in ("weight", "bias"):
        key = f"network.encoder.head.fc.{name}"
        head[key] = head[key][order]
    torch.save(content, tmp_path / "permuted.ckpt")

    def fresh(**options):
        options = {"size": 32, "batch_size": 12, "val_fraction": 0.25, **options}
        return data_module(ClassFolders, str(scenes), **options)

    found = evaluate(fresh(), str(tmp_path / "permuted.ckpt"), output=None)["classification"]
    assert found.accuracy == expected.accuracy
    assert [found.f1[found.classes.index(name)] for name in expected.classes] == list(expected.f1)
    content["rsvheat"]["spec"]["classes"][0] = "another"
    torch.save(content, last.path)
    with pytest.raises(ValueError, match="is for the classes another"):
        evaluate(fresh(), str(last.path), output=None)
    with pytest.raises(ValueError, match="needs a checkpoint"):
        evaluate(fresh(), methods=["task"], output=None)
    with pytest.raises(ValueError, match="nothing is held out"):
        evaluate(fresh(val_fraction=0.0), output=None)


def test_frozen_stages_stay_as_they_were(classifier, data, trainer):
    task = classifier(frozen_stages=2, encoder_options={**TINY, "drop_path": 0.5})
    before = {name: value.clone() for name, value in task.network.named_parameters()}
    trainer(max_epochs=1).fit(task, data)
    changed = {
        name for name, value in task.network.named_parameters()
        if not torch.equal(value, before[name])
    }  # fmt: skip
    frozen = ("encoder.stems", "encoder.stages.0.", "encoder.stages.1.")
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("encoder.stages.2.") for name in changed)
    assert "encoder.head.fc.weight" in changed


def test_data_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="of the kind 'label', and the data set has 'mask'"):
        ClassificationTask(DataSpec({"optical": 3}, "mask", ["a", "b"]))


def test_weights_of_the_package_start_a_classifier(data):
    spec = DataSpec({"optical": 3}, "label", ["a", "b"], (64, 64))
    task = ClassificationTask(spec, pretrained=True)
    packaged = dict(rsvheat.create_model("rsvheat_nano", pretrained=True).named_parameters())
    for name, parameter in task.network.encoder.named_parameters():
        if not name.startswith("head.fc"):
            assert torch.equal(parameter, packaged[name]), name
    scores = evaluate(data, pretrained=True, methods=["linear"], output=None, device="cpu")
    assert scores != evaluate(data, methods=["linear"], output=None, device="cpu")


def test_weights_come_from_one_place(data, tmp_path):
    with pytest.raises(ValueError, match="not both"):
        ClassificationTask(data.spec, checkpoint="a.ckpt", pretrained=True)
    torch.save({"model": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not both"):
        evaluate(data, str(tmp_path / "a.ckpt"), pretrained=True, methods=["knn"], output=None)
