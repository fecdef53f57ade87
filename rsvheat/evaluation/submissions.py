# SPDX-License-Identifier: Apache-2.0
"""Files of predicted boxes for the test servers of DOTA and FAIR1M."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat._files import complete_file, replacing
from rsvheat.ops import batched_nms_rotated
from rsvheat.ops.box_convert import boxes_to_corners

# Overlap of two boxes of a class, found in overlapping windows, that are one object: DOTA's own.
_SAME_OBJECT = 0.1
_NAMES = ("boxes", "scores", "labels")


def merge_windows(
    predictions: Sequence[Mapping[str, Tensor]],
    origins: Sequence[tuple[float, float]],
    iou_threshold: float = _SAME_OBJECT,
) -> dict[str, Tensor]:
    """Merge the oriented boxes of an image's overlapping windows.

    Of boxes of a class that overlap, that of the highest score stays.

    Args:
        predictions: Tensors ``boxes`` (N, 5) CXCYWHR in pixels of the window, ``scores`` and
            ``labels`` (N,) of each window.
        origins: Left and top of each window in pixels of the image.
        iou_threshold: Largest overlap of two boxes of a class that both stay.

    Returns:
        Tensors by the same names, by decreasing score, in pixels of the image.

    Raises:
        ValueError: If there is not one origin for each window, or a box is not valid.
    """
    if len(predictions) != len(origins):
        raise ValueError(
            f"there must be an origin for each window, got {len(origins)} for {len(predictions)}"
        )
    if not predictions:
        return {
            "boxes": torch.zeros(0, 5, dtype=torch.float64),
            "scores": torch.zeros(0),
            "labels": torch.zeros(0, dtype=torch.int64),
        }
    # float64: coordinates in a large image would lose their fractions.
    boxes = torch.cat(
        [
            _plain(one["boxes"]).double() + torch.tensor([*origin, 0, 0, 0], dtype=torch.float64)
            for one, origin in zip(predictions, origins, strict=True)
        ]
    )
    scores, labels = (torch.cat([_plain(one[n]) for one in predictions]) for n in _NAMES[1:])
    kept = batched_nms_rotated(boxes, scores, labels, iou_threshold)
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def write_dota(
    path: str | os.PathLike[str],
    predictions: Mapping[str, Mapping[str, Tensor]],
    classes: Sequence[str],
) -> list[Path]:
    """Write the files of DOTA's oriented task, ``Task1_<class>.txt``, all or none.

    A line is ``image score x1 y1 x2 y2 x3 y3 x4 y4``. Each class has a file, empty if nothing of it
    is found.

    Args:
        path: Folder of the files, or a zip archive of them, as the server takes it.
        predictions: Boxes of whole images by the image's name without suffix, such as
            ``"P0006"``: tensors ``boxes`` (N, 5) CXCYWHR, ``scores`` and ``labels`` (N,).
        classes: Class names by label.

    Returns:
        The files, or the archive.

    Raises:
        ValueError: If a name cannot be written, a label has no class, or a value is not finite.
    """
    lines: list[list[str]] = [[] for _ in classes]
    _check_names(classes)
    for name, prediction in predictions.items():
        if len(name.split()) != 1:
            raise ValueError(f"names of images must not hold spaces, got {name!r}")
        for label, score, corners in _rows(name, prediction, classes):
            place = " ".join(f"{number:.2f}" for number in corners.ravel())
            lines[label].append(f"{name} {score:.6f} {place}\n")
    files = {f"Task1_{name}.txt": "".join(part) for name, part in zip(classes, lines, strict=True)}
    return _write(Path(path), files)


def write_fair1m(
    path: str | os.PathLike[str],
    predictions: Mapping[str, Mapping[str, Tensor]],
    classes: Sequence[str],
    *,
    suffix: str = ".tif",
    version: str = "1.0",
    provider: str = "",
    author: str = "",
) -> list[Path]:
    """Write the files of FAIR1M, ``<image>.xml`` with closed polygons and probabilities.

    Each image has a file, without objects if nothing is found.

    Args:
        path: Folder of the files, or a zip archive of them, as the server takes it.
        predictions: Boxes of whole images by the image's name without suffix, such as ``"12"``:
            tensors ``boxes`` (N, 5) CXCYWHR, ``scores`` and ``labels`` (N,).
        classes: Class names by label, spelled as in the annotation.
        suffix: Suffix of the image files.
        version: Version of the submission.
        provider: Name of the team's organization.
        author: Name of the team.

    Returns:
        The files, or the archive.

    Raises:
        ValueError: If a name cannot be written, a label has no class, or a value is not finite.
    """
    _check_names(predictions)
    files = {}
    for name, prediction in predictions.items():
        root = ElementTree.Element("annotation")
        _texts(root, "source", filename=f"{name}{suffix}", origin="GF2/GF3")
        about = {"version": version, "provider": provider, "author": author}
        _texts(root, "research", **about, pluginname="FAIR1M", pluginclass="object detection")
        objects = ElementTree.SubElement(root, "objects")
        for label, score, corners in _rows(name, prediction, classes):
            kind = {"coordinate": "pixel", "type": "rectangle", "description": "None"}
            one = _texts(objects, "object", **kind)
            _texts(one, "possibleresult", name=classes[label], probability=f"{score:.6f}")
            points = ElementTree.SubElement(one, "points")
            for x, y in (*corners, corners[0]):
                ElementTree.SubElement(points, "point").text = f"{x:.6f},{y:.6f}"
        ElementTree.indent(root)
        text = ElementTree.tostring(root, "unicode", short_empty_elements=False)
        files[f"{name}.xml"] = f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
    return _write(Path(path), files)


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not name or "/" in name:
            raise ValueError(f"{name!r} cannot be part of a submission's file name")


def _plain(values: Tensor) -> Tensor:
    return values.detach().as_subclass(Tensor).cpu()


def _rows(
    name: str, prediction: Mapping[str, Tensor], classes: Sequence[str]
) -> list[tuple[int, float, NDArray[np.float64]]]:
    """Return class, score and corners (4, 2) of each box of an image."""
    boxes, scores, labels = (_plain(prediction[part]) for part in _NAMES)
    if boxes.shape != (len(boxes), 5) or not scores.shape == labels.shape == boxes.shape[:1]:
        raise ValueError(
            f"{name}: boxes must have shape (N, 5) with scores and labels (N,), got "
            f"{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    if not boxes.isfinite().all() or not scores.isfinite().all():
        raise ValueError(f"{name}: boxes and scores must be finite")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ValueError(
            f"{name}: labels must be 0 to {len(classes) - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    corners = boxes_to_corners(boxes.double()).numpy()
    return list(zip(labels.tolist(), scores.tolist(), corners, strict=True))


def _texts(parent: ElementTree.Element, name: str, /, **texts: str) -> ElementTree.Element:
    """Add an element with elements of texts."""
    element = ElementTree.SubElement(parent, name)
    for key, text in texts.items():
        ElementTree.SubElement(element, key).text = text
    return element


def _write(path: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files to a folder, or to a zip archive, all or none."""
    if path.suffix.lower() == ".zip":
        with (
            complete_file(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for name, text in files.items():
                archive.writestr(name, text)
        return [path]
    with replacing(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    return [path / name for name in files]
