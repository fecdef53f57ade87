# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of both versions, and what trained networks predict."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from stand_ins import Boxes, Differences, OrientedBoxes, Pixels, small_encoder, trained

import rsvheat
from rsvheat.checkpoint import (
    Checkpoint,
    CheckpointError,
    TrainedModel,
    finite_rows,
    load_encoder,
    training_content,
)
from rsvheat.data import DataError, Normalizer, Statistics
from rsvheat.data.spec import DataSpec
from rsvheat.models import RSVHeatPretraining
from rsvheat.models.classification import Classifier
from rsvheat.models.task_model import TASK_MODELS, TaskModel
from rsvheat.prediction import tempered

PIL = pytest.importorskip("PIL.Image")

CLASSES = ("Forest", "Lake & Sea", "Roof")


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)


@pytest.fixture
def classifier():
    return trained(Classifier, {"optical": 3, "sar": 1}, CLASSES)


@pytest.fixture
def checkpoint(classifier, tmp_path):
    classifier.save(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def statistics(bands):
    return Statistics(
        (80.0,) * bands, (20.0,) * bands, (tuple(range(25)),) * bands, "none", 9, (99,) * bands
    )


def version_1(model, path, modality="optical", **changes):
    """Write a file as fine-tuning wrote it before the format had a version."""
    content = {
        "epoch": 3,
        "state_dict": {f"network.{k}": v for k, v in model.encoder.state_dict().items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(9)}}}],
        "ImageFolderDataModule": {
            "normalizers": {k: v.to_dict() for k, v in model.normalizers.items()},
            "statistics": {"optical": statistics(3).to_dict()},
            "window": model.window,
            "sampler": None,
        },
        "encoder": model.encoder.config,
        "classifier": {"classes": list(model.classes), "modality": modality},
        **changes,
    }
    torch.save({k: v for k, v in content.items() if v is not None}, path)
    return path


