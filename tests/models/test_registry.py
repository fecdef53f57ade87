# SPDX-License-Identifier: Apache-2.0
"""Weights that come with the package, and task models by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import rsvheat
from rsvheat.data import FolderSource, read_image
from rsvheat.models import TASK_MODELS, RSVHeat, TaskModel, parameter_groups
from rsvheat.models.variants import PRETRAINED, WEIGHTS

DATA = Path(__file__).parents[2] / "examples" / "data"


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_models_have_the_weights_of_the_file(name: str) -> None:
    weights = load_file(WEIGHTS / f"{name}.safetensors")
    state = rsvheat.create_model(name, pretrained=True).state_dict()
    assert set(weights) == set(state)
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert (WEIGHTS / f"{name}.md").read_text().startswith(f"# {name}")
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 10 * 2**20


def test_pretrained_with_a_classifier_and_another_size() -> None:
    model = rsvheat.create_model(
        "rsvheat_nano", pretrained=True, modalities={"optical": 3}, num_classes=5, img_size=96
    )
    plain = rsvheat.create_model("rsvheat_nano", pretrained=True)
    x = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(
        model.forward_features(x), plain.forward_features(x), rtol=1e-3, atol=1e-3
    )
    assert model(x).shape == (2, 5)


def test_pretrained_features_tell_classes_of_real_images_apart() -> None:
    pytest.importorskip("lightning")
    from rsvheat.evaluation.probing import Features, extract_features, knn

    images, labels = {}, {}
    for part in ("train", "test"):
        source = FolderSource({"optical": DATA / "eurosat" / part})
        source.scan()
        names = [source.key(i).split("/")[0] for i in range(len(source))]
        classes = sorted(set(names))
        labels[part] = torch.tensor([classes.index(name) for name in names])
        pixels = [read_image(source.file(i, "optical")).values for i in range(len(source))]
        images[part] = torch.from_numpy(np.stack(pixels)).float()
    std, mean = torch.std_mean(images["train"], dim=(0, 2, 3), keepdim=True)

    def accuracy(pretrained: bool) -> float:
        torch.manual_seed(0)
        encoder = rsvheat.create_model(
            "rsvheat_nano", pretrained=pretrained, img_size=64, num_classes=0
        )
        features: dict[str, Features] = {
            part: extract_features(
                encoder,
                [{"images": {"optical": (x - mean) / std}, "label": labels[part]}],
                modality="optical",
            )
            for part, x in images.items()
        }
        predicted = knn(features["train"], features["test"].values)
        return float((predicted == labels["test"]).float().mean())

    assert accuracy(pretrained=True) > accuracy(pretrained=False) + 0.1


def test_pretrained_stems_for_other_modalities() -> None:
    model = rsvheat.create_model(
        "rsvheat_nano",
        pretrained=True,
        modalities={"s2": 13},
        stems={"s2": "optical"},
        inflate_stems=True,
    )
    assert model.load_report is not None
    assert model.load_report.inflated == {"stems.s2.conv1.weight": (3, 13)}
    with pytest.raises(ValueError, match=r"stems \['optical', 'sar'\], none for \['s2'\]"):
        rsvheat.create_model("rsvheat_nano", pretrained=True, modalities={"s2": 13})
    fresh = rsvheat.create_model("rsvheat_nano", pretrained=True, modalities={"s2": 13}, stems={})
    assert fresh.load_report is not None
    assert "stems.s2.conv1.weight" in fresh.load_report.missing


def test_no_weights_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="no weights of rsvheat_tiny come with the package"):
        rsvheat.create_model("rsvheat_tiny", pretrained=True)
    with pytest.raises(ValueError, match="bands"):
        rsvheat.create_model("rsvheat_nano", pretrained=True, modalities={"optical": 4})


# ---- Task models --------------------------------------------------------------------------------


@pytest.fixture
def toy() -> Iterator[type[TaskModel]]:
    """A task of a plug-in."""

    class Toy(TaskModel):
        task = "toy"
        output = "class"

        def __init__(
            self, encoder: RSVHeat, num_classes: int, *, hidden: int = 8, drop_rate: float = 0.0
        ) -> None:
            super().__init__(encoder, num_classes, hidden=hidden, drop_rate=drop_rate)
            self.hidden = nn.Linear(encoder.num_features, hidden)
            self.out = nn.Linear(hidden, num_classes)

        def forward(self, images: Mapping[str, Tensor]) -> Tensor:
            ((name, x),) = images.items()
            y: Tensor = self.out(self.hidden(self.encoder(x, name)))
            return y

        def predict(self, images: Mapping[str, Tensor]) -> Tensor:
            return self(images).softmax(1)

    yield Toy
    del TASK_MODELS["toy"]


def test_task_models_by_name(toy: type[TaskModel]) -> None:
    model = rsvheat.create_model(
        "rsvheat_nano",
        task="toy",
        classes=["field", "forest", "water"],
        modalities={"radar": 2},
        img_size=32,
        drop_path=0.1,
        hidden=5,
        drop_rate=0.25,
    )
    assert type(model) is toy
    assert model.num_classes == 3
    assert model.encoder.modalities == {"radar": 2}
    assert (model.encoder.num_classes, model.encoder.drop_path) == (0, 0.1)
    # Where both have an argument of that name it is the network's.
    assert model.options == {"hidden": 5, "drop_rate": 0.25}
    assert model.encoder.config["drop_rate"] == 0
    assert model.predict({"radar": torch.randn(2, 2, 32, 32)}).shape == (2, 3)
    again = toy.from_config(model.config)
    again.load_state_dict(model.state_dict())


def test_task_models_on_bundled_weights(toy: type[TaskModel]) -> None:
    model = rsvheat.create_model("rsvheat_nano", task="toy", classes=["a", "b"], pretrained=True)
    plain = rsvheat.create_model("rsvheat_nano", pretrained=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    assert not model.encoder.load_report.missing


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "tarot", "classes": ["a"]}, ValueError, "no task 'tarot'; there are: .*toy"),
        ({"task": "toy"}, ValueError, "classes must be different names, one or more, got None"),
        ({"task": "toy", "classes": []}, ValueError, "classes must be"),
        ({"task": "toy", "classes": "water"}, ValueError, "classes must be"),
        ({"task": "toy", "classes": ["a", "a"]}, ValueError, "classes must be"),
        ({"task": "toy", "classes": [1, 2]}, ValueError, "classes must be"),
        ({"task": "toy", "classes": ["a"], "num_classes": 1}, ValueError, "num_classes follows"),
        ({"task": "toy", "classes": ["a"], "hiden": 1}, TypeError, "hiden"),
        ({"classes": ["a"]}, ValueError, "classes are a task's"),
    ],
)
def test_wrong_tasks_are_one_clear_error(
    toy: type[TaskModel], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        rsvheat.create_model("rsvheat_nano", **arguments)
    assert caught.value.__cause__ is None


def test_parameters_of_task_models_are_ordered_by_depth(toy: type[TaskModel]) -> None:
    model = rsvheat.create_model("rsvheat_nano", task="toy", classes=["a", "b"], img_size=32)
    alone = rsvheat.create_model("rsvheat_nano", num_classes=2, img_size=32)
    scales = {
        parameter: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(model, layer_decay=0.5)
        for parameter in group["params"]
    }
    for group in alone.get_parameter_groups(layer_decay=0.5):
        for name in group["param_names"]:
            if not name.startswith("head.fc"):
                parameter = model.encoder.get_parameter(name)
                assert scales[parameter] == (group["lr_scale"], group["weight_decay"]), name
    assert scales[model.hidden.weight] == scales[model.out.weight] == (1.0, 0.05)
    assert len(scales) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="layer_decay must be 1 for Linear"):
        parameter_groups(nn.Linear(2, 2), layer_decay=0.5)
