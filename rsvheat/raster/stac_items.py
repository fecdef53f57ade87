# SPDX-License-Identifier: Apache-2.0
"""STAC items that describe outputs for catalogs (``pip install 'rsvheat[stac]'``)."""

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp

from rsvheat._files import complete_file
from rsvheat.raster.projection import LONGITUDE_LATITUDE, Projection
from rsvheat.raster.scene import Georeference
from rsvheat.raster.writing import not_georeferenced

# Media types by suffix.
_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".json": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".png": "image/png",
    ".html": "text/html",
}


@not_georeferenced
def write_item(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    tags: Mapping[str, str],
    others: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Path:
    """Write a STAC item beside an output.

    Its time is that of the scene where the file says one (``TIFFTAG_DATETIME``), else that of the
    prediction.

    Args:
        output: Path of the map, or of the boxes.
        source: Path of the raster that was predicted.
        tags: Provenance, which becomes properties of the item.
        others: Further files by the name of their asset.

    Returns:
        Path of the item: that of the output, with the suffix ``.stac.json``.

    Raises:
        ModuleNotFoundError: If pystac is not installed.
        OSError: If the item cannot be written.
    """
    import pystac

    output = Path(output)
    with rasterio.open(source) as file:
        place, (height, width) = Georeference.of(file), file.shape
        when = _time(file.tags().get("TIFFTAG_DATETIME"))
        epsg = None if place.crs is None else place.crs.to_epsg()
    geometry, box = _outline(place, height, width)
    properties: dict[str, Any] = {"proj:shape": [height, width]}
    if place.crs is not None:
        properties["proj:code"] = None if epsg is None else f"EPSG:{epsg}"
    if place.transform is not None:
        properties["proj:transform"] = list(place.transform)[:6]
    properties |= {
        name.lower().replace("rsvheat_", "rsvheat:"): _value(text)
        for name, text in tags.items()
        if name.startswith("RSVHEAT_")
    }
    item = pystac.Item(
        output.stem,
        geometry,
        box,
        when or datetime.datetime.now(datetime.timezone.utc),
        properties,
        stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
    )
    for name, path in {"prediction": output, **(others or {})}.items():
        kind = _TYPES.get(Path(path).suffix.lower())
        role = {"image/png": "overview", "text/html": "metadata"}.get(kind or "", "data")
        item.add_asset(name, pystac.Asset(Path(path).name, media_type=kind, roles=[role]))
    item_path = output.with_suffix(".stac.json")
    with complete_file(item_path) as temporary:
        text = json.dumps(item.to_dict(include_self_link=False), indent=1, ensure_ascii=False)
        temporary.write_text(text, "utf-8")
    return item_path


def _time(text: str | None) -> datetime.datetime | None:
    for form in ("%Y:%m:%d %H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        try:
            found = datetime.datetime.strptime(text or "", form)
        except ValueError:
            continue
        return found.replace(tzinfo=datetime.timezone.utc)
    return None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _outline(place: Georeference, height: int, width: int) -> tuple[Any, Any]:
    """Return the raster's outline in longitude and latitude, and the box around it."""
    projection = Projection(place, LONGITUDE_LATITUDE)
    if not projection.has_place or projection.crs is None:
        return None, None
    steps = np.linspace(0, 1, 9)[:-1]  # sides are curves
    sides = [(steps, 0 * steps), (0 * steps + 1, steps), (1 - steps, 0 * steps + 1)]
    sides.append((0 * steps, 1 - steps))
    points = np.concatenate([np.stack(side, 1) for side in sides]) * (width, height)
    ring = projection(points).round(7)
    box = [*ring.min(0).tolist(), *ring.max(0).tolist()]
    closed = np.concatenate((ring, ring[:1]))[::-1]
    return {"type": "Polygon", "coordinates": [closed.tolist()]}, box
