# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

pytest.importorskip("lightning")
pytest.importorskip("PIL")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from utils import data_module

from rsvheat.data import (
    ClassFolders,
    ConcatSource,
    DataError,
    DataModule,
    DataSpec,
    FolderSource,
    ImageFolders,
    Normalize,
    Normalizer,
    ResumableSampler,
    Sensor,
    ShardSource,
    Skip,
    SkipReport,
    write_shards,
)
from rsvheat.data.synthetic import SyntheticSource, write_classes


def module(data=None, reader=ImageFolders, **options):
    defaults = {"size": 8, "window": 12, "batch_size": 4}
    if reader is ImageFolders:
        defaults["val_fraction"] = 0.25
    return data_module(reader, data, **{**defaults, **options})


def keys(dataset):
    return {dataset.source.key(int(index)) for index in dataset.indices}


def test_pairs_are_split_normalised_and_batched(folders):
    data = module(folders(12))
    assert data.spec == DataSpec({"optical": 3, "sar": 1}, "none", (), (8, 8))
    assert [len(data.datasets[name]) for name in ("train", "val")] == [9, 3]
    assert not keys(data.datasets["train"]) & keys(data.datasets["val"])
    batches = list(data.train_dataloader())
    assert [batch["size"] for batch in batches] == [4, 4]
    assert batches[0]["images"]["optical"].shape == (4, 3, 8, 8)
    assert batches[0]["images"]["sar"].shape == (4, 1, 8, 8)
    assert sum(batch["size"] for batch in data.val_dataloader()) == 3
    values = torch.cat([batch["images"]["optical"] for batch in batches])
    assert values.mean().abs() < 0.3
    assert data.statistics["optical"].images == 9  # of the training samples only
    assert str(data.report) == "no sample was skipped"


def test_all_of_a_scene_is_on_one_side(folders):
    data = module(folders(6, size=40), tile=16, val_fraction=0.3, seed=1)
    data.setup()
    sides = [{key.split("#")[0] for key in keys(data.datasets[n])} for n in ("train", "val")]
    assert [len(side) for side in sides] == [4, 2]
    assert not sides[0] & sides[1]
    other = module(folders(6, size=40), group=r"scene00(\d)", val_groups=["2", "5"])
    other.setup()
    assert keys(other.datasets["val"]) == {"scene002", "scene005"}


def test_validation_may_have_its_own_folders(folders):
    data = module(folders(5), val_folders=folders(3, name="other"))
    data.setup()
    assert [len(data.datasets[name]) for name in ("train", "val")] == [5, 3]
    none = module(folders(5), val_fraction=0)
    none.setup()
    assert none.val_dataloader() == []
    assert none.test_dataloader() == []


def test_shards_and_sources_are_joined(tmp_path, folders):
    pairs = FolderSource(folders(6))
    pairs.scan()
    write_shards(pairs, tmp_path / "shards", samples_per_shard=2)
    data = module(
        shards=str(tmp_path / "shards"),
        sources=[FolderSource({"sar": folders(4, name="other")["sar"]})],
        size=8,
        window=8,
        batch_size=5,
        val_fraction=0,
        num_workers=0,
    )
    data.setup()
    assert data.datasets["train"].blocks == [4, 2, 2, 2]
    batches = list(data.train_dataloader())
    found = {key for batch in batches for key in batch["keys"]}
    assert found == {f"0/scene00{n}" for n in range(4)} | {f"1/scene00{n}" for n in range(6)}
    pairs = sum(len(batch["index"]["optical"]) for batch in batches)
    assert pairs == 6


