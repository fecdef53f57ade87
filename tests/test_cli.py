# SPDX-License-Identifier: Apache-2.0
"""The command ``rsvheat``."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from rsvheat import cli

pytest.importorskip("lightning")
pytest.importorskip("PIL")

import torch
import yaml

from rsvheat.commands._parser import condense
from rsvheat.commands._recipes import recipe_paths
from rsvheat.data.synthetic import write_classes, write_pairs

COMMANDS = cli._commands()
TINY = "{dims: [8, 16, 16, 16], depths: [1, 1, 1, 1]}"


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders ``optical`` and ``sar`` of pairs, and ``classes``."""
    folder = tmp_path_factory.mktemp("images")
    write_pairs(folder, 12, 40)
    write_classes(folder / "classes", 8, 32)
    return folder


@pytest.fixture
def run(capsys):
    """Run a command in this process: exit code, output, errors."""

    def call(*words):
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def pretrain(run, images, tmp_path):
    """Pretrain a tiny model for an epoch of three steps."""

    def call(*words, output="run"):
        config = tmp_path / "pretrain.yaml"
        config.write_text(
            f"""
data:
  dataset:
    class_path: rsvheat.data.ImageFolders
    init_args: {{folders: {{optical: {images}/optical, sar: {images}/sar}}, val_fraction: 0.0}}
  crop: {{size: 32, window: null}}
  loader: {{batch_size: 4, num_workers: 0}}
model: {{init_args: {{encoder_options: {TINY}, images_every: 0}}}}
trainer: {{accelerator: cpu, max_epochs: 1, log_every_n_steps: 1}}
"""
        )
        return run("pretrain", "--config", config, "--output", tmp_path / output, *words)

    return call


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_help_is_quick_and_imports_no_torch():
    script = (
        "import sys; sys.argv = ['rsvheat', '--help']; sys.orig_argv = ['python', 'rsvheat'];"
        "from rsvheat.cli import main; code = main();"
        "print([m for m in ('torch', 'numpy', 'lightning', 'jsonargparse') if m in sys.modules]);"
        "sys.exit(code)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 1.0


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "rsvheat", "recipes"], capture_output=True, text=True, check=True
    )
    assert "pretrain_nano_cpu" in done.stdout


