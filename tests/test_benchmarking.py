# SPDX-License-Identifier: Apache-2.0
import csv
import json
import re
import time

import pytest
import torch

from rsvheat import benchmarking, cli
from rsvheat.models import create_model

QUICK = {"rounds": 3, "budget": 0.0}


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, output, errors."""

    def call(*words):
        code = cli.main(["benchmark", *map(str, words), "--rounds", "3", "--seconds", "0"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_calls_take_turns_and_each_turn_is_timed():
    order = []

    def call(name, seconds):
        def wait():
            order.append(name)
            time.sleep(seconds)

        return wait

    calls = {"slow": call("slow", 0.06), "quick": call("quick", 0.001)}
    times = benchmarking.time_calls(calls, "cpu", rounds=4)
    assert {name: len(seconds) for name, seconds in times.items()} == {"slow": 3, "quick": 4}
    assert min(times["slow"]) >= 0.06
    assert 0.001 <= min(times["quick"]) < 0.06
    # After two of each, the quick one is called once more before it is timed.
    assert "".join(name[0] for name in order[4:]) == "qqsqqsqqsqq"


def test_peak_memory_is_what_is_held_at_once():
    def call():
        a = torch.ones(1 << 20)
        b = a + 1
        del a
        (b * 2).sum()

    assert 8 * 2**20 <= benchmarking.peak_bytes(call, "cpu") < 9 * 2**20


def test_operator_is_measured_beside_the_floor_and_its_twin():
    shape = (2, 24, 20, 16)
    inference, training = (
        {row.row: row for row in measure()}
        for measure in benchmarking.benchmark([shape], dtypes=["bfloat16"], **QUICK)
    )
    assert list(inference) == ["floor", "rsvheat", "rsvheat-prepared", "twin in pure torch"]
    assert list(training) == ["floor", "rsvheat", "twin in pure torch"]
    assert inference["floor"].floor_ratio == 1
    for row in (*inference.values(), *training.values()):
        assert (row.batch, row.shape, row.dtype, row.calls) == (2, "24x20x16", "bfloat16", 3)
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
        assert row.images_per_s is None
    ratio = inference["rsvheat"].median_ms / inference["floor"].median_ms
    assert inference["rsvheat"].floor_ratio == pytest.approx(ratio)
    assert training["twin in pure torch"].mode == "training"


def test_training_of_an_operator_computes_both_gradients():
    x, k = torch.randn(2, 8, 6, 4), torch.rand(8, 6, 4)
    calls = benchmarking._operator_calls(x, k, training=True)
    for ours, twin in zip(calls["rsvheat"](), calls["twin in pure torch"](), strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-4, atol=1e-5)


def test_encoders_of_rsvheat_and_timm_are_measured_side_by_side():
    models = ["rsvheat_nano", "resnet18"]
    cases = benchmarking.benchmark(
        models=models, sizes=[64], batch_sizes=[1, 2], dtypes=["float32"], **QUICK
    )
    measured = [measure() for measure in cases]
    about = [(rows[0].mode, rows[0].batch, [row.row for row in rows]) for rows in measured]
    assert about == [
        (mode, batch, models) for mode in ("inference", "training") for batch in (1, 2)
    ]
    for rows in measured:
        for row in rows:
            assert row.images_per_s == pytest.approx(1e3 * row.batch / row.median_ms)
            assert row.peak_mib > 0
            assert row.gmacs == measured[0][models.index(row.row)].gmacs > 0
    for one, two in zip(measured[2], measured[3], strict=True):
        assert one.mode == "training"
        assert two.peak_mib > one.peak_mib  # what is saved for backward grows with the batch


def test_gmacs_are_those_of_the_table_of_variants():
    model = create_model("rsvheat_nano", img_size=224).eval()
    flops = benchmarking.flops_of(model, torch.randn(1, 3, 224, 224))
    assert flops / 2e9 == pytest.approx(0.303, abs=1e-3)


def test_models_of_fixed_size_are_built_for_the_size():
    model = benchmarking.build_model("vit_tiny_patch16_224", 64)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_what_does_not_fit_is_noted_and_the_others_are_measured(monkeypatch):
    build = benchmarking.build_model

    class Huge(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = True

        def forward(self, x):
            if self.first:  # the operations are counted
                self.first = False
                return x
            raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(
        benchmarking,
        "build_model",
        lambda name, size: Huge() if name == "resnet18" else build(name, size),
    )
    (measure,) = benchmarking.benchmark(
        models=["resnet18", "rsvheat_nano"], sizes=[32], batch_sizes=[1], modes=["inference"]
    )
    huge, nano = measure()
    assert (huge.note, huge.median_ms) == ("out of memory", None)
    assert nano.median_ms > 0
    assert "\n  resnet18: out of memory" in benchmarking.text_table([huge, nano])
    assert benchmarking.text_table([huge]).endswith("\n  resnet18: out of memory")


def test_command_prints_and_writes_the_same_table(run, tmp_path):
    words = ["--shapes", "1x8x8x16", "--models", "rsvheat_nano", "--sizes", 32]
    words += ["--batch_sizes", 1, "--dtypes", "float32", "--modes", "inference", "--device", "cpu"]
    code, out, err = run(*words, "--output", tmp_path / "new" / "speed.csv")
    assert (code, err) == (0, "")
    assert "heat_conduction 1x8x8x16, inference, float32\n" in out
    assert "encoder 1x32x32, inference, float32\n" in out
    lines = (tmp_path / "new" / "speed.csv").read_text().splitlines()
    for key in ("device", "versions", "date", "command"):
        assert any(line.startswith(f"# {key}: ") for line in lines)
        assert f"\n{key}: " in out
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["row"] for row in rows] == [
        *("floor", "rsvheat", "rsvheat-prepared", "twin in pure torch", "rsvheat_nano")
    ]
    printed = [float(cell) for cell in re.findall(r"(?<= )\d+\.?\d*(?=\s)", out)]
    for row in rows:
        assert any(cell == pytest.approx(float(row["median_ms"]), rel=0.01) for cell in printed)
    code, out, _ = run(*words, "--only", "operators", "--output", tmp_path / "speed.json")
    assert code == 0
    assert "encoder" not in out
    table = json.loads((tmp_path / "speed.json").read_text())
    assert table["header"]["kind"] == "cpu"
    assert [row["row"] for row in table["rows"]] == [row["row"] for row in rows[:-1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "speed.json"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--models", "nonsense"], 1, "no model is named 'nonsense': neither a variant of rsvheat"),
        (["--shapes", "8x56"], 2, "--shapes: 8x56 is not four sizes such as 8x56x56x128"),
        (["--sizes", "0"], 2, "--sizes: 0 is not a positive number"),
        (["--output", "table.txt"], 2, "table.txt ends neither in .csv nor in .json"),
        (["--dtypes", "int8"], 2, "--dtypes: invalid choice: 'int8'"),
    ],
)
def test_wrong_usage_is_told_in_a_line(run, words, code, message):
    got, out, err = run(*words)
    assert (got, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_too_few_rounds_for_quartiles_are_refused(capsys):
    assert cli.main(["benchmark", "--rounds", "2"]) == 2
    assert "--rounds: 2 is less than 3" in capsys.readouterr().err


def test_an_unwritable_output_is_told_before_anything_is_measured(run, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run("--output", tmp_path / "file" / "speed.csv")
    assert (code, out) == (1, "")
    assert str(tmp_path / "file") in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_told(run):
    code, _, err = run("--device", "cuda")
    assert code == 2
    assert err == "rsvheat benchmark: --device cuda: torch finds no CUDA device\n"
