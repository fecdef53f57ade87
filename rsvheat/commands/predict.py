# SPDX-License-Identifier: Apache-2.0
"""Predict rasters of any size: maps of classes, change or boxes."""

import importlib.util
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsvheat.cli import UsageError
from rsvheat.commands._parser import run_function

if TYPE_CHECKING:
    from rsvheat.checkpoint import TrainedModel

EXAMPLE = "rsvheat predict scene.tif --checkpoint runs/classes/best.ckpt --output map.tif"
EXTRAS = ("geo",)
OPTION_EXTRAS = {"--dask": "dask", "--polygons parquet": "parquet", "--stac": "stac"}


def run(arguments: list[str]) -> int:
    """Run the command."""
    # jsonargparse takes a list as one word.
    count = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    if count > 1:
        arguments = [json.dumps(arguments[:count]), *arguments[count:]]
    return int(run_function(predict, arguments, __name__))


def predict(
    source: str | list[str],
    checkpoint: str | None = None,
    output: str | None = None,
    also: dict[str, str] | None = None,
    assets: dict[str, str] | None = None,
    shard: str | None = None,
    resume: bool = False,
    dask: str | None = None,
    workers: int | None = None,
    devices: list[str] | Literal["all"] | None = None,
    window: int | None = None,
    stride: int | None = None,
    overlap: int | None = None,
    bands: list[int] | dict[str, list[int]] | None = None,
    nodata: float | None = None,
    max_nodata: float | None = None,
    match: bool = False,
    probability: str | None = None,
    probability_of: list[str] | None = None,
    polygons: Literal["gpkg", "fgb", "parquet", "geojson"] | None = None,
    min_pixels: int = 1,
    simplify: float = 0.0,
    style: bool = False,
    picture: bool = False,
    stac: bool = False,
    report: bool = False,
    colors: dict[str, str] | str | None = None,
    min_score: float | None = None,
    batch_size: int | None = None,
    memory: float = 1.0,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    compile: bool = False,  # noqa: A002 - as torch calls it
    turns: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write a map of each scene, or the boxes of its objects, as the checkpoint's task says.

    A broken scene does not keep many others: summary.json in the folder of the outputs has the
    outcome of each.

    Args:
        source: Path of the raster, or several: GeoTIFF, VRT, PNG, JPEG or any other that GDAL
            reads. For many a folder, a quoted name with wildcards, a .txt file with a path in each
            line, or a STAC item or collection of items (.json).
        checkpoint: Checkpoint of fine-tuning, such as runs/classes/best.ckpt; required.
        output: Map (.tif) or boxes (.gpkg, .geojson); of many scenes the folder of these. By
            default runs/maps, with the name of the raster.
        also: Further rasters by name: --also.after 2024.tif is the second date of change,
            --also.sar radar.tif a second sensor. Those of another grid are interpolated on the
            first's.
        assets: Asset of STAC items by modality: --assets.optical visual.
        shard: Part of many scenes that this job predicts, such as 2/8: the second of eight. Give
            each task of a SLURM array its own.
        resume: Go on with an unfinished map or unfinished boxes, to the same bytes; of many scenes,
            keep the outputs that are there and predict the others.
        dask: Address of a Dask scheduler whose workers predict many scenes, such as
            tcp://10.0.0.1:8786, or local for processes on this machine.
        workers: Number of processes of --dask local; one for each core by default.
        devices: Devices that predict many scenes side by side, with a process each, such as
            [cuda:0,cuda:1], or all for every GPU of this machine.
        window: Side of the windows in pixels of the raster, such as 256; by default that of
            training. Classifiers get windows of another side resized, to see more or less ground.
        stride: Side of the map's pixels in pixels of the raster, for classes of windows; the
            window's by default. Less, such as 16, gives a finer map of windows that overlap.
        overlap: Pixels that neighboring windows share, for classes of pixels, change and boxes; a
            quarter of the window by default. More takes longer, and shows fewer seams.
        bands: Bands of the raster in the order that the network takes, such as [4,3,2]; by default
            all but alpha. For several rasters by name: {before: [4,3,2], after: [3,2,1]}.
        nodata: Value that stands for no data, such as 0, for files that name none.
        max_nodata: Largest part without data of windows that are predicted; 0.5 by default for
            classes of windows, else windows without any data are left out.
        match: First bring each band to its mean and deviation in the training images, for rasters
            that were stretched or calibrated otherwise.
        probability: Another map (.tif), of the probability of the class in percent.
        probability_of: Classes whose probabilities that map has instead, a band each, such as
            [water,road].
        polygons: Format of polygons of the map's classes, which lie beside it.
        min_pixels: Number of pixels of the smallest areas that become polygons.
        simplify: Tolerance in pixels within which the borders of polygons are made simpler.
        style: Colors and names of classes for QGIS, beside the map (.qml).
        picture: Picture of the scene and the map, beside it (.png).
        stac: STAC item of the output, beside it (.stac.json).
        report: Page with the output over the scene, beside it (.html): zoom, opacity, numbers.
        colors: Colors of classes, such as {Forest: '#1b6b2f'}, or a YAML or JSON file of them.
        min_score: Lowest score of boxes that are kept, such as 0.5; all by default.
        batch_size: Windows that the network gets at once; 64 by default for classes of windows,
            else as many as have a million pixels. Less takes less memory.
        memory: GiB that pixels and probabilities may take beside the network. Rasters whose rows
            need more are predicted in panels side by side.
        device: Device to compute on, such as cpu, cuda or cuda:1; auto is a GPU if there is one.
        precision: Type that the network computes in; bfloat16 is faster on most GPUs.
        compile: Compile the network by torch.compile, which takes a minute or more; for long runs.
        turns: Average the probabilities of the 8 flipped and rotated versions of each window, as
            evaluate --turns does, for classes of pixels and change. It takes 8 times as long.
        threads: Number of threads that a CPU computes with, such as 4; all cores by default.
        overwrite: Replace an older output.
    """
    if checkpoint is None:
        raise UsageError("--checkpoint: name one of fine-tuning, such as runs/classes/best.ckpt")
    from rsvheat.checkpoint import TrainedModel
    from rsvheat.raster import predict
    from rsvheat.raster.beside import Beside
    from rsvheat.raster.many import is_boxes
    from rsvheat.raster.work_list import is_single

    # As an exception, the signal lets unfinished files be removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sources = [source] if isinstance(source, str) else source
    if devices is not None and (dask is not None or device != "auto"):
        raise UsageError("--devices is another way than --dask and --device: give one of them")
    # With several devices each has a process that loads the network.
    model = TrainedModel.load(checkpoint, device=device if devices is None else "cpu")
    # The raster without a name is the first that is not named.
    unnamed = [name for name in model.spec.modalities if name not in (also or {})]
    if not unnamed:
        raise UsageError(f"--also: {sources[0]} is left without a name of {', '.join(also or {})}")
    options: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "overlap": overlap,
        "bands": bands if isinstance(bands, dict) or bands is None else {unnamed[0]: bands},
        "nodata": nodata,
        "max_nodata": max_nodata,
        "match": match,
        "colors": colors,
        "min_score": min_score,
        "batch_size": batch_size,
        "memory": memory,
        "precision": precision,
        "compile": compile,
        "turns": turns,
        "threads": threads,
        "overwrite": overwrite,
    }
    beside = Beside(polygons, min_pixels, simplify, style, picture, stac, report)
    if is_single(sources):
        of_many = {"shard": shard, "assets": assets, "dask": dask, "devices": devices}
        for name, value in of_many.items():
            if value:
                raise UsageError(f"--{name} is of many scenes, and {sources[0]} is one")
        path = output or Path("runs/maps") / f"{Path(sources[0]).stem}{_suffix(model)}"
        files = {unnamed[0]: sources[0], **(also or {})}
        beside.check(path, is_boxes(model), overwrite)
        options |= {"probability": probability, "probability_of": probability_of or ()}
        result = predict(files, path, model, resume=resume, **options)
        print(result)
        for written in beside.write(result, files, colors):
            print(written)
        return 0
    if probability is not None or probability_of:
        raise UsageError("--probability is of one scene")
    options |= {"resume": resume, "beside": beside}
    if dask is not None:
        cluster = {"scheduler": dask, "workers": workers, "device": device}
        options |= {"checkpoint": checkpoint, **cluster}
    if devices is not None:
        options |= {"checkpoint": checkpoint, "devices": devices}
    return _predict_many(
        sources, unnamed[0], also, assets, output or "runs/maps", model, shard, options
    )


def _predict_many(
    sources: list[str],
    first: str,
    also: dict[str, str] | None,
    assets: dict[str, str] | None,
    folder: str,
    model: "TrainedModel",
    shard: str | None,
    options: dict[str, Any],
) -> int:
    """Predict many scenes, and return the exit code: 1 if one failed."""
    from rsvheat.raster import many, work_list

    scenes = work_list.work_list(sources, also, first=first, assets=assets)
    name = "summary.json"
    if shard is not None:
        number, _, count = shard.partition("/")
        if not (number.isdigit() and count.isdigit()):
            raise UsageError(f"--shard: such as 2/8, the second of eight; got {shard}")
        scenes = work_list.shard(scenes, int(number), int(count))
        name = f"summary-{number}-of-{count}.json"

    def report(outcome: many.SceneOutcome) -> None:
        print(f"{outcome.output}: {outcome.error or outcome.status}", flush=True)

    options |= {"suffix": _suffix(model), "report": report}
    if "scheduler" in options:
        from rsvheat.raster.cluster import predict_on_cluster

        summary = predict_on_cluster(scenes, folder, **options)
    elif "devices" in options:
        from rsvheat.raster.devices import predict_on_devices

        summary = predict_on_devices(scenes, folder, **options)
    else:
        summary = many.predict_many(scenes, folder, model, **options)
    summary.save(Path(folder) / name)
    print(f"{summary}\n{Path(folder) / name} says the same")
    return int(summary.count("failed") > 0)


def _suffix(model: "TrainedModel") -> str:
    from rsvheat.raster.many import is_boxes

    if not is_boxes(model):
        return ".tif"
    return ".gpkg" if importlib.util.find_spec("pyogrio") else ".geojson"
