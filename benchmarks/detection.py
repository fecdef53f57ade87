# SPDX-License-Identifier: Apache-2.0
"""Detection on real images: rsvheat_nano from the bundled weights and from scratch, and ResNet-18.

train     Trains each row on each data set, with the same detector, schedule, crops and seeds.
small     Scores small vehicles by themselves, by the detectors of FAIR1M's five groups.
options   Trains those detectors on, each with another option, on the groups or on fine classes.
rates     Compares learning rates on a quarter of FAIR1M's training images, without the test images.
peer      Trains Oriented R-CNN of oriented-det, where that is installed, and this package's.

Whatever is finished is written at once; a command that was stopped goes on after the last epoch.
Real images are looked for in --data: det_nwpu_vhr10 (horizontal boxes, 240 images, a fifth of them
for testing) and obb_fair1m (oriented boxes, 60 images, a quarter of them for testing): its five
groups, and small vehicles by themselves. Splits are drawn from a seed of their own.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from operator_tables import RESULTS
from tables import ROOT, append, execute, read, spread
from torch import nn

import rsvheat
from rsvheat._files import complete_file
from rsvheat.benchmarking import describe
from rsvheat.data import Crop, DataModule, LoaderOptions
from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.datasets.box_finding import Annotated, ClassNames
from rsvheat.data.datasets.fair1m import FAIR1M, Level
from rsvheat.data.datasets.fair1m import GROUPS as FAIR1M_GROUPS
from rsvheat.data.datasets.nwpu_vhr10 import NWPUVHR10
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.sample import collate
from rsvheat.data.samplers import SampleIndex
from rsvheat.data.splits import random_split
from rsvheat.data.tiles import Tiles
from rsvheat.evaluation.detection_scores import DetectionMetric, DetectionScores
from rsvheat.evaluation.whole_images import WholeImages
from rsvheat.models import parameter_groups
from rsvheat.models.box_detector import BoxDetector
from rsvheat.models.detection import DetectionModel
from rsvheat.models.features import Encoder
from rsvheat.models.oriented_detection import OrientedDetectionModel
from rsvheat.models.timm_encoder import TimmEncoder
from rsvheat.ops import boxes_from_mmcv, boxes_to_mmcv
from rsvheat.training.optimization import Optimization, warmup_cosine

RUNS = ROOT / "runs" / "detection"
TABLE = RESULTS / "detection.csv"
OPTIONS_TABLES = {
    "groups": RESULTS / "detection_options.csv",
    "fine": RESULTS / "detection_options_fine.csv",
}
RATES_TABLE = RESULTS / "detection_rates.csv"
SMALL_TABLE = RESULTS / "detection_small_vehicles.csv"
PEER_TABLE = RESULTS / "detection_peer.csv"
SPLIT_SEED = 0
SMALL_VEHICLES = ("Small Car", "Van")

ROWS = (
    "nano, bundled weights",
    "nano, from scratch",
    "ResNet-18, from scratch",
    "tiny, from scratch",
)
# A row of the tables that no command makes: of the bundled weights before their second stage.
EARLIER = "nano, first stage's weights"
# Learning rates of rows that do not learn with that of the others.
RATES = {"tiny, from scratch": 3e-4}


class SmallVehicles(FAIR1M):
    """Cars and vans of FAIR1M-1.0 as one class; everything else is background."""

    def __init__(self, root: str) -> None:
        super().__init__(root, version="1.0", val_fraction=0.25)
        self.names = ClassNames(("small vehicle",), dict.fromkeys(SMALL_VEHICLES, "small vehicle"))

    def _find(self, part: str, scan: Scan) -> list[Annotated]:
        return [one._replace(boxes=_only_small(one.boxes)) for one in super()._find(part, scan)]


class TrainingPart(FAIR1M):
    """Training images of FAIR1M-1.0 alone, a quarter of which are held out."""

    def __init__(self, root: str) -> None:
        super().__init__(root, version="1.0", level="groups", val_fraction=0.25)

    def splits(self, scan: Scan) -> dict[str, Split]:
        """See ``DatasetReader.splits``."""
        train = super().splits(scan)["train"]
        indices = np.asarray(train.indices)
        parts = random_split(len(indices), {"val": 0.25}, scan.seed)
        return {name: replace(train, indices=indices[part]) for name, part in parts.items()}


def _only_small(boxes: ImageBoxes) -> ImageBoxes:
    chosen = np.array([name in SMALL_VEHICLES for name in boxes.names], bool)
    names = tuple(name for name in boxes.names if name in SMALL_VEHICLES)
    return ImageBoxes(boxes.corners[chosen], names, boxes.difficult[chosen], boxes.size)


@dataclass(frozen=True)
class Setting:
    """Data set, detector and schedule, which are the same for each row."""

    runs: str
    folder: str
    reader: Callable[[str], DatasetReader]
    network: type[BoxDetector]
    options: Mapping[str, Any]
    size: int
    window: int
    epochs: int
    crops: int = 1
    focus: float = 0.5
    rotation: float = 0.0
    balance: float = 0.0
    steps: int | None = None
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.05

    def about(self) -> str:
        """Return one line for the head of a table."""
        return (
            f"{self.network.__name__} {dict(self.options)}, windows of {self.window} px at "
            f"{self.size} px, {self.epochs} epochs of {self.crops} crops an image, batch "
            f"{self.batch}, AdamW {self.lr}, decay {self.weight_decay}, warm-up 5 %, cosine, "
            "bfloat16"
        )


def fine_classes(root: str) -> FAIR1M:
    return FAIR1M(root, version="1.0", val_fraction=0.25)


ORIENTED = {
    "detector": "oriented_rcnn",
    "channels": 64,
    "proposals": 200,
    "regions": 128,
    "anchor_scale": 4.0,
}
GROUPS = Setting(
    "obb_fair1m",
    "obb_fair1m",
    lambda root: FAIR1M(root, version="1.0", level="groups", val_fraction=0.25),
    OrientedDetectionModel,
    ORIENTED,
    size=256,
    window=256,
    epochs=30,
    crops=4,
    focus=0.8,
)
SETTINGS = {
    "NWPU VHR-10": Setting(
        "det_nwpu_vhr10",
        "det_nwpu_vhr10",
        lambda root: NWPUVHR10(root, val_fraction=0.0, test_fraction=0.2),
        DetectionModel,
        {"detector": "faster_rcnn", "channels": 64, "proposals": 200, "regions": 128},
        size=256,
        window=512,
        epochs=40,
    ),
    "FAIR1M-1.0, five groups": GROUPS,
    "FAIR1M-1.0, small vehicles": replace(
        GROUPS, runs="obb_fair1m_small", reader=SmallVehicles, window=160, epochs=12
    ),
}


@dataclass(frozen=True)
class Option:
    """A row of the options, and what differs from the first row with the same detector."""

    setting: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    detector: str = "oriented_rcnn"

    @property
    def learned(self) -> str:
        """Beginning of the names of weights that are taken from the detector of the groups."""
        return "" if self.detector == "oriented_rcnn" else "encoder."

    def whole(self, level: Level = "groups") -> Setting:
        """Return the setting, with as many steps as every other row of the same detector."""
        shared = ORIENTED if self.detector == "oriented_rcnn" else {"channels": 64}
        options = {**shared, "detector": self.detector, **self.network}
        epochs = 2 if self.detector == "oriented_rcnn" else 4
        base = replace(GROUPS, runs="obb_fair1m_options", epochs=epochs, steps=22)
        if level == "fine":
            # Their layer of classes is new.
            base = replace(base, runs="obb_fair1m_fine", reader=fine_classes, epochs=8)
        return replace(base, options=options, **self.setting)


OPTIONS = {
    "Oriented R-CNN, stride 4, windows around boxes of classes drawn uniformly": Option(),
    "windows anywhere": Option({"focus": 0.0}),
    "rotations by any angle": Option({"rotation": 180.0}),
    "rotated FCOS, stride 8, angle as a vector": Option(detector="rotated_fcos"),
    "rotated FCOS, stride 8, angle itself": Option(
        network={"angle_coding": "direct"}, detector="rotated_fcos"
    ),
    "rotated FCOS, stride 4, angle as a vector": Option(
        network={"finest": 4}, detector="rotated_fcos"
    ),
    "images of rare classes repeated": Option({"balance": 0.3}),
    "loss of overlap, KLD": Option(network={"box_loss": "kld"}),
    "loss of overlap, exact IoU": Option(network={"box_loss": "iou"}),
    "loss of overlap, ProbIoU": Option(network={"box_loss": "probiou"}),
    "anchors and regions drawn by class": Option(network={"balanced": True}),
}
TUNED = replace(GROUPS, runs="obb_fair1m_rates", reader=TrainingPart, epochs=12)


PEER = replace(GROUPS, runs="obb_fair1m_peer", epochs=4)
PEER_ROWS = ("rsvheat, ResNet-18, from scratch", "oriented-det, ResNet-18, from scratch")


class OrientedDet(nn.Module):
    """Oriented R-CNN of oriented-det, with the methods of this package's detectors.

    Its losses and thresholds are its own defaults; backbone, pyramid, anchors and the numbers of
    proposals and regions are those of ``ORIENTED``.
    """

    numbers = 5

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from oriented_det.models import OrientedRCNN
        from torchvision.models import resnet18
        from torchvision.models.detection.backbone_utils import BackboneWithFPN

        layers = {f"layer{i + 1}": str(i) for i in range(4)}
        channels = ORIENTED["channels"]
        self.num_classes = num_classes
        self.network = OrientedRCNN(
            num_classes,
            backbone=BackboneWithFPN(resnet18(), layers, [64, 128, 256, 512], channels),
            anchor_scales=[ORIENTED["anchor_scale"]],
            rpn_pre_nms_top_n=ORIENTED["proposals"],
            rpn_post_nms_top_n=ORIENTED["proposals"],
            roi_batch_size_per_image=ORIENTED["regions"],
            max_detections_per_image=2000,
            final_nms_iou_threshold=0.1,
            # A chunk saves memory of a GPU; it costs time here.
            roi_chunk_size=4096,
        )

    def forward(self, images: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the images, as the other methods take them."""
        return list(images["optical"])

    def losses(
        self,
        images: list[torch.Tensor],
        boxes: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the losses by name."""
        targets = [
            {"rboxes": boxes_to_mmcv(box, "le90"), "labels": label + 1}
            for box, label in zip(boxes, labels, strict=True)
        ]
        parts = self.network(images, targets)
        return {name: part for name, part in parts.items() if name.startswith("loss")}

    def predict(self, images: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Return the boxes of each image."""
        return [
            {
                "boxes": boxes_from_mmcv(
                    torch.tensor(
                        [[b.cx, b.cy, b.width, b.height, b.angle] for b in one["rboxes"]]
                    ).view(-1, 5)
                ),
                "scores": one["scores"].float(),
                "labels": one["labels"] - 1,
            }
            for one in self.network(self(images))
        ]


def data_of(setting: Setting, folder: Path) -> DataModule:
    data = DataModule(
        setting.reader(str(folder / setting.folder)),
        crop=Crop(
            setting.size,
            setting.window,
            scale=(0.6, 1.0),
            focus=setting.focus,
            rotation=setting.rotation,
        ),
        loader=LoaderOptions(batch_size=setting.batch, num_workers=0),
        seed=SPLIT_SEED,
        crops=setting.crops,
        overlap=setting.window // 4,
        balance=setting.balance,
    )
    data.setup()
    return data


def network_of(row: str, setting: Setting, classes: Sequence[str]) -> BoxDetector:
    modalities = {"optical": 3}
    encoder: Encoder
    if row.startswith("ResNet"):
        encoder = TimmEncoder("resnet18", modalities)
    else:
        encoder = rsvheat.create_model(
            f"rsvheat_{row.split(',')[0]}",
            pretrained="bundled" in row,
            img_size=setting.size,
            modalities=modalities,
            num_classes=0,
        )
    network = setting.network(encoder, len(classes), **setting.options)
    return network.to(memory_format=torch.channels_last)


def fit(model: Any, data: DataModule, setting: Setting, seed: int, path: Path) -> float:
    """Train, or go on from the last complete epoch; return CPU seconds."""
    train = data.datasets["train"]
    steps = setting.steps or len(train) // setting.batch
    settings = Optimization(lr=setting.lr, betas=(0.9, 0.999), weight_decay=setting.weight_decay)
    groups = parameter_groups(model, weight_decay=setting.weight_decay)
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    optimizer = torch.optim.AdamW(groups, setting.lr, settings.betas)
    total = steps * setting.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total, total // 20, settings.floor)
    )
    begin, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin, seconds = state["epoch"], state["seconds"]
    for epoch in range(begin, setting.epochs):
        model.train()
        torch.manual_seed(1000 * seed + epoch)
        order, started, losses = torch.randperm(len(train)).tolist(), time.process_time(), 0.0
        for step in range(steps):
            chosen = order[step * setting.batch : (step + 1) * setting.batch]
            batch = collate([train[SampleIndex(1000 * seed + epoch, i)] for i in chosen])
            with torch.autocast("cpu", torch.bfloat16):
                parts = model.losses(model(batch["images"]), batch["boxes"], batch["labels"])
            loss = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            losses += float(loss.detach()) / steps
        seconds += time.process_time() - started
        print(f"epoch {epoch + 1}, loss {losses:.3f}, {seconds:.0f} CPU s", flush=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
            "seconds": seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(path) as temporary:
            torch.save(state, temporary)
    return seconds


def predicted(model: Any, data: DataModule, setting: Setting) -> tuple[list[Any], float]:
    """Return found and true boxes of each whole test image, and tiles a CPU second."""
    model.eval()
    name = "test" if "test" in data.datasets else "val"
    source = data.datasets[name].source
    assert isinstance(source, Tiles)
    whole = WholeImages(source, setting.size)
    images, seconds = 0, 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in data.loader(name):
            started = time.process_time()
            found = model.predict(batch["images"])
            seconds += time.process_time() - started
            images += len(found)
            for key, one in zip(batch["keys"], found, strict=True):
                whole.add(key, one)
    pairs = [(one, tuple(map(torch.from_numpy, truth))) for one, truth in whole.images()]
    return pairs, images / seconds


def score(model: Any, data: DataModule, setting: Setting) -> tuple[DetectionScores, float]:
    """Return the scores of the test images as a whole, and tiles a CPU second."""
    metric = DetectionMetric(model.num_classes, model.numbers == 5)
    pairs, speed = predicted(model, data, setting)
    for one, (boxes, labels, difficult) in pairs:
        metric.update([one], [boxes], [labels], [difficult])
    return DetectionScores.of(metric, data.spec.classes), speed


def measure(model: Any, data: DataModule, setting: Setting, seed: int, runs: str) -> Any:
    """Train and score a network; return its columns of a table."""
    path = RUNS / f"{runs}-{seed}.pt"
    seconds = fit(model, data, setting, seed, path)
    scores, speed = score(model, data, setting)
    print(scores, flush=True)
    (RUNS / path.stem).mkdir(exist_ok=True)
    scores.save(RUNS / path.stem)
    values = {k: v for k, v in scores.logged().items() if k in COLUMNS}
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    cost = {"parameters_m": parameters, "cpu_minutes": seconds / 60, "images_s": speed}
    return {"seed": seed, "epochs": setting.epochs, "lr": setting.lr, **values, **cost}


def head_of(arguments: argparse.Namespace, *packages: str) -> dict[str, str]:
    """Return the head of a table, without --data: other machines have the images elsewhere."""
    words = sys.argv[1:]
    if "--data" in words:
        begin = words.index("--data")
        del words[begin : begin + 2]
    command = shlex.join(["python", "benchmarks/detection.py", *words])
    return describe("cpu", arguments.threads, command, packages)


def train(arguments: argparse.Namespace) -> None:
    head = head_of(arguments, "timm", "torchvision")
    head["settings"] = "; ".join(f"{name}: {setting.about()}" for name, setting in SETTINGS.items())
    for name in arguments.sets:
        data = data_of(SETTINGS[name], arguments.data)
        for seed in arguments.seeds:
            for row in arguments.rows:
                setting = SETTINGS[name]
                setting = replace(setting, lr=RATES.get(row, setting.lr))
                done = [(r["data"], r["row"], r["seed"]) for r in read(TABLE)]
                if (name, row, str(seed)) in done:
                    continue
                print(f"{name}, {row}, seed {seed}", flush=True)
                torch.manual_seed(seed)
                model = network_of(row, setting, data.spec.classes)
                values = measure(model, data, setting, seed, f"{setting.runs}-{ROWS.index(row)}")
                append(TABLE, [{"data": name, "row": row, **values}], head)


def learned_groups(row: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the weights of a detector of the five groups."""
    path = RUNS / f"{GROUPS.runs}-{ROWS.index(row)}-{seed}.pt"
    if not path.exists():
        raise FileNotFoundError(
            f'{path} is not there: `train --sets "FAIR1M-1.0, five groups" --rows "{row}"` first'
        )
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def options(arguments: argparse.Namespace) -> None:
    head = head_of(arguments, "torchvision")
    level, table = arguments.level, OPTIONS_TABLES[arguments.level]
    about = "; ".join(f"{row}: {OPTIONS[row].whole(level).about()}" for row in arguments.rows)
    head["settings"] = f"FAIR1M-1.0, {level} classes, 22 steps an epoch: {about}"
    state = learned_groups("nano, bundled weights")
    if level == "fine":
        state = {k: v for k, v in state.items() if not k.startswith("head.classes.")}
    for seed in arguments.seeds:
        for number, row in enumerate(OPTIONS):
            done = [(r["row"], r["seed"]) for r in read(table)]
            if row not in arguments.rows or (row, str(seed)) in done:
                continue
            print(f"{row}, {level} classes, seed {seed}", flush=True)
            option = OPTIONS[row]
            setting = option.whole(level)
            data = data_of(setting, arguments.data)
            torch.manual_seed(seed)
            model = network_of("nano, bundled weights", setting, data.spec.classes)
            chosen = {k: v for k, v in state.items() if k.startswith(option.learned)}
            # A detector lacks the norms of maps that it does not use.
            lacking = model.load_state_dict(chosen, strict=False).missing_keys
            lacking = [
                name
                for name in lacking
                if name.startswith(option.learned) and not name.startswith("head.classes.")
            ]
            if lacking:
                raise KeyError(f"the detector of the groups has no {', '.join(lacking)}")
            values = measure(model, data, setting, seed, f"{setting.runs}-{number}")
            append(table, [{"row": row, **values}], head)


def rates(arguments: argparse.Namespace) -> None:
    head = head_of(arguments, "timm", "torchvision")
    head["settings"] = f"FAIR1M-1.0, five groups, training images alone: {TUNED.about()}"
    data = data_of(TUNED, arguments.data)
    for seed in arguments.seeds:
        for row in arguments.rows:
            for lr in arguments.lr:
                done = [(r["row"], r["lr"], r["seed"]) for r in read(RATES_TABLE)]
                if (row, f"{lr:.5g}", str(seed)) in done:
                    continue
                print(f"{row}, rate {lr}, seed {seed}", flush=True)
                torch.manual_seed(seed)
                setting = replace(TUNED, lr=lr)
                model = network_of(row, setting, data.spec.classes)
                runs = f"{TUNED.runs}-{ROWS.index(row)}-{lr}"
                append(
                    RATES_TABLE, [{"row": row, **measure(model, data, setting, seed, runs)}], head
                )


def small(arguments: argparse.Namespace) -> None:
    """Score small vehicles alone by the detectors of the five groups.

    Their class is the group of vehicles; other vehicles are difficult: neither demanded nor wrong.
    """
    head = head_of(arguments, "timm", "torchvision")
    data = data_of(replace(GROUPS, reader=fine_classes), arguments.data)
    names, groups = data.spec.classes, tuple(FAIR1M_GROUPS)
    vehicles = torch.tensor([name in FAIR1M_GROUPS["Vehicle"] for name in names])
    others = torch.tensor([name not in SMALL_VEHICLES for name in names])
    for seed in arguments.seeds:
        for row in arguments.rows:
            if (row, str(seed)) in [(r["row"], r["seed"]) for r in read(SMALL_TABLE)]:
                continue
            model = network_of(row, GROUPS, groups)
            model.load_state_dict(learned_groups(row, seed))
            metric = DetectionMetric(1, oriented=True)
            for found, (boxes, labels, _) in predicted(model, data, GROUPS)[0]:
                own, true = found["labels"] == groups.index("Vehicle"), vehicles[labels]
                found = {name: value[own] for name, value in found.items()}
                found["labels"] = torch.zeros_like(found["labels"])
                zeros = torch.zeros_like(labels[true])
                metric.update([found], [boxes[true]], [zeros], [others[labels][true]])
            scores = DetectionScores.of(metric, ("small vehicle",))
            print(f"{row}, seed {seed}: {scores}", flush=True)
            values = {k: v for k, v in scores.logged().items() if k in COLUMNS}
            append(SMALL_TABLE, [{"row": row, "seed": seed, **values}], head)


def peer(arguments: argparse.Namespace) -> None:
    head = head_of(arguments, "oriented-det", "timm", "torchvision")
    head["settings"] = f"FAIR1M-1.0, five groups: {PEER.about()}"
    data = data_of(PEER, arguments.data)
    for seed in arguments.seeds:
        for row in arguments.rows:
            if (row, str(seed)) in [(r["row"], r["seed"]) for r in read(PEER_TABLE)]:
                continue
            print(f"{row}, seed {seed}", flush=True)
            torch.manual_seed(seed)
            model: nn.Module
            if row.startswith("oriented-det"):
                model = OrientedDet(len(data.spec.classes))
            else:
                model = network_of("ResNet-18, from scratch", PEER, data.spec.classes)
            runs = f"{PEER.runs}-{PEER_ROWS.index(row)}"
            append(PEER_TABLE, [{"row": row, **measure(model, data, PEER, seed, runs)}], head)


COLUMNS = ("map50", "map50_95", "map50_voc07", "map50_area", "map50_95_area")


def rows_markdown(table: Path, kinds: Sequence[str]) -> str:
    lines = [
        "| row | seeds | mAP50 | mAP50:95 | parameters, M | CPU minutes | images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = read(table)
    for kind in kinds:
        runs = [r for r in rows if r["row"] == kind]
        if runs:
            lines.append(f"| {kind} | {_cells(runs, 'map50_area', 'map50_95_area')} |")
    return "\n".join(lines)


def rates_markdown() -> str:
    lines = ["| row | rate | seeds | mAP50 | mAP50:95 |", "| --- | ---: | ---: | ---: | ---: |"]
    rows = read(RATES_TABLE)
    for row, lr in sorted({(r["row"], r["lr"]) for r in rows}):
        runs = [r for r in rows if (r["row"], r["lr"]) == (row, lr)]
        scores = (spread([r[c] for r in runs]) for c in ("map50_area", "map50_95_area"))
        lines.append(f"| {row} | {lr} | {len(runs)} | {' | '.join(scores)} |")
    return "\n".join(lines)


def _cells(runs: Sequence[Mapping[str, str]], first: str, second: str) -> str:
    """Return the cells of the runs of a row: number, scores and cost."""
    cost = ("parameters_m", "cpu_minutes", "images_s")
    cells = [
        str(len(runs)),
        *(spread([r[c] for r in runs]) for c in (first, second)),
        *(spread([r.get(c, "") for r in runs], 1) for c in cost),
    ]
    return " | ".join(cells)


def markdown() -> str:
    lines = [
        "| data | row | seeds | mAP50 | mAP50:95 | parameters, M | CPU minutes | images/s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = read(TABLE)
    for name in dict.fromkeys(row["data"] for row in rows):
        for kind in (*ROWS, EARLIER):
            runs = [r for r in rows if (r["data"], r["row"]) == (name, kind)]
            if not runs:
                continue
            first = "map50" if runs[0].get("map50") else "map50_area"
            second = "map50_95" if runs[0].get("map50_95") else "map50_95_area"
            lines.append(f"| {name} | {kind} | {_cells(runs, first, second)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands_rows = {
        "train": ROWS,
        "small": ROWS,
        "options": OPTIONS,
        "rates": ROWS,
        "peer": PEER_ROWS,
    }
    for name, rows in commands_rows.items():
        part = commands.add_parser(name)
        part.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
        part.add_argument("--threads", type=int, default=1)
        part.add_argument("--seeds", type=int, nargs="+", default=[0])
        part.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows))
        part.add_argument("--markdown", action="store_true", help="print the table, no run")
        if name == "train":
            part.add_argument("--sets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
        if name == "options":
            part.add_argument("--level", default="groups", choices=list(OPTIONS_TABLES))
        if name == "rates":
            part.add_argument("--lr", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    arguments = parser.parse_args(argv)
    if arguments.command == "small":
        return execute(small, partial(rows_markdown, SMALL_TABLE, (*ROWS, EARLIER)), arguments)
    if arguments.command == "options":
        table = partial(rows_markdown, OPTIONS_TABLES[arguments.level], list(OPTIONS))
        return execute(options, table, arguments)
    if arguments.command == "rates":
        return execute(rates, rates_markdown, arguments)
    if arguments.command == "peer":
        return execute(peer, partial(rows_markdown, PEER_TABLE, PEER_ROWS), arguments)
    return execute(train, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