def changed(path, tmp_path, **changes):
    """Write a copy of a file with other values in its description."""
    content = torch.load(path, weights_only=True)
    content["rsvheat"] = {**content["rsvheat"], **changes}
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def same_weights(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


# Files.


def test_what_was_saved_is_loaded(tmp_path):
    model = trained(Classifier, {"optical": 3, "sar": 1}, CLASSES, window=48, modality="sar")
    model = TrainedModel(
        model.network, model.spec, model.normalizers, {"sar": statistics(1)}, model.window
    )
    model.save(tmp_path / "new/a.ckpt")
    loaded = rsvheat.load(tmp_path / "new/a.ckpt", device="cpu")
    assert isinstance(loaded, TrainedModel)
    assert (loaded.task, loaded.output, loaded.classes) == ("classification", "class", CLASSES)
    assert (loaded.size, loaded.window) == ((32, 32), 48)
    assert (loaded.spec, loaded.path) == (model.spec, tmp_path / "new/a.ckpt")
    assert loaded.normalizers == model.normalizers
    assert loaded.statistics == {"sar": statistics(1)}
    assert loaded.network.config == model.network.config
    assert loaded.encoder is loaded.network.encoder
    assert not any(module.training for module in loaded.network.modules())
    assert loaded.device == torch.device("cpu")
    assert same_weights(model.network, loaded.network)


def test_the_description_holds_plain_values_only(checkpoint):
    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        if isinstance(value, list | tuple):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (bool, int, float, str)

    about = torch.load(checkpoint, weights_only=True)["rsvheat"]
    assert about["schema"] == 2
    check(about)


def test_files_of_version_1_are_loaded(classifier, tmp_path):
    loaded = TrainedModel.load(version_1(classifier, tmp_path / "old.ckpt"), device="cpu")
    assert (loaded.task, loaded.output, loaded.classes) == ("classification", "class", CLASSES)
    assert loaded.spec == DataSpec({"optical": 3}, "label", CLASSES, (32, 32))
    assert loaded.normalizers == classifier.normalizers
    assert loaded.statistics == {"optical": statistics(3)}
    assert loaded.window is None
    assert loaded.network.modality == "optical"
    assert same_weights(classifier.encoder, loaded.encoder)
    image = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    found, expected = loaded.predict(image), classifier.predict({"optical": image})
    assert found == expected


@pytest.mark.parametrize("version", [1, 2])
def test_pretraining_holds_an_encoder_and_no_task(tmp_path, version):
    network = RSVHeatPretraining(small_encoder({"optical": 3, "sar": 1}))
    normalizers = {"sar": Normalizer((1.0,), (2.0,), 5.0)}
    weights = {f"network.{k}": v for k, v in network.state_dict().items()}
    spec = DataSpec({"optical": 3, "sar": 1}, size=(32, 32))
    about = {"rsvheat": training_content(network, spec, normalizers)}
    if version == 1:
        data = {"normalizers": {"sar": normalizers["sar"].to_dict()}, "window": 448}
        about = {"encoder": network.encoder.config, "OpticalSarDataModule": data}
    torch.save({"state_dict": weights, **about}, tmp_path / "last.ckpt")
    saved = Checkpoint.read(tmp_path / "last.ckpt")
    assert (saved.task, saved.normalizers) == ("pretraining", normalizers)
    assert saved.spec.modalities == spec.modalities
    assert saved.window == (448 if version == 1 else None)
    encoder, report = load_encoder(saved)
    assert same_weights(network.encoder, encoder)
    assert not report.missing
    with pytest.raises(CheckpointError, match=r"last\.ckpt is a checkpoint of pretraining: it"):
        rsvheat.load(tmp_path / "last.ckpt")


def test_encoders_are_loaded_from_any_task(checkpoint, classifier, tmp_path):
    encoder, report = load_encoder(checkpoint)
    assert same_weights(classifier.encoder, encoder)
    assert not report.missing
    other, report = load_encoder(checkpoint, modalities={"sar": 1}, num_classes=5, img_size=64)
    assert (other.modalities, other.num_classes, other.img_size) == ({"sar": 1}, 5, (64, 64))
    assert set(report.missing) == {"head.fc.weight", "head.fc.bias"}
    trained(Pixels).save(tmp_path / "pixels.ckpt")
    assert not load_encoder(tmp_path / "pixels.ckpt")[1].missing


def test_weights_alone_need_a_variant(tmp_path):
    model = rsvheat.create_model("rsvheat_nano", num_classes=0, img_size=32)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"plain\.pth does not say how .* name the variant"):
        load_encoder(tmp_path / "plain.pth")
    encoder, report = load_encoder(
        tmp_path / "plain.pth", "rsvheat_nano", num_classes=0, img_size=32
    )
    assert same_weights(model, encoder)
    assert not report.missing


def test_networks_of_plug_ins_are_found_by_their_task(tmp_path):
    trained(Pixels, gain=2.0).save(tmp_path / "a.ckpt")
    loaded = rsvheat.load(tmp_path / "a.ckpt")
    assert type(loaded.network) is Pixels
    assert loaded.network.gain == 2.0
    kind = TASK_MODELS.pop("stand_in_pixels")
    try:
        with pytest.raises(CheckpointError) as error:
            rsvheat.load(tmp_path / "a.ckpt")
    finally:
        TASK_MODELS["stand_in_pixels"] = kind
    for part in ("'stand_in_pixels'", "unknown", "classification", "--plugin FILE_OR_MODULE"):
        assert part in str(error.value)


