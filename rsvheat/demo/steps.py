# SPDX-License-Identifier: Apache-2.0
"""The steps of the demo: pretrain, fine-tune, compare, map, and report the progress."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from numpy.typing import NDArray

from rsvheat.augmentation import RandomView
from rsvheat.data import (
    ClassFolders,
    Crop,
    DatasetReader,
    FolderSource,
    ImageFolders,
    MaskCodes,
    MaskFolders,
    Photometric,
    Sensor,
    Window,
    open_image,
)
from rsvheat.data.datamodule import DataModule, LoaderOptions
from rsvheat.demo.images import DemoImages
from rsvheat.evaluation import Scores, SegmentationScores
from rsvheat.tasks import ClassificationTask, PretrainingTask, SegmentationTask
from rsvheat.tasks.evaluation import evaluate
from rsvheat.training import CSVLog, Optimization, ProgressLines, Run, Task
from rsvheat.training.console import say

VARIANT = "rsvheat_nano"
SIZE = 64  # pixels: EuroSAT's images, and the windows of scenes
HELD_OUT = 0.2  # of the labeled images, where none come apart
TILE = 128  # scenes are cut into samples of so many pixels, of which each epoch sees a window
VIEW = 48  # side of the views that pretraining compares
MASKED = 256  # side of the windows that segmentation learns from, at half the resolution
BATCH = {"pretrain": 96, "finetune": 60, "segment": 16}
PRETRAINING = Optimization(lr=1.5e-3)
FINETUNING = Optimization(lr=1e-3, betas=(0.9, 0.999))
SEGMENTATION = Optimization(lr=2e-3, betas=(0.9, 0.999))
LAYER_DECAY = 0.8
STRIDE = 16  # pixels between the windows of the map
# Classes of the aerial images' masks, whose number 5 is unlabeled, and their colors on the map.
COLORS = {
    "building": "#d1495b",
    "land": "#ead7b0",
    "road": "#6c757d",
    "vegetation": "#4c956c",
    "water": "#2d6aa3",
}
CODES = MaskCodes(values={name: number for number, name in enumerate(COLORS)}, ignored=[5])


@dataclass(frozen=True)
class Demo:
    """Settings that the steps share.

    Attributes:
        folder: Folder of the demo.
        images: Images that it runs on.
        seed: Seed of all randomness.
        pretrain_epochs: Number of epochs of pretraining.
        finetune_epochs: Number of epochs of fine-tuning, and of training from scratch.
        segment_epochs: Number of epochs of segmentation.
        threads: Number of torch's threads in training; None for as many as other processes leave
            cores.
    """

    folder: Path
    images: DemoImages
    seed: int
    pretrain_epochs: int
    finetune_epochs: int
    segment_epochs: int
    threads: int | None

    @property
    def pretrained(self) -> Path:
        """The checkpoint of pretraining."""
        return self.folder / "pretrain" / "last.ckpt"

    @property
    def finetuned(self) -> Path:
        """The checkpoint of fine-tuning."""
        return self.folder / "finetune" / "last.ckpt"

    def estimate(self, step: str) -> float:
        """Return about how many seconds a step takes.

        By milliseconds per image and epoch on one core of an AMD EPYC (Zen 5), of which two do 1.6
        times as much; more help little with batches as small.
        """
        labeled = sum(1 for path in self.images.classes.rglob("*") if path.is_file())
        trained = labeled if self.images.test_classes else (1 - HELD_OUT) * labeled
        scenes = sum(1 for path in self.images.pairs["optical"].iterdir())
        tiles = scenes * (4 if self.images.test_classes else 64)
        crops = sum(1 for path in (self.images.land_cover / "train/images").iterdir())
        classifier = self.finetune_epochs * trained * 2.0
        costs = {
            "pretrain": self.pretrain_epochs * (trained + tiles) * 4.2,
            "finetune": classifier,
            "scratch": classifier,
            "probe": 3 * labeled * 1.5 + 10_000,
            "map": 10_000,
            "segment": 10_000 + self.segment_epochs * crops * 16.0,
        }
        return costs[step] / 1000 / (1.6 if torch.get_num_threads() > 1 else 1.0)

    def labeled(self) -> DataModule:
        """Return the labeled images; those for validation are the ones to score on."""
        held_out = self.images.test_classes
        reader = ClassFolders(
            str(self.images.classes),
            val_root=None if held_out is None else str(held_out),
            val_fraction=HELD_OUT if held_out is None else 0.0,
        )
        return _data(reader, BATCH["finetune"], self.seed, crop=Crop(SIZE, scale=(0.7, 1.0)))

    def land_cover(self) -> DataModule:
        """Return the aerial images with masks, none of them of the tile that is mapped."""
        folder = self.images.land_cover / "train"
        reader = MaskFolders(
            {"optical": str(folder / "images")}, str(folder / "masks"), CODES, val_fraction=0.0
        )
        # At half the resolution: in as many steps, more ground around each pixel teaches more.
        crop = Crop(MASKED // 2, MASKED, scale=(0.5, 1.0), cat_max=0.9)
        # Tiles were taken on other days, in other light.
        light = Photometric(brightness=0.4, contrast=0.3)
        return _data(reader, BATCH["segment"], self.seed, crop=crop, transforms=[light])

    def tile_truth(self) -> NDArray[np.int64]:
        """Return the classes of the tile that is mapped, (H, W); 255 for unlabeled pixels."""
        with open_image(self.images.tile["mask"], raw=True) as mask:
            return CODES.read([mask], Window(0, 0, mask.height, mask.width))

    def unlabeled(self) -> DataModule:
        """Return pairs, and the labeled images' training part without its labels."""
        pairs, single = FolderSource(self.images.pairs, tile=TILE), self.labeled()
        scene = self.images.held_out
        reader = ImageFolders(
            sources=[pairs, single.datasets["train"].source],
            val_fraction=0.0,
            val_groups=None if scene is None else [f"0/{scene}"],
        )
        # Gray images may be stored as three equal bands.
        sensors = {"optical": Sensor(3), "sar": Sensor(1, [1])}
        return _data(
            reader,
            BATCH["pretrain"],
            self.seed,
            crop=Crop(SIZE, SIZE),
            sensors=sensors,
            statistics_images=256,
        )


