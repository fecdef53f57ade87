# SPDX-License-Identifier: Apache-2.0
"""Prediction of many scenes by several devices of one machine, with a process for each."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import Any, Literal

import torch

from rsvheat.checkpoint import Checkpoint, TrainedModel
from rsvheat.models.task_model import TaskModel, find_task_model
from rsvheat.raster.many import SceneOutcome, Summary, check_outputs, predict_one
from rsvheat.raster.work_list import SceneFiles

ALL = "all"
# Model of a worker process, which predicts many scenes.
_model: TrainedModel | None = None


def predict_on_devices(
    scenes: Sequence[SceneFiles],
    folder: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    devices: Sequence[str] | Literal["all"] = ALL,
    *,
    suffix: str = ".tif",
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[SceneOutcome], None] | None = None,
    **options: Any,
) -> Summary:
    """Predict scenes by several devices; a broken scene does not keep the others.

    Each device has a process, which loads the network once and takes the next scene when it has
    completed one. Outputs are those of one process.

    Args:
        scenes: Scenes, from ``rsvheat.raster.work_list.work_list``.
        folder: Folder of the outputs.
        checkpoint: Path of the checkpoint.
        devices: Devices such as ``["cuda:0", "cuda:1"]``, or ``"all"`` for every GPU. A device that
            is named twice has two processes.
        suffix: Suffix of the outputs.
        resume: Whether scenes whose output is there are skipped, and unfinished ones completed.
        overwrite: Whether outputs that are there are replaced.
        report: Called with the outcome of each scene, in the order in which they end.
        **options: Further arguments of ``rsvheat.raster.many.predict_one``.

    Returns:
        Summary, in the order of the scenes.

    Raises:
        ValueError: If a device cannot be used, or an option is wrong or has no meaning for the
            task.
        FileExistsError: If an output is there, and neither ``resume`` nor ``overwrite`` is set.
        OSError: If no output can be written.
        ChildProcessError: If a process was killed. Finished outputs stay.
    """
    names = _names(devices)
    check_outputs(scenes, folder, suffix, resume or overwrite)
    kind = find_task_model(str(Checkpoint.read(checkpoint).require_task().task))
    context = multiprocessing.get_context("spawn")
    free = context.SimpleQueue()
    for name in names:
        free.put(name)
    shared = sum(torch.device(name).type == "cpu" for name in names)
    threads = max(1, torch.get_num_threads() // max(1, shared))
    pool = ProcessPoolExecutor(
        len(names), context, _start, (free, os.fspath(checkpoint), kind, threads)
    )
    try:
        futures: dict[Future[SceneOutcome], int] = {
            pool.submit(
                _predict,
                scene,
                folder,
                suffix=suffix,
                resume=resume,
                overwrite=overwrite,
                **options,
            ): number
            for number, scene in enumerate(scenes)
        }
        outcomes: dict[int, SceneOutcome] = {}
        for future in as_completed(futures):
            outcome = outcomes[futures[future]] = future.result()
            if report is not None:
                report(outcome)
    except BaseException as error:
        # Their files are not complete, and would be removed after the last scene only.
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenExecutor):
            raise ChildProcessError(
                f"a process of {', '.join(names)} was killed or could not start, of memory "
                "perhaps; finished outputs stay, and --resume goes on"
            ) from error
        raise
    pool.shutdown()
    return Summary([outcomes[number] for number in sorted(outcomes)])


def _names(devices: Sequence[str] | str) -> list[str]:
    """Return the names of devices, and check that each can be used."""
    if devices == ALL:
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if not names:
            raise ValueError("devices: all GPUs are asked for, and torch finds none; name devices")
        return names
    names = [devices] if isinstance(devices, str) else list(devices)
    for name in names:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device {name!r} cannot be used: {reason}") from error
    if not names:
        raise ValueError('devices must name at least one, such as ["cuda:0", "cuda:1"]')
    return names


def _start(free: Any, checkpoint: str, kind: type[TaskModel], threads: int) -> None:
    """Load the network in a new process.

    Args:
        free: Names of the devices that have no process yet.
        checkpoint: Path of the checkpoint.
        kind: Class of the network; receiving it imports the plug-in that holds it.
        threads: Number of threads for computation on a CPU.
    """
    global _model
    # As an exception, the signal lets unfinished files be removed. Parents send it on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _model = TrainedModel.load(checkpoint, device=free.get())


def _end_with_parent() -> None:
    """End this process when its parent was killed, which cannot tell it to end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _predict(scene: SceneFiles, folder: str | os.PathLike[str], **options: Any) -> SceneOutcome:
    """Predict a scene in a worker process."""
    if _model is None:
        raise RuntimeError("the process has no network")
    try:
        return predict_one(scene, folder, _model, **options)
    except SystemExit as end:
        # The executor would go on with the next scene.
        os._exit(int(end.code or 0))
