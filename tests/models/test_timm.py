# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from rsvheat.models import VARIANTS, RSVHeat


def test_every_variant_is_registered() -> None:
    assert set(VARIANTS) <= set(timm.list_models("*vheat_*"))


@pytest.mark.parametrize(
    "statements",
    [
        "import rsvheat; assert 'timm' not in sys.modules; import timm",
        "import timm; import rsvheat",
        "import rsvheat; from timm.models import create_model; import timm",
    ],
)
def test_either_may_be_imported_first_and_rsvheat_does_not_import_timm(statements: str) -> None:
    code = f"import sys; {statements}; assert timm.is_model('rsvheat_nano')"
    code += "; assert sum(name.startswith('rsvheat_') for name in timm.list_models()) == 5"
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
