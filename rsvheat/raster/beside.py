# SPDX-License-Identifier: Apache-2.0
"""Files that may lie beside a prediction: polygons, a style, a picture, a STAC item, a page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from rsvheat._files import complete_file
from rsvheat.raster.box_files import BoxesResult
from rsvheat.raster.html_report import write_report
from rsvheat.raster.map_files import MapResult
from rsvheat.raster.maps import draw_map
from rsvheat.raster.polygons import write_polygons
from rsvheat.raster.predictor import Source
from rsvheat.raster.qgis_style import write_style
from rsvheat.raster.stac_items import write_item

PolygonFormat: TypeAlias = Literal["gpkg", "fgb", "parquet", "geojson"]


@dataclass(frozen=True)
class Beside:
    """Files that are written beside an output, with its name and another suffix.

    Args:
        polygons: Format of polygons of a map's classes; None for none.
        min_pixels: Number of pixels of the smallest areas that become polygons.
        simplify: Tolerance in pixels within which borders of polygons are made simpler.
        style: Whether a map gets a style for QGIS (``.qml``).
        picture: Whether a map gets a picture beside the scene (``.png``).
        stac: Whether there is a STAC item (``.stac.json``).
        report: Whether there is a page to look at (``.html``).

    Raises:
        ValueError: If an argument is not as above.
    """

    polygons: PolygonFormat | None = None
    min_pixels: int = 1
    simplify: float = 0.0
    style: bool = False
    picture: bool = False
    stac: bool = False
    report: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.polygons not in (None, *get_args(PolygonFormat)):
            raise ValueError(
                f"polygons must be one of {get_args(PolygonFormat)}, got {self.polygons!r}"
            )

    def paths(self, output: str | os.PathLike[str]) -> dict[str, Path]:
        """Return the paths of the files by the names of the arguments.

        Args:
            output: Path of the output.
        """
        suffixes = {
            "polygons": f".{self.polygons}",
            "style": ".qml",
            "picture": ".png",
            "report": ".html",
            "stac": ".stac.json",
        }
        return {
            name: Path(output).with_suffix(suffix)
            for name, suffix in suffixes.items()
            if getattr(self, name)
        }

    def check(self, output: str | os.PathLike[str], boxes: bool, overwrite: bool) -> None:
        """Make sure that the files may be written, before the prediction.

        Args:
            output: Path of the output.
            boxes: Whether the output is boxes.
            overwrite: Whether older files may be replaced.

        Raises:
            ValueError: If a kind of file has no meaning for boxes.
            FileExistsError: If there is such a file, and ``overwrite`` is not set.
        """
        for name, path in self.paths(output).items():
            if boxes and name in ("polygons", "style", "picture"):
                raise ValueError(f"{name} is of maps, and {output} is boxes")
            if path.exists() and not overwrite:
                raise FileExistsError(f"{path} is there already: --overwrite replaces it")

    def write(
        self,
        result: MapResult | BoxesResult,
        sources: Mapping[str, Source],
        colors: Mapping[str, str] | Source | None = None,
    ) -> list[Path]:
        """Write the files; older ones are replaced.

        Args:
            result: Summary of the output.
            sources: Path of the raster by modality.
            colors: Colors of the boxes' classes.

        Returns:
            Their paths.

        Raises:
            ModuleNotFoundError: If a package that a file needs is not installed.
            OSError: If a file cannot be written.
        """
        paths = self.paths(result.path)
        first = next(iter(sources.values()))
        for name, path in paths.items():
            if name == "polygons":
                write_polygons(
                    result.path,
                    path,
                    min_pixels=self.min_pixels,
                    simplify=self.simplify,
                    overwrite=True,
                )
            elif name == "style":
                write_style(result.path)
            elif name == "picture":
                with complete_file(path) as temporary:
                    draw_map(result.path, first).savefig(temporary, dpi=150)
            elif name == "report":
                write_report(path, result, sources, result.tags, colors)
        if self.stac:
            others = {name: path for name, path in paths.items() if name not in ("stac", "style")}
            write_item(result.path, first, result.tags, others)
        return list(paths.values())