def test_sensors_say_how_files_are_read(folders, write_png):
    data = folders(4)
    for path in Path(data["sar"]).iterdir():
        write_png(path, np.tile(np.full((1, 16, 16), 7, np.uint8), (3, 1, 1)))
    broken = module(data)
    with pytest.raises(DataError, match=r"no sar image of .* has 3 bands, expected 1"):
        broken.setup()
    normalize = Normalize("fixed", low=-5, high=19)
    sensors = {"optical": Sensor(3), "sar": Sensor(1, [1], normalize)}
    fine = module(data, sensors=sensors, val_fraction=0)
    fine.setup()
    assert list(fine.statistics) == ["optical", "sar"]
    (batch,) = fine.train_dataloader()
    torch.testing.assert_close(batch["images"]["sar"], torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match="sensors has no entry for dem"):
        module({"dem": data["sar"]}).setup()


@pytest.mark.parametrize("reader", [ImageFolders, ClassFolders])
def test_of_files_that_differ_in_suffix_the_user_chooses(tmp_path, write_png, reader):
    """Without a choice the PNG: EXTENSIONS lists it before JPEG."""
    for label, number in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        for suffix, value in ((".png", 50), (".jpg", 200)):
            write_png(tmp_path / label / f"{number}{suffix}", np.full((3, 16, 16), value, np.uint8))
    found = str(tmp_path) if reader is ClassFolders else {"optical": str(tmp_path)}
    for options, suffix, skipped in (
        ({}, ".png", 4),
        ({"extensions": [".jpg", ".png"]}, ".jpg", 4),
        ({"extensions": [".JPG"]}, ".jpg", 0),
    ):
        data = module(found, reader, val_fraction=0, **options)
        data.setup()
        source = data.datasets["train"].source
        paths = [source.file(index, "optical") for index in range(len(source))]
        assert [Path(path).suffix for path in paths] == [suffix] * 4
        assert data.report.total == skipped
    with pytest.raises((DataError, ValueError), match=r"\.tif"):
        module(found, reader, val_fraction=0, extensions=["tif", ".tif"]).setup()


def test_pairs_of_other_places_are_compared_unless_told_not_to(tmp_path, write_tif):
    rasterio = pytest.importorskip("rasterio")
    for number in range(4):
        for folder, left in (("optical", 0), ("sar", 1000)):
            values = np.full((3 if folder == "optical" else 1, 16, 16), number + 1, np.uint8)
            transform = rasterio.Affine(10, 0, left, 0, -10, 0)
            write_tif(tmp_path / folder / f"{number}.tif", values, transform=transform)
    folders = {name: str(tmp_path / name) for name in ("optical", "sar")}
    with pytest.raises(DataError, match=r"lies \+0.0 rows and \+100.0 columns away"):
        module(folders, val_fraction=0).setup()
    data = module(folders, val_fraction=0, compare_places=False)
    data.setup()
    assert len(data.datasets["train"]) == 4


def test_linear_radar_is_normalised_in_decibels():
    sensors = {"optical": Sensor(3), "sar": Sensor(1, normalize=Normalize(decibels="power"))}
    data = module(
        sources=[SyntheticSource(16, 32)], sensors=sensors, size=32, window=32, batch_size=12,
        num_workers=0, val_fraction=0.2,
    )  # fmt: skip
    data.setup()
    (batch,) = data.train_dataloader()
    assert -30 < data.statistics["sar"].mean[0] < 0
    assert batch["images"]["sar"].std() == pytest.approx(1, abs=0.3)


def test_statistics_are_kept_in_a_file(tmp_path, folders, monkeypatch):
    data = module(folders(6), statistics=str(tmp_path / "statistics.json"))
    data.setup()
    assert (
        json.loads((tmp_path / "statistics.json").read_text())["modalities"]["sar"]["images"] == 4
    )
    monkeypatch.setattr("rsvheat.data.normalize._sample_pixels", None)
    again = module(folders(6), statistics=str(tmp_path / "statistics.json"))
    again.setup()
    assert again.statistics == data.statistics


