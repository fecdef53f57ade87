# SPDX-License-Identifier: Apache-2.0
"""TerraTorch: the variants through timm and as backbones of its own, in models and in tasks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import rsvheat
from rsvheat.models import VARIANTS, RSVHeat

pytest.importorskip("terratorch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import lightning.pytorch as lightning
    from terratorch.models import EncoderDecoderFactory
    from terratorch.registry import BACKBONE_REGISTRY, TERRATORCH_BACKBONE_REGISTRY
    from terratorch.tasks import ClassificationTask, SemanticSegmentationTask

    from rsvheat.integrations.terratorch import Backbone

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BANDS, HEIGHT, WIDTH, CLASSES = 6, 64, 96, 3
DECODERS: dict[str, dict[str, Any]] = {
    "UperNetDecoder": {"channels": 32},
    "UNetDecoder": {"channels": [64, 32, 16, 8]},
    "FCNDecoder": {"channels": 16},
}


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


def encoder(model: torch.nn.Module) -> RSVHeat:
    (found,) = (module for module in model.modules() if isinstance(module, RSVHeat))
    return found


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", ["rsvheat_nano", "timm_rsvheat_nano"])
def test_models_train(backbone: str, decoder: str) -> None:
    model = EncoderDecoderFactory().build_model(
        "segmentation",
        backbone,
        decoder,
        backbone_kwargs={"in_chans": BANDS, "img_size": (HEIGHT, WIDTH)},
        decoder_kwargs=DECODERS[decoder],
        num_classes=CLASSES,
    )
    assert isinstance(model.encoder, Backbone) == (backbone == "rsvheat_nano")
    assert encoder(model).img_size == (HEIGHT, WIDTH)
    output = model(torch.randn(2, BANDS, HEIGHT, WIDTH)).output
    assert output.shape == (2, CLASSES, HEIGHT, WIDTH)
    output.square().mean().backward()
    gradient = encoder(model).stems["optical"].conv1.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


class Scenes(Dataset[dict[str, Tensor]]):
    def __init__(self, label: str) -> None:
        self.label = label

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = {
            "image": torch.randn(BANDS, HEIGHT, WIDTH),
            "filename": f"{index}",
        }
        if self.label == "mask":
            return {**sample, "mask": torch.randint(CLASSES, (HEIGHT, WIDTH))}
        return {**sample, "label": torch.tensor(index % CLASSES)}


def run(task: Any, label: str, folder: Path) -> list[Any]:
    trainer = lightning.Trainer(
        fast_dev_run=True, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    loader = DataLoader(Scenes(label), batch_size=2)
    weight = encoder(task).stems["optical"].conv1.weight
    before = weight.detach().clone()
    trainer.fit(task, loader, loader)
    assert not torch.equal(weight, before)
    (results,) = trainer.test(task, loader, verbose=False)
    assert torch.tensor(results["test/loss"]).isfinite()
    return trainer.predict(task, loader)


@pytest.mark.parametrize("backbone", ["rsvheat_nano", "timm_rsvheat_nano"])
def test_segmentation_task(backbone: str, tmp_path: Path) -> None:
    arguments = {
        "backbone": backbone,
        "backbone_in_chans": BANDS,
        "backbone_img_size": 64,
        "decoder": "UperNetDecoder",
        "decoder_channels": 32,
        "num_classes": CLASSES,
    }
    task = SemanticSegmentationTask(
        arguments, "EncoderDecoderFactory", ignore_index=-1, plot_on_val=False
    )
    (((predicted, *_), files),) = run(task, "mask", tmp_path)
    assert predicted.shape == (2, HEIGHT, WIDTH)
    assert list(files) == ["0", "1"]


def test_classification_task(tmp_path: Path) -> None:
    arguments = {
        "backbone": "rsvheat_nano",
        "backbone_in_chans": BANDS,
        "backbone_img_size": 64,
        "backbone_out_indices": [3],
        "decoder": "IdentityDecoder",
        "num_classes": CLASSES,
    }
    task = ClassificationTask(arguments, "EncoderDecoderFactory", ignore_index=-1)
    (prediction,) = run(task, "label", tmp_path)
    assert prediction[0].shape == (2,)


def test_every_variant_is_registered() -> None:
    assert set(VARIANTS) <= set(TERRATORCH_BACKBONE_REGISTRY)
    assert BACKBONE_REGISTRY.find_registry("rsvheat_base") is TERRATORCH_BACKBONE_REGISTRY


def test_arguments_reach_the_encoder(tmp_path: Path) -> None:
    source = rsvheat.create_model(
        "rsvheat_nano", modalities={"optical": 3, "sar": 1}, freq_embed="implicit"
    )
    source.save_pretrained(tmp_path)
    backbone = BACKBONE_REGISTRY.build(
        "rsvheat_nano",
        pretrained=True,
        ckpt_path=str(tmp_path),
        modality="sar",
        in_chans=2,
        inflate_stems=True,
        freq_embed="implicit",
        gsd=10.0,
        reference_gsd=5.0,
        out_indices=[1, 2],
        output_norms=False,
    )
    assert backbone.out_channels == [64, 128]
    assert backbone.load_report.inflated == {"stems.sar.conv1.weight": (1, 2)}
    x = torch.randn(1, 2, 40, 50)
    with torch.no_grad():
        maps = backbone.eval()(x)
        _, coarse = backbone.encoder.forward_intermediates(x, (1, 2), gsd=10.0)
        _, fine = backbone.encoder.forward_intermediates(x, (1, 2))
    assert [tuple(y.shape) for y in maps] == [(1, 64, 5, 7), (1, 128, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(maps, coarse, strict=True))
    assert not torch.equal(maps[0], fine[0])


def test_pretrained_needs_a_checkpoint() -> None:
    with pytest.raises(ValueError, match="pretrained=True of rsvheat_nano needs ckpt_path"):
        BACKBONE_REGISTRY.build("rsvheat_nano", pretrained=True)
