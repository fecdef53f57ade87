# SPDX-License-Identifier: Apache-2.0
"""Loading of published vHeat and RS-vHeat checkpoints and of this project's own."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.serialization import config as load_config

from rsvheat.models.encoder import RSVHeat
from rsvheat.models.freq_embed import resize_frequencies, resize_map
from rsvheat.models.inert import inert_types
from rsvheat.models.load_report import LoadReport


class CheckpointError(ValueError):
    """A file is no checkpoint of the model; the model is as it was."""


def load_checkpoint(
    model: RSVHeat,
    path: str | os.PathLike[str],
    *,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    prefix: str | None = None,
    key: str | None = None,
    content: Any = None,
) -> LoadReport:
    """Load weights into an encoder, whole or not at all.

    Reads published vHeat checkpoints (of classifiers, and of dense backbones with ``outnorm``),
    published RS-vHeat checkpoints (of encoders, and of pretraining with the encoder under
    ``encoder.``), this project's Lightning ``.ckpt`` and ``.safetensors`` files. Pickles are
    only read with ``weights_only=True``: no code of the file runs.

    Frequency and spatial embeddings are resampled to the model's size as its ``freq_resize``
    says. A head for another number of classes, or with moments for one
    without or the other way round, is skipped, and so are stages that follow the last
    one of a model without them. Stems, head, output norms and spatial correction embeddings that
    the file lacks are left as initialized; whatever else differs is an error. Whether norms stand
    before or after cannot be seen in a file: ``norm_position`` must be that of the trained model.

    Args:
        model: Encoder, changed in place.
        path: Path of the file.
        stems: Stem of the file (``"optical"``, ``"sar"``, or the file's own modality names; the
            only one of a vHeat file is ``"optical"``) that each of the model's modalities takes.
            By default the one of the same name; a lone stem goes to a lone modality.
        inflate_stems: Whether a stem's first convolution is adapted to another number of bands by
            ``inflate_stem``, instead of being refused.
        prefix: Beginning of the encoder's keys, where a file holds several encoders (a student and
            a teacher, say).
        key: Entry of the file that holds the weights, such as ``"teacher"`` or
            ``"state_dict_ema"``; see ``weights_of`` for the default.
        content: Result of ``read_checkpoint``, where the file has been read already.

    Returns:
        Report of what was loaded, resized, inflated, skipped and left as initialized.

    Raises:
        TypeError: If ``model`` is not an encoder.
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, a web page, not readable as plain weights, of
            another architecture, or of other widths, depths or bands, or if weights are not
            finite. The model is unchanged.
    """
    if not isinstance(model, RSVHeat):
        raise TypeError(
            f"model must be an RSVHeat encoder, got {type(model).__name__}; in timm's "
            "features-only wrapper it is wrapper.model"
        )
    path = Path(path)
    raw = weights_of(read_checkpoint(path) if content is None else content, path, key)
    new, report = adapt_weights(
        model, raw, str(path), stems=stems, inflate_stems=inflate_stems, prefix=prefix
    )
    check_finite(new, path)
    target = model.state_dict()
    with torch.no_grad():
        for name, value in new.items():
            target[name].copy_(value)
    return report


def check_finite(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Raise unless weights are finite real numbers: of others a network makes confident nonsense.

    Args:
        tensors: Weights by name.
        path: Path of the file, for messages.

    Raises:
        CheckpointError: If they are not; the message names the first that is not.
    """
    for name, value in tensors.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(
                f"{path}: the weights {name} are a tensor of another kind, {value.layout} of "
                f"{value.dtype} on {value.device}; plain ones are read"
            )
        if value.is_complex():
            raise CheckpointError(f"{path}: the weights {name} are complex numbers")
        # isfinite has no kernel for types of 8 bits.
        small = value.is_floating_point() and value.element_size() == 1
        if not (value.float() if small else value).isfinite().all():
            raise CheckpointError(
                f"{path}: the weights {name} hold values that are not finite, NaN or infinity; the "
                "file is damaged, or its training diverged"
            )


