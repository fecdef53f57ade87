# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of training: their format, and trained networks that predict.

A checkpoint is a file of ``torch.save`` with the weights under ``state_dict`` and, under
``rsvheat``, plain values that describe the network and its data (version 2, written by
``training_content``):

    {"rsvheat": {"schema": 2,
                 "task": "classification",              # a name in TASK_MODELS, or "pretraining"
                 "model": {"encoder": {...},            # arguments of RSVHeat
                           "num_classes": 10,           # these two are absent in pretraining
                           "options": {...}},           # further arguments of the task model
                 "spec": DataSpec.to_dict(),
                 "normalizers": {modality: Normalizer.to_dict()},
                 "statistics": {modality: Statistics.to_dict()},
                 "window": 448,                         # or None
                 "temperature": 1.3},                   # 1 where it is absent
     "state_dict": {"network.encoder...": tensor, ...}}

Version 1, of files before ``rsvheat`` was written, has the encoder's arguments under ``encoder``,
``{"classes", "modality"}`` under ``classifier`` after fine-tuning, and normalization in the entry
of the data module. Both are read here and nowhere else.

Nothing here needs Lightning.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from rsvheat._files import complete_file
from rsvheat.data import Normalizer, Statistics, Window
from rsvheat.data.spec import DataSpec
from rsvheat.models import (
    CheckpointError,
    LoadReport,
    RSVHeat,
    RSVHeatPretraining,
    create_model,
    load_checkpoint,
)
from rsvheat.models.checkpoints import (
    check_finite,
    check_plain,
    read_checkpoint,
    weights_of,
)
from rsvheat.models.task_model import Output, TaskModel, find_task_model
from rsvheat.prediction import (
    BoxPrediction,
    ClassPrediction,
    Images,
    MaskPrediction,
    Prediction,
    SampleReader,
    averaged_turns,
    batches,
    resized,
    tempered,
)

SCHEMA = 2
PRETRAINING = "pretraining"

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
_Path: TypeAlias = str | os.PathLike[str]
# Modules of the errors of torch.compile, which take seconds to import.
_COMPILER = ("torch._dynamo", "torch._inductor")


