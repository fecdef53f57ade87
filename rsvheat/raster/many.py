# SPDX-License-Identifier: Apache-2.0
"""Prediction of many scenes, of which some may be broken."""

import errno
import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

from rsvheat._files import complete_file
from rsvheat.checkpoint import TrainedModel
from rsvheat.data import DataError
from rsvheat.raster.beside import Beside
from rsvheat.raster.predict import predict
from rsvheat.raster.work_list import SceneFiles

Status: TypeAlias = Literal["done", "skipped", "failed"]

# What keeps every scene from being written, so that going on is of no use.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class SceneOutcome:
    """The outcome of a scene.

    Attributes:
        name: Name of the scene among the outputs.
        files: Its rasters by modality.
        output: Path of its output.
        status: ``"done"``, ``"skipped"`` for an output that was there, or ``"failed"``.
        seconds: Time that it took.
        error: Reason of a failure.
    """

    name: str
    files: dict[str, str]
    output: str
    status: Status
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Summary:
    """The outcomes of many scenes.

    Attributes:
        outcomes: One for each scene, in the order of the list.
    """

    outcomes: list[SceneOutcome] = field(default_factory=list)

    def count(self, status: Status) -> int:
        """Return the number of scenes with a status.

        Args:
            status: Status.
        """
        return sum(outcome.status == status for outcome in self.outcomes)

    def __str__(self) -> str:
        """Return a line, and one for each scene that failed."""
        lines = [
            f"{len(self.outcomes)} scenes: {self.count('done')} predicted, "
            f"{self.count('skipped')} there before, {self.count('failed')} failed"
        ]
        lines += [f"  {o.name}: {o.error}" for o in self.outcomes if o.status == "failed"]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the summary as JSON.

        Args:
            path: Path of the file.
        """
        content = {
            **{status: self.count(status) for status in ("done", "skipped", "failed")},
            "scenes": [asdict(outcome) for outcome in self.outcomes],
        }
        with complete_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")


def is_boxes(model: TrainedModel) -> bool:
    """Return whether a network's output is boxes.

    Args:
        model: Trained network.
    """
    return model.output in ("boxes", "oriented_boxes")


def output_of(scene: SceneFiles, folder: str | os.PathLike[str], suffix: str) -> Path:
    """Return the path of a scene's output.

    Args:
        scene: Scene.
        folder: Folder of the outputs.
        suffix: Suffix of the file, such as ``".tif"``.
    """
    return Path(folder) / f"{scene.name}{suffix}"


def check_outputs(
    scenes: Sequence[SceneFiles], folder: str | os.PathLike[str], suffix: str, allowed: bool
) -> None:
    """Make sure that no output is there, unless that is allowed.

    Args:
        scenes: Scenes.
        folder: Folder of the outputs.
        suffix: Suffix of the outputs.
        allowed: Whether outputs may be there.

    Raises:
        FileExistsError: If one is.
    """
    there = [path for s in scenes if (path := output_of(s, folder, suffix)).exists()]
    if there and not allowed:
        raise FileExistsError(
            f"{there[0]} is there already, like {len(there) - 1} more: --resume keeps them, "
            "--overwrite replaces them"
        )


def predict_many(
    scenes: Sequence[SceneFiles],
    folder: str | os.PathLike[str],
    model: TrainedModel,
    *,
    suffix: str = ".tif",
    resume: bool = False,
    overwrite: bool = False,
    beside: Beside = Beside(),  # noqa: B008 - immutable
    report: Callable[[SceneOutcome], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict scenes one after the other; a broken one does not keep the others.

    Outputs appear when they are complete, so a scene whose output is there is done.

    Args:
        scenes: Scenes, from ``rsvheat.raster.work_list.work_list``.
        folder: Folder of the outputs.
        model: Trained network.
        suffix: Suffix of the outputs: ``".tif"`` for maps, ``".gpkg"`` and others for boxes.
        resume: Whether scenes whose output is there are skipped, and unfinished maps completed.
        overwrite: Whether outputs that are there are replaced.
        beside: Files that lie beside each output.
        report: Called with the outcome of each scene.
        **options: Further arguments of ``rsvheat.raster.predict``.

    Returns:
        Summary.

    Raises:
        ValueError: If an option is wrong, or has no meaning for the task.
        FileExistsError: If an output is there, and neither ``resume`` nor ``overwrite`` is set.
        OSError: If no output can be written: the disk is full, or the folder not writable.
    """
    check_outputs(scenes, folder, suffix, resume or overwrite)
    summary = Summary()
    for scene in scenes:
        outcome = predict_one(
            scene,
            folder,
            model,
            suffix=suffix,
            resume=resume,
            overwrite=overwrite,
            beside=beside,
            **options,
        )
        summary.outcomes.append(outcome)
        if report is not None:
            report(outcome)
    return summary


def predict_one(
    scene: SceneFiles,
    folder: str | os.PathLike[str],
    model: TrainedModel,
    *,
    suffix: str,
    resume: bool = False,
    overwrite: bool = False,
    beside: Beside = Beside(),  # noqa: B008 - immutable
    **options: Any,
) -> SceneOutcome:
    """Predict a scene of a list.

    Args:
        scene: Scene.
        folder: Folder of the outputs.
        model: Trained network.
        suffix: Suffix of the output.
        resume: Whether the scene is skipped if its output is there.
        overwrite: Whether an output that is there is replaced.
        beside: Files that lie beside the output.
        **options: Further arguments of ``rsvheat.raster.predict``.

    Returns:
        Its outcome.

    Raises:
        ValueError: If an option is wrong, or has no meaning for the task.
        OSError: If no output can be written.
    """
    output = output_of(scene, folder, suffix)
    about = functools.partial(SceneOutcome, scene.name, dict(scene.files), str(output))
    if resume and output.exists():
        return about("skipped")
    start = perf_counter()
    try:
        beside.check(output, is_boxes(model), overwrite or resume)
        result = predict(scene.files, output, model, overwrite=overwrite, resume=resume, **options)
        beside.write(result, scene.files, options.get("colors"))
    except (DataError, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _HOPELESS:
            raise
        seconds = round(perf_counter() - start, 3)
        return about("failed", seconds, " ".join(str(error).split()))
    return about("done", round(perf_counter() - start, 3))
