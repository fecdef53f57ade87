# SPDX-License-Identifier: Apache-2.0
"""Uses what an extra is for on small files: ``python run_extra.py NAME``, or ``none`` without one.

For environments with one extra alone: ``make test-extras`` installs them, ``test_extras.py`` hides
everything else.
"""

import contextlib
import importlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch

import rsvheat
from rsvheat.checkpoint import TrainedModel
from rsvheat.cli import main
from rsvheat.data import Normalizer
from rsvheat.data.spec import DataSpec
from rsvheat.models import RSVHeat
from rsvheat.models.classification import Classifier
from rsvheat.models.task_model import TaskModel

CLASSES = ("a", "b", "c")


class Shades(TaskModel):
    """The task of a plug-in: dark and bright pixels."""

    task = "shades"
    output = "mask"

    def forward(self, images):
        mean = images["optical"].mean(1, keepdim=True)
        return torch.cat((-mean, mean), 1)

    def predict(self, images):
        return self(images).softmax(1)


def save(kind, classes, path):
    encoder = RSVHeat(
        dims=(8, 16),
        depths=(1, 1),
        img_size=32,
        modalities={"optical": 3},
        num_classes=len(classes) if kind is Classifier else 0,
    )
    spec = DataSpec({"optical": 3}, "label", classes, (32, 32))
    normalizers = {"optical": Normalizer((100.0,) * 3, (50.0,) * 3, 5.0)}
    TrainedModel(kind(encoder, len(classes)), spec, normalizers).save(path)


def run(*words):
    """Run a command, and return its output."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(list(words))
    if code:
        raise SystemExit(f"rsvheat {' '.join(words)}: exit code {code}")
    return out.getvalue()


def check(condition, what):
    if not condition:
        raise SystemExit(f"unexpected: {what}")


def none():
    found = rsvheat.load("classes.ckpt", device="cpu").predict("image.png")
    check(found.label in CLASSES, found)


def write_scene():
    import rasterio

    values = np.zeros((3, 40, 50), np.uint8)
    values[:, :10] = 250
    profile = {"driver": "GTiff", "width": 50, "height": 40, "count": 3, "dtype": "uint8"}
    profile["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open("scene.tif", "w", crs="EPSG:32632", **profile) as file:
        file.write(values)


def geo():
    out = run("predict", "image.png", "--checkpoint", "classes.ckpt", "--output", "map.tif")
    check("map.tif: 2 x 3 pixels" in out, out)
    write_scene()
    out = run("predict", "scene.tif", "--checkpoint=shades.ckpt", "--bands=[3,2,1]")
    check(out.startswith("runs/maps/scene.tif: 40 x 50 pixels, 0 without data"), out)
    check(out.splitlines()[1].split()[:2] == ["dark", "75.0%"], out)


def explain():
    words = ("--checkpoint", "classes.ckpt", "--size", "32", "--point", "30,12")
    out = run("explain", "image.png", *words, "--output", "heat")
    check(Path("heat/report.html").stat().st_size > 10_000, out)


def export():
    for name in ("a.onnx", "a.pt2"):
        out = run("export", "classes.ckpt", name)
        check(f"{name}: images (batch, 3, 32, 32) -> logits; agrees with the model" in out, out)


def parquet():
    import pyarrow.parquet

    write_scene()
    run("predict", "scene.tif", "--checkpoint=shades.ckpt", "--polygons=parquet")
    table = pyarrow.parquet.read_table("runs/maps/scene.parquet")
    check(sorted(set(table["class"].to_pylist())) == ["bright", "dark"], table)


def dask():
    write_scene()
    words = ("--checkpoint=classes.ckpt", "--output=maps", "--dask=local", "--workers=1")
    out = run("predict", ".", *words)
    check("2 scenes: 2 predicted" in out, out)


def stac():
    import pystac

    write_scene()
    run("predict", "scene.tif", "--checkpoint=shades.ckpt", "--stac")
    item = pystac.Item.from_file("runs/maps/scene.stac.json")
    check("EPSG:32632" in str(item.to_dict()), item.to_dict())


def train():
    from rsvheat.data.synthetic import write_classes

    write_classes("scenes", 4, 32)
    model = "{dims: [8, 16, 16, 16], depths: [1, 1, 1, 1]}"
    words = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.loader.batch_size=4")
    data = ("--data.dataset.root=scenes", "--data.crop.size=32", "--data.loader.num_workers=0")
    run("finetune", *data, *words, f"--model.encoder_options={model}", "--output=run")
    check(Path("run/last.ckpt").exists() and Path("run/metrics.csv").exists(), "no run")
    run("evaluate", *data, "--checkpoint=run/last.ckpt")


def torchgeo():
    from torchgeo import datasets

    names = {"EuroSAT", "RESISC45", "SEN12MS", "SSL4EOS12"}
    check(names <= set(dir(datasets)), names - set(dir(datasets)))


def mm():
    from mmengine.registry import MODELS

    import rsvheat.integrations.mm

    backbone = rsvheat.integrations.mm.RSVHeat("rsvheat_nano").eval()
    maps = backbone(torch.zeros(1, 3, 64, 64))
    check([m.shape[-1] for m in maps] == [16, 8, 4, 2], maps)
    check(MODELS.get("RSVHeat") is not None, MODELS)


def bench():
    import ducc0
    import scipy.fft
    import torch_dct

    x = np.random.default_rng(0).normal(size=(8, 8))
    expected = scipy.fft.dctn(x, norm="ortho")
    for name, found in {
        "ducc0": ducc0.fft.dct(x, type=2, inorm=1),
        "torch_dct": torch_dct.dct_2d(torch.from_numpy(x), norm="ortho").numpy(),
        "rsvheat": rsvheat.ops.dct2d(torch.from_numpy(x)[None, None], "nchw")[0, 0].numpy(),
    }.items():
        check(np.allclose(found, expected), name)


def test():
    for name in ("pycocotools", "pytest", "scipy", "shapely", "sklearn", "webdataset"):
        importlib.import_module(name)


def everything():
    files = [path for path in Path.cwd().iterdir() if path.is_file()]
    for use in (geo, explain, export, parquet, stac, train, torchgeo, mm, dask):
        folder = files[0].parent / use.__name__
        folder.mkdir()
        for path in files:
            shutil.copy(path, folder)
        os.chdir(folder)
        use()


USES = {
    **{use.__name__: use for use in (none, geo, explain, export, parquet, dask, stac, train)},
    **{use.__name__: use for use in (torchgeo, mm, bench, test)},
    "all": everything,
}
TRAINING = ("train", "torchgeo", "test", "all")  # may import what trains


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        save(Classifier, CLASSES, "classes.ckpt")
        save(Shades, ("dark", "bright"), "shades.ckpt")
        image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        PIL.Image.fromarray(image).save("image.png")
        USES[sys.argv[1]]()
        os.chdir("/")
    if sys.argv[1] not in TRAINING:
        trainers = {"lightning", "torchmetrics"} & set(sys.modules)
        check(not trainers, f"{trainers} imported")
    print(f"extra {sys.argv[1]}: its command runs")