def test_in_the_commands_process_the_package_is_whole():
    script = (
        "import sys; sys.argv = ['rsvheat']; sys.orig_argv = ['python', 'rsvheat']; import rsvheat;"
        "assert 'torch' not in sys.modules;"
        "assert rsvheat.create_model is rsvheat.models.create_model;"
        "assert rsvheat.__version__ == rsvheat.build_info()['version'];"
        "assert callable(rsvheat.ops.dct2d);"
        "from rsvheat import load_checkpoint, BuildInfo;"
        "assert not hasattr(rsvheat, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_overview_names_every_command_with_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out
        assert f"\n  rsvheat {name}" in out
    assert run("--version")[1].startswith("rsvheat 0")


def test_commands_come_in_the_order_of_their_use():
    assert {"evaluate", "export", "finetune", "info", "pretrain", "recipes"} <= set(COMMANDS)
    places = [
        COMMANDS.index(name) for name in ("pretrain", "finetune", "fit", "evaluate", "export")
    ]
    assert places == sorted(places)
    rest = COMMANDS[COMMANDS.index("export") + 1 :]
    assert rest == sorted(rest)


def test_a_module_is_all_that_a_command_needs(run, monkeypatch, tmp_path):
    from rsvheat import commands

    (tmp_path / "zoom.py").write_text(
        '"""Look closer."""\nEXAMPLE = "rsvheat zoom 3"\n'
        "def run(arguments):\n    print(*arguments)\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    out = run("--help")[1]
    assert re.search(r"\n  zoom +Look closer\.\n", out)
    assert "\n  rsvheat zoom 3" in out
    assert run("zoom", "3") == (0, "3\n", "")
    del sys.modules["rsvheat.commands.zoom"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: rsvheat {name}")
    assert f"example: rsvheat {name}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], ""),
        (["nonsense"], "there is no command 'nonsense'; there are .*evaluate"),
        (["recipes", "nonsense"], "there is no recipe 'nonsense'; there are .*finetune"),
        (["recipes", "--nonsense"], "unrecognized arguments: --nonsense (see rsvheat recipes"),
        (["pretrain", "--config", "nonsense"], "no file and no recipe 'nonsense'"),
        (["pretrain", "--trainer.max_epochs", "x"], "--trainer.max_epochs: Expected an? int"),
        (["pretrain", "--model.objective", "x"], "--model.objective: Expected"),
        (["pretrain", "--model.depth", "3"], "--model: Option 'depth' is not accepted"),
        (["fit", "--data.dataset.root", "x"], "--data.dataset"),
        (["finetune", "--data.crop.size", "x"], "--data.crop.size: Expected an? int"),
        (["evaluate"], "--data.dataset: the following arguments are required: root"),
        (
            ["evaluate", "--data.dataset.root", "x", "--data.crop.size", "x"],
            "--data.crop.size: Expected an? int",
        ),
        (["evaluate", "--methods", "[x]"], "--methods"),
        (["shards"], "required"),
        (["explain"], "required: image"),
        (["predict"], "required: source"),
    ],
)
def test_wrong_usage_is_told_in_a_line(run, words, part):
    code, out, err = run(*words)
    assert code == 2
    if words:
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith(f"rsvheat {words[0]}: ")
        assert re.search(part.replace("(", r"\("), err), err


def test_without_arguments_training_says_what_it_lacks(run):
    for name, part in (
        ("pretrain", "one of folders, shards"),
        ("finetune", "--data.dataset: the following arguments are required: root"),
    ):
        code, _, err = run(name)
        assert code != 0
        assert part in err
        assert len(err.splitlines()) == 1


def test_failures_are_told_in_a_line_and_traced_with_debug(run, tmp_path):
    words = [
        "evaluate",
        "--checkpoint",
        tmp_path / "none.ckpt",
        "--data.dataset.root",
        tmp_path / "none",
    ]
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "none") in err
    code, _, err = run("--debug", *words)
    assert code == 1
    assert "Traceback" in err


def test_what_is_not_expected_says_so(run, monkeypatch):
    from rsvheat.commands import info

    def fail(arguments):
        raise KeyError("something")

    monkeypatch.setattr(info, "run", fail)
    code, _, err = run("info")
    assert code == 1
    assert err.splitlines()[0] == "rsvheat info: KeyError: 'something'"
    assert "--debug" in err


@pytest.mark.parametrize(
    ("end", "code"),
    [(KeyboardInterrupt(), 130), (SystemExit(3), 3), (SystemExit("text"), 1), (SystemExit(), 0)],
)
def test_exit_codes(run, monkeypatch, end, code):
    from rsvheat.commands import info

    def stop(arguments):
        raise end

    monkeypatch.setattr(info, "run", stop)
    assert run("info")[0] == code


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("lightning", "train"),
        ("PIL", "train"),
        ("rasterio.windows", "geo"),
        ("matplotlib", "explain"),
        ("torchgeo.datasets", "torchgeo"),
        ("onnxruntime", "export"),
        ("torch_dct", "bench"),
    ],
)
def test_missing_packages_are_named_with_the_extra_that_brings_them(
    run, monkeypatch, module, extra
):
    from rsvheat.commands import info

    def fail(arguments):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(info, "run", fail)
    code, _, err = run("info")
    assert code == 1
    name = module.partition(".")[0]
    assert err == (
        f"rsvheat info: {name} is not installed; pip install 'rsvheat[{extra}]' brings it\n"
    )


def test_missing_packages_of_nobody_are_named(run, monkeypatch):
    from rsvheat.commands import info

    def fail(arguments):
        raise ModuleNotFoundError("No module named 'nobody'", name="nobody")

    monkeypatch.setattr(info, "run", fail)
    assert run("info")[2] == "rsvheat info: nobody is not installed\n"


