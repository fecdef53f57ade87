# SPDX-License-Identifier: Apache-2.0
"""Inputs and results of ``rsvheat.checkpoint.TrainedModel.predict``."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from rsvheat.data import DataError, ImageReader, Normalizer, Sensor, Window, open_image
from rsvheat.data.readers import ArrayReader
from rsvheat.data.spec import IGNORE_INDEX

Image: TypeAlias = str | os.PathLike[str] | NDArray[Any] | Tensor
Images: TypeAlias = Image | Mapping[str, Image] | Sequence[Image | Mapping[str, Image]]


@dataclass(frozen=True)
class ClassPrediction:
    """The class of an image.

    Attributes:
        label: Name of the most probable class.
        probability: Probability of that class.
        probabilities: Probabilities by name, in the order of the network's classes.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]

    @classmethod
    def of(cls, probabilities: Tensor, classes: Sequence[str]) -> "ClassPrediction":
        """Return the prediction of one image.

        Args:
            probabilities: Probabilities (classes,).
            classes: Names of the classes by number.
        """
        values = probabilities.tolist()
        best = int(np.argmax(values))
        return cls(classes[best], values[best], dict(zip(classes, values, strict=True)))

    def __str__(self) -> str:
        """Return the most probable classes in one line."""
        best = sorted(self.probabilities.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{name} {value:.1%}" for name, value in best)


@dataclass(frozen=True)
class MaskPrediction:
    """The class of each pixel of an image.

    Attributes:
        labels: Number of the most probable class (H, W), uint8; 255 where the image has no data.
        probabilities: Probabilities (classes, H, W), float32.
        classes: Names of the classes by number.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls, probabilities: Tensor, valid: NDArray[np.bool_] | None, classes: Sequence[str]
    ) -> "MaskPrediction":
        """Return the prediction of one image.

        Args:
            probabilities: Probabilities (classes, H, W).
            valid: Where the image holds data (H, W); None for everywhere.
            classes: Names of the classes by number.
        """
        values = probabilities.cpu().numpy()
        labels = values.argmax(0).astype(np.uint8)
        if valid is not None:
            labels[~valid] = IGNORE_INDEX
        return cls(labels, values, tuple(classes))

    def __str__(self) -> str:
        """Return the shares of the largest classes in one line."""
        counts = np.bincount(self.labels[self.labels != IGNORE_INDEX], minlength=1)
        best = [i for i in np.argsort(-counts, kind="stable")[:3] if counts[i]]
        shares = [f"{self.classes[i]} {counts[i] / counts.sum():.1%}" for i in best]
        return ", ".join(shares) or "no data"


@dataclass(frozen=True)
class BoxPrediction:
    """The objects in an image, most certain first.

    Attributes:
        boxes: Horizontal boxes (N, 4) as left, top, right, bottom, or oriented ones (N, 5) as
            center x, center y, width, height, angle counter-clockwise in degrees; in pixels.
        scores: Scores (N,).
        labels: Numbers of the classes (N,).
        classes: Names of the classes by number.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, found: Mapping[str, Tensor], classes: Sequence[str]) -> "BoxPrediction":
        """Return the prediction of one image.

        Args:
            found: Tensors ``boxes``, ``scores`` and ``labels`` in any order of objects.
            classes: Names of the classes by number.
        """
        order = found["scores"].argsort(descending=True, stable=True)
        boxes, scores, labels = (
            found[name][order].cpu().numpy() for name in ("boxes", "scores", "labels")
        )
        return cls(boxes, scores, labels, tuple(classes))

    def __str__(self) -> str:
        """Return the number of objects of each class in one line."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        found = [f"{n} {name}" for n, name in zip(numbers, self.classes, strict=True) if n]
        return ", ".join(found) or "nothing found"


Prediction: TypeAlias = ClassPrediction | MaskPrediction | BoxPrediction


@dataclass(frozen=True)
class Sample:
    """An image that is ready for the network.

    Attributes:
        name: Name of the image in errors.
        images: Normalized images by modality (bands, H, W), of one size.
        valid: Where one of the images holds data (H, W); None for everywhere.
    """

    name: str
    images: Mapping[str, Tensor]
    valid: NDArray[np.bool_] | None


@dataclass(frozen=True)
class SampleReader:
    """Makes samples of paths, arrays and tensors.

    Attributes:
        modalities: Number of bands by modality.
        normalizers: Normalization by modality.
        window: Function of (height, width) that returns the part of an image to be predicted.
        size: Height and width that this part is resized to; None leaves it as it is.
    """

    modalities: Mapping[str, int]
    normalizers: Mapping[str, Normalizer]
    window: Callable[[int, int], Window]
    size: tuple[int, int] | None

    def __call__(self, images: Images) -> tuple[Iterator[Sample], bool]:
        """Return samples, read one after the other, and whether it is one image without a list.

        Args:
            images: One image or several, see ``rsvheat.checkpoint.TrainedModel.predict``.

        Raises:
            ValueError: If an image has other bands or dimensions than the network takes.
            TypeError: If an image is something else.
            FileNotFoundError: If there is no such file.
            DataError: If a file is damaged, or has no data.
        """
        if isinstance(images, list | tuple):
            return (sample for image in images for sample in self(image)[0]), False
        if not isinstance(images, Mapping):
            image = cast(Image, images)
            images = {self._modality(image): image}
        if not images or images.keys() - self.modalities.keys():
            raise ValueError(f"images are given for {list(images)}, and {self._takes()}")
        parts = {name: list(self._parts(name, image)) for name, image in images.items()}
        numbers = {name: len(found) for name, found in parts.items()}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"modalities must have as many images each, got {numbers}")
        single = all(getattr(image, "ndim", 3) == 3 for image in images.values())
        rows = zip(*parts.values(), strict=True)
        return (_joined(dict(zip(parts, row, strict=True))) for row in rows), single

    def _parts(self, modality: str, image: Image) -> Iterator[Sample]:
        """Yield the images of a modality one by one."""
        if isinstance(image, str | os.PathLike):
            with open_image(image) as reader:
                yield self._read(modality, reader)
            return
        for i, one in enumerate(self._batch(modality, image)):
            name = f"{modality} image {i}"
            if isinstance(one, Tensor):
                top, left, height, width = self.window(*one.shape[-2:])
                part = one[:, top : top + height, left : left + width]
                yield Sample(name, {modality: self._sized(part)}, None)
            else:
                valid = ~np.ma.getmaskarray(one) if np.ma.isMaskedArray(one) else None
                yield self._read(modality, ArrayReader(np.ma.getdata(one), valid, name))

    def _batch(self, modality: str, image: Any) -> Any:
        """Return an array or a tensor as a batch."""
        if not isinstance(image, np.ndarray | Tensor):
            raise TypeError(
                f"an image must be a path, a NumPy array or a tensor, got {type(image).__name__}"
            )
        shape, bands = tuple(image.shape), self.modalities[modality]
        if len(shape) not in (3, 4) or shape[-3] != bands or 0 in shape:
            hint = ": bands come before rows and columns" if shape[-1:] == (bands,) else ""
            raise ValueError(
                f"{modality} images must be ({bands}, H, W) or (B, {bands}, H, W), got {shape}"
                f"{hint}"
            )
        if isinstance(image, Tensor) and not (image.is_floating_point() and image.isfinite().all()):
            raise ValueError(
                "a tensor holds normalized values, which are floating-point and finite; got "
                f"{image.dtype}. Values as files hold them are given as a NumPy array"
            )
        return image[None] if len(shape) == 3 else image

    def _read(self, modality: str, reader: ImageReader) -> Sample:
        window = self.window(reader.height, reader.width)
        pixels = Sensor(self.modalities[modality]).read(reader, window)
        valid = None if pixels.valid is None else np.logical_or.reduce(pixels.valid)
        if valid is not None and not valid.any():
            raise DataError(f"{reader.name} has no data")
        image = self._sized(self.normalizers[modality](pixels))
        return Sample(reader.name, {modality: image}, valid)

    def _sized(self, image: Tensor) -> Tensor:
        return image if self.size is None else resized(image[None], self.size)[0]

    def _modality(self, image: Image) -> str:
        """Return the modality of an image that is given without one."""
        if len(self.modalities) == 1:
            return next(iter(self.modalities))
        if isinstance(image, str | os.PathLike):
            with open_image(image) as reader:
                bands = reader.bands
        else:
            bands = image.shape[-3] if getattr(image, "ndim", 0) >= 3 else 0
        fitting = [name for name, number in self.modalities.items() if number == bands]
        if len(fitting) != 1:
            first = next(iter(self.modalities))
            raise ValueError(
                f"an image of {bands} bands is given, and {self._takes()}: give a dictionary by "
                f"modality, such as {{{first!r}: image}}"
            )
        return fitting[0]

    def _takes(self) -> str:
        bands = [f"{name} ({number} bands)" for name, number in self.modalities.items()]
        return f"the network takes {', '.join(bands)}"


def _joined(parts: Mapping[str, Sample]) -> Sample:
    """Return one sample of several modalities."""
    images = {name: part.images[name] for name, part in parts.items()}
    sizes = {part.name: tuple(images[name].shape[-2:]) for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"images of a sample must be of one size, got {sizes}")
    masks = [part.valid for part in parts.values() if part.valid is not None]
    valid = np.logical_or.reduce(masks) if len(masks) == len(parts) else None
    return Sample(" and ".join(part.name for part in parts.values()), images, valid)


def batches(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Group consecutive samples of the same modalities and sizes.

    Args:
        samples: Samples.
        most: Largest number of samples in a batch.
    """
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == most or _shapes(sample) != _shapes(batch[0])):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _shapes(sample: Sample) -> dict[str, torch.Size]:
    return {name: image.shape for name, image in sample.images.items()}


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images at another size, bilinear and free of aliases.

    Args:
        images: Images (B, C, H, W).
        size: Height and width in pixels.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return interpolate(images, size, mode="bilinear", antialias=True)


def averaged_turns(
    predict: Callable[[Mapping[str, Tensor]], Tensor], images: Mapping[str, Tensor]
) -> Tensor:
    """Return the mean prediction of the 8 flipped and rotated versions of images.

    Args:
        predict: Function from images to probabilities (B, K, H, W).
        images: Images by modality (n, bands, H, W).

    Returns:
        Mean probabilities (B, K, H, W), each version turned back.
    """
    total: Any = 0
    for flip in (False, True):
        for turns in range(4):
            versions = {
                name: torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))
                for name, image in images.items()
            }
            output = torch.rot90(predict(versions), -turns, (-2, -1))
            total = total + (output.flip(-1) if flip else output)
    mean: Tensor = total / 8
    return mean


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Return ``softmax(logits / temperature)`` from ``softmax(logits)``.

    It calibrates how certain predictions are, and changes no prediction.

    Args:
        probabilities: Probabilities (B, K, ...), which add up to 1 over the K classes.
        temperature: Temperature; above 1 predictions become less certain.

    Source: Guo et al. (arXiv 1706.04599), section 4.2, temperature scaling.
    """
    if temperature == 1:
        return probabilities
    return (probabilities.log() / temperature).softmax(1)
