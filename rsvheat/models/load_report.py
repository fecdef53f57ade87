# SPDX-License-Identifier: Apache-2.0
"""The account of what loading weights into an encoder did."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadReport:
    """Result of ``rsvheat.load_checkpoint``. Names are the model's, those of ``skipped`` aside.

    Attributes:
        source: Path of the file.
        layout: ``"published"``, or ``"rsvheat"`` for this project's own names.
        loaded: Parameters that were copied, the resized and inflated ones included.
        resized: Frequency and spatial embeddings that were resampled: sizes (H, W) before, after.
        inflated: Stem weights that were adapted to another number of bands: bands before, after.
        skipped: Keys of the file that were not used, with the reason.
        missing: Parameters that are left as initialized.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    inflated: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a summary, and the names of all parameters that were not simply loaded."""
        lines = [
            f"{self.source} ({self.layout} layout): {len(self.loaded)} parameters loaded, "
            f"{len(self.resized)} of them resized, {len(self.inflated)} inflated; "
            f"{len(self.skipped)} keys skipped, {len(self.missing)} parameters left as initialized"
        ]
        lines += [f"  resized {name}: {a} -> {b}" for name, (a, b) in self.resized.items()]
        lines += [f"  inflated {name}: {a} -> {b} bands" for name, (a, b) in self.inflated.items()]
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, why in self.skipped.items() if why == reason]
            more = f" and {len(names) - 1} others" if len(names) > 1 else ""
            lines.append(f"  skipped {names[0]}{more}: {reason}")
        lines += [f"  left as initialized {name}" for name in self.missing]
        return "\n".join(lines)