def training_content(
    network: nn.Module,
    spec: DataSpec,
    normalizers: Mapping[str, Normalizer],
    statistics: Mapping[str, Statistics] | None = None,
    window: int | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Return the description of a network and its data that checkpoints hold under ``rsvheat``.

    Args:
        network: Network in training: a task model, or the one that pretrains an encoder.
        spec: Description of the training data.
        normalizers: Normalization of the images by modality.
        statistics: Statistics of the training images by modality, as far as they are known.
        window: Side in pixels of the windows that were cut from images and resized; None for
            images that were taken whole.
        temperature: Temperature that calibrates the probabilities of the classes.

    Returns:
        Dictionaries, lists, numbers and texts only, so that reading them runs no code.

    Raises:
        TypeError: If the network is of another kind.
    """
    if isinstance(network, TaskModel):
        task, model = network.task, network.config
    elif isinstance(network, RSVHeatPretraining):
        task, model = PRETRAINING, {"encoder": network.encoder.config}
    else:
        raise TypeError(
            "network must be a TaskModel or RSVHeatPretraining, got "
            f"{type(network).__name__}: a network of your own derives from "
            "rsvheat.models.task_model.TaskModel"
        )
    return {
        "schema": SCHEMA,
        "task": task,
        "model": model,
        "spec": spec.to_dict(),
        "normalizers": {name: value.to_dict() for name, value in normalizers.items()},
        "statistics": {name: value.to_dict() for name, value in (statistics or {}).items()},
        "window": window,
        "temperature": temperature,
    }


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read once; see the module for the format.

    Attributes:
        path: Path of the file.
        content: Content of the file. Tensors are mapped into memory and read when they are used.
        task: Name of the task; None for files that describe no network, such as published weights.
        model: Description of the network: ``encoder`` and, unless pretraining, ``num_classes`` and
            ``options``; None where ``task`` is.
        spec: Description of the training data; None where ``task`` is.
        normalizers: Normalization of the images by modality; empty if unknown.
        statistics: Statistics of the training images by modality; empty if unknown.
        window: Side in pixels of the windows that were cut from images and resized; None for
            images that were taken whole.
        temperature: Temperature that calibrates the probabilities of the classes; 1 if unknown.
    """

    path: Path
    content: Any = field(repr=False)
    task: str | None = None
    model: Mapping[str, Any] | None = None
    spec: DataSpec | None = None
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    window: int | None = None
    temperature: float = 1.0

    @property
    def stems(self) -> dict[str, str]:
        """Name of the encoder's stem by modality of the training images.

        They are equal but for the two dates of change detection, which may share a stem.
        """
        dates = dict(((self.model or {}).get("options") or {}).get("dates") or {})
        return {name: dates.get(name, name) for name in (self.spec.modalities if self.spec else ())}

    @classmethod
    def read(cls, path: _Path) -> "Checkpoint":
        """Read a file.

        Args:
            path: Checkpoint of training, or any file of weights that
                ``rsvheat.load_checkpoint`` takes.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If the file is damaged, or was written by a newer version.
        """
        path = Path(path)
        content = read_checkpoint(path)
        if not isinstance(content, Mapping):
            return cls(path, content)
        try:
            if "rsvheat" in content:
                return cls(path, content, **_schema_2(content["rsvheat"], path))
            if isinstance(content.get("encoder"), dict):
                return cls(path, content, **_schema_1(content))
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{path} describes its network in a way that cannot be read, so it is damaged or "
                f"was not written by rsvheat: {type(error).__name__}: {error}"
            ) from error
        return cls(path, content)

    def require_task(self) -> "Checkpoint":
        """Return the checkpoint if it holds a network for a task.

        Raises:
            CheckpointError: If it holds something else; the message says what.
        """
        if self.task is None:
            raise CheckpointError(
                f"{self.path} does not describe a network of rsvheat: it holds "
                f"{_summary(self.content)}. Checkpoints of `rsvheat finetune` do; weights alone "
                "are loaded into an encoder by rsvheat.load_checkpoint"
            )
        if self.task == PRETRAINING:
            raise CheckpointError(
                f"{self.path} is a checkpoint of pretraining: it holds an encoder, and no network "
                "for a task. Fine-tune it first (rsvheat finetune --model.checkpoint), or load the "
                "encoder by rsvheat.checkpoint.load_encoder"
            )
        return self

    def require_normalizers(self) -> Mapping[str, Normalizer]:
        """Return the normalization of every modality of the training data.

        Raises:
            CheckpointError: If it is unknown for one of them.
        """
        for name in self.spec.modalities if self.spec else ():
            if name not in self.normalizers:
                raise CheckpointError(
                    f"{self.path} does not say how {name} images were normalized; checkpoints of "
                    "training with the data modules of rsvheat.data do"
                )
        return self.normalizers