def test_a_task_of_the_package_is_imported_when_it_is_needed(checkpoint):
    code = (
        "import sys, rsvheat; assert 'rsvheat.models.classification' not in sys.modules; "
        f"print(rsvheat.load({str(checkpoint)!r}, device='cpu').task); "
        "assert not {'lightning', 'torchmetrics', 'jsonargparse', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("classification\n", 0), done.stderr


def test_a_file_is_read_once(checkpoint, monkeypatch):
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(a) or load(*a, **k))
    TrainedModel.load(checkpoint)
    assert len(calls) == 1
    saved = Checkpoint.read(checkpoint)
    load_encoder(saved)
    TrainedModel.load(saved)
    assert len(calls) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_optimizer_moments_are_not_read(classifier, checkpoint):
    """A checkpoint of training, with 200 MB beside the weights."""
    content = torch.load(checkpoint, weights_only=True)
    content["optimizer_states"] = [{"state": {0: {"exp_avg": torch.zeros(50_000_000)}}}]
    torch.save(content, checkpoint)
    del content
    code = """
import sys, rsvheat
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

rsvheat.load(sys.argv[1], device="cpu")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = memory("VmRSS")
rsvheat.load(sys.argv[2], device="cpu")
print(memory("VmHWM") - before)
"""
    small = checkpoint.with_name("small.ckpt")
    classifier.save(small)
    done = subprocess.run(
        [sys.executable, "-c", code, small, checkpoint], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 50_000  # kilobytes


def test_loading_leaves_random_numbers_alone(checkpoint):
    state = torch.random.get_rng_state()
    rsvheat.load(checkpoint)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"state_dict": {"a": torch.zeros(3)}, "epoch": 1}, "the entries 'state_dict', 'epoch'"),
        ({"layer1.weight": torch.zeros(3)}, "1 tensors such as 'layer1.weight'"),
        ([1, 2], "a list"),
        ({}, "nothing"),
    ],
)
def test_files_of_others_are_told_with_what_they_hold(tmp_path, content, part):
    torch.save(content, tmp_path / "other.pth")
    for load in (rsvheat.load, load_encoder):
        with pytest.raises(CheckpointError, match=rf"other\.pth.* (it|It) holds {part}"):
            load(tmp_path / "other.pth")


def test_a_newer_format_is_told(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"version 3 of the .* up to 2: upgrade rsvheat"):
        rsvheat.load(changed(checkpoint, tmp_path, schema=3))
    with pytest.raises(CheckpointError, match=r"version 'x' of the .* the file is damaged"):
        rsvheat.load(changed(checkpoint, tmp_path, schema="x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("model", {"encoder": {"dims": "x"}, "num_classes": 3, "options": {}}),
        ("model", {"encoder": {}, "num_classes": 3, "options": {}}),
        ("model", {"encoder": {}, "num_classes": 3}),
        ("model", {"encoder": {}, "num_classes": 1000, "options": {"nonsense": 1}}),
        ("model", {"encoder": {"img_size": 10**9}, "num_classes": 1000, "options": {}}),
        ("spec", {"modalities": {"optical": 3}}),
        ("spec", 5),
        ("normalizers", [1]),
        ("normalizers", {"optical": {"center": 1}}),
        ("statistics", {"optical": None}),
        ("window", "wide"),
    ],
)
def test_damaged_descriptions_are_told(checkpoint, tmp_path, name, value):
    with pytest.raises(CheckpointError, match=r"changed\.ckpt describes"):
        rsvheat.load(changed(checkpoint, tmp_path, **{name: value}))


def test_names_must_be_those_of_the_classes(checkpoint, tmp_path):
    about = torch.load(checkpoint, weights_only=True)["rsvheat"]["spec"]
    path = changed(checkpoint, tmp_path, spec={**about, "classes": ["a"]})
    with pytest.raises(CheckpointError, match="the network has 3 classes, and 1 are named: a"):
        rsvheat.load(path)


def test_normalization_has_to_be_known(classifier, tmp_path):
    path = version_1(classifier, tmp_path / "old.ckpt", ImageFolderDataModule=None)
    with pytest.raises(CheckpointError, match=r"does not say how optical images were normalized"):
        rsvheat.load(path)
    assert not load_encoder(path)[1].missing


@pytest.mark.parametrize("name", ["encoder.head.fc.bias", "encoder.stages.1.blocks.0.gamma2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(checkpoint, tmp_path, name, value):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"][f"network.{name}"][1] = value
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=rf"bad\.ckpt.*{name}"):
        rsvheat.load(tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=rf"bad\.ckpt.*{name.removeprefix('encoder.')}"):
        load_encoder(tmp_path / "bad.ckpt")


def test_weights_that_are_no_plain_numbers_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    for change in (lambda w: w.to(torch.int8), lambda w: w.to_sparse()):
        state = dict(content["state_dict"])
        name = next(name for name in state if name.endswith("mlp.fc1.weight"))
        state[name] = change(state[name])
        torch.save({**content, "state_dict": state}, tmp_path / "b.ckpt")
        with pytest.raises(CheckpointError, match=r"the weights encoder\S+mlp\.fc1\.weight are "):
            rsvheat.load(tmp_path / "b.ckpt", device="cpu")


