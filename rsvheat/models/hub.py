# SPDX-License-Identifier: Apache-2.0
"""Encoders in folders and on the Hugging Face hub: ``config.json`` and ``model.safetensors``.

Files, names and arguments are those of huggingface_hub's ``PyTorchModelHubMixin``, which writes and
uploads them. It is not a base class of the encoder: it would make ``import rsvheat.models`` import
an HTTP client, it reads other bands or classes only as errors, and its saving begins with deleting
what is there.

Importing this module makes its functions methods of ``rsvheat.models.RSVHeat``.
"""

import functools
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from rsvheat._files import replacing
from rsvheat._library import package_version
from rsvheat.models.checkpoints import CheckpointError, load_checkpoint
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.variants import variant_name

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_LIBRARY = "rsvheat"
# Entries of a configuration other than the encoder's arguments.
_ABOUT = ("library_name", "rsvheat_version", "variant")
# Overrides that leave parts of the model without weights in the file.
_ADDING = {"modalities", "in_chans", "num_classes", "output_norms", "spatial_correction"}

_CARD_TEMPLATE = """---
{{ card_data }}
---

An encoder of [RS-vHeat](https://arxiv.org/abs/2411.17984), saved by rsvheat:

```python
import rsvheat

model = rsvheat.models.RSVHeat.from_pretrained("{{ repo_id | default("folder", true) }}")
```
"""


def save_pretrained(
    model: RSVHeat,
    /,
    save_directory: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    model_card_kwargs: dict[str, Any] | None = None,
    **push_to_hub_kwargs: Any,
) -> str | None:
    """Write ``config.json``, ``model.safetensors`` and, if there is none yet, a ``README.md``.

    All are complete before the first replaces an older one, so an interrupted or failed call
    leaves the folder as it was.

    Args:
        model: Encoder to save.
        save_directory: Path of the folder, which is made if it does not exist.
        repo_id: Name of the repository, ``"owner/name"``, for ``push_to_hub``; the folder's name by
            default.
        push_to_hub: Whether to call ``push_to_hub`` as well.
        model_card_kwargs: Values for the template of the README.
        **push_to_hub_kwargs: Further arguments of ``push_to_hub``.

    Returns:
        Address of the commit on the hub, with ``push_to_hub``.

    Raises:
        ValueError: If stages were pruned off the encoder, as for features of early ones.
    """
    folder = Path(save_directory)
    adapter, config = _adapter(model), _described(model)
    with replacing(folder) as temporary:
        adapter.save_pretrained(temporary, config=config, model_card_kwargs=model_card_kwargs)
        if (folder / CARD).exists():  # somebody may have written into it
            (temporary / CARD).unlink()
    if not push_to_hub:
        return None
    repo_id = folder.resolve().name if repo_id is None else repo_id
    return model.push_to_hub(repo_id, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)


def push_to_hub(model: RSVHeat, /, repo_id: str, **kwargs: Any) -> str:
    """Upload the files of ``save_pretrained`` to the Hugging Face hub in one commit.

    Args:
        model: Encoder to upload.
        repo_id: Name of the repository, ``"owner/name"``, which is made if it does not exist.
        **kwargs: Arguments of ``PyTorchModelHubMixin.push_to_hub``: ``commit_message``,
            ``private``, ``token``, ``branch``, ``create_pr``, patterns, ``model_card_kwargs``.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If stages were pruned off the encoder, as for features of early ones.
    """
    card = {"repo_id": repo_id, **(kwargs.pop("model_card_kwargs", None) or {})}
    config = _described(model)
    return _adapter(model).push_to_hub(repo_id, config=config, model_card_kwargs=card, **kwargs)


