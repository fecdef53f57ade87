# SPDX-License-Identifier: Apache-2.0
"""``make reproduce`` tells figures that hold from those that do not."""

import os
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytestmark = pytest.mark.source_tree

OLD = """\
# device: a CPU (2 threads, L1 1K)
model,size,speed,error,note
ours,224,2.5,1e-7,
peer,224,1,2e-7,
"""


@pytest.fixture
def reproduce(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reproduce

    (tmp_path / "committed").mkdir()
    (tmp_path / "committed" / "this_table.csv").write_text(OLD)
    monkeypatch.setattr(reproduce, "COMMITTED", tmp_path / "committed")
    return reproduce


@pytest.fixture
def step(reproduce, monkeypatch, tmp_path):
    """Return a function that makes a step whose command writes a table."""

    def make(content, name="this_table.csv", exit_status=0, **options):
        script = tmp_path / "script.py"
        script.write_text(
            "import os, pathlib, sys\n"
            f"path = pathlib.Path(os.environ['RSVHEAT_BENCHMARK_RESULTS'], {name!r})\n"
            f"path.write_text({content!r})\n"
            f"sys.exit({exit_status})\n"
        )
        tolerances = {
            "speed": reproduce.Tolerance.at_least(0.8),
            "error": reproduce.Tolerance.at_most(1.5),
        }
        one = reproduce.Step(
            "step", str(script), "*_table.csv", ("model", "size"), tolerances, 1, **options
        )
        monkeypatch.setattr(reproduce, "STEPS", (one,))
        return reproduce.main(["--steps", "step", "--output", str(tmp_path / "out")])

    return make


@pytest.mark.parametrize(
    ("values", "missed"),
    [("2.01,1.49e-7", []), ("9,0", []), ("1.99,1e-7", ["speed"]), ("1,1.6e-7", ["speed", "error"])],
)
def test_figures_that_are_worse_than_allowed_are_missed(step, capsys, tmp_path, values, missed):
    new = OLD.replace("2.5,1e-7", values)
    assert step(new, rows={"model": ("ours",)}) == bool(missed)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "step: peer" not in report
    lines = [line for line in report.splitlines() if line.startswith("| step: ours, 224 ")]
    assert len(lines) == 2
    assert [line.split(" | ")[1] for line in lines if "**missed**" in line] == missed
    assert report.rstrip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "options", "status", "reason"),
    [
        ((OLD,), {"name": "other_table.csv"}, 0, "no table other_table.csv is committed"),
        ((OLD.replace("ours", "new").replace("peer", "x"),), {}, 0, "has no row that the command"),
        ((OLD,), {"exit_status": 3}, 1, r"script.py ended with 3: see .*step\.log"),
        ((OLD,), {"data": "nothing"}, 0, "has no nothing"),
    ],
)
def test_what_cannot_be_compared_is_told(step, capsys, arguments, options, status, reason):
    assert step(*arguments, **options) == status
    assert re.search(f"Not compared: step: .*{reason}", capsys.readouterr().out)


def test_times_are_compared_on_the_same_kind_of_machine(step, capsys):
    assert step(OLD.replace("2 threads", "1 thread"), timed=True) == 0
    assert "Not compared: step" not in capsys.readouterr().out
    assert step(OLD.replace("L1 1K", "L1 2K"), timed=True) == 0
    told = capsys.readouterr().out
    assert "this_table.csv is of a CPU (L1 1K), this is a CPU (L1 2K)" in told


def test_every_step_names_a_committed_table_and_its_columns(reproduce):
    from operator_tables import RESULTS
    from tables import read

    assert os.environ.get("RSVHEAT_BENCHMARK_RESULTS") is None
    for one in reproduce.STEPS:
        tables = sorted(RESULTS.glob(one.table))
        assert tables, one.table
        for path in tables:
            for row in read(path):
                assert {*one.keys, *one.tolerances, *one.rows} <= set(row)
        for column, values in one.rows.items():
            assert set(values) <= {row[column] for row in read(tables[0])}
        assert (BENCHMARKS / one.command.split()[0]).exists()
    for command, _, hours in reproduce.LONGER:
        assert (BENCHMARKS / command.split()[0]).exists()
        assert hours > 0