def test_weights_that_do_not_fit_are_told(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["network.encoder.head.fc.bias"]
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt .*encoder\.head\.fc\.bias"):
        rsvheat.load(tmp_path / "bad.ckpt")


def test_a_network_of_no_task_is_not_described():
    with pytest.raises(TypeError, match="network must be a TaskModel or RSVHeatPretraining, got"):
        training_content(small_encoder(), DataSpec({"optical": 3}), {})


def test_unknown_devices_are_told(checkpoint):
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used"):
        rsvheat.load(checkpoint, device="nonsense")


# Predictions.


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(1, 255, (3, 32, 32), np.uint8)


@pytest.fixture
def normalized(image):
    return torch.from_numpy((image.astype(np.float32) - 100) / 50).clamp(-5, 5)


def write(path, image):
    PIL.fromarray(np.moveaxis(image, 0, 2)).save(path)
    return path


def expected(model, images):
    with torch.no_grad():
        return model.network({name: value[None] for name, value in images.items()})[0].softmax(0)


def test_a_file_an_array_and_a_tensor_are_one_image(classifier, image, normalized, tmp_path):
    path = write(tmp_path / "a.png", image)
    probabilities = expected(classifier, {"optical": normalized}).tolist()
    for given in (path, str(path), image, normalized, {"optical": path}, {"optical": image}):
        found = classifier.predict(given)
        assert list(found.probabilities) == list(CLASSES)
        assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)
        assert found.label == CLASSES[int(np.argmax(probabilities))]
        assert found.probability == max(found.probabilities.values())
        assert str(found).startswith(f"{found.label} {found.probability:.1%}, ")


def test_several_images_have_a_prediction_each(classifier, image, normalized, tmp_path):
    path = write(tmp_path / "a.png", image)
    one = classifier.predict(image)
    large = np.concatenate([image, image], 2)[:, :, :40]
    batch = np.stack([image, image])
    for given, number in (
        ([path, image, normalized, {"optical": image}], 4),
        (batch, 2),
        ({"optical": batch}, 2),
        (normalized[None], 1),
        ([], 0),
        ([image, large, large, image], 4),
    ):
        found = classifier.predict(given, batch_size=2)
        assert len(found) == number
        for prediction in found[:1]:
            assert prediction.label == one.label
            assert prediction.probability == pytest.approx(one.probability, abs=1e-6)


def test_modalities_are_told_apart_by_bands_or_named(classifier, image, tmp_path):
    sar = image[:1]
    by_bands, named = classifier.predict(sar), classifier.predict({"sar": sar})
    assert by_bands == named
    assert by_bands != classifier.predict(image)
    both = classifier.predict({"optical": image, "sar": sar})
    logits = [
        torch.tensor(list(classifier.predict({name: value}).probabilities.values())).log()
        for name, value in (("optical", image), ("sar", sar))
    ]
    # Logits are averaged, hence their softmax is the normalized geometric mean.
    mean = torch.stack(logits).mean(0).softmax(0).tolist()
    assert list(both.probabilities.values()) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(("window", "part"), [(None, (8, 20, 48, 48)), (40, (12, 24, 40, 40))])
def test_classifiers_see_what_evaluation_shows_them(window, part, tmp_path):
    """The window in the middle, of training's side or else the image's, resized."""
    model = trained(Classifier, window=window)
    values = np.random.default_rng(1).integers(0, 255, (3, 64, 88), np.uint8)
    if window is None:
        values, part = values[:, :48], (0, 20, 48, 48)
    top, left, height, width = part
    x = (torch.from_numpy(values[:, top : top + height, left : left + width].copy()) - 100.0) / 50
    x = torch.nn.functional.interpolate(x[None], (32, 32), mode="bilinear", antialias=True)[0]
    probabilities = expected(model, {"optical": x}).tolist()
    for given in (
        values,
        write(tmp_path / "a.png", values),
        (torch.from_numpy(values) - 100.0) / 50,
    ):
        found = model.predict(given)
        assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-5)


def test_missing_values_are_what_they_were_in_training(image, normalized):
    model = trained(Classifier)
    holes = np.zeros((3, 32, 32), bool)
    holes[:, :10] = True
    x = normalized.clone()
    x[:, :10] = 0
    probabilities = expected(model, {"optical": x}).tolist()
    nan = np.where(holes, np.float32(np.nan), image.astype(np.float32))
    for given in (nan, np.ma.array(image, mask=holes)):
        found = model.predict(given)
        assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)
    with pytest.raises(DataError, match="optical image 0 has no data"):
        model.predict(np.full((3, 32, 32), np.nan, np.float32))


