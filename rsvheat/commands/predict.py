# SPDX-License-Identifier: Apache-2.0
"""Predict a raster of any size: a map of classes, change or boxes."""

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Literal

from rsvheat.cli import UsageError
from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat predict scene.tif --checkpoint runs/classes/best.ckpt --output map.tif"
EXTRA = "geo"


def run(arguments: list[str]) -> None:
    """Run the command."""
    run_function(predict, arguments, __name__)


def predict(
    source: str,
    checkpoint: str | None = None,
    output: str | None = None,
    also: dict[str, str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    overlap: int | None = None,
    bands: list[int] | dict[str, list[int]] | None = None,
    nodata: float | None = None,
    max_nodata: float | None = None,
    match: bool = False,
    probability: str | None = None,
    colors: dict[str, str] | str | None = None,
    min_score: float | None = None,
    batch_size: int | None = None,
    memory: float = 1.0,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Write a map of a scene, or the boxes of its objects, as the checkpoint's task says.

    Args:
        source: Path of the raster: GeoTIFF, VRT, PNG, JPEG or any other that GDAL reads.
        checkpoint: Checkpoint of fine-tuning, such as runs/classes/best.ckpt; required.
        output: Map (.tif) or boxes (.gpkg, .geojson); by default a file in runs/maps with the name
            of the raster.
        also: Further rasters by name: --also.after 2024.tif is the second date of change,
            --also.sar radar.tif a second sensor. Those of another grid are interpolated on the
            first's.
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
        colors: Colors of classes, such as {Forest: '#1b6b2f'}, or a YAML or JSON file of them.
        min_score: Lowest score of boxes that are kept, such as 0.5; all by default.
        batch_size: Windows that the network gets at once; 64 by default for classes of windows,
            else as many as have a million pixels. Less takes less memory.
        memory: GiB that pixels and probabilities may take beside the network. Rasters whose rows
            need more are predicted in panels side by side.
        device: Device to compute on, such as cpu, cuda or cuda:1; auto is a GPU if there is one.
        precision: Type that the network computes in; bfloat16 is faster on most GPUs.
        overwrite: Replace an older output.
    """
    if checkpoint is None:
        raise UsageError("--checkpoint: name one of fine-tuning, such as runs/classes/best.ckpt")
    from rsvheat.checkpoint import TrainedModel
    from rsvheat.raster import predict

    # As an exception, the signal lets unfinished files be removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    model = TrainedModel.load(checkpoint, device=device)
    # The raster without a name is the first that is not named.
    unnamed = [name for name in model.spec.modalities if name not in (also or {})]
    if not unnamed:
        raise UsageError(f"--also: {source} is left without a name of {', '.join(also or {})}")
    result = predict(
        {unnamed[0]: source, **(also or {})},
        output or _default_output(source, model.output),
        model,
        window=window,
        stride=stride,
        overlap=overlap,
        bands=bands if isinstance(bands, dict) or bands is None else {unnamed[0]: bands},
        nodata=nodata,
        max_nodata=max_nodata,
        match=match,
        probability=probability,
        colors=colors,
        min_score=min_score,
        batch_size=batch_size,
        memory=memory,
        precision=precision,
        overwrite=overwrite,
    )
    print(result)


def _default_output(source: str, kind: str) -> Path:
    suffix = ".tif"
    if kind in ("boxes", "oriented_boxes"):
        suffix = ".gpkg" if importlib.util.find_spec("pyogrio") else ".geojson"
    return Path("runs/maps") / f"{Path(source).stem}{suffix}"
