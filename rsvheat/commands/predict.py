# SPDX-License-Identifier: Apache-2.0
"""Classify a GeoTIFF of any size window by window, and write a map."""

import signal
import sys
from pathlib import Path
from typing import Literal

from rsvheat.cli import UsageError
from rsvheat.commands._parser import run_function

EXAMPLE = "rsvheat predict scene.tif --checkpoint runs/classes/best.ckpt --output map.tif"


def run(arguments: list[str]) -> None:
    """Run the command."""
    run_function(predict, arguments, __name__)


def predict(
    source: str,
    checkpoint: str | None = None,
    output: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    bands: list[int] | None = None,
    nodata: float | None = None,
    max_nodata: float = 0.5,
    match: bool = False,
    probability: str | None = None,
    colors: dict[str, str] | str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Write a map of the classes of a scene.

    Args:
        source: The scene: GeoTIFF, VRT, PNG, JPEG or what else GDAL reads.
        checkpoint: Of fine-tuning; required.
        output: The map, a .tif; by default of the scene's name in runs/maps.
        window: Side of the windows in pixels of the scene; by default that of training. Windows of
            another side than the classifier's images are resized to it.
        stride: Side of the map's pixels, in pixels of the scene; the window's by default. Less
            gives a finer map, of windows that overlap.
        bands: Which bands of the scene, such as [4,3,2]; by default all but alpha.
        nodata: A value that stands for no data, where the file does not say so.
        max_nodata: Windows of which a larger part is without data get no class.
        match: First bring each band to its mean and deviation in the training images; for scenes
            that were stretched or calibrated in another way.
        probability: Another map, of the probability of the class in percent.
        colors: Colours of classes as "#rrggbb", or a YAML or JSON file of them.
        batch_size: Windows that are classified at once.
        device: Such as cpu, cuda or cuda:1; auto is a GPU if there is one.
        precision: What the network computes in.
        overwrite: Replace a map that is there already.
    """
    if checkpoint is None:
        raise UsageError("--checkpoint: name that of a classifier, such as runs/classes/best.ckpt")
    from rsvheat.raster import predict_map

    # An exception, so that what is unfinished is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    result = predict_map(
        source,
        output or Path("runs/maps") / f"{Path(source).stem}.tif",
        checkpoint,
        window=window,
        stride=stride,
        bands=bands,
        nodata=nodata,
        max_nodata=max_nodata,
        match=match,
        probability=probability,
        colors=colors,
        batch_size=batch_size,
        device=device,
        precision=precision,
        overwrite=overwrite,
    )
    print(result)
