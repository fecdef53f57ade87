# SPDX-License-Identifier: Apache-2.0
"""Loading of published vHeat and RS-vHeat checkpoints and of this project's own."""

import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsvheat.models.encoder import RSVHeat
from rsvheat.models.freq_embed import resize_frequencies, resize_map
from rsvheat.models.inert import INERT
from rsvheat.models.load_report import LoadReport


class CheckpointError(ValueError):
    """A file is no checkpoint of the model; the model is as it was."""


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read a file of weights once, and check it, without running any code that it holds.

    Tensors are mapped into memory and read when they are used, where the file's format allows it.
    Weights are compared with the checksums in the file, if it has any; the state of an optimizer is
    neither read nor compared. Configurations and log buffers that training scripts save beside
    weights are read as plain data; NumPy's numbers and arrays are read, too.

    Args:
        path: File of ``torch.save``, in its present format or the one before, or a
            ``.safetensors`` file.

    Returns:
        Content of the file, as it was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, no such file, or holds objects of other types.
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
    if not start.startswith(b"PK"):
        return _unpickle(path, mapped=False)
    members = _members(path)
    content = _unpickle(path, mapped=True)
    _compare_checksums(path, members, content)
    return content


def load_checkpoint(
    model: RSVHeat,
    path: str | os.PathLike[str],
    *,
    content: Any = None,
    key: str | None = None,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    prefix: str | None = None,
) -> LoadReport:
    """Load weights into an encoder, whole or not at all.

    Reads published vHeat checkpoints (of classifiers, and of dense backbones with ``outnorm``),
    published RS-vHeat checkpoints (of encoders, and of pretraining with the encoder under
    ``encoder.``), this project's Lightning ``.ckpt`` and ``.safetensors`` files. No code of a file
    runs, see :func:`read_checkpoint`.

    Frequency and spatial embeddings are resampled to the model's size as its ``freq_resize``
    says. A head for another number of classes, or with moments for one
    without or the other way round, is skipped, and so are stages that follow the last
    one of a model without them. Stems, head, output norms and spatial correction embeddings that
    the file lacks are left as initialized; whatever else differs is an error. Whether norms stand
    before or after cannot be seen in a file: ``norm_position`` must be that of the trained model.

    Args:
        model: Encoder, changed in place.
        path: File of weights.
        content: Value of :func:`read_checkpoint` for that file, where it has been read already.
        key: Entry of the file that holds the weights, such as ``"state_dict_ema"`` or
            ``"teacher"``. By default ``"model"``, ``"state_dict"`` or the like, or the file
            itself.
        stems: Name of the file's stem (``"optical"``, ``"sar"``, or the file's own modality names;
            the only one of a vHeat file is ``"optical"``) by modality of the model. By default
            the one of the same name; a lone stem goes to a lone modality.
        inflate_stems: Whether a stem's first convolution may be adapted to another number of bands
            by :func:`inflate_stem`; else other bands are an error.
        prefix: Beginning of the encoder's keys, where the entry holds several encoders (a student
            and a teacher, for example).

    Returns:
        Report of what was loaded, resized, inflated, skipped and left as initialized.

    Raises:
        TypeError: If ``model`` is not an encoder.
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, a web page, not readable as plain weights, of
            another architecture, of other widths, depths or bands, or holds weights that are not
            finite. The model is unchanged.
    """
    if not isinstance(model, RSVHeat):
        raise TypeError(
            f"model must be an RSVHeat encoder, got {type(model).__name__}; in timm's "
            "features-only wrapper it is wrapper.model"
        )
    content = read_checkpoint(path) if content is None else content
    weights, report = adapt_weights(
        model,
        find_weights(content, path, key),
        str(path),
        stems=stems,
        inflate_stems=inflate_stems,
        prefix=prefix,
    )
    target = model.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            target[name].copy_(value)
    return report


