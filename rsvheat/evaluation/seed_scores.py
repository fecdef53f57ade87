# SPDX-License-Identifier: Apache-2.0
"""Mean and deviation of the scores of several trainings that differ in their seeds."""

import csv
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rsvheat.evaluation.score_files import ScoreFiles


class Spread(NamedTuple):
    """A score over several seeds.

    Attributes:
        mean: Mean over the seeds for which the score is defined.
        deviation: Standard deviation of the sample (divided by n - 1); None for one seed.
        values: Value for each seed, in the order of the seeds; None where it is not defined.
    """

    mean: float
    deviation: float | None
    values: tuple[float | None, ...]

    def __str__(self) -> str:
        """Return mean and deviation with four digits."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{deviation}"


@dataclass(frozen=True)
class SeedScores(ScoreFiles):
    """Scores of networks that were trained with the same options and different seeds.

    Args:
        runs: Scores by seed, as plain values: ``to_dict`` of the scores of any task.

    Raises:
        ValueError: If there are no scores.
    """

    file_name = "seeds"

    runs: Mapping[int, Mapping[str, Any]]

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.runs:
            raise ValueError("runs must hold the scores of at least one seed, got none")

    def spreads(self) -> dict[str, Spread]:
        """Return every score that is defined for some seed, also of single classes, by name."""
        found = [_scores(content) for content in self.runs.values()]
        result = {}
        for name in dict.fromkeys(name for scores in found for name in scores):
            values = tuple(scores.get(name) for scores in found)
            defined = [value for value in values if value is not None]
            deviation = statistics.stdev(defined) if len(defined) > 1 else None
            result[name] = Spread(statistics.mean(defined), deviation, values)
        return result

    @property
    def _of_all_classes(self) -> dict[str, Spread]:
        return {name: one for name, one in self.spreads().items() if "." not in name}

    def __str__(self) -> str:
        """Return the scores of all classes in one line."""
        told = (f"{name.replace('_', ' ')} {one}" for name, one in self._of_all_classes.items())
        return f"{len(self.runs)} seeds: {', '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "seeds": list(self.runs),
            "scores": {name: one._asdict() for name, one in self.spreads().items()},
            "definition": "mean over the seeds; deviation of the sample, divided by n - 1",
        }

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {".csv": self._write_csv, ".png": self._write_figure}

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["score", "mean", "deviation", *(f"seed {s}" for s in self.runs)])
            for name, one in self.spreads().items():
                writer.writerow([name, one.mean, one.deviation, *one.values])

    def figure(self) -> Any:
        """Return mean and deviation of the scores of all classes as a Matplotlib figure."""
        from matplotlib.figure import Figure

        chosen = self._of_all_classes
        figure = Figure(figsize=(6, 1 + 0.3 * len(chosen)), layout="constrained")
        axes = figure.subplots()
        axes.errorbar(
            [one.mean for one in chosen.values()],
            list(chosen),
            xerr=[one.deviation or 0.0 for one in chosen.values()],
            fmt="o",
            capsize=3,
        )
        axes.invert_yaxis()
        axes.set_title(f"mean and deviation over {len(self.runs)} seeds")
        return figure


def _scores(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores among plain values, those of classes as ``classes.NAME.SCORE``.

    Counts, such as the number of pixels, are integers and left out.
    """
    found = {name: value for name, value in content.items() if _is_score(value)}
    for label, scores in content.get("classes", {}).items():
        found |= {f"classes.{label}.{n}": value for n, value in scores.items() if _is_score(value)}
    return found


def _is_score(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
