# SPDX-License-Identifier: Apache-2.0
"""Samples as tensors, and batches of them.

A batch is a dictionary:

- ``images``: by modality, float32 (n, C, H, W), normalized, of the n samples that have it
- ``valid``: by modality, bool (n, 1, H, W), False where the file holds no data
- ``index``: by modality, int64 (n,), positions of these n samples in the batch, ascending
- ``label``, of target ``"label"``: int64 (B,); ``IGNORE_LABEL`` for samples that are repeated
- ``mask``, of target ``"mask"``: int64 (B, H, W); ``IGNORE_INDEX`` for pixels without a class, for
  pixels without data in every modality, and for samples that are repeated
- ``boxes``, of targets ``"boxes"`` and ``"oriented_boxes"``: a list of B
  ``tv_tensors.BoundingBoxes`` (XYXY or CXCYWHR) in pixels of the sample, float32; an image may have
  none
- ``labels``, beside ``boxes``: a list of B int64 (number of boxes,)
- ``difficult``, beside ``boxes``: a list of B bool (number of boxes,), True for boxes that scores
  neither count as found nor as missed
- ``repeated``: bool (B,): samples that another process or batch has, too; not to be scored
- ``size``: B
- ``keys``: a list of B names
- ``skipped``: a list of ``Skip``, only where samples were left out
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rsvheat.data.boxes import BOX_TARGETS, Boxes
from rsvheat.data.image_reader import ImageReader, Pixels, Window
from rsvheat.data.normalize import Normalizer, Sensor
from rsvheat.data.samplers import SampleIndex
from rsvheat.data.skip_report import DataError, OnError, SampleError, Skip
from rsvheat.data.sources import Indices, Source, common_size
from rsvheat.data.spec import IGNORE_INDEX, IGNORE_LABEL
from rsvheat.data.tiles import PaddedReader, read_padded_mask
from rsvheat.data.transforms import Crop


class ImageDataset(Dataset[dict[str, Any]]):
    """Makes samples of a source: reads, crops, normalizes, flips and rotates.

    A sample is a dictionary: ``images`` and ``missing`` (masks of pixels without data, only where
    there are any) by modality, ``key``, ``repeated``, and the target's entries as in a batch. It
    depends on the arguments, the epoch and the index only, not on the process that makes it or on
    what was made before.

    Samples that cannot be used are left out by default, and another sample, drawn from the same
    epoch and index, takes the place: batches keep their size. With ``replace=False``, for
    evaluation, batches become smaller instead, except that one sample takes the place of a batch of
    which nothing is left. Both record it in the entry ``"skipped"`` of a sample, which
    ``SkipReport`` collects.

    Args:
        source: Scanned source of the images and targets.
        sensors: Sensor by modality.
        normalizers: Normalizer by modality.
        crop: Window of each image that becomes a sample.
        indices: Indices of the source's samples to use; None for all. Indices below count these.
        transforms: Further transforms from ``torchvision.transforms.v2``, applied in turn to the
            whole sample with torch's generator seeded for the sample. Where they fill pixels, give
            ``fill={tv_tensors.Mask: 255, "others": 0}`` so that filled pixels count as missing.
        seed: Seed of all randomness.
        on_error: ``"raise"`` a DataError instead of leaving out samples that cannot be used.
        replace: Whether other samples take the place of those left out, see above.
        attempts: Number of unusable samples in a row after which an error is raised.

    Attributes:
        labels: New number of each class of the source, int64; None leaves the source's numbers.

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
        transforms: Sequence[Callable[[Any], Any]] = (),
        seed: int = 0,
        on_error: OnError = "skip",
        replace: bool = True,
        attempts: int = 100,
    ) -> None:
        for given in (sensors, normalizers):
            missing = set(source.modalities) - set(given)
            if missing:
                raise ValueError(f"no sensor or normalizer is given for {sorted(missing)}")
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "skip" or "raise", got {on_error!r}')
        self.source, self.crop, self.transforms = source, crop, list(transforms)
        self.sensors, self.normalizers = dict(sensors), dict(normalizers)
        # An array: a list of Python numbers would be copied page by page into each worker.
        self.indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
        if len(self.indices) == 0:
            raise ValueError("there are no samples")
        self.seed, self.on_error, self.replace, self.attempts = seed, on_error, replace, attempts
        self.labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    @property
    def blocks(self) -> list[int]:
        """Sizes of the source's blocks, as far as they are in the dataset; for its sampler."""
        ends = np.cumsum(self.source.blocks)
        if not len(ends) or (np.diff(self.indices) < 0).any():
            return []
        sizes = np.diff(np.searchsorted(self.indices, ends), prepend=0)
        return [size for size in sizes.tolist() if size]

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        """Return a sample, or another in its place.

        Args:
            index: Index from 0; with the epoch, or in epoch 0.

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
            # The sample in its place is another batch's, too.
            return [{**self[wheres[0]], "repeated": True}]
        if skipped:
            samples[0]["skipped"] = skipped
        return samples

    def check(self) -> list[Skip]:
        """Check that some sample can be used, before workers start.

        Returns:
            Samples that were tried before one could be used.

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
            sample = self._make(index, [self.seed, where.epoch, where.sample, attempt])
        except SampleError as error:
            key = self.source.key(index)
            if self.on_error == "raise":
                raise DataError(f"{error.reason} (sample {key})") from error
            skipped.append(Skip(error.kind, key, error.reason))
            return None
        return {"key": self.source.key(index), "repeated": where.repeated, **sample}

    def _make(self, index: int, seed: list[int]) -> dict[str, Any]:
        from torchvision import tv_tensors  # takes seconds, and prediction does without

        rng = np.random.default_rng(seed)
        window, size, pixels, mask = self._read(index, rng)
        entries: dict[str, Any] = {}
        for name, read in pixels.items():
            entries[f"images.{name}"] = self.normalizers[name](read)
            if read.valid is not None:
                missing = torch.from_numpy(~read.valid.all(0, keepdims=True))
                entries[f"missing.{name}"] = tv_tensors.Mask(missing)
        target = self.source.target
        if mask is not None:
            numbers = self._renumbered(mask)
            entries["mask"] = tv_tensors.Mask(torch.from_numpy(numbers)[None])
        motion = self.crop.draw_motion(rng)
        if motion.angle:
            for name in pixels:  # a rotation uncovers corners that no pixel fills
                none = torch.zeros((1, window.height, window.width), dtype=torch.bool)
                entries.setdefault(f"missing.{name}", tv_tensors.Mask(none))
        fills = {f"images.{name}": self.normalizers[name].fill for name in pixels}
        entries = self.crop.finish(entries, motion, fills)
        if target in BOX_TARGETS:
            found = self.crop.move_boxes(
                self.source.read_target(index, window), window, size, motion, target
            )
            entries["boxes"] = tv_tensors.BoundingBoxes(
                torch.from_numpy(found.boxes),
                format="XYXY" if target == "boxes" else "CXCYWHR",
                canvas_size=(self.crop.size, self.crop.size),
                clamping_mode=None,
            )
            entries["labels"] = torch.from_numpy(self._renumbered(found.labels))
            entries["difficult"] = torch.from_numpy(found.is_difficult)
        if self.transforms:
            entries = self._transformed(entries, seed)
        sample: dict[str, Any] = {"images": {}, "missing": {}}
        for name, entry in entries.items():
            group, _, modality = name.partition(".")
            if modality:
                sample[group][modality] = entry.as_subclass(Tensor)
            else:
                sample[name] = entry
        if target == "mask":
            sample["mask"] = _without_missing(entries["mask"][0].as_subclass(Tensor), sample)
            # The loss of such a crop is 0, and makes that of its batch smaller than it is.
            if self.crop.augment and bool((sample["mask"] == IGNORE_INDEX).all()):
                raise SampleError(
                    "empty",
                    f"no pixel of {self.crop.draws} random windows has both a class and data",
                )
        elif target == "label":
            sample["label"] = int(self._renumbered(self.source.read_target(index, window)))
        return sample

    def _renumbered(self, labels: Any) -> NDArray[np.int64]:
        """Return class numbers as an array of its own, changed as ``labels`` says."""
        values = np.array(labels, np.int64)
        if self.labels is None:
            return values
        known = (
            values != IGNORE_INDEX if self.source.target == "mask" else np.ones_like(values, bool)
        )
        return np.where(known, self.labels[np.where(known, values, 0)], values)

    def _read(
        self, index: int, rng: np.random.Generator
    ) -> tuple[Window, tuple[int, int], dict[str, Pixels], NDArray[np.int64] | None]:
        """Return a window, the size of the images, pixels by modality, and the mask if any.

        Images with masks or boxes that are smaller than the window are padded, as resizing would
        change the scale of what is in them. Whole images with boxes are padded to a square.

        Raises:
            SampleError: If a file cannot be used or the window holds no data.
        """
        masked = self.source.target == "mask"
        readers: dict[str, ImageReader] = {}
        try:
            for modality in self.source.present(index):
                readers[modality] = self.source.open(index, modality)
            if not readers:
                raise SampleError("unmatched", "none of the modalities is there")
            sizes = {reader.name: (reader.height, reader.width) for reader in readers.values()}
            height, width = size = common_size(sizes)
            side = self._least_side(height, width)
            if min(height, width) < side:
                height, width = max(height, side), max(width, side)
                readers = {n: PaddedReader(r, height, width) for n, r in readers.items()}
            best, most = None, (False, False, 0.0)
            for _ in range(self.crop.draws):
                window = self.crop.choose(height, width, rng, self._focus(index, size, rng))
                pixels = {
                    name: self.sensors[name].read(reader, window)
                    for name, reader in readers.items()
                }
                mask = read_padded_mask(self.source, index, window, *size) if masked else None
                part = min(
                    1.0 if p.valid is None else float(p.valid.mean()) for p in pixels.values()
                )
                # A label counts for more than balance, and that for more than data, but a window
                # without data is of no use.
                quality = (self._is_labeled(mask, pixels), self._is_balanced(mask), part)
                if part > 0 and (best is None or quality > most):
                    best, most = (window, size, pixels, mask), quality
                if most[0] and most[1] and most[2] >= self.crop.min_valid:
                    break
            if best is None:
                raise SampleError("empty", f"{', '.join(sizes)}: no valid pixel in the window")
            return best
        finally:
            for reader in readers.values():
                reader.close()

    def _least_side(self, height: int, width: int) -> int:
        """Return the side that images are padded to, 0 where they are not."""
        if self.source.target == "mask":
            return self.crop.window or 0
        if self.source.target in BOX_TARGETS:
            return self.crop.window or max(height, width)
        return 0

    def _focus(
        self, index: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[float, float] | None:
        """Return a point (y, x) that a random window is to contain; None for any window."""
        crop = self.crop
        if self.source.target not in BOX_TARGETS or not crop.augment or not crop.focus:
            return None
        if rng.random() >= crop.focus:
            return None
        found: Boxes = self.source.read_target(index, Window(0, 0, *size))
        if not len(found.labels):
            return None
        label = rng.choice(np.unique(found.labels))
        x, y = found.corners[rng.choice(np.flatnonzero(found.labels == label))].mean(0)
        return float(y), float(x)

    def _is_labeled(self, mask: NDArray[np.int64] | None, pixels: Mapping[str, Pixels]) -> bool:
        """Return whether a pixel of a window for training has both a class and data."""
        if mask is None or not self.crop.augment:
            return True
        labeled = mask != IGNORE_INDEX
        if all(read.valid is not None for read in pixels.values()):
            known = [read.valid.all(0) for read in pixels.values() if read.valid is not None]
            labeled &= np.logical_or.reduce(known)
        return bool(labeled.any())

    def _is_balanced(self, mask: NDArray[np.int64] | None) -> bool:
        if mask is None or self.crop.cat_max == 1 or not self.crop.augment:
            return True
        return self.crop.is_balanced(mask)

    def _transformed(self, entries: dict[str, Any], seed: list[int]) -> dict[str, Any]:
        from torchvision import tv_tensors

        for name, entry in entries.items():
            if name.startswith("images."):
                entries[name] = tv_tensors.Image(entry)
        state = int(np.random.SeedSequence([*seed, 1]).generate_state(1, np.uint64)[0] >> 1)
        # The generator of the process is left as it was: samples depend on their seed only.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            for transform in self.transforms:
                entries = transform(entries)
        return entries


def _without_missing(mask: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """Return a mask in which pixels that hold no data in any modality are ignored."""
    if len(sample["missing"]) < len(sample["images"]):
        return mask
    missing = torch.stack([part[0] != 0 for part in sample["missing"].values()]).all(0)
    return mask.masked_fill(missing, IGNORE_INDEX)


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples, see the top of this module.

    Args:
        samples: Samples of an ``ImageDataset``.

    Returns:
        The batch.

    Raises:
        ValueError: If there is no sample, or images of a modality differ in shape.
    """
    if not samples:
        raise ValueError("samples must not be empty")
    names = sorted({name for sample in samples for name in sample["images"]})
    images, valid, index = {}, {}, {}
    for name in names:
        having = [i for i, sample in enumerate(samples) if name in sample["images"]]
        images[name] = _stack([samples[i]["images"][name] for i in having], name)
        present = torch.ones(len(having), 1, *images[name].shape[-2:], dtype=torch.bool)
        for row, i in enumerate(having):
            if name in samples[i]["missing"]:
                present[row] = samples[i]["missing"][name] == 0
        valid[name], index[name] = present, torch.tensor(having)
    repeated = torch.tensor([bool(sample["repeated"]) for sample in samples])
    batch: dict[str, Any] = {"images": images, "valid": valid, "index": index}
    if "label" in samples[0]:
        labels = torch.tensor([sample["label"] for sample in samples])
        batch["label"] = labels.masked_fill(repeated, IGNORE_LABEL)
    if "mask" in samples[0]:
        masks = _stack([sample["mask"] for sample in samples], "masks")
        batch["mask"] = masks.masked_fill(repeated[:, None, None], IGNORE_INDEX)
    if "boxes" in samples[0]:
        batch["boxes"] = [sample["boxes"] for sample in samples]
        batch["labels"] = [sample["labels"] for sample in samples]
        batch["difficult"] = [sample["difficult"] for sample in samples]
    batch["repeated"] = repeated
    batch["size"], batch["keys"] = len(samples), [sample["key"] for sample in samples]
    skipped = [skip for sample in samples for skip in sample.get("skipped", ())]
    return {**batch, "skipped": skipped} if skipped else batch


def _stack(images: list[Tensor], name: str) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"images of {name} must be of one shape, got {sorted(shapes)}")
    return torch.stack(images)
