# SPDX-License-Identifier: Apache-2.0
"""The named variants, here and in timm."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rsvheat.models.checkpoints import load_checkpoint
from rsvheat.models.encoder import RSVHeat

# Tiny is published with norms before and without layer scale, small and base with norms after and
# layer scale; nano follows tiny, large follows base.
_PRE: dict[str, Any] = {"norm_position": "pre", "layer_scale": None}
_POST: dict[str, Any] = {"norm_position": "post", "layer_scale": 1e-5}
_SIZES: dict[str, dict[str, Any]] = {
    "nano": {"width": 32, "depths": (1, 1, 3, 1), **_PRE},
    "tiny": {"width": 96, "depths": (2, 2, 6, 2), **_PRE},
    "small": {"width": 96, "depths": (2, 2, 18, 2), **_POST},
    "base": {"width": 128, "depths": (2, 2, 18, 2), **_POST},
    "large": {"width": 192, "depths": (2, 2, 18, 2), **_POST},
}


def _arguments(size: str, spatial_correction: bool) -> dict[str, Any]:
    arguments = dict(_SIZES[size])
    width = arguments.pop("width")
    dims = tuple(width * 2**i for i in range(len(arguments["depths"])))
    return {"dims": dims, "spatial_correction": spatial_correction, **arguments}


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"rsvheat_{size}": _arguments(size, True) for size in _SIZES},
    **{f"vheat_{size}": _arguments(size, False) for size in ("tiny", "small", "base")},
}


# Weights that come with the package, each with a card beside it, and what they were trained for
# beside their stems, which the file tells.
WEIGHTS = Path(__file__).parents[1] / "weights"
PRETRAINED: dict[str, dict[str, Any]] = {"rsvheat_nano": {"img_size": 64, "num_classes": 0}}


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    stems: Mapping[str, str] | None = None,
    inflate_stems: bool = False,
    **kwargs: Any,
) -> RSVHeat:
    """Build a variant with fresh weights, or with those that come with the package.

    Args:
        name: One of ``rsvheat_nano|tiny|small|base|large``, ``vheat_tiny|small|base``.
        pretrained: Load ``rsvheat/weights/<name>.safetensors``; there is one for ``rsvheat_nano``.
            The card beside it says what it was trained on and how images are normalised. By
            default the encoder then has the file's stems and size, and no classifier; with other
            arguments the file is loaded as by :func:`rsvheat.load_checkpoint`, and what it lacks,
            such as a classifier, is fresh; ``load_report`` of the model says which.
        stems: Which pretrained stem, ``"optical"`` or ``"sar"``, each modality takes, as for
            :func:`rsvheat.load_checkpoint`.
        inflate_stems: Whether a pretrained stem may be adapted to another number of bands by
            :func:`~rsvheat.models.inflate_stem`; else other bands are an error.
        **kwargs: Arguments of :class:`~rsvheat.models.RSVHeat`; they go before the variant's.

    Returns:
        The encoder, in training mode.

    Raises:
        ValueError: If there is no such variant, an argument has a wrong value, or there are no
            weights of the variant, or none that fit.
    """
    if name not in VARIANTS:
        raise ValueError(f"no model is named {name!r}; there are {', '.join(VARIANTS)}")
    if not pretrained:
        return RSVHeat(**{**VARIANTS[name], **kwargs})
    if name not in PRETRAINED:
        raise ValueError(
            f"no weights of {name} come with the package, only of {', '.join(PRETRAINED)}: load a "
            "file with rsvheat.load_checkpoint"
        )
    path = WEIGHTS / f"{name}.safetensors"
    arguments = {**VARIANTS[name], **PRETRAINED[name], **kwargs}
    if arguments.get("modalities") is None and arguments.get("in_chans") is None:
        arguments["modalities"] = _stems(path)
    model = RSVHeat(**arguments)
    report = load_checkpoint(model, path, stems=stems, inflate_stems=inflate_stems)
    if stems is None and not any(part.startswith("stems.") for part in report.loaded):
        raise ValueError(
            f"the weights of {name} have the stems {list(_stems(path))}, none for "
            f"{list(model.modalities)}: say by stems= which one each takes, stems={{}} for none"
        )
    model.load_report = report
    return model


def _stems(path: Path) -> dict[str, int]:
    """Return the bands of a file's stems by name."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {
            key.split(".")[1]: file.get_slice(key).get_shape()[1]
            for key in sorted(file.keys())
            if key.startswith("stems.") and key.endswith(".conv1.weight")
        }


class _RegisterAfterTimm(importlib.abc.MetaPathFinder):
    """Registers the variants as soon as timm has been imported by someone else.

    timm takes twice as long to import as torch, and ``import rsvheat`` shall stay quick for those
    who do not use it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register_with_timm()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_timm() -> None:
    """Make ``timm.create_model`` know the variants, now or as soon as timm is imported."""
    if "timm" in sys.modules:
        importlib.import_module("rsvheat.models._timm")
    elif not any(isinstance(finder, _RegisterAfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterTimm())
