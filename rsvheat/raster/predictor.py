# SPDX-License-Identifier: Apache-2.0
"""Interface of the predictors, and their common parts: options, scenes, batches of windows."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol, TypeAlias, get_args

import torch

from rsvheat.checkpoint import Precision, TrainedModel, finite_rows
from rsvheat.data import Pixels, Window
from rsvheat.raster.scene import Scene

Source: TypeAlias = str | PathLike[str]
Scenes: TypeAlias = Mapping[str, Scene]


@dataclass(frozen=True)
class Options:
    """Options of a prediction that do not depend on the scene; see ``rsvheat.raster.predict``.

    Raises:
        ValueError: If an option is out of its range.
    """

    window: int | None = None
    stride: int | None = None
    overlap: int | None = None
    max_nodata: float | None = None
    min_score: float | None = None
    batch_size: int | None = None
    precision: Precision = "float32"
    memory: float = 1.0
    compile: bool = False
    turns: bool = False
    probability_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.memory > 0:
            raise ValueError(f"memory must be above 0 GiB, got {self.memory}")
        for name in ("window", "stride", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                unit = "" if name == "batch_size" else " pixel"
                raise ValueError(f"{name} must be at least 1{unit}, got {value}")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap must be at least 0 pixels, got {self.overlap}")
        for name in ("max_nodata", "min_score"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be within 0 to 1, got {value}")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {get_args(Precision)}, got {self.precision!r}"
            )

    def columns(self, scenes: Scenes, rows: int, more: int = 0) -> int:
        """Return how many columns of scenes the memory is enough for.

        Args:
            scenes: Scenes by modality.
            rows: Number of rows that are in memory at a time.
            more: Bytes that a pixel takes beside its values.
        """
        # Of each scene a strip that is used, one that is being read, and what they have in common.
        pixel = 3 * sum(scene.pixel_bytes for scene in scenes.values()) + more
        return int(self.memory * 2**30 / (rows * pixel))

    def overlap_of(self, size: int) -> int:
        """Return the overlap of windows of a size, by default a quarter of it.

        Args:
            size: Side of the windows in pixels.

        Raises:
            ValueError: If the overlap is not below that.
        """
        overlap = size // 4 if self.overlap is None else self.overlap
        if overlap >= size:
            raise ValueError(f"overlap must be less than the window's {size} pixels, got {overlap}")
        return overlap

    def chosen(self, classes: Sequence[str]) -> list[int]:
        """Return the numbers of the classes whose probabilities are asked for.

        Args:
            classes: Names of the classes.

        Raises:
            ValueError: If there is no such class.
        """
        for name in self.probability_of:
            if name not in classes:
                raise ValueError(
                    f"probability_of must name classes of {', '.join(classes)}, got {name!r}"
                )
        return [classes.index(name) for name in self.probability_of]

    def refuse(self, kind: str, *names: str) -> None:
        """Raise if an option is set that has no meaning for a kind of prediction.

        Args:
            kind: Kind of the prediction, for the message.
            *names: Names of the options.

        Raises:
            ValueError: If one of them is set.
        """
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise ValueError(f"{name} has no meaning for {kind}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Files:
    """Files to be written.

    Attributes:
        output: Path of the map or of the boxes.
        probability: Path of a map of the probability of each pixel's class; None for none.
        probability_of: Classes whose probabilities that map has, a band each; none for the class
            of each pixel.
        colors: Colors by class name, or the path of a file of them; None for default ones.
        overwrite: Whether older files are replaced.
        tags: Metadata.
        resume: Whether to go on with what a killed process wrote, and to keep it if this one is
            interrupted.
        about: What the prediction depends on beside the metadata, plain values.
    """

    output: Path
    probability: Path | None = None
    probability_of: Sequence[str] = ()
    colors: Mapping[str, str] | Source | None = None
    overwrite: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


class Output(Protocol):
    """Files that are being written.

    Attributes:
        done: Number of parts that a killed process wrote before.
    """

    done: int

    def write(self, part: Any) -> None:
        """Write the next part of a prediction.

        Args:
            part: Part that ``Predictor.parts`` yielded.
        """
        ...

    def result(self, seconds: float) -> Any:
        """Return a summary of the files when they are complete.

        Args:
            seconds: Time that it took.
        """
        ...


class Predictor(Protocol):
    """Predicts scenes strip by strip with one kind of network.

    The modules ``rsvheat.raster.windows``, ``rsvheat.raster.dense``,
    ``rsvheat.raster.change`` and ``rsvheat.raster.boxes`` hold one each. It is made from a
    ``rsvheat.checkpoint.TrainedModel``, scenes by modality and ``Options``.

    Attributes:
        windows: Number of windows in the scenes.
    """

    windows: int

    def open(self, files: Files) -> AbstractContextManager[Output]:
        """Create files that appear, or replace older ones, when the block succeeds.

        Args:
            files: Files to be written.
        """
        ...

    def parts(self, done: int = 0) -> Generator[tuple[int, Any], None, None]:
        """Predict from top to bottom.

        Args:
            done: Number of first parts to be left out.

        Yields:
            Number of windows since the last part, and a part for ``Output.write``.
        """
        ...


@contextmanager
def open_scenes(
    source: Source | Mapping[str, Source],
    modalities: Mapping[str, int],
    bands: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    nodata: float | None = None,
) -> Iterator[dict[str, Scene]]:
    """Open the rasters of a prediction; all are read on the grid of the first.

    Args:
        source: Path of the raster, or paths by modality; a path alone is of the first modality.
        modalities: Number of bands by modality that the network takes.
        bands: Bands of the file, counted from 1, or these by modality; None for all but alpha.
        nodata: Value that stands for no data, for files that name none.

    Yields:
        Scenes by modality, in the network's order.

    Raises:
        ValueError: If a modality is unknown.
        FileNotFoundError: If there is no such file.
        DataError: If a file is damaged, its bands do not fit, or it shows other ground.
    """
    first = next(iter(modalities))
    sources = dict(source) if isinstance(source, Mapping) else {first: source}
    select = bands if isinstance(bands, Mapping) else dict.fromkeys(sources, bands)
    for kind, given in (("source", sources), ("bands", select)):
        if not given or given.keys() - modalities.keys():
            raise ValueError(
                f"{kind} must be given for {', '.join(modalities)}, got {', '.join(given)}"
            )
    with ExitStack() as stack:
        scenes: dict[str, Scene] = {}
        for name in modalities:
            if name in sources:
                like = next(iter(scenes.values()), None)
                scene = Scene(sources[name], modalities[name], select.get(name), nodata, like)
                scenes[name] = stack.enter_context(scene)
        yield scenes


def square_size(model: TrainedModel) -> int:
    """Return the side of the windows that a network was trained on, in pixels of a scene.

    Args:
        model: Trained network.

    Raises:
        ValueError: If its images were not square.
    """
    height, width = model.size
    if model.window is not None:
        return model.window
    if height != width:
        raise ValueError(
            f"{model.path or 'the network'} is of images of {model.size}, not square: set window"
        )
    return height


def sensors_with_data(model: TrainedModel, window: Mapping[str, Pixels]) -> tuple[str, ...]:
    """Return the modalities that predict a window: those with data there.

    Args:
        model: Trained network; one that needs all modalities gets all, with pixels without data
            filled as in training.
        window: Pixels of the window by modality.
    """
    found = [name for name, (_, valid) in window.items() if valid is None or valid.any()]
    return tuple(found if found and model.network.any_sensor else window)


def infer(
    model: TrainedModel,
    scenes: Scenes,
    windows: Sequence[Mapping[str, Pixels]],
    places: Sequence[Window],
    precision: Precision,
    turns: bool = False,
) -> Any:
    """Predict a batch of windows, each from the sensors that have data there.

    Args:
        model: Trained network.
        scenes: Scenes by modality, for the message of an error.
        windows: Pixels of the windows by modality, as the files hold them, of one size.
        places: Places of the windows in the scene.
        precision: Floating-point type that the network computes in.
        turns: Whether flipped and rotated versions of the windows are averaged.

    Returns:
        Predictions, see ``rsvheat.checkpoint.TrainedModel.infer``.

    Raises:
        FloatingPointError: If a prediction is not finite; the message says of which window.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, window in enumerate(windows):
        groups.setdefault(sensors_with_data(model, window), []).append(number)
    rows: dict[int, Any] = {}
    for sensors, numbers in groups.items():
        images = {
            name: torch.stack([model.normalizers[name](windows[i][name]) for i in numbers])
            for name in sensors
        }
        output = model.infer(images, precision=precision, turns=turns)
        if len(groups) == 1:
            break
        rows |= zip(numbers, output, strict=True)
    if rows:
        ordered = [rows[number] for number in range(len(windows))]
        output = torch.stack(ordered) if isinstance(ordered[0], torch.Tensor) else ordered
    for place, finite in zip(places, finite_rows(output), strict=True):
        if not finite:
            names = " and ".join(Path(fspath(scene.name)).name for scene in scenes.values())
            raise FloatingPointError(
                f"{names}: the network's result is not finite in the window of {place.height} x "
                f"{place.width} pixels at row {place.top}, column {place.left}: the pixels hold "
                f"extreme values, {precision} is too narrow, or the weights are damaged"
            )
    return output