def find_weights(
    content: Any, path: str | os.PathLike[str], key: str | None = None
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name, without the prefixes of DDP and of compilers.

    Args:
        content: Value of :func:`read_checkpoint`.
        path: File that was read, for messages.
        key: Entry that holds the weights, as for :func:`load_checkpoint`.

    Raises:
        CheckpointError: If there is no such entry, or none that holds weights.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named weights")
    holding = [
        name for name, value in content.items() if isinstance(name, str) and _named_tensors(value)
    ]
    if key is None:
        key = _entry(content, holding, path)
    elif key not in content:
        raise CheckpointError(
            f"{path} has no entry {key!r}; key= may be one of {_few(holding) or 'none'}"
        )
    tensors = _named_tensors(content if key is None else content[key])
    if not tensors:
        listed = f"; key= may be one of {_few(holding)}" if holding else ""
        place = f"{path} holds no weights" + (f" under {key!r}" if key is not None else "")
        raise CheckpointError(f"{place}; its keys are {_few(content)}{listed}")
    return tensors


def check_weights(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise unless weights are finite real numbers: a network would use others without a word.

    Args:
        weights: Weights by name.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: If they are not; the message names the first that is not.
    """
    for name, value in weights.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(
                f"{source} holds {name} as a tensor of another kind: {value.layout}, "
                f"{value.dtype} on {value.device}; plain ones are read"
            )
        if value.is_complex():
            raise CheckpointError(f"{source} holds {name} as complex numbers, {value.dtype}")
        # Types of 8 bits have no such test of their own.
        small = value.is_floating_point() and value.element_size() == 1
        finite = (value.float() if small else value).isfinite()
        if not finite.all():
            count = value.numel() - int(finite.sum())
            raise CheckpointError(
                f"{source} is damaged, or its training diverged: {count} of the {value.numel()} "
                f"values of {name} are not finite"
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
    """Return weights under an encoder's names and in its sizes, as :func:`load_checkpoint` does.

    Args:
        model: Encoder, which is left as it is.
        tensors: Weights by the keys of a file.
        source: Name of the file, for messages.
        stems: Name of the file's stem by modality of the model, as for :func:`load_checkpoint`.
        inflate_stems: Whether stems may be adapted to other numbers of bands.
        prefix: Beginning of the encoder's keys, where ``tensors`` hold several encoders.

    Returns:
        Values by name in the model's ``state_dict()``, and the report of loading them.

    Raises:
        CheckpointError: If the weights are of another architecture, of other widths, depths or
            bands, or not finite.
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
            adapted = _adapt(model, name, value, target[name], inflate_stems, report, source)
            if adapted is None:
                report.skipped[key] = f"{tuple(value.shape)}, for another number of classes"
            else:
                new[name] = adapted
        else:
            report.skipped[key] = "the model has no such part"
    check_weights({state[name][0]: value for name, value in new.items()}, source)
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


# ---- Reading -----------------------------------------------------------------------------------

# What torch writes where a program has told it to compute no checksums.
_NO_CHECKSUM = 0


def _unpickle(path: Path, mapped: bool) -> Any:
    """Return the content of a file of torch.save, or raise a CheckpointError."""
    try:
        # Types that the program has allowed itself come as they are.
        allowed = {
            entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
            for entry in torch.serialization.get_safe_globals()
        }
        inert: list[Any] = [entry for entry in INERT if entry[1] not in allowed]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file may make the unpickler do anything
        raise CheckpointError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    """Return what is wrong with a file, without torch's advice to trust it blindly."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+) was not|unsupported GLOBAL (\S+) whose", text)
    refused = refused or re.search(r"but got <class '([^']+)'>|unrecognized function (.+)", text)
    if refused:
        name = next(filter(None, refused.groups()))
        return (
            f"{path} holds an object of type {name}, which could run code and is not read: save "
            "the weights alone, torch.save(model.state_dict(), path), in the program that wrote "
            f"the file; or, if you trust {name}, call torch.serialization.add_safe_globals([...]) "
            "with it first"
        )
    if isinstance(error, EOFError):
        return f"{path} is truncated: it ends early. Download or copy it again"
    reason = type(error).__name__
    # Others of torch's texts name their cause in the first line.
    if isinstance(error, RuntimeError | OSError) and "weights" not in text.lower() and text:
        reason += ": " + re.sub(r"\x1b\[\d*m", "", text.strip().split("\n")[0])[:200]
    return f"{path} is damaged or not a checkpoint of torch ({reason})"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # of safetensors, or of Python where it meets unknown values
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"{path} is truncated, damaged or not a safetensors file "
            f"({type(error).__name__}: {reason})"
        ) from None


class _IsProgramError(Exception):
    """A zip file holds a program of TorchScript."""


def _members(path: Path) -> dict[int, zipfile.ZipInfo]:
    """Return the tensors' members of a zip file by where their bytes begin; check the others."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise _IsProgramError
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{member.filename} is compressed, as torch saves nothing")
                if not re.search(r"(^|/)data/[^/]+$", member.filename):
                    if member.CRC != _NO_CHECKSUM:
                        archive.read(member)  # compares its checksum
                elif member.file_size > 0:
                    file.seek(member.header_offset + 26)  # of the lengths of name and extra field
                    name, extra = struct.unpack("<HH", file.read(4))
                    # A damaged offset may be that of another tensor.
                    if file.read(name) != member.filename.encode():
                        raise ValueError(f"{member.filename} is not where the directory has it")
                    found[member.header_offset + 30 + name + extra] = member
    except _IsProgramError:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint: torch.jit.load reads it, and its "
            "state_dict() holds the weights"
        ) from None
    except Exception as error:  # damaged lengths and names, too
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"{path} is truncated or damaged: its zip archive cannot be read ({reason}). Download "
            "or copy it again"
        ) from None
    return found


