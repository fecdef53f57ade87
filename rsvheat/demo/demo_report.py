# SPDX-License-Identifier: Apache-2.0
"""Results of a demo, as a page and as a few lines."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from rsvheat._html import Page
from rsvheat._library import package_version
from rsvheat.augmentation import RandomView
from rsvheat.benchmarking import aligned, device_name
from rsvheat.checkpoint import Checkpoint, TrainedModel
from rsvheat.data import IGNORE_INDEX, Normalizer, Window, read_image
from rsvheat.demo.steps import SIZE, STRIDE, VARIANT, Demo
from rsvheat.masking import FrequencyMasking
from rsvheat.models import create_pretraining_model
from rsvheat.models.pretraining import VIEW_MASKING

Results = Mapping[str, Mapping[str, Any]]

_NAMES = {
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "scratch": "training from scratch",
    "probe": "frozen features",
    "map": "map",
    "segment": "segmentation",
}
_TILES = 4
_CREDIT = (
    "Contains modified Copernicus Sentinel data. Pairs of Sentinel-1 (VH) and Sentinel-2 (red, "
    "green, blue) around Los Angeles: from a dataset by Volkov. EuroSAT RGB: P. Helber, "
    "B. Bischke, A. Dengel, D. Borth, MIT License. Aerial images of Dubai with land cover: Humans "
    "in the Loop with the Mohammed Bin Rashid Space Centre, CC0 1.0."
)


def accuracies(results: Results) -> list[list[str]]:
    """Return a row for each kind of weights: its name, kNN, linear probe, trained further; in %."""
    frozen = results["probe"]["accuracy"]
    trained = {"random": results["scratch"], "pretrained": results["finetune"]}
    rows = []
    for kind, name in (
        ("random", "random weights, from scratch"),
        ("pretrained", "pretrained here"),
        ("package", "pretrained, as they come with the package"),
    ):
        last = _percent(trained[kind]["accuracy"]) if kind in trained else "-"
        rows.append([name, *(_percent(frozen[kind][m]) for m in ("knn", "linear")), last])
    return rows


def summary(results: Results) -> str:
    """Return accuracies and times for a terminal."""
    columns = ["accuracy on held-out images, %", "kNN", "linear probe", "trained"]
    rows = [columns, *accuracies(results)]
    seconds = {name: results[name]["seconds"] for name in _NAMES}
    times = ", ".join(f"{_NAMES[name]} {value:.0f} s" for name, value in seconds.items())
    tuned, scratch = results["finetune"], results["scratch"]
    said = verdict(tuned["accuracy"], scratch["accuracy"], tuned["scored"])
    said += f"\nLand cover of a tile that was not trained on: {_land_cover_scores(results)}."
    return "\n".join(
        ["", *aligned(rows), "", said, f"{sum(seconds.values()) / 60:.1f} minutes: {times}"]
    )


def write_report(demo: Demo, results: Results, path: Path) -> None:
    """Write the page.

    Args:
        demo: Demo whose steps are complete.
        results: Results of the steps by name.
        path: Path of the HTML file.
    """
    page = Page("A remote-sensing model from nothing: rsvheat demo")
    _about(page, demo, results)
    _pretraining(page, demo, results["pretrain"])
    _training(page, demo, results)
    _map(page, demo)
    _land_cover(page, demo, results)
    _heat(page, demo)
    page.heading("Images")
    page.paragraph(_CREDIT)
    page.save(path)


def _about(page: Page, demo: Demo, results: Results) -> None:
    seen, tuned = results["pretrain"], results["finetune"]
    page.paragraph(
        f"{VARIANT}, an encoder of 2.4 million parameters, was pretrained without labels on "
        f"{seen['pairs']} pairs of optical and radar tiles and {seen['single']} optical images. "
        "Then it learned "
        f"{len(tuned['classes'])} classes of land from {tuned['labels']} labeled images, beside "
        "the same network that began with random weights, and mapped a scene that it had not seen. "
        "Last, it learned the land cover of aerial images, pixel by pixel."
    )
    rows = [
        [_NAMES[name], results[name].get("epochs", "-"), f"{results[name]['seconds']:.0f}",
         f"{results[name]['cpu_seconds']:.0f}"]
        for name in _NAMES
    ]  # fmt: skip
    page.table(["step", "epochs", "seconds", "CPU seconds"], rows)
    threads = str(torch.get_num_threads())
    if demo.threads is None and threads != "1":
        threads = f"up to {threads}, as many as other processes left cores"
    page.paragraph(
        f"Seed {demo.seed}; {device_name('cpu')}, threads: {threads}; torch {torch.__version__}, "
        f"rsvheat {package_version()}. The same command with the same seed gives the same numbers "
        "on the same machine with the same number of threads (--threads)."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _pretraining(page: Page, demo: Demo, result: Mapping[str, Any]) -> None:
    page.heading("Pretraining")
    page.paragraph(
        "Of each image two crops are taken, and from some of them a part of the spectrum is "
        "hidden. The network learns to restore each crop (spatial and frequency loss) and to "
        "tell crops of one place, by either sensor, from all others (contrastive loss)."
    )
    history = _History(demo.pretrained.parent / "metrics.csv")
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, 3), ("spatial", "frequency", "contrastive"), strict=True
    ):
        axes.plot(*history(f"train/{name}_epoch"))
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
    page.figure(figure, "Losses of pretraining, means over each epoch.")
    page.figure(
        draw_reconstructions(demo),
        f"Tiles of {SIZE} x {SIZE} pixels of the scene that was not trained on, optical on the "
        "left, radar on the right. From each input a wedge of its spectrum is hidden; shown and "
        "hidden part add up to the input. The decoder works from maps of 4 x 4 and 2 x 2 positions "
        "for a tile, so layout and brightness come back and fine texture does not.",
    )


def draw_reconstructions(demo: Demo) -> Figure:
    """Draw tiles of the held-out scene: input, visible part, hidden part and reconstruction."""
    whole = RandomView(
        scale=(1, 1), ratio=(1, 1), dihedral=False, contrast=0, brightness=0, channel_shift=0
    )
    network = create_pretraining_model(
        VARIANT,
        {"optical": 3, "sar": 1},
        img_size=SIZE,
        augmentation=whole,
        views=1,
        masking=[FrequencyMasking(**{**vars(m), "probability": 1.0}) for m in VIEW_MASKING],
    ).eval()
    checkpoint = Checkpoint.read(demo.pretrained)
    saved = checkpoint.content["state_dict"]
    network.load_state_dict({name.removeprefix("network."): v for name, v in saved.items()})
    normalizers = checkpoint.normalizers
    tiles = {
        name: torch.stack([normalizers[name](pixels) for pixels in scene_tiles(demo, name)])
        for name in ("optical", "sar")
    }
    with torch.inference_mode():
        output = network(
            tiles, generator=torch.Generator().manual_seed(demo.seed), with_images=True
        )
    figure = Figure(figsize=(11, 1.45 * _TILES), layout="constrained")
    columns = [(name, part) for name in tiles for part in ("input", "shown", "hidden", "restored")]
    grid = figure.subplots(_TILES, len(columns), squeeze=False)
    for column, (name, part) in enumerate(columns):
        images = {
            "input": output.target, "shown": output.low, "hidden": output.high,
            "restored": output.reconstruction,
        }[part][name]  # fmt: skip
        sensor = "optical" if name == "optical" else "radar"
        grid[0, column].set_title(f"{sensor}: {part}" if part == "input" else part, fontsize=10)
        for row in range(_TILES):
            shown = _as_shown(images[row], normalizers[name], difference=part == "hidden")
            grid[row, column].imshow(shown, cmap="gray", vmin=0, vmax=1)
            grid[row, column].set_axis_off()
    return figure


def scene_tiles(demo: Demo, modality: str) -> list[Any]:
    """Return tiles of the held-out scene, from even ones to ones rich in contrast."""
    optical = read_image(demo.images.scene["optical"]).values
    rows, columns = (side // SIZE for side in optical.shape[1:])
    windows = [
        Window(SIZE * row, SIZE * column, SIZE, SIZE)
        for row in range(rows)
        for column in range(columns)
    ]
    contrast = [
        optical[:, w.top : w.top + SIZE, w.left : w.left + SIZE].std(axis=(1, 2)).mean()
        for w in windows
    ]
    order = np.argsort(contrast, kind="stable")
    # From the fourth, sixth and so on tenth of them.
    chosen = [windows[order[int(part * len(order))]] for part in (0.4, 0.6, 0.8, 0.95)]
    bands = {"optical": [1, 2, 3], "sar": [1]}[modality]
    return [read_image(demo.images.scene[modality], window, bands) for window in chosen]


def _as_shown(image: torch.Tensor, normalizer: Normalizer, difference: bool) -> Any:
    """Return an image (H, W) or (H, W, 3) from 0 to 1; a difference is 0.5 where it is 0."""
    if difference:
        values = image * torch.tensor(normalizer.scale)[:, None, None] / 255 + 0.5
    else:
        values = normalizer.invert(image) / 255
    values = values.clamp(0, 1)
    return values[0] if len(values) == 1 else values.permute(1, 2, 0)


def _training(page: Page, demo: Demo, results: Results) -> None:
    tuned, scratch = results["finetune"], results["scratch"]
    page.heading("Classification")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("finetune", "pretrained"), ("scratch", "from scratch")):
        history = _History(demo.folder / name / "metrics.csv")
        left.plot(*history("train/loss"), label=label)
        epochs, shares = history("val/accuracy")
        right.plot(epochs, [100 * share for share in shares], label=label)
    left.set(title="loss on training images", xlabel="epoch")
    right.set(title="accuracy on held-out images, %", xlabel="epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    page.figure(
        figure,
        "Both begin and end alike but for their first weights. Held-out images choose nothing: the "
        "last epoch is what counts.",
    )
    columns = [
        "accuracy on held-out images, %", "nearest neighbors (k = 5)", "linear probe",
        f"trained, {tuned['epochs']} epochs",
    ]  # fmt: skip
    page.table(columns, accuracies(results))
    page.paragraph(
        f"{tuned['labels']} labeled images to learn from, {tuned['scored']} others to score on. "
        "Nearest neighbors and the linear probe see the encoder's features as they are; "
        "the last column trains the whole network. "
        + verdict(tuned["accuracy"], scratch["accuracy"], tuned["scored"])
    )
    page.figure(
        (demo.folder / "finetune" / "classification.png").read_bytes(),
        "How the fine-tuned model confuses the classes of held-out images.",
    )


def verdict(pretrained: float, scratch: float, images: int) -> str:
    """Return a sentence that compares two accuracies on some images."""
    error = math.sqrt(sum(p * (1 - p) for p in (pretrained, scratch)) / images)
    gain = f"{100 * abs(pretrained - scratch):.1f} points"
    doubt = f"(the standard error of a difference on {images} images is {100 * error:.1f})"
    if abs(pretrained - scratch) < 2 * error:
        return f"The two trained networks are {gain} apart, which may be chance {doubt}."
    if pretrained > scratch:
        return f"Pretraining is worth {gain} {doubt}."
    return f"Here pretraining costs {gain} {doubt}."


class _History:
    """Columns of a run's CSV log by epoch."""

    def __init__(self, path: Path) -> None:
        with path.open(newline="", encoding="utf-8") as file:
            self._rows = list(csv.DictReader(file))

    def __call__(self, column: str) -> tuple[list[int], list[float]]:
        """Return epochs, counted from 1, and the mean of a column's values in each."""
        values: dict[int, list[float]] = {}
        for row in self._rows:
            if row.get(column):
                values.setdefault(int(row["epoch"]) + 1, []).append(float(row[column]))
        epochs = sorted(values)
        return epochs, [sum(values[epoch]) / len(values[epoch]) for epoch in epochs]


