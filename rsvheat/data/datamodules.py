# SPDX-License-Identifier: Apache-2.0
"""Data for Lightning: pretraining on optical and radar images, classification."""

import itertools
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from rsvheat.data.datasets import ImageDataset, collate_labelled, collate_modalities
from rsvheat.data.normalize import (
    Normalize,
    Normalizer,
    Sensor,
    Statistics,
    compute_statistics,
)
from rsvheat.data.report import DataError, OnError, Skip, SkipReport
from rsvheat.data.samplers import ResumableSampler
from rsvheat.data.shards import ShardSource
from rsvheat.data.sources import (
    ConcatSource,
    FileSource,
    FolderSource,
    Indices,
    Source,
    Unmatched,
)
from rsvheat.data.splits import (
    label_subset,
    load_split,
    save_split,
    split_groups,
    stratified_split,
)
from rsvheat.data.torchgeo_sources import load_datasets
from rsvheat.data.transforms import Crop

_LOGGER = logging.getLogger("rsvheat.data")

Context: TypeAlias = Literal["fork", "forkserver", "spawn"]


class _Loader(DataLoader[Any]):
    """Counts what workers left out, and tells Lightning that it can be resumed.

    It is the data module that resumes. Lightning would keep the number of batches that the loader
    gave, which is one more than were used where an exception ends a step.
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


def _leave_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state and then ends its workers.

    Terminals, torchrun and SLURM send them to all processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _DataModule(LightningDataModule):
    """What the data modules share: loaders, what is skipped, and going on within an epoch.

    Attributes:
        report: What was left out so far.
        datasets: By ``"train"``, ``"val"`` and ``"test"``, those that there are; after ``setup``.
        statistics: By modality, where normalisation needs them; after ``setup``.
        normalizers: By modality; after ``setup``. Checkpoints hold them as plain dictionaries, so
            that prediction can normalise as training did.
    """

    def __init__(
        self,
        sensors: Mapping[str, Sensor],
        batch_size: int,
        num_workers: int,
        seed: int,
        on_error: OnError,
        statistics: str | os.PathLike[str] | None,
        statistics_images: int,
        pin_memory: bool | None,
        context: Context | None,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.sensors = dict(sensors)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.on_error = seed, on_error
        self.report = SkipReport()
        self.datasets: dict[str, ImageDataset] = {}
        self.statistics: dict[str, Statistics] = {}
        self.normalizers: dict[str, Normalizer] = {}
        self._statistics_file, self._statistics_images = statistics, statistics_images
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._context = context
        self._sampler: ResumableSampler | None = None
        self._resume: dict[str, int] | None = None  # where the run to continue was

    @property
    def modalities(self) -> dict[str, int]:
        """Number of bands by modality, as encoders take it."""
        return {name: sensor.bands for name, sensor in self.sensors.items()}

    def _collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        raise NotImplementedError

    def _scan(self, source: Source) -> Source:
        """Find a source's samples; count, or raise, what cannot be used."""
        skips = source.scan()
        if skips and self.on_error == "raise":
            raise DataError(f"{skips[0].reason} (sample {skips[0].key})")
        self.report.add(skips)
        return source

    def _normalize(self, source: Source, indices: Indices) -> None:
        """Find the statistics of the training samples, and what normalises by them."""
        unknown = set(source.modalities) - set(self.sensors)
        if unknown:
            raise ValueError(f"sensors has no entry for {', '.join(sorted(unknown))}")
        if any(self.sensors[name].normalize.needs_statistics for name in source.modalities):
            self.statistics = compute_statistics(
                source,
                self.sensors,
                indices=indices,
                images=self._statistics_images,
                seed=self.seed,
                cache=self._statistics_file,
            )
        self.normalizers = {
            name: self.sensors[name].normalize.resolve(
                self.sensors[name].bands, self.statistics.get(name)
            )
            for name in source.modalities
        }

    def _dataset(
        self,
        source: Source,
        crop: Crop,
        indices: Indices | None = None,
        labels: Indices | None = None,
    ) -> ImageDataset:
        return ImageDataset(
            source,
            self.sensors,
            self.normalizers,
            crop,
            indices=indices,
            labels=labels,
            seed=self.seed,
            on_error=self.on_error,
            replace=crop.augment,
        )

    def loader(self, name: str, *, train: bool = False) -> DataLoader[Any]:
        """Return a loader of one of ``datasets``.

        Args:
            name: Which.
            train: Shuffle, and leave out the last batch if it is not full on each process. The
                dataset says whether samples are augmented.

        Raises:
            KeyError: If there is no such dataset.
        """
        dataset = self.datasets[name]
        # The strategy knows which processes see different data; with one process it says nothing.
        where = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        sampler = ResumableSampler(
            len(dataset),
            self.batch_size,
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
        loader = _Loader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=train,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._pin_memory,
            multiprocessing_context=self._context if self.num_workers else None,
            worker_init_fn=_leave_signals,
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
        """Say what was left out."""
        if self.report:
            _LOGGER.warning("%s", str(self.report).split("\n")[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, normalisation and report, as plain lists and numbers."""
        return {
            "sampler": self._place(),
            "samples": len(self.datasets["train"]) if "train" in self.datasets else None,
            "statistics": {name: value.to_dict() for name, value in self.statistics.items()},
            "normalizers": {name: value.to_dict() for name, value in self.normalizers.items()},
            # What maps are made with. Without one, images are as they come.
            "window": self.datasets["train"].crop.window if "train" in self.datasets else None,
            "report": self.report.state_dict(),
        }

    def _place(self) -> dict[str, int] | None:
        """Return where in which epoch training is, from what Lightning counts."""
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
        """Go on where a run was.

        Args:
            state_dict: From :meth:`state_dict`.

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
        self.normalizers = {
            name: Normalizer.from_dict(value) for name, value in state_dict["normalizers"].items()
        }
        for dataset in self.datasets.values():
            dataset.normalizers = dict(self.normalizers)
        self.report.load_state_dict(state_dict["report"])


class OpticalSarDataModule(_DataModule):
    """Optical and radar images for pretraining: pairs, images of one sensor, or both.

    The data is ``folders`` or ``shards`` or any ``sources``. Batches are those of
    :func:`~rsvheat.data.collate_modalities`.

    Args:
        folders: Folder by modality, see :class:`FolderSource`.
        shards: Folder of shards, see :class:`ShardSource`.
        sources: Other data, or several.
        paired: Whether files of the same name in ``folders`` show the same ground.
        stem_map: For ``folders``, see :class:`FolderSource`.
        unmatched: Likewise.
        tile: Likewise, in pixels.
        sensors: What the files of each modality hold. By default ``optical`` has 3 bands and
            ``sar`` 1, normalised by mean and deviation; radar amplitude or power needs
            ``decibels``.
        size: Side of the samples in pixels.
        window: Side of what is cut from images to be resized to ``size``, in pixels; smaller images
            are taken as they are. None for the largest square.
        scale: Range of a random factor of the window's side.
        augment: Random windows, flips and turns in training.
        batch_size: Samples in a batch of one process.
        val_fraction: Part of the groups that is held out for validation.
        val_groups: Names of the groups that are held out, instead of a random choice.
        group: A regular expression; what its groups match in a sample's key is its group: the
            scene, of which patches overlap, say. By default that is the image of a tile.
        val_folders: Other folders for validation; then nothing is held out of the data.
        num_workers: Processes that read; 0 reads in the main process. Results do not depend on it.
        seed: Of order, augmentation and split.
        on_error: ``"raise"`` an error at the first image that cannot be used, or ``"skip"`` it.
        statistics: JSON file that keeps the statistics of the data between runs.
        statistics_images: How many samples of a modality they are computed of.
        pin_memory: Page-locked batches; by default where there is a GPU.
        context: How worker processes start; by default as Python does.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        folders: dict[str, str] | None = None,
        shards: str | None = None,
        sources: list[Source] | None = None,
        *,
        paired: bool = True,
        stem_map: dict[str, tuple[str, str]] | None = None,
        unmatched: Unmatched = "skip",
        tile: int | None = None,
        sensors: dict[str, Sensor] | None = None,
        size: int = 224,
        window: int | None = 448,
        scale: tuple[float, float] = (1.0, 1.0),
        augment: bool = True,
        batch_size: int = 64,
        val_fraction: float = 0.05,
        val_groups: list[str] | None = None,
        group: str | None = None,
        val_folders: dict[str, str] | None = None,
        num_workers: int = 4,
        seed: int = 0,
        on_error: OnError = "skip",
        statistics: str | None = None,
        statistics_images: int = 256,
        pin_memory: bool | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(
            {"optical": Sensor(3), "sar": Sensor(1)} if sensors is None else sensors,
            batch_size,
            num_workers,
            seed,
            on_error,
            statistics,
            statistics_images,
            pin_memory,
            context,
        )
        options: dict[str, Any] = {
            "paired": paired,
            "stem_map": stem_map,
            "unmatched": unmatched,
            "tile": tile,
        }
        found: list[Source] = list(sources or ())
        if folders:
            found.append(FolderSource(folders, **options))
        if shards:
            found.append(ShardSource(shards))
        if not found:
            raise ValueError("one of folders, shards and sources must be given")
        self._source = ConcatSource(found)
        if sensors is None and not shards:  # what is in shards is known when they are read
            self.sensors = {n: s for n, s in self.sensors.items() if n in self._source.modalities}
        self._val_source = FolderSource(val_folders, **options) if val_folders else None
        self._crop = Crop(size, window, scale, augment)
        self._val_crop = Crop(size, window, augment=False)
        self._val_fraction, self._val_groups, self._group = val_fraction, val_groups, group

    def _collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return collate_modalities(samples)

    def setup(self, stage: str | None = None) -> None:
        """Find the samples, split them, and find their statistics."""
        if self.datasets:
            return
        source = self._scan(self._source)
        val_source: Source
        if self._val_source is not None:
            val_source = self._scan(self._val_source)
            train, val = np.arange(len(source)), np.arange(len(val_source))
        elif self._val_groups or self._val_fraction:
            val_source = source
            groups = [source.group(index, self._group) for index in range(len(source))]
            train, val = split_groups(groups, self._val_fraction, self.seed, self._val_groups)
        else:
            val_source, train, val = source, np.arange(len(source)), np.arange(0)
        self._normalize(source, train)
        datasets = {"train": self._dataset(source, self._crop, train)}
        if len(val):
            datasets["val"] = self._dataset(val_source, self._val_crop, val)
        self.report.add(datasets["train"].check())
        self.datasets = datasets


class _ClassificationDataModule(_DataModule):
    """Labelled images of one modality; subclasses find the files.

    Attributes:
        classes: Their names; after ``setup``.
        modality: The modality.
    """

    classes: list[str]

    def __init__(
        self,
        modality: str,
        sensor: Sensor,
        crop: Crop,
        split: str | os.PathLike[str] | None,
        label_fraction: float,
        **options: Any,
    ) -> None:
        super().__init__({modality: sensor}, **options)
        label_subset([0], label_fraction)  # checks it
        self.modality, self._crop = modality, crop
        self._eval_crop = Crop(crop.size, crop.window, augment=False)
        self._split_file, self._label_fraction = split, label_fraction

    @property
    def num_classes(self) -> int:
        """Number of classes; after ``setup``."""
        return len(self.classes)

    def _collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return collate_labelled(samples)

    def _find(self) -> tuple[list[str], dict[str, list[tuple[str, str, str]]]]:
        """Return the classes, and by set: key, path and class of each image."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Find the images, split them, and find their statistics."""
        if self.datasets:
            return
        self.classes, sets = self._find()
        number = {name: label for label, name in enumerate(self.classes)}
        datasets: dict[str, ImageDataset] = {}
        for name in ("train", "val", "test"):
            if not sets.get(name):
                continue
            source = FileSource([(key, {self.modality: path}) for key, path, _ in sets[name]])
            labels = np.array([number[label] for _, _, label in sets[name]])
            if name == "train":
                self._normalize(source, range(len(source)))
                chosen = label_subset(labels, self._label_fraction, self.seed)
                datasets[name] = self._dataset(source, self._crop, chosen, labels[chosen])
                # As evaluation sees them, for probes and neighbours.
                datasets["train_plain"] = self._dataset(
                    source, self._eval_crop, chosen, labels[chosen]
                )
            else:
                datasets[name] = self._dataset(source, self._eval_crop, None, labels)
        self.report.add(datasets["train"].check())
        if self._split_file is not None:
            train = datasets["train"]
            self._save_split(sets, [train.source.key(int(index)) for index in train.indices])
        self.datasets = datasets

    def _save_split(
        self, sets: Mapping[str, Sequence[tuple[str, str, str]]], labelled: Sequence[str]
    ) -> None:
        if self._split_file is None or Path(self._split_file).exists():
            return
        save_split(
            self._split_file,
            {name: [key for key, _, _ in images] for name, images in sets.items()},
            classes=self.classes,
            seed=self.seed,
            label_fraction=self._label_fraction,
            labelled=list(labelled),
        )


class ImageFolderDataModule(_ClassificationDataModule):
    """Images in a folder for each class.

    Batches are those of :func:`~rsvheat.data.collate_labelled`. ``loader("train_plain")`` gives the
    training samples without augmentation, in order, for probes and neighbours.

    Args:
        root: Its folders are the classes, in alphabetical order; they are searched deeply.
        val_root: Such a folder for validation, instead of ``val_fraction``.
        test_root: Such a folder for testing, instead of ``test_fraction``.
        val_fraction: Part of each class that is held out for validation.
        test_fraction: Part of each class that is held out for testing.
        split: JSON file that the split is kept in. If it exists, it is the split.
        label_fraction: Part of each class's training images that is used, at least one. With one
            seed, a smaller part is within each larger one.
        modality: What the images are to the encoder.
        sensor: What the files hold; by default 3 bands, normalised by mean and deviation.
        size: Side of the samples in pixels.
        window: Side of what is cut from images to be resized to ``size``; None for the largest
            square.
        scale: Range of a random factor of the window's side, in training.
        augment: Random windows, flips and turns in training.
        batch_size: Samples in a batch of one process.
        num_workers: Processes that read; 0 reads in the main process. Results do not depend on it.
        seed: Of order, augmentation and split.
        on_error: ``"raise"`` an error at the first image that cannot be used, or ``"skip"`` it.
        statistics: JSON file that keeps the statistics of the training images between runs.
        statistics_images: How many images they are computed of.
        pin_memory: Page-locked batches; by default where there is a GPU.
        context: How worker processes start; by default as Python does.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        root: str,
        val_root: str | None = None,
        test_root: str | None = None,
        *,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        split: str | None = None,
        label_fraction: float = 1.0,
        modality: str = "optical",
        sensor: Sensor | None = None,
        size: int = 64,
        window: int | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        augment: bool = True,
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int = 0,
        on_error: OnError = "skip",
        statistics: str | None = None,
        statistics_images: int = 1024,
        pin_memory: bool | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(
            modality,
            sensor or Sensor(3),
            Crop(size, window, scale, augment),
            split,
            label_fraction,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            on_error=on_error,
            statistics=statistics,
            statistics_images=statistics_images,
            pin_memory=pin_memory,
            context=context,
        )
        self._roots = {"train": root, "val": val_root, "test": test_root}
        held_out = {"val": (val_root, val_fraction), "test": (test_root, test_fraction)}
        self._fractions = {n: part for n, (folder, part) in held_out.items() if folder is None}
        stratified_split([0], self._fractions)  # checks them

    def _find(self) -> tuple[list[str], dict[str, list[tuple[str, str, str]]]]:
        found = {
            name: self._images(folder) for name, folder in self._roots.items() if folder is not None
        }
        classes = sorted({label for _, _, label in found["train"]})
        for name, images in found.items():
            unknown = sorted({label for _, _, label in images} - set(classes))
            if unknown:
                raise DataError(
                    f"{self._roots[name]} has the class {unknown[0]!r}, {self._roots['train']} "
                    "does not"
                )
        images = found["train"]
        if self._split_file is not None and Path(self._split_file).exists():
            return classes, {**found, **self._saved(images, classes)}
        parts = stratified_split(
            [classes.index(label) for _, _, label in images], self._fractions, self.seed
        )
        return classes, {**found, **{n: [images[i] for i in part] for n, part in parts.items()}}

    def _images(self, root: str) -> list[tuple[str, str, str]]:
        source = FolderSource({self.modality: root})
        self._scan(source)
        images = []
        for index in range(len(source)):
            key, path = source.key(index), source.file(index, self.modality)
            label, _, name = key.partition("/")
            if not name:
                raise DataError(f"{path} is not in the folder of a class")
            images.append((key, path or "", label))
        return images

    def _saved(
        self, images: Sequence[tuple[str, str, str]], classes: Sequence[str]
    ) -> dict[str, list[tuple[str, str, str]]]:
        """Return the sets of the split file, from the images that are there."""
        content = load_split(self._split_file or "")
        if content["classes"] != list(classes):
            raise DataError(f"{self._split_file} is of other classes: {content['classes']}")
        there = {image[0]: image for image in images}
        names = ["train", *self._fractions]
        sets = {name: content["sets"].get(name, []) for name in names}
        wanted = list(itertools.chain.from_iterable(sets.values()))
        gone = [
            Skip("damaged", key, f"{key} of {self._split_file} is not there")
            for key in wanted
            if key not in there
        ]
        if gone and self.on_error == "raise":
            raise DataError(gone[0].reason)
        self.report.add(gone)
        if new := len(there.keys() - set(wanted)):
            _LOGGER.warning("%d images are not in %s and not used", new, self._split_file)
        return {n: [there[key] for key in keys if key in there] for n, keys in sets.items()}


class TorchGeoDataModule(_ClassificationDataModule):
    """EuroSAT and RESISC45 with TorchGeo's splits (``pip install 'rsvheat[torchgeo]'``).

    Batches and ``loader("train_plain")`` are those of :class:`ImageFolderDataModule`.

    Args:
        name: The dataset.
        root: Its folder, laid out as TorchGeo says.
        download: Let TorchGeo download it if it is not there.
        bands: Names of EuroSAT's bands, by default natural colours: ``["B04", "B03", "B02"]``.
        label_fraction: See :class:`ImageFolderDataModule`; so are the others.
        modality: See there.
        normalize: How values are normalised.
        size: See there; by default 64 for EuroSAT, 224 for RESISC45.
        window: See there.
        scale: See there.
        augment: See there.
        batch_size: See there.
        num_workers: See there.
        seed: See there.
        on_error: See there.
        statistics: See there.
        statistics_images: See there.
        pin_memory: See there.
        context: See there.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        name: Literal["EuroSAT", "RESISC45"],
        root: str,
        *,
        download: bool = False,
        bands: list[str] | None = None,
        label_fraction: float = 1.0,
        modality: str = "optical",
        normalize: Normalize | None = None,
        size: int | None = None,
        window: int | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        augment: bool = True,
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int = 0,
        on_error: OnError = "skip",
        statistics: str | None = None,
        statistics_images: int = 1024,
        pin_memory: bool | None = None,
        context: Context | None = None,
    ) -> None:
        if name not in ("EuroSAT", "RESISC45"):
            raise ValueError(f"name must be EuroSAT or RESISC45, got {name!r}")
        if bands is not None and name != "EuroSAT":
            raise ValueError(f"{name} has no bands to choose from")
        select = None
        if name == "EuroSAT":
            known = load_datasets().EuroSAT.all_band_names
            bands = ["B04", "B03", "B02"] if bands is None else bands
            unknown = [band for band in bands if band not in known]
            if unknown:
                raise ValueError(f"EuroSAT has no band {unknown[0]!r}; it has {', '.join(known)}")
            select = [known.index(band) + 1 for band in bands]
        super().__init__(
            modality,
            Sensor(3 if bands is None else len(bands), select, normalize or Normalize()),
            Crop(size or (64 if name == "EuroSAT" else 224), window, scale, augment),
            None,
            label_fraction,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            on_error=on_error,
            statistics=statistics,
            statistics_images=statistics_images,
            pin_memory=pin_memory,
            context=context,
        )
        self._name, self._root, self._download = name, root, download

    def prepare_data(self) -> None:
        """Download the dataset on one process of a machine, if that is wanted."""
        if self._download:
            self._open("train")

    def _open(self, split: str) -> Any:
        datasets = load_datasets()
        try:
            return getattr(datasets, self._name)(self._root, split, download=self._download)
        except datasets.DatasetNotFoundError as error:
            raise DataError(f"{self._root} does not hold {self._name}: {error}") from error

    def _find(self) -> tuple[list[str], dict[str, list[tuple[str, str, str]]]]:
        sets = {}
        classes: list[str] = []
        for split in ("train", "val", "test"):
            dataset = self._open(split)
            classes = list(dataset.classes)
            sets[split] = [
                (f"{classes[label]}/{Path(path).stem}", path, classes[label])
                for path, label in dataset.samples
            ]
        return classes, sets
