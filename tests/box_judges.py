# SPDX-License-Identifier: Apache-2.0
"""Average precision by others: pycocotools, and one box at a time with shapely.

``data`` is predictions (``boxes``, ``scores``, ``labels``), true boxes, their labels and which of
them are difficult, a list of an entry for each image each.
"""

import math

import numpy as np
import pytest

from rsvheat.ops.box_convert import boxes_to_corners


def coco_ap(data, classes, limit=100):
    """Return the AP of pycocotools by threshold and class, (10, classes); -1 without truth."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotation(image, box, label, **more):
        x1, y1, x2, y2 = box.tolist()
        box = [x1, y1, x2 - x1, y2 - y1]
        return {"image_id": image, "bbox": box, "category_id": int(label), **more}

    predictions, truth, labels, _ = data
    true, found = [], []
    for i, (guess, boxes, known) in enumerate(zip(predictions, truth, labels, strict=True)):
        for box, label in zip(boxes, known, strict=True):
            area = float((box[2:] - box[:2]).prod())
            more = {"id": len(true) + 1, "iscrowd": 0, "area": area}
            true.append(annotation(i, box, label, **more))
        for box, one, label in zip(guess["boxes"], guess["scores"], guess["labels"], strict=True):
            found.append(annotation(i, box, label, score=float(one)))
    gt = COCO()
    gt.dataset = {
        "images": [{"id": i} for i in range(len(truth))],
        "annotations": true,
        "categories": [{"id": i} for i in range(len(classes))],
    }
    gt.createIndex()
    evaluation = COCOeval(gt, gt.loadRes(found), "bbox")
    evaluation.params.maxDets = [limit]
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0].mean(1)


def overlaps_by_class(data, classes, oriented):
    """Return of each class the number of demanded boxes, and of each predicted box its score, the
    image, and the IoU with each true box of the class there and whether that is difficult."""
    shapely = pytest.importorskip("shapely")

    def polygon(box):
        if oriented:
            return shapely.Polygon(boxes_to_corners(box).numpy())
        return shapely.box(*box.tolist())

    def iou(a, b):
        common = a.intersection(b).area
        return common / (a.area + b.area - common)

    result = [[0, []] for _ in classes]
    for i, (guess, boxes, labels, hard) in enumerate(zip(*data, strict=True)):
        true = list(zip(map(polygon, boxes), labels.tolist(), hard.tolist(), strict=True))
        for _, label, difficult in true:
            result[label][0] += not difficult
        for box, label, one in zip(guess["boxes"], guess["labels"], guess["scores"], strict=True):
            found = polygon(box)
            pairs = [(iou(found, other), hard) for other, known, hard in true if known == label]
            result[label][1].append((float(one), i, pairs))
    for _, found in result:
        found.sort(key=lambda one: -one[0])
    return result


def plain_ap(demanded, found, threshold, points):
    """Return AP as the devkits of VOC and DOTA define it, from one box at a time."""
    if not demanded:
        return math.nan
    taken, right, wrong, recall, precision = set(), 0, 0, [], []
    for _, i, pairs in found:
        overlaps = [iou for iou, _ in pairs] or [0.0]
        best = int(np.argmax(overlaps))
        if overlaps[best] <= threshold or (i, best) in taken:
            wrong += 1
        elif not pairs[best][1]:
            taken.add((i, best))
            right += 1
        recall.append(right / demanded)
        precision.append(right / max(right + wrong, 1e-16))
    recall, precision = np.array(recall), np.array(precision)
    if points == 11:
        return sum(precision[recall >= r].max(initial=0) for r in np.arange(0, 1.1, 0.1)) / 11
    steps = np.unique(recall[recall > 0])
    heights = [precision[recall >= r].max() for r in steps]
    return float((np.diff(steps, prepend=0) * heights).sum())
