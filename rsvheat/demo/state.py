# SPDX-License-Identifier: Apache-2.0
"""State of a demo's folder: its settings and its complete steps."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsvheat._files import complete_file, remove_unfinished

_FORMAT = "rsvheat demo 1"


class State:
    """A demo's folder.

    ``demo.json`` holds the settings. Each step has a folder, and is complete when that has a
    ``result.json``, which is written last, beside the file that the others need.

    Args:
        folder: Path of the folder, which is created if it does not exist.
        settings: Plain values that results depend on.
        steps: Files in the steps' folders that other steps need, if any, by the steps' names.
        restart: Whether to remove the demo in the folder, and begin again.

    Attributes:
        folder: Path of the folder.
        report: Path of the report, which is written when all steps are complete.

    Raises:
        ValueError: If the folder holds a demo with other settings, or a damaged one.
        OSError: If the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        steps: Mapping[str, str | None],
        restart: bool,
    ) -> None:
        self.folder = folder
        self._steps = dict(steps)
        self.report = folder / "report.html"
        path = folder / "demo.json"
        if restart and path.exists():
            for step in steps:
                shutil.rmtree(folder / step, ignore_errors=True)
            self.report.unlink(missing_ok=True)
            path.unlink()
        if path.exists():
            self._check(path, dict(settings))
        else:
            _write(path, {"format": _FORMAT, "settings": dict(settings)})
        remove_unfinished(folder)

    def _check(self, path: Path, settings: dict[str, Any]) -> None:
        content = _read(path)
        before = content.get("settings") if content.get("format") == _FORMAT else None
        if not isinstance(before, dict):
            raise ValueError(f"{path} is not of this demo: choose another --output, or --restart")
        names = [n for n in {**before, **settings} if before.get(n) != settings.get(n)]
        if names:
            differ = ", ".join(f"{n} {before.get(n)} there, {settings.get(n)} now" for n in names)
            raise ValueError(
                f"{self.folder} holds a demo of other settings ({differ}): ask for the same to go "
                "on, choose another --output, or begin again with --restart"
            )

    def result(self, step: str) -> dict[str, Any] | None:
        """Return the result of a step, or None if it is not complete."""
        path = self.folder / step / "result.json"
        there = [path.with_name(name).exists() for name in (path.name, self._steps[step]) if name]
        return _read(path) if all(there) else None

    def complete(self, step: str, result: Mapping[str, Any]) -> None:
        """Save the result of a step whose other files are complete."""
        _write(self.folder / step / "result.json", result)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:  # of JSON or of UTF-8
        pass
    raise ValueError(f"{path} is damaged: begin again with --restart")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
