# SPDX-License-Identifier: Apache-2.0
"""Detectors learn real images by heart: aerial ones with oriented boxes, and radar."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from box_judges import coco_ap, overlaps_by_class, plain_ap

from rsvheat.data import DOTA, HRSID, SSDD, Crop, DataModule
from rsvheat.data.sample import collate
from rsvheat.evaluation import DetectionMetric, DetectionScores
from rsvheat.models import create_model
from rsvheat.models.detection import DetectionModel
from rsvheat.models.oriented_detection import OrientedDetectionModel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


class Case(NamedTuple):
    """Data and schedule: windows are those with most boxes."""

    folder: str
    reader: type
    network: type
    window: int
    side: int
    most: int
    batch: int
    passes: int
    bar: float
    options: dict[str, Any]


CASES = {
    # Windows of 768 pixels hold its piers of 590 x 17 pixels whole. Anchors of at most 160 pixels:
    # several lie within a pier's bounds and overlap them alike, so it is learned from all of them.
    # Five piers are beside 525 ships, and the shift of a box by 6 pixels halves its overlap.
    "dota": Case(
        *("det_dota", DOTA, OrientedDetectionModel, 768, 512, 5, 1, 240, 0.95),
        {"anchor_scale": 2.5, "proposals": 2000, "regions": 512, "balanced": True},
    ),
    "ssdd": Case(*("det_ssdd", SSDD, DetectionModel, 384, 384, 8, 2, 60, 0.95), {}),
    "hrsid": Case(*("det_hrsid", HRSID, DetectionModel, 400, 400, 8, 2, 50, 0.95), {}),
}


@torch.no_grad()
def judged_scores(model, samples, classes):
    """Return the scores of samples, which are those of pycocotools and of a plain version."""
    model.eval()
    data = ([], [], [], [])
    oriented = model.numbers == 5
    metric = DetectionMetric(len(classes), oriented)
    for sample in samples:
        batch = collate([sample])
        parts = (
            model.predict(batch["images"]),
            *(batch[n] for n in ("boxes", "labels", "difficult")),
        )
        metric.update(*parts)
        for some, part in zip(data, parts, strict=True):
            some.extend(part)
    model.train()
    scores = DetectionScores.of(metric, classes)
    if oriented:
        pairs = overlaps_by_class(data, classes, oriented)
        for kind, points in (("voc07", 11), ("area", 0)):
            plain = [
                [plain_ap(*one, t, points) for one in pairs] for t in np.linspace(0.5, 0.95, 10)
            ]
            for measure, rows in (("map50", [0]), ("map75", [5]), ("map50_95", range(10))):
                found = scores.ap[f"{measure}_{kind}"]
                np.testing.assert_allclose(found, np.array(plain)[rows].mean(0), atol=1e-6)
    else:
        # COCO has nothing like boxes that are no errors, however often they are found.
        demanded = [~hard for hard in data[3]]
        easy = [[x[d] for x, d in zip(some, demanded, strict=True)] for some in data[1:]]
        metric.reset()
        metric.update(data[0], *easy)
        found, expected = DetectionScores.of(metric, classes), coco_ap((data[0], *easy), classes)
        for measure, rows in (("map50", [0]), ("map75", [5]), ("map50_95", range(10))):
            np.testing.assert_allclose(found.ap[measure], expected[rows].mean(0), atol=1e-9)
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_real_images_are_learned_by_heart(name):
    case = CASES[name]
    if not (SHARED / case.folder).exists():
        pytest.skip(f"there are no real images at {SHARED / case.folder}")
    torch.manual_seed(0)
    crop = Crop(case.side, case.window, augment=False)
    data = DataModule(case.reader(str(SHARED / case.folder)), crop=crop, overlap=0)
    data.setup()
    datasets = [data.datasets[part] for part in ("train_plain", "test") if part in data.datasets]
    samples = [one[i] for one in datasets for i in range(len(one))]
    samples = sorted(samples, key=lambda one: -len(one["labels"]))[: case.most]
    encoder = create_model(
        "rsvheat_nano",
        modalities=data.spec.modalities,
        img_size=(case.side, case.side),
        pretrained=True,
        inflate_stems=True,
    )
    options = {"channels": 64, "anchor_scale": 4.0, "proposals": 400, "regions": 256}
    model = case.network(encoder, len(data.spec.classes), **{**options, **case.options})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    steps = case.passes * -(-len(samples) // case.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for number in range(1, case.passes + 1):
        for rows in torch.randperm(len(samples)).split(case.batch):
            batch = collate([samples[i] for i in rows])
            with torch.autocast("cpu", torch.bfloat16):
                losses = model.losses(model(batch["images"]), batch["boxes"], batch["labels"])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
        if number in (case.passes // 2, case.passes):
            scores = judged_scores(model, samples, data.spec.classes)
            measure = "map50_area" if model.numbers == 5 else "map50"
            found = zip(data.spec.classes, scores.ap[measure], strict=True)
            by_class = {one: round(value, 3) for one, value in found if value == value}
            print(f"{name}, {number} passes over {len(samples)} windows: {by_class}, {scores}")
    assert scores[measure] > case.bar, f"{by_class}, {scores}"
