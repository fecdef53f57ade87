# SPDX-License-Identifier: Apache-2.0
"""Optical and radar images from folders, GeoTIFF, shards and TorchGeo, for training.

A *source* lists samples, an :class:`ImageDataset` makes tensors of them, a collate function makes
batches; the data modules put these together for Lightning. What cannot be used is left out, named
and counted (:class:`SkipReport`), or an error, as one likes.
"""

from typing import TYPE_CHECKING, Any

from rsvheat.data.datasets import ImageDataset, collate_labelled, collate_modalities
from rsvheat.data.normalize import (
    Normalize,
    Normalizer,
    Sensor,
    Statistics,
    compute_statistics,
    load_statistics,
    save_statistics,
)
from rsvheat.data.readers import ImageReader, Pixels, Window, open_image, read_image
from rsvheat.data.report import DataError, SampleError, Skip, SkipReport
from rsvheat.data.samplers import ResumableSampler, SampleIndex
from rsvheat.data.shards import ShardSource, write_shards
from rsvheat.data.sources import ArraySource, ConcatSource, FileSource, FolderSource, Source
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
    from rsvheat.data.datamodules import (
        ImageFolderDataModule,
        OpticalSarDataModule,
        TorchGeoDataModule,
    )

_NEED_LIGHTNING = ("ImageFolderDataModule", "OpticalSarDataModule", "TorchGeoDataModule")


def __getattr__(name: str) -> Any:
    """Import the data modules, which need Lightning, when they are asked for."""
    if name in _NEED_LIGHTNING:
        from rsvheat.data import datamodules

        return getattr(datamodules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ArraySource",
    "ConcatSource",
    "Crop",
    "DataError",
    "FileSource",
    "FolderSource",
    "ImageDataset",
    "ImageFolderDataModule",
    "ImageReader",
    "Normalize",
    "Normalizer",
    "OpticalSarDataModule",
    "Pixels",
    "ResumableSampler",
    "SEN12MSSource",
    "SSL4EOS12Source",
    "SampleError",
    "SampleIndex",
    "Sensor",
    "ShardSource",
    "Skip",
    "SkipReport",
    "Source",
    "Statistics",
    "TorchGeoDataModule",
    "Window",
    "collate_labelled",
    "collate_modalities",
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
