# SPDX-License-Identifier: Apache-2.0
"""Every recipe of a supervised task trains, and is evaluated and predicted with, in miniature."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("PIL")
rasterio = pytest.importorskip("rasterio")

import PIL.Image  # noqa: E402

from rsvheat import cli  # noqa: E402
from rsvheat.data import miniature  # noqa: E402

TINY = "{dims: [8, 16, 16, 16], depths: [1, 1, 1, 1]}"
ROOTS = {
    "segment_potsdam": miniature.write_potsdam,
    "segment_isaid": miniature.write_isaid,
    "segment_loveda": miniature.write_loveda,
    "segment_air_polsar_seg": miniature.write_air_polsar_seg,
    "segment_whu_opt_sar": miniature.write_whu_opt_sar,
    "change_levir_cd": miniature.write_levir_cd,
    "classify_aid_20": miniature.write_aid,
    "classify_aid_50": miniature.write_aid,
    "classify_resisc45_10": miniature.write_resisc45,
    "classify_resisc45_20": miniature.write_resisc45,
}
# They have two official sets, for training and for testing.
WITHOUT_VALIDATION = ("segment_potsdam", "segment_air_polsar_seg", "segment_whu_opt_sar")
FOLDERS = (
    "segment_folder",
    "segment_folder_multimodal",
    "change_folder",
    "change_folder_optical_sar",
)
BOX_ROOTS = {
    "detect_dior": miniature.write_dior,
    "detect_sar_aircraft": miniature.write_sar_aircraft,
    "orient_dota": miniature.write_dota,
    "orient_fair1m": miniature.write_fair1m,
    "orient_dior_r": partial(miniature.write_dior, oriented=True),
}


@pytest.fixture(autouse=True)
def _one_thread(_reproducible):
    torch.set_num_threads(1)


def write_folders(folder: Path) -> None:
    """Write images of two sensors and dates, and masks of what is bright, under the same names."""
    rng = np.random.default_rng(0)
    for number in range(8):
        mask = np.zeros((48, 48), np.uint8)
        top, left = rng.integers(0, 24, 2)
        mask[top : top + 20, left : left + 20] = 1
        ground = rng.integers(40, 90, (48, 48, 3))
        bright = (ground + 120 * mask[..., None]).astype(np.uint8)
        images = {
            "optical": bright,
            "sar": bright[..., 0],
            "before": ground.astype(np.uint8),
            "after": bright,
            "radar": bright[..., 0],
            "mask": mask,
        }
        for name, image in images.items():
            (folder / name).mkdir(exist_ok=True)
            PIL.Image.fromarray(image).save(folder / name / f"{number}.png")


def data_words(name: str, folder: Path) -> list[str]:
    if name in ROOTS:
        made = ROOTS[name](folder / "tree")
        words = ["--data.dataset.root", str(made.root)]
        if "classify" in name:
            words += ["--data.dataset.train_fraction", "0.5"]  # of a few images a class
        return words
    write_folders(folder)
    if name == "segment_folder":
        return [
            f"--data.dataset.images.optical={folder}/optical",
            f"--data.dataset.masks={folder}/mask",
        ]
    if name == "segment_folder_multimodal":
        return [
            f"--data.dataset.images.optical={folder}/optical",
            f"--data.dataset.images.sar={folder}/sar",
            f"--data.dataset.masks={folder}/mask",
        ]
    after = "radar" if "sar" in name else "after"
    return [
        f"--data.dataset.before={folder}/before",
        f"--data.dataset.after={folder}/{after}",
        f"--data.dataset.label={folder}/mask",
    ]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("name", [*ROOTS, *FOLDERS])
def test_a_recipe_goes_from_training_to_prediction(name, tmp_path, capsys):
    data = data_words(name, tmp_path)
    command = "finetune" if name.startswith("classify") else "fit"
    model = [
        "--model.encoder_options",
        TINY,
        "--model.pretrained",
        "false",
        "--model.stems",
        "null",
    ]
    if command == "fit":
        model += ["--model.model_options", "{channels: 8}"]
    small = ["--data.crop.size", 32, "--data.loader.batch_size", 4, "--data.loader.num_workers", 0]
    small += ["--data.crop.window", "null" if command == "finetune" else 32]
    small += ["--data.overlap", "null"] if command == "fit" else []
    if name == "segment_folder":
        model += ["--model.class_weights", "median"]
    # A whole epoch, so that it is validated.
    trainer = ["--trainer.max_epochs", 1, "--trainer.max_steps", -1, "--trainer.precision", 32]
    trainer += ["--trainer.accelerator", "cpu", "--trainer.check_val_every_n_epoch", 1]
    trainer += ["--trainer.val_check_interval", "null"]
    run(
        capsys, command, "--config", name, *data, *model, *small, *trainer,
        "--output", tmp_path / "run",
    )  # fmt: skip
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert 0 <= scores["overall_accuracy"] <= 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"scores.csv", "scores.png", "scores_calibration.json"} <= files
    if command == "fit":
        assert {"scores_images.csv", "scores_worst.png"} <= files
        assert ("val_worst.png" in files) == (name not in WITHOUT_VALIDATION)

    about = yaml_data(tmp_path / "run/config.yaml")
    out = run(
        capsys, "evaluate", "--checkpoint", tmp_path / "run/last.ckpt", "--device", "cpu",
        "--data", about, "--output", tmp_path / "scores",
        *(["--turns", "--panels", 2] if name == "segment_folder" else []),
    )  # fmt: skip
    assert "accuracy" in out

    scene, also = scenes(name, tmp_path)
    run(
        capsys, "predict", scene, *also, "--checkpoint", tmp_path / "run/last.ckpt",
        "--output", tmp_path / "map.tif",
    )  # fmt: skip
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(scene) as source:
        if command == "fit":
            assert file.shape == source.shape
        assert (file.read(1) != 255).any()


def box_words(name: str, folder: Path) -> tuple[list[str], str]:
    """Write a data set of boxes; return its options, and a pattern of its images."""
    if name in BOX_ROOTS:
        made = BOX_ROOTS[name](folder)
        return [
            "--data.dataset.root",
            str(made.root),
        ], "*.tif" if "fair1m" in name else "*.[jp][pn]g"
    tree = miniature.write_dota(folder)
    return [
        f"--data.dataset.images.optical={tree.root}/train/images",
        f"--data.dataset.annotations={tree.root}/train/labelTxt",
        "--data.dataset.box_format=dota",
        "--data.dataset.val_fraction=0.5",  # one image has no boxes
    ], "*.png"


@pytest.mark.parametrize("name", [*BOX_ROOTS, "detect_folder", "orient_folder"])
def test_a_recipe_of_boxes_goes_from_training_to_prediction(name, tmp_path, capsys):
    data, images = box_words(name, tmp_path / "tree")
    small = [
        "--model.encoder_options", TINY, "--model.pretrained", "false", "--model.stems", "null",
        "--model.model_options", "{channels: 8}", "--data.crop.size", 64, "--data.crop.window", 64,
        "--data.loader.batch_size", 2, "--data.loader.num_workers", 0, "--data.overlap", "null",
        "--trainer.max_steps", 2, "--trainer.accelerator", "cpu", "--trainer.precision", 32,
    ]  # fmt: skip
    run(capsys, "fit", "--config", name, *data, *small, "--output", tmp_path / "run")
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    oriented = name.startswith("orient")
    assert scores["oriented"] == oriented
    assert 0 <= scores["map50_voc07"] <= 1
    assert scores["boxes"] > 0
    assert (tmp_path / "run/scores_errors.png").is_file()

    about = yaml_data(tmp_path / "run/config.yaml")
    out = run(
        capsys, "evaluate", "--checkpoint", tmp_path / "run/last.ckpt", "--device", "cpu",
        "--data", about, "--output", tmp_path / "scores",
    )  # fmt: skip
    assert "mAP50" in out

    scene = sorted((tmp_path / "tree").rglob(images))[0]
    run(
        capsys, "predict", scene, "--checkpoint", tmp_path / "run/last.ckpt",
        "--output", tmp_path / "boxes.geojson",
    )  # fmt: skip
    for feature in json.loads((tmp_path / "boxes.geojson").read_text())["features"]:
        assert feature["properties"]["class"] in scores["classes"]
        assert len(feature["geometry"]["coordinates"][0]) == 5


def yaml_data(path: Path) -> Path:
    """Write the data section of a run's configuration as a file of its own."""
    import yaml

    content = yaml.safe_load(path.read_text())["data"]
    content.pop("seed", None)
    written = path.with_name("data.yaml")
    written.write_text(yaml.safe_dump(content))
    return written


