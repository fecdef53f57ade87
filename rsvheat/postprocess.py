# SPDX-License-Identifier: Apache-2.0
"""Boxes from the outputs of an exported detector, with NumPy alone.

``rsvheat.export.export_onnx`` ends a detector's graph at the boxes before non-maximum
suppression, which ONNX does not have for oriented boxes. What follows is here, so a detector runs
where onnxruntime and NumPy are, without torch:

    session = onnxruntime.InferenceSession("detector.onnx")
    finish = rsvheat.postprocess.PostProcessing.of(session)
    found = finish(*session.run(["boxes", "scores"], {"images": images}))
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Pixels: boxes with a shorter side are no objects.
_SMALLEST_SIDE = 1e-2
# Entry of an ONNX file's metadata that holds the settings.
METADATA = "rsvheat.postprocess"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rules by which a detector's boxes are chosen among the candidates of an image.

    Args:
        levels: Number of candidates of each level of the feature pyramid, in their order.
        candidates: Largest number of pairs of box and class of a level that are compared, those of
            the highest scores.
        score_threshold: Score that boxes have to exceed.
        nms_threshold: Largest overlap of two boxes of a class that both stay.
        max_detections: Largest number of boxes of an image.
        per_class: Whether each class has a box of its own.
    """

    levels: tuple[int, ...]
    candidates: int
    score_threshold: float
    nms_threshold: float
    max_detections: int
    per_class: bool = False


@dataclass(frozen=True)
class PostProcessing(Selection):
    """Choice of a detector's boxes by score and overlap.

    Args:
        classes: Class names by label.
        oriented: Whether boxes are (N, 5), center x, center y, width, height and angle in degrees,
            counter-clockwise as seen in an image; else (N, 4), left, top, right, bottom.
        **selection: Values of ``Selection``, by name.
    """

    classes: tuple[str, ...]
    oriented: bool

    @classmethod
    def of(cls, session: Any) -> "PostProcessing":
        """Return the settings that an exported detector was trained with.

        Args:
            session: ``onnxruntime.InferenceSession`` of the file.

        Raises:
            ValueError: If the file is not of a detector that rsvheat exported.
        """
        metadata = session.get_modelmeta().custom_metadata_map
        if METADATA not in metadata:
            raise ValueError(f"the ONNX file has no entry {METADATA!r} in its metadata")
        return cls.from_json(metadata[METADATA])

    @classmethod
    def from_json(cls, text: str) -> "PostProcessing":
        """Return the settings that ``to_json`` wrote.

        Args:
            text: Its result.
        """
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("classes", "levels")}
        return cls(**{**values, **lists})

    def to_json(self) -> str:
        """Return the settings as JSON, for a file's metadata."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def __call__(self, boxes: ArrayLike, scores: ArrayLike) -> list[dict[str, NDArray[Any]]]:
        """Return the boxes of each image, by decreasing score.

        Args:
            boxes: Boxes of all levels, (B, A, 4) or (B, A, 5); with ``per_class`` (B, A, classes,
                4) or (B, A, classes, 5).
            scores: Scores of each class, (B, A, classes).

        Returns:
            Of each image ``boxes`` (N, 4) or (N, 5), ``scores`` (N,) and ``labels`` (N,). An image
            for which a score is NaN has one box of NaN, so that this does not pass for an image
            without objects.

        Raises:
            ValueError: If a shape is not as above.
        """
        boxes, scores = np.asarray(boxes), np.asarray(scores)
        anchors, numbers = sum(self.levels), 5 if self.oriented else 4
        shape = (anchors, len(self.classes), numbers) if self.per_class else (anchors, numbers)
        if boxes.ndim != len(shape) + 1 or boxes.shape[1:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"boxes must have shape (B, {expected}), got {boxes.shape}")
        if scores.shape != (len(boxes), anchors, len(self.classes)):
            raise ValueError(
                f"scores must have shape ({len(boxes)}, {anchors}, {len(self.classes)}), got "
                f"{scores.shape}"
            )
        return [self._choose(*one) for one in zip(boxes, scores, strict=True)]

    def _choose(self, boxes: NDArray[Any], scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if not np.isfinite(scores).all():
            return {
                "boxes": np.full((1, boxes.shape[-1]), np.nan, boxes.dtype),
                "scores": np.full(1, np.nan, scores.dtype),
                "labels": np.zeros(1, np.int64),
            }
        chosen, begin = [np.zeros(0, np.int64)], 0
        for count in self.levels:
            values = scores[begin : begin + count].ravel()
            places = np.flatnonzero(values > self.score_threshold)
            best = np.argsort(-values[places], kind="stable")[: self.candidates]
            chosen.append(begin * len(self.classes) + places[best])
            begin += count
        rows, labels = np.divmod(np.concatenate(chosen), len(self.classes))
        found = boxes[rows, labels] if self.per_class else boxes[rows]
        values = scores[rows, labels]
        good = np.isfinite(found).all(1)
        if self.per_class:
            good &= self._filled(found)
        found, values, labels = found[good], values[good], labels[good]
        kept = nms(found, values, labels, self.nms_threshold)[: self.max_detections]
        if not self.per_class:
            kept = kept[self._filled(found[kept])]
        return {"boxes": found[kept], "scores": values[kept], "labels": labels[kept]}

    def _filled(self, boxes: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which boxes have an area: what lies beyond the image was clipped to nothing."""
        if self.oriented:
            return np.ones(len(boxes), bool)
        return np.asarray((boxes[:, 2:] - boxes[:, :2] >= _SMALLEST_SIDE).all(1))