def test_pixels_have_classes_where_there_is_data(tmp_path):
    model = trained(Pixels, classes=("a", "b", "c"))
    values = np.random.default_rng(1).integers(0, 255, (3, 21, 45), np.uint8)
    x = (torch.from_numpy(values) - 100.0) / 50
    with torch.no_grad():
        probabilities = model.network.predict({"optical": x[None]})[0].numpy()
    masked = np.ma.array(values, mask=np.zeros(values.shape, bool))
    masked[:, :4] = np.ma.masked
    found = model.predict(values)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    assert np.array_equal(found.labels, probabilities.argmax(0))
    assert found.classes == ("a", "b", "c")
    shares = np.bincount(found.labels.ravel(), minlength=3)
    assert str(found).startswith(f"{'abc'[shares.argmax()]} {shares.max() / shares.sum():.1%}")
    holes = model.predict(masked)
    assert (holes.labels[:4] == 255).all()
    assert np.array_equal(holes.labels[7:], found.labels[7:])


def test_pixels_and_boxes_come_at_the_resolution_of_training():
    """Windows of 64 pixels were resized to 32: the network sees half of the resolution."""
    values = np.zeros((3, 80, 100), np.uint8)
    values[:, 20:36, 40:72] = 250
    plain, half = trained(Boxes), trained(Boxes, window=64)
    seen = []
    forward = half.network.forward
    half.network.forward = lambda images: seen.append(images["optical"].shape) or forward(images)
    assert plain.predict(values).boxes.tolist() == [[40, 20, 72, 36]]
    np.testing.assert_allclose(half.predict(values).boxes, [[40, 20, 72, 36]], atol=2)
    assert seen == [(1, 3, 40, 50)]
    pixels = trained(Pixels, window=64).predict(values)
    assert pixels.labels.shape == (80, 100)


def test_objects_come_by_score_with_their_names():
    values = np.zeros((3, 40, 60), np.uint8)
    values[:1, 2:6, 3:9] = 250
    values[:, 20:30, 30:50] = 250
    found = trained(Boxes, classes=("ship", "plane")).predict(values)
    assert found.boxes.tolist() == [[30, 20, 50, 30], [3, 2, 9, 6]]
    assert found.labels.tolist() == [1, 0]
    assert found.scores[0] > found.scores[1]
    assert str(found) == "1 ship, 1 plane"
    oriented = trained(OrientedBoxes).predict(values)
    np.testing.assert_allclose(oriented.boxes[0][:4], [40, 25, 20, 10], atol=0.2)
    empty = trained(Boxes).predict(np.zeros((3, 9, 9), np.uint8))
    assert empty.boxes.shape == (0, 4)
    assert str(empty) == "nothing found"


def test_two_dates_are_named():
    model = trained(Differences, names={"before": 3, "after": 3})
    before = np.full((3, 30, 40), 100, np.uint8)
    after = before.copy()
    after[:, 10:20, 10:30] = 250
    found = model.predict({"before": before, "after": after})
    assert np.array_equal(found.labels == 1, after[0] != before[0])
    with pytest.raises(ValueError, match=r"takes before \(3 bands\), after \(3 bands\): give a"):
        model.predict(before)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), ValueError, r"got \(32, 32, 3\): bands come before rows"),
        (np.zeros((32, 32), np.uint8), ValueError, r"must be \(3, H, W\) or \(B, 3, H, W\), got"),
        (np.zeros((3, 0, 4), np.uint8), ValueError, r"got \(3, 0, 4\)"),
        (np.zeros((3, 8, 8), complex), ValueError, "must be .* of numbers"),
        (
            torch.zeros(3, 8, 8, dtype=torch.uint8),
            ValueError,
            "values as files hold them|Values as",
        ),
        (torch.full((3, 8, 8), torch.nan), ValueError, "floating-point and finite"),
        (
            {"lidar": np.zeros((3, 8, 8))},
            ValueError,
            r"given for \['lidar'\], and the",
        ),
        ({}, ValueError, r"given for \[\], and the network takes optical \(3 bands\)"),
        (3, TypeError, "a path, a NumPy array or a tensor, got int"),
        ("none.png", FileNotFoundError, "none.png"),
    ],
)
def test_wrong_images_are_told(image, error, message):
    with pytest.raises(error, match=message):
        trained(Classifier).predict(image)


