# SPDX-License-Identifier: Apache-2.0
"""A class for every pixel: segmentation, by several sensors too, and change detection.

train    Trains the networks under one decoder, with equal images, schedule and seeds.
tune     Prints the scores of other settings on held-out training scenes; stores nothing.
places   Prints how far a difference of two networks depends on the scenes of the test.
speed    Measures images per second of the data loader and of the network.
profile  Prints where a training step and the evaluation of a whole scene spend their time.

A finished run is a row of the table; a command that was stopped continues with the next run. Real
images are looked for in --data: seg_dubai, optsar_ombria, levir_cd, cd_levir256, cd_dsifn256.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dense_sets import DUBAI, DUBAI_UNLABELED, SETS, DenseSet, Scene
from fitting import train
from image_sets import seeded
from operator_tables import RESULTS, BenchmarkError
from tables import ROOT, append, execute, read, spread
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rsvheat
from rsvheat.augmentation import RandomView
from rsvheat.benchmarking import describe
from rsvheat.data import Crop, DataModule, LoaderOptions, MaskCodes, MaskFolders
from rsvheat.data.tiles import starts
from rsvheat.evaluation import SegmentationScores, count_confusion
from rsvheat.models import parameter_groups
from rsvheat.models.change_detection import ChangeDetectionModel
from rsvheat.models.dense import DenseModel
from rsvheat.models.features import Encoder
from rsvheat.models.segmentation import SegmentationModel
from rsvheat.models.timm_encoder import TimmEncoder
from rsvheat.models.variants import NORMALIZATION
from rsvheat.segmentation_losses import SegmentationLoss, Weighting, class_weights
from rsvheat.training.optimization import Optimization

TABLE = RESULTS / "dense.csv"

CROP, BATCH, STEPS = 128, 8, 100
LEVIR_STEPS = 300  # after 100, no network finds anything: IoU below 0.03
CHANNELS = 64  # of the decoder, FPN
OVERLAP = 32  # pixels that neighboring windows of the evaluation share
LOSSES = {"cross_entropy": 1.0, "dice": 1.0}
WEIGHTS: Weighting = "square_root"  # of the classes, by their training pixels


@dataclass(frozen=True)
class Settings:
    """Settings of a training, among which `tune` searches.

    ``frozen`` is the number of the encoder's first stages that are not trained, its stems included;
    ``fresh_stems`` says that the stems are not those of the bundled weights; ``layer_scale`` is
    the first value of factors on the residual branches that the variant does not have. ``window``
    is the largest side of a crop in pixels of the image, ``scale`` the smallest factor on it;
    ``recolor`` is a factor on all changes of colors. ``ema`` is the decay of the moving average
    of the weights that is scored. ``normalization`` by ``"weights"`` takes mean and deviation of
    the images that the bundled weights were trained on.
    """

    lr: float
    layer_decay: float = 1.0
    warmup: float = 0.1
    frozen: int = 0
    fresh_stems: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    weight_decay: float = 0.05
    batch: int | None = None
    window: int | None = None
    scale: float = 1.0
    recolor: float = 1.0
    ema: float | None = None
    normalization: str = "data"

    def __str__(self) -> str:
        """Return the values that are not the usual ones."""
        usual = Settings(self.lr)
        other = {k: v for k, v in vars(self).items() if v != getattr(usual, k)}
        return ", ".join([f"lr {self.lr:g}", *(f"{k} {v}" for k, v in other.items())])


# By network and start, chosen on `dubai`.
SETTINGS = {
    ("rsvheat_nano", "scratch"): Settings(2e-3),
    ("rsvheat_nano", "pretrained"): Settings(2e-3),
    ("resnet18", "scratch"): Settings(1e-3),
    ("rsvheat_tiny", "scratch"): Settings(3e-4),
    ("convnext_tiny", "scratch"): Settings(1e-3),
}
# Chosen on another set, for that set, where they are not the same.
SEARCHED = {("ombria_sar", "rsvheat_nano", "pretrained"): Settings(2e-3, layer_decay=0.7)}
# The best for twice the steps on held-out images of `ombria_optical`.
VARIED = Settings(2e-3, recolor=2.0)
SMALL = [key for key in SETTINGS if not key[0].endswith("tiny")]
LARGE = [key for key in SETTINGS if key[0].endswith("tiny")]
BOTH = "ombria_optical_sar"


@dataclass(frozen=True)
class Run:
    """One training; all of it is in the table."""

    set: str
    network: str = "rsvheat_nano"
    start: str = "scratch"
    seed: int = 0
    fusion: str = ""
    dropout: float = 0.0
    steps: int = STEPS
    settings: Settings | None = None

    @property
    def used(self) -> Settings:
        """Settings of the run: by default those of the network and its start."""
        return self.settings or SETTINGS[self.network, self.start]

    def key(self) -> dict[str, str]:
        """Return the columns that identify the run."""
        return {name: str(value) for name, value in (vars(self) | {"settings": self.used}).items()}


def runs() -> Iterator[Run]:
    """Yield all runs in an order in which a table that was cut off is still of use."""
    floods = ["ombria_optical", "ombria_sar", BOTH]
    changes = ["change_optical", "change_sar", "change_optical_sar"]
    ours, peer = SMALL[1:]
    yield from equal_runs(["dubai", *floods, *changes], SMALL, [0])
    yield from dropout_runs(("gate", "attention", "mean"), [0])
    yield from equal_runs(["dubai"], SMALL, [1, 2])
    # Single sensors, to judge the networks that may miss one.
    yield from equal_runs(floods[:2], [ours], [1, 2])
    yield from dropout_runs(("gate", "attention"), [1, 2])
    yield from equal_runs(["levir"], [ours, peer], [0], LEVIR_STEPS)
    # A step of nano takes half the time of ResNet-18's.
    for name in ("ombria_sar", "change_sar", "dubai"):
        yield Run(name, *ours, steps=2 * STEPS)
    yield from equal_runs([BOTH, *floods], SMALL, [1, 2])
    yield from equal_runs(changes, SMALL, [1, 2])
    yield from equal_runs(["levir"], SMALL, [0, 1], LEVIR_STEPS)
    for seed in range(3):
        yield Run(BOTH, *ours, seed, "attention")
    for name, network, start in SEARCHED:
        for seed in range(3):
            yield Run(name, network, start, seed, settings=SEARCHED[name, network, start])
    yield from equal_runs(["dubai"], LARGE[:1], [0, 1])
    # Equal time where nano is behind after equal steps.
    for seed, name in itertools.product(range(3), ("ombria_optical", "change_optical")):
        yield Run(name, *ours, seed, steps=2 * STEPS)
    yield from equal_runs(["dubai"], LARGE, [0, 1, 2])
    for seed in (1, 2):
        yield Run("ombria_sar", *ours, seed, steps=2 * STEPS)
    # Kept, since they say what does not work: too few steps, too high a rate.
    yield from equal_runs(["levir"], SMALL, [0])
    yield Run("dubai", "rsvheat_tiny", settings=Settings(1e-3))
    yield from equal_runs([BOTH], LARGE, [0])
    for seed in range(3):
        yield Run("ombria_optical", *ours, seed, steps=2 * STEPS, settings=VARIED)
    yield from equal_runs(["levir"], SMALL, [2], LEVIR_STEPS)
    yield from equal_runs([*floods[:2], *changes], LARGE, [0])
    yield from equal_runs(["levir"], LARGE, [0], LEVIR_STEPS)
    for seed, name in itertools.product((1, 2), ("dubai", "change_sar")):
        yield Run(name, *ours, seed, steps=2 * STEPS)
    yield from equal_runs([BOTH, *floods[:2], *changes], LARGE, [1, 2])


def equal_runs(
    sets: Iterable[str],
    networks: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    steps: int = STEPS,
) -> Iterator[Run]:
    """Yield the runs that are compared: equal images, schedule and seeds."""
    for seed, name, (network, start) in itertools.product(seeds, sets, networks):
        yield Run(name, network, start, seed, "gate" if name == BOTH else "", steps=steps)


def dropout_runs(fusions: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """Yield the runs on both sensors in which half of the training samples lose one of them."""
    for seed, fusion in itertools.product(seeds, fusions):
        yield Run(BOTH, "rsvheat_nano", "pretrained", seed, fusion, 0.5)


def build(run: Run, data: DenseSet) -> DenseModel:
    encoder: Encoder
    given: dict[str, Any] = {"stems": {}} if run.used.fresh_stems else {}
    if run.used.layer_scale is not None:
        given["layer_scale"] = run.used.layer_scale
    if run.network in rsvheat.models.VARIANTS:
        encoder = rsvheat.create_model(
            run.network,
            pretrained=run.start == "pretrained",
            img_size=CROP,
            modalities=data.bands,
            num_classes=0,
            drop_path=run.used.drop_path,
            **given,
        )
    else:
        encoder = TimmEncoder(run.network, data.bands, drop_path_rate=run.used.drop_path)
    options: dict[str, Any] = {"decoder": "fpn", "channels": CHANNELS}
    classes = len(data.classes)
    model: DenseModel
    if data.change:
        model = ChangeDetectionModel(encoder, classes, dates=data.stems, **options)
    else:
        options |= {"fusion": run.fusion or "gate", "modality_dropout": run.dropout}
        model = SegmentationModel(encoder, classes, **options)
    if isinstance(encoder, TimmEncoder):
        # A third faster on the CPU; of no use to our encoder, which is channels-last inside.
        model = model.to(memory_format=torch.channels_last)
    return model


def in_layout_of(model: DenseModel, images: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(model.encoder, TimmEncoder):
        return images
    return {k: x.contiguous(memory_format=torch.channels_last) for k, x in images.items()}


def fit(run: Run, data: DenseSet) -> tuple[DenseModel, float]:
    """Train a network; return it, or the moving average of it, and the CPU seconds."""
    settings = run.used
    torch.manual_seed(run.seed)
    model = build(run, data)
    if settings.frozen:
        for part in (model.encoder.stems, *model.encoder.stages[: settings.frozen]):
            part.requires_grad_(False)
    loss = SegmentationLoss(LOSSES, class_weights(data.class_counts(), WEIGHTS))
    generator = seeded(run.seed, 4)
    usual = RandomView()
    view = RandomView(
        contrast=usual.contrast * settings.recolor,
        brightness=usual.brightness * settings.recolor,
        channel_shift=usual.channel_shift * settings.recolor,
    )
    sides = (settings.scale, settings.window or CROP)
    begin = time.process_time()

    def loss_of() -> Tensor:
        images, masks = data.crops(settings.batch or BATCH, CROP, generator, view, *sides)
        result: Tensor = loss(model(in_layout_of(model, images)).logits, masks)
        return result

    average: AveragedModel | None = None
    if settings.ema is not None:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    groups = parameter_groups(
        model,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
    )
    groups = [{k: g[k] for k in ("params", "weight_decay", "lr")} for g in groups]
    train(
        model,
        groups,
        Optimization(lr=settings.lr, betas=(0.9, 0.999), warmup=settings.warmup),
        run.steps,
        loss_of,
        None if average is None else lambda: average.update_parameters(model),
    )
    return model if average is None else average.module, time.process_time() - begin


@torch.inference_mode()
def predict(model: DenseModel, scene: Scene, names: Sequence[str]) -> Tensor:
    """Return the classes (H, W) by the mean probabilities of overlapping windows."""
    height, width = scene.mask.shape
    lines = [starts(side, CROP, CROP - OVERLAP) for side in (height, width)]
    places = list(itertools.product(*lines))
    total = torch.zeros(model.num_classes, height, width)
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        images = {
            name: torch.stack([scene.images[name][:, y : y + CROP, x : x + CROP] for y, x in some])
            for name in names
        }
        with torch.autocast("cpu", torch.bfloat16):
            parts = model.predict(in_layout_of(model, images))
        for (y, x), part in zip(some, parts, strict=True):
            total[:, y : y + CROP, x : x + CROP] += part
    return total.argmax(0)


def count_scenes(
    model: DenseModel, data: DenseSet, names: Sequence[str], scenes: Sequence[Scene]
) -> Tensor:
    """Return a confusion matrix per scene, (scenes, classes, classes), by some of the sensors."""
    model.eval()
    count = len(data.classes)
    parts = [
        count_confusion(predict(model, scene, names), scene.mask.long(), count) for scene in scenes
    ]
    return torch.stack(parts)


def scores_by(counts: Tensor, data: DenseSet) -> SegmentationScores:
    last = data.classes[-1] if len(data.classes) == 2 else None
    return SegmentationScores.of(counts, data.classes, change=last)


def score(
    model: DenseModel,
    data: DenseSet,
    names: Sequence[str] | None = None,
    scenes: Sequence[Scene] | None = None,
) -> SegmentationScores:
    """Score the test scenes or those given, by some of the sensors if they are named."""
    scenes = data.test if scenes is None else scenes
    return scores_by(count_scenes(model, data, names or list(data.stems), scenes).sum(0), data)


def main_score(scores: SegmentationScores) -> float:
    """Return the IoU of flood or change, or the mean IoU of several classes."""
    return scores["mean_iou" if scores.change is None else "change_iou"]


def scores_of(model: DenseModel, data: DenseSet) -> dict[str, float]:
    scores = score(model, data)
    names = ["mean_iou", "mean_f1", "overall_accuracy", "kappa"]
    result = {name: scores[name] for name in names}
    if scores.change is not None:
        result |= {name: scores[f"change_{name}"] for name in ("iou", "f1", "precision", "recall")}
    else:
        result |= {f"iou_{name}": v for name, v in zip(data.classes, scores.iou, strict=True)}
    if not data.change and len(data.stems) > 1:
        for name in data.stems:
            result[f"iou_by_{name}"] = score(model, data, [name])["change_iou"]
    return result


def train_all(arguments: argparse.Namespace) -> None:
    head = {
        **describe("cpu", arguments.threads, "python benchmarks/dense.py train", ("timm",)),
        "schedule": f"steps of {BATCH} crops of {CROP} pixels, AdamW, weight decay 0.05, "
        "warm-up of 10 % and half a cosine, cross entropy + Dice, classes weighted by one over "
        f"the root of their pixels; decoder FPN of {CHANNELS} channels",
        "rows": "each on such a machine; cpu_seconds: of training, since other processes shared it",
        "start": "scratch: random weights; pretrained: the bundled weights; first stage's weights: "
        "those before the second stage of their pretraining, bundled until 2026-11-29",
        "columns": "iou, f1, precision, recall: of flood or change; iou_by_*: with one sensor only",
    }
    sets: dict[str, DenseSet] = {}
    for run in runs():
        if arguments.sets and run.set not in arguments.sets:
            continue
        if arguments.networks and f"{run.network}:{run.start}" not in arguments.networks:
            continue
        if any(run.key().items() <= row.items() for row in read(TABLE)):
            continue
        if run.set not in sets:
            sets[run.set] = SETS[run.set](arguments.data)
        begin = time.perf_counter()
        model, seconds = fit(run, sets[run.set])
        row = {
            **run.key(),
            "parameters": sum(p.numel() for p in model.parameters()),
            **scores_of(model, sets[run.set]),
            "cpu_seconds": seconds,
        }
        wall = time.perf_counter() - begin
        print(
            *run.key().values(), f"{row.get('iou', row['mean_iou']):.3f}, {wall:.0f} s", flush=True
        )
        append(TABLE, [row], head)


# Settings that `tune` takes lists of.
SEARCH: dict[str, Callable[[str], Any]] = {
    "lr": float,
    "layer_decay": float,
    "warmup": float,
    "frozen": int,
    "layer_scale": float,
    "drop_path": float,
    "weight_decay": float,
    "batch": int,
    "window": int,
    "scale": float,
    "recolor": float,
    "ema": float,
    "normalization": str,
}


def tune(arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name) for name in SEARCH if getattr(arguments, name)}
    choices = [
        Settings(**dict(zip(given, values, strict=True)), fresh_stems=arguments.fresh_stems)
        for values in itertools.product(*given.values())
    ]
    for name in arguments.sets or ["dubai", "ombria_optical"]:
        data = SETS[name](arguments.data).validation()
        for which, settings, steps, seed in itertools.product(
            arguments.networks, choices, arguments.steps, arguments.seeds
        ):
            used = data
            if settings.normalization == "weights":
                if set(data.stems.values()) != {"optical"}:
                    raise BenchmarkError(f"--normalization weights: {name} has other sensors")
                used = data.normalized_by(NORMALIZATION[which.split(":")[0]])
            how = (arguments.fusion, arguments.dropout, steps)
            model, seconds = fit(Run(name, *which.split(":"), seed, *how, settings), used)
            of = {"held out": used.test, "trained on": used.train}
            found = {k: f"{main_score(score(model, used, scenes=v)):.3f}" for k, v in of.items()}
            print(name, which, seed, steps, settings, found, f"{seconds:.0f} CPU s", flush=True)


def places(arguments: argparse.Namespace) -> None:
    """Print how far the difference of nano and ResNet-18 at equal time depends on the test scenes.

    Scenes are drawn with replacement, the same for both networks: the interval holds 95 % of the
    differences of the scores.
    """
    networks = [(*COMPARED["nano, bundled weights"], 2 * STEPS), (*COMPARED["ResNet-18"], STEPS)]
    for name in arguments.sets or ["ombria_optical"]:
        data = SETS[name](arguments.data)
        for seed in arguments.seeds:
            counts = []
            for network, start, steps in networks:
                fusion = "gate" if name == BOTH else ""
                model, _ = fit(Run(name, network, start, seed, fusion, steps=steps), data)
                counts.append(count_scenes(model, data, list(data.stems), data.test))
            ours, peer = (main_score(scores_by(part.sum(0), data)) for part in counts)
            generator = seeded(seed, 5)
            drawn = torch.randint(len(data.test), (1000, len(data.test)), generator=generator)
            found = [
                [main_score(scores_by(part[rows].sum(0), data)) for part in counts]
                for rows in drawn
            ]
            differences = torch.tensor([mine - theirs for mine, theirs in found])
            low, high = torch.quantile(differences, torch.tensor([0.025, 0.975])).tolist()
            print(
                f"{name}, seed {seed}: {ours:.3f} - {peer:.3f} = {ours - peer:+.3f}, over "
                f"{len(data.test)} scenes from {low:+.3f} to {high:+.3f}",
                flush=True,
            )
            each = [[main_score(scores_by(c, data)) for c in part] for part in counts]
            better = sum(mine > theirs for mine, theirs in zip(*each, strict=True))
            print(f"better on {better} of {len(data.test)} scenes", flush=True)


def data_module(arguments: argparse.Namespace, workers: int) -> DataModule:
    codes = MaskCodes(colors=DUBAI, ignored_colors=[DUBAI_UNLABELED])
    root = arguments.data / "seg_dubai"
    data = DataModule(
        MaskFolders({"optical": f"{root}/Tile */images"}, f"{root}/Tile */masks", codes),
        crop=Crop(CROP, CROP, cat_max=0.75),
        loader=LoaderOptions(BATCH, num_workers=workers),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def loader(arguments: argparse.Namespace, workers: int) -> Iterator[dict[str, Any]]:
    """Yield batches of the data module, epoch after epoch."""
    data = data_module(arguments, workers)
    while True:
        yield from data.train_dataloader()


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def speed(arguments: argparse.Namespace) -> None:
    """Print samples per second of the loader and of training steps, alone and together.

    Those by CPU time do not depend on what else runs on the machine.
    """
    two = data_module(arguments, 2).train_dataloader()
    begin = cpu_seconds()
    samples = sum(len(batch["mask"]) for batch in two)
    del two  # ends the workers: the time of living processes is not counted
    rate = samples / (cpu_seconds() - begin)
    print(f"loader of two workers, by CPU time of all three processes: {rate:.0f} samples/s")
    torch.manual_seed(0)
    alone, beside = loader(arguments, 0), loader(arguments, 2)
    batch = next(alone)
    model = build(Run("dubai"), SETS["dubai"](arguments.data))
    loss, optimizer = SegmentationLoss(LOSSES), torch.optim.AdamW(model.parameters())

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model(batch["images"]).logits, batch["mask"])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    parts: dict[str, tuple[Callable[[], Any], Callable[[], float]]] = {
        "loader in this process, by CPU time": (lambda: next(alone), time.process_time),
        "training step, by CPU time": (lambda: step(batch), time.process_time),
        "loader of two workers, by wall time": (lambda: next(beside), time.perf_counter),
        "training with two workers, by wall time": (
            lambda: step(next(beside)),
            time.perf_counter,
        ),
    }
    for name, (call, clock) in parts.items():
        for _ in range(5):
            call()
        begin = clock()
        for _ in range(arguments.steps):
            call()
        rate = arguments.steps * BATCH / (clock() - begin)
        print(f"{name}: {rate:.0f} samples/s", flush=True)


def profile(arguments: argparse.Namespace) -> None:
    """Print the operators that take most of training steps and of a whole scene's evaluation."""
    for name in arguments.sets or ["dubai", "levir"]:
        data = SETS[name](arguments.data)
        run = Run(name, steps=5)
        with torch.profiler.profile() as training:
            model, _ = fit(run, data)
        model.eval()
        scene = data.test[0]
        predict(model, scene, list(data.stems))  # prepares the filters
        with torch.profiler.profile() as evaluation:
            predict(model, scene, list(data.stems))
        size = " x ".join(map(str, scene.mask.shape))
        for title, profiled in (
            (f"{name}, {run.steps} training steps", training),
            (f"{name}, a scene of {size}", evaluation),
        ):
            print(title, profiled.key_averages().table("self_cpu_time_total", row_limit=14))


