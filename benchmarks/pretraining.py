# SPDX-License-Identifier: Apache-2.0
"""What pretraining without labels is worth, on real images.

ablation   The terms of the objective, by what the encoder's features tell on EuroSAT.
retrieval  Find the optical crop of a radar crop, on scenes that were not trained on.
step       Time and memory of a step beside one whose masking is torch-dct's, on the CPU.
figure     Input, bands and reconstruction of images that were not trained on.
checkpoint The weights that the package holds, and their card.
trial      Their recipe otherwise, or with --encoder their second stage: what features tell on a
           part of the training images; prints it.

Whatever is finished is written at once; a command that was stopped goes on where it was. Real
images are looked for in --data: eurosat_rgb (a folder a class) and s1s2_volkov (opt, sar).
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from distillation import TEMPERATURE, Distillation, distilled
from fitting import BATCH, LR, RATES, SCHEDULES, finetune, pretrain
from image_sets import (
    HELD_OUT,
    SPLIT_SEED,
    Labelled,
    Pairs,
    eurosat,
    only_pairs,
    seeded,
    shuffled,
    validation,
    volkov,
    with_pairs,
)
from operator_tables import RESULTS, BenchmarkError
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scoring import frozen, image_statistics, recalls
from tables import ROOT, append, execute, read, spread
from torch import Tensor

from rsvheat._files import complete_file
from rsvheat.augmentation import RandomView
from rsvheat.benchmarking import describe, peak_bytes
from rsvheat.masking import FrequencyMasking
from rsvheat.models import (
    PretrainingOutput,
    RSVHeat,
    RSVHeatPretraining,
    create_model,
    create_pretraining_model,
    parameter_groups,
)
from rsvheat.models.pretraining import VIEW_MASKING
from rsvheat.ops import reference
from rsvheat.tasks.pretraining import pictures

RUNS = ROOT / "runs" / "pretraining"
WEIGHTS = ROOT / "rsvheat" / "weights"
VIEW = 48  # side of the views of EuroSAT's 64-pixel images


def head_of(arguments: argparse.Namespace, command: str, **about: str) -> dict[str, str]:
    command = f"python benchmarks/pretraining.py {command}"
    return {**describe("cpu", arguments.threads, command, ("torch-dct",)), **about}


# Ablation

ABLATION = RESULTS / "pretraining_ablation.csv"
FINETUNING = RESULTS / "pretraining_finetuning.csv"
LOSSES = RESULTS / "pretraining_losses.csv"

OBJECTIVES: dict[str, dict[str, Any] | None] = {
    "from scratch": None,
    "spatial": {"weights": (1.0, 0.0, 0.0)},
    "spatial + frequency": {"weights": (1.0, 1.0, 0.0)},
    "spatial + frequency + contrastive": {},
    "the same, temperature 0.08": {"temperature": 0.08},
    "paper's, read literally": {"objective": "paper"},
}


def options_of(row: str) -> dict[str, Any]:
    """Return how the network of a row of the ablation is built."""
    options = dict(OBJECTIVES[row] or {})
    if options.get("objective") != "paper":
        options["augmentation"] = RandomView(size=VIEW)
    return options


def ablation(arguments: argparse.Namespace) -> None:
    data = eurosat(arguments.data)
    head = head_of(
        arguments,
        f"ablation --epochs {arguments.epochs}",
        data=f"EuroSAT RGB, {len(data.train)} images to train on and {len(data.test)} held out of "
        f"each class (seed {SPLIT_SEED}), 64 x 64, standardised by the training part",
        pretraining=f"rsvheat_nano, {arguments.epochs} epochs, batch {BATCH}, AdamW {LR}, views of "
        f"{VIEW} pixels (the paper's objective: whole images)",
        features="mean and deviation over space of all stages' channels",
    )
    for seed in arguments.seeds:
        for row in arguments.rows:
            if any(r["row"] == row and r["seed"] == str(seed) for r in read(ABLATION)):
                continue
            if row == "image statistics":
                result = image_statistics(data)
            else:
                result = ablation_run(data, row, seed, arguments.epochs, head)
            print(row, seed, result, flush=True)
            append(ABLATION, [{"row": row, "seed": seed, **result}], head)


def ablation_run(
    data: Labelled, row: str, seed: int, epochs: int, head: Mapping[str, str]
) -> dict[str, Any]:
    torch.manual_seed(seed)
    network = create_pretraining_model(
        "rsvheat_nano", {"optical": 3}, img_size=64, **options_of(row)
    )
    if OBJECTIVES[row] is None:
        return frozen(network.encoder, data)
    batches = shuffled(data.images[data.train], BATCH, seed)
    steps = len(data.train) // BATCH
    history = pretrain(network, batches, epochs, steps, seed, f"{row}, seed {seed}")
    append(LOSSES, [{"row": row, "seed": seed, **epoch} for epoch in history], head)
    save_file(network.encoder.state_dict(), saved(row, seed))
    about = {"epochs": epochs, "cpu_seconds": history[-1]["cpu_seconds"]}
    return {**frozen(network.encoder, data), **about}


def saved(row: str, seed: int) -> Path:
    """Return where the weights of a run are kept until they have been fine-tuned."""
    RUNS.mkdir(parents=True, exist_ok=True)
    return RUNS / f"{list(OBJECTIVES).index(row)}-{seed}.safetensors"


def finetuning(arguments: argparse.Namespace) -> None:
    data = eurosat(arguments.data)
    head = head_of(
        arguments,
        "finetuning",
        data=f"as for the ablation; the labels are {list(RATES)} of the training part's, the same "
        "of each class, chosen by the seed",
        schedule="; ".join(
            f"{part:g} of the labels: {steps} steps, batch {batch}, AdamW {RATES[part]}"
            for part, (batch, steps) in SCHEDULES.items()
        ),
    )
    for seed in arguments.seeds:
        for row in arguments.rows:
            weights = None
            if OBJECTIVES.get(row) is not None:
                if not saved(row, seed).exists():
                    print(f"{row}, seed {seed}: has not been pretrained here", flush=True)
                    continue
                weights = load_file(saved(row, seed))
            for part, rate in RATES.items():
                key = {"row": row, "seed": str(seed), "part": f"{part:g}"}
                if row in OBJECTIVES and not any(
                    key.items() <= r.items() for r in read(FINETUNING)
                ):
                    result = finetune(data, weights, seed, part, rate)
                    print(*key.values(), result, flush=True)
                    append(FINETUNING, [{**key, "accuracy": result}], head)


def tune(arguments: argparse.Namespace) -> None:
    """Print accuracies by learning rate, on other parts of the labels than are reported."""
    data = validation(eurosat(arguments.data))
    weights = load_file(arguments.weights)
    for part in SCHEDULES:
        for rate in arguments.rates:
            for name, start in (("scratch", None), ("pretrained", weights)):
                result = finetune(data, start, 3, part, rate)
                print(f"{part:g} of the labels, rate {rate:g}, {name}: {result:.4f}", flush=True)


def ablation_markdown() -> str:
    rows, tuned = read(ABLATION), read(FINETUNING)
    lines = [
        "| | seeds | kNN | linear probe | 1 % of labels | 10 % of labels | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in ("image statistics", *OBJECTIVES):
        runs = [r for r in rows if r["row"] == name]
        if not runs:
            continue
        cells = [spread([r[column] for r in runs]) for column in ("knn", "linear")]
        cells += [
            spread([r["accuracy"] for r in tuned if (r["row"], r["part"]) == (name, f"{part:g}")])
            for part in RATES
        ]
        seconds = [float(r["cpu_seconds"]) for r in runs if r.get("cpu_seconds")]
        cells.append(f"{statistics.mean(seconds):.0f}" if seconds else "-")
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Retrieval across modalities

RETRIEVAL = RESULTS / "pretraining_retrieval.csv"
SCENES_HELD_OUT = ("020", "046", "139")


def retrieval(arguments: argparse.Namespace) -> None:
    pairs, size, batch = volkov(arguments.data, SCENES_HELD_OUT), 128, 32
    tiles = pairs.tiles(size)
    count = len(tiles["sar"])
    head = head_of(
        arguments,
        f"retrieval --steps {arguments.steps}",
        data=f"Sentinel-1/2 scenes {', '.join(SCENES_HELD_OUT)} held out, {count} tiles of {size} "
        f"pixels; trained on crops of the other {len(pairs.train)}",
        pretraining=f"rsvheat_nano, {arguments.steps} steps of {batch} pairs, AdamW {LR}",
    )
    for seed in arguments.seeds:
        for row, options in {
            "not trained": None,
            "default": {"augmentation": RandomView(size=96)},
            "paper's, read literally": {"objective": "paper"},
        }.items():
            if any(r["row"] == row and r["seed"] == str(seed) for r in read(RETRIEVAL)):
                continue
            torch.manual_seed(seed)
            network = create_pretraining_model("rsvheat_nano", img_size=size, **(options or {}))
            about = {"row": row, "seed": seed, "gallery": count}
            if options is not None:
                history = pretrain(
                    network, only_pairs(pairs, batch, size, seed), 1, arguments.steps, seed, row
                )
                about["cpu_seconds"] = history[-1]["cpu_seconds"]
            result = recalls(network, tiles)
            print(row, seed, result, flush=True)
            append(RETRIEVAL, [{**about, **result}], head)


def retrieval_markdown() -> str:
    rows = read(RETRIEVAL)
    lines = [
        "| | seeds | features @1 | @5 | embeddings @1 | @5 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(r["row"] for r in rows):
        runs = [r for r in rows if r["row"] == name]
        cells = [
            spread([r[f"{kind}_at_{k}"] for r in runs])
            for kind in ("features", "embeddings")
            for k in (1, 5)
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    if rows:
        chance = [f"{100 * k / int(rows[0]['gallery']):.1f}" for k in (1, 5)] * 2
        lines.append(f"| chance | | {' | '.join(chance)} |")
    return "\n".join(lines)


# The checkpoint

DEMO_SCENE = ("046",)  # the one that examples/data holds as a whole


@dataclass(frozen=True)
class Recipe:
    """How the weights that come along were pretrained; options of the commands change it."""

    temperature: float = 0.08
    pairs: int = 20  # in each batch
    one_scene: int = 0  # 1: the pairs of a batch are from one scene
    scale: float = 0.35  # smallest area of a view
    colour: float = 1.0  # factor on the changes of colour
    batch: int = BATCH  # images of EuroSAT
    lr: float = LR


Chosen = TypeVar("Chosen", Recipe, Distillation)


def chosen(kind: type[Chosen], arguments: argparse.Namespace) -> Chosen:
    """Return the settings of a stage that options of a command have chosen."""
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind)})


def pretrained(
    data: Labelled,
    pairs: Pairs,
    recipe: Recipe,
    epochs: int,
    seed: int,
    name: str,
    kept: Path | None = None,
) -> tuple[RSVHeatPretraining, list[dict[str, Any]]]:
    """Return a network pretrained on the training images without their labels, and its losses."""
    torch.manual_seed(seed)
    plain = RandomView(size=VIEW, scale=(recipe.scale, 1.0))
    changes = {
        key: recipe.colour * getattr(plain, key)
        for key in ("contrast", "brightness", "channel_shift")
    }
    network = create_pretraining_model(
        "rsvheat_nano",
        {"optical": 3, "sar": 1} if recipe.pairs else {"optical": 3},
        img_size=64,
        augmentation=dataclasses.replace(plain, **changes),
        temperature=recipe.temperature,
    )
    batches = shuffled(data.images[data.train], recipe.batch, seed)
    if recipe.pairs:
        batches = with_pairs(batches, pairs, recipe.pairs, seed, bool(recipe.one_scene))
    steps = len(data.train) // recipe.batch
    about = first_stage(recipe, epochs, seed)
    return network, pretrain(network, batches, epochs, steps, seed, name, recipe.lr, kept, about)


def first_stage(recipe: Recipe, epochs: int, seed: int) -> str:
    """Return what tells a first stage from others."""
    return f"{epochs} epochs, seed {seed}, {recipe}"


def trial(arguments: argparse.Namespace) -> None:
    """Print what features tell after pretraining otherwise, on a part of the training images."""
    data, pairs = eurosat(arguments.data), volkov(arguments.data, DEMO_SCENE)
    held_out = validation(data)
    recipe, second = chosen(Recipe, arguments), chosen(Distillation, arguments)
    for seed in arguments.seeds:
        if arguments.encoder:
            encoder = first_encoder(arguments.encoder)
            encoder, _ = distilled(
                encoder, held_out, pairs, second, arguments.second_epochs, seed, "second stage"
            )
            settings: Recipe | Distillation = second
        else:
            network, _ = pretrained(data, pairs, recipe, arguments.epochs, seed, "trial")
            encoder, settings = network.encoder, recipe
        scores = {**frozen(encoder, held_out), **recalls(encoder, pairs.tiles(64))}
        print(settings, seed, scores, flush=True)


def first_encoder(path: Path) -> RSVHeat:
    """Return the encoder of a file of an encoder, or of the whole network of the first stage."""
    state = load_file(path)
    prefix = "encoder."
    own = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    encoder = create_model(
        "rsvheat_nano", img_size=64, modalities={"optical": 3, "sar": 1}, num_classes=0
    )
    encoder.load_state_dict(own or state)
    return encoder


def checkpoint(arguments: argparse.Namespace) -> None:
    data, pairs = eurosat(arguments.data), volkov(arguments.data, DEMO_SCENE)
    seed, epochs, recipe = arguments.seeds[0], arguments.epochs, chosen(Recipe, arguments)
    about = first_stage(recipe, epochs, seed)
    whole = RUNS / f"first-stage-{epochs}-{seed}.safetensors"
    if not whole.exists():
        kept = RUNS / f"checkpoint-{epochs}-{seed}.pt"
        network, history = pretrained(data, pairs, recipe, epochs, seed, "first stage", kept)
        told = {"about": about, "history": json.dumps([history[0], history[-1]])}
        with complete_file(whole) as temporary:
            save_file(network.state_dict(), temporary, told)
    with safe_open(whole, "pt") as file:
        told = file.metadata()
    if told["about"] != about:
        raise BenchmarkError(f"{whole} is of {told['about']}, not of {about}: remove it")
    second, second_epochs = chosen(Distillation, arguments), arguments.second_epochs
    encoder, history = distilled(
        first_encoder(whole), data, pairs, second, second_epochs, seed, "second stage",
        RUNS / f"second-stage-{epochs}-{second_epochs}-{seed}.pt",
    )  # fmt: skip
    scores = {**frozen(encoder, data), **recalls(encoder, pairs.tiles(64))}
    print(scores, flush=True)
    histories = (json.loads(told["history"]), history)
    WEIGHTS.mkdir(exist_ok=True)
    weights = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    with complete_file(WEIGHTS / "rsvheat_nano.safetensors") as temporary:
        save_file(weights, temporary, {"format": "pt"})
    with complete_file(WEIGHTS / "rsvheat_nano.md") as temporary:
        temporary.write_text(card(data, pairs, arguments, histories, scores))


WATTS = 7
"""Assumed power of a core that computes."""


def card(
    data: Labelled,
    pairs: Pairs,
    arguments: argparse.Namespace,
    histories: Sequence[Sequence[Mapping[str, float]]],
    scores: Mapping[str, float],
) -> str:
    """Return the model card; of each stage there are the losses of the first and last epoch."""

    def listed(values: Sequence[float]) -> str:
        return ", ".join(f"{value:.2f}" for value in values)

    def course(history: Sequence[Mapping[str, float]], *names: str) -> str:
        ends = (history[0], history[-1])
        return ", ".join(f"{name} {ends[0][name]:.3f} to {ends[1][name]:.3f}" for name in names)

    recipe, second = chosen(Recipe, arguments), chosen(Distillation, arguments)
    statistics_of = {"EuroSAT": (data.mean, data.std), **pairs.moments}
    normalization = "\n".join(
        f"| {name} | {listed(mean)} | {listed(std)} |"
        for name, (mean, std) in statistics_of.items()
    )
    tiles = len(pairs.test) * (1024 // 64) ** 2
    minutes = [history[-1]["cpu_seconds"] / 60 for history in histories]
    options = "".join(
        f" --{field.name} {' '.join(map(str, np.atleast_1d(value)))}"
        for settings in (recipe, second)
        for field in fields(settings)
        if (value := getattr(settings, field.name)) != field.default
    )
    command = (
        f"checkpoint --epochs {arguments.epochs} --second_epochs {arguments.second_epochs} "
        f"--seeds {arguments.seeds[0]}{options}"
    )
    return f"""# rsvheat_nano, pretrained without labels

