# SPDX-License-Identifier: Apache-2.0
"""Files for other runtimes: encoders as ONNX, torch.export programs and AOTInductor packages.

Each function writes one file that takes any number of images of one height and width, compares its
results with the model's, and returns the measured difference. Detectors are written as ONNX.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from rsvheat._files import replacing
from rsvheat.models import RSVHeat
from rsvheat.models.encoder import Stage, _feature_size, _image_size
from rsvheat.models.freq_embed import FrequencyTable, resize_map
from rsvheat.ops import use_reference
from rsvheat.postprocess import METADATA, PostProcessing

if TYPE_CHECKING:
    # They import torchvision, which takes seconds that encoders need not wait for.
    from rsvheat.models.box_detector import BoxDetector

Task: TypeAlias = Literal["logits", "features"]
Operators: TypeAlias = Literal["native", "reference"]
_Run: TypeAlias = Callable[..., Sequence[Tensor]]

# Largest part of the proposals of two stages that may be others than the model's. Where scores, or
# an overlap and its threshold, are equal but for rounding, that decides.
_OTHER_PROPOSALS = 0.02
# Distance of the numbers of a proposal, in units of their root mean square, within which it is one.
_SAME_PROPOSAL = 1e-3
# Largest relative L2 distance from the model. Measured: 1.5e-6 in float32.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# Values in a constant of an ONNX model: 64 MiB hold the filters of images of 1024 x 1024, where the
# exporter's own limit leaves even DCT matrices to be computed at each run.
_LARGEST_CONSTANT = 2**24
# Number of the type in ONNX's TensorProto.
_ONNX_BOOL = 9
# The oldest that torch's exporter has implementations for.
_OLDEST_OPSET = 18


class ExportError(RuntimeError):
    """The results of an exported file differ from the model's; the file was not kept."""


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: Path of the file.
        inputs: Shapes of its inputs by name; ``"batch"`` stands for any number.
        outputs: Names of its outputs: ``logits``, or ``stride4``, ``stride8`` and so on, or
            ``boxes`` and ``scores``.
        error: Largest relative L2 distance of an output from the model's; None if not compared.
    """

    path: Path
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    error: float | None

    def __str__(self) -> str:
        """Return one line for people."""
        compared = "not compared with the model"
        if self.error is not None:
            compared = f"agrees with the model to {self.error:.1e}"
        inputs = [f"{name} ({', '.join(map(str, shape))})" for name, shape in self.inputs.items()]
        return f"{self.path}: {', '.join(inputs)} -> {', '.join(self.outputs)}; {compared}"


def export_onnx(
    model: RSVHeat,
    path: str | os.PathLike[str],
    img_size: int | Sequence[int] | None = None,
    *,
    task: Task = "logits",
    modality: str | None = None,
    gsd: float | None = None,
    batch_size: int | None = None,
    opset: int = 20,
    verify: bool | None = None,
) -> Exported:
    """Write an encoder as an ONNX model of standard operators; it runs without rsvheat and torch.

    Heat conduction becomes matrix products with constant DCT matrices and filters. Models of more
    than 1.5 GiB keep their weights in a second file, ``*.onnx.data``, as protobuf ends at 2 GiB.

    Args:
        model: Encoder in float32, in either mode; exported as in evaluation.
        path: File to write, ``*.onnx``; an older one is replaced when all went well.
        img_size: Height and width of the images in pixels, or one number for both; the model's by
            default.
        task: ``"logits"``, or ``"features"``: the feature maps of all stages, (B, C, H / stride, W
            / stride), as ``rsvheat.models.RSVHeat.forward_intermediates`` returns them;
            several outputs are a tuple.
        modality: Modality whose stem takes the images; the model's first by default.
        gsd: Ground sampling distance in meters per pixel, fixed, for ``freq_embed="implicit"``.
        batch_size: Number of images, if the file shall take just that; any by default.
        opset: Version of the standard operators, 18 or newer.
        verify: Whether to run the file in onnxruntime and compare; by default if it is installed.

    Returns:
        The file's input, outputs and measured error.

    Raises:
        ImportError: If onnx or onnxscript is missing, or onnxruntime and ``verify`` is True.
        TypeError: If ``model`` is no encoder, or not in float32.
        ValueError: If an argument is not as above.
        ExportError: If the file computes something else than the model. None is left then.
    """
    verify = _check_onnx(opset, verify)
    return _export_onnx(
        _Entry(model, img_size, task, modality, gsd, batch_size), path, opset, verify, {}
    )


def export_detector(
    model: "BoxDetector",
    path: str | os.PathLike[str],
    classes: Sequence[str],
    img_size: int | Sequence[int],
    *,
    batch_size: int | None = None,
    opset: int = 20,
    verify: bool | None = None,
) -> Exported:
    """Write a detector as an ONNX model, up to the boxes before suppression.

    The inputs are the images of each sensor by its name, ``images`` if there is one sensor. The
    outputs are ``boxes`` of every anchor, (B, A, 4) XYXY or (B, A, 5) CXCYWHR in pixels and
    degrees, and ``scores`` of each class, (B, A, classes). Detectors of two stages have a row for
    each proposal instead, with scores of 0 where an image has fewer; Faster R-CNN has boxes of each
    class, (B, A, classes, 4). Proposals are suppressed within the file, by their horizontal boxes,
    as the models do. The file holds the settings with which ``rsvheat.postprocess.PostProcessing``
    finishes the boxes, without torch.

    Args:
        model: Detector in float32, in either mode.
        path: File to write, ``*.onnx``; an older one is replaced when all went well.
        classes: Class names by label.
        img_size: Height and width of the images in pixels, or one number for both.
        batch_size: Number of images, if the file shall take just that; any by default.
        opset: Version of the standard operators, 18 or newer.
        verify: Whether to run the file in onnxruntime and compare; by default if it is installed.

    Returns:
        The file's input, outputs and measured error: that of the boxes' center and second moments,
        which are the same for all numbers that stand for a rectangle. Of two stages it is that of
        the proposals which both choose, 98 % or more.

    Raises:
        ImportError: If onnx or onnxscript is missing, or onnxruntime and ``verify`` is True.
        TypeError: If ``model`` is no detector, or not in float32.
        ValueError: If an argument is not as above.
        ExportError: If the file computes something else than the model. None is left then.
    """
    verify = _check_onnx(opset, verify)
    entry = _DetectorEntry(model, classes, img_size, batch_size)
    return _export_onnx(entry, path, opset, verify, {METADATA: entry.settings.to_json()})


def _check_onnx(opset: int, verify: bool | None) -> bool:
    """Check packages and the version of operators; return whether to compare."""
    _require("onnx", "onnxscript")
    if verify is None:
        verify = importlib.util.find_spec("onnxruntime") is not None
    elif verify:
        _require("onnxruntime")
    if not isinstance(opset, int) or opset < _OLDEST_OPSET:
        raise ValueError(f"opset must be {_OLDEST_OPSET} or newer, got {opset!r}")
    return verify


def _export_onnx(
    entry: "_Graph",
    path: str | os.PathLike[str],
    opset: int,
    verify: bool,
    metadata: Mapping[str, str],
) -> Exported:
    if entry.dtype != torch.float32:
        raise TypeError(f"model must be in float32 for ONNX, got {entry.dtype}: model.float()")

    def write(file: Path) -> None:
        program = torch.onnx.export(
            entry.program("reference"),
            input_names=list(entry.inputs),
            output_names=list(entry.outputs),
            dynamic_shapes=entry.dynamic_shapes,
            opset_version=opset,
            custom_translation_table=_translations(),
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise ExportError(f"{path} was not written: torch.onnx.export returned no program")
        optimizer = importlib.import_module("onnxscript.optimizer")
        limit = _LARGEST_CONSTANT
        optimizer.optimize(program.model, input_size_limit=limit, output_size_limit=limit)
        program.model.metadata_props.update(metadata)
        program.save(file)

    return _export(entry, path, ".onnx", write, _load_onnx if verify else None)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]] | None:
    """Return the ONNX form of operators of detectors, where these are loaded."""
    if not hasattr(torch.ops.rsvheat_models, "suppress_levels"):
        return None
    op: Any = importlib.import_module("onnxscript").opset18
    lowest = torch.finfo(torch.float32).min

    def suppress_levels(
        boxes: Any, scores: Any, counts: Sequence[int], iou_threshold: float
    ) -> Any:
        masks, begin = [], 0
        for count in counts:
            part = [begin], [begin + count], [1]
            some = op.Slice(scores, *part)
            chosen = op.NonMaxSuppression(
                op.Slice(boxes, *part),
                op.Unsqueeze(some, [1]),
                op.Constant(value_ints=[count]),
                op.Constant(value_floats=[iou_threshold]),
                op.Constant(value_floats=[lowest]),
            )
            # Columns: number of the image, of the class, which is 0, and of the box.
            places = op.Gather(chosen, [0, 2], axis=1)
            kept = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(places, end=1))
            nothing = op.Expand(op.Constant(value_floats=[0.0]), op.Shape(some))
            masks.append(op.Cast(op.ScatterND(nothing, places, kept), to=_ONNX_BOOL))
            begin += count
        return op.Concat(*masks, axis=1)

    return {torch.ops.rsvheat_models.suppress_levels.default: suppress_levels}


def export_torch(
    model: RSVHeat,
    path: str | os.PathLike[str],
    img_size: int | Sequence[int] | None = None,
    *,
    task: Task = "logits",
    modality: str | None = None,
    gsd: float | None = None,
    batch_size: int | None = None,
    operators: Operators = "native",
    verify: bool = True,
) -> Exported:
    """Write an encoder as a program of ``torch.export``.

    ``torch.export.load(path).module()(images)`` runs it; with ``operators="native"`` in a process
    that has imported rsvheat.

    Args:
        model: Encoder in either mode; exported as in evaluation.
        path: File to write, ``*.pt2``; an older one is replaced when all went well.
        img_size: Height and width of the images in pixels, or one number for both; the model's by
            default.
        task: ``"logits"``, or ``"features"``: the feature maps of all stages, (B, C, H / stride, W
            / stride), as ``rsvheat.models.RSVHeat.forward_intermediates`` returns them;
            several outputs are a tuple.
        modality: Modality whose stem takes the images; the model's first by default.
        gsd: Ground sampling distance in meters per pixel, fixed, for ``freq_embed="implicit"``.
        batch_size: Number of images, if the file shall take just that; any by default.
        operators: ``"native"`` for this package's operators, or ``"reference"`` for torch's only,
            which any process with torch runs, slower.
        verify: Whether to load the file and compare.

    Returns:
        The file's input, outputs and measured error.

    Raises:
        TypeError: If ``model`` is no encoder.
        ValueError: If an argument is not as above.
        ExportError: If the file computes something else than the model. None is left then.
    """
    entry = _Entry(model, img_size, task, modality, gsd, batch_size)
    program = entry.program(operators)
    return _export(
        entry,
        path,
        ".pt2",
        lambda file: torch.export.save(program, file),
        _load_torch if verify else None,
    )


def export_aoti(
    model: RSVHeat,
    path: str | os.PathLike[str],
    img_size: int | Sequence[int] | None = None,
    *,
    task: Task = "logits",
    modality: str | None = None,
    gsd: float | None = None,
    batch_size: int | None = None,
    operators: Operators = "native",
    verify: bool = True,
) -> Exported:
    """Compile an encoder by AOTInductor into a package for machines like this one.

    ``torch._inductor.aoti_load_package(path)(images)`` runs it in Python, torch's
    ``AOTIModelPackageLoader`` in C++; with ``operators="native"`` where rsvheat's library of
    operators is loaded. Compiling takes a C++ compiler and half a minute or more.

    Args:
        model: Encoder in either mode; exported as in evaluation, for the device it is on.
        path: File to write, ``*.pt2``; an older one is replaced when all went well.
        img_size: Height and width of the images in pixels, or one number for both; the model's by
            default.
        task: ``"logits"``, or ``"features"``: the feature maps of all stages, (B, C, H / stride, W
            / stride), as ``rsvheat.models.RSVHeat.forward_intermediates`` returns them;
            several outputs are a tuple.
        modality: Modality whose stem takes the images; the model's first by default.
        gsd: Ground sampling distance in meters per pixel, fixed, for ``freq_embed="implicit"``.
        batch_size: Number of images, if the file shall take just that; any by default.
        operators: ``"native"`` for this package's operators, or ``"reference"`` for torch's only,
            which any process with torch runs, slower.
        verify: Whether to load the package and compare.

    Returns:
        The file's input, outputs and measured error.

    Raises:
        TypeError: If ``model`` is no encoder.
        ValueError: If an argument is not as above.
        ExportError: If the file computes something else than the model. None is left then.
    """
    entry = _Entry(model, img_size, task, modality, gsd, batch_size)
    program = entry.program(operators)

    def write(file: Path) -> None:
        # Filters are computed when the package is loaded, not at every run.
        options = {"aot_inductor.use_runtime_constant_folding": True}
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(file), inductor_configs=options
        )

    return _export(entry, path, ".pt2", write, _load_aoti if verify else None)


class _Graph(nn.Module):
    """A network with a fixed size of its images, its other arguments fixed and checked.

    Attributes:
        encoder: Encoder whose tables are of the images' size in the traced program.
        inputs: Bands of each input by its name.
        outputs: Names of the outputs.
        size: Height and width of the images.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: RSVHeat,
        inputs: Mapping[str, int],
        outputs: Sequence[str],
        size: tuple[int, int],
        batch_size: int | None,
    ) -> None:
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or None for any, got {batch_size}")
        self.model = model
        self.encoder = encoder
        self.inputs, self.outputs = dict(inputs), tuple(outputs)
        self.size, self.batch_size = size, batch_size
        example = next(encoder.stems.parameters())
        self.device, self.dtype = example.device, example.dtype
        self.tolerance = _TOLERANCE[self.dtype]

    @property
    def dynamic_shapes(self) -> Any:
        if self.batch_size is not None:
            return None
        batch = torch.export.Dim("batch")
        return tuple({0: batch} for _ in self.inputs)

    def images(self, batch_size: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch_size)
        return tuple(
            torch.randn(batch_size, bands, *self.size, generator=generator).to(
                self.device, self.dtype
            )
            for bands in self.inputs.values()
        )

    def program(self, operators: str) -> torch.export.ExportedProgram:
        if operators not in get_args(Operators):
            choices = ", ".join(get_args(Operators))
            raise ValueError(f"operators must be one of {choices}, got {operators!r}")
        # A batch of one would be taken for a constant.
        images = self.images(self.batch_size or 2)
        chosen = use_reference() if operators == "reference" else nullcontext()
        with _evaluation(self.model), _resized(self.encoder, *self.size), torch.no_grad(), chosen:
            return torch.export.export(
                self, images, dynamic_shapes=self.dynamic_shapes, strict=False
            )

    def comparable(
        self, actual: Sequence[Tensor], expected: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of numbers that are close if the outputs are."""
        return zip(actual, expected, strict=True)

    def distance(self, run: _Run) -> float:
        """Return the largest relative L2 distance of what ``run`` returns from the model."""
        distances = []
        for batch_size in (1, 2, 3) if self.batch_size is None else (self.batch_size,):
            images = self.images(batch_size)
            with _evaluation(self.model), torch.no_grad():
                expected = self(*images)
                actual = run(*images)
            for a, b in zip(actual, _sequence(expected), strict=True):
                if a.shape != b.shape:
                    raise ExportError(f"outputs of shape {tuple(a.shape)}, not {tuple(b.shape)}")
            for a, b in self.comparable(actual, _sequence(expected)):
                distances.append((a.double() - b.double()).norm() / b.double().norm())
        return float(torch.stack(distances).max())  # NaN if one is


class _Entry(_Graph):
    """An encoder with one input."""

    def __init__(
        self,
        model: RSVHeat,
        img_size: int | Sequence[int] | None,
        task: str,
        modality: str | None,
        gsd: float | None,
        batch_size: int | None,
    ) -> None:
        if not isinstance(model, RSVHeat):
            raise TypeError(f"model must be an RSVHeat encoder, got {type(model).__name__}")
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
        if modality is not None and modality not in model.modalities:
            raise ValueError(f"modality must be one of {list(model.modalities)}, got {modality!r}")
        modality = model.default_modality if modality is None else modality
        outputs = ["logits"]
        if task == "features":
            outputs = [f"stride{info['reduction']}" for info in model.feature_info]
        size = model.img_size if img_size is None else _image_size(img_size)
        inputs = {"images": model.modalities[modality]}
        super().__init__(model, model, inputs, outputs, size, batch_size)
        self.task, self.modality, self.gsd = task, modality, gsd

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.task == "logits":
            y: Tensor = self.model(images, self.modality, self.gsd)
            return y
        model: Any = self.model
        _, maps = model.forward_intermediates(images, modality=self.modality, gsd=self.gsd)
        return tuple(maps)


class _DetectorEntry(_Graph):
    """A detector up to the boxes before suppression."""

    def __init__(
        self,
        model: "BoxDetector",
        classes: Sequence[str],
        img_size: int | Sequence[int],
        batch_size: int | None,
    ) -> None:
        from rsvheat.models.box_detector import BoxDetector

        if not isinstance(model, BoxDetector) or not isinstance(model.encoder, RSVHeat):
            raise TypeError(
                f"model must be a detector with an RSVHeat encoder, got {type(model).__name__}"
            )
        if len(classes) != model.num_classes:
            raise ValueError(
                f"classes must be the names of {model.num_classes} classes, got {len(classes)}"
            )
        modalities = model.encoder.modalities
        self.names = list(modalities)
        inputs = dict(modalities) if len(modalities) > 1 else {"images": modalities[self.names[0]]}
        outputs = ("boxes", "scores")
        super().__init__(model, model.encoder, inputs, outputs, _image_size(img_size), batch_size)
        selection = model.head.selection(self._anchors(model))
        self.settings = PostProcessing(tuple(classes), model.numbers == 5, **asdict(selection))
        self.two_stages = model.head.stages == 2
        if self.two_stages:
            # The second stage resamples features at places that the first one computes.
            self.tolerance *= 10

    def _anchors(self, model: "BoxDetector") -> list[int]:
        """Return the number of anchors of each level."""
        head: Any = model.head
        sizes = [[-(-side // stride) for side in self.size] for stride in model.pyramid.strides]
        maps = [torch.zeros(1, 1, *size) for size in sizes]
        return [len(level) for level in head.anchors(maps)]

    @property
    def dynamic_shapes(self) -> Any:
        shapes = super().dynamic_shapes
        return None if shapes is None else {"images": shapes}

    def forward(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        from rsvheat.models.box_detector import DetectorOutput

        model = cast("BoxDetector", self.model)
        by_name = dict(zip(self.names, images, strict=True))
        maps = model.pyramid(model.features.fuse_complete(model.encoder, by_name))
        output = DetectorOutput(maps, model.head(maps), self.size)
        return model.head.candidates(output)

    def comparable(
        self, actual: Sequence[Tensor], expected: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        ours, theirs = (self._numbers(*outputs) for outputs in (actual, expected))
        if self.two_stages:
            ours, theirs = _same_rows(ours, theirs)
        return zip(ours, theirs, strict=True)

    def _numbers(self, boxes: Tensor, scores: Tensor) -> list[Tensor]:
        """Return numbers of each row that are the same however a rectangle is written."""
        if boxes.shape[-1] == 4:
            return [boxes.flatten(2), scores]
        # The angle jumps where others do not, by half a turn.
        angle = boxes[..., 4:].double().deg2rad()
        axes = torch.cat((angle.cos(), -angle.sin()), -1), torch.cat((angle.sin(), angle.cos()), -1)
        moments = sum(
            side.square()[..., None, None] * axis[..., None] * axis[..., None, :]
            for side, axis in zip(boxes[..., 2:4].double().unbind(-1), axes, strict=True)
        )
        return [boxes[..., :2], cast(Tensor, moments).flatten(2), scores]


def _same_rows(ours: list[Tensor], theirs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rows of proposals that both have, (rows, numbers) in the order of the second.

    Raises:
        ExportError: If more than ``_OTHER_PROPOSALS`` of them are others.
    """
    kept: tuple[list[list[Tensor]], list[list[Tensor]]] = ([], [])
    for image in range(len(ours[0])):
        a, b = ([part[image].double() for part in parts] for parts in (ours, theirs))
        scales = [part.square().mean().sqrt().clamp(min=1e-30) for part in b]
        first, second = (
            torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], 1)
            for parts in (a, b)
        )
        least, rows = torch.cdist(second, first).min(1)
        same = least < _SAME_PROPOSAL
        if not same.double().mean() >= 1 - _OTHER_PROPOSALS:
            raise ExportError(f"{int((~same).sum())} of {len(same)} proposals are not the model's")
        kept[0].append([part[rows[same]] for part in a])
        kept[1].append([part[same] for part in b])
    first_rows, second_rows = (
        [torch.cat(parts) for parts in zip(*images, strict=True)] for images in kept
    )
    return first_rows, second_rows