def _data(reader: DatasetReader, batch: int, seed: int, **options: Any) -> DataModule:
    """Set a data module up, with batches that are not larger than all there is."""
    data = DataModule(reader, seed=seed, loader=LoaderOptions(num_workers=0), **options)
    data.setup("fit")
    size = min(batch, len(data.datasets["train"]))
    data.loader_options = replace(data.loader_options, batch_size=size)
    return data


def pretrain(demo: Demo) -> dict[str, Any]:
    """Pretrain the encoder on pairs and on unlabeled images."""
    seed_everything(demo.seed)
    data = demo.unlabeled()
    task = PretrainingTask(
        data.spec,
        VARIANT,
        optimization=PRETRAINING,
        seed=demo.seed,
        images_every=0,
        augmentation=RandomView(size=VIEW),
    )
    result = _fit(demo.pretrained.parent, task, data, demo.pretrain_epochs, demo.threads)
    # Pairs have two modalities.
    present = [data.datasets["train"].source.present(i) for i in data.datasets["train"].indices]
    return {
        **result,
        "pairs": sum(len(names) == 2 for names in present),
        "single": sum(len(names) == 1 for names in present),
    }


def finetune(demo: Demo) -> dict[str, Any]:
    """Train a classifier from the pretrained encoder, and score it."""
    return _classifier(demo, "finetune", demo.pretrained)


def scratch(demo: Demo) -> dict[str, Any]:
    """Train the same classifier from random weights, in the same way."""
    return _classifier(demo, "scratch", None)


def _classifier(demo: Demo, name: str, checkpoint: Path | None) -> dict[str, Any]:
    seed_everything(demo.seed)
    data = demo.labeled()
    task = ClassificationTask(
        data.spec,
        VARIANT,
        checkpoint=None if checkpoint is None else str(checkpoint),
        encoder_options={"global_pool": "moments"},
        optimization=FINETUNING,
        layer_decay=LAYER_DECAY,
        seed=demo.seed,
    )
    folder = demo.folder / name
    result = _fit(folder, task, data, demo.finetune_epochs, demo.threads)
    scores = evaluate(demo.labeled(), str(folder / "last.ckpt"), output=str(folder), device="cpu")[
        "classification"
    ]
    assert isinstance(scores, Scores)
    return {
        **result,
        "labels": len(data.datasets["train"]),
        "scored": len(data.datasets["val"]),
        "accuracy": scores.accuracy,
        "mean_f1": scores.mean_f1,
        "classes": list(scores.classes),
        "confusion": [list(row) for row in scores.confusion],
    }


