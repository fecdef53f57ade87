# SPDX-License-Identifier: Apache-2.0
"""Data sets: one reader each, which finds the files and splits them."""

from rsvheat.data.datasets.aid import AID
from rsvheat.data.datasets.air_polsar_seg import AirPolSARSeg
from rsvheat.data.datasets.box_folders import BoxFolders
from rsvheat.data.datasets.change_folders import ChangeFolders
from rsvheat.data.datasets.class_folders import ClassFolders
from rsvheat.data.datasets.dior import DIOR
from rsvheat.data.datasets.dior_r import DIORR
from rsvheat.data.datasets.dota import DOTA
from rsvheat.data.datasets.fair1m import FAIR1M
from rsvheat.data.datasets.hrsid import HRSID
from rsvheat.data.datasets.image_folders import ImageFolders
from rsvheat.data.datasets.isaid import ISAID
from rsvheat.data.datasets.levir_cd import LevirCD
from rsvheat.data.datasets.loveda import LoveDA
from rsvheat.data.datasets.mask_folders import MaskFolders
from rsvheat.data.datasets.nwpu_vhr10 import NWPUVHR10
from rsvheat.data.datasets.potsdam import Potsdam
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.datasets.resisc45 import RESISC45
from rsvheat.data.datasets.sar_aircraft import SARAircraft
from rsvheat.data.datasets.ssdd import SSDD
from rsvheat.data.datasets.torchgeo_classes import TorchGeoClasses
from rsvheat.data.datasets.whu_opt_sar import WhuOptSar

__all__ = [
    "AID",
    "DIOR",
    "DIORR",
    "DOTA",
    "FAIR1M",
    "HRSID",
    "ISAID",
    "NWPUVHR10",
    "RESISC45",
    "SSDD",
    "AirPolSARSeg",
    "BoxFolders",
    "ChangeFolders",
    "ClassFolders",
    "DatasetReader",
    "ImageFolders",
    "LevirCD",
    "LoveDA",
    "MaskFolders",
    "Potsdam",
    "SARAircraft",
    "Scan",
    "Split",
    "TorchGeoClasses",
    "WhuOptSar",
]