def test_parsers_many_lines_become_one(run):
    code, _, err = run("finetune", "--data.dataset.root", "x", "--data.dataset.val_fraction", "y")
    assert code == 2
    assert err == (
        "rsvheat finetune: --data.dataset.val_fraction: Expected a float. Got value: y "
        "(see rsvheat finetune --help)\n"
    )
    assert condense("the following\n  arguments") == "the following arguments"


def test_info_tells_versions(run):
    code, out, _ = run("info")
    assert code == 0
    assert version("torch") in out
    about = json.loads(run("info", "--json")[1])
    assert about["packages"]["torch"] == version("torch")
    assert isinstance(about["native"], bool)


def test_info_names_what_commands_lack_and_how_to_install_it(run, monkeypatch):
    from rsvheat.commands import info

    installed = info._version
    old = {"rasterio": None, "matplotlib": "3.9.0", "pystac": None}
    monkeypatch.setattr(info, "_version", lambda name: old.get(name, installed(name)))
    out = run("info")[1]
    for line in (
        "rsvheat demo           lacks matplotlib>=3.10, rasterio>=1.4: "
        "pip install 'rsvheat[train,geo,explain]'",
        "rsvheat fit            lacks matplotlib>=3.10: pip install 'rsvheat[train]'",
        "rsvheat predict        lacks rasterio>=1.4: pip install 'rsvheat[geo]'",
        "rsvheat predict --stac lacks pystac>=1.13, rasterio>=1.4: pip install 'rsvheat[stac]'",
        "rsvheat explain        lacks matplotlib>=3.10: pip install 'rsvheat[explain]'",
        "rsvheat recipes        ready",
    ):
        assert line in out.splitlines(), out
    about = json.loads(run("info", "--json")[1])["commands"]
    assert about["export"] == {"missing": [], "install": None}
    assert about["predict"] == {
        "missing": ["rasterio>=1.4"],
        "install": "pip install 'rsvheat[geo]'",
    }
    commands = {name.partition(" ")[0] for name in about}
    assert commands == set(cli._commands())


def test_recipes_are_listed_and_printed(run):
    out = run("recipes")[1]
    assert len(out.splitlines()) == len(recipe_paths()) >= 5
    for name, path in recipe_paths().items():
        assert f"\n{name} " in f"\n{out}"
        assert run("recipes", name)[1] == path.read_text()


@pytest.mark.parametrize("name", sorted(recipe_paths()))
def test_recipes_are_what_their_commands_take(name, images, run, tmp_path):
    """Each is parsed by the command that its comment names, and printed back with its values."""
    text = recipe_paths()[name].read_text()
    assert text.startswith("# SPDX")
    (line,) = (line for line in text.splitlines() if line.startswith("#   rsvheat"))
    command = line.split()[2]
    assert line.split()[3:5] == ["--config", name]
    words = [command, "--config", name]
    folder = str(images / "optical")
    reader = yaml.safe_load(text)["data"]["dataset"]["class_path"].rpartition(".")[2]
    given = {
        "ImageFolders": {"folders": json.dumps({"optical": folder})},
        "MaskFolders": {"images": json.dumps({"optical": folder}), "masks": folder},
        "ChangeFolders": {"before": folder, "after": folder, "label": folder},
        "BoxFolders": {
            "images": json.dumps({"optical": folder}),
            "annotations": folder,
            "box_format": "voc",
        },
    }.get(reader, {"root": str(images / "classes")})
    for option, value in given.items():
        words += [f"--data.dataset.{option}", value]
    code, out, err = run(*words, "--print_config")
    assert code == 0, err
    printed = yaml.safe_load(out)

    def check(given, taken, where):
        for key, value in given.items():
            if isinstance(value, dict):
                check(value, taken[key], f"{where}.{key}")
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                for i, (one, other) in enumerate(zip(value, taken[key], strict=True)):
                    check(one, other, f"{where}.{key}[{i}]")
            else:
                assert taken[key] == value, f"{where}.{key}"

    check(yaml.safe_load(text), printed, name)