def probe(demo: Demo) -> dict[str, Any]:
    """Score frozen features of random, pretrained and the package's weights."""
    began = _Watch()
    of: dict[str, dict[str, Any]] = {
        "random": {"variant": VARIANT},
        "pretrained": {"checkpoint": str(demo.pretrained)},
        "package": {"pretrained": True},
    }
    found = {}
    for name, arguments in of.items():
        scores = evaluate(
            demo.labeled(),
            **arguments,
            methods=["knn", "linear"],
            output=str(demo.folder / "probe" / name),
            seed=demo.seed,
            device="cpu",
        )
        found[name] = {method: score.logged()["accuracy"] for method, score in scores.items()}
    return {"accuracy": found, **began.seconds()}


def draw_map(demo: Demo) -> dict[str, Any]:
    """Classify the scene that was not trained on, window by window."""
    from rsvheat.raster import predict

    began = _Watch()
    result = predict(
        demo.images.scene["optical"],
        demo.folder / "map" / "map.tif",
        demo.finetuned,
        window=SIZE,
        stride=STRIDE,
        # Scenes and labeled images are of one sensor, but were stretched to 8 bits in different
        # ways: as it is, the scene would be far too bright for the classifier.
        match=True,
        overwrite=True,
        device="cpu",
    )
    counts = dict(zip(result.classes, result.counts, strict=True))
    return {"counts": counts, **began.seconds()}


def segment(demo: Demo) -> dict[str, Any]:
    """Train to give each pixel a class, map a tile that was not trained on, and score the map."""
    from rsvheat.raster import predict, read_map

    seed_everything(demo.seed)
    data = demo.land_cover()
    task = SegmentationTask(
        data.spec,
        VARIANT,
        checkpoint=str(demo.pretrained),
        decoder="fpn",
        model_options={"channels": 64},
        losses={"cross_entropy": 1.0, "dice": 1.0},
        optimization=SEGMENTATION,
        layer_decay=LAYER_DECAY,
        panels=0,
        seed=demo.seed,
    )
    folder = demo.folder / "segment"
    result = _fit(folder, task, data, demo.segment_epochs, demo.threads)
    began = _Watch()
    predict(
        demo.images.tile["image"],
        folder / "map.tif",
        folder / "last.ckpt",
        colors=COLORS,
        overwrite=True,
        device="cpu",
    )
    labels = torch.from_numpy(read_map(folder / "map.tif").labels.astype(np.int64))
    truth = torch.from_numpy(demo.tile_truth())
    scores = SegmentationScores.score(labels[None], truth[None], data.spec.classes)
    scores.save(folder, "segmentation")
    spent = began.seconds()
    return {
        **result,
        **{name: result[name] + value for name, value in spent.items()},
        "images": len(set(data.datasets["train"].indices.tolist())),
        "mean_iou": scores["mean_iou"],
        "accuracy": scores["overall_accuracy"],
        "iou": dict(zip(scores.classes, scores.iou, strict=True)),
    }


def _fit(
    folder: Path, task: Task, data: DataModule, epochs: int, threads: int | None
) -> dict[str, Any]:
    """Train, or resume a run that was stopped; return how long all of it took."""
    # The last epoch is scored and shown: nothing chooses among them.
    run = Run(folder, resume=True, keep_best=0, threads=threads)
    arguments = run.trainer_arguments()
    # The report takes its curves from the CSV log.
    arguments["logger"] = [log for log in arguments["logger"] if isinstance(log, CSVLog)]
    for callback in arguments["callbacks"]:
        if isinstance(callback, ProgressLines):
            callback.pause_s = 5.0  # the demo's epochs are short
    clock = _Clock()
    arguments["callbacks"].insert(0, clock)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        limit_val_batches=1.0 if isinstance(task, ClassificationTask) else 0,
        **arguments,
    )
    if run.checkpoint is not None:
        say(f"      goes on after step {run.step}")
    code = run.fit(trainer, task, data, "the same command goes on from there")
    if code:
        raise SystemExit(code)
    return {"epochs": epochs, "steps": trainer.global_step, **clock.state_dict()}


class _Clock(Callback):
    """Counts a run's seconds over restarts; those since the last checkpoint of a killed one go."""

    def __init__(self) -> None:
        self._before = {"seconds": 0.0, "cpu_seconds": 0.0}
        self._watch = _Watch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._watch = _Watch()

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far."""
        now = self._watch.seconds()
        return {name: self._before[name] + now[name] for name in self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = dict(state_dict)


class _Watch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }
