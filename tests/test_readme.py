# SPDX-License-Identifier: Apache-2.0
"""README's Python runs as printed, and what it points to exists."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)

pytestmark = pytest.mark.source_tree


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_python_of_readme_runs(block: str) -> None:
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})


def test_files_of_readme_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert targets
    assert [t for t in targets if not (README.parent / t).exists()] == []
