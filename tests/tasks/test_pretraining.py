# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

import rsvheat
from rsvheat.checkpoint import load_encoder
from rsvheat.tasks import pictures
from rsvheat.training import LastCheckpoint, Optimization

PARTS = {"loss", "spatial", "frequency", "contrastive", "feature_std", "effective_rank"}


@pytest.mark.parametrize("objective", ["contrastive", "paper"])
def test_training_lowers_the_loss(pretraining, pair_data, trainer, objective):
    task = pretraining(objective=objective, optimization=Optimization(lr=3e-3), images_every=0)
    means = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            means.append(pl_module.epoch_means.compute(trainer)["loss"])

    trainer(max_epochs=12, callbacks=[Watch()]).fit(task, pair_data())
    assert sum(means[-3:]) < 0.95 * sum(means[:3])


def test_parts_statistics_and_rates_are_logged(pretraining, pair_data, trainer):
    run = trainer(max_epochs=1)
    run.fit(pretraining(), pair_data())
    logged = {name for name in run.callback_metrics if name.startswith("train/")}
    assert logged == {f"train/{part}" for part in PARTS} | {f"train/{p}_epoch" for p in PARTS}
    assert 0 < run.callback_metrics["lr"] < 1e-3


def test_other_images_are_scored_without_touching_the_weights(pretraining, pair_data, trainer):
    task, data = pretraining(), pair_data(val_fraction=0.3)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    first, second = (trainer().validate(task, data, verbose=False)[0] for _ in range(2))
    assert first == second
    assert set(first) == {f"val/{part}" for part in PARTS}
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_masks_follow_from_seed_epoch_and_batch(pretraining):
    def draw(task, epoch, batch):
        task.trainer = type("T", (), {"current_epoch": epoch, "global_rank": 0})()
        task.on_train_batch_start(None, batch)  # for stochastic depth
        masks = torch.rand(4, generator=task._generator(task.step_seed(batch, 1)))
        return [*masks.tolist(), *torch.rand(4).tolist()]

    one, same, other = pretraining(), pretraining(), pretraining(seed=1)
    drawn = [draw(one, 0, 0), draw(one, 0, 1), draw(one, 1, 0), draw(other, 0, 0)]
    assert len({value for values in drawn for value in values}) == 32
    assert draw(same, 1, 0) == drawn[2]


def test_pictures_show_image_bands_and_reconstruction(pretraining, pair_data):
    task, data = pretraining(), pair_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    output = task.network(batch["images"], batch["index"], with_images=True)
    shown = pictures(output, 3)
    assert set(shown) == set(batch["images"])
    for name, picture in shown.items():
        rows = min(3, len(output.target[name]))
        assert picture.shape == (3, rows * 32, 4 * 32)
        assert picture.min() >= 0
        assert picture.max() <= 1
        # The first column is the image, stretched to its own range.
        target = output.target[name][0]
        low, high = target.aminmax()
        expected = ((target - low) / (high - low)).expand(3, -1, -1)
        torch.testing.assert_close(picture[:, :32, :32], expected)


def test_pictures_reach_tensorboard_and_change_nothing(pretraining, pair_data, trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    weights = []
    for every in (0, 1):
        torch.manual_seed(3)
        task = pretraining(images_every=every, images=2)
        logger = TensorBoardLogger(tmp_path / str(every), name="", version="")
        trainer(logger=logger).fit(task, pair_data())
        weights.append([value.clone() for value in task.state_dict().values()])
        events = EventAccumulator(str(tmp_path / str(every)))
        events.Reload()
        steps = {
            tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]
        }
        expected = {"images/optical": [0, 5], "images/sar": [0, 5]} if every else {}
        assert steps == expected
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_position": "post", "layer_scale": 1e-5, "output_norms": True},
        {"freq_embed": "implicit", "reference_gsd": 10.0, "mlp_ratio": 2.0},
        {"spatial_correction": False, "freq_resize": "bicubic", "global_pool": ""},
    ],
)
def test_an_encoder_is_rebuilt_from_its_arguments(options):
    encoder = rsvheat.create_model(
        "rsvheat_nano", dims=[8, 16], depths=[1, 2], img_size=(32, 48), num_classes=3, **options
    )
    arguments = encoder.config
    twin = rsvheat.models.RSVHeat(**arguments)
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    assert {name: value.shape for name, value in twin.state_dict().items()} == shapes
    assert twin.config == arguments
    twin.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 3, 32, 48)
    assert torch.equal(encoder.eval()(x), twin.eval()(x))


def test_the_encoder_of_a_checkpoint_comes_back(pretraining, pair_data, trainer, tmp_path):
    task, last = pretraining(), LastCheckpoint(tmp_path / "run")
    trainer(max_epochs=1, callbacks=[last]).fit(task, pair_data())
    encoder, report = load_encoder(last.path)
    assert not report.missing
    x = torch.randn(2, 1, 32, 32)
    expected = task.network.encoder.eval().forward_features(x, "sar")
    assert torch.equal(encoder.eval().forward_features(x, "sar"), expected)
    # Other classes and sizes are a matter of arguments.
    other, report = load_encoder(last.path, num_classes=5, img_size=48, modalities={"sar": 1})
    assert other(torch.randn(1, 1, 48, 48)).shape == (1, 5)
    assert report.missing == ["head.fc.weight", "head.fc.bias"]


def test_files_that_say_no_architecture_need_a_variant(tmp_path):
    encoder = rsvheat.create_model("rsvheat_nano", num_classes=0, img_size=32)
    torch.save({"model": encoder.state_dict()}, tmp_path / "plain.pth")
    with pytest.raises(rsvheat.models.CheckpointError, match="name the variant"):
        load_encoder(tmp_path / "plain.pth")
    named, report = load_encoder(tmp_path / "plain.pth", "rsvheat_nano", num_classes=0)
    assert not report.missing
    assert named.dims == encoder.dims
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(rsvheat.models.CheckpointError, match=r"table\.csv"):
        load_encoder(tmp_path / "table.csv", "rsvheat_nano")


def test_precision_and_clipping_are_the_trainers(pretraining, pair_data, trainer):
    task = pretraining(images_every=0)
    norms = []

    class Watch(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    run = trainer(max_epochs=1, precision="bf16-mixed", gradient_clip_val=1e-3, callbacks=[Watch()])
    run.fit(task, pair_data())
    assert len(norms) >= 4
    assert all(norm <= 1.001e-3 for norm in norms)
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters())