The encoder `rsvheat_nano` with stems `optical` (3 bands: red, green, blue) and `sar` (1 band),
tables for 64 x 64 pixels, no classifier. It is small and was
trained for an hour and a half on a CPU: to try things out.

## For what, and for what not

For features of Sentinel-2 color images and of Sentinel-1 VH at 10 m a pixel, and as a start for
fine-tuning, also with other sensors (`in_chans`, `modalities`): what it is worth there is measured
with the project, in `benchmarks/results/` (few labels: classification.md; segmentation and change:
dense.md; boxes: detection.md).

Not as a foundation model of the paper's size, which saw millions of images. Frozen, not for other
bands, Sentinel-1 of another polarization or in decibels, or images finer than about 5 m a pixel.
Its images come from Europe and Southern California, nearly without clouds: elsewhere nothing has
been measured. Decisions about people or places need a check by people.

## Data and terms

- EuroSAT RGB (P. Helber, B. Bischke, A. Dengel, D. Borth; MIT License): {len(data.train)} images
  of a subset of {len(data.images)}, without their labels. The {len(data.test)} held out
  (`stratified_split`, {HELD_OUT:.0%} of each class, seed {SPLIT_SEED}) were not seen.
- {len(pairs.train)} pairs of Sentinel-1 VH and Sentinel-2 scenes around Los Angeles of 1024 x 1024
  pixels, from the dataset by Volkov. Scene {", ".join(DEMO_SCENE)} was not seen.