def check_plain(name: str, value: Tensor, target: Tensor, path: str | os.PathLike[str]) -> None:
    """Make sure that a weight holds numbers that can be copied into a network as they are.

    Copying would cut off fractions and imaginary parts, and take quantized numbers for the weights.

    Args:
        name: Name of the weight.
        value: Weight of a file.
        target: Weight of the network.
        path: Path of the file, for messages.

    Raises:
        CheckpointError: If the value is quantized, sparse, without content, or not of the kind of
            numbers that the target is of.
    """
    kind = None
    if value.is_quantized or target.is_floating_point() != value.is_floating_point():
        kind = f"of type {value.dtype}, and the model's of type {target.dtype}"
    elif value.layout is not torch.strided:
        kind = "sparse"
    elif value.is_meta:
        kind = "without content"
    if kind is not None:
        raise CheckpointError(
            f"{path}: the weights {name} are {kind}: save weights that are neither quantized nor "
            "sparse"
        )


def adapt_weights(
    model: RSVHeat,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return weights under an encoder's names and in its sizes, as ``load_checkpoint`` does.

    Args:
        model: Encoder, which is left as it is.
        tensors: Weights by the keys of a file.
        source: Name of the file, for messages.
        stems: Name of the file's stem by modality of the model, as for ``load_checkpoint``.
        inflate_stems: Whether stems may be adapted to other numbers of bands.
        prefix: Beginning of the encoder's keys, where ``tensors`` hold several encoders.

    Returns:
        Values by name in the model's ``state_dict()``, and the report of loading them.

    Raises:
        CheckpointError: If the weights are of another architecture, of other widths, depths or
            bands, quantized or sparse.
    """
    layout, found = _find_encoder(tensors, prefix, source)
    report = LoadReport(source, layout)
    for key in tensors:
        if not key.startswith(found):
            report.skipped[key] = "not part of the encoder"
    inside = {key: value for key, value in tensors.items() if key.startswith(found)}
    state: dict[str, tuple[str, Tensor]] = {}
    for key, value in inside.items():
        name = key[len(found) :]
        mapped = _published_name(name) if layout == "published" else name
        if mapped is None:
            report.skipped[key] = "not part of the encoder"
        else:
            if layout == "published" and re.search(r"\.mlp\.fc[12]\.weight$", mapped):
                value = value.flatten(1)  # published as 1x1 convolutions
            state[mapped] = (key, value)
    _choose_stems(model, state, stems, report, source)
    _check_structure(model, state, source)

    target = model.state_dict()
    new: dict[str, Tensor] = {}
    moments = (model.head.global_pool == "moments", "head.norm.running_mean" in state)
    for name, (key, value) in state.items():
        if name.startswith("head.") and moments[0] != moments[1]:
            report.skipped[key] = "of a head that pools otherwise"
        elif name in target:
            check_plain(key, value, target[name], source)
            adapted = _adapt(model, name, value, target[name], inflate_stems, report, source)
            if adapted is None:
                report.skipped[key] = f"{tuple(value.shape)}, for another number of classes"
            else:
                new[name] = adapted
        else:
            report.skipped[key] = "the model has no such part"
    report.loaded.extend(name for name in target if name in new)
    report.missing.extend(name for name in target if name not in new)
    return new, report


def inflate_stem(weight: Tensor, bands: int) -> Tensor:
    """Adapt a convolution to another number of bands, keeping its response to their mean.

    Every new band gets the sum of the old bands' kernels over the number of new ones. So an image
    whose bands all show the same gives exactly the features that it gave before.

    Args:
        weight: (out, in, kH, kW).
        bands: Number of bands to adapt to.

    Returns:
        (out, bands, kH, kW).

    Raises:
        ValueError: If ``bands`` is below 1.
    """
    if bands < 1:
        raise ValueError(f"bands must be at least 1, got {bands}")
    return (weight.sum(1, keepdim=True) / bands).repeat(1, bands, 1, 1)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read a file of weights or of a training run, without running any code of it.

    Tensors of torch's files are mapped into memory and read when they are used. The checksums of
    torch's files, which torch itself does not compare, are. Python objects are refused, except for
    those of ``rsvheat.models.inert``, of which the data are read: NumPy's numbers and arrays,
    configurations and log buffers.

    Args:
        path: ``.safetensors``, or any file of ``torch.save``.

    Returns:
        Content of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, is something else, or holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    with path.open("rb") as file:
        start = file.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise CheckpointError(f"{path} is empty")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            f"{path} is a web page (HTML), not a checkpoint: the download was answered with a "
            "login, error or confirmation page; download it again"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull`")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    zipped = start.startswith(b"PK")
    if zipped:
        _check_zip(path)
    # Damaged pickles fail in whichever way their bytes suggest: each of these is the file's fault.
    try:
        with (
            torch.serialization.safe_globals(inert_types()),
            load_config.patch({"load.mmap": zipped}),  # type: ignore[attr-defined]
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except EOFError as error:
        raise CheckpointError(f"{path} is truncated: it ends early. Download it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_refusal(error)}") from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or not a torch checkpoint: {_first_line(error)}"
        ) from error


def _check_zip(path: Path) -> None:
    """Compare the checksums of a zip archive's members."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is truncated: its zip directory, at the end, is missing. Download it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            is_program = any(name.endswith("/constants.pkl") for name in archive.namelist())
            damaged = [
                member.filename for member in archive.infolist() if _is_damaged(archive, member)
            ]
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from error
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: the checksum of its part {damaged[0]} is wrong. Download it again"
        )
    if is_program:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint: torch.jit.load reads it, and its "
            "state_dict() holds the weights"
        )


