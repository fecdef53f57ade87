# SPDX-License-Identifier: Apache-2.0
"""tools/gpu_check.sh without a GPU: what it skips, which commands it runs, and these on the CPU."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsvheat import _library

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "gpu_check.sh"
STEPS = (
    "machine", "build", "smoke", "driver_build", "driver", "memcheck", "tests", "operators",
    "modes", "pretraining", "boxes", "racecheck", "counters",
)  # fmt: skip

pytestmark = pytest.mark.source_tree


def check(folder: Path, path: str) -> tuple[int, dict[str, str]]:
    """Run the script with these programs alone; return its status and its line for each step."""
    environment = {**os.environ, "OUT": str(folder / "out"), "PATH": path}
    done = subprocess.run(
        ["/bin/bash", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120
    )
    lines = (folder / "out" / "summary").read_text().splitlines()
    assert done.stdout.splitlines() == lines, done.stderr
    return done.returncode, {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


def programs(folder: Path, **scripts: str) -> str:
    """Write programs; return a path on which they come first."""
    folder.mkdir()
    for name, script in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_without_a_gpu_every_step_is_skipped_with_the_reason(tmp_path: Path) -> None:
    if (Path("/usr/bin") / "nvidia-smi").exists():
        pytest.skip("this machine has NVIDIA's driver")
    status, steps = check(tmp_path, "/usr/bin:/bin")
    assert status == 77
    assert tuple(steps) == STEPS
    assert set(steps.values()) == {"skipped: no usable GPU: nvidia-smi is not on the path"}


def test_a_gpu_that_torch_cannot_use_is_none(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = programs(
        tmp_path / "bin",
        **{"nvidia_smi": "exit 0", "nvcc": "exit 0", "g++": "exit 0"},
        python3=f'exec {shlex.quote(sys.executable)} "$@"',
    )
    status, steps = check(tmp_path, path)
    assert status == 77
    assert steps["machine"].startswith("FAILED with status 1")
    assert {steps[name] for name in STEPS[1:]} == {"skipped: no usable GPU: see machine.log"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, list[list[str]], dict[str, str]]:
    """Run the script with programs that write down how they were called."""
    folder = tmp_path_factory.mktemp("gpu")
    log = folder / "calls"
    record = f'printf "%s\\0" "$(basename "$0")" "$@" >> {log}; printf "\\n" >> {log}'
    path = programs(
        folder / "bin",
        **{"g++": "exit 0", "nvidia_smi": "exit 0", "compute_sanitizer": record, "ncu": record},
        nvcc=f"{record}\n[ $# -lt 6 ] || touch build/gpu/device_check\nexit 0",
        python3=f'{record}\ncase "$2" in *get_device_capability*) echo 90 ;; esac',
    )
    driver = ROOT / "build" / "gpu" / "device_check"
    existed = driver.exists()
    driver.parent.mkdir(parents=True, exist_ok=True)
    if not existed:
        driver.write_text("#!/bin/bash\necho 0 of 1 results are wrong\n")
        driver.chmod(0o755)
    try:
        status, steps = check(folder, path)
    finally:
        if not existed:
            driver.unlink()
    assert status == 0
    calls = [line.strip("\0").split("\0") for line in log.read_text().splitlines()]
    return folder, calls, steps


def test_all_steps_run_one_after_the_other(recorded) -> None:
    _, calls, steps = recorded
    assert tuple(steps) == STEPS
    assert all(line.startswith("passed in ") for line in steps.values()), steps
    compiled = {Path(call[call.index("-c") + 1]) for call in calls if "-c" in call[:-1]}
    kernels = {path.relative_to(ROOT) for path in (ROOT / "csrc/core/cuda").glob("*.cu")}
    assert kernels | {Path("tests/cpp/device_check.cpp")} <= compiled
    exact = {Path(c[c.index("-c") + 1]).stem for c in calls if "-fmad=false" in c}
    listed = (ROOT / "csrc/core/cuda/sources.cmake").read_text().split("EXACT_SOURCES")[1]
    assert exact == set(re.findall(r"(\w+)\.cu", listed))
    tools = [call[2] for call in calls if call[0] == "compute-sanitizer"]
    assert tools == ["memcheck", "racecheck"]
    assert sum(call[0] == "ncu" for call in calls) == 5


def test_every_command_exists_with_its_options(recorded, tmp_path: Path) -> None:
    _, calls, _ = recorded
    scripts = [call[1:] for call in calls if call[0] == "python3" and call[1].endswith(".py")]
    assert len(scripts) == 5
    if torch.cuda.is_available():
        pytest.skip("the commands would run; this machine can run tools/gpu_check.sh itself")
    for script, *options in scripts:
        if script == "tools/gpu_smoke.py":
            continue  # has no options there
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *options], capture_output=True, text=True
        )
        # The options are right, a device is missing.
        assert done.returncode == 2, done.stderr
        assert "torch finds no CUDA device" in done.stderr, (script, done.stderr)
    (tests,) = (call for call in calls if call[1:3] == ["-m", "pytest"])
    for folder in tests[-2:]:
        assert (ROOT / folder).is_dir()


def run(script: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--device", "cpu", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not _library.native_available(), reason="nothing was built")
def test_smoke_test_compares_the_cpus_operators() -> None:
    assert re.search(
        r"^0 of \d\d comparisons are wrong$", run("tools/gpu_smoke.py", "--quick"), re.M
    )


@pytest.mark.slow
def test_measurements_on_the_cpu(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    options = ("--rounds", "1", "--output", str(table), "--sizes", "64", "--batch_sizes", "1")
    for command, more in (
        ("modes", ("--models", "rsvheat_nano", "resnet18", "--dtypes", "float32", "--modes",
                   "eager", "graph", "training", "checkpointed")),
        ("pretraining", ()),
        ("boxes", ("--count", "20")),
    ):  # fmt: skip
        run("benchmarks/device.py", command, *options, *more)
        text = table.read_text()
        assert text.startswith("# kind: cpu\n")
        assert ("a CUDA graph needs a GPU" in text) == (command == "modes")
        assert "Error" not in text
