# SPDX-License-Identifier: Apache-2.0
"""Data for Lightning: loaders of any data set, normalization, and resuming within an epoch."""

import logging
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from rsvheat.data.boxes import BOX_TARGETS, BoxSource
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.normalize import Normalizer, Sensor, Statistics, compute_statistics
from rsvheat.data.sample import ImageDataset, collate
from rsvheat.data.samplers import ResumableSampler, repeat_factors
from rsvheat.data.skip_report import DataError, OnError, SampleError, SkipReport
from rsvheat.data.sources import Source
from rsvheat.data.spec import IGNORE_INDEX, DataSpec
from rsvheat.data.tiles import Tiles, image_size
from rsvheat.data.transforms import Crop

_LOGGER = logging.getLogger("rsvheat.data")

# Targets of images that are cut into crops and tiles at full resolution.
_TILED = ("mask", *BOX_TARGETS)

StartMethod: TypeAlias = Literal["fork", "forkserver", "spawn"]


@dataclass(frozen=True)
class LoaderOptions:
    """Options of the data loaders.

    Args:
        batch_size: Number of samples in a batch of one process.
        num_workers: Number of processes that read; 0 reads in the main process. Results do not
            depend on it.
        pin_memory: Whether batches are in page-locked memory; None where there is a GPU.
        start_method: How worker processes start; None as Python does by default.

    Raises:
        ValueError: If a number is too small, or ``start_method`` is not one of this system.
    """

    batch_size: int = 64
    num_workers: int = 4
    pin_memory: bool | None = None
    start_method: StartMethod | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        methods = multiprocessing.get_all_start_methods()
        if self.start_method is not None and self.start_method not in methods:
            raise ValueError(
                f"start_method must be {', '.join(methods)} or None, got {self.start_method!r}"
            )


class _Loader(DataLoader[Any]):
    """Counts the samples that workers left out, and tells Lightning that it can be resumed.

    The data module resumes. Lightning would keep the number of batches that the loader gave, which
    is one more than were used where an exception ends a step.
    """

    report: SkipReport | None = None

    def __iter__(self) -> Any:
        """Iterate over batches."""
        batches = super().__iter__()
        return batches if self.report is None else map(self.report.collect, batches)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state and then ends its workers.

    Terminals, torchrun and SLURM send them to all processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _check_pickling(dataset: ImageDataset, start_method: StartMethod | None) -> None:
    """Raise ValueError if workers are to be sent a data set that cannot be pickled."""
    method = multiprocessing.get_context(start_method).get_start_method()
    if method == "fork":
        return
    try:
        pickle.dumps(dataset)
    except Exception as error:  # objects of users raise what they like
        raise ValueError(
            f"the data set cannot be sent to workers that start by {method}: {error}. Functions "
            "and classes of transforms and readers must be defined at the top of a module, not be "
            'lambdas or within a function; or choose start_method="fork" or num_workers=0'
        ) from error


