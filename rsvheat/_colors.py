# SPDX-License-Identifier: Apache-2.0
"""Colors of classes."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Colors by words that names of classes contain; the first that fits is used.
_KNOWN = {
    "sealake": "#1f5fbf",
    "sea": "#1f5fbf",
    "ocean": "#1f5fbf",
    "lake": "#2f7fd6",
    "river": "#56b4e9",
    "water": "#2f7fd6",
    "forest": "#1b6b2f",
    "tree": "#1b6b2f",
    "permanentcrop": "#b5651d",
    "orchard": "#b5651d",
    "crop": "#f2cf4a",
    "farmland": "#f2cf4a",
    "herbaceous": "#a6c96a",
    "pasture": "#7ed957",
    "meadow": "#7ed957",
    "grass": "#a6c96a",
    "wetland": "#3fa796",
    "highway": "#4d4d4d",
    "road": "#4d4d4d",
    "industrial": "#9b4f96",
    "residential": "#e0433a",
    "building": "#e0433a",
    "urban": "#e0433a",
    "desert": "#e3c9a0",
    "beach": "#f3e3b3",
    "bare": "#c8ad8d",
    "snow": "#dff3ff",
}
# Colors of the background and of labels.
_TAKEN = ("#000000", "#ffffff")

_TO_CONES = (
    (0.4122214708, 0.2119034982, 0.0883024619),
    (0.5363325363, 0.6806995451, 0.2817188376),
    (0.0514459929, 0.1073969566, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 1.9779984951, 0.0259040371),
    (0.7936177850, -2.4285922050, 0.7827717662),
    (-0.0040720468, 0.4505937099, -0.8086757660),
)


def class_colors(
    names: Sequence[str], given: Mapping[str, str] | str | os.PathLike[str] | None = None
) -> NDArray[np.uint8]:
    """Return a color for each class.

    Known kinds of land cover have a color of their own: forest is green, water blue. Every other
    class gets the color that differs most from all before it. The same names always get the same
    colors.

    Args:
        names: Names of the classes.
        given: Colors of some classes as ``"#rrggbb"`` by name, or the path of a YAML or JSON file
            of these.

    Returns:
        Red, green and blue (classes, 3).

    Raises:
        ValueError: If a color is not like ``"#rrggbb"``, or there is no such class.
        FileNotFoundError: If there is no such file.
    """
    given = _load(given) if isinstance(given, str | os.PathLike) else dict(given or {})
    unknown = set(given) - set(names)
    if unknown:
        first = sorted(unknown, key=str)[0]  # keys of YAML may be numbers
        raise ValueError(f"colors has {first!r}; the classes are {', '.join(names)}")
    chosen = {name: _parse(name, color) for name, color in given.items()}
    for name in names:
        color = _known(name)
        if name not in chosen and color is not None and color not in chosen.values():
            chosen[name] = color
    levels = np.linspace(0, 255, 11).astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    perceived = _oklab(candidates)
    distance = np.full(len(candidates), np.inf)
    for color in [*(_parse("", color) for color in _TAKEN), *chosen.values()]:
        distance = np.minimum(distance, _apart(perceived, color))
    for name in names:
        if name not in chosen:
            chosen[name] = tuple(candidates[distance.argmax()].tolist())
            distance = np.minimum(distance, _apart(perceived, chosen[name]))
    return np.array([chosen[name] for name in names], np.uint8)


def _known(name: str) -> tuple[int, ...] | None:
    letters = re.sub("[^a-z]", "", name.lower())
    return next((_parse("", color) for word, color in _KNOWN.items() if word in letters), None)


def _parse(name: str, color: str) -> tuple[int, ...]:
    if not isinstance(color, str) or not re.fullmatch("#[0-9a-fA-F]{6}", color):
        raise ValueError(f'the color of {name} must be like "#1b6b2f", got {color!r}')
    return tuple(bytes.fromhex(color[1:]))


def _load(path: str | os.PathLike[str]) -> dict[str, str]:
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must map names of classes to colors")
    return content


def _apart(perceived: NDArray[np.float64], color: Sequence[int]) -> NDArray[np.float64]:
    difference = perceived - _oklab(np.array([color], np.uint8))
    distance: NDArray[np.float64] = np.sqrt(np.square(difference).sum(1))
    return distance


def _oklab(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return colors (n, 3) in OKLab, where distances are perceived differences.

    Source: B. Ottosson, A perceptual color space for image processing, 2020.
    """
    srgb = colors / 255
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    cones = np.cbrt(linear @ np.array(_TO_CONES))
    result: NDArray[np.float64] = cones @ np.array(_TO_LAB)
    return result