Both contain modified Copernicus Sentinel data. The weights are under Apache-2.0, as the code.

## Normalization

`(value - mean) / std` of 8-bit values, by band; EuroSAT by the first row, the pairs by the others:

| | mean | std |
| --- | --- | --- |
{normalization}

## Recipe

`python benchmarks/pretraining.py {command}`, in two stages, by AdamW (weight decay 0.05, 5 %
warm-up, cosine) in bfloat16, from seed {arguments.seeds[0]}, no other.

1. The default objective of `RSVHeatPretraining` with `RandomView(size={VIEW})` and a temperature of
   {recipe.temperature}, {arguments.epochs} epochs over EuroSAT's training part in batches of
   {recipe.batch}, each with {recipe.pairs} pairs of random crops, at a rate of {recipe.lr}. From
   the first epoch to the last: {course(histories[0], "spatial", "frequency", "contrastive")}.
2. Self-distillation, {arguments.second_epochs} epochs at a rate of {second.distillation_lr}: the
   targets are features of the first stage's encoder, of images enlarged from 64 to
   {" and ".join(map(str, second.sides))} pixels, each the mean over the 8 ways to turn and flip the
   image; the encoder learns them from the image as it is (mean squared error). With each batch come
   {second.crops} pairs of one scene, whose radar and optical features InfoNCE compares (temperature
   {TEMPERATURE}, weight {second.contrast}). From the first epoch to the last:
   {course(histories[1], "images", *(("optical", "sar", "contrastive") if second.crops else ()))}.

