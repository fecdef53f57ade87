# SPDX-License-Identifier: Apache-2.0
"""Files of box annotations, one module for each format.

Every function returns ``rsvheat.data.ImageBoxes``: polygons of four corners in pixels, with
class names as the file spells them. Coordinates are those of the file; nothing is clipped.
"""

from rsvheat.data.formats.coco import CocoFile, read_coco
from rsvheat.data.formats.dota import read_dota
from rsvheat.data.formats.fair1m import read_fair1m
from rsvheat.data.formats.geo import GeoBoxes, read_geo
from rsvheat.data.formats.instance_masks import read_instance_mask
from rsvheat.data.formats.nwpu import read_nwpu
from rsvheat.data.formats.voc import read_voc
from rsvheat.data.formats.yolo import read_yolo, read_yolo_names

__all__ = [
    "CocoFile",
    "GeoBoxes",
    "read_coco",
    "read_dota",
    "read_fair1m",
    "read_geo",
    "read_instance_mask",
    "read_nwpu",
    "read_voc",
    "read_yolo",
    "read_yolo_names",
]