def test_what_is_skipped_reaches_the_report(folders, caplog):
    data = folders(8)
    Path(data["sar"], "scene001.png").unlink()
    Path(data["optical"], "scene002.png").write_text("damaged")
    made = module(data, num_workers=2, val_fraction=0, batch_size=3)
    run(made, max_epochs=3)
    assert made.report.kinds == {"damaged": 1, "unmatched": 1}
    assert {skip.key for skip in made.report} == {"scene001", "scene002"}
    assert "2 samples skipped" in caplog.text
    strict = module(data, on_error="raise")
    with pytest.raises(DataError, match=r"scene001.png: no sar image has this name"):
        strict.setup()


def test_nothing_usable_is_found_before_training(folders):
    data = folders(5)
    for path in Path(data["sar"]).iterdir():
        path.write_text("damaged")
    fixed = Normalize("fixed", low=0, high=255)
    sensors = {"optical": Sensor(3, normalize=fixed), "sar": Sensor(1, normalize=fixed)}
    for options in ({}, {"sensors": sensors}):
        with pytest.raises(DataError, match=r"(no sar image|none of 100 samples) .*scene00\d.png"):
            module(data, **options).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"num_workers": -1}, "num_workers must be"),
        ({"start_method": "threads"}, "start_method must be .*spawn"),
        ({"size": 0}, "size must be"),
        ({"scale": (0, 1)}, "scale must be"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        module({"optical": "x"}, **options)
    with pytest.raises(ValueError, match="one of folders, shards and sources"):
        ImageFolders()


# Going on within an epoch.


class Recorder(LightningModule):
    """Keeps the batches it was trained on; may raise within a step."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[tuple[int, int, str, float]] = []
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx):
        total = float(sum(image.double().sum() for image in batch["images"].values()))
        self.batches.append((self.current_epoch, batch_idx, "/".join(batch["keys"]), total))
        if self.fail_at == self.trainer.global_step:
            raise KeyError("in a step")
        return (self.weight**2).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keep(Callback):
    """Saves a checkpoint after each step, epoch and validation."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps = folder, {}

    def save(self, trainer, when):
        path = self.folder / f"{trainer.current_epoch}-{trainer.global_step}-{when}.ckpt"
        trainer.save_checkpoint(path)
        self.steps[path] = trainer.global_step

    def on_train_batch_end(self, trainer, *rest):
        self.save(trainer, "batch")

    def on_train_epoch_start(self, trainer, *rest):
        self.save(trainer, "start")

    def on_train_epoch_end(self, trainer, *rest):
        self.save(trainer, "end")

    def on_validation_end(self, trainer, *rest):
        if not trainer.sanity_checking:
            self.save(trainer, "validation")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Lightning writes below the working directory."""
    monkeypatch.chdir(tmp_path)


def run(data, ckpt_path=None, callbacks=(), fail_at=None, max_epochs=3, **options):
    model = Recorder(fail_at)
    trainer = Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(callbacks), callbacks=list(callbacks),
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model.batches


@pytest.mark.filterwarnings("error:.*dataloader is not resumable")
@pytest.mark.parametrize(
    ("workers", "options"),
    [
        (0, {}),
        (2, {}),
        (0, {"limit_train_batches": 2}),
        (0, {"val_check_interval": 2}),
        (2, {"accumulate_grad_batches": 2}),
    ],
)
def test_a_run_goes_on_where_it_was_from_any_checkpoint(tmp_path, folders, workers, options):
    data = folders(17)

    def fresh():
        return module(data, num_workers=workers, val_fraction=0.1)

    keep = Keep(tmp_path)
    undisturbed = run(fresh(), callbacks=[keep], **options)
    epoch = options.get("limit_train_batches", 3)
    assert len(undisturbed) == 3 * epoch
    assert len({batch[2] for batch in undisturbed}) == len(undisturbed)
    steps = {}
    for path in keep.steps:
        state = torch.load(path, weights_only=True)["DataModule"]
        done = state["sampler"]["epoch"] * epoch + state["sampler"]["samples"] // 4
        steps[path] = done
        # Lightning itself leaves out an epoch of which only the start was saved.
        if done == 3 * epoch or path.stem.endswith("start"):
            continue
        if workers and not path.stem.endswith("batch"):
            continue
        assert run(fresh(), path, **options) == undisturbed[done:], path.stem
    assert set(steps.values()) == set(range(3 * epoch + 1))
    starts = [done for path, done in steps.items() if path.stem.endswith("start")]
    assert starts == [0, epoch, 2 * epoch]


def test_a_step_that_raised_is_done_again(tmp_path, folders):
    data = folders(17)
    undisturbed = run(module(data))
    for fail_at in (1, 3, 5):
        with pytest.raises(KeyError):
            run(module(data), callbacks=[OnExceptionCheckpoint(tmp_path)], fail_at=fail_at)
        (path,) = tmp_path.glob("*.ckpt")
        assert run(module(data), path) == undisturbed[fail_at:]
        path.unlink()


def test_more_epochs_can_follow(tmp_path, folders):
    data = folders(17)
    undisturbed = run(module(data), max_epochs=4)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    run(module(data), callbacks=[checkpoint], max_epochs=2)
    assert run(module(data), tmp_path / "last.ckpt", max_epochs=4) == undisturbed[6:]


def test_checkpoints_hold_what_prediction_needs(tmp_path, folders):
    data = module(folders(9))
    Path(data.dataset.source._sources[0]._folders["sar"], "scene003.png").write_text("damaged")
    run(data, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], max_epochs=1)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["DataModule"]
    found = {name: Normalizer.from_dict(value) for name, value in state["normalizers"].items()}
    assert found == data.normalizers
    # The data may change between epochs; normalisation and report stay those of the run.
    more = module(folders(12, name="more"))
    run(more, tmp_path / "last.ckpt", max_epochs=2)
    assert more.normalizers == data.normalizers == more.datasets["train"].normalizers
    assert {skip.key for skip in more.report} >= {skip.key for skip in data.report}


def test_other_data_within_an_epoch_is_refused(tmp_path, folders):
    keep = Keep(tmp_path)
    run(module(folders(17)), callbacks=[keep], max_epochs=1)
    (path,) = tmp_path.glob("0-2-batch.ckpt")
    with pytest.raises(DataError, match="within an epoch of 13 training samples, and there are 15"):
        run(module(folders(20, name="more")), path)
    with pytest.raises(ValueError, match="no batch begins 8 samples into epoch 0"):
        run(module(folders(17), batch_size=3), path)


def _gather(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    sampler = ResumableSampler(10, 2)
    report = SkipReport()
    report.add([Skip("damaged", "both", "a"), Skip("damaged", f"rank{rank}", "b")])
    joint = report.gather()
    text = json.dumps([[i.sample for i in sampler], sampler.step, joint.total, joint.kinds])
    Path(folder, f"{rank}.json").write_text(text)
    distributed.destroy_process_group()


def test_processes_share_samples_and_reports(tmp_path):
    multiprocessing.start_processes(_gather, (str(tmp_path),), 2, start_method="fork")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sorted(found[0][0] + found[1][0]) == sorted(set(found[0][0] + found[1][0]))
    assert [part[1:] for part in found] == [[4, 4, {"damaged": 3}]] * 2


# Classification.


@pytest.fixture
def classes(tmp_path):
    write_classes(tmp_path / "classes", 20, size=16)
    return str(tmp_path / "classes")


def image_module(root, **options):
    return module(root, ClassFolders, **{"size": 16, "window": None, "batch_size": 8, **options})


def test_folders_are_classes(classes):
    data = image_module(classes, test_fraction=0.1)
    data.setup()
    assert list(data.spec.classes) == ["fields", "forest", "urban", "water"]
    sizes = {name: len(dataset) for name, dataset in data.datasets.items()}
    assert sizes == {"train": 60 - 4, "train_plain": 60 - 4, "val": 16, "test": 8}
    for name in ("train", "val", "test"):
        dataset = data.datasets[name]
        for index in range(len(dataset)):
            sample = dataset[index]
            assert data.spec.classes[sample["label"]] == sample["key"].split("/")[0]
    batch = next(iter(data.train_dataloader()))
    assert batch["images"]["optical"].shape == (8, 3, 16, 16)
    assert batch["label"].shape == (8,)
    assert sum(len(b["label"]) for b in data.test_dataloader()) == 8
    plain = list(data.loader("train_plain"))
    assert sum(len(b["label"]) for b in plain) == 56
    assert torch.equal(
        plain[0]["images"]["optical"], next(iter(data.loader("train_plain")))["images"]["optical"]
    )


def test_folders_without_images_are_no_classes_and_are_named(classes):
    root = Path(classes)
    (root / "ice").mkdir()
    (root / "ice" / "notes.txt").write_text("to do")
    (root / "sand").symlink_to(root / "nowhere")
    data = image_module(classes)
    data.setup()
    assert list(data.spec.classes) == ["fields", "forest", "urban", "water"]
    assert {skip.reason for skip in data.report} == {
        f"{classes}/ice holds no usable image",
        f"{classes}/sand is a link to a file or folder that is not there",
    }


def test_sets_may_have_their_own_folders(classes, tmp_path):
    write_classes(tmp_path / "test", 3, size=16, seed=1)
    data = image_module(classes, test_root=str(tmp_path / "test"), val_fraction=0)
    data.setup()
    assert {n: len(d) for n, d in data.datasets.items()} == {
        "train": 80, "train_plain": 80, "test": 12,
    }  # fmt: skip
    shutil.copytree(tmp_path / "test" / "water", tmp_path / "test" / "ice")
    with pytest.raises(DataError, match=r"test has the class 'ice', .*classes does not"):
        image_module(classes, test_root=str(tmp_path / "test")).setup()
    shutil.copy(tmp_path / "test" / "ice" / "water_00000.png", classes)
    with pytest.raises(DataError, match=r"water_00000.png is not in the folder of a class"):
        image_module(classes).setup()


def test_labels_are_nested_and_the_split_is_kept(classes, tmp_path):
    split = tmp_path / "runs" / "split.json"
    found = {}
    for fraction in (0.1, 0.5, 1.0):
        data = image_module(classes, label_fraction=fraction, split=str(split), seed=2)
        data.setup()
        found[fraction] = keys(data.datasets["train"])
        assert keys(data.datasets["train"]) == keys(data.datasets["train_plain"])
    assert [len(part) for part in found.values()] == [8, 32, 64]
    assert found[0.1] < found[0.5] < found[1.0]
    content = json.loads(split.read_text())
    assert set(content["sets"]["train"]) == found[1.0]
    assert set(content["labelled"]) == found[0.1]  # of the run that made it
    assert content["label_fraction"] == 0.1
    other = image_module(classes, split=str(split), seed=9)
    other.setup()
    assert keys(other.datasets["train"]) == found[1.0]
    new = image_module(classes, seed=9)
    new.setup()
    assert keys(new.datasets["train"]) != found[1.0]


def test_what_a_split_lacks_is_named(classes, tmp_path, caplog):
    split = str(tmp_path / "split.json")
    image_module(classes, split=split).setup()
    key = json.loads(Path(split).read_text())["sets"]["val"][0]
    Path(classes, f"{key}.png").rename(Path(classes, f"{key}_new.png"))
    data = image_module(classes, split=split)
    data.setup()
    assert len(data.datasets["val"]) == 15
    assert [skip.key for skip in data.report] == [key]
    assert "1 images are not in" in caplog.text
    with pytest.raises(DataError, match=f"{key} of .* is not there"):
        image_module(classes, split=split, on_error="raise").setup()
    shutil.rmtree(Path(classes, "urban"))
    with pytest.raises(DataError, match=r"split.json is of other classes"):
        image_module(classes, split=split).setup()


def test_damaged_images_change_no_label(classes):
    hurt = {f"water/water_0000{number}" for number in (0, 3, 4, 7, 9)}
    for key in hurt:
        Path(classes, f"{key}.png").write_text("damaged")
    data = image_module(classes, val_fraction=0.5, num_workers=1)
    data.setup()
    seen = []
    for batch in data.val_dataloader():
        assert "skipped" not in batch
        for key, label in zip(batch["keys"], batch["label"].tolist(), strict=True):
            assert key.split("/")[0] == data.spec.classes[label]
            seen.append(key)
    held_out = keys(data.datasets["val"])
    assert 0 < len(hurt & held_out) < 5
    assert sorted(seen) == sorted(held_out - hurt)
    assert hurt & held_out <= {skip.key for skip in data.report}
    for batch in data.train_dataloader():
        assert len(batch["label"]) == 8


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_workers_start_by_any_method(classes, folders, start_method):
    makers = {
        "labels": lambda **more: image_module(classes, val_fraction=0.25, **more),
        "pairs": lambda **more: module(folders(12), val_fraction=0.25, **more),
    }
    # Each worker that is not forked imports all over again: one kind of data each.
    if start_method != "fork":
        del makers["labels" if start_method == "spawn" else "pairs"]
    for make in makers.values():
        # A trainer is attached, which cannot be pickled, and validation has workers of its own.
        found = run(make(num_workers=1, start_method=start_method), max_epochs=1)
        assert found == run(make(), max_epochs=1)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_what_workers_cannot_be_sent_is_named(classes, start_method):
    options = {"val_fraction": 0.25, "transforms": [lambda entries: entries]}
    data = image_module(classes, num_workers=1, start_method=start_method, **options)
    with pytest.raises(ValueError, match=rf"start by {start_method}: .*lambda"):
        run(data, max_epochs=1)
    for more in ({"start_method": "fork", "num_workers": 1}, {"num_workers": 0}):
        assert run(image_module(classes, **more, **options), max_epochs=1)


def test_wrong_fractions_are_named(classes):
    for options in ({"val_fraction": 1.0}, {"label_fraction": 0.0}, {"val_fraction": -0.1}):
        with pytest.raises(ValueError, match="fraction"):
            image_module(classes, **options)


def test_a_recipe_makes_a_data_module(tmp_path, folders):
    jsonargparse = pytest.importorskip("jsonargparse")
    data = folders(6)
    recipe = {
        "dataset": {
            "class_path": "rsvheat.data.ImageFolders",
            "init_args": {
                "folders": data,
                "stem_map": {"sar": ["_s1_", "_s2_"]},
                "sources": [
                    {
                        "class_path": "rsvheat.data.FolderSource",
                        "init_args": {"folders": {"sar": data["sar"]}},
                    }
                ],
            },
        },
        "sensors": {
            "optical": {"bands": 3, "normalize": {"method": "percentile", "low": 1}},
            "sar": {"select": [1], "bands": 1, "normalize": {"decibels": "amplitude"}},
        },
        "crop": {"size": 8, "window": 8, "scale": [0.5, 1.0]},
        "transforms": [
            {
                "class_path": "torchvision.transforms.v2.RandomRotation",
                "init_args": {"degrees": 30},
            }
        ],
        "loader": {"num_workers": 0},
    }
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(DataModule, "data")
    parser.add_argument("--config", action="config")
    (tmp_path / "recipe.json").write_text(json.dumps({"data": recipe}))
    arguments = ["--config", str(tmp_path / "recipe.json"), "--data.loader.batch_size=3"]
    made = parser.instantiate(parser.parse_args(arguments)).data
    made.setup()
    assert made.loader_options.batch_size == 3
    assert made.sensors["optical"].normalize == Normalize("percentile", low=1)
    assert made.sensors["sar"].select == [1]
    batch = next(iter(made.train_dataloader()))
    assert batch["size"] == 3
    assert isinstance(made.dataset.source, ConcatSource)
    assert not isinstance(made.dataset.source._sources[0], ShardSource)
