# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytestmark = pytest.mark.source_tree


@pytest.fixture
def growth(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    monkeypatch.setattr(growth, "PLANES", tmp_path / "growth.csv")
    monkeypatch.setattr(growth, "TIMES", tmp_path / "times.csv")
    monkeypatch.setattr(growth, "FIGURE", tmp_path / "growth.png")
    return growth


def planes(side: int, seconds: float) -> dict[str, object]:
    values = side * side * 2
    return {
        "threads": 1,
        "side": side,
        "channels": 2,
        "row": "matmul",
        "seconds": seconds,
        "ns_a_value": 1e9 * seconds / values,
        "extra_mib": "",
    }


def test_exponents_are_those_of_the_data(growth):
    sides = [56, 224, 448, 1024]
    assert growth.exponent(sides, [9.0] + [1e-9 * s**3 for s in sides[1:]]) == pytest.approx(1.5)
    logarithmic = [s * s * math.log(s) for s in sides]
    assert 1 < growth.exponent(sides, logarithmic) < 1.2
    assert growth.exponent(sides[:3], [1.0, 2.0, 3.0]) is None  # too few from 224 on
    assert growth.exponent(sides, [0.0] * 4) is None  # nothing was allocated


def test_tables_and_figure_come_from_the_files(growth):
    growth.append(growth.PLANES, [planes(s, 1e-9 * s**3) for s in (224, 448, 1024)], {})
    rows = [
        {"mode": "inference", "dtype": "float32", "size": s, "model": "Swin-B"}
        | {"cpu_seconds": 1e-6 * s * s, "peak_mib": 3.0}
        for s in (1024, 448, 224)  # in any order
    ]
    growth.append(growth.TIMES, [*rows, {**rows[0], "dtype": "bfloat16"}], {})
    text = growth.markdown()
    assert "| ns a value, 1 thread | 224 | 448 | 1024 |" in text
    assert "| matmul | 112.00 | 224.00 | 512.00 |" in text
    assert "| matmul | 1.50 | - |" in text
    assert "| Swin-B | 1.00 | 0.00 |" in text
    growth.draw(None)
    with Image.open(growth.FIGURE) as image:
        assert min(image.size) > 500


def test_a_side_is_measured_once(growth, monkeypatch):
    monkeypatch.setattr(growth, "keep_pages", lambda: None)
    monkeypatch.setattr(growth, "extra_bytes", lambda *a: 1 << 20)
    command = ["operator", "--sides", "16", "--channels", "8", "--rounds", "1"]
    assert growth.main(command) == 0
    first = growth.PLANES.read_text()
    rows = {row["row"]: row for row in growth.read(growth.PLANES)}
    assert {"floor", "rsvheat-prepared", "matmul", "scipy"} <= set(rows)
    assert rows["scipy"]["extra_mib"] == "1"
    assert growth.main(command) == 0
    assert growth.PLANES.read_text() == first