def _map(page: Page, demo: Demo) -> None:
    from rsvheat.raster import draw_map

    page.heading("Map")
    page.figure(
        draw_map(demo.folder / "map" / "map.tif", demo.images.scene["optical"]),
        f"Scene {demo.images.scene['optical'].stem}, Sentinel-2, 10 m a pixel. Each cell of "
        f"{STRIDE} x {STRIDE} pixels has the class of the window of {SIZE} x {SIZE} pixels around "
        "it. map/map.tif holds it, for QGIS and the like.",
    )
    page.paragraph(
        "The scene's 8 bits were stretched in another way than EuroSAT's images, so each of its "
        "bands was first brought to the mean and deviation of the classifier's training images "
        "(predict --match). EuroSAT's classes are of Europe and its images show one class each; "
        "bare hills and dense towns of California are none of them, and there is no ground truth "
        "to score this map with. Take it as a picture of what the model sees."
    )


def _land_cover_scores(results: Results) -> str:
    result = results["segment"]
    by_class = ", ".join(f"{name} {_percent(value)}" for name, value in result["iou"].items())
    return (
        f"mean IoU {_percent(result['mean_iou'])} % ({by_class}), "
        f"{_percent(result['accuracy'])} % of the pixels right"
    )


def _land_cover(page: Page, demo: Demo, results: Results) -> None:
    result = results["segment"]
    page.heading("Land cover")
    page.figure(
        draw_land_cover(demo),
        f"A tile that was not trained on, how people labeled it, and the map of {VARIANT} with an "
        "FPN decoder. White is not labeled, and not counted.",
    )
    page.paragraph(
        f"From {result['images']} labeled crops of two other tiles of aerial images, in "
        f"{result['epochs']} epochs, beginning with the encoder that was pretrained above: "
        f"{_land_cover_scores(results)}. segment/map.tif holds the map, segment/segmentation.json "
        "the scores."
    )


