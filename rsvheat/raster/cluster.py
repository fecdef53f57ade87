# SPDX-License-Identifier: Apache-2.0
"""Prediction of many scenes by the workers of a Dask cluster (``pip install 'rsvheat[dask]'``)."""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsvheat.checkpoint import TrainedModel
from rsvheat.raster.many import (
    SceneOutcome,
    Summary,
    check_outputs,
    output_of,
    predict_one,
)
from rsvheat.raster.work_list import SceneFiles

LOCAL = "local"


def predict_on_cluster(
    scenes: Sequence[SceneFiles],
    folder: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    scheduler: Any = LOCAL,
    *,
    workers: int | None = None,
    suffix: str = ".tif",
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[SceneOutcome], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict scenes by the workers of a cluster; a broken scene does not keep the others.

    Each worker loads the network once. Scenes of a worker that is lost go to others. All workers
    must see the scenes, the checkpoint and the folder under the same paths.

    Args:
        scenes: Scenes, from ``rsvheat.raster.work_list.work_list``.
        folder: Folder of the outputs.
        checkpoint: Path of the checkpoint.
        scheduler: Address of a Dask scheduler, such as ``"tcp://10.0.0.1:8786"``, a Dask client, or
            ``"local"`` for a cluster on this machine.
        workers: Number of processes of a local cluster; by default one for each core.
        suffix: Suffix of the outputs.
        device: Device that each worker computes on.
        resume: Whether scenes whose output is there are skipped.
        overwrite: Whether outputs that are there are replaced.
        report: Called with the outcome of each scene, in the order in which they end.
        **options: Further arguments of ``rsvheat.raster.many.predict_one``.

    Returns:
        Summary, in the order of the scenes.

    Raises:
        ModuleNotFoundError: If Dask is not installed.
        ValueError: If an option is wrong, or has no meaning for the task.
        FileExistsError: If an output is there, and neither ``resume`` nor ``overwrite`` is set.
        OSError: If no output can be written, or the scheduler does not answer.
    """
    distributed: Any = importlib.import_module("dask.distributed")  # it has no annotations
    check_outputs(scenes, folder, suffix, resume or overwrite)
    there = {scene.name for scene in scenes if output_of(scene, folder, suffix).exists()}
    work = functools.partial(
        _predict,
        folder=Path(folder).absolute(),
        checkpoint=os.path.abspath(checkpoint),
        device=device,
        suffix=suffix,
        overwrite=overwrite,
        **options,
    )
    with ExitStack() as stack:
        client = scheduler
        if scheduler == LOCAL:
            cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
            client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        elif isinstance(scheduler, str):
            client = stack.enter_context(distributed.Client(scheduler))
        # Workers may run in other folders.
        futures = client.map(work, [_absolute(scene) for scene in scenes], pure=False)
        places = {future.key: i for i, future in enumerate(futures)}
        outcomes: dict[int, SceneOutcome] = {}
        for future, outcome in distributed.as_completed(futures, with_results=True):
            place = places[future.key]
            # A lost worker may have completed a scene that was then given to another one.
            if outcome.status == "skipped" and scenes[place].name not in there:
                outcome = replace(outcome, status="done")
            outcomes[place] = outcome
            if report is not None:
                report(outcome)
    return Summary([outcomes[place] for place in sorted(outcomes)])


def _predict(
    scene: SceneFiles,
    *,
    folder: Path,
    checkpoint: str,
    device: str,
    overwrite: bool,
    **options: Any,
) -> SceneOutcome:
    """Predict a scene in a worker."""
    model = _model(checkpoint, device)
    return predict_one(scene, folder, model, resume=not overwrite, overwrite=overwrite, **options)


def _absolute(scene: SceneFiles) -> SceneFiles:
    files = {
        name: os.path.abspath(file) if os.path.exists(file) else file
        for name, file in scene.files.items()
    }
    return SceneFiles(scene.name, files)


@functools.lru_cache(maxsize=1)
def _model(checkpoint: str, device: str) -> TrainedModel:
    return TrainedModel.load(checkpoint, device=device)