def from_pretrained(
    cls: type[RSVHeat],
    /,
    pretrained_model_name_or_path: str | os.PathLike[str],
    *,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    **overrides: Any,
) -> RSVHeat:
    """Build an encoder from a folder of ``save_pretrained`` or a repository on the hub.

    Args:
        cls: Class to build: the encoder, or a subclass.
        pretrained_model_name_or_path: Path of the folder, or name of the repository,
            ``"owner/name"``.
        stems: Name of the file's stem by modality, as for ``rsvheat.load_checkpoint``.
        inflate_stems: Whether a stem may be adapted to another number of bands by
            ``rsvheat.models.inflate_stem``; else other bands are an error.
        force_download: Whether to download files that are cached, too.
        token: Access token for private repositories.
        cache_dir: Folder of downloaded files.
        local_files_only: Whether to use cached files only.
        revision: Branch, tag or commit of the repository.
        **overrides: Arguments of ``rsvheat.models.RSVHeat`` that replace the saved ones.
            Tables are resized to another ``img_size``, another ``num_classes`` gets a new
            head, ``in_chans`` or ``modalities`` get the saved stems of the same names (see
            ``stems`` and ``inflate_stems``).

    Returns:
        The encoder in evaluation mode; ``load_report`` is the report of loading.

    Raises:
        TypeError: If an override is no argument of the encoder.
        FileNotFoundError: If there is neither such a folder nor such a repository.
        CheckpointError: If the folder is incomplete, a file is damaged or truncated, another
            library's, or does not fit the overrides.
    """
    known = set(inspect.signature(RSVHeat.__init__).parameters) - {"self"}
    if not overrides.keys() <= known:
        raise TypeError(
            f"from_pretrained() got arguments that RSVHeat has not: "
            f"{', '.join(sorted(overrides.keys() - known))}; it has {', '.join(sorted(known))}"
        )
    find = functools.partial(
        _find,
        pretrained_model_name_or_path,
        force_download=force_download,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        revision=revision,
    )
    path = find(CONFIG)
    arguments = _read_config(path, known)
    if overrides.get("in_chans") is not None:
        arguments.pop("modalities", None)
    try:
        model = cls(**{**arguments, **overrides})
    except (
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"no encoder can be built from the arguments in {path} and those given: {error}"
        ) from error
    weights = find(WEIGHTS)
    report = load_checkpoint(model, weights, stems=stems, inflate_stems=inflate_stems)
    # Features-only models of timm have no norm in their heads.
    missing = [name for name in report.missing if not name.startswith("head.norm.")]
    if missing and not overrides.keys() & _ADDING:
        raise CheckpointError(f"{weights} is incomplete: it lacks {', '.join(missing)}")
    if stems is None and not any(name.startswith("stems.") for name in report.loaded):
        raise CheckpointError(
            f"{weights} has no stem for any of {list(model.modalities)}: name one by stems="
        )
    model.load_report = report
    return model.eval()


# Above the encoder, whose file knows nothing of checkpoints.
RSVHeat.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
RSVHeat.save_pretrained = save_pretrained
RSVHeat.push_to_hub = push_to_hub


@functools.cache
def _adapter_class() -> "type[PyTorchModelHubMixin]":
    from huggingface_hub import PyTorchModelHubMixin

    class Adapter(
        PyTorchModelHubMixin,
        library_name=_LIBRARY,
        tags=["remote-sensing", "image-feature-extraction"],
        model_card_template=_CARD_TEMPLATE,
    ):
        def __init__(self, module: nn.Module) -> None:
            self.module = module  # by this name the mixin finds what to save

    return Adapter


def _adapter(model: nn.Module) -> "PyTorchModelHubMixin":
    return _adapter_class()(model)


def _described(model: RSVHeat) -> dict[str, Any]:
    """Return a model's configuration with the names of library, version and variant."""
    if len(model.stages) != len(model.dims):
        raise ValueError(
            f"the encoder has only {len(model.stages)} of its {len(model.dims)} stages left; save "
            "one that was not pruned (in timm, one whose out_indices include the last stage)"
        )
    about = (_LIBRARY, package_version(), variant_name(model.config))
    return {**dict(zip(_ABOUT, about, strict=True)), **model.config}


def _find(source: str | os.PathLike[str], name: str, **download: Any) -> Path:
    """Return the path of one file of a folder, or of the hub's copy of a repository."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            held = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
            raise CheckpointError(
                f"{folder} is no folder of save_pretrained: it has no {name}; it holds {held}"
            )
        return folder / name
    if folder.exists():
        raise CheckpointError(
            f"{folder} is a file, not a folder of save_pretrained; rsvheat.load_checkpoint reads "
            "single files"
        )
    missing = f"there is no folder {str(source)!r} ({folder.absolute()})"
    if not isinstance(source, str):
        raise FileNotFoundError(missing)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(source, name, **download))
    except HFValidationError as error:
        raise FileNotFoundError(missing) from error
    except OSError as error:  # of the hub: no such repository or file, no access, no connection
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{missing}, and the Hugging Face hub gave no {name} of a repository of that name: "
            f"{reason}"
        ) from error


def _read_config(path: Path, known: set[str]) -> dict[str, Any]:
    """Return the encoder's arguments in a configuration."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise CheckpointError(f"{path} is damaged or not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("library_name") != _LIBRARY:
        hints = ("library_name", "model_type", "architectures", "architecture")
        found = [f"{h}={config[h]!r}" for h in hints if h in config] if config else []
        raise CheckpointError(
            f"{path} is no configuration of an rsvheat encoder "
            f"({', '.join(found) or 'it names no library'}): it has no library_name={_LIBRARY!r}"
        )
    arguments = {key: value for key, value in config.items() if key not in _ABOUT}
    if not arguments.keys() <= known:
        raise CheckpointError(
            f"{path} has arguments that rsvheat {package_version()} does not know: "
            f"{', '.join(sorted(arguments.keys() - known))}; it was saved by "
            f"{config.get('rsvheat_version')}"
        )
    return arguments