def _is_damaged(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Return whether the bytes of a member do not have its checksum."""
    if member.CRC == 0:  # torch was told to compute none
        return False
    try:
        with archive.open(member) as part:
            while part.read(2**20):
                pass
    except zipfile.BadZipFile:
        return True
    return False


def _refusal(error: pickle.UnpicklingError) -> str:
    """Say what the unpickler refused; its own text advises to let the file run code."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    found = match[1] if match else None
    if found is None:
        return "is damaged or not a checkpoint: it is not a pickle of plain weights"
    advice = "save its weights alone, torch.save(model.state_dict(), path), where it was written"
    if found.startswith("mmengine."):
        advice = (
            "save its weights alone where mmengine is installed, such as by its "
            "tools/model_converters/publish_model.py"
        )
    return f"holds a Python object, {found}, which is never loaded since it may run code: {advice}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """Return the reason of an error in a line, without terminal codes."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0]
    return line or type(error).__name__


# Names under which training scripts save weights; the first that is there is taken.
_KEYS = ("model", "state_dict")
_OTHER_KEYS = (
    *("model_state_dict", "model_state", "state_dict_ema", "model_ema", "ema", "net", "network"),
    *("module", "teacher", "student", "encoder", "backbone"),
)


def weights_of(
    content: Any, path: str | os.PathLike[str], key: str | None = None
) -> dict[str, Tensor]:
    """Return the named weights in a checkpoint's content, without DDP's and compile's prefixes.

    Args:
        content: Result of ``read_checkpoint``.
        path: Path of the file, for messages.
        key: Entry of the file that holds the weights. By default ``model`` or ``state_dict``, else
            the only entry with a usual name such as ``model_state_dict``, ``net`` or ``teacher``,
            else the file itself.

    Raises:
        CheckpointError: If there are no weights, no such entry, or several usual ones.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named weights")
    named = {str(name): value for name, value in content.items()}
    entries = [
        name
        for name, value in named.items()
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
    ]
    if key is not None:
        if key not in entries:
            raise CheckpointError(
                f"{path} has no weights under key={key!r}; the entries with weights are "
                f"{_few(entries) if entries else 'none'}"
            )
        content = named[key]
    else:
        chosen = [name for name in _KEYS if name in entries][:1]
        if any(isinstance(value, Tensor) for value in content.values()):
            entries = chosen
        chosen = chosen or [name for name in entries if name in _OTHER_KEYS]
        if len(chosen) > 1:
            raise CheckpointError(f"{path} holds weights under {_few(chosen)}: choose by key=")
        if chosen:
            content = named[chosen[0]]
        elif entries:
            raise CheckpointError(f"{path} holds weights under {_few(entries)}: choose one by key=")
    tensors = {
        re.sub(r"(^|\.)(module|_orig_mod)\.", r"\1", str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} holds no weights; its keys are {_few(content)}")
    return tensors


def _few(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# A key that every block has, and no other architecture.
_MARKS = {
    "rsvheat": re.compile(r"^(.*?)stages\.\d+\.blocks\.\d+\.op\.to_k\.weight$"),
    "published": re.compile(r"^(.*?)layers\.\d+\.\d+\.op\.to_k\.0\.weight$"),
}


def _find_encoder(raw: Mapping[str, Tensor], prefix: str | None, source: str) -> tuple[str, str]:
    """Return the layout of the keys and what the encoder's keys begin with."""
    found = set()
    for layout, mark in _MARKS.items():
        found |= {(layout, match[1]) for match in map(mark.match, raw) if match}
    if not found:
        raise CheckpointError(
            f"{source} is of another architecture: it has no heat operators of vHeat or RS-vHeat; "
            f"its keys are {_few(raw)}"
        )
    if prefix is not None:
        there = sorted(start for _, start in found)
        found = {(layout, start) for layout, start in found if start == prefix}
        if not found:
            raise CheckpointError(
                f"{source} has no encoder whose keys begin with {prefix!r}; prefix= may be one of "
                f"{there}"
            )
    if len(found) > 1:
        names = sorted(start for _, start in found)
        raise CheckpointError(f"{source} holds several encoders; choose one by prefix= of {names}")
    return found.pop()


_STEM = re.compile(r"^patch_embed(_opt|_sar)?\.(conv[12]|norm[12])\.(?:1\.)?(weight|bias)$")
_STEM_NAMES = {None: "optical", "_opt": "optical", "_sar": "sar"}
_PARTS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (_STEM, lambda m: f"stems.{_STEM_NAMES[m[1]]}.{m[2]}.{m[3]}"),
    (re.compile(r"^freq_embed\.(\d+)$"), lambda m: f"stages.{m[1]}.freq_embed.table"),
    (re.compile(r"^heat_capacity\.(\d+)$"), lambda m: f"stages.{m[1]}.spatial_correction_embed"),
    (
        re.compile(r"^layers\.(\d+)\.\d+\.([01])\.(weight|bias)$"),
        lambda m: f"stages.{int(m[1]) + 1}.downsample.{('conv', 'norm')[int(m[2])]}.{m[3]}",
    ),
    (
        re.compile(r"^layers\.(\d+)\.(\d+)\.op\.norm1\.(weight|bias)$"),
        lambda m: f"stages.{m[1]}.blocks.{m[2]}.op.correction_norm.{m[3]}",
    ),
    (
        re.compile(r"^layers\.(\d+)\.(\d+)\.op\.to_k\.0\.(weight|bias)$"),
        lambda m: f"stages.{m[1]}.blocks.{m[2]}.op.to_k.{m[3]}",
    ),
    (
        re.compile(r"^layers\.(\d+)\.(\d+)\.((?:op|norm|mlp|gamma).+)$"),
        lambda m: f"stages.{m[1]}.blocks.{m[2]}.{m[3]}",
    ),
    (re.compile(r"^outnorm(\d+)\.(weight|bias)$"), lambda m: f"output_norms.{m[1]}.{m[2]}"),
    (re.compile(r"^classifier\.0\.(weight|bias)$"), lambda m: f"head.norm.{m[1]}"),
    (re.compile(r"^classifier\.3\.(weight|bias)$"), lambda m: f"head.fc.{m[1]}"),
]


