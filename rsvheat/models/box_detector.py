# SPDX-License-Identifier: Apache-2.0
"""The base of networks that find boxes: encoder, feature pyramid and the parts of a detector."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from rsvheat.models.detection_pyramid import Coarse, DetectionPyramid, Stride
from rsvheat.models.encoder import RSVHeat
from rsvheat.models.features import (
    Encoder,
    FeaturePyramid,
    Fusion,
    MeanFusion,
    build_encoder,
    keep_maps_only,
)
from rsvheat.models.task_model import TaskModel
from rsvheat.postprocess import Selection

# Boxes, labels and scores of an image by these names.
Found: TypeAlias = dict[str, Tensor]

# Ratios of height to width of anchors.
RATIOS = (0.5, 1.0, 2.0)
# Bins of a region along each side.
BINS = 7
# Channels of the layers on regions, for each channel of the pyramid.
HIDDEN = 4
# Boxes with a shorter side, in pixels, are no objects: their logarithms would be of no use.
SMALLEST_SIDE = 1e-2


class DetectorOutput(NamedTuple):
    """Result of a detector, of which losses or boxes are computed.

    Attributes:
        maps: Levels of the feature pyramid, (B, channels, h, w), the finest first.
        dense: Result of the layers on every element of the levels, by name (B, anchors, numbers).
        shape: Height and width of the images.
    """

    maps: list[Tensor]
    dense: dict[str, Tensor]
    shape: tuple[int, int]


class Target(NamedTuple):
    """Annotated boxes of an image.

    Attributes:
        boxes: Boxes (N, 4) or (N, 5), all with an area.
        labels: Numbers of the classes, int64 (N,).
    """

    boxes: Tensor
    labels: Tensor


class BoxHead(nn.Module, ABC):
    """The parts of a detector behind the feature pyramid.

    Attributes:
        coarse: How the pyramid's coarse levels are made.
        finest: Stride of the pyramid's finest level by default.
        stages: Number of stages; with two, the boxes are refined proposals.
    """

    coarse: ClassVar[Coarse]
    finest: ClassVar[Stride]
    stages: ClassVar[int] = 1

    @abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what the layers on every element give, by name (B, anchors, numbers).

        Args:
            maps: Levels of the feature pyramid.
        """

    @abstractmethod
    def losses(self, output: DetectorOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses, each of which counts once, by name.

        Args:
            output: Levels, and the result of ``forward`` for them.
            targets: Annotation of each image; images may have no boxes.
        """

    @abstractmethod
    def detect(self, output: DetectorOutput) -> list[Found]:
        """Return the boxes of each image by decreasing score.

        Args:
            output: Levels, and the result of ``forward`` for them.
        """

    @abstractmethod
    def candidates(self, output: DetectorOutput) -> tuple[Tensor, Tensor]:
        """Return the boxes that ``detect`` chooses from, as many for every image.

        Args:
            output: Levels, and the result of ``forward`` for them.

        Returns:
            Boxes (B, N, 4 or 5), or (B, N, classes, 4) if each class has its own; and scores (B, N,
            classes), 0 for rows without a box.
        """

    @abstractmethod
    def selection(self, anchors: Sequence[int]) -> Selection:
        """Return how ``detect`` chooses among ``candidates``.

        Args:
            anchors: Number of anchors of each level.
        """


class BoxDetector(TaskModel):
    """Encoder, feature pyramid and the parts of a detector, for one or several sensors.

    Images are normalized before they come here and may be of any size and number of bands. Sensors
    may be left out, or have images of some samples, as for
    ``rsvheat.models.segmentation.SegmentationModel``.

    Args:
        encoder: Encoder, of which the parts that its maps do not need are removed.
        num_classes: Number of classes, 1 at least.
        detector: Name of the detector, a key of ``heads``.
        channels: Number of channels of the pyramid and of the convolutions on it.
        finest: Stride of the pyramid's finest level, 4 or 8; that of the detector by default. 4
            finds smaller objects, at the cost of four times as many anchors.
        fusion: How the maps of several sensors become one, see
            ``rsvheat.models.features.FeaturePyramid``.
        modality_dropout: Probability with which a sample of several sensors loses some of them in
            training, see ``rsvheat.models.features.FeaturePyramid``.
        **options: Further arguments of the detector, plain values.

    Attributes:
        heads: Class of the parts behind the pyramid by the name of the detector.
        numbers: Numbers of a box, 4 or 5.

    Raises:
        ValueError: If an argument is not as above.
    """

    heads: ClassVar[Mapping[str, type[BoxHead]]]
    numbers: ClassVar[int]

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        detector: str,
        channels: int = 256,
        finest: Stride | None = None,
        fusion: Fusion = "gate",
        modality_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if detector not in self.heads:
            raise ValueError(f"detector must be one of {', '.join(self.heads)}, got {detector!r}")
        keep_maps_only(encoder)
        # A TimmEncoder has what task models use of an encoder.
        super().__init__(
            cast(RSVHeat, encoder),
            num_classes,
            detector=detector,
            channels=channels,
            finest=finest,
            fusion=fusion,
            modality_dropout=modality_dropout,
            **options,
        )
        kind = self.heads[detector]
        self.features = FeaturePyramid(encoder, fusion, modality_dropout)
        self.pyramid = DetectionPyramid(encoder.dims, channels, finest or kind.finest, kind.coarse)
        self._drop_unused(encoder)
        build: Any = kind
        self.head: BoxHead = build(channels, num_classes, self.pyramid.strides, **options)

    def _drop_unused(self, encoder: Encoder) -> None:
        """Remove norms of maps that are not used: DDP waits for ever for their gradients."""
        for i in range(self.pyramid.unused):
            self.features.norms[i] = nn.Identity()
            if self.features.fusions:
                self.features.fusions[i] = MeanFusion(encoder.dims[i], list(encoder.modalities))
            if isinstance(encoder, RSVHeat) and encoder.output_norms is not None:
                encoder.output_norms[i] = nn.Identity()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the network with fresh weights.

        Args:
            config: Value of ``config``.
        """
        encoder = build_encoder(config["encoder"])
        return cls(cast(RSVHeat, encoder), config["num_classes"], **config["options"])

    def forward(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> DetectorOutput:
        """Return what ``losses`` and ``detect`` take.

        Args:
            images: Images by modality, (n, bands, H, W), normalized, of any H and W.
            index: Samples of the batch that the images of each modality show, int64 (n,); None
                where they all show all samples.
            size: Number of samples, B; by default one more than the largest of ``index``.

        Raises:
            ValueError: If the images do not fit the model.
        """
        maps = self.pyramid(self.features(self.encoder, images, index, size))
        height, width = next(iter(images.values())).shape[2:]
        return DetectorOutput(maps, self.head(maps), (height, width))

    def losses(
        self, output: DetectorOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of a batch by name; their sum is to be minimized.

        Anchors and proposals are sampled with torch's default generator.

        Args:
            output: Result of the network, in either mode.
            boxes: Annotated boxes of each image, (N, 4) XYXY or (N, 5) CXCYWHR in pixels and
                degrees; N may be 0. Boxes without an area are left out.
            labels: Numbers of their classes, int64 (N,).

        Raises:
            ValueError: If a shape, a box or a label is not as above.
        """
        batch = len(output.maps[0])
        if not len(boxes) == len(labels) == batch:
            raise ValueError(
                f"boxes and labels must be of {batch} images, got {len(boxes)} and {len(labels)}"
            )
        targets = [self._target(*one) for one in zip(boxes, labels, strict=True)]
        return self.head.losses(output, targets)

    def _target(self, boxes: Tensor, labels: Tensor) -> Target:
        boxes, labels = (x.as_subclass(Tensor) for x in (boxes, labels))
        if boxes.dim() != 2 or boxes.shape[1] != self.numbers or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"boxes must have shape (N, {self.numbers}) and labels (N,), got "
                f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if len(boxes) == 0:
            return Target(boxes.float(), labels)
        lowest, highest = (int(value) for value in labels.aminmax())
        if lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"labels must be within 0 to {self.num_classes - 1}, got {lowest} to {highest}"
            )
        if not boxes.isfinite().all():
            raise ValueError("boxes must be finite, got NaN or infinity")
        boxes = boxes.float()
        sides = boxes[:, 2:4] - boxes[:, :2] if self.numbers == 4 else boxes[:, 2:4]
        kept = (sides >= SMALLEST_SIDE).all(1)
        return Target(boxes[kept], labels[kept])

    def detect(self, output: DetectorOutput) -> list[Found]:
        """Return the boxes of each image, as ``predict`` does.

        Args:
            output: Result of the network, in either mode.
        """
        with torch.no_grad():
            return self.head.detect(output)

    def predict(
        self,
        images: Mapping[str, Tensor],
        index: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> list[Found]:
        """Return a dictionary of each image, with its boxes by decreasing score.

        Args:
            images: Images as for ``forward``.
            index: Samples as for ``forward``.
            size: Number of samples as for ``forward``.

        Returns:
            ``boxes`` (N, 4) XYXY or (N, 5) CXCYWHR in pixels and degrees, ``scores`` (N,) within 0
            to 1, and ``labels`` (N,). An image for which the network's values are not finite has
            one box of NaN, so that this does not pass for an image without objects.
        """
        return self.detect(self(images, index, size))


def mark_not_finite(found: list[Found], *values: Tensor) -> list[Found]:
    """Put one box of NaN in place of those of images with values that are not finite.

    Args:
        found: Boxes of each image.
        values: Values of the network, (B, ...).
    """
    good = torch.stack([x.flatten(1).isfinite().all(1) for x in values]).all(0)
    for row, fine in enumerate(good.tolist()):
        if not fine:
            boxes = found[row]["boxes"]
            found[row] = {
                "boxes": boxes.new_full((1, boxes.shape[1]), torch.nan),
                "scores": boxes.new_full((1,), torch.nan),
                "labels": torch.zeros(1, dtype=torch.int64, device=boxes.device),
            }
    return found


def check_thresholds(score_threshold: float, nms_threshold: float, **counts: int) -> None:
    """Check that thresholds lie within 0 to 1, and that numbers are positive.

    Args:
        score_threshold: Lowest score of boxes.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        **counts: Numbers by the name of the argument.

    Raises:
        ValueError: If a value does not.
    """
    for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be within 0 to 1, got {value}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