def draw_land_cover(demo: Demo) -> Figure:
    """Draw the tile of land cover: image, labels and map."""
    from matplotlib.patches import Patch

    from rsvheat.raster import read_map

    found = read_map(demo.folder / "segment" / "map.tif")
    table = np.full((IGNORE_INDEX + 1, 3), 255, np.uint8)
    table[: len(found.classes)] = found.colors
    pictures = {
        "image": read_image(demo.images.tile["image"]).values.transpose(1, 2, 0),
        "labels": table[demo.tile_truth()],
        "map": table[found.labels],
    }
    height, width = found.labels.shape
    figure = Figure(figsize=(12, 4 * height / width + 0.7), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        # A map is made smaller here without new colors between those of its classes.
        axes.imshow(picture, interpolation="antialiased" if title == "image" else "nearest")
        axes.set(title=title, xticks=[], yticks=[])
    handles = [
        Patch(color=color / 255, label=name)
        for name, color in zip(found.classes, found.colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _heat(page: Page, demo: Demo) -> None:
    from rsvheat.explain import draw_temperature

    page.heading("Temperature fields")
    trained = TrainedModel.load(demo.finetuned, device="cpu")
    pixels = read_image(demo.images.scene["optical"])
    # As for the map, in the units of the training images.
    mean, deviation = (f(pixels.values, axis=(1, 2)).tolist() for f in (np.mean, np.std))
    image = Normalizer(tuple(mean), tuple(deviation), 5.0)(pixels)
    side = min(*image.shape[1:], 4 * SIZE)
    top, left = ((length - side) // 2 for length in image.shape[1:])
    cut = image[:, top : top + side, left : left + side]
    shown = pixels.values[:, top : top + side, left : left + side].transpose(1, 2, 0)
    page.figure(
        draw_temperature(trained.encoder, cut, "optical", background=shown),
        "The features of the fine-tuned encoder as temperatures, before and after heat conduction, "
        "at the last block of each stage, over the middle of the scene. Conduction evens out what "
        "is fine; in a network as small and as briefly trained it takes a few percent away.",
    )
