# SPDX-License-Identifier: Apache-2.0
import copy
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rsvheat
from rsvheat.models import VARIANTS, RSVHeat, pool_features
from rsvheat.models.layers import HeatBlock, Stem


def small(**kwargs: Any) -> RSVHeat:
    arguments = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "img_size": 64, "num_classes": 5}
    return RSVHeat(**{**arguments, **kwargs})


def lively(model: RSVHeat) -> RSVHeat:
    """Give the model weights for which every part matters, frequency embeddings included."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("table", "spatial_correction_embed", "gamma1", "gamma2")):
                parameter.normal_()
            elif "to_k" in name:
                parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_what_they_are_said_to_be(name: str) -> None:
    with torch.device("meta"):
        model = rsvheat.create_model(name, num_classes=0)
    family, size = name.split("_")
    width = {"nano": 32, "tiny": 96, "small": 96, "base": 128, "large": 192}[size]
    assert model.dims == (width, 2 * width, 4 * width, 8 * width)
    assert model.depths == {"nano": (1, 1, 3, 1), "tiny": (2, 2, 6, 2)}.get(size, (2, 2, 18, 2))
    assert (model.stages[0].spatial_correction_embed is not None) == (family == "rsvheat")


def test_unknown_variant_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"'rsvheat_huge'; there are rsvheat_nano, "):
        rsvheat.create_model("rsvheat_huge")


@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
def test_any_size_at_each_call(freq_embed: str) -> None:
    model = small(freq_embed=freq_embed, output_norms=True).eval()
    for height, width in [(64, 64), (96, 160), (101, 75), (1, 1), (33, 7), (64, 64)]:
        features = model.forward_intermediates(
            torch.randn(1, 3, height, width), intermediates_only=True
        )
        for feature, dim, stride in zip(features, model.dims, (4, 8, 16, 32), strict=True):
            size = math.ceil(height / stride), math.ceil(width / stride)
            assert feature.shape == (1, dim, *size)
            assert feature.isfinite().all()
        assert model(torch.randn(1, 3, height, width)).shape == (1, 5)


def test_size_returned_to_gives_the_same_result() -> None:
    model = lively(small()).eval()
    image = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        before = model(image)
        model(torch.randn(1, 3, 32, 40))
        assert torch.equal(model(image), before)


def test_modalities_have_stems_of_their_own_and_share_the_rest() -> None:
    model = lively(small(modalities={"rgbn": 4, "s1": 2, "s2": 13})).eval()
    for name, bands in model.modalities.items():
        assert model(torch.randn(2, bands, 32, 32), modality=name).shape == (2, 5)
    image = torch.randn(1, 4, 32, 32)
    assert torch.equal(model(image), model(image, modality="rgbn"))
    with pytest.raises(ValueError, match=r"'rgbn' must have shape \(B, 4, H, W\), got \(1, 13"):
        model(torch.randn(1, 13, 32, 32))
    with pytest.raises(ValueError, match=r"modality must be one of .*'lidar'"):
        model(image, modality="lidar")


def test_in_chans_is_one_optical_stem() -> None:
    assert small(in_chans=6).modalities == {"optical": 6}
    assert small().modalities == {"optical": 3, "sar": 1}
    with pytest.raises(ValueError, match="not both"):
        small(in_chans=6, modalities={"optical": 6})


@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_gradients_reach_every_parameter(
    norm_position: str, freq_embed: str, implementation: str, device: torch.device
) -> None:
    model = lively(small(norm_position=norm_position, freq_embed=freq_embed)).to(device)
    for modality, bands in model.modalities.items():
        image = torch.randn(2, bands, 64, 96, device=device)
        gsd = 0.5 if freq_embed == "implicit" else None
        model(image, modality, gsd).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_evaluation_with_gradients_reaches_frequency_embeddings() -> None:
    model = lively(small()).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    assert model.stages[0].freq_embed.table.grad is not None
    assert model.stages[0].freq_embed.table.grad.any()


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    model = lively(small())
    image = torch.randn(2, 3, 64, 64)
    saved, gradients = [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable, stages=[0, 2])
        model.zero_grad()
        count = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal count
            count += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model(image).square().sum()
        loss.backward()
        saved.append(count)
        gradients.append([parameter.grad.clone() for parameter in _used(model)])
    assert saved[1] < 0.6 * saved[0]
    torch.testing.assert_close(gradients[0], gradients[1])
    with pytest.raises(ValueError, match="stages must be within 0 to 3"):
        model.set_grad_checkpointing(stages=[4])


def _used(model: RSVHeat) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.grad is not None]


def test_stochastic_depth_drops_whole_samples_in_training_only() -> None:
    model = lively(small(drop_path=0.9, layer_scale=None))
    image = torch.randn(1, 3, 32, 32).expand(16, -1, -1, -1)
    with torch.no_grad():
        logits = model(image)
        assert len({tuple(row.tolist()) for row in logits}) > 1
        logits = model.eval()(image)
    torch.testing.assert_close(logits, logits[:1].expand(16, -1))
    assert model.stages[0].blocks[0].drop_path.rate == 0
    assert model.stages[3].blocks[0].drop_path.rate == pytest.approx(0.9)


def test_intermediates_follow_timms_contract() -> None:
    model = lively(small()).eval()
    image = torch.randn(1, 3, 64, 96)
    last, features = model.forward_intermediates(image)
    assert torch.equal(last, features[3])
    assert torch.equal(last, model.forward_features(image))
    assert torch.equal(model.forward_head(last), model(image))
    stopped, chosen = model.forward_intermediates(image, indices=[-4, 1], stop_early=True)
    assert torch.equal(stopped, features[1])
    assert [torch.equal(a, b) for a, b in zip(chosen, features, strict=False)] == [True, True]
    (only,) = model.forward_intermediates(
        image, indices=1, norm=True, output_fmt="NHWC", intermediates_only=True
    )
    assert torch.equal(only, model.head.norm(features[3].permute(0, 2, 3, 1)))
    for bad in (0, 5, [4], [-5], []):
        with pytest.raises(ValueError, match="indices"):
            model.forward_intermediates(image, indices=bad)
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(image, output_fmt="NLC")


def test_head_can_be_replaced_and_left_out() -> None:
    model = small().eval()
    image = torch.randn(2, 3, 64, 64)
    features = model.forward_features(image)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features) == (2, model.head_hidden_size)
    model.reset_classifier(7)
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model(image).shape == (2, 7)
    model.reset_classifier(0)
    assert torch.equal(model(image), pooled)
    model.reset_classifier(3, "")
    assert model(image).shape == (2, 3, 2, 2)


def test_head_of_moments_sees_every_stage() -> None:
    torch.manual_seed(0)
    model = lively(small(global_pool="moments"))
    x = torch.randn(6, 3, 64, 64)
    optical = {"output_fmt": "NHWC", "intermediates_only": True, "modality": "optical"}
    pooled = pool_features(model.forward_intermediates(x, **optical))
    assert pooled.shape == (6, model.head_hidden_size) == (6, 2 * (8 + 16 + 24 + 32))
    nn.init.normal_(model.head.fc.weight)
    standard = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(model(x), model.head.fc(standard), rtol=1e-4, atol=1e-4)
    model.head.norm.momentum = 1.0
    model(x)  # evaluation standardises by what training saw
    expected = (pooled - pooled.mean(0)) / (pooled.var(0) + 1e-5).sqrt()
    torch.testing.assert_close(model.eval()(x), model.head.fc(expected), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="call the model"):
        model.forward_head(model.forward_features(x))
    with pytest.raises(ValueError, match="norm=False"):
        model.forward_intermediates(x, norm=True)
    model.reset_classifier(2, "avg")
    assert model(x).shape == (6, 2)


def test_parameter_groups_hold_every_parameter_once() -> None:
    model = small(output_norms=True)
    groups = model.get_parameter_groups(lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    names = [name for group in groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    of = {name: group for group in groups for name in group["param_names"]}
    assert of["head.fc.weight"]["lr"] == 1e-3
    assert of["stages.3.blocks.0.mlp.fc1.weight"]["lr"] == 0.5e-3
    assert of["stages.2.blocks.1.mlp.fc1.weight"]["lr"] == 0.25e-3
    assert of["stages.2.downsample.conv.weight"]["lr_scale"] == 0.5**3
    assert of["stems.sar.conv1.weight"]["lr_scale"] == 0.5**6
    assert of["stages.0.blocks.0.op.linear.weight"]["weight_decay"] == 0.1
    for name in (
        "stages.0.freq_embed.table",
        "stages.0.spatial_correction_embed",
        "stages.0.blocks.0.gamma1",
        "stages.0.blocks.0.norm1.weight",
        "stages.0.blocks.0.op.to_k.bias",
    ):
        assert of[name]["weight_decay"] == 0
    assert "stages.0.freq_embed.table" in model.no_weight_decay()
    torch.optim.AdamW(groups).step()
    model.stems.requires_grad_(False)
    assert "stems.sar.conv1.weight" not in {
        name for group in model.get_parameter_groups() for name in group["param_names"]
    }
    with pytest.raises(ValueError, match="layer_decay"):
        model.get_parameter_groups(layer_decay=0)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_as_one_graph(training: bool, native: torch.device) -> None:
    model = rsvheat.create_model("rsvheat_nano", img_size=32, num_classes=3).to(native)
    model = lively(model).train(training)
    image = torch.randn(1, 3, 32, 40, device=native)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)


def test_exports_with_a_dynamic_batch(implementation: str) -> None:
    model = rsvheat.create_model("rsvheat_nano", img_size=32, num_classes=3)
    model = lively(model).eval()
    image = torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        expected = model(image)  # leaves filters in the cache
        exported = torch.export.export(
            model, (image,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
        )
        torch.testing.assert_close(exported.module()(image), expected, rtol=1e-4, atol=1e-5)
        more = torch.randn(5, 3, 32, 40)
        torch.testing.assert_close(exported.module()(more), model(more), rtol=1e-4, atol=1e-5)
    # Filters of the cache would have become constants that do not follow the weights. torch 2.11
    # makes one of each number.
    assert all(constant.numel() == 1 for constant in exported.constants.values())
    graph = exported.graph_module.code
    assert ("rsvheat.heat_conduction" in graph) == (implementation == "native")


def test_autocast_and_half_weights_are_close() -> None:
    model = lively(small()).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            assert _relative(model(image), expected) < 0.05
        half = copy.deepcopy(model).bfloat16()
        assert _relative(half(image.bfloat16()), expected) < 0.05
        assert _relative(model.double()(image.double()), expected) < 1e-5


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


def test_ground_sampling_distance_matters_to_the_network_only() -> None:
    image = torch.randn(1, 3, 64, 64)
    model = lively(small(freq_embed="implicit", reference_gsd=10)).eval()
    torch.testing.assert_close(model(image), model(image, gsd=10))
    assert not torch.allclose(model(image), model(image, gsd=1))
    with pytest.raises(ValueError, match="gsd must be a finite number above 0, got -1"):
        model(image, gsd=-1)
    with pytest.raises(ValueError, match="freq_embed='implicit'"):
        small()(image, gsd=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": (8, 16), "depths": (1,)}, "one entry per stage"),
        ({"dims": (7, 16), "depths": (1, 1)}, "the first even"),
        ({"depths": (1, 1, 0, 1)}, "depths must be at least 1"),
        ({"img_size": 0}, "img_size"),
        ({"modalities": {}}, "at least one stem"),
        ({"modalities": {"a.b": 3}}, "identifiers"),
        ({"modalities": {"keys": 3}}, "other than methods"),
        ({"in_chans": 0}, "at least 1 band"),
        ({"norm_position": "mid"}, "norm_position must be one of post, pre"),
        ({"freq_embed": "none"}, "freq_embed must be one of"),
        ({"freq_resize": "nearest"}, "freq_resize must be one of"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"num_classes": -1}, "num_classes"),
        ({"global_pool": "max"}, "global_pool"),
        ({"reference_gsd": 0}, "reference_gsd"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize("size", [(33, 20), (64, 9), (5, 7), (1, 1), (46, 8)])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_rows_of_the_stem_are_those_of_the_whole_image(size: tuple[int, int], rows: int) -> None:
    stem = Stem(3, 8).double().eval()
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = stem(x)
        height = expected.shape[1]
        parts = [
            stem._embed_rows(x, first, min(first + rows, height))
            for first in range(0, height, rows)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-12, atol=1e-12)


def test_no_features_outlive_their_use_by_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(depths=(2, 2, 1, 1)).eval()
    inputs: list[weakref.ref[Tensor]] = []
    outlived = []
    forward = HeatBlock.forward

    def watched(self: HeatBlock, x: Tensor, *args: Any) -> Tensor:
        outlived.extend(ref() is not None for ref in inputs)
        inputs.append(weakref.ref(x))
        return forward(self, x, *args)

    monkeypatch.setattr(HeatBlock, "forward", watched)
    with torch.no_grad():
        model.forward_features(torch.randn(1, 3, 32, 32))
    assert len(inputs) == 6
    assert not any(outlived)