Time: {minutes[0]:.0f} and {minutes[1]:.0f} minutes of one thread of a server's CPU. Energy was not
measured; at {WATTS} W a core, an assumption, it is {WATTS * sum(minutes) / 60:.0f} Wh. Trials of
settings, of 4 to 30 epochs each, came before it.

## Measured

Frozen, by mean and deviation over space of all stages' channels, on the {len(data.test)} images
of EuroSAT held out: kNN (k = 5) **{scores["knn"]:.3f}**, linear probe **{scores["linear"]:.3f}**.

On the scene held out, to find the optical tile (64 x 64 pixels) of a radar tile among {tiles}:
its own is the first for {scores["features_at_1"]:.1%} and among five for
{scores["features_at_5"]:.1%} by these features, standardized over the tiles of each sensor.
"""


# A step beside the published formulation of its masking

STEP = RESULTS / "pretraining_step.csv"


class TorchDctMasking(FrequencyMasking):
    """The same masking, of the same sectors, as torch-dct computes it: on the CPU, by FFTs."""

    def split(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return both bands, see FrequencyMasking."""
        from torch_dct import dct_2d, idct_2d

        radius, angles = self.draw(x.shape[0], *x.shape[2:], generator)
        low = reference.sector_mask(radius, angles, *x.shape[2:])[:, None].float()
        spectrum = dct_2d(x.cpu().float(), norm="ortho")
        bands = (idct_2d(spectrum * mask, norm="ortho") for mask in (low, 1 - low))
        first, second = (band.to(x) for band in bands)
        return first, second


