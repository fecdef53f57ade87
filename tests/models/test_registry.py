# SPDX-License-Identifier: Apache-2.0
"""Weights that come with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rsvheat
from rsvheat.data import FolderSource, read_image
from rsvheat.models.registry import PRETRAINED, WEIGHTS

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
                encoder, [{"image": (x - mean) / std, "label": labels[part]}], modality="optical"
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