def test_images_of_a_sample_have_one_size(classifier):
    model = trained(Pixels, {"optical": 3, "sar": 1})
    images = {"optical": np.zeros((3, 8, 8)), "sar": np.zeros((1, 8, 9))}
    with pytest.raises(ValueError, match=r"of one size, got .*\(8, 8\).*\(8, 9\)"):
        model.predict(images)
    with pytest.raises(ValueError, match=r"as many images each, got {'optical': 2, 'sar': 1}"):
        model.predict({"optical": np.zeros((2, 3, 8, 8)), "sar": np.zeros((1, 8, 8))})
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        classifier.predict([], batch_size=0)


@pytest.mark.parametrize("kind", [Classifier, Pixels])
def test_results_that_are_not_finite_are_refused(kind, image):
    model = trained(kind)
    with torch.no_grad():
        list(model.network.parameters())[-1][0] = float("nan")
    with pytest.raises(FloatingPointError, match="the network's result for optical image 0 is not"):
        model.predict(image)


def test_a_task_of_ones_own_is_a_few_lines(tmp_path, image):
    """As in a plug-in: a class, and everything else follows."""

    class Brightness(TaskModel):
        task = "brightness"
        output = "class"

        def __init__(self, encoder, num_classes, *, threshold=0.0):
            super().__init__(encoder, num_classes, threshold=threshold)
            self.threshold = threshold

        def forward(self, images):
            mean = images["optical"].mean((1, 2, 3)) - self.threshold
            return torch.stack((-mean, mean), 1)

        def predict(self, images):
            return self(images).softmax(1)

    try:
        trained(Brightness, classes=("dark", "bright"), threshold=0.5).save(tmp_path / "a.ckpt")
        model = rsvheat.load(tmp_path / "a.ckpt")
        assert model.network.threshold == 0.5
        assert model.predict(np.full((3, 9, 9), 200.0)).label == "bright"
        assert model.predict(np.full((3, 9, 9), 110.0)).label == "dark"
    finally:
        del TASK_MODELS["brightness"]


# Calibration.


@pytest.mark.parametrize("kind", [Classifier, Pixels])
def test_the_temperature_is_kept_and_applied(kind, tmp_path):
    classes = ("a", "b", "c")
    plain = trained(kind, classes=classes)
    model = dataclasses.replace(plain, temperature=2.5)
    model.save(tmp_path / "a.ckpt")
    loaded = rsvheat.load(tmp_path / "a.ckpt", device="cpu")
    assert loaded.temperature == 2.5
    images = {"optical": torch.randn(2, 3, 32, 32)}
    expected = (plain.infer(images).log() / 2.5).softmax(1)
    torch.testing.assert_close(loaded.infer(images), expected)
    assert torch.equal(loaded.infer(images).argmax(1), plain.infer(images).argmax(1))
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["rsvheat"]["temperature"]  # a file from before there was one
    torch.save(content, tmp_path / "older.ckpt")
    assert rsvheat.load(tmp_path / "older.ckpt", device="cpu").temperature == 1
    with pytest.raises(CheckpointError, match="temperature must be finite and above 0, got 0"):
        rsvheat.load(changed(tmp_path / "a.ckpt", tmp_path, temperature=0.0))


def test_certain_predictions_stay_finite_at_any_temperature():
    certain = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(tempered(certain, 3.0), certain)
    assert torch.isnan(tempered(torch.tensor([[float("nan"), 0.5]]), 3.0)).all()


def test_rows_that_are_not_finite_are_found():
    values = torch.zeros(5, 3, 8, 8)
    values[1, 2, 7, 7] = float("nan")
    values[2, 0, 0, 0], values[2, 0, 0, 1] = float("inf"), float("-inf")
    values[3] = 3e38  # whose sum is not finite
    values[4, 1, 3, 3] = float("inf")
    assert finite_rows(values) == [True, False, False, True, False]
    assert finite_rows(values[:1]) == [True]
