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


def harbor(height, width, spacing=24, seed=0):
    """Rectangles of up to 14 pixels, one in each cell of a jittered grid, and their boxes."""
    rng = np.random.default_rng(seed)
    values, boxes = np.zeros((3, height, width), np.uint8), []
    for y in range(0, height - spacing, spacing):
        for x in range(0, width - spacing, spacing):
            h, w = rng.integers(4, 15, 2)
            top, left = y + rng.integers(0, spacing - h - 1), x + rng.integers(0, spacing - w - 1)
            kind = int(rng.integers(2))
            values[0, top : top + h, left : left + w] = 250
            values[1, top : top + h, left : left + w] = 250 * kind
            boxes.append((left, top, left + w, top + h, kind))
    return values, boxes


def turned(height, width, spacing=40, seed=0):
    """Rectangles of 20 x 8 pixels at all angles; centers and angles of the long side."""
    rng = np.random.default_rng(seed)
    values, boxes = np.zeros((3, height, width), np.uint8), []
    for y in range(20, height - 20, spacing):
        for x in range(20, width - 20, spacing):
            cx, cy = x + rng.uniform(-6, 6), y + rng.uniform(-6, 6)
            angle = rng.uniform(0, 180)
            cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            top, left = int(cy) - 12, int(cx) - 12
            rows, columns = np.mgrid[top : top + 25, left : left + 25] + 0.5
            along = (columns - cx) * cosine - (rows - cy) * sine
            across = (columns - cx) * sine + (rows - cy) * cosine
            part = values[:, top : top + 25, left : left + 25]
            part[:, (abs(along) <= 10) & (abs(across) <= 4)] = 250
            boxes.append((cx, cy, angle))
    return values, boxes


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
