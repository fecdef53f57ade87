# SPDX-License-Identifier: Apache-2.0
"""Docstrings and comments are plain technical English, in American spelling."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import rsvheat

FILES = sorted(Path(rsvheat.__file__).parent.rglob("*.py"))
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").rglob("*.md"))

# What cannot be understood alone, with an example of what can.
RIDDLES = {
    r"^\s*[\w*]+: Of ": "an argument is a noun phrase: 'Seed of the split', not 'Of the split'",
    r"\b[Ll]ikewise\b": "say what is the same",
    r"\b[Ss]ee there\b": "name what to see",
    r":\w+:`": "a name in code has two backticks; the documentation links it",
}
SUMMARY = re.compile(r"(What|How|Which|Where|Who)\b")
BRITISH = re.compile(
    r"\b\w*(?:"
    r"normalis|colour|neighbour|\bgrey|centre|initialis|optimis|recognis|regularis|standardis"
    r"|summaris|penalis|serialis|generalis|visualis|organis|quantis|behaviour|favour|labell"
    r"|travell|modell|cancelled|metres?\b|artefact|analyse|catalogue|learnt|licence"
    r")\w*",
    re.IGNORECASE,
)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring and each comment."""
    for node in ast.walk(ast.parse(source)):
        # Attributes of a class are documented by a string below each of them.
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.lineno, child.value.value.strip()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def without_code(text: str) -> str:
    """Return a text without names in code, which keep their spelling."""
    return re.sub(r"``.*?``|\"[^\"\n]*\"", "", text, flags=re.DOTALL)


def problems(source: str) -> list[str]:
    """Return what is wrong with the words of a file, by line."""
    found = []
    for line, text in texts(source):
        for pattern, advice in RIDDLES.items():
            for match in re.finditer(pattern, text, re.MULTILINE):
                found.append(f"{line}: {match[0].strip()!r}: {advice}")
        if SUMMARY.match(text):
            found.append(f"{line}: {text[:30]!r}: a summary begins with a verb or a noun")
        for match in BRITISH.finditer(without_code(text)):
            found.append(f"{line}: {match[0]!r} is not American spelling")
    return found


def test_there_are_files() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_words(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.source_tree
@pytest.mark.parametrize("path", PAGES, ids=lambda path: "/".join(path.parts[-2:]))
def test_words_of_pages(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [match[0] for match in BRITISH.finditer(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"""Make it.\n\n    Args:\n        seed: Of the split.\n    """',
        '"""Make it.\n\n    Args:\n        high: Likewise; 98.\n    """',
        "x = 1  # see there",
        '"""Make it by :func:`make`."""',
        '"""What a step computes."""',
        "# The colours are normalised.",
        'class A:\n    x: int\n    """In metres."""',
    ],
)
def test_the_words_are_found(text: str) -> None:
    assert problems(text)


@pytest.mark.parametrize(
    "text", ['"""Return the seed of the split."""', "# ``square_metres`` is a name", "colour = 1"]
)
def test_other_words_are_not(text: str) -> None:
    assert problems(text) == []