def _compare_checksums(path: Path, members: Mapping[int, zipfile.ZipInfo], content: Any) -> None:
    """Raise unless the bytes of all weights have the checksums that were saved with them.

    torch does not compare them: a flipped bit would load as another weight.
    """
    storages = {
        tensor.untyped_storage().data_ptr(): (name, tensor.untyped_storage())
        for name, tensor in _all_tensors(content)
        if tensor.device.type == "cpu" and tensor.untyped_storage().nbytes() > 0
    }
    if not storages or not members:
        return
    base = _address(path.stat().st_size, sorted(members), sorted(storages))
    if base is None:
        raise CheckpointError(
            f"{path} is damaged: its tensors are not where its zip archive has them"
        )
    for pointer, (name, storage) in storages.items():
        member = members.get(pointer - base)
        # Moments of an optimizer are not used. What is elsewhere was not made of the file's bytes.
        if member is None or name.startswith("optimizer"):
            continue
        values = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        wrong = member.CRC not in (_NO_CHECKSUM, zlib.crc32(values))
        if len(values) != member.file_size or wrong:
            raise CheckpointError(
                f"{path} is damaged: the bytes of {name} do not have the checksum that was saved "
                "with them. Download or copy it again"
            )


def _address(size: int, starts: Sequence[int], pointers: Sequence[int]) -> int | None:
    """Return where a file is in memory, or None if its tensors are not where its members are.

    Args:
        size: Bytes of the file.
        starts: Offsets of its members, ascending.
        pointers: Addresses of all its tensors' storages, ascending.
    """
    known = set(starts)
    for pointer in pointers:
        for start in starts:
            base = pointer - start
            inside = (other - base for other in pointers if 0 <= other - base < size)
            if base % mmap.PAGESIZE == 0 and known.issuperset(inside):
                return base
    return None


def _all_tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested containers with their names."""
    # Not by recursion: containers of a hostile file are as deep as it likes, or hold themselves.
    left, seen = [("", content)], set()
    while left:
        name, value = left.pop()
        if isinstance(value, Tensor):
            if value.layout is torch.strided:
                yield name or "the tensor", value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [(f"{name}.{key}" if name else str(key), one) for key, one in inner]


def _entry(
    content: Mapping[Any, Any], holding: Sequence[str], path: str | os.PathLike[str]
) -> str | None:
    """Return the entry of a checkpoint that holds the weights, or None if it is no entry."""
    if _holds_encoder(content):
        return None
    for name in ("model", "state_dict", "model_state_dict"):
        if name in holding:
            return name
    # Of others, such as "net", "teacher" or "state_dict_ema", the only one with an encoder.
    chosen = [name for name in holding if _holds_encoder(content[name])] or holding
    if len(chosen) > 1:
        raise CheckpointError(
            f"{path} holds weights in several entries: choose one by key= of {_few(chosen)}"
        )
    return chosen[0] if chosen else None


def _holds_encoder(content: Any) -> bool:
    return any(mark.match(name) for name in _named_tensors(content) for mark in _MARKS.values())


def _named_tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        re.sub(r"(^|\.)(module|_orig_mod)\.", r"\1", str(key)): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }


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