# Columns of the table of all sets: networks that are compared, with equal steps.
COMPARED = {
    "nano, bundled weights": ("rsvheat_nano", "pretrained"),
    "nano": ("rsvheat_nano", "scratch"),
    "ResNet-18": ("resnet18", "scratch"),
    "tiny": ("rsvheat_tiny", "scratch"),
    "ConvNeXt-T": ("convnext_tiny", "scratch"),
}


def plain(rows: Iterable[dict[str, str]], name: str) -> list[dict[str, str]]:
    """Return the rows of a set with every sensor; other fusions have a table of their own."""
    some = [r for r in rows if r["set"] == name and float(r["dropout"]) == 0]
    return [r for r in some if r["fusion"] in ("", "gate")]


def summary(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yield the lines of a table of all sets and networks.

    A cell is mean and deviation of the IoU over the seeds, which it says where they are not three;
    the last column is of the time of ResNet-18.
    """
    titles = [*COMPARED, "nano, bundled weights, twice the steps"]
    yield f"| set | {' | '.join(titles)} |"
    yield f"| --- |{' ---: |' * len(titles)}"
    for name in SETS:
        usual = LEVIR_STEPS if name == "levir" else STEPS
        columns = [(*key, usual) for key in COMPARED.values()]
        cells = []
        for network, start, steps in (*columns, (*COMPARED["nano, bundled weights"], 2 * usual)):
            settings = str(SETTINGS[network, start])
            wanted = {"network": network, "start": start, "settings": settings, "steps": str(steps)}
            found = [r for r in plain(rows, name) if wanted.items() <= r.items()]
            cell = spread([r.get("iou") or r["mean_iou"] for r in found])
            if len(found) in (1, 2):
                cell += f" ({len(found)})"
            cells.append(cell)
        yield f"| `{name}` | {' | '.join(cells)} |"


def markdown() -> str:
    rows = read(TABLE)
    lines = [*summary(rows), ""]
    for name in SETS:
        some = plain(rows, name)
        own = ("mean_iou", "mean_f1", "overall_accuracy")
        if any(r.get("iou") for r in some):
            own = ("iou", "f1", "precision", "recall")
        lines += [
            f"### {name}",
            "",
            "| network | start | settings | parameters | steps | seeds | "
            f"{' | '.join(own)} | CPU s |",
            f"| --- | --- | --- | ---: | ---: | ---: |{' ---: |' * (len(own) + 1)}",
        ]
        columns = ("network", "start", "settings", "steps")
        for how in dict.fromkeys(tuple(r[c] for c in columns) for r in some):
            chosen = [r for r in some if tuple(r[c] for c in columns) == how]
            network, start, settings, steps = how
            cells = [spread([r[column] for r in chosen]) for column in own]
            size = f"{int(chosen[0]['parameters']) / 1e6:.1f} M"
            seconds = statistics.mean(float(r["cpu_seconds"]) for r in chosen)
            row = (network, start, settings, size, steps, str(len(chosen)), *cells)
            lines.append(f"| {' | '.join(row)} | {seconds:.0f} |")
        lines.append("")
    lines += [
        "### One sensor missing",
        "",
        "| start | fusion | modality dropout | seeds | both sensors | optical only | sar only |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = [r for r in rows if r["network"] == "rsvheat_nano" and int(r["steps"]) == STEPS]
    ours = [r for r in ours if r["settings"] == str(SETTINGS.get((r["network"], r["start"])))]
    fused = [r for r in ours if r["set"] == BOTH]
    for how in dict.fromkeys((r["start"], r["fusion"], r["dropout"]) for r in fused):
        chosen = [r for r in fused if (r["start"], r["fusion"], r["dropout"]) == how]
        parts = ("iou", "iou_by_optical", "iou_by_sar")
        cells = [spread([r[part] for r in chosen]) for part in parts]
        lines.append(f"| {' | '.join((*how, str(len(chosen)), *cells))} |")
    for start in ("scratch", "pretrained"):
        alone = [
            spread([r["iou"] for r in ours if (r["set"], r["start"]) == (f"ombria_{name}", start)])
            for name in ("optical", "sar")
        ]
        lines.append(
            f"| {start} | trained on that sensor alone | - | - | - | {' | '.join(alone)} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    part = commands.add_parser("train")
    part.add_argument("--sets", nargs="*", choices=list(SETS))
    part.add_argument("--networks", nargs="+", choices=[":".join(key) for key in SETTINGS])
    part.set_defaults(run=train_all)
    part = commands.add_parser("tune")
    part.add_argument("--sets", nargs="*", choices=list(SETS))
    part.add_argument("--networks", nargs="+", default=[":".join(key) for key in SMALL])
    for name, kind in SEARCH.items():
        part.add_argument(f"--{name.replace('_', '-')}", nargs="+", type=kind)
    part.add_argument("--fresh-stems", action="store_true")
    part.add_argument("--seeds", nargs="+", type=int, default=[100])
    part.add_argument("--steps", nargs="+", type=int, default=[STEPS])
    part.add_argument("--fusion", default="")
    part.add_argument("--dropout", type=float, default=0.0)
    part.set_defaults(run=tune, lr=[1e-3, 2e-3, 4e-3])
    part = commands.add_parser("places")
    part.add_argument("--sets", nargs="*", choices=list(SETS))
    part.add_argument("--seeds", nargs="+", type=int, default=[0])
    part.set_defaults(run=places)
    part = commands.add_parser("speed")
    part.add_argument("--steps", type=int, default=40)
    part.set_defaults(run=speed)
    part = commands.add_parser("profile")
    part.add_argument("--sets", nargs="*", choices=list(SETS))
    part.set_defaults(run=profile)
    for part in commands.choices.values():
        part.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
        part.add_argument("--threads", type=int, default=1)
        part.add_argument("--markdown", action="store_true", help="print the table instead")
    arguments = parser.parse_args()
    return execute(arguments.run, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