def test_pretraining_leaves_a_run(pretrain, tmp_path):
    code, out, err = pretrain()
    assert code == 0, err
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("epoch 1/1: train/loss ")
    folder = tmp_path / "run"
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert {"last", "best", "metrics", "config", "events"} <= names
    assert [row["step"] for row in rows(folder) if row["train/loss"]] == ["0", "1", "2"]


def test_every_value_can_be_set_on_the_command_line(pretrain, tmp_path):
    code, _, err = pretrain(
        *("--trainer.max_epochs", 2, "--model.optimization.lr", 0.25, "--data.loader.batch_size=6"),
        *("--model.optimization.warmup", 0, "--keep_best", 0, "--ema", 0.5),
        *("--model.weights", "[1,0,0]", "--seed_everything", 3),
    )
    assert code == 0, err
    folder = tmp_path / "run"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimization"]["lr"] == 0.25
    assert config["seed_everything"] == 3
    steps = [row for row in rows(folder) if row["train/loss"]]
    assert len(steps) == 4
    assert float(steps[0]["lr"]) == 0.25
    assert "train/frequency" not in steps[0]
    assert not (folder / "best.ckpt").exists()
    assert "current_model_state" in torch.load(folder / "last.ckpt", weights_only=True)


def test_the_kept_configuration_makes_the_same_run(pretrain, run, tmp_path):
    assert pretrain()[0] == 0
    code, _, err = run(
        "pretrain", "--config", tmp_path / "run/config.yaml", "--output", tmp_path / "again"
    )
    assert code == 0, err
    for row in (first := rows(tmp_path / "run")) + (again := rows(tmp_path / "again")):
        row.pop("images_per_second")
    assert first == again


def test_a_run_goes_on_or_says_why_not(pretrain, tmp_path):
    assert pretrain()[0] == 0
    code, _, err = pretrain()
    assert code == 1
    assert "holds a run: go on with --resume" in err
    code, _, err = pretrain("--resume")
    assert code == 0
    assert "was complete" in err
    code, _, err = pretrain("--resume", "--trainer.max_epochs", 2)
    assert code == 0
    assert err.startswith("epoch 2/2")
    code, _, err = pretrain("--resume", "--model.decoder_dim", 16, "--trainer.max_epochs", 3)
    assert code == 1
    assert "is of another model than the one configured" in err
    code, _, err = pretrain("--resume", tmp_path / "none.ckpt")
    assert code == 1
    assert "none.ckpt" in err


def test_an_unwritable_output_is_told_in_a_line(pretrain, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = pretrain(output="file/run")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "cannot write to the folder" in err


def test_a_signal_ends_a_run_with_its_code(images, tmp_path):
    """SIGINT and SIGTERM to a process and its workers: 130 and 143, after a checkpoint."""
    words = [
        "pretrain",
        "--data.dataset.folders.optical",
        images / "optical",
        "--data.crop.size",
        32,
    ]
    words += [
        "--data.loader.batch_size",
        4,
        "--data.loader.num_workers",
        2,
        "--data.crop.window",
        32,
    ]
    words += ["--model.encoder_options", TINY, "--trainer.max_epochs", 10000]
    words += ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", 1]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-m", "rsvheat", *map(str, words), "--output", folder],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not (folder / "metrics.csv").exists() or len(rows(folder)) < 3:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, number)  # as terminals, torchrun and SLURM do
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert f"stopped by {number.name} after step" in err
        steps = [int(row["step"]) for row in rows(folder)]
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == steps[-1] + 1


