# SPDX-License-Identifier: Apache-2.0
"""Notes on how far a prediction is, from which another process goes on."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rsvheat._files import complete_file, remove_unfinished
from rsvheat.checkpoint import TrainedModel
from rsvheat.raster.predictor import Scenes
from rsvheat.raster.scene import source_files

_NAME = ".journal"  # no name of an output, which is in the same folder


def fingerprint(model: TrainedModel, scenes: Scenes) -> dict[str, Any]:
    """Return what tells networks and scenes apart: bytes of the weights, sizes and times of files.

    Args:
        model: Trained network.
        scenes: Scenes by modality.
    """
    weights = 0
    for name, value in model.network.state_dict().items():
        weights = zlib.crc32(name.encode(), weights)
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        weights = zlib.crc32(plain.numpy(), weights)
    files = {}
    for name, scene in scenes.items():
        for path in sorted(source_files(scene.name)):
            status = path.stat()
            files[f"{name} {path.name}"] = [status.st_size, status.st_mtime_ns]
    return {"weights": weights, "files": files, "normalizers": repr(model.normalizers)}


def _entries(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values by name, also those of the dictionaries among them."""
    plain: dict[str, Any] = {}
    for name, value in about.items():
        plain |= value if isinstance(value, dict) else {name: value}
    return plain


class Journal:
    """Number of the parts that are written, and sums over them.

    Args:
        folder: Temporary folder of the output.
        about: What a prediction depends on; one that goes on must be the same.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._path = folder / _NAME
        self._about = json.loads(json.dumps(dict(about)))
        # Of a process that was killed while it replaced the journal.
        remove_unfinished(folder)

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, None if nothing was.

        Raises:
            FileExistsError: If it is of another prediction.
        """
        if not self._path.exists():
            return None
        content: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        before, now = _entries(content["about"]), _entries(self._about)
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise FileExistsError(
                    f"the unfinished prediction was begun with {name} {before.get(name)}, and this "
                    f"one has {now.get(name)}: go on as it was begun, or start again without "
                    "--resume"
                )
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace what was written before.

        Args:
            content: Plain values.
        """
        with complete_file(self._path) as temporary:
            temporary.write_text(json.dumps({"about": self._about, **content}), "utf-8")

    def remove(self) -> None:
        """Remove it, as the output is complete."""
        self._path.unlink(missing_ok=True)
