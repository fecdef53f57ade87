# SPDX-License-Identifier: Apache-2.0
import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rsvheat
from rsvheat import _library
from rsvheat.models import RSVHeat

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

pytestmark = [
    pytest.mark.source_tree,
    pytest.mark.skipif(not _library.native_available(), reason="the native library is not loaded"),
]

RUN = ("heat_conduction", "--shapes", "1x64x48x64", "--repeats", "2", "--threads", "1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), *arguments], capture_output=True, text=True
    )


@pytest.fixture
def operator_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import operator_tables

    return operator_tables


@pytest.fixture
def runner(monkeypatch):
    """The runner in this process, for what needs no measurement."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else the import sets it for good
    import run

    return run


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, str]:
    """Return the CSV that one run of every row wrote, and what the run printed."""
    folder = tmp_path_factory.mktemp("results")
    # No compiler is that fast: the guard must skip its row and let the table go on.
    done = run(*RUN, "--compile-timeout", "0.05", "--write", "--results", str(folder))
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path, done.stdout


def doctored(operator_tables, path: Path, folder: Path, factor: float) -> Path:
    """Store the table again, with ratios to the floor ``factor`` times as large."""
    table = operator_tables.read_csv(path)
    records = [
        dataclasses.replace(r, floor_ratio=r.floor_ratio and r.floor_ratio * factor)
        for r in table.records
    ]
    operator_tables.write_csv(folder / path.name, operator_tables.Table(table.header, records))
    return folder


def test_every_row_is_measured_or_skipped_with_a_reason(operator_tables, stored):
    path, printed = stored
    table = operator_tables.read_csv(path)
    rows = {record.row: record for record in table.records}
    assert list(rows) == [
        "floor",
        "rsvheat",
        "rsvheat-prepared",
        "twin",
        "matmul",
        "conv1d",
        "scipy",
        "ducc0",
        "torch-dct",
        "compiled-twin",
    ]
    for name, record in rows.items():
        if record.forward_ms is None:
            assert record.note.startswith("skipped, ")
            assert f"{name}: {record.note}" in printed
        else:
            assert record.forward_ms > 0
            assert record.floor_ratio == pytest.approx(
                record.forward_ms / rows["floor"].forward_ms, rel=2e-3
            )
    assert rows["compiled-twin"].note == "skipped, not done after 0.05 s"
    for name in ("rsvheat", "rsvheat-prepared", "twin", "matmul", "conv1d", "scipy"):
        assert rows[name].forward_ms is not None, rows[name].note


def test_results_are_accurate(operator_tables, stored):
    records = operator_tables.read_csv(stored[0]).records
    errors = {r.row: r.relative_error for r in records if r.relative_error is not None}
    assert len(errors) >= 6
    for row, error in errors.items():
        assert 0 < error <= 2e-6, row


def test_memory_columns_tell_the_fused_operator_from_its_twin(operator_tables, stored):
    rows = {record.row: record for record in operator_tables.read_csv(stored[0]).records}
    x = 64 * 48 * 64 * 4
    if "extra memory is unknown" in rows["twin"].note:
        pytest.skip(rows["twin"].note)
    assert rows["twin"].extra_bytes >= x  # at least a spectrum
    assert rows["rsvheat"].extra_bytes < rows["twin"].extra_bytes
    assert rows["rsvheat"].saved_bytes == 2 * x  # x and k, of one size for a batch of 1
    assert rows["conv1d"].saved_bytes > 2 * x


def test_header_names_hardware_and_versions_and_no_paths(stored):
    text = stored[0].read_text()
    for key in ("device", "versions", "date", "command"):
        assert f"# {key}: " in text
    assert ", 1 thread," in text
    assert "torch " in text
    assert str(ROOT) not in text
    assert str(stored[0].parent) not in text


def test_check_fails_on_a_slower_operator(operator_tables, stored, tmp_path):
    folder = doctored(operator_tables, stored[0], tmp_path, 1e-3)
    done = run(*RUN, "--rows", "rsvheat", "--check", "--results", str(folder))
    assert done.returncode == 1, done.stderr
    assert "1 ratios to the floor compared, 1 grew by over 5%" in done.stdout
    assert "rsvheat 1x64x48x64 float32:" in done.stdout


def test_check_without_a_stored_result_is_an_error(runner, tmp_path, capsys):
    assert runner.main([*RUN, "--check", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --check: nothing is stored for this device")


def test_check_refuses_to_compare_two_allocators(runner, operator_tables, stored):
    table = operator_tables.read_csv(stored[0])
    command = table.header["command"] + " --keep-pages"
    other = operator_tables.Table({**table.header, "command": command}, table.records)
    with pytest.raises(runner.BenchmarkError, match="measured with --keep-pages"):
        runner._check(table, other, 0.05)


@pytest.mark.parametrize(("factor", "slower"), [(0.9, 2), (0.97, 0), (1.5, 0)])
def test_check_compares_with_a_tolerance(operator_tables, stored, tmp_path, factor, slower):
    folder = doctored(operator_tables, stored[0], tmp_path, factor)
    measured, committed = (
        operator_tables.read_csv(p) for p in (stored[0], folder / stored[0].name)
    )
    lines, compared = operator_tables.regressions(measured, committed, 0.05)
    assert compared == 2
    assert len(lines) == slower


def test_markdown_holds_every_measured_row_and_the_goals(operator_tables, stored):
    table = operator_tables.read_csv(stored[0])
    text = operator_tables.markdown(table)
    titles = next(line for line in text.splitlines() if line.startswith("| shape "))
    assert "| (1, 64, 48, 64) | " in text
    for record in table.records:
        if record.forward_ms is not None:
            assert f" {record.row} |" in titles
        else:
            assert f"- {record.row} (float32): {record.note}" in text
    assert "- at most 4 x the floor: " in text


def test_missed_goals_are_named(operator_tables):
    records = [
        operator_tables.Record("float32", "1x8x8x16", "floor", forward_ms=1.0),
        operator_tables.Record("float32", "1x8x8x16", "rsvheat", forward_ms=5.0),
        operator_tables.Record("float32", "1x8x8x16", "matmul", forward_ms=4.0),
    ]
    operator_tables.relate(records)
    lines = operator_tables.goals(
        operator_tables.Table({"op": "heat_conduction", "kind": "cpu"}, records)
    )
    assert "at most 4 x the floor: 0 of 1; missed at 1x8x8x16 float32 (5)" in lines
    assert any("0 of 1; missed at 1x8x8x16 float32 by matmul (0.8)" in line for line in lines)


@pytest.mark.slow
def test_frequency_split_runs():
    done = run("frequency_split", "--shapes", "2x3x32x24", "--repeats", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "frequency_split (2, 3, 32, 24) float32" in done.stdout
    assert "at least 10 times faster than torch-dct" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heat_conduction", "--rows", "nonsense"], "nonsense is not one of floor, rsvheat"),
        (["heat_conduction", "--shapes", "8x56x56"], "8x56x56 is not four sizes"),
        (["all", "--shapes", "8x56x56x128"], "--shapes and --rows need one operator"),
        (["--repeats", "0"], "--repeats must be positive"),
    ],
)
def test_bad_arguments_are_named(runner, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        runner.main(arguments)
    assert message in capsys.readouterr().err


def test_extra_memory_counts_native_allocations():
    # 8 MiB that torch knows nothing of, beside an output of 4 MiB, and freed before the call ends.
    script = """