def _published_name(key: str) -> str | None:
    """Return this project's name for a published one, or None if it is not the encoder's."""
    for pattern, name in _PARTS:
        match = pattern.match(key)
        if match:
            return name(match)
    return None


def _choose_stems(
    model: RSVHeat,
    state: dict[str, tuple[str, Tensor]],
    stems: Mapping[str, str] | None,
    report: LoadReport,
    source: str,
) -> None:
    """Rename the stems in ``state`` to the model's modalities."""
    parts: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for name in [name for name in state if name.startswith("stems.")]:
        _, stem, rest = name.split(".", 2)
        parts.setdefault(stem, {})[rest] = state.pop(name)
    if stems is None:
        stems = {name: name for name in model.modalities if name in parts}
        if not stems and len(parts) == len(model.modalities) == 1:
            stems = {next(iter(model.modalities)): next(iter(parts))}
    for modality, stem in stems.items():
        if modality not in model.modalities:
            raise CheckpointError(
                f"stems: the model has no modality {modality!r}, only {list(model.modalities)}"
            )
        if stem not in parts:
            raise CheckpointError(f"stems: {source} has no stem {stem!r}, only {list(parts)}")
        for rest, entry in parts[stem].items():
            state[f"stems.{modality}.{rest}"] = entry
    for stem in parts.keys() - set(stems.values()):
        for key, _ in parts[stem].values():
            report.skipped[key] = f"no modality of the model takes the stem {stem!r}"


