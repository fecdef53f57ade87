# SPDX-License-Identifier: Apache-2.0
"""Styles of maps for QGIS: it takes the colors from a map, but not the names of classes."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rsvheat._files import complete_file
from rsvheat.raster.maps import read_legend
from rsvheat.raster.writing import xml_text


def write_style(map_path: str | os.PathLike[str]) -> Path:
    """Write a style beside a map, which QGIS applies when it opens the map.

    Args:
        map_path: Path of a map that ``rsvheat.raster.predict`` wrote.

    Returns:
        Path of the style: that of the map, with the suffix ``.qml``.

    Raises:
        FileNotFoundError: If there is no such map.
        DataError: If the file is damaged, or no map of classes.
        OSError: If the style cannot be written.
    """
    classes, colors = read_legend(map_path)
    root = ElementTree.Element("qgis", version="3.28", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for number, (name, color) in enumerate(zip(classes, colors.tolist(), strict=True)):
        ElementTree.SubElement(
            palette,
            "paletteEntry",
            value=str(number),
            color="#" + bytes(color).hex(),
            label=xml_text(name),
            alpha="255",
        )
    ElementTree.indent(root)
    path = Path(map_path).with_suffix(".qml")
    with complete_file(path) as temporary:
        temporary.write_bytes(
            b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
            + ElementTree.tostring(root)
            + b"\n"
        )
    return path