import numpy, torch
from formulations import Case
from measure import MemoryUnknownError, _cpu_extra_bytes
def forward(x):
    y = x * 2
    numpy.ones(2**20)
    return y
try:
    print(_cpu_extra_bytes(Case(forward, (torch.ones(2**20),)), compiled=False))
except MemoryUnknownError as error:
    print("unknown", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS), "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("unknown"):
        pytest.skip(done.stdout)
    # The kernel counts pages in batches, so a little may be missing or too much.
    assert abs(int(done.stdout) - 8 * 2**20) < 2**20


@pytest.fixture
def encoders(monkeypatch):
    """The benchmark of the encoder, in this process."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import encoder

    return encoder


def test_published_formulation_computes_the_same(encoders):
    torch.manual_seed(0)
    model = RSVHeat((16, 32), (1, 2), (40, 56), {"optical": 3}, 5, spatial_correction=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    published = encoders.PublishedEncoder(model).eval()
    x = torch.randn(2, 3, 40, 56)
    expected = model(x)
    torch.testing.assert_close(published(x), expected, rtol=1e-4, atol=1e-5)
    published.train()
    torch.testing.assert_close(published(x), expected, rtol=1e-4, atol=1e-5)
    published(x).sum().backward()
    assert model.stages[0].freq_embed.table.grad is not None


def test_encoder_table_keeps_the_cases_that_were_not_measured(encoders, tmp_path):
    path, *_ = BENCHMARKS.glob("results/*_encoder.csv")
    stored = encoders.read(path)
    one = [dict(row, seconds=1.0) for row in stored if row["size"] == 512][:3]
    merged = encoders._merge(stored, one)
    assert len(merged) == len(stored)
    assert sum(row["seconds"] == 1.0 for row in merged) == 3
    encoders.write(tmp_path / "a.csv", {"device": "test"}, merged)
    assert encoders.read(tmp_path / "a.csv") == merged
    lines = encoders.markdown(merged).splitlines()
    assert len(lines) == 2 + len(stored) / 3
    assert any(line.startswith("met") for line in encoders.goals(stored))


def test_markdown_leaves_the_tables_of_other_benchmarks_alone():
    done = run("--markdown")
    assert done.returncode == 0, done.stderr
    tables = [*BENCHMARKS.glob("results/*_heat_conduction.csv")]
    assert done.stdout.count("### `heat_conduction`") == len(tables)
    assert "Swin" not in done.stdout


@pytest.fixture
def eurosat(tmp_path):
    """Noise of three brightnesses, laid out as EuroSAT."""
    random = np.random.default_rng(0)
    for label, brightness in enumerate((40, 120, 200)):
        folder = tmp_path / "eurosat_rgb" / "abc"[label]
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = random.normal(brightness, 20, (64, 64, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


@pytest.fixture
def classification(monkeypatch, eurosat):
    """The benchmark of classification, in this process."""
    pytest.importorskip("lightning")
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import classification
    import tables

    for name in ("SCRATCH", "LABELS", "FEATURES"):
        monkeypatch.setattr(classification, name, eurosat / f"{name}.csv")
    monkeypatch.setattr(classification, "RUNS", eurosat / "runs")
    monkeypatch.setattr(tables, "LOCKS", eurosat / "locks")
    return classification


@pytest.fixture
def pretraining(monkeypatch, eurosat):
    """The benchmark of pretraining, in this process."""
    pytest.importorskip("lightning")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fitting
    import pretraining
    import tables

    for name in ("ABLATION", "FINETUNING", "LOSSES"):
        monkeypatch.setattr(pretraining, name, eurosat / f"{name}.csv")
    monkeypatch.setattr(pretraining, "RUNS", eurosat / "runs")
    monkeypatch.setattr(pretraining, "BATCH", 8)
    monkeypatch.setattr(tables, "LOCKS", eurosat / "locks")
    for module in (fitting, pretraining):
        monkeypatch.setattr(module, "SCHEDULES", {0.4: (8, 2), 0.5: (8, 2)})
    monkeypatch.setattr(pretraining, "RATES", {0.4: 1e-3, 0.5: 1e-3})
    return pretraining


def test_pretraining_writes_what_is_finished_and_goes_on(pretraining, eurosat):
    names = ["image statistics", "from scratch", "spatial"]
    for command, path, lines in (
        (["ablation", "--epochs", "1"], pretraining.ABLATION, 3),
        (["finetuning"], pretraining.FINETUNING, 2),
    ):
        rows = names[-lines:]
        run = [*command, "--data", str(eurosat), "--seeds", "0", "--rows", *rows]
        assert pretraining.main(run) == 0
        before = path.stat().st_mtime_ns
        assert pretraining.main(run) == 0
        assert path.stat().st_mtime_ns == before, "what is finished is not done again"
        found = pretraining.read(path)
        assert list(dict.fromkeys(row["row"] for row in found)) == rows
        assert all(0 <= float(r.get("accuracy") or r["knn"]) <= 1 for r in found)
        assert str(eurosat) not in path.read_text()
    assert [row["epoch"] for row in pretraining.read(pretraining.LOSSES)] == ["1"]
    table = pretraining.ablation_markdown().splitlines()
    assert len(table) == 2 + len(names)
    assert len({line.count("|") for line in table}) == 1


def test_pretraining_goes_on_as_if_it_had_not_stopped(pretraining, monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    scenes = {"optical": 3, "sar": 1}
    scenes = {k: torch.randn(3, n, 80, 80, generator=generator) for k, n in scenes.items()}
    pairs = pretraining.Pairs(scenes, torch.tensor([0, 1]), torch.tensor([2]), ("a", "b", "c"), {})
    data = pretraining.eurosat(tmp_path)
    recipe = pretraining.Recipe(pairs=2, batch=8)

    def weights(path: Path | None) -> dict[str, torch.Tensor]:
        return pretraining.pretrained(data, pairs, recipe, 3, 0, "run", path)[0].state_dict()

    expected, shuffled = weights(None), pretraining.shuffled

    def stopping(*arguments):
        # In the second of three epochs of three steps.
        for _, batch in zip(range(5), shuffled(*arguments), strict=False):
            yield batch
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "shuffled", stopping)
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "kept.pt")
    monkeypatch.setattr(pretraining, "shuffled", shuffled)
    assert torch.load(tmp_path / "kept.pt")["step"] == 3
    resumed = weights(tmp_path / "kept.pt")
    history = torch.load(tmp_path / "kept.pt")["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    seconds = [row["cpu_seconds"] for row in history]
    assert seconds == sorted(seconds)
    with pytest.raises(
        pretraining.BenchmarkError, match=r"kept\.pt is of 3 epochs, seed 0, .* not of"
    ):
        pretraining.pretrained(data, pairs, recipe, 4, 0, "run", tmp_path / "kept.pt")
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


@pytest.fixture
def two_stages(pretraining, monkeypatch, tmp_path):
    """Return a function that makes weights in both stages and returns them, and where they are."""
    import distillation

    generator = np.random.default_rng(0)
    for sensor, shape in {"opt": (128, 128, 3), "sar": (128, 128)}.items():
        (tmp_path / "s1s2_volkov" / sensor).mkdir(parents=True)
        for scene in ("001", "002", "046"):
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "s1s2_volkov" / sensor / f"{scene}.png")
    monkeypatch.setattr(pretraining, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(distillation, "BATCH", 8)
    monkeypatch.setattr(distillation, "CROPS", 4)

    def make(*options: str) -> int:
        stages = ["--epochs", "1", "--second_epochs", "3", "--sides", "64", "72"]
        sizes = ["--batch", "8", "--pairs", "2", "--crops", "3", "--data", str(tmp_path)]
        return pretraining.main(["checkpoint", "--seeds", "0", *stages, *sizes, *options])

    return make


def test_the_second_stage_goes_on_as_if_it_had_not_stopped(
    two_stages, pretraining, monkeypatch, tmp_path, capsys
):
    import fitting

    assert two_stages() == 0
    file = tmp_path / "weights" / "rsvheat_nano.safetensors"
    expected = load_file(file)
    card = file.with_suffix(".md").read_text()
    assert "`python benchmarks/pretraining.py checkpoint --epochs 1 --second_epochs 3" in card
    assert "--pairs 2 --batch 8 --sides 64 72 --crops 3`" in card
    (second,) = (tmp_path / "runs").glob("second-stage-*.pt")
    history = torch.load(second)["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["images"] < history[0]["images"]

    second.unlink()
    keep = fitting.Progress.keep

    def stopping(progress, kept, step):
        keep(progress, kept, step)
        if step == 4:  # in the second of three epochs of three steps
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting.Progress, "keep", stopping)
    with pytest.raises(KeyboardInterrupt):
        two_stages()
    monkeypatch.setattr(fitting.Progress, "keep", keep)
    assert torch.load(second)["step"] == 3
    file.unlink()
    assert two_stages() == 0
    assert all(torch.equal(value, expected[name]) for name, value in load_file(file).items())

    assert two_stages("--temperature", "0.5") == 2
    assert "first-stage-1-0.safetensors is of 1 epochs, seed 0, Recipe(" in capsys.readouterr().err


def test_targets_are_those_of_an_image_turned_in_any_way(pretraining):
    import distillation

    torch.manual_seed(0)
    encoder = rsvheat.create_model("rsvheat_nano", img_size=64, num_classes=0).eval()
    images = torch.randn(4, 3, 64, 64)
    expected = distillation.targets(encoder, images, "optical", (64, 96))
    assert expected.mean(0).abs().max() < 1e-5
    assert (expected.std(0) - 1).abs().max() < 0.02
    for view in list(distillation.turned(images))[1:]:
        found = distillation.targets(encoder, view, "optical", (64, 96))
        assert (found - expected).abs().mean() < 0.02, "bfloat16"
    other = distillation.targets(encoder, images.flip(0), "optical", (64, 96))
    assert (other - expected).abs().mean() > 0.5


def test_classification_writes_what_is_finished_and_goes_on(classification, monkeypatch, tmp_path):
    short = classification.Schedule(lr=1e-3, epochs=1, batch=8)
    monkeypatch.setattr(
        classification, "SCHEDULES", dict.fromkeys(("rsvheat_nano", "resnet18"), short)
    )
    few = {(0.5, start): short for start in ("scratch", "pretrained")}
    monkeypatch.setattr(classification, "FEW", few)
    for command, seeds, lines in (("scratch", [0], 2), ("labels", [0, 1], 1), ("features", [0], 7)):
        run = [command, "--data", str(tmp_path), "--seeds", *map(str, seeds)]
        assert classification.main(run) == 0
        path = getattr(classification, command.upper())
        before = path.stat().st_mtime_ns
        assert classification.main(run) == 0
        assert path.stat().st_mtime_ns == before, "what is finished is not done again"
        rows = classification.read(path)
        assert all(0 <= float(r.get("accuracy") or r["knn"]) <= 1 for r in rows)
        text = path.read_text()
        assert "24 images to train on and 6 held out" in text
        assert str(tmp_path) not in text
        table = getattr(classification, f"{command}_markdown")().splitlines()
        assert len(table) == 2 + lines
        assert len({line.count("|") for line in table}) == 1


def test_classification_goes_on_as_if_it_had_not_stopped(classification, monkeypatch, tmp_path):
    data = classification.eurosat(tmp_path)
    schedule = classification.Schedule(lr=1e-3, epochs=6, batch=8, drop_path=0.2, cutmix=1.0)

    def fitted(path: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = classification.build("rsvheat_nano", 3, schedule)
        classification.fit(model, data, data.train, schedule, 0, path)
        return model.state_dict()

    expected, seeded = fitted(None), classification.seeded

    def stop(*seed: int) -> torch.Generator:
        if seed[-1] == 5:
            raise KeyboardInterrupt
        return seeded(*seed)

    monkeypatch.setattr(classification, "seeded", stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "a.pt")
    monkeypatch.setattr(classification, "seeded", seeded)
    resumed = fitted(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["epoch"] == 6
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_classification_augments_labels_with_images(classification):
    images = torch.stack([torch.full((3, 16, 16), float(i)) for i in range(4)])
    mixed, target = classification.pasted(images, torch.eye(4), 1.0, torch.Generator())
    for i in range(4):
        share = [(mixed[i] == j).float().mean() for j in range(4)]
        torch.testing.assert_close(target[i], torch.stack(share))
    ways = list(classification.turned(torch.arange(8.0).view(1, 2, 2, 2)))
    assert len({str(way) for way in ways}) == 8
    assert all(sorted(way.flatten()) == list(range(8)) for way in ways)


def test_classification_names_wrong_settings(classification, capsys):
    with pytest.raises(SystemExit):
        classification.main(["tune", "--set", "rate=1"])
    assert "'rate' is none of lr, epochs" in capsys.readouterr().err


def test_boxes_are_timed_beside_the_peers_that_are_installed(tmp_path: Path) -> None:
    options = ("--quick", "--rounds", "1", "--threads", "1", "--write", "--results", str(tmp_path))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "boxes.py"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "boxes.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in text if not line.startswith("#")))
    own = [row for row in rows if row["row"] == "rsvheat"]
    assert len(own) == len({row["case"] for row in rows}) == 8
    assert all(float(row["error"]) <= 1e-5 and row["rounds"] == "1" for row in own)
    for row in rows:
        assert (row["min_ms"] == "") == (row["rounds"] == "0")
        assert row["min_ms"] or row["note"]
    options = ("--exactness", "--quick", "--write", "--results", str(tmp_path))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "boxes.py"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    document = (tmp_path / "boxes.md").read_text()
    assert all(f"## {row['case']}\n" in document for row in own)
    section = document.split("## Exactness of `box_iou_rotated`\n")[1]
    assert "\n| jitter 1e-09 | " in section
    assert section.count("\n| ") > 25


def test_weight_checks_are_counted_timed_and_stored(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # else the import sets it for good
    import weight_checks

    monkeypatch.setattr(weight_checks, "RESULTS", tmp_path)
    monkeypatch.setattr(weight_checks, "CASES", (("rsvheat_nano", 32, 1),))
    measure = weight_checks.measure
    monkeypatch.setattr(weight_checks, "measure", lambda *case: measure(*case[:-1], rounds=1))
    threads = str(torch.get_num_threads())
    arguments = ["--sizes", "32", "--rounds", "1", "--threads", threads, "--write"]
    assert weight_checks.main(arguments) == 0
    (row,) = weight_checks.tables.read(next(tmp_path.iterdir()))
    # Each stage's table, and each block's weight and bias: heat filters are made of them.
    depths = rsvheat.create_model("rsvheat_nano", img_size=32).depths
    assert int(row["checks"]) == len(depths) + 2 * sum(depths)
    assert 0 < float(row["checks_ms"]) < float(row["with_ms"])
    capsys.readouterr()
    assert weight_checks.main(["--markdown"]) == 0
    assert "rsvheat_nano, 1 x 32, float32" in capsys.readouterr().out