class DataModule(LightningDataModule):
    """Loads batches of a data set for training, validation and testing.

    Batches are described in ``rsvheat.data.sample``. The loaders ``"train_plain"`` (training
    samples in order, without augmentation), ``"val"`` and ``"test"`` evaluate.

    Args:
        dataset: Reader of the data set.
        sensors: Contents and normalization of each modality's files; by default those that the
            reader names, normalized by mean and standard deviation. Radar amplitude or power needs
            ``decibels``.
        crop: Window of the images that becomes a sample, and its augmentation.
        transforms: Further transforms of ``torchvision.transforms.v2`` for training, see
            ``rsvheat.data.ImageDataset``.
        loader: Options of the data loaders.
        seed: Seed of order, augmentation and splits.
        on_error: ``"raise"`` an error at the first image that cannot be used, or ``"skip"`` it.
        statistics: Path of a JSON file that keeps the statistics of the data between runs.
        statistics_images: Number of images of each modality that statistics are computed from.
        crops: Number of random crops of a training image in an epoch; by default one, and of images
            with masks or boxes as many as crops of ``crop.window`` pixels cover the image.
        overlap: Overlap in pixels of the tiles in which images with masks or boxes are evaluated at
            full resolution; a quarter of ``crop.window`` by default.
        balance: Repeats images with boxes of rare classes in an epoch: where a class is in less
            than this part of the training images, images with it are taken by the square root of
            the ratio more often (Gupta, Dollar, Girshick: LVIS, 2019, section 5). 0 repeats none.

    Attributes:
        report: Report of the samples left out so far.
        datasets: Datasets by ``"train"``, ``"train_plain"``, ``"val"`` and ``"test"``, those that
            there are; after ``setup``.
        statistics: Statistics by modality, where normalization needs them; after ``setup``.
        normalizers: Normalizers by modality; after ``setup``.
    """

    def __init__(
        self,
        dataset: DatasetReader,
        *,
        sensors: Mapping[str, Sensor] | None = None,
        crop: Crop = Crop(),  # noqa: B008 - immutable
        transforms: Sequence[Callable[[Any], Any]] | None = None,
        loader: LoaderOptions = LoaderOptions(),
        seed: int = 0,
        on_error: OnError = "skip",
        statistics: str | None = None,
        statistics_images: int = 1024,
        crops: int | None = None,
        overlap: int | None = None,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        if crops is not None and crops < 1:
            raise ValueError(f"crops must be at least 1, got {crops}")
        if overlap is not None and not 0 <= overlap < (crop.window or 1):
            raise ValueError(
                f"overlap must be at least 0 and below crop.window={crop.window}, got {overlap}"
            )
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must be within 0 to 1, got {balance}")
        self.dataset = dataset
        self.sensors = dict(sensors or {})
        self.crop = crop
        self.transforms = list(transforms or ())
        self.loader_options = loader
        self.seed, self.on_error = seed, on_error
        self.report = SkipReport()
        self.datasets: dict[str, ImageDataset] = {}
        self.statistics: dict[str, Statistics] = {}
        self.normalizers: dict[str, Normalizer] = {}
        self._crops, self._overlap, self._balance = crops, overlap, balance
        self._spec: DataSpec | None = None
        self._statistics_file, self._statistics_images = statistics, statistics_images
        self._sampler: ResumableSampler | None = None
        self._resume: dict[str, int] | None = None  # place of the run to continue

    @property
    def spec(self) -> DataSpec:
        """Description of the samples, for the network; finds the files if need be."""
        if self._spec is None:
            self.prepare_data()
            self.setup()
        assert self._spec is not None
        return self._spec

    def prepare_data(self) -> None:
        """Download the data set, if its reader does."""
        self.dataset.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Find the samples, split them, and compute their statistics."""
        if self.datasets:
            return
        splits = self.dataset.splits(Scan(self.seed, self.on_error, self.report))
        if not splits:
            raise DataError(f"{type(self.dataset).__name__} found no samples")
        # A data set that is only tested on may have no other part.
        first = splits.get("train") or next(iter(splits.values()))
        self.sensors = self._used_sensors(splits)
        self._normalize(first)
        plain = replace(self.crop, augment=False, scale=(1.0, 1.0), min_inside=0.0)
        datasets = {}
        if "train" in splits:
            train = self._several_crops(splits["train"])
            datasets["train"] = self._dataset(train, self.crop, self.transforms)
            datasets["train_plain"] = self._dataset(self._tiles(splits["train"]), plain)
        for name in ("val", "test"):
            if name in splits:
                datasets[name] = self._dataset(self._tiles(splits[name]), plain)
        self.report.add(next(iter(datasets.values())).check())
        self._spec = DataSpec(
            {name: sensor.bands for name, sensor in self.sensors.items()},
            first.source.target,
            first.source.classes,
            (self.crop.size, self.crop.size),
        )
        self.datasets = datasets

    def _used_sensors(self, splits: Mapping[str, Split]) -> dict[str, Sensor]:
        """Return the sensors of the modalities that there are."""
        there = {name for split in splits.values() for name in split.source.modalities}
        sensors = self.sensors or self.dataset.sensors()
        unknown = sorted(there - set(sensors))
        if unknown:
            raise ValueError(f"sensors has no entry for {', '.join(unknown)}")
        return {name: sensor for name, sensor in sensors.items() if name in there}

    def _normalize(self, split: Split) -> None:
        """Compute the statistics of the training samples, and the normalizers."""
        source = split.source
        needed = set(source.modalities) - set(self.normalizers)
        if any(self.sensors[name].normalize.needs_statistics for name in needed):
            self.statistics = compute_statistics(
                source,
                self.sensors,
                indices=split.indices,
                images=self._statistics_images,
                seed=self.seed,
                cache=self._statistics_file,
            )
        for name, sensor in self.sensors.items():
            if name not in self.normalizers:
                statistics = self.statistics.get(name)
                self.normalizers[name] = sensor.normalize.resolve(sensor.bands, statistics)

    def _several_crops(self, split: Split) -> Split:
        """Return a split with each image as often as an epoch takes crops of it."""
        side = self.crop.window
        covered = self._crops is None and split.source.target in _TILED and side is not None
        if self._crops is None and not covered and not self._balance:
            return split
        chosen = split.indices if split.used is None else split.used
        indices = np.arange(len(split.source)) if chosen is None else np.asarray(chosen, np.int64)
        counts = np.full(len(indices), self._crops or 1)
        if covered and side is not None:
            counts = np.array([self._windows(split.source, int(i), side) for i in indices])
        if self._balance:
            if not isinstance(split.source, BoxSource):
                raise ValueError("balance is for images with boxes, of a BoxSource")
            labels = [split.source.boxes(int(index)).labels for index in indices]
            counts = np.rint(counts * repeat_factors(labels, self._balance)).astype(np.int64)
        return Split(split.source, np.repeat(indices, counts))

    @staticmethod
    def _windows(source: Source, index: int, side: int) -> int:
        try:
            height, width = image_size(source, index)
        except SampleError:
            return 1  # reported when it is read
        return max(1, round(height * width / side**2))

    def _tiles(self, split: Split) -> Split:
        """Return a split for evaluation, in tiles where there are masks or boxes."""
        side = self.crop.window
        if split.source.target not in _TILED or side is None:
            return split
        chosen = split.indices if split.used is None else split.used
        overlap = side // 4 if self._overlap is None else self._overlap
        scan = Scan(self.seed, self.on_error, self.report)
        return Split(scan(Tiles(split.source, chosen, side, overlap)))

    def class_counts(self, samples: int = 256) -> list[int]:
        """Count the pixels of each class in training masks, for class weights.

        Args:
            samples: Number of samples that are read, spread evenly over the training samples.

        Raises:
            ValueError: If the data set has no masks.
        """
        classes = len(self.spec.classes)
        if self.spec.target != "mask":
            raise ValueError(f"the data set has no masks, but {self.spec.target!r}")
        dataset = self.datasets["train"]
        counts = np.zeros(classes, np.int64)
        for index in np.unique(np.linspace(0, len(dataset) - 1, samples).round().astype(int)):
            mask = dataset[int(index)]["mask"]
            counts += np.bincount(mask[mask != IGNORE_INDEX].numpy(), minlength=classes)
        return [int(count) for count in counts]

    def _dataset(
        self, split: Split, crop: Crop, transforms: Sequence[Callable[[Any], Any]] = ()
    ) -> ImageDataset:
        return ImageDataset(
            split.source,
            self.sensors,
            self.normalizers,
            crop,
            indices=split.indices if split.used is None else split.used,
            transforms=transforms,
            seed=self.seed,
            on_error=self.on_error,
            replace=crop.augment,
        )

    def loader(self, name: str, *, train: bool = False) -> DataLoader[Any]:
        """Return a loader of one of ``datasets``.

        Args:
            name: Name of the dataset.
            train: Whether to shuffle, and to leave out the last batch if it is not full on each
                process.

        Raises:
            KeyError: If there is no such dataset.
        """
        dataset, options = self.datasets[name], self.loader_options
        # The strategy knows which processes see different data; with one process it says nothing.
        where = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        sampler = ResumableSampler(
            len(dataset),
            options.batch_size,
            shuffle=train,
            drop_last=train,
            seed=self.seed,
            blocks=dataset.blocks if train else (),
            **where,
        )
        if train:
            self._sampler = sampler
            if self._resume is not None:
                sampler.load_state_dict(self._resume)
        if options.num_workers:
            _check_pickling(dataset, options.start_method)
        pin_memory = options.pin_memory
        loader = _Loader(
            dataset,
            batch_size=options.batch_size,
            sampler=sampler,
            drop_last=train,
            collate_fn=collate,
            num_workers=options.num_workers,
            persistent_workers=options.num_workers > 0,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            multiprocessing_context=options.start_method if options.num_workers else None,
            worker_init_fn=_ignore_signals,
            # An iterator draws its workers' seeds when it is made, which a resumed run does at
            # other times than one that was never stopped. From torch's default generator, whose
            # state checkpoints hold, that draw would make the two differ.
            generator=torch.Generator().manual_seed(self.seed),
        )
        loader.report = self.report
        return loader

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader for training."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for validation; none where nothing is held out."""
        return self.loader("val") if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader for testing, of the validation samples where there are no others."""
        return self.loader("test") if "test" in self.datasets else self.val_dataloader()

    def teardown(self, stage: str) -> None:
        """Log how many samples were left out."""
        if self.report:
            _LOGGER.warning("%s", str(self.report).split("\n")[0])

    def description(self) -> dict[str, Any]:
        """Return what prediction needs to know, as arguments of ``training_content``.

        ``window`` is the side of the windows that were cut from the images and resized, in pixels,
        or None where whole images were used.
        """
        return {
            "spec": self.spec,
            "normalizers": self.normalizers,
            "statistics": self.statistics,
            "window": self.crop.window,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, normalization and report, as plain lists and numbers."""
        return {
            "sampler": self._place(),
            "samples": len(self.datasets["train"]) if "train" in self.datasets else None,
            "statistics": {name: value.to_dict() for name, value in self.statistics.items()},
            "normalizers": {name: value.to_dict() for name, value in self.normalizers.items()},
            "report": self.report.state_dict(),
        }

    def _place(self) -> dict[str, int] | None:
        """Return the epoch and the samples used of it, from Lightning's counters."""
        if self.trainer is None or self._sampler is None:
            return self._resume
        loop = self.trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        # Lightning counts a batch as processed when its step is done, and an epoch as processed
        # before the hooks at its end. Until the next one starts, batches are those of the last.
        if epochs.started == epochs.processed:
            return {"epoch": epochs.processed, "samples": 0}
        if batches.processed >= self.trainer.num_training_batches:
            return {"epoch": epochs.processed + 1, "samples": 0}
        return {"epoch": epochs.processed, "samples": batches.processed * self._sampler.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the run of a checkpoint.

        Args:
            state_dict: Result of ``state_dict``.

        Raises:
            DataError: If the run was within an epoch of another number of samples.
        """
        now = len(self.datasets["train"]) if "train" in self.datasets else None
        place = state_dict["sampler"]
        if place and place["samples"] and now not in (None, state_dict["samples"]):
            raise DataError(
                f"the run was within an epoch of {state_dict['samples']} training samples, and "
                f"there are {now} now: restore the data, or start a new run from the weights"
            )
        self._resume = place
        self.statistics = {
            name: Statistics.from_dict(value) for name, value in state_dict["statistics"].items()
        }
        self.use_normalizers(
            {name: Normalizer.from_dict(v) for name, v in state_dict["normalizers"].items()}
        )
        self.report.load_state_dict(state_dict["report"])

    def use_normalizers(self, normalizers: Mapping[str, Normalizer]) -> None:
        """Normalize as in another run; before ``setup`` that saves the statistics.

        Args:
            normalizers: Normalizers by modality; others stay as they are.
        """
        self.normalizers |= normalizers
        for dataset in self.datasets.values():
            dataset.normalizers |= normalizers

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the classes as in another run, by their names.

        Args:
            classes: Class names by label, among them all of the data set's.

        Raises:
            ValueError: If the data set has a class that is not among them.
        """
        own = self.spec.classes
        unknown = [name for name in own if name not in classes]
        if unknown:
            raise ValueError(
                f"the network is for the classes {', '.join(classes)}; the data set is of "
                f"{', '.join(own)}"
            )
        number = {name: label for label, name in enumerate(classes)}
        for dataset in self.datasets.values():
            dataset.labels = np.array([number[name] for name in own], np.int64)
        self._spec = DataSpec(self.spec.modalities, self.spec.target, classes, self.spec.size)
