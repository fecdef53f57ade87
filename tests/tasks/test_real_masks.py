# SPDX-License-Identifier: Apache-2.0
"""Segmentation and change detection learn crops of real images by heart."""

from pathlib import Path

import pytest
import torch

from rsvheat.data import ISAID, Crop, DataModule, LevirCD, MaskCodes, MaskFolders, Potsdam
from rsvheat.data.sample import collate
from rsvheat.data.spec import IGNORE_INDEX
from rsvheat.evaluation import SegmentationScores, count_confusion
from rsvheat.models import create_model
from rsvheat.models.change_detection import ChangeDetectionModel
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.segmentation_losses import SegmentationLoss

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE, CROPS, STEPS = 128, 4, 250
LOVEDA = ("background", "building", "road", "water", "barren", "forest", "agriculture")


def loveda(root):
    codes = MaskCodes(values={name: i for i, name in enumerate(LOVEDA, 1)}, ignored=[0])
    return MaskFolders({"optical": f"{root}/img_dir"}, f"{root}/ann_dir", codes)


SETS = {"isaid": ISAID, "seg_loveda": loveda, "seg_potsdam": Potsdam, "levir_cd": LevirCD}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETS))
def test_real_crops_are_learned_by_heart(name):
    if not (SHARED / name).exists():
        pytest.skip(f"there are no real images at {SHARED / name}")
    torch.manual_seed(0)
    data = DataModule(SETS[name](str(SHARED / name)), crop=Crop(SIDE, SIDE, augment=False))
    data.setup()
    parts = [part for name, part in data.datasets.items() if name != "train"]
    samples = [part[i] for part in parts for i in range(len(part))]
    # Those whose second most frequent class is the largest: there is something to learn.
    samples.sort(key=second_largest, reverse=True)
    batch = collate(samples[:CROPS])
    assert second_largest(samples[0]) > 1000
    classes = data.spec.classes
    network = ChangeDetectionModel if name == "levir_cd" else SegmentationModel
    encoder = create_model(
        "rsvheat_nano",
        pretrained=True,
        modalities=getattr(network, "stems", dict)(data.spec.modalities),
        img_size=SIDE,
        num_classes=0,
    )
    model = network(encoder, len(classes), decoder="fpn", channels=64, dropout=0.0)
    loss = SegmentationLoss({"cross_entropy": 1.0, "dice": 1.0})
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model(batch["images"]).logits, batch["mask"])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        predicted = model.predict(batch["images"])
    counts = count_confusion(predicted.argmax(1), batch["mask"], len(classes))
    scores = SegmentationScores.of(counts, classes)
    print(f"{name}: {scores}")
    assert scores["overall_accuracy"] > 0.97, str(scores)
    assert scores["mean_iou"] > 0.9, str(scores)


def second_largest(sample):
    counts = torch.bincount(sample["mask"].flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return int(counts.sort(descending=True).values[1])