def _export(
    entry: _Graph,
    path: str | os.PathLike[str],
    suffix: str,
    write: Callable[[Path], None],
    load: Callable[[Path], _Run] | None,
) -> Exported:
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"path must end in {suffix!r}, got {str(path)!r}")
    error = None
    with replacing(path.parent) as folder:
        file = folder / path.name
        write(file)
        if load is not None:
            error = entry.distance(load(file))
            # Written so that NaN fails.
            if not error <= _TOLERANCE[entry.dtype]:
                raise ExportError(
                    f"{path} was not written: its outputs are {error:.1e} from the model's "
                    f"(relative L2), more than {_TOLERANCE[entry.dtype]:g}"
                )
    batch = "batch" if entry.batch_size is None else entry.batch_size
    shapes = {name: (batch, bands, *entry.size) for name, bands in entry.inputs.items()}
    return Exported(path, shapes, entry.outputs, error)


def _load_onnx(file: Path) -> _Run:
    # By name: it has no type stubs, and may be absent where types are checked.
    session = importlib.import_module("onnxruntime").InferenceSession(
        file, providers=["CPUExecutionProvider"]
    )

    names = [one.name for one in session.get_inputs()]

    def run(*images: Tensor) -> list[Tensor]:
        inputs = {name: x.cpu().numpy() for name, x in zip(names, images, strict=True)}
        return [torch.from_numpy(array).to(images[0].device) for array in session.run(None, inputs)]

    return run


