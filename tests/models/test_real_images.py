# SPDX-License-Identifier: Apache-2.0
"""The networks learn crops of real images by heart."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from rsvheat.evaluation import SegmentationScores
from rsvheat.models import create_model
from rsvheat.models.change_detection import ChangeDetectionModel
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.segmentation_losses import SegmentationLoss

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE = 128

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.exists(), reason=f"there are no real images at {SHARED}"),
]


def read(path):
    return np.asarray(PIL.Image.open(SHARED / path))


def normalized(pixels):
    values = torch.from_numpy(pixels.astype(np.float32)).movedim(-1, 0)
    mean, std = values.mean((1, 2), keepdim=True), values.std((1, 2), keepdim=True)
    return ((values - mean) / std)[None]


def isaid():
    image = read("isaid/val/images/P0003.png")
    mask = read("isaid/val/images/P0003_instance_color_RGB.png")[..., :3].astype(int)
    codes = mask @ [65536, 256, 1]
    return image[..., :3], np.unique(codes, return_inverse=True)[1].reshape(codes.shape)


def loveda():
    labels = read("seg_loveda/ann_dir/1.png").astype(int)
    return read("seg_loveda/img_dir/1.png"), np.where(labels == 0, 255, labels - 1)


def potsdam():
    name = "2_10_0_0_512_512.png"
    return read(f"seg_potsdam/img_dir/{name}"), read(f"seg_potsdam/ann_dir/{name}").astype(int)


def busiest(labels):
    """Return the crop whose rarest classes have the most pixels."""
    best, place = -1.0, np.s_[:SIDE, :SIDE]
    for top in range(0, labels.shape[0] - SIDE + 1, SIDE // 2):
        for left in range(0, labels.shape[1] - SIDE + 1, SIDE // 2):
            part = np.s_[top : top + SIDE, left : left + SIDE]
            shares = np.bincount(labels[part].ravel(), minlength=256)[:255] / SIDE**2
            shares = shares[shares > 0]
            entropy = -(shares * np.log(shares)).sum()
            if entropy > best:
                best, place = entropy, part
    return place


def learn(model, images, labels, classes, steps=200):
    loss = SegmentationLoss()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        result = model(images)
        value = loss(result.logits, labels)
        if result.auxiliary is not None:
            value = value + 0.4 * loss(result.auxiliary, labels)
        value.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        predicted = model.eval()(images)
    return SegmentationScores.score(predicted, labels, [str(i) for i in range(classes)])


@pytest.mark.parametrize("decoder", ["fpn", "upernet"])
@pytest.mark.parametrize("source", [isaid, loveda, potsdam])
def test_a_crop_is_learned_by_heart(source, decoder):
    image, labels = source()
    part = busiest(labels)
    classes = int(labels[labels != 255].max()) + 1
    encoder = create_model("rsvheat_nano", img_size=SIDE, in_chans=3)
    model = SegmentationModel(encoder, classes, decoder=decoder, channels=64, dropout=0.0)
    truth = torch.from_numpy(labels[part].astype(np.int64))[None]
    scores = learn(model, {"optical": normalized(image[part])}, truth, classes)
    assert scores["overall_accuracy"] > 0.98
    assert scores["mean_iou"] > 0.9


@pytest.mark.parametrize("difference", ["absolute", "concatenate"])
def test_a_pair_is_learned_by_heart(difference):
    labels = (read("levir_cd/label/test_2.png") > 0).astype(np.int64)
    part = busiest(labels)
    images = {
        date: normalized(read(f"levir_cd/{folder}/test_2.png")[part])
        for date, folder in (("before", "A"), ("after", "B"))
    }
    encoder = create_model("rsvheat_nano", img_size=SIDE, in_chans=3)
    model = ChangeDetectionModel(
        encoder, difference=difference, decoder="fpn", channels=64, dropout=0.0
    )
    scores = learn(model, images, torch.from_numpy(labels[part])[None], 2)
    assert scores["mean_iou"] > 0.95
