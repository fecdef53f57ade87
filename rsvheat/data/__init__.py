# SPDX-License-Identifier: Apache-2.0
"""Images and annotations from folders, GeoTIFF, shards and TorchGeo, for training.

A ``Source`` lists samples, a ``DatasetReader`` finds and splits those of a data set, an
``ImageDataset`` makes tensors of them, ``collate`` makes batches; a ``DataModule``
puts these together for Lightning. Files that cannot be used are left out, named and counted
(``SkipReport``), or an error, as the user chooses.
"""

from typing import TYPE_CHECKING, Any

from rsvheat.data.boxes import Boxes, BoxSource, ImageBoxes
from rsvheat.data.datasets import (
    AID,
    DIOR,
    DIORR,
    DOTA,
    FAIR1M,
    HRSID,
    ISAID,
    NWPUVHR10,
    RESISC45,
    SSDD,
    AirPolSARSeg,
    BoxFolders,
    ChangeFolders,
    ClassFolders,
    DatasetReader,
    ImageFolders,
    LevirCD,
    LoveDA,
    MaskFolders,
    Potsdam,
    SARAircraft,
    Scan,
    Split,
    TorchGeoClasses,
    WhuOptSar,
)
from rsvheat.data.masks import MaskCodes, MaskSource
from rsvheat.data.normalize import (
    Normalize,
    Normalizer,
    Sensor,
    Statistics,
    compute_statistics,
    load_statistics,
    save_statistics,
)
from rsvheat.data.photometric import Photometric
from rsvheat.data.readers import ImageReader, Pixels, Window, open_image, read_image
from rsvheat.data.sample import ImageDataset, collate
from rsvheat.data.samplers import ResumableSampler, SampleIndex
from rsvheat.data.shards import ShardSource, write_shards
from rsvheat.data.skip_report import DataError, SampleError, Skip, SkipReport
from rsvheat.data.sources import ArraySource, ConcatSource, FileSource, FolderSource, Source
from rsvheat.data.spec import IGNORE_INDEX, IGNORE_LABEL, DataSpec, Target
from rsvheat.data.splits import (
    label_subset,
    load_split,
    save_split,
    split_groups,
    stratified_split,
)
from rsvheat.data.torchgeo_sources import SEN12MSSource, SSL4EOS12Source
from rsvheat.data.transforms import Crop

if TYPE_CHECKING:
    from rsvheat.data.datamodule import DataModule, LoaderOptions


def __getattr__(name: str) -> Any:
    """Import the data module, which needs Lightning, when it is asked for."""
    if name in ("DataModule", "LoaderOptions"):
        from rsvheat.data import datamodule

        return getattr(datamodule, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AID",
    "DIOR",
    "DIORR",
    "DOTA",
    "FAIR1M",
    "HRSID",
    "IGNORE_INDEX",
    "IGNORE_LABEL",
    "ISAID",
    "NWPUVHR10",
    "RESISC45",
    "SSDD",
    "AirPolSARSeg",
    "ArraySource",
    "BoxFolders",
    "BoxSource",
    "Boxes",
    "ChangeFolders",
    "ClassFolders",
    "ConcatSource",
    "Crop",
    "DataError",
    "DataModule",
    "DataSpec",
    "DatasetReader",
    "FileSource",
    "FolderSource",
    "ImageBoxes",
    "ImageDataset",
    "ImageFolders",
    "ImageReader",
    "LevirCD",
    "LoaderOptions",
    "LoveDA",
    "MaskCodes",
    "MaskFolders",
    "MaskSource",
    "Normalize",
    "Normalizer",
    "Photometric",
    "Pixels",
    "Potsdam",
    "ResumableSampler",
    "SARAircraft",
    "SEN12MSSource",
    "SSL4EOS12Source",
    "SampleError",
    "SampleIndex",
    "Scan",
    "Sensor",
    "ShardSource",
    "Skip",
    "SkipReport",
    "Source",
    "Split",
    "Statistics",
    "Target",
    "TorchGeoClasses",
    "WhuOptSar",
    "Window",
    "collate",
    "compute_statistics",
    "label_subset",
    "load_split",
    "load_statistics",
    "open_image",
    "read_image",
    "save_split",
    "save_statistics",
    "split_groups",
    "stratified_split",
    "write_shards",
]
