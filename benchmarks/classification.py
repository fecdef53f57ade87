# SPDX-License-Identifier: Apache-2.0
"""Classification of EuroSAT: from scratch, with few labels, and by frozen features.

scratch   Trained from scratch with all labels: rsvheat_nano, rsvheat_tiny and timm's ResNet-18.
labels    With 1 % and 10 % of the labels, from the bundled weights and from scratch.
features  Frozen features of several origins: nearest neighbours and linear probe.
tune      Accuracy of other settings on a part of the training images; prints it, stores nothing.

Whatever is finished is written at once; a command that was stopped goes on where it was. Real
images are looked for in --data: eurosat_rgb (a folder a class).
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_sets import HELD_OUT, SPLIT_SEED, Labelled, eurosat, seeded, turned, validation
from operator_tables import RESULTS, BenchmarkError
from scoring import accuracy, image_statistics, probes
from tables import ROOT, append, execute, read, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import rsvheat
from rsvheat._files import complete_file
from rsvheat.augmentation import RandomView
from rsvheat.benchmarking import describe
from rsvheat.data import label_subset
from rsvheat.evaluation.probing import Features, extract_features
from rsvheat.models import RSVHeat, parameter_groups, pool_features
from rsvheat.training.optimization import warmup_cosine

RUNS = ROOT / "runs" / "classification"
SCRATCH = RESULTS / "classification_scratch.csv"
LABELS = RESULTS / "classification_labels.csv"
FEATURES = RESULTS / "classification_features.csv"

# Features (N, D) of images (N, 3, 64, 64), by the end of the name of their row in the table.
Describe = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained: AdamW, warm-up and half a cosine, views, smoothed labels."""

    lr: float
    epochs: int
    batch: int = 128
    weight_decay: float = 0.05
    warmup: float = 0.125
    floor: float = 0.01
    layer_decay: float = 1.0
    drop_path: float = 0.0
    label_smoothing: float = 0.1
    cutmix: float = 0.0
    scale: float = 0.5  # smallest area of a view
    colour: float = 0.2  # largest change of contrast and brightness, and half of it by band
    global_pool: str = "moments"  # of rsvheat's; ResNet-18 has its own


SCHEDULES = {
    "rsvheat_nano": Schedule(lr=2e-3, epochs=48),
    "rsvheat_tiny": Schedule(lr=1e-3, epochs=48, drop_path=0.1),
    "resnet18": Schedule(lr=2e-3, epochs=48),
}
# By part of the labels and start; each was chosen by `tune`.
FEW = {
    (0.01, "scratch"): Schedule(lr=1e-3, epochs=100, batch=32),
    (0.01, "pretrained"): Schedule(lr=1e-3, epochs=100, batch=32, layer_decay=0.6),
    (0.1, "scratch"): Schedule(lr=2e-3, epochs=30, batch=64),
    (0.1, "pretrained"): Schedule(lr=1e-3, epochs=30, batch=64, layer_decay=0.8),
}


# Training


def build(name: str, classes: int, schedule: Schedule, start: str = "scratch") -> nn.Module:
    if name in rsvheat.models.VARIANTS:
        return rsvheat.create_model(
            name,
            pretrained=start == "pretrained",
            img_size=64,
            modalities={"optical": 3},
            num_classes=classes,
            drop_path=schedule.drop_path,
            global_pool=schedule.global_pool,
        )
    if start != "scratch":
        raise BenchmarkError(f"no pretrained weights of {name} come with the package")
    import timm

    model = timm.create_model(name, num_classes=classes, drop_path_rate=schedule.drop_path)
    # A third faster on the CPU.
    result: nn.Module = model.to(memory_format=torch.channels_last)
    return result