def test_from_pretraining_to_scores_and_an_exported_file(pretrain, run, images, tmp_path):
    assert pretrain()[0] == 0
    data = [
        "--data.dataset.root",
        images / "classes",
        "--data.crop.size",
        32,
        "--data.loader.num_workers",
        0,
    ]
    code, out, err = run(
        *("finetune", *data, "--data.loader.batch_size", 4, "--trainer.max_epochs", 2),
        *("--trainer.accelerator", "cpu", "--data.dataset.val_fraction", 0.25),
        *("--model.checkpoint", tmp_path / "run/last.ckpt", "--output", tmp_path / "classes"),
    )
    assert code == 0, err
    assert "parameters loaded" in err
    scores = json.loads((tmp_path / "classes/scores.json").read_text())
    assert out.startswith(f"overall accuracy {scores['overall_accuracy']:.4f}")
    assert scores["images"] == "val"
    assert scores["samples"] == 8

    best = tmp_path / "classes/best.ckpt"
    words = ["evaluate", *data, "--data.dataset.val_fraction", 0.25, "--device", "cpu"]
    code, out, err = run(*words, "--checkpoint", best, "--output", tmp_path / "scores")
    assert code == 0, err
    assert out == (
        f"classification: overall accuracy {scores['overall_accuracy']:.4f}, "
        f"mean F1 {scores['mean_f1']:.4f}\n"
    )
    code, out, err = run(
        *(*words, "--config", "linear_probe_eurosat", "--data.crop.size", 32),
        *("--checkpoint", tmp_path / "run/last.ckpt", "--output", tmp_path / "probes"),
    )
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == ["knn", "linear"]
    assert {path.suffix for path in (tmp_path / "probes").iterdir()} == {".json", ".csv", ".png"}

    code, out, err = run("export", best, tmp_path / "classes.pt2")
    assert code == 0, err
    assert "-> logits; agrees with the model" in out
    code, _, err = run("export", tmp_path / "run/last.ckpt", tmp_path / "a.pt2", "--kind", "torch")
    assert code == 0, err


def test_several_seeds_give_mean_and_deviation(run, images, tmp_path):
    words = [
        *("finetune", "--data.dataset.root", images / "classes", "--data.crop.size", 32),
        *("--data.loader.num_workers", 0, "--data.loader.batch_size", 8),
        *("--data.dataset.val_fraction", 0.25, "--trainer.accelerator", "cpu"),
        *("--model.encoder_options", TINY, "--output", tmp_path / "runs"),
        *("--trainer.max_epochs", 1, "--seeds", 4, 7),
    ]
    code, out, err = run(*words)
    assert code == 0, err
    found, splits = [], []
    for seed in (4, 7):
        folder = tmp_path / f"runs/seed_{seed}"
        found.append(json.loads((folder / "scores.json").read_text())["overall_accuracy"])
        config = yaml.safe_load((folder / "config.yaml").read_text())
        splits.append((config["seed_everything"], config["seeds"], config["output"]))
    assert splits == [(seed, None, str(tmp_path / f"runs/seed_{seed}")) for seed in (4, 7)]
    scores = json.loads((tmp_path / "runs/seeds.json").read_text())
    assert scores["seeds"] == [4, 7]
    accuracy = scores["scores"]["overall_accuracy"]
    assert accuracy["values"] == found
    assert accuracy["mean"] == pytest.approx(sum(found) / 2)
    assert accuracy["deviation"] == pytest.approx(abs(found[0] - found[1]) / 2**0.5)
    assert out.splitlines()[-1].startswith(f"2 seeds: overall accuracy {accuracy['mean']:.4f} ± ")

    code, _, err = run(*words)
    assert code == 1
    assert "holds a run: go on with --resume" in err
    # A third seed: the finished ones are not trained again.
    code, out, err = run(*words, 9, "--resume")
    assert code == 0, err
    assert err.count("was complete") == 2
    scores = json.loads((tmp_path / "runs/seeds.json").read_text())
    assert scores["scores"]["overall_accuracy"]["values"][:2] == found
    for wrong, part in (((4, "--resume"), "seeds must differ"), (("--resume", "x"), "alone")):
        code, _, err = run(*words, *wrong)
        assert code == 1
        assert part in err
    code, _, err = run(*words, "--trainer.devices", 2, "--output", tmp_path / "two")
    assert code == 1
    assert "--seeds trains in one process" in err


