# SPDX-License-Identifier: Apache-2.0
"""Data sets: one reader each, which finds the files and splits them."""

from rsvheat.data.datasets.class_folders import ClassFolders
from rsvheat.data.datasets.image_folders import ImageFolders
from rsvheat.data.datasets.mask_folders import MaskFolders
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.datasets.torchgeo_classes import TorchGeoClasses

__all__ = [
    "ClassFolders",
    "DatasetReader",
    "ImageFolders",
    "MaskFolders",
    "Scan",
    "Split",
    "TorchGeoClasses",
]
