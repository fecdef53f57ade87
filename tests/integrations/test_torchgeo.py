# SPDX-License-Identifier: Apache-2.0
"""TorchGeo's trainers on the encoder: one step of training, validation, test and prediction."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import rsvheat

pytest.importorskip("torchgeo")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import lightning.pytorch as lightning
    from torchgeo.trainers import (
        ChangeDetectionTask,
        ClassificationTask,
        SemanticSegmentationTask,
    )

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BANDS, HEIGHT, WIDTH = 6, 64, 96


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


class Scenes(Dataset[dict[str, Tensor]]):
    """Noise with the shapes that a task takes."""

    def __init__(self, task: str) -> None:
        self.task = task

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.randn(BANDS, HEIGHT, WIDTH)
        if self.task == "classification":
            return {"image": image, "label": torch.tensor(index % 3)}
        mask = torch.randint(2, (HEIGHT, WIDTH))
        if self.task == "segmentation":
            return {"image": image, "mask": mask}
        return {"image": torch.stack((image, -image)), "mask": mask[None]}


class Module(lightning.LightningDataModule):
    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def loader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Scenes(self.task), batch_size=2)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def run(task: Any, data: str) -> list[Tensor]:
    """Fit, test and predict; return the predictions."""
    trainer = lightning.Trainer(
        fast_dev_run=True, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    trainer.fit(task, datamodule=Module(data))
    changed = {n for n, v in task.model.state_dict().items() if not torch.equal(v, before[n])}
    assert any(".conv1.weight" in name and "stems" in name for name in changed)
    (results,) = trainer.test(task, datamodule=Module(data), verbose=False)
    assert torch.tensor(results["test_loss"]).isfinite()
    return trainer.predict(task, datamodule=Module(data))


def test_classification() -> None:
    task = ClassificationTask(
        model="rsvheat_nano", weights=None, in_channels=BANDS, task="multiclass", num_classes=3
    )
    assert isinstance(task.model, rsvheat.models.RSVHeat)
    (prediction,) = run(task, "classification")
    assert prediction.shape == (2, 3)


def test_weights_of_the_package() -> None:
    task = ClassificationTask(
        model="rsvheat_nano", weights=True, in_channels=3, task="multiclass", num_classes=3
    )
    own = rsvheat.create_model("rsvheat_nano", pretrained=True)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(task.model.eval().forward_features(x), own.eval().forward_features(x))


@pytest.mark.parametrize("decoder", ["upernet", "unet"])
def test_segmentation(decoder: str) -> None:
    task = SemanticSegmentationTask(
        model=decoder, backbone="tu-rsvheat_nano", in_channels=BANDS, task="multiclass",
        num_classes=2,
    )  # fmt: skip
    (prediction,) = run(task, "segmentation")
    assert prediction.shape == (2, 2, HEIGHT, WIDTH)


@pytest.mark.parametrize("model", ["unet", "upernet", "fcsiamdiff", "fcsiamconc"])
def test_change_detection(model: str) -> None:
    task = ChangeDetectionTask(
        model=model, backbone="tu-rsvheat_nano", in_channels=BANDS, task="binary", loss="bce"
    )
    (prediction,) = run(task, "change")
    assert prediction.shape == (2, 1, HEIGHT, WIDTH)