def test_files_that_are_no_checkpoints_are_told_in_a_line(run, tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    for name, part in (
        ("table.csv", "not a torch checkpoint"),
        ("page.pth", "web page"),
        ("no", "no"),
    ):
        code, _, err = run("export", tmp_path / name, tmp_path / "a.pt2")
        assert code == 1
        assert len(err.splitlines()) == 1
        assert part in err


def test_folders_become_shards_that_train(run, images, tmp_path):
    code, out, err = run(
        *("shards", tmp_path / "shards", "--folders.optical", images / "optical"),
        *("--folders.sar", images / "sar", "--samples_per_shard", 5),
    )
    assert code == 0, err
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 3
    assert "12 samples" in out
    code, _, err = run(
        *("pretrain", "--data.dataset.shards", tmp_path / "shards", "--data.crop.size", 32),
        *(
            "--data.loader.num_workers",
            0,
            "--data.loader.batch_size",
            4,
            "--data.dataset.val_fraction",
            0,
        ),
        *("--model.encoder_options", TINY, "--trainer.max_epochs", 1, "--data.crop.window", "null"),
        *("--trainer.accelerator", "cpu", "--output", tmp_path / "run"),
    )
    assert code == 0, err


def test_damaged_images_are_left_out_and_counted(run, images, tmp_path):
    for sensor in ("optical", "sar"):
        (tmp_path / sensor).mkdir()
        for path in sorted((images / sensor).iterdir()):
            (tmp_path / sensor / path.name).write_bytes(path.read_bytes())
    broken = sorted((tmp_path / "sar").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:100])
    code, _, err = run(
        *(
            "pretrain",
            "--data.dataset.folders.optical",
            tmp_path / "optical",
            "--data.dataset.folders.sar",
        ),
        *(
            tmp_path / "sar",
            "--data.crop.size",
            32,
            "--data.loader.num_workers",
            0,
            "--data.loader.batch_size",
            4,
        ),
        *(
            "--data.dataset.val_fraction",
            0,
            "--data.crop.window",
            "null",
            "--trainer.accelerator",
            "cpu",
        ),
        *("--model.encoder_options", TINY, "--trainer.max_epochs", 1),
        *("--output", tmp_path / "run"),
    )
    assert code == 0, err
    assert broken.stem in err


def test_real_images_go_through(run, tmp_path):
    """One epoch on tiles of real Sentinel pairs, and scores of the encoder on real scenes."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (shared / "s1s2_volkov").exists():
        pytest.skip(f"there are no real images at {shared}")
    sensors = {"optical": {"bands": 3}, "sar": {"bands": 1, "select": [1]}}
    for folder, sensor in (("opt", "optical"), ("sar", "sar")):
        for path in sorted((shared / "s1s2_volkov" / folder).iterdir())[:2]:
            (tmp_path / sensor).mkdir(exist_ok=True)
            (tmp_path / sensor / path.name).symlink_to(path)
    code, _, err = run(
        *(
            "pretrain",
            "--data.dataset.folders.optical",
            tmp_path / "optical",
            "--data.dataset.folders.sar",
        ),
        *(tmp_path / "sar", "--data.sensors", json.dumps(sensors), "--data.dataset.tile", 256),
        *(
            "--data.crop.size",
            64,
            "--data.crop.window",
            128,
            "--data.loader.batch_size",
            8,
            "--data.dataset.val_fraction",
        ),
        *(
            0,
            "--data.loader.num_workers",
            0,
            "--model.encoder_options",
            TINY,
            "--trainer.max_epochs",
            1,
        ),
        *("--trainer.accelerator", "cpu", "--output", tmp_path / "run"),
    )
    assert code == 0, err
    for name in ("Forest", "Residential", "SeaLake"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for path in sorted((shared / "eurosat_rgb" / name).iterdir())[:20]:
            (tmp_path / "scenes" / name / path.name).symlink_to(path)
    code, out, err = run(
        *("evaluate", "--checkpoint", tmp_path / "run/last.ckpt", "--data.dataset.root"),
        *(tmp_path / "scenes", "--data.loader.num_workers", 0, "--output", tmp_path / "scores"),
        *("--data.dataset.val_fraction", 0.4, "--device", "cpu", "--methods", "[linear]"),
    )
    assert code == 0, err
    # Forest, houses and water are told apart by colours alone.
    assert json.loads((tmp_path / "scores/linear.json").read_text())["overall_accuracy"] > 0.8
    assert out.startswith("linear: overall accuracy")