def scenes(name: str, folder: Path) -> tuple[Path, list[object]]:
    """Return a scene of the training data, and options for further ones."""
    if name in FOLDERS:
        first = {"segment_folder": "optical", "segment_folder_multimodal": "optical"}.get(
            name, "before"
        )
        second = {
            "segment_folder_multimodal": "sar",
            "change_folder": "after",
            "change_folder_optical_sar": "radar",
        }.get(name)
        key = "sar" if name == "segment_folder_multimodal" else "after"
        also = [] if second is None else [f"--also.{key}", folder / second / "0.png"]
        return folder / first / "0.png", also
    tree = folder / "tree"
    if name == "segment_whu_opt_sar":
        optical = sorted((tree / "optical").rglob("*.tif"))[0]
        return optical, ["--also.sar", tree / "sar" / optical.name]
    if name == "change_levir_cd":
        before = sorted(tree.rglob("A/*.png"))[0]
        return before, ["--also.after", before.parents[1] / "B" / before.name]
    if name == "segment_air_polsar_seg":
        bands = [sorted(tree.rglob(f"*_{band}.tiff"))[0] for band in ("HH", "HV", "VH", "VV")]
        values = [rasterio.open(path).read(1) for path in bands]
        profile = rasterio.open(bands[0]).profile | {"count": 4}
        with rasterio.open(folder / "scene.tif", "w", **profile) as file:
            file.write(np.stack(values))
        return folder / "scene.tif", []
    pattern = {"segment_potsdam": "*RGB.tif", "segment_isaid": "P*[0-9].png"}.get(name, "*.png")
    found = sorted(path for path in tree.rglob(pattern) if "mask" not in str(path).lower())
    if name.startswith("classify"):
        found = sorted(tree.rglob("*.jpg"))
    copy = folder / f"scene{found[0].suffix}"
    shutil.copy(found[0], copy)
    return copy, []