def _load_torch(file: Path) -> _Run:
    module = torch.export.load(file).module()
    return lambda *images: _sequence(module(*images))


def _load_aoti(file: Path) -> _Run:
    package = torch._inductor.aoti_load_package(str(file))
    return lambda *images: _sequence(package(*images))


def _sequence(outputs: Any) -> Sequence[Tensor]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed: pip install 'rsvheat[export]'")


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and back, module by module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        model.train(modes[model])
        for module, training in modes.items():
            module.training = training


@contextmanager
def _resized(model: RSVHeat, height: int, width: int) -> Iterator[None]:
    """Give a model tables of one image size, so that the traced program need not resize them."""
    originals: list[tuple[nn.Module, str, nn.Parameter]] = []

    def replace(module: nn.Module, name: str, value: Tensor) -> None:
        originals.append((module, name, getattr(module, name)))
        setattr(module, name, nn.Parameter(value.detach()))

    for i, stage in enumerate(model.stages):
        size = _feature_size((height, width), 4 * 2**i)
        if isinstance(stage, Stage) and isinstance(stage.freq_embed, FrequencyTable):
            replace(stage.freq_embed, "table", stage.freq_embed(*size))
        if isinstance(stage, Stage) and stage.spatial_correction_embed is not None:
            resized = resize_map(stage.spatial_correction_embed, *size, stage.freq_resize)
            replace(stage, "spatial_correction_embed", resized)
    try:
        yield
    finally:
        for module, name, parameter in originals:
            setattr(module, name, parameter)