def nms(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, iou_threshold: float
) -> NDArray[np.int64]:
    """Select boxes by greedy non-maximum suppression within each class.

    Args:
        boxes: Boxes, (N, 4) as left, top, right, bottom, or (N, 5) as for ``box_iou_rotated``.
        scores: Scores, (N,).
        labels: Classes, (N,).
        iou_threshold: Largest overlap of two boxes of a class that both stay.

    Returns:
        Indices of the boxes that stay, by decreasing score, equal ones in their order.
    """
    boxes, scores, labels = np.asarray(boxes, np.float64), np.asarray(scores), np.asarray(labels)
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    overlap = _overlap_rotated if boxes.shape[1] == 5 else _overlap
    low, high = _bounds(boxes)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        near = (labels[i + 1 :] == labels[i]) & alive[i + 1 :]
        near &= ((low[i] < high[i + 1 :]) & (low[i + 1 :] < high[i])).all(1)
        others = i + 1 + np.flatnonzero(near)
        alive[others[overlap(boxes[i], boxes[others]) > iou_threshold]] = False
    return order[alive]


def box_iou_rotated(boxes1: ArrayLike, boxes2: ArrayLike) -> NDArray[np.float64]:
    """Compute the intersection over union of rotated boxes, each with each, in float64.

    Args:
        boxes1: Boxes, (N, 5): center x, center y, width, height, and the angle in degrees,
            counter-clockwise as seen in an image.
        boxes2: Boxes, (M, 5).

    Returns:
        Ratios, (N, M); 0 where both boxes have no area.
    """
    first, second = np.asarray(boxes1, np.float64), np.asarray(boxes2, np.float64)
    return _overlap_rotated(first[:, None], second[None])


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratios of horizontal boxes (..., 4)."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return _ratio(common, areas)


def _overlap_rotated(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratios of rotated boxes (..., 5).

    Clamping the coordinates of a point to a rectangle keeps the points within and moves all others
    to its border. So the clamped outline of a polygon encloses each point within the rectangle as
    often as the polygon does, and its area is that of the intersection: no case is special.
    """
    a, b = np.broadcast_arrays(a, b)
    angle = np.deg2rad(b[..., 4:])
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = np.moveaxis(_corners(a) - b[..., None, :2], -1, 0)
    # In the axes of the second box; angles are counter-clockwise, and y points down.
    outline = np.stack((x * cos - y * sin, x * sin + y * cos), -1)
    half = b[..., None, None, 2:4] / 2
    begin = outline[..., :, None, :]
    step = np.roll(outline, -1, -2)[..., :, None, :] - begin
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.concatenate(((-half - begin) / step, (half - begin) / step), -1)
    times = np.sort(np.clip(np.nan_to_num(crossings[..., 0, :]), 0, 1), -1)
    ends = np.zeros((*times.shape[:-1], 1))
    times = np.concatenate((ends, times, ends + 1), -1)[..., None]
    u, v = np.moveaxis(np.clip(begin + times * step, -half, half), -1, 0)
    twice = u[..., :-1] * v[..., 1:] - u[..., 1:] * v[..., :-1]
    common = np.abs(twice.sum((-2, -1))) / 2
    return _ratio(common, a[..., 2:4].prod(-1) + b[..., 2:4].prod(-1))


def _ratio(common: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    union = areas - common
    return np.clip(np.divide(common, union, out=np.zeros_like(union), where=union > 0), 0, 1)


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners (..., 4, 2) of rotated boxes (..., 5), in order around them."""
    angle = np.deg2rad(boxes[..., 4])
    cos, sin = np.cos(angle), np.sin(angle)
    across = np.stack((cos, -sin), -1) * boxes[..., 2:3] / 2
    down = np.stack((sin, cos), -1) * boxes[..., 3:4] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return boxes[..., None, :2] + np.stack([i * across + j * down for i, j in signs], -2)


def _bounds(boxes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest coordinates (N, 2) of boxes."""
    if boxes.shape[1] == 4:
        return boxes[:, :2], boxes[:, 2:]
    corners = _corners(boxes)
    return corners.min(1), corners.max(1)
