# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.optim import param_groups_layer_decay
from torch import nn

import rsvheat
from rsvheat.models import VARIANTS, RSVHeat
from rsvheat.models.variants import PRETRAINED, WEIGHTS


def test_every_variant_is_registered() -> None:
    assert set(VARIANTS) <= set(timm.list_models("*vheat_*"))


@pytest.mark.parametrize(
    "statements",
    [
        "import rsvheat; assert 'timm' not in sys.modules; import timm",
        "import timm; import rsvheat",
        "import rsvheat; from timm.models import create_model; import timm",
        "import rsvheat, importlib.util; importlib.util.find_spec('timm'); import timm",
        "import rsvheat.models; import timm",
        "from rsvheat.models import RSVHeat; import timm; import rsvheat",
    ],
)
def test_either_may_be_imported_first_and_rsvheat_does_not_import_timm(statements: str) -> None:
    code = f"import sys; {statements}; assert timm.is_model('rsvheat_nano')"
    code += "; assert sum(name.startswith('rsvheat_') for name in timm.list_models()) == 5"
    code += "; assert len(timm.create_model('rsvheat_nano', num_classes=0).stages) == 4"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


@pytest.mark.parametrize("indices", [None, (1, -1), 2])
def test_features_only(indices: object) -> None:
    kwargs = {} if indices is None else {"out_indices": indices}
    model = timm.create_model(
        "rsvheat_nano", features_only=True, in_chans=6, img_size=128, **kwargs
    )
    features = model(torch.randn(1, 6, 96, 160))
    stages = {None: (0, 1, 2, 3), (1, -1): (1, 3), 2: (2, 3)}[indices]
    assert model.feature_info.channels() == [32 * 2**i for i in stages]
    assert model.feature_info.reduction() == [4 * 2**i for i in stages]
    assert [tuple(feature.shape) for feature in features] == [
        (1, 32 * 2**i, 24 // 2**i, 40 // 2**i) for i in stages
    ]
    # What the features do not need is gone, so DDP sees no unused parameter.
    sum(feature.sum() for feature in features).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_early_stages_leave_out_the_later_ones() -> None:
    model = timm.create_model("rsvheat_nano", features_only=True, out_indices=(0, 1))
    assert len(model.model.stages) == 2
    assert [f.shape[1] for f in model(torch.randn(1, 3, 64, 64))] == [32, 64]


def test_classifier_metadata_is_exact() -> None:
    model = timm.create_model("rsvheat_nano", num_classes=7, drop_path_rate=0.1)
    assert isinstance(model, RSVHeat)
    assert isinstance(model.get_submodule(model.default_cfg["first_conv"]), nn.Conv2d)
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    assert model.stages[3].blocks[0].drop_path.rate == pytest.approx(0.1)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_pretrained_is_what_rsvheats_own_create_model_gives() -> None:
    x = torch.randn(2, 3, 64, 64)
    own = rsvheat.create_model("rsvheat_nano", pretrained=True).eval()
    model = timm.create_model("rsvheat_nano", pretrained=True).eval()
    assert (model.img_size, model.num_classes) == ((64, 64), 0)
    assert torch.equal(model(x), own(x))
    assert set(model.load_report.skipped) == {k for k in own.state_dict() if ".sar." in k}
    assert not model.load_report.missing
    named = timm.create_model("rsvheat_nano", pretrained=True, modalities={"sar": 1}).eval()
    assert torch.equal(named(x[:, :1]), own(x[:, :1], modality="sar"))


def test_pretrained_with_other_bands_and_classes() -> None:
    x = torch.randn(2, 1, 64, 64)
    own = rsvheat.create_model("rsvheat_nano", pretrained=True).eval()
    model = timm.create_model("rsvheat_nano", pretrained=True, in_chans=6, num_classes=5).eval()
    # Mean-preserving: bands that all show the same give the same features.
    torch.testing.assert_close(
        model.forward_features(x.expand(2, 6, 64, 64)),
        own.forward_features(x.expand(2, 3, 64, 64)),
        rtol=1e-4,
        atol=1e-4,
    )
    assert model(x.expand(2, 6, 64, 64)).shape == (2, 5)
    assert model.load_report.missing == ["head.fc.weight", "head.fc.bias"]


def test_pretrained_weights_of_another_file(tmp_path: Path) -> None:
    # timm reads the file; names, sizes and stems are adapted as by load_checkpoint.
    source = rsvheat.create_model("rsvheat_nano", img_size=32, num_classes=3)
    state = {f"network.encoder.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "own.ckpt")
    overlay = {"file": str(tmp_path / "own.ckpt"), "num_classes": 3}
    model = timm.create_model(
        "rsvheat_nano", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=4, num_classes=3
    )
    own = rsvheat.create_model("rsvheat_nano", img_size=64, in_chans=4, num_classes=3)
    report = rsvheat.load_checkpoint(own, tmp_path / "own.ckpt", inflate_stems=True)
    for name, value in own.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.load_report == report
    assert len(report.resized) == 8
    # By timm's rule the classifier goes where the configuration says another number of classes.
    del overlay["num_classes"]
    other = timm.create_model(
        "rsvheat_nano", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3
    )
    assert other.load_report.missing == ["head.fc.weight", "head.fc.bias"]
    assert not torch.equal(other.head.fc.weight, source.head.fc.weight)
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "own.ckpt")
    with pytest.raises(rsvheat.CheckpointError, match=r"own\.ckpt is of another architecture"):
        timm.create_model("rsvheat_nano", pretrained=True, pretrained_cfg_overlay=overlay)


def test_pretrained_features() -> None:
    x = torch.randn(2, 3, 64, 64)
    own = rsvheat.create_model("rsvheat_nano", pretrained=True).eval()
    backbone = timm.create_model(
        "rsvheat_nano", pretrained=True, features_only=True, out_indices=(0, 2)
    ).eval()
    wanted = own.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    for feature, expected in zip(backbone(x), wanted, strict=True):
        assert torch.equal(feature, expected)


@pytest.mark.parametrize("name", PRETRAINED)
def test_images_are_normalised_as_on_the_card(name: str) -> None:
    row = re.search(r"^\| EuroSAT \| (.*) \| (.*) \|$", (WEIGHTS / f"{name}.md").read_text(), re.M)
    assert row is not None
    config = resolve_model_data_config(timm.create_model(name, pretrained=True))
    for key, values in zip(("mean", "std"), row.groups(), strict=True):
        wanted = [float(value) / 255 for value in values.split(", ")]
        assert config[key] == pytest.approx(wanted, abs=2e-5)
    assert config["input_size"] == (3, 64, 64)
    # Native images reach the model as they are.
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    x = create_transform(**config)(Image.fromarray(pixels))
    restored = x.permute(1, 2, 0).numpy() * config["std"] + config["mean"]
    np.testing.assert_allclose(restored * 255, pixels, atol=1e-3)


def test_weights_are_listed_and_lacking_ones_are_timms_error() -> None:
    assert timm.list_pretrained("*vheat_*") == list(PRETRAINED)
    with pytest.raises(RuntimeError, match="No pretrained weights exist for rsvheat_tiny"):
        timm.create_model("rsvheat_tiny", pretrained=True)


def test_named_modalities_pass_through() -> None:
    model = timm.create_model("vheat_tiny", modalities={"s1": 2, "s2": 13}, num_classes=2)
    assert model.modalities == {"s1": 2, "s2": 13}


def test_layer_decay_of_timm_agrees_with_the_models_own() -> None:
    model = timm.create_model("rsvheat_nano", num_classes=2)
    own = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in model.get_parameter_groups(weight_decay=0.05, layer_decay=0.8)
        for parameter in group["params"]
    }
    groups = param_groups_layer_decay(
        model,
        weight_decay=0.05,
        no_weight_decay_list=model.no_weight_decay(),
        layer_decay=0.8,
    )
    theirs = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert theirs.keys() == own.keys()
    for key, value in theirs.items():
        assert value == pytest.approx(own[key])


def test_other_output_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="got output_stride=16"):
        timm.create_model("rsvheat_nano", features_only=True, output_stride=16)
