# SPDX-License-Identifier: Apache-2.0
"""Images of bright rectangles whose boxes are known, and how well a detector found them."""

import math

import numpy as np
import shapely
import shapely.affinity
import torch

# Center x, center y, width, height and angle in degrees, counter-clockwise as seen, and the class:
# the number of the band that is dark.
BOXES = (
    (16.0, 14.0, 22.0, 10.0, 20.0, 0),
    (48.0, 18.0, 16.0, 16.0, 0.0, 1),
    (18.0, 46.0, 26.0, 9.0, -60.0, 1),
    (48.0, 48.0, 20.0, 12.0, 90.0, 0),
)
SIZE = 64


def polygon(box):
    """Return the outline of a box (4 or 5 numbers)."""
    values = [float(v) for v in box]
    if len(values) == 4:
        return shapely.box(*values)
    x, y, w, h, angle = values
    flat = shapely.box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    # The image's y axis points down: counter-clockwise as seen is clockwise in its coordinates.
    return shapely.affinity.rotate(flat, -angle, origin=(x, y))


def bright_rectangles(boxes=BOXES, size=SIZE):
    """Return an image (3, size, size) of rectangles."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rows, columns = rows + 0.5, columns + 0.5
    image = torch.zeros(3, size, size)
    for x, y, w, h, angle, label in boxes:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        across = (columns - x) * cos - (rows - y) * sin
        down = (columns - x) * sin + (rows - y) * cos
        inside = (across.abs() <= w / 2) & (down.abs() <= h / 2)
        for band in range(3):
            image[band][inside] = 0.0 if band == label else 1.0
    return image


def truth(oriented, boxes=BOXES):
    """Return boxes and labels of the rectangles."""
    labels = torch.tensor([box[5] for box in boxes], dtype=torch.int64)
    outlines = [box[:5] if oriented else polygon(box[:5]).bounds for box in boxes]
    return torch.tensor(outlines).reshape(-1, 5 if oriented else 4), labels


def average_precision(found, boxes, labels, threshold=0.5):
    """Return the mean over classes of the average precision (area), by brute force."""
    values = []
    for label in labels.unique().tolist():
        wanted = [polygon(box) for box in boxes[labels == label]]
        taken, hits = set(), []
        chosen = found["labels"] == label
        order = found["scores"][chosen].argsort(descending=True)
        for box in found["boxes"][chosen][order]:
            one = polygon(box)
            overlaps = [one.intersection(w).area / one.union(w).area for w in wanted]
            best = int(np.argmax(overlaps))
            hits.append(overlaps[best] > threshold and best not in taken)
            if hits[-1]:
                taken.add(best)
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        best_from = np.maximum.accumulate(precision[::-1])[::-1] if len(hits) else precision
        values.append(float((best_from * hits).sum() / len(wanted)))
    return float(np.mean(values))


def learn(model, steps, lr, oriented):
    """Train on the image of rectangles, and return the average precision on it."""
    x = {"optical": bright_rectangles()[None]}
    boxes, labels = truth(oriented)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        losses = model.losses(model(x), [boxes], [labels])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return average_precision(model.eval().predict(x)[0], boxes, labels)
