# SPDX-License-Identifier: Apache-2.0
"""Prediction of rasters of any size, for every task."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from rsvheat._library import package_version
from rsvheat.checkpoint import Precision, TrainedModel
from rsvheat.raster.box_files import BoxesResult
from rsvheat.raster.boxes import BoxPredictor
from rsvheat.raster.change import DATES, ChangePredictor
from rsvheat.raster.dense import DensePredictor
from rsvheat.raster.journal import fingerprint
from rsvheat.raster.map_files import MapResult
from rsvheat.raster.matching import matched
from rsvheat.raster.predictor import Files, Options, Predictor, Scenes, Source, open_scenes
from rsvheat.raster.windows import WindowPredictor
from rsvheat.raster.writing import check_separate


def predict(
    source: Source | Mapping[str, Source],
    output: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | TrainedModel,
    *,
    window: int | None = None,
    stride: int | None = None,
    overlap: int | None = None,
    bands: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    nodata: float | None = None,
    max_nodata: float | None = None,
    match: bool = False,
    probability: str | os.PathLike[str] | None = None,
    probability_of: Sequence[str] = (),
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
    min_score: float | None = None,
    batch_size: int | None = None,
    memory: float = 1.0,
    device: str = "auto",
    precision: Precision = "float32",
    compile: bool = False,  # noqa: A002 - as torch calls it
    turns: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> MapResult | BoxesResult:
    """Predict a raster, and write a map or boxes.

    The task of the checkpoint decides what is written:

    - output ``class``: map of the classes of windows, a cloud-optimized GeoTIFF of uint8 whose
      pixels are ``stride`` pixels of the raster wide
    - output ``mask``: map of the classes of pixels, of the raster's own size; with rasters
      ``before`` and ``after`` the classes of change
    - outputs ``boxes`` and ``oriented_boxes``: GeoPackage (``.gpkg``) of polygons in the raster's
      reference system, or GeoJSON of polygons in longitude and latitude

    Maps have the raster's reference system, a color table and the classes' names; 255 stands for no
    data. The raster and the map are never held whole, except for PNG and JPEG. An interrupted call
    leaves nothing, and an older file as it was.

    Windows are read, normalized and resized as in training.

    Args:
        source: Path of the raster: GeoTIFF, VRT, PNG, JPEG or any other that GDAL reads. Networks
            that take several get a dictionary by modality, such as ``{"before": "2019.tif",
            "after": "2024.tif"}``. The map has the grid of the first; others of another grid,
            resolution or reference system are interpolated on it, bilinearly.
        output: Path of the map (``.tif``) or of the boxes (``.gpkg``, ``.geojson``).
        checkpoint: Path of a checkpoint of any task, or a loaded model.
        window: Side of the windows in pixels of the raster; by default that of training. Those of
            classifiers are resized to the network's size; other networks see larger windows
            at the same resolution.
        stride: Side of the map's pixels in pixels of the raster, for classes of windows; by default
            that of the windows. A smaller one gives a finer map, of windows that overlap.
        overlap: Pixels that neighboring windows have in common, for classes of pixels, change and
            boxes; by default a quarter of the window. Objects should be no larger than that.
        bands: Bands of the raster in the order that the network takes, counted from 1, or a
            dictionary of these by modality; by default all but alpha.
        nodata: Value that stands for no data, for files that name none.
        max_nodata: Largest part of a window that may be without data; other windows are not
            predicted. By default 0.5 for classes of windows, and otherwise only windows without
            any data are left out. In predicted windows such pixels are filled as in training.
        match: Whether each band of the raster is brought to the mean and standard deviation that it
            has in the training images, for rasters that were stretched or calibrated otherwise.
        probability: Path of another map, of the probability of the class in percent, 255 for no
            data.
        probability_of: Names of classes whose probabilities that map has instead, a band each.
        colors: Colors of classes as ``"#rrggbb"``, or the path of a YAML or JSON file of them.
        min_score: Lowest score of boxes that are kept; by default all that the network gives.
        batch_size: Number of windows that the network gets at once; by default 64 for classes of
            windows, and otherwise as many as have about a million pixels.
        memory: GiB that pixels and their probabilities may take, beside the network. Where rows of
            the raster's width need more, it is predicted in panels side by side.
        device: Device to compute on, such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; ``"auto"`` is a
            GPU if there is one.
        precision: Floating-point type that the network computes in.
        compile: Whether to compile the network by ``torch.compile``, for long runs; a loaded model
            stays compiled.
        turns: Whether the probabilities of the 8 flipped and rotated versions of each window are
            averaged, for classes of pixels and change. It takes 8 times as long.
        threads: Number of threads that a CPU computes with; by default all cores, and in processes
            of a cluster or of several devices their share.
        overwrite: Whether an older output is replaced.
        resume: Whether to go on with a map or boxes that a killed process left unfinished, with the
            same arguments; the result has the same bytes. An interruption of this call leaves the
            unfinished output, too.

    Returns:
        Summary of the map or of the boxes.

    Raises:
        ValueError: If an argument is not as above, or has no meaning for the task, or if the
            network cannot be compiled.
        FileNotFoundError: If there is no such raster or checkpoint.
        FileExistsError: If there is an output, and ``overwrite`` is not set; or an unfinished one
            of other arguments, and ``resume`` is.
        DataError: If the raster is damaged, its bands do not fit, or rasters show other ground.
        CheckpointError: If the checkpoint is damaged, or holds no network for a task.
        FloatingPointError: If the network's result is not finite for a window.
        OSError: If the output cannot be written.
    """
    start = perf_counter()
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    options = Options(
        window,
        stride,
        overlap,
        max_nodata,
        min_score,
        batch_size,
        precision,
        memory,
        compile,
        turns,
        tuple(probability_of),
    )
    if probability_of and probability is None:
        raise ValueError("probability_of needs the path of the map, probability")
    paths = {"output": Path(output)}
    if probability is not None:
        paths["probability"] = Path(probability)
    check_separate(paths, source.values() if isinstance(source, Mapping) else [source])
    files = Files(
        paths["output"], paths.get("probability"), options.probability_of, colors, overwrite
    )
    model = checkpoint
    if not isinstance(model, TrainedModel):
        model = TrainedModel.load(model, device=device)
    if compile:
        model.compile()
    with open_scenes(source, model.spec.modalities, bands, nodata) as scenes:
        if match:
            model = matched(model, scenes)
        files = replace(files, tags=_tags(model, scenes, options, match))
        if resume:
            about = {**fingerprint(model, scenes), "options": asdict(options)}
            files = replace(files, resume=True, about=about)
        predictor = _predictor(model, scenes, options)
        with (
            _threads(threads),
            predictor.open(files) as written,
            _progress(scenes, predictor.windows) as bar,
            closing(predictor.parts(written.done)) as parts,
        ):
            for windows, part in parts:
                written.write(part)
                bar.update(windows)
    result: MapResult | BoxesResult = written.result(perf_counter() - start)
    return result


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Set the number of threads of torch within a block; None leaves it."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def _predictor(model: TrainedModel, scenes: Scenes, options: Options) -> Predictor:
    """Return the predictor for the output of a task."""
    if model.output == "class":
        return WindowPredictor(model, scenes, options)
    if model.output != "mask":
        return BoxPredictor(model, scenes, options)
    if set(model.spec.modalities) == set(DATES):
        return ChangePredictor(model, scenes, options)
    return DensePredictor(model, scenes, options)


def _tags(model: TrainedModel, scenes: Scenes, options: Options, match: bool) -> dict[str, str]:
    """Return the provenance that outputs keep; of several rasters, by modality."""
    names = {name: Path(scene.name).name for name, scene in scenes.items()}
    bands = {name: scene.select for name, scene in scenes.items()}
    alone = next(iter(scenes)) if len(scenes) == 1 else None
    resampled = [name for name, scene in scenes.items() if scene.resampled]
    return {
        "TIFFTAG_SOFTWARE": f"rsvheat {package_version()}",
        "RSVHEAT_CLASSES": json.dumps(model.classes),
        **({} if model.path is None else {"RSVHEAT_CHECKPOINT": model.path.name}),
        "RSVHEAT_SOURCE": names[alone] if alone else json.dumps(names),
        "RSVHEAT_BANDS": json.dumps(bands[alone] if alone else bands),
        "RSVHEAT_PRECISION": options.precision,
        **({"RSVHEAT_TURNS": "true"} if options.turns else {}),
        "RSVHEAT_MATCH": str(match).lower(),
        **(
            {"RSVHEAT_RESAMPLED": json.dumps(dict.fromkeys(resampled, "bilinear"))}
            if resampled
            else {}
        ),
    }


def _progress(scenes: Scenes, windows: int) -> Any:
    """Return a progress bar that a terminal shows after two seconds."""
    name = Path(next(iter(scenes.values())).name).name
    return tqdm(total=windows, desc=name, unit="window", delay=2, disable=None, leave=False)
