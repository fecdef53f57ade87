# SPDX-License-Identifier: Apache-2.0
"""Samples as tensors, and batches of them."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsvheat.data.normalize import Normalizer, Sensor
from rsvheat.data.report import DataError, OnError, SampleError, Skip
from rsvheat.data.samplers import SampleIndex
from rsvheat.data.sources import Indices, Source, common_size
from rsvheat.data.transforms import Crop

# The label of samples that others have already, see ResumableSampler: scores leave them out.
REPEATED = -1

_EXTRA = ("key", "label", "skipped")


class ImageDataset(Dataset[dict[str, Any]]):
    """Samples of a source: read, cropped, normalised and turned.

    A sample is a dict: modality to (C, size, size) float32, ``"key"``, ``"label"`` where there are
    labels. It depends on the arguments, the epoch and the index only, not on the process that
    makes it or on what was made before.

    What cannot be used is left out by default, and another sample, drawn from the same epoch and
    index, takes its place: batches keep their size. With ``replace=False``, for evaluation, batches
    become smaller instead, except that one sample takes the place of a batch of which nothing is
    left. Both say so in the entry ``"skipped"`` of a sample, which :class:`SkipReport` collects.

    Args:
        source: The data, scanned.
        sensors: By modality.
        normalizers: By modality.
        crop: What becomes a sample of an image.
        indices: Which samples of the source; None for all. Indices below count these.
        labels: Of the samples that ``indices`` chooses.
        seed: Of all that is random.
        on_error: ``"raise"`` a DataError instead of leaving out what cannot be used.
        replace: See above.
        attempts: After so many samples of which none can be used, there is an error.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        source: Source,
        sensors: Mapping[str, Sensor],
        normalizers: Mapping[str, Normalizer],
        crop: Crop,
        *,
        indices: Indices | None = None,
        labels: Indices | None = None,
        seed: int = 0,
        on_error: OnError = "skip",
        replace: bool = True,
        attempts: int = 100,
    ) -> None:
        for what in (sensors, normalizers):
            missing = set(source.modalities) - set(what)
            if missing:
                raise ValueError(f"no sensor or normalizer is given for {sorted(missing)}")
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "skip" or "raise", got {on_error!r}')
        self.source, self.crop = source, crop
        self.sensors, self.normalizers = dict(sensors), dict(normalizers)
        # An array: a list of Python numbers would be copied page by page into each worker.
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        if len(self.indices) == 0:
            raise ValueError("there are no samples")
        if self.labels is not None and len(self.labels) != len(self.indices):
            raise ValueError(f"{len(self.labels)} labels for {len(self.indices)} samples")
        self.seed, self.on_error, self.replace, self.attempts = seed, on_error, replace, attempts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    @property
    def blocks(self) -> list[int]:
        """The source's blocks, as far as they are in the dataset; for its sampler."""
        ends = np.cumsum(self.source.blocks)
        if not len(ends) or (np.diff(self.indices) < 0).any():
            return []
        sizes = np.diff(np.searchsorted(self.indices, ends), prepend=0)
        return [size for size in sizes.tolist() if size]

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        """Return a sample, or another in its place.

        Args:
            index: From 0; with the epoch, or of epoch 0.

        Raises:
            DataError: If it cannot be used and ``on_error`` is ``"raise"``, or if none of many
                others can.
        """
        where = index if isinstance(index, tuple) else SampleIndex(0, index)
        skipped: list[Skip] = []
        sample = self._try(where, skipped)
        draws = np.random.default_rng([self.seed, where.epoch, where.sample])
        while sample is None:
            if len(skipped) >= self.attempts:
                raise DataError(
                    f"none of {len(skipped)} samples tried can be used; the first of them: "
                    f"{skipped[0].reason}"
                )
            other = where._replace(sample=int(draws.integers(len(self))))
            sample = self._try(other, skipped, len(skipped))
        if skipped:
            sample["skipped"] = skipped
        return sample

    def __getitems__(self, indices: Sequence[int | SampleIndex]) -> list[dict[str, Any]]:
        """Return the samples of a batch; the loader calls this."""
        if self.replace:
            return [self[index] for index in indices]
        skipped: list[Skip] = []
        wheres = [i if isinstance(i, tuple) else SampleIndex(0, i) for i in indices]
        samples = [s for s in (self._try(where, skipped) for where in wheres) if s is not None]
        if not samples:
            return [self[wheres[0]]]
        if skipped:
            samples[0]["skipped"] = skipped
        return samples

    def check(self) -> list[Skip]:
        """Make sure that some sample can be used, before workers start.

        Returns:
            What was tried before one could.

        Raises:
            DataError: As for a sample.
        """
        return list(self[SampleIndex(0, 0)].get("skipped", ()))

    def _try(
        self, where: SampleIndex, skipped: list[Skip], attempt: int = 0
    ) -> dict[str, Any] | None:
        if not 0 <= where.sample < len(self):
            raise IndexError(f"there is no sample {where.sample} among {len(self)}")
        index = int(self.indices[where.sample])
        try:
            seed = [self.seed, where.epoch, where.sample, attempt]
            sample = self._make(index, np.random.default_rng(seed))
        except SampleError as error:
            key = self.source.key(index)
            if self.on_error == "raise":
                raise DataError(f"{error.reason} (sample {key})") from error
            skipped.append(Skip(error.kind, key, error.reason))
            return None
        if self.labels is not None:
            sample["label"] = REPEATED if where.repeated else int(self.labels[where.sample])
        return sample

    def _make(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        readers = {}
        try:
            for modality in self.source.present(index):
                readers[modality] = self.source.open(index, modality)
            if not readers:
                raise SampleError("unmatched", "none of the modalities is there")
            sizes = {reader.name: (reader.height, reader.width) for reader in readers.values()}
            height, width = common_size(sizes)
            best, most = None, 0.0
            for _ in range(self.crop.draws):
                window = self.crop.choose(height, width, rng)
                pixels = {
                    name: self.sensors[name].read(reader, window)
                    for name, reader in readers.items()
                }
                part = min(
                    1.0 if p.valid is None else float(p.valid.mean()) for p in pixels.values()
                )
                if part > most:
                    best, most = pixels, part
                if most >= max(self.crop.min_valid, np.finfo(float).tiny):
                    break
            if best is None:
                raise SampleError("empty", f"{', '.join(sizes)}: no valid pixel in the window")
        finally:
            for reader in readers.values():
                reader.close()
        images = {name: self.normalizers[name](value) for name, value in best.items()}
        sample: dict[str, Any] = dict(self.crop.finish(images, rng))
        sample["key"] = self.source.key(index)
        return sample


def collate_modalities(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples, each of which has some of the modalities.

    Args:
        samples: What :class:`ImageDataset` gives: modality to (C, H, W), and ``"key"``.

    Returns:
        ``"images"``: modality to (n, C, H, W) of the n samples that have it, in alphabetical order;
        ``"index"``: modality to int64 (n,), the positions of these in ``samples``, ascending;
        ``"size"``: the number of samples; ``"keys"``: their keys. Where samples were left out,
        ``"skipped"`` is a list of :class:`Skip`.

    Raises:
        ValueError: If there is no sample, or images of a modality differ in shape.
    """
    names = sorted({name for sample in samples for name in sample if name not in _EXTRA})
    index = {
        name: [position for position, sample in enumerate(samples) if name in sample]
        for name in names
    }
    return {
        "images": {
            name: _stack([samples[position][name] for position in index[name]], name)
            for name in names
        },
        "index": {name: torch.tensor(positions) for name, positions in index.items()},
        **_common(samples),
        "size": len(samples),
    }


def collate_labelled(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of labelled samples of one modality.

    Args:
        samples: What :class:`ImageDataset` gives with labels.

    Returns:
        ``"image"``: (B, C, H, W); ``"label"``: int64 (B,), ``REPEATED`` for samples that another
        process has, which there are in evaluation by several processes only; ``"keys"``; where
        samples were left out, ``"skipped"`` is a list of :class:`Skip`.

    Raises:
        ValueError: If there is no sample, or images differ in modality or shape.
    """
    names = {name for sample in samples for name in sample if name not in _EXTRA}
    if len(names) > 1:
        raise ValueError(f"labelled samples must be of one modality, got {sorted(names)}")
    return {
        "image": _stack([sample[name] for sample in samples for name in names], "samples"),
        "label": torch.tensor([sample["label"] for sample in samples]),
        **_common(samples),
    }


def _stack(images: list[Tensor], name: str) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"images of {name} must be of one shape, got {sorted(shapes)}")
    return torch.stack(images)


def _common(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not samples:
        raise ValueError("samples must not be empty")
    skipped = [skip for sample in samples for skip in sample.get("skipped", ())]
    common: dict[str, Any] = {"keys": [sample["key"] for sample in samples]}
    return {**common, "skipped": skipped} if skipped else common