def _may_lack(name: str) -> bool:
    """Return whether a checkpoint may lack a parameter of the model."""
    return (
        name.startswith(("stems.", "head.", "output_norms."))
        or ".correction_norm." in name
        or (name.endswith("spatial_correction_embed"))
    )


def _check_structure(model: RSVHeat, state: Mapping[str, tuple[str, Tensor]], source: str) -> None:
    """Raise unless the checkpoint's body is that of the model, widths aside."""
    depths = _depths(state)
    wanted = _depths(model.state_dict())
    # A model for features of early stages may be without the later ones.
    if depths[: len(wanted)] != wanted:
        raise CheckpointError(
            f"{source} has other depths: {depths} blocks per stage, the model has {wanted}"
        )
    later = tuple(f"stages.{stage}." for stage in range(len(wanted), len(depths)))
    names = set(model.state_dict())
    elsewhere = ("stems.", "head.", "output_norms.", *later)
    body = {name for name in state if not name.startswith(elsewhere)}
    hints = {
        "gamma1": ("layer scales", "layer_scale"),
        "correction": ("spatial correction embeddings", "spatial_correction"),
        "freq_embed": ("frequency embeddings of the other kind", "freq_embed"),
    }
    for name in sorted(body - names):
        for part, (what, argument) in hints.items():
            if part in name:
                raise CheckpointError(
                    f"{source} has {what} ({state[name][0]}), which the model has not: build it "
                    f"with the matching {argument}"
                )
    lacking = sorted(name for name in names - set(state) if not _may_lack(name))
    for name in lacking:
        for part, (what, argument) in hints.items():
            if part in name:
                raise CheckpointError(
                    f"{source} lacks {what} of the model ({name}): build it with the matching "
                    f"{argument}"
                )
    if lacking:
        raise CheckpointError(f"{source} is incomplete: it lacks {_few(lacking)}")


def _depths(names: Mapping[str, Any]) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for name in names:
        match = re.match(r"^stages\.(\d+)\.blocks\.(\d+)\.", name)
        if match:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _adapt(
    model: RSVHeat,
    name: str,
    value: Tensor,
    target: Tensor,
    inflate_stems: bool,
    report: LoadReport,
    source: str,
) -> Tensor | None:
    """Return ``value`` in the shape of ``target``; None for a head of other classes."""
    shape, wanted = tuple(value.shape), tuple(target.shape)
    if shape == wanted:
        return value
    if name.startswith("head.fc.") and shape[1:] == wanted[1:]:
        return None
    is_table = name.endswith((".freq_embed.table", ".spatial_correction_embed"))
    if is_table and len(shape) == 3 and shape[2] == wanted[2]:
        report.resized[name] = (shape[0], shape[1]), (wanted[0], wanted[1])
        resize = resize_frequencies if name.endswith(".table") else resize_map
        return resize(value.float(), wanted[0], wanted[1], model.freq_resize)
    is_first = name.startswith("stems.") and name.endswith(".conv1.weight")
    if is_first and len(shape) == 4 and (shape[0], *shape[2:]) == (wanted[0], *wanted[2:]):
        if not inflate_stems:
            raise CheckpointError(
                f"{source} has a stem for {shape[1]} bands, the model's modality "
                f"{name.split('.')[1]!r} takes {wanted[1]}: inflate_stems=True adapts it, keeping "
                "the response to the mean of the bands; stems={} leaves stems as initialized"
            )
        report.inflated[name] = shape[1], wanted[1]
        return inflate_stem(value.float(), wanted[1])
    raise CheckpointError(
        f"{source} has other widths than the model, whose dims are {model.dims}: {name} has shape "
        f"{shape} in the file and {wanted} in the model"
    )
