# SPDX-License-Identifier: Apache-2.0
"""Maps of classes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from rsvheat._library import package_version
from rsvheat.data import Crop, DataError, Normalizer, Pixels, Statistics, Window
from rsvheat.data.normalize import Decibels, to_decibels
from rsvheat.models import CheckpointError
from rsvheat.raster.colors import class_colors
from rsvheat.raster.grid import Grid
from rsvheat.raster.scene import Scene
from rsvheat.raster.sweep import sweep
from rsvheat.raster.writing import Layer, check_output, writing
from rsvheat.tasks import ClassificationTask, load_classifier, saved_normalizers
from rsvheat.tasks.encoders import checkpoint_content

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]

NODATA = 255


@dataclass(frozen=True)
class MapResult:
    """What :func:`predict_map` wrote.

    Attributes:
        path: The map.
        rows: Of the map.
        columns: Likewise.
        classes: Names, by the values of the map's pixels.
        counts: How many of the map's pixels are of each class.
        nodata: How many are of none.
        square_km: Area of each class within the scene; None where that is not known.
        seconds: How long it took.
    """

    path: Path
    rows: int
    columns: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    nodata: int
    square_km: tuple[float, ...] | None
    seconds: float

    def __str__(self) -> str:
        """Return a line, and a table of the classes that there are."""
        lines = [
            f"{self.path}: {self.rows} x {self.columns} pixels, {self.nodata} without data, "
            f"in {self.seconds:.1f} s"
        ]
        total = sum(self.counts)
        width = max(map(len, self.classes))
        for i in np.argsort(self.counts, kind="stable")[::-1]:
            if self.counts[i]:
                area = "" if self.square_km is None else f"  {self.square_km[i]:12,.2f} km2"
                share = self.counts[i] / total
                lines.append(f"  {self.classes[i]:{width}}  {share:6.1%}{area}")
        return "\n".join(lines)


def predict_map(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    max_nodata: float = 0.5,
    match: bool = False,
    probability: str | os.PathLike[str] | None = None,
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: Precision = "float32",
    overwrite: bool = False,
) -> MapResult:
    """Classify a raster window by window, and write the classes as a map.

    The map is a cloud-optimized GeoTIFF of uint8 with the scene's reference system: each pixel is
    the class of the window around it, 255 where there is no data. It has a colour table and the
    classes' names. Neither the scene nor the map is held whole, but for PNG and JPEG; an
    interrupted call leaves nothing, and an older map as it was.

    Windows are read, normalised and resized as in the classifier's training. See
    :class:`~rsvheat.raster.grid.Grid` for where they lie.

    Args:
        source: The scene: GeoTIFF, VRT, PNG, JPEG or what else GDAL reads.
        output: The map, a ``.tif``.
        checkpoint: Of fine-tuning.
        window: Side of the windows in pixels of the scene; by default that of the windows that were
            cut from images in training or, without such, of the images. They are resized to what
            the classifier takes.
        stride: Side of the map's pixels, in pixels of the scene; by default the window's. A smaller
            one gives a finer map, of windows that overlap.
        bands: Which bands of the scene, counted from 1, in which order; by default all but alpha.
        nodata: A value that stands for no data, where the file does not say so.
        max_nodata: Windows of which a larger part is without data are not classified. In others
            such pixels become what they were in training.
        match: First bring each band of the scene to the mean and deviation that it has in the
            training images: for scenes that were stretched or calibrated in another way.
        probability: Another file, for the probability of the class in percent, 255 without data.
        colors: Colours of classes as ``"#rrggbb"``, or a YAML or JSON file of them.
        batch_size: Windows that are classified at once.
        device: Such as cpu, cuda or cuda:1; auto is a GPU if there is one.
        precision: What the network computes in.
        overwrite: Replace a map that is there already.

    Returns:
        What was written.

    Raises:
        ValueError: If an argument is not as above, or the classifier has more classes than a map
            has values.
        FileNotFoundError: If there is no such scene or checkpoint.
        FileExistsError: If there is an output, and ``overwrite`` is not set.
        DataError: If the scene is damaged, or its bands do not fit.
        CheckpointError: If the checkpoint is damaged, or of no classifier.
        OSError: If the output cannot be written.
    """
    start = perf_counter()
    paths = [Path(path) for path in (output, probability) if path is not None]
    for path in paths:
        check_output(path, overwrite)
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise ValueError(f"{path} is the scene itself")
    if len({path.absolute() for path in paths}) < len(paths):
        raise ValueError(f"output and probability are the same file, {output}")
    if batch_size < 1 or not 0 <= max_nodata <= 1:
        raise ValueError(
            f"batch_size must be at least 1 and max_nodata within 0 to 1, got {batch_size} and "
            f"{max_nodata}"
        )
    classifier = WindowClassifier(checkpoint, device=device, precision=precision)
    names = classifier.classes
    if len(names) > NODATA:
        raise ValueError(f"{checkpoint} has {len(names)} classes; a map holds up to {NODATA}")
    table = class_colors(names, colors)
    size = classifier.window if window is None else window
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(source, classifier.bands, bands, nodata))
        if match:
            classifier.match(scene)
        grid = Grid(scene.height, scene.width, size, size if stride is None else stride)
        tags = {
            "TIFFTAG_SOFTWARE": f"rsvheat {package_version()}",
            "RSVHEAT_CLASSES": json.dumps(names),
            "RSVHEAT_CHECKPOINT": Path(checkpoint).name,
            "RSVHEAT_SOURCE": Path(source).name,
            "RSVHEAT_BANDS": json.dumps(scene.select),
            "RSVHEAT_WINDOW": str(grid.size),
            "RSVHEAT_STRIDE": str(grid.stride),
            "RSVHEAT_PRECISION": precision,
            "RSVHEAT_MATCH": str(match).lower(),
        }
        layers = [
            Layer(paths[0], "uint8", NODATA, "class", "mode", 1.0, names, table, tags),
            *(
                Layer(path, "uint8", NODATA, "probability of the class", "average", 0.01, tags=tags)
                for path in paths[1:]
            ),
        ]
        where = scene.georeference.scaled(grid.stride)
        writers = [
            stack.enter_context(writing(layer, grid.rows, grid.columns, where, overwrite))
            for layer in layers
        ]
        bar = stack.enter_context(
            tqdm(
                total=grid.rows * grid.columns,
                desc=Path(source).name,
                unit="window",
                delay=2,
                disable=None,
                leave=False,
            )
        )
        counts = np.zeros(NODATA + 1, np.int64)
        pixels = np.zeros(NODATA + 1)
        steps = stack.enter_context(
            closing(sweep(scene, grid, classifier, batch_size=batch_size, max_nodata=max_nodata))
        )
        for row, values in steps:
            # The probabilities are of no use where no file is asked for.
            for writer, layer_values in zip(writers, values, strict=False):
                writer.write(row, layer_values)
            flat = values[0].ravel()
            counts += np.bincount(flat, minlength=NODATA + 1)
            area = grid.areas(row, len(values[0])).ravel()
            pixels += np.bincount(flat, area, minlength=NODATA + 1)
            bar.update(flat.size)
    square_metres = scene.georeference.square_metres
    n = len(names)
    return MapResult(
        paths[0],
        grid.rows,
        grid.columns,
        tuple(names),
        tuple(counts[:n].tolist()),
        int(counts[NODATA]),
        None if square_metres is None else tuple((pixels[:n] * square_metres / 1e6).tolist()),
        perf_counter() - start,
    )


class WindowClassifier:
    """Classifies windows as they come from a file.

    Args:
        checkpoint: Of fine-tuning.
        device: See :func:`predict_map`.
        precision: See :func:`predict_map`.

    Attributes:
        classes: Their names.
        bands: That it takes.
        size: Side of the images that it takes.
        window: Side of what was cut from larger images, and resized, in its training; ``size``
            where that is not known.

    Raises:
        ValueError: If the device or the precision is unknown.
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, of no classifier, or does not say how to normalise.
    """

    layers: Sequence[tuple[str, float]] = (("uint8", NODATA), ("uint8", NODATA))

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: Precision = "float32",
    ) -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._precision = precision
        self._task: ClassificationTask = load_classifier(checkpoint)
        network, modality = self._task.network, self._task.modality
        self._checkpoint = checkpoint
        normalizers = saved_normalizers(checkpoint)
        if modality not in normalizers:
            raise CheckpointError(
                f"{checkpoint} does not say how {modality} images were normalised; checkpoints of "
                "training with the data modules of rsvheat.data do"
            )
        self._normalizer: Normalizer = normalizers[modality]
        if network.img_size[0] != network.img_size[1]:
            raise CheckpointError(f"{checkpoint} is of images of {network.img_size}, not square")
        self.classes = self._task.classes
        self.bands = network.modalities[modality]
        self.size = network.img_size[0]
        windows = [
            entry["window"]
            for entry in checkpoint_content(checkpoint).values()
            if isinstance(entry, Mapping) and "normalizers" in entry and entry.get("window")
        ]
        self.window = int(windows[0]) if windows else self.size
        self._crop = Crop(self.size, augment=False)
        try:
            self._device = torch.device(device)
            self._task.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {error}") from error

    def __call__(self, windows: Sequence[Pixels]) -> list[NDArray[np.uint8]]:
        """Return classes (n,), and their probabilities in percent.

        Args:
            windows: n of any side, as the file holds them.
        """
        images = torch.stack([self._image(pixels) for pixels in windows])
        with self._computing():
            logits = self._task(images.to(self._device)).float()
        probability, label = logits.softmax(1).max(1)
        percent = probability.mul(100).round()
        return [x.to("cpu", torch.uint8).numpy() for x in (label, percent)]

    def match(self, scene: Scene) -> None:
        """Normalise so that a scene's bands have the mean and deviation of the training images'.

        Args:
            scene: From whose windows, up to 64 all over it, mean and deviation are estimated.

        Raises:
            ValueError: If the checkpoint holds no statistics of the training images, or the scene
                no data.
        """
        old = self._normalizer
        trained = _saved_statistics(self._checkpoint, self._task.modality)
        mean, deviation = _moments(scene, self.size, old.decibels)
        there, spread = np.array(trained.mean), np.array(trained.std)
        # What is constant here or there has no factor.
        factor = np.ones_like(mean)
        np.divide(deviation, spread, out=factor, where=(deviation > 0) & (spread > 0))
        center = mean + (np.array(old.center) - there) * factor
        scale = np.array(old.scale) * factor
        self._normalizer = replace(old, center=tuple(center.tolist()), scale=tuple(scale.tolist()))

    def _image(self, pixels: Pixels) -> torch.Tensor:
        image = {"": self._normalizer(pixels)}
        return self._crop.finish(image, _UNUSED)[""]

    @contextmanager
    def _computing(self) -> Iterator[Any]:
        dtype = getattr(torch, self._precision)
        mixed = torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), mixed:
            yield


def _saved_statistics(checkpoint: str | os.PathLike[str], modality: str) -> Statistics:
    for entry in checkpoint_content(checkpoint).values():
        if isinstance(entry, Mapping) and modality in (entry.get("statistics") or {}):
            return Statistics.from_dict(entry["statistics"][modality])
    raise ValueError(
        f"{checkpoint} holds no statistics of its training images, which match needs: they were "
        "normalised by numbers that were given"
    )


def _moments(
    scene: Scene, size: int, decibels: Decibels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of a scene's bands, from 8 x 8 windows."""
    height, width = min(size, scene.height), min(size, scene.width)
    tops = np.unique(np.linspace(0, scene.height - height, 8).astype(int)).tolist()
    lefts = np.unique(np.linspace(0, scene.width - width, 8).astype(int)).tolist()
    sums = np.zeros((3, scene.bands))
    for top in tops:
        for left in lefts:
            pixels = to_decibels(scene.read(Window(top, left, height, width)), decibels)
            values = pixels.values.astype(np.float64)
            valid = np.broadcast_to(True if pixels.valid is None else pixels.valid, values.shape)
            values = np.where(valid, values, 0)
            sums += valid.sum((1, 2)), values.sum((1, 2)), np.square(values).sum((1, 2))
    if not sums[0].all():
        raise DataError(f"{scene.name} has bands without data in {len(tops) * len(lefts)} windows")
    mean = sums[1] / sums[0]
    return mean, np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))


# Crops without augmentation take no random numbers.
_UNUSED = np.random.default_rng(0)
