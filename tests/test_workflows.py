# SPDX-License-Identifier: Apache-2.0
"""The workflows are valid, call targets of the Makefile, and pin what they use."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

pytestmark = pytest.mark.source_tree


def steps(path):
    """Yield each step of a workflow with its job."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            yield job, step


def commands(path):
    """Return the calls of make, one for each row of a job's matrix."""
    found = []
    for job, step in steps(path):
        for call in re.findall(r"^make .*", step.get("run", ""), re.MULTILINE):
            matrix = job.get("strategy", {}).get("matrix", {})
            rows = matrix.get("include") or [
                {name: value} for name, values in matrix.items() for value in values
            ]
            for row in rows or [{}]:
                found.append(
                    re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda name, row=row: row[name[1]], call)
                )
    return found


def test_what_they_are_for_is_there():
    made = " ".join(call for path in WORKFLOWS for call in commands(path))
    for target in ("lint", "test-cpp", "test-python", "test-aarch64", "wheels", "docs"):
        assert f"make {target}" in made


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_follows_the_schema(path):
    """By the schema of GitHub's workflows that check-jsonschema has with it."""
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        done = subprocess.run([*command, schema, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_its_targets_are_in_the_makefile(path):
    calls = commands(path)
    assert calls
    for call in calls:
        done = subprocess.run(
            [*call.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_pins_majors_and_needs_no_secret(path):
    text = path.read_text()
    assert "secrets." not in text
    uses = [step["uses"] for _, step in steps(path) if "uses" in step]
    assert uses
    assert [one for one in uses if not re.fullmatch(r"actions/[\w-]+@v\d+", one)] == []
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