def _schema_2(entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    schema = entry["schema"]
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise CheckpointError(
            f"{path} has version {schema!r} of the checkpoint format, and this version of rsvheat "
            f"reads up to {SCHEMA}: " + ("upgrade rsvheat" if newer else "the file is damaged")
        )
    window, temperature = entry["window"], float(entry.get("temperature", 1.0))
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    return {
        "task": str(entry["task"]),
        "model": dict(entry["model"]),
        "spec": DataSpec.from_dict(entry["spec"]),
        "normalizers": {k: Normalizer.from_dict(v) for k, v in entry["normalizers"].items()},
        "statistics": {k: Statistics.from_dict(v) for k, v in entry["statistics"].items()},
        "window": None if window is None else int(window),
        "temperature": temperature,
    }


def _schema_1(content: Mapping[str, Any]) -> dict[str, Any]:
    encoder = content["encoder"]
    modalities, size = dict(encoder["modalities"]), tuple(encoder["img_size"])
    about: dict[str, Any] = {
        "task": PRETRAINING,
        "model": {"encoder": encoder},
        "spec": DataSpec(modalities, size=size),
    }
    classifier = content.get("classifier")
    if classifier is not None:
        classes, modality = tuple(classifier["classes"]), classifier["modality"]
        about["task"] = "classification"
        about["model"] |= {"num_classes": len(classes), "options": {"modality": modality}}
        about["spec"] = DataSpec({modality: modalities[modality]}, "label", classes, size)
    # The entry of a data module has the name of its class.
    for entry in content.values():
        if isinstance(entry, Mapping) and "normalizers" in entry:
            about["normalizers"] = {
                k: Normalizer.from_dict(v) for k, v in entry["normalizers"].items()
            }
            about["statistics"] = {
                k: Statistics.from_dict(v) for k, v in (entry.get("statistics") or {}).items()
            }
            about["window"] = entry.get("window")
    return about


def _summary(content: Any) -> str:
    """Return a summary of a file's content, for errors."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    if tensors:
        return f"{tensors} tensors such as {next(iter(content))!r}"
    names = [repr(str(name)) for name in content]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"the entries {', '.join(names[:6])}{more}" if names else "nothing"


def load_encoder(
    path: _Path | Checkpoint,
    variant: str | None = None,
    *,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **arguments: Any,
) -> tuple[RSVHeat, LoadReport]:
    """Build the encoder of a checkpoint, with its weights.

    Args:
        path: Checkpoint of any task or of pretraining, published weights, or a
            ``Checkpoint`` that was read.
        variant: Name of the model, as for ``rsvheat.create_model``, for files that do not
            describe their encoder; by default the description in the file.
        stems: Stem of the file that each modality takes, as for ``rsvheat.load_checkpoint``.
        inflate_stems: Whether stems may be adapted to another number of bands, as for
            ``rsvheat.load_checkpoint``.
        **arguments: Arguments of ``rsvheat.models.RSVHeat`` that replace those of the file or
            the variant.

    Returns:
        The encoder in training mode, and the report of loading it.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, does not fit, or does not describe its encoder and
            no variant is given.
    """
    saved = path if isinstance(path, Checkpoint) else Checkpoint.read(path)
    if variant is not None:
        encoder = create_model(variant, **arguments)
    elif saved.model is not None:
        try:
            encoder = RSVHeat(**{**saved.model["encoder"], **arguments})
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{saved.path} describes an encoder that cannot be built: {error}"
            ) from error
    else:
        raise CheckpointError(
            f"{saved.path} does not say how its encoder is built, as checkpoints of rsvheat's own "
            f"training do: name the variant, too. It holds {_summary(saved.content)}"
        )
    report = load_checkpoint(
        encoder, saved.path, stems=stems, inflate_stems=inflate_stems, content=saved.content
    )
    return encoder, report


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network with its classes, normalization and sizes, ready to predict.

    Attributes:
        network: Network in evaluation mode, on the device that it computes on.
        spec: Description of the training data.
        normalizers: Normalization of the images by modality.
        statistics: Statistics of the training images by modality; empty if unknown.
        window: Side in pixels of the windows that were cut from images in training and resized to
            ``size``; None for images that were taken whole.
        path: Path of the checkpoint; None for a network that was never saved.
        temperature: Temperature that calibrates the probabilities of the classes, fitted on
            validation images; 1 leaves them as the network gives them.
    """

    network: TaskModel
    spec: DataSpec
    normalizers: Mapping[str, Normalizer]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    window: int | None = None
    path: Path | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Put the network into evaluation mode, and compare it with the classes."""
        if len(self.classes) != self.network.num_classes:
            raise ValueError(
                f"the network has {self.network.num_classes} classes, and {len(self.classes)} are "
                f"named: {', '.join(self.classes)}"
            )
        self.network.eval()

    @classmethod
    def load(
        cls, path: _Path | Checkpoint, *, device: str | torch.device = "auto"
    ) -> "TrainedModel":
        """Load the network of a checkpoint.

        Args:
            path: Path of a checkpoint of any task, or a ``Checkpoint`` that was read. The task
                model of a plug-in is known once its module is imported.
            device: Device to compute on, such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; ``"auto"``
                is a GPU if there is one.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If the file is damaged or holds no network for a task, or if the task
                is unknown.
            ValueError: If the device cannot be used.
        """
        saved = path if isinstance(path, Checkpoint) else Checkpoint.read(path)
        network = _load_network(saved.require_task())
        spec = saved.spec or DataSpec(network.encoder.modalities)
        normalizers, statistics = saved.require_normalizers(), saved.statistics
        try:
            model = cls(
                network,
                spec,
                normalizers,
                statistics,
                saved.window,
                saved.path,
                saved.temperature,
            )
        except ValueError as error:
            raise CheckpointError(f"{saved.path} is damaged: {error}") from error
        return model.to(device)

    def to(self, device: str | torch.device) -> "TrainedModel":
        """Move the network to a device, and return the model.

        Args:
            device: As for ``load``.

        Raises:
            ValueError: If the device cannot be used.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.network.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {error}") from error
        return self

    def compile(self) -> "TrainedModel":
        """Have the network compiled by ``torch.compile`` at its first call, and return the model.

        The weights are the same. Each new size of images is compiled again.
        """
        if not self._is_compiled:
            self.network.compile()
        return self

    @property
    def _is_compiled(self) -> bool:
        return self.network._compiled_call_impl is not None

    def save(self, path: _Path) -> None:
        """Write a checkpoint that ``load`` reads: smaller than training's, without optimizer.

        Args:
            path: File to write; an older one is replaced when the new one is complete.
        """
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        about = training_content(
            self.network,
            self.spec,
            self.normalizers,
            self.statistics,
            self.window,
            self.temperature,
        )
        with complete_file(path) as temporary:
            torch.save({"rsvheat": about, "state_dict": state}, temporary)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.network.task

    @property
    def output(self) -> Output:
        """Kind of the predictions: ``"class"``, ``"mask"``, ``"boxes"`` or ``"oriented_boxes"``."""
        return self.network.output

    @property
    def encoder(self) -> RSVHeat:
        """Encoder of the network."""
        return self.network.encoder

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number."""
        return tuple(self.spec.classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images in training."""
        return self.spec.size

    @property
    def device(self) -> torch.device:
        """Device that the network computes on."""
        return next(self.network.parameters()).device

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that the network takes an image at.

        Classifiers take every image at the size of training. Networks for pixels and boxes take an
        image at its own resolution, or at that of training where windows were resized there.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """
        if self.output == "class":
            return self.size
        if self.window is None:
            return height, width
        scale = self.size[0] / self.window
        return max(1, round(height * scale)), max(1, round(width * scale))

    def infer(
        self,
        images: Mapping[str, Tensor],
        *,
        precision: Precision = "float32",
        turns: bool = False,
    ) -> Any:
        """Return predictions of a batch of normalized images.

        Args:
            images: Images by modality (B, bands, H, W), normalized; they are brought to
                ``input_size`` first.
            precision: Floating-point type that the network computes in.
            turns: Whether the probabilities of the 8 flipped and rotated versions of each image
                are averaged; for classes of pixels.

        Returns:
            Predictions as ``rsvheat.models.task_model.TaskModel.predict`` returns them, in
            pixels of ``images``, on the network's device. They may hold values that are not finite:
            see ``finite_rows``.

        Raises:
            ValueError: If the precision is unknown, ``turns`` has no meaning for the output, images
                do not fit the network, or it cannot be compiled after ``compile``.
        """
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
        if turns and self.output != "mask":
            raise ValueError(f"turns is for classes of pixels, and the output is {self.output}")
        height, width = next(iter(images.values())).shape[-2:]
        size = self.input_size(height, width)
        images = {name: resized(image, size).to(self.device) for name, image in images.items()}
        dtype = getattr(torch, precision)
        mixed = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        try:
            with torch.inference_mode(), mixed:
                if turns:
                    output = averaged_turns(self.network.predict, images)
                else:
                    output = self.network.predict(images)
        except RuntimeError as error:
            if self._is_compiled and type(error).__module__.startswith(_COMPILER):
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"torch.compile cannot compile the network for {self.device}: {reason}. "
                    "Predict without compile"
                ) from error
            raise
        if self.output in ("class", "mask"):
            output = tempered(output.float(), self.temperature)
            return output if self.output == "class" else resized(output, (height, width))
        ratio = torch.tensor([width / size[1], height / size[0]] * 2, device=self.device)
        return [{**one, "boxes": _scaled_boxes(one["boxes"].float(), ratio)} for one in output]

    def predict(self, image: Images, *, batch_size: int = 16) -> Any:
        """Predict one image, or several.

        ``rsvheat.load("runs/classes/best.ckpt").predict("image.tif")`` reads the file, normalizes
        it as in training and returns a ``ClassPrediction``, whose ``label`` is the name of
        the class. Rasters that are larger than memory are for ``rsvheat.raster.predict``.

        Classifiers get the same part of an image as in evaluation: the window in its middle, as
        large as training's windows or else as the image allows, resized to the size of training.

        Args:
            image: One image, or a list of images. An image is

                - the path of a file,
                - a NumPy array (bands, H, W) of values as files hold them, where NaN and the masked
                  values of a masked array are missing, or
                - a tensor (bands, H, W) of values that are normalized already.

                Arrays and tensors may be batches (B, bands, H, W). A network for several modalities
                takes a dictionary of these by modality, such as ``{"optical": "a.tif", "sar":
                "b.tif"}``, of equal sizes.
            batch_size: Largest number of images that the network gets at once.

        Returns:
            A ``ClassPrediction``, ``MaskPrediction`` or ``BoxPrediction``, as
            ``output`` says; a list of them for a list or a batch.

        Raises:
            ValueError: If an image has other bands or dimensions than the network takes.
            FileNotFoundError: If there is no such file.
            DataError: If a file is damaged, or has no data.
            FloatingPointError: If the network's result is not finite.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        size = self.size if self.output == "class" else None
        read = SampleReader(self.spec.modalities, self.normalizers, self._part, size)
        samples, single = read(image)
        predictions: list[Prediction] = []
        for batch in batches(samples, batch_size):
            names = batch[0].images.keys()
            output = self.infer({k: torch.stack([s.images[k] for s in batch]) for k in names})
            for sample, finite in zip(batch, finite_rows(output), strict=True):
                if not finite:
                    raise FloatingPointError(
                        f"the network's result for {sample.name} is not finite: the image holds "
                        "extreme values, or the weights are damaged"
                    )
            for sample, one in zip(batch, output, strict=True):
                if self.output == "class":
                    predictions.append(ClassPrediction.of(one, self.classes))
                elif self.output == "mask":
                    predictions.append(MaskPrediction.of(one, sample.valid, self.classes))
                else:
                    predictions.append(BoxPrediction.of(one, self.classes))
        return predictions[0] if single else predictions

    def _part(self, height: int, width: int) -> Window:
        """Return the part of an image that is predicted."""
        if self.output != "class":
            return Window(0, 0, height, width)
        scale = min(height / self.size[0], width / self.size[1])
        if self.window is not None:
            scale = min(scale, self.window / self.size[0])
        rows, columns = (max(1, round(side * scale)) for side in self.size)
        return Window((height - rows) // 2, (width - columns) // 2, rows, columns)


def finite_rows(output: Any) -> list[bool]:
    """Return for each image of a batch whether its prediction holds finite values only.

    Args:
        output: Predictions of ``TrainedModel.infer``.
    """
    if isinstance(output, Tensor):
        rows = output.flatten(1)
        # A sum with a value that is not finite is not finite either, and takes 1/30 of the time.
        sums = rows.sum(1).isfinite()
        found: list[bool] = (sums if sums.all() else rows.isfinite().all(1)).tolist()
        return found
    return [
        bool(one["boxes"].isfinite().all() and one["scores"].isfinite().all()) for one in output
    ]


def _scaled_boxes(boxes: Tensor, ratio: Tensor) -> Tensor:
    """Return boxes (N, 4 or 5) with coordinates times a ratio of (x, y, x, y)."""
    return torch.cat((boxes[:, :4] * ratio, boxes[:, 4:]), 1)


def _load_network(saved: Checkpoint) -> TaskModel:
    """Build the network of a task, with its weights."""
    if saved.task is None or saved.model is None:
        raise CheckpointError(f"{saved.path} describes no network")
    try:
        kind = find_task_model(saved.task)
    except ValueError as error:
        raise CheckpointError(
            f"{saved.path} is of a task that is unknown here: {error}. On the command line: "
            "rsvheat --plugin FILE_OR_MODULE ..."
        ) from error
    try:
        # Initial weights, which are replaced, shall not move the caller's random numbers.
        with torch.random.fork_rng(devices=()):
            network = kind.from_config(saved.model)
    except Exception as error:  # of any kind, since the values may be anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{saved.path} describes a network for {saved.task} that cannot be built: {reason}"
        ) from error
    # In version 1 the network was the encoder.
    start = "" if "rsvheat" in saved.content else "encoder."
    weights = {
        start + name.removeprefix("network."): value
        for name, value in weights_of(saved.content, saved.path).items()
        if name.startswith("network.")
    }
    target = network.state_dict()
    for name in weights.keys() & target.keys():
        check_plain(name, weights[name], target[name], saved.path)
    check_finite(weights, saved.path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).partition("\n")[2].split())
        raise CheckpointError(
            f"{saved.path} holds weights that do not fit the network it describes: {reason[:300]}"
        ) from error
    return network
