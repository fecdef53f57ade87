# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch

from rsvheat.models import RSVHeat
from rsvheat.models.decoding import MapNorm
from rsvheat.models.features import (
    AttentionFusion,
    FeaturePyramid,
    GateFusion,
    MeanFusion,
    encode,
    keep_maps_only,
    masked_softmax,
)

FUSIONS = ("gate", "attention", "mean")
SENSORS = {"optical": 3, "sar": 1}
DIMS = (8, 16, 16, 24)


def make_encoder(modalities=SENSORS, **options):
    encoder = RSVHeat(
        dims=DIMS, depths=(1, 1, 1, 1), img_size=32, modalities=modalities, num_classes=0, **options
    )
    keep_maps_only(encoder)
    return encoder


def shake(module):
    """Give parameters that begin at zero, or all alike, values of their own."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module


@pytest.fixture(params=FUSIONS)
def pyramid(request):
    encoder = make_encoder()
    return encoder, shake(FeaturePyramid(encoder, request.param)).eval()


def images(count=3, height=40, width=50):
    return {name: torch.randn(count, bands, height, width) for name, bands in SENSORS.items()}


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1), (5, 130)])
def test_maps_have_strides_4_to_32_at_any_size(pyramid, size):
    encoder, features = pyramid
    maps = features(encoder, images(2, *size))
    for x, dim, stride in zip(maps, DIMS, (4, 8, 16, 32), strict=True):
        assert x.shape == (2, dim, -(-size[0] // stride), -(-size[1] // stride))
        assert x.isfinite().all()


def test_maps_are_normed_once():
    x = torch.randn(2, 3, 64, 64)
    for options in ({}, {"output_norms": True}):
        encoder = make_encoder({"optical": 3}, **options)
        features = FeaturePyramid(encoder)
        own = [isinstance(norm, MapNorm) for norm in features.norms]
        assert own == 4 * [not options]
        for y in features(encoder, {"optical": x}):
            torch.testing.assert_close(y.mean(1), torch.zeros_like(y[:, 0]), atol=1e-5, rtol=0)
            deviation = y.std(1, correction=0)
            torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.05, rtol=0)


def test_one_sensor_needs_no_fusion():
    encoder = make_encoder({"optical": 3})
    features = FeaturePyramid(encoder)
    assert not list(features.fusions.parameters())
    x = torch.randn(3, 3, 32, 32)
    plain = features(encoder, {"optical": x})
    order = torch.tensor([2, 0, 1])
    for a, b in zip(plain, features(encoder, {"optical": x}, {"optical": order}), strict=True):
        assert torch.equal(a, b[order])


def test_a_missing_sensor_of_some_samples_is_that_of_the_whole_batch(pyramid):
    """Sample by sample, alone or in a batch, in any order, the maps are the same."""
    encoder, features = pyramid
    full = images(4)
    index = {"optical": torch.tensor([3, 0, 2]), "sar": torch.tensor([1, 2])}
    part = {name: full[name][rows] for name, rows in index.items()}
    maps = features(encoder, part, index, 4)
    for sample in range(4):
        names = [name for name in SENSORS if sample in index[name].tolist()]
        alone = features(encoder, {name: full[name][[sample]] for name in names})
        for together, single in zip(maps, alone, strict=True):
            torch.testing.assert_close(together[[sample]], single, atol=2e-5, rtol=1e-4)


def test_both_sensors_matter(pyramid):
    encoder, features = pyramid
    full = images()
    maps = features(encoder, full)
    for name in SENSORS:
        changed = {**full, name: full[name] + 1.0 * torch.randn_like(full[name])}
        for a, b in zip(maps, features(encoder, changed), strict=True):
            assert (a - b).abs().max() > 1e-3


def test_the_order_of_the_mapping_does_not_matter(pyramid):
    encoder, features = pyramid
    full = images()
    swapped = {name: full[name] for name in reversed(SENSORS)}
    for a, b in zip(features(encoder, full), features(encoder, swapped), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [MeanFusion, GateFusion, AttentionFusion])
def test_fresh_fusion_is_the_mean_of_the_sensors_that_are_there(kind):
    fuse = kind(8, ["a", "b", "c"])
    maps = {name: torch.randn(4, 8, 5, 6) for name in "abc"}
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 0, 0, 1]], dtype=torch.bool)
    fused = fuse(maps, present)
    a, b, c = maps.values()
    for sample, expected in enumerate(((a + b + c) / 3, a, b, (a + b + c) / 3)):
        torch.testing.assert_close(fused[sample], expected[sample])


def test_gates_are_the_softmax_of_scores_by_hand():
    fuse = shake(GateFusion(2, ["a", "b"]))
    maps = {name: torch.randn(1, 2, 1, 1) for name in "ab"}
    scores = [
        fuse.scores[name].weight[:, :, 0, 0] @ x[0, :, 0, 0] + fuse.scores[name].bias
        for name, x in maps.items()
    ]
    gate = 1 / (1 + (scores[1] - scores[0]).exp())
    expected = gate * maps["a"][0, :, 0, 0] + (1 - gate) * maps["b"][0, :, 0, 0]
    fused = fuse(maps, torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(fused[0, :, 0, 0], expected)


def test_attention_is_that_of_torch():
    """By position and head, as torch computes it for a sequence of sensors."""
    dim, heads = 64, 2
    fuse = shake(AttentionFusion(dim, ["a", "b"]))
    assert fuse.heads == heads
    maps = {name: torch.randn(2, dim, 3, 4) for name in "ab"}
    present = torch.tensor([[True, True], [True, False]])
    tokens = torch.stack([x + fuse.sensors[name] for name, x in maps.items()])
    # (sensors, B, C, h, w) -> (B h w, heads, sensors, C / heads)
    mean = torch.stack(((maps["a"][0] + maps["b"][0]) / 2, maps["a"][1]))

    def split(x):
        x = x.permute(1, 3, 4, 0, 2).reshape(2 * 3 * 4, len(x), heads, dim // heads)
        return x.transpose(1, 2)

    query = split(fuse.query(mean)[None])
    key, value = (
        split(torch.stack([layer(x) for x in tokens])) for layer in (fuse.key, fuse.value)
    )
    mask = present.T.repeat_interleave(12, 0)[:, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    expected = expected.reshape(2, 3, 4, dim).permute(0, 3, 1, 2)
    torch.testing.assert_close(fuse(maps, present), mean + fuse.out(expected))


def test_masked_softmax_leaves_out_what_is_not_there():
    scores = torch.tensor([[1.0, 2.0], [100.0, 2.0]])
    weights = masked_softmax(scores, torch.tensor([[True, True], [False, True]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5], [0.0, 0.5]]))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("given", [("optical",), ("sar",), ("optical", "sar")])
def test_in_training_every_parameter_gets_a_gradient(fusion, given):
    encoder = make_encoder()
    features = FeaturePyramid(encoder, fusion).train()
    full = images(2, 32, 32)
    maps = features(encoder, {name: full[name] for name in given})
    sum(x.square().sum() for x in maps).backward()
    for module in (encoder, features):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    for name, stem in encoder.stems.items():
        assert any(p.grad.abs().sum() > 0 for p in stem.parameters()) == (name in given)


def test_an_absent_sensor_is_not_computed_in_evaluation(monkeypatch):
    encoder = make_encoder()
    features = FeaturePyramid(encoder).eval()
    monkeypatch.setattr(encoder.stems["sar"], "forward", None)
    full = images()
    features(encoder, {"optical": full["optical"]})
    empty = {"optical": torch.arange(3), "sar": torch.arange(0)}
    features(encoder, {"optical": full["optical"], "sar": full["sar"][:0]}, empty)


def _seen(features, encoder, full, index=None):
    """Return the sensors of each sample that reach the fusion in training."""
    seen = {}

    def watch(module, args):
        maps, present = args
        seen.update(dict(zip(maps, present.tolist(), strict=True)))

    handle = features.fusions[0].register_forward_pre_hook(watch)
    features(encoder, full, index)
    handle.remove()
    return seen


def test_modality_dropout_keeps_one_sensor_and_follows_the_seed():
    encoder = make_encoder()
    features = FeaturePyramid(encoder, "mean", modality_dropout=0.5).train()
    full = images(200, 4, 4)
    torch.manual_seed(3)
    first = _seen(features, encoder, full)
    counts = [sum(flags) for flags in zip(*first.values(), strict=True)]
    assert min(counts) == 1
    # 200 samples: deviations of the shares below are 0.035 and less.
    assert sum(count == 1 for count in counts) / 200 == pytest.approx(0.5, abs=0.12)
    for name in SENSORS:
        assert sum(first[name]) / 200 == pytest.approx(0.75, abs=0.1)
    torch.manual_seed(3)
    assert _seen(features, encoder, full) == first
    torch.manual_seed(3)
    assert _seen(features, encoder, {name: full[name] for name in reversed(SENSORS)}) == first
    assert _seen(features, encoder, full) != first
    features.eval()
    assert _seen(features, encoder, full) == {name: 200 * [True] for name in SENSORS}


def test_modality_dropout_of_three_sensors_draws_every_subset():
    sensors = {"a": 1, "b": 1, "c": 1}
    encoder = make_encoder(sensors)
    features = FeaturePyramid(encoder, "mean", modality_dropout=1.0).train()
    full = {name: torch.randn(300, 1, 4, 4) for name in sensors}
    seen = _seen(features, encoder, full)
    subsets = set(zip(*seen.values(), strict=True))
    assert len(subsets) == 6
    assert not subsets & {(True, True, True), (False, False, False)}


def test_modality_dropout_leaves_the_only_sensor_of_a_sample():
    encoder = make_encoder()
    features = FeaturePyramid(encoder, "mean", modality_dropout=1.0).train()
    full = images(6, 4, 4)
    index = {"optical": torch.arange(6), "sar": torch.tensor([1, 4])}
    part = {"optical": full["optical"], "sar": full["sar"][:2]}
    seen = _seen(features, encoder, part, index)
    for sample in (0, 2, 3, 5):
        assert seen["optical"][sample]
        assert not seen["sar"][sample]
    for sample in (1, 4):
        assert seen["optical"][sample] != seen["sar"][sample]


def test_dropped_images_are_those_of_the_dropped_samples():
    encoder = make_encoder()
    features = FeaturePyramid(encoder, "mean", modality_dropout=1.0).train()
    full = images(8, 8, 8)
    order = torch.tensor([5, 1, 7, 0, 2, 6, 3, 4])
    index = {"optical": torch.arange(8), "sar": order}
    part = {"optical": full["optical"], "sar": full["sar"][order]}
    torch.manual_seed(1)
    seen = _seen(features, encoder, part, index)
    torch.manual_seed(1)
    maps = features(encoder, part, index)
    features.eval()
    for sample in range(8):
        (name,) = (name for name in SENSORS if seen[name][sample])
        alone = features(encoder, {name: full[name][[sample]]})
        for a, b in zip(maps, alone, strict=True):
            torch.testing.assert_close(a[[sample]], b, atol=2e-5, rtol=1e-4)


def test_exchange_between_stages_reaches_the_next_one():
    encoder = make_encoder({"optical": 3}).eval()
    x = torch.randn(2, 3, 64, 64)
    plain = encode(encoder, x, "optical")
    same = encode(encoder, x, "optical", lambda stage, features: features)
    seen = []

    def mirror(stage, features):
        seen.append(stage)
        return features.flip(2) if stage == 1 else features

    mirrored = encode(encoder, x, "optical", mirror)
    assert seen == [0, 1, 2, 3]
    for a, b in zip(plain, same, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(mirrored[0], plain[0])
    torch.testing.assert_close(mirrored[1], plain[1].flip(3))
    assert (mirrored[2] - plain[2]).abs().max() > 0.1


def test_works_under_autocast_and_in_float64():
    encoder = make_encoder()
    for fusion in FUSIONS:
        features = shake(FeaturePyramid(encoder, fusion))
        full = images(2, 32, 32)
        exact = copy.deepcopy(features).double()(
            copy.deepcopy(encoder).double(), {name: x.double() for name, x in full.items()}
        )
        single = features(encoder, full)
        with torch.autocast("cpu", torch.bfloat16):
            half = features(encoder, full)
        for a, b, c in zip(exact, single, half, strict=True):
            assert a.dtype == torch.float64
            torch.testing.assert_close(b.double(), a, atol=1e-4, rtol=1e-4)
            assert (c.double() - a).norm() < 0.05 * a.norm()


@pytest.mark.parametrize(
    ("change", "index", "size", "message"),
    [
        ({"radar": torch.zeros(3, 1, 8, 8)}, None, None, "may hold modalities .*, got 'radar'"),
        ({"sar": torch.zeros(3, 2, 8, 8)}, None, None, r"\(n, 1, H, W\), got \(3, 2, 8, 8\)"),
        ({"sar": torch.zeros(3, 1, 8, 9)}, None, None, "must have the same H and W"),
        ({"sar": torch.zeros(2, 1, 8, 8)}, None, None, "must have all 3 samples"),
        ({}, None, 4, "must have all 4 samples"),
        ({"sar": None}, {"sar": torch.arange(3)}, None, r"index\['optical'\] must have shape"),
        ({}, {"optical": torch.arange(3), "sar": torch.arange(2)}, None, r"got \(2,\)"),
        (
            {},
            {"optical": torch.arange(3), "sar": torch.arange(3) + 1},
            5,
            r"samples \[4\] of the batch have no image",
        ),
        (
            {},
            {"optical": torch.arange(3), "sar": torch.arange(3) + 3},
            5,
            r"index\['sar'\] must be within 0 to 4, got \[3, 4, 5\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, index, size, message):
    encoder = make_encoder()
    full = {**images(3, 8, 8), **change}
    full = {name: x for name, x in full.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(encoder).eval()(encoder, full, index, size)


def test_arguments_are_checked():
    encoder = make_encoder()
    with pytest.raises(ValueError, match=r"fusion must be one of .*, got 'sum'"):
        FeaturePyramid(encoder, "sum")
    with pytest.raises(ValueError, match=r"modality_dropout must be from 0 to 1, got 1\.5"):
        FeaturePyramid(encoder, modality_dropout=1.5)
    with pytest.raises(ValueError, match=r"at least one of .*, got none"):
        FeaturePyramid(encoder)(encoder, {})
