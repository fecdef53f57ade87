# SPDX-License-Identifier: Apache-2.0
"""The named variants of the encoder, and the weights that come with the package."""

from pathlib import Path
from typing import Any

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


# Arguments of the encoder by name of the variant.
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"rsvheat_{size}": _arguments(size, True) for size in _SIZES},
    **{f"vheat_{size}": _arguments(size, False) for size in ("tiny", "small", "base")},
}

# Packaged weights by variant, each with a card beside it: further arguments of the encoder that
# they were trained with. Their stems are read from the file.
WEIGHTS = Path(__file__).parents[1] / "weights"
PRETRAINED: dict[str, dict[str, Any]] = {"rsvheat_nano": {"img_size": 64, "num_classes": 0}}

# Mean and deviation of pixels from 0 to 1 for the bundled weights: EuroSAT's row of the card.
NORMALIZATION: dict[str, dict[str, tuple[float, ...]]] = {
    "rsvheat_nano": {"mean": (0.34675, 0.38220, 0.40894), "std": (0.20424, 0.13773, 0.11627)}
}


def variant_name(config: dict[str, Any]) -> str | None:
    """Return the name of the variant with an encoder's architecture, or None.

    Args:
        config: Arguments of the encoder.
    """
    for name, arguments in VARIANTS.items():
        if all(config[key] == value for key, value in arguments.items()):
            return name
    return None
