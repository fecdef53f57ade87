# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from rsvheat.models.decoding import ConvBlock, FCNHead, enlarge
from rsvheat.models.fpn_head import FPNHead
from rsvheat.models.upernet import UPerNet, average

DIMS = (6, 8, 10, 12)
DECODERS = [(UPerNet, {"channels": 16}), (FPNHead, {"channels": 16})]


def pyramid(height, width, count=2):
    maps = []
    for i, dim in enumerate(DIMS):
        stride = 4 * 2**i
        maps.append(torch.randn(count, dim, -(-height // stride), -(-width // stride)))
    return maps


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (33, 130), (100, 36)])
@pytest.mark.parametrize("norm", ["layer", "group", "batch"])
def test_logits_have_the_size_of_the_finest_map(decoder, options, size, norm):
    head = decoder(DIMS, 5, norm=norm, **options)
    maps = pyramid(*size)
    assert head.eval()(maps).shape == (2, 5, *maps[0].shape[2:])


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
def test_every_map_matters_and_every_parameter_learns(decoder, options):
    head = decoder(DIMS, 5, dropout=0.0, **options)
    maps = [x.requires_grad_() for x in pyramid(64, 96)]
    head(maps).square().sum().backward()
    for x in maps:
        assert (x.grad.abs().sum((1, 2, 3)) > 0).all()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
def test_samples_do_not_depend_on_each_other_or_on_the_mode(decoder, options):
    head = decoder(DIMS, 5, dropout=0.0, **options)
    maps = pyramid(32, 32, 3)
    together = head.train()(maps)
    for i in range(3):
        torch.testing.assert_close(head.eval()([x[[i]] for x in maps]), together[[i]])


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
def test_decoders_train_a_batch_of_one_small_image(decoder, options):
    """Batch norms would refuse the single value per channel of a pooled map."""
    head = decoder(DIMS, 5, **options).train()
    head(pyramid(8, 8, 1)).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
def test_a_decoder_of_two_maps(decoder, options):
    head = decoder(DIMS[:2], 3, **options)
    assert head(pyramid(32, 32)[:2]).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 12), (6, 6), (3, 40)])
@pytest.mark.parametrize("scale", [1, 2, 3, 6])
def test_averages_are_those_of_adaptive_pooling(size, scale):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(average(x, scale), adaptive_avg_pool2d(x, scale))


def test_enlarging_does_not_depend_on_the_size_that_is_cut_off():
    x = torch.randn(1, 2, 4, 5)
    full = enlarge(x, 4, (16, 20))
    torch.testing.assert_close(
        full, interpolate(x, size=(16, 20), mode="bilinear", align_corners=False)
    )
    assert torch.equal(enlarge(x, 4, (13, 18)), full[:, :, :13, :18])
    assert torch.equal(enlarge(x, 1, (3, 5)), x[:, :, :3])


@pytest.mark.parametrize(("decoder", "options"), DECODERS)
def test_decoders_export_with_dynamic_sizes(decoder, options):
    head = decoder(DIMS, 5, **options).eval()
    maps = pyramid(64, 64)
    rows = torch.export.Dim("rows", min=2, max=64)
    sizes = [{2: (8 >> i) * rows, 3: (8 >> i) * rows} for i in range(4)]
    program = torch.export.export(head, (maps,), dynamic_shapes=(sizes,))
    other = pyramid(128, 128)
    torch.testing.assert_close(program.module()(other), head(other), atol=1e-5, rtol=1e-4)


def test_the_auxiliary_head_keeps_the_size():
    head = FCNHead(10, 4, channels=8)
    assert head(torch.randn(2, 10, 3, 5)).shape == (2, 4, 3, 5)


def test_classifiers_start_without_a_preference():
    for head in (UPerNet(DIMS, 5, 16), FPNHead(DIMS, 5, 16), FCNHead(10, 5, 16)):
        assert head.classifier.bias.abs().max() == 0
        assert head.classifier.weight.std() < 0.02


@pytest.mark.parametrize(
    ("channels", "groups"), [(512, 32), (128, 16), (24, 3), (16, 2), (44, 4), (7, 1)]
)
def test_group_norms_fit_any_number_of_channels(channels, groups):
    assert ConvBlock(3, channels, norm="group")[1].num_groups == groups


def test_layer_norms_treat_every_position_alone():
    block = ConvBlock(3, 8, 1)
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(block(x[:, :, 2:4, 1:3]), block(x)[:, :, 2:4, 1:3])


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match=r"decoder_norm must be one of .*, got 'instance'"):
        ConvBlock(3, 8, norm="instance")