def optimizer_of(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    decay = schedule.weight_decay
    groups: list[dict[str, Any]]
    if isinstance(model, RSVHeat):
        groups = model.get_parameter_groups(schedule.lr, decay, schedule.layer_decay)
        groups = [{k: g[k] for k in ("params", "weight_decay", "lr")} for g in groups]
    else:
        groups = parameter_groups(model, weight_decay=decay)
    return torch.optim.AdamW(groups, schedule.lr)


def pasted(
    images: Tensor, target: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into each, of a share of its area from Beta(alpha, alpha)."""
    side = images.shape[-1]
    cut = int(side * math.sqrt(1 - float(torch.distributions.Beta(alpha, alpha).sample())))
    place = torch.randint(side - cut + 1, (2,), generator=generator).tolist()
    order = torch.randperm(len(images), generator=generator)
    rows, columns = (slice(first, first + cut) for first in place)
    images = images.clone()
    images[:, :, rows, columns] = images[order, :, rows, columns]
    share = cut**2 / side**2
    return images, (1 - share) * target + share * target[order]


def fit(
    model: nn.Module,
    data: Labelled,
    rows: Tensor,
    schedule: Schedule,
    seed: int,
    path: Path | None = None,
) -> float:
    """Train on some images and return CPU seconds; with a path every fifth epoch is kept there."""
    batch = min(schedule.batch, len(rows))
    per_epoch = len(rows) // batch
    steps = per_epoch * schedule.epochs
    warmup = int(schedule.warmup * steps)
    optimizer = optimizer_of(model, schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, steps, warmup, schedule.floor)
    )
    view = RandomView(
        scale=(schedule.scale, 1.0),
        contrast=schedule.colour,
        brightness=schedule.colour,
        channel_shift=schedule.colour / 2,
    )
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first, seconds = 0, 0.0
    if path is not None and path.exists():
        state = torch.load(path)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, seconds = state["epoch"], state["seconds"]
    model.train()
    for epoch in range(first, schedule.epochs):
        begin, total = time.process_time(), 0.0
        # By the epoch, so that a run that goes on draws what it would have drawn.
        torch.manual_seed(1000 * seed + epoch)
        generator = seeded(seed, 2, epoch)
        order = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in order.split(batch)[:per_epoch]:
            images = view(data.images[chosen], generator)
            target = one_hot(data.labels[chosen], len(data.classes)).float()
            if schedule.cutmix:
                images, target = pasted(images, target, schedule.cutmix, generator)
            if not isinstance(model, RSVHeat):
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = cross_entropy(logits.float(), target, label_smoothing=schedule.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() / per_epoch
        seconds += time.process_time() - begin
        if path is not None:
            about = f"{path.stem}: epoch {epoch + 1} of {schedule.epochs}"
            print(f"{about}, loss {total:.3f}, {seconds:.0f} CPU s", flush=True)
            if (epoch + 1) % 5 == 0 or epoch + 1 == schedule.epochs:
                path.parent.mkdir(parents=True, exist_ok=True)
                state = {name: part.state_dict() for name, part in parts.items()}
                with complete_file(path) as temporary:
                    torch.save({**state, "epoch": epoch + 1, "seconds": seconds}, temporary)
    return seconds


@torch.inference_mode()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([model(part).float() for part in images.split(256)])


def head_of(arguments: argparse.Namespace, data: Labelled, **about: str) -> dict[str, str]:
    command = f"python benchmarks/classification.py {arguments.command}"
    return {
        **describe("cpu", arguments.threads, command, ("timm",)),
        "data": f"EuroSAT RGB, {len(data.train)} images to train on and {len(data.test)} held out, "
        f"{HELD_OUT:.0%} of each class (stratified_split, seed {SPLIT_SEED}); 64 x 64 pixels; each "
        "band less its mean, over its deviation, of the training part",
        **about,
    }


# From scratch


def state_path(name: str, epochs: int, seed: int) -> Path:
    return RUNS / f"scratch-{name}-{epochs}-{seed}.pt"


def scratch(arguments: argparse.Namespace) -> None:
    data = eurosat(arguments.data)
    for name in arguments.rows:
        schedule = SCHEDULES[name]
        if arguments.epochs:
            schedule = dataclasses.replace(schedule, epochs=arguments.epochs)
        head = head_of(
            arguments,
            data,
            schedule="; ".join(f"{n}: {settings(s)}" for n, s in SCHEDULES.items())
            + f"; all: {settings(Schedule(lr=0, epochs=0), common=True)}",
            columns="accuracy on the images held out; turned: by the mean of the logits of the 8 "
            "ways to turn and flip each",
        )
        for seed in arguments.seeds:
            key = {"model": name, "epochs": str(schedule.epochs), "seed": str(seed)}
            if any(key.items() <= row.items() for row in read(SCRATCH)):
                continue
            torch.manual_seed(seed)
            model = build(name, len(data.classes), schedule)
            path = state_path(name, schedule.epochs, seed)
            seconds = fit(model, data, data.train, schedule, seed, path)
            images, labels = data.images[data.test], data.labels[data.test]
            mean = torch.stack([logits_of(model, view) for view in turned(images)])
            result = {
                **key,
                "parameters": sum(p.numel() for p in model.parameters()),
                "accuracy": accuracy(mean[0].argmax(1), labels),
                "turned": accuracy(mean.mean(0).argmax(1), labels),
                "cpu_seconds": seconds,
            }
            print(result, flush=True)
            append(SCRATCH, [result], head)


def settings(schedule: Schedule, common: bool = False) -> str:
    """Return the settings in which a schedule differs, or those that all of them have."""
    own = ("lr", "epochs", "batch", "layer_decay", "drop_path", "global_pool")
    fields = vars(schedule)
    if common:
        return ", ".join(f"{k} {v}" for k, v in fields.items() if k not in own)
    defaults = {f.name: f.default for f in dataclasses.fields(schedule)}
    return ", ".join(f"{k} {v}" for k, v in fields.items() if v != defaults[k])


def scratch_markdown() -> str:
    lines = [
        "| model | parameters | epochs | accuracy | mean of 8 turned | CPU min (one thread) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = read(SCRATCH)
    for name, epochs in dict.fromkeys((row["model"], row["epochs"]) for row in rows):
        runs = [r for r in rows if (r["model"], r["epochs"]) == (name, epochs)]
        cells = [spread([r[column] for r in runs]) for column in ("accuracy", "turned")]
        minutes = statistics.mean(float(r["cpu_seconds"]) for r in runs) / 60
        size = f"{int(runs[0]['parameters']) / 1e6:.1f} M"
        lines.append(f"| {name} | {size} | {epochs} | {' | '.join(cells)} | {minutes:.0f} |")
    return "\n".join(lines)


# Few labels


def labels(arguments: argparse.Namespace) -> None:
    data = eurosat(arguments.data)
    head = head_of(
        arguments,
        data,
        labels="parts of the training part's, the same of each class, chosen by the seed "
        "(label_subset), for all starts alike; frozen: linear probe of the bundled weights",
        schedule="; ".join(
            f"{part:.0%}, {start}: {settings(schedule)}" for (part, start), schedule in FEW.items()
        ),
    )
    for seed in arguments.seeds:
        for (part, start), schedule in FEW.items():
            key = {"part": f"{part:g}", "start": start, "seed": str(seed)}
            if any(key.items() <= row.items() for row in read(LABELS)):
                continue
            result, seconds = few(data, part, start, schedule, seed)
            print(*key.values(), result, flush=True)
            append(LABELS, [{**key, "accuracy": result, "cpu_seconds": seconds}], head)
    frozen_few(data, arguments.seeds, head)


def frozen_few(data: Labelled, seeds: Sequence[int], head: Mapping[str, str]) -> None:
    """Write what a linear probe of the frozen bundled weights makes of a part of the labels."""
    keys = [
        {"part": f"{part:g}", "start": "frozen", "seed": str(seed)}
        for seed in seeds
        for part in dict.fromkeys(part for part, _ in FEW)
    ]
    keys = [key for key in keys if not any(key.items() <= row.items() for row in read(LABELS))]
    if not keys:
        return
    describe = encoder_described(rsvheat.create_model("rsvheat_nano", pretrained=True))
    values = torch.cat([describe(part)[""] for part in data.images.split(256)])
    labels = data.labels
    for key in keys:
        rows = data.train
        rows = rows[label_subset(labels[rows].numpy(), float(key["part"]), int(key["seed"]))]
        train, test = (Features(values[i], labels[i]) for i in (rows, data.test))
        result = probes(train, test)["linear"]
        print(*key.values(), result, flush=True)
        append(LABELS, [{**key, "accuracy": result}], head)


def few(
    data: Labelled,
    part: float,
    start: str,
    schedule: Schedule,
    seed: int,
    name: str = "rsvheat_nano",
) -> tuple[float, float]:
    """Train with a part of the labels; return accuracy on the images held out and CPU seconds."""
    rows = data.train
    if part < 1:
        rows = rows[torch.from_numpy(label_subset(data.labels[rows].numpy(), part, seed))]
    torch.manual_seed(seed)
    model = build(name, len(data.classes), schedule, start)
    seconds = fit(model, data, rows, schedule, seed)
    logits = logits_of(model, data.images[data.test])
    return accuracy(logits.argmax(1), data.labels[data.test]), seconds


def labels_markdown() -> str:
    lines = [
        "| labels | subsets | from scratch | from the bundled weights | difference, by subset | "
        "linear probe, frozen |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = read(LABELS)
    for part in dict.fromkeys(row["part"] for row in rows):
        by_start = {
            start: {
                r["seed"]: r["accuracy"] for r in rows if (r["part"], r["start"]) == (part, start)
            }
            for start in ("scratch", "pretrained", "frozen")
        }
        before, after, frozen = by_start.values()
        seeds = [seed for seed in before if seed in after]
        gain = [str(float(after[seed]) - float(before[seed])) for seed in seeds]
        cells = [spread([run[seed] for seed in seeds]) for run in (before, after)]
        cells += [f"+{spread(gain)}", spread(list(frozen.values()))]
        lines.append(f"| {float(part):.0%} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Frozen features


def resnet_described(model: nn.Module) -> Describe:
    model.eval()

    @torch.no_grad()
    def describe(images: Tensor) -> dict[str, Tensor]:
        maps = model.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
        maps = [x.permute(0, 2, 3, 1) for x in maps]
        return {
            ", last stage": pool_features(maps[-1:], deviation=False),
            ", all stages": pool_features(maps, deviation=True),
        }

    return describe


def encoder_described(encoder: RSVHeat) -> Describe:
    def describe(images: Tensor) -> dict[str, Tensor]:
        batch = {"images": {"optical": images}, "label": torch.zeros(len(images))}
        return {"": extract_features(encoder, [batch], modality="optical").values}

    return describe


def probed(describe: Describe, data: Labelled) -> dict[str, dict[str, float]]:
    """Return by kind of features what they tell, as they are and as means of the turned images'."""
    plain, mean = defaultdict(list), defaultdict(list)
    for images in data.images.split(256):
        views = [describe(view) for view in turned(images)]
        for kind in views[0]:
            plain[kind].append(views[0][kind])
            mean[kind].append(torch.stack([view[kind] for view in views]).mean(0))
    result: dict[str, dict[str, float]] = {}
    for kind in plain:
        result[kind] = {}
        for prefix, parts in (("", plain[kind]), ("turned_", mean[kind])):
            values = torch.cat(parts)
            train, test = (Features(values[i], data.labels[i]) for i in (data.train, data.test))
            scores = probes(train, test)
            result[kind].update({f"{prefix}{name}": score for name, score in scores.items()})
    return result


def features(arguments: argparse.Namespace) -> None:
    data = eurosat(arguments.data)

    def resnet(seed: int, trained: bool) -> Describe | None:
        schedule = SCHEDULES["resnet18"]
        torch.manual_seed(seed)
        model = build("resnet18", len(data.classes), schedule)
        if trained:
            path = state_path("resnet18", schedule.epochs, seed)
            state = torch.load(path) if path.exists() else {"epoch": 0}
            if state["epoch"] < schedule.epochs:
                return None
            model.load_state_dict(state["model"])
        return resnet_described(model)

    def nano(seed: int, pretrained: bool) -> Describe:
        torch.manual_seed(seed)
        name = "rsvheat_nano"
        if pretrained:
            return encoder_described(rsvheat.create_model(name, pretrained=True))
        return encoder_described(
            rsvheat.create_model(name, img_size=64, modalities={"optical": 3}, num_classes=0)
        )

    # What has one seed: the bundled weights' is that of their pretraining.
    models: dict[str, tuple[Callable[[int], Describe | None], bool]] = {
        "resnet18, random": (lambda seed: resnet(seed, False), True),
        "rsvheat_nano, random": (lambda seed: nano(seed, False), True),
        "rsvheat_nano, bundled": (lambda seed: nano(seed, True), False),
        "resnet18, trained with all labels": (lambda seed: resnet(seed, True), False),
    }
    head = head_of(
        arguments,
        data,
        features="all stages: mean and deviation over space of the channels of each; last stage: "
        "means; kNN (k = 5, cosine, standardised) and linear probe (its regularisation chosen on a "
        "part of the training images); turned: of the mean of the features of the 8 ways to turn "
        "and flip an image, of training images and those held out alike",
    )

    def known(row: str, seed: int) -> bool:
        return any(r["row"].startswith(row) and r["seed"] == str(seed) for r in read(FEATURES))

    def keep(seed: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        for row, score in scores.items():
            print(row, seed, score, flush=True)
        append(
            FEATURES, [{"row": row, "seed": seed, **score} for row, score in scores.items()], head
        )

    statistics_row = "image statistics"
    if not known(statistics_row, arguments.seeds[0]):
        keep(arguments.seeds[0], {statistics_row: image_statistics(data)})
    for row, (make, seeds_matter) in models.items():
        for seed in arguments.seeds if seeds_matter else arguments.seeds[:1]:
            if known(row, seed):
                continue
            describe = make(seed)
            if describe is None:
                print(f"{row}: has not been trained here, see `scratch`", flush=True)
                continue
            scores = probed(describe, data)
            keep(seed, {f"{row}{kind}": score for kind, score in scores.items()})


def features_markdown() -> str:
    lines = [
        "| frozen features | seeds | kNN | linear probe | kNN, turned | linear probe, turned |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = read(FEATURES)
    for name in dict.fromkeys(row["row"] for row in rows):
        runs = [row for row in rows if row["row"] == name]
        columns = ("knn", "linear", "turned_knn", "turned_linear")
        cells = [spread([r[column] for r in runs]) for column in columns]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Choices


def tune(arguments: argparse.Namespace) -> None:
    data = validation(eurosat(arguments.data))
    default = FEW.get((arguments.part, arguments.start), SCHEDULES[arguments.model])
    schedule = dataclasses.replace(default, **dict(arguments.set))
    results = []
    for seed in arguments.seeds:
        result, seconds = few(
            data, arguments.part, arguments.start, schedule, seed, arguments.model
        )
        results.append(str(result))
        print(f"seed {seed}: {result:.4f}, {seconds:.0f} CPU s", flush=True)
    print(f"{arguments.model}, {arguments.start}, {settings(schedule)}: {spread(results)} %")


def setting(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``."""
    name, _, value = text.partition("=")
    types = {f.name: f.type for f in dataclasses.fields(Schedule)}
    if name not in types:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(types)}")
    kind = types[name]
    return name, kind(value) if isinstance(kind, type) else value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parts: Mapping[str, tuple[Callable[..., None], Callable[[], str] | None, list[int]]] = {
        "scratch": (scratch, scratch_markdown, [0]),
        "labels": (labels, labels_markdown, [0, 1, 2]),
        "features": (features, features_markdown, [0, 1, 2]),
        "tune": (tune, None, [100, 101]),
    }
    for name, (_, markdown, seeds) in parts.items():
        part = commands.add_parser(name)
        part.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
        part.add_argument("--threads", type=int, default=1)
        part.add_argument("--seeds", type=int, nargs="+", default=seeds)
        if name == "scratch":
            part.add_argument("--rows", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
            part.add_argument("--epochs", type=int, help="instead of the schedule's")
        if name == "tune":
            part.add_argument("--model", default="rsvheat_nano", choices=list(SCHEDULES))
            part.add_argument("--start", default="scratch", choices=("scratch", "pretrained"))
            part.add_argument("--part", type=float, default=1.0, help="of the labels")
            part.add_argument("--set", type=setting, nargs="*", default=[], metavar="NAME=VALUE")
        if markdown:
            part.add_argument("--markdown", action="store_true", help="print the table, no run")
    arguments = parser.parse_args(argv)
    run, markdown, _ = parts[arguments.command]
    return execute(run, markdown, arguments)


if __name__ == "__main__":
    sys.exit(main())