def step(arguments: argparse.Namespace) -> None:
    head = head_of(
        arguments,
        f"step --rounds {arguments.rounds}",
        step="forward, backward and AdamW of rsvheat_nano, 16 images of 224 x 224, bfloat16; rows "
        "take turns, medians of CPU seconds, which other processes disturb little; memory is the "
        "peak of what a step allocates through torch",
    )
    rows = []
    for objective in ("contrastive", "paper"):
        calls = {}
        for row in ("rsvheat", "torch-dct"):
            torch.manual_seed(0)
            network = create_pretraining_model("rsvheat_nano", {"optical": 3}, objective=objective)
            if row == "torch-dct":
                network.maskings = tuple(
                    TorchDctMasking(**vars(masking)) for masking in network.maskings
                )
            calls[row] = step_of(network)
        losses = {row: call() for row, call in calls.items()}
        if abs(losses["rsvheat"] - losses["torch-dct"]) > 1e-2 * losses["rsvheat"]:
            raise BenchmarkError(f"the formulations differ: {losses}")
        times: dict[str, list[float]] = {row: [] for row in calls}
        for _ in range(arguments.rounds):
            for row, call in calls.items():
                begin = time.process_time()
                call()
                times[row].append((time.process_time() - begin) / arguments.threads)
        for row, call in calls.items():
            seconds = statistics.median(times[row])
            rows.append(
                {
                    "objective": objective, "masking": row, "seconds": seconds,
                    "steps_per_s": 1 / seconds, "peak_MiB": peak_bytes(call, "cpu") / 2**20,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    STEP.unlink(missing_ok=True)
    append(STEP, rows, head)


def step_of(network: RSVHeatPretraining) -> Callable[[], float]:
    generator = seeded(0)
    images = torch.randn(16, 3, 224, 224, generator=generator)
    optimizer = torch.optim.AdamW(parameter_groups(network, weight_decay=0.05), 1e-4)

    def call() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = network({"optical": images}, generator=generator).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def step_markdown() -> str:
    rows = read(STEP)
    lines = [
        "| objective | masking | s/step | steps/s | peak MiB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        seconds, rate, peak = (float(row[k]) for k in ("seconds", "steps_per_s", "peak_MiB"))
        about = f"{row['objective']} | {row['masking']}"
        lines.append(f"| {about} | {seconds:.3f} | {rate:.2f} | {peak:.0f} |")
    return "\n".join(lines)


# Figure

FIGURE = ROOT / "docs" / "images" / "reconstruction.jpg"
COLUMNS = ("input", "shown", "hidden", "reconstruction")


@torch.inference_mode()
def figure(arguments: argparse.Namespace) -> None:
    """Draw held-out images, each with a part of its spectrum hidden."""
    data, pairs = eurosat(arguments.data), volkov(arguments.data, DEMO_SCENE)
    whole = RandomView(
        scale=(1, 1), ratio=(1, 1), dihedral=False, contrast=0, brightness=0, channel_shift=0
    )
    masking = [FrequencyMasking(**{**vars(m), "probability": 1.0}) for m in VIEW_MASKING]
    network = create_pretraining_model(
        "rsvheat_nano", img_size=64, augmentation=whole, views=1, masking=masking
    ).eval()
    network.load_state_dict(load_file(arguments.weights))
    first = {data.classes[data.labels[i]]: i for i in reversed(data.test.tolist())}
    chosen = [first[name] for name in ("Residential", "Highway", "River", "PermanentCrop")]
    tiles = {name: images[[44, 90]] for name, images in pairs.tiles(64).items()}
    moments = {"EuroSAT": (data.mean, data.std), **pairs.moments}
    blocks = []
    for images, names in (
        ({"optical": data.images[chosen]}, {"optical": "EuroSAT"}),
        (tiles, {"optical": "optical", "sar": "sar"}),
    ):
        output = network(images, generator=seeded(arguments.seeds[0]), with_images=True)
        for name, of in names.items():
            restore(output, name, *moments[of])
        shown = pictures(output, 4)
        blocks.append(torch.cat([shown[name] for name in names], dim=1))
    gap = torch.ones(3, blocks[0].shape[1], 8)
    picture = torch.cat((blocks[0], gap, blocks[1]), dim=2)
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels).resize((2 * pixels.shape[1], 2 * pixels.shape[0]), 0)
    canvas = Image.new("RGB", (image.width, image.height + 20), "white")
    canvas.paste(image, (0, 20))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for block in (0, 1):
        for i, title in enumerate(COLUMNS):
            left = block * 2 * (4 * 64 + 8) + i * 128
            draw.text((left + 64, 10), title, "black", font, anchor="mm")
    with complete_file(FIGURE) as temporary:
        canvas.save(temporary, quality=88)
    print(f"wrote {FIGURE.relative_to(ROOT)}, {FIGURE.stat().st_size // 1024} KiB")


def restore(
    output: PretrainingOutput, name: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Bring images back to the values of their file."""
    scale, shift = (torch.tensor(value)[:, None, None] for value in (std, mean))
    output.high[name] = output.high[name] * scale
    for images in (output.target, output.low, output.reconstruction):
        images[name] = images[name] * scale + shift


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {
        "ablation": (ablation, ablation_markdown),
        "finetuning": (finetuning, ablation_markdown),
        "tune": (tune, None),
        "retrieval": (retrieval, retrieval_markdown),
        "step": (step, step_markdown),
        "figure": (figure, None),
        "checkpoint": (checkpoint, None),
        "trial": (trial, None),
    }
    epochs = {"ablation": 5, "checkpoint": 100, "trial": 4}
    for name, (_, markdown) in parts.items():
        part = commands.add_parser(name)
        part.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
        part.add_argument("--threads", type=int, default=1)
        part.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        if name in ("ablation", "finetuning"):
            rows = ["image statistics"] * (name == "ablation") + list(OBJECTIVES)
            part.add_argument("--rows", nargs="+", default=rows, choices=rows)
        if name in epochs:
            part.add_argument("--epochs", type=int, default=epochs[name])
        if name == "retrieval":
            part.add_argument("--steps", type=int, default=120)
        if name == "step":
            part.add_argument("--rounds", type=int, default=7)
        if name in ("tune", "figure"):
            part.add_argument("--weights", type=Path, required=True)
        if name in ("trial", "checkpoint"):
            part.add_argument("--second_epochs", type=int, default=45)
            for field in (*fields(Recipe), *fields(Distillation)):
                option: dict[str, Any] = {"type": type(field.default)}
                if isinstance(field.default, tuple):
                    option = {"type": int, "nargs": "+"}
                part.add_argument(f"--{field.name}", default=field.default, **option)
        if name == "trial":
            part.add_argument("--encoder", type=Path, help="of the first stage: try the second")
        if name == "tune":
            part.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3])
        if markdown:
            part.add_argument("--markdown", action="store_true", help="print the table, no run")
    arguments = parser.parse_args(argv)
    return execute(*parts[arguments.command], arguments)


if __name__ == "__main__":
    sys.exit(main())
