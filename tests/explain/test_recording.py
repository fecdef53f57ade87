# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from explain.conftest import conducting

from rsvheat.explain import conductions, record
from rsvheat.ops import reference

ALL = [(0, 0), (1, 0), (1, 1)]


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("modality", ["optical", "sar", "sentinel2"])
@pytest.mark.parametrize("size", [(32, 32), (37, 50), (5, 3), (1, 1)])
def test_recorded_arrays_are_a_heat_conduction(encoder, modality, size):
    image = torch.randn(encoder.modalities[modality], *size)
    found = conductions(encoder, image, modality, block="all")
    assert [(one.place.stage, one.place.block) for one in found] == ALL
    for one in found:
        stride = one.place.stride
        assert stride == 4 * 2**one.place.stage
        grid = tuple(-(-side // stride) for side in size)
        assert one.before.shape == (1, *grid, encoder.dims[one.place.stage])
        expected = reference.heat_conduction(one.before.double(), one.k.double())
        assert relative(one.after.double(), expected) < 2e-6
        if size == (32, 32):
            assert relative(one.before, one.after) > 0.05  # something was conducted


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("freq_embed", ["table", "implicit"])
def test_recorded_arrays_are_those_of_the_model(one_thread, norm_position, freq_embed, image):
    encoder = conducting(norm_position=norm_position, freq_embed=freq_embed, layer_scale=1.0).eval()
    gsd = 10.0 if freq_embed == "implicit" else None
    with torch.no_grad():
        plain = encoder(image[None], gsd=gsd)  # keeps filters, which the next call takes
        with record(encoder, block="all") as found:
            watched = encoder(image[None], gsd=gsd)
        assert torch.equal(watched, plain)
        # What stands behind the conduction, applied to what was recorded, is the block's operator.
        block = encoder.stages[-1].blocks[-1]
        outputs = []
        handle = block.op.register_forward_hook(
            lambda module, args, out: outputs.append((args, out))
        )
        encoder(image[None], gsd=gsd)
        handle.remove()
    (arguments, output), one = outputs[0], found[-1]
    op = block.op
    corrected = op.dwconv(op.correction_norm(torch.relu(arguments[0] + arguments[2])))
    value, gate = op.linear(corrected).chunk(2, -1)
    torch.testing.assert_close(one.before, value, rtol=1e-5, atol=1e-6)
    rest = op.out_linear(op.out_norm(one.after) * torch.nn.functional.silu(gate))
    torch.testing.assert_close(rest, output, rtol=1e-5, atol=1e-6)


def test_hooks_come_off_and_gradients_go_through(encoder, image):
    with record(encoder) as outer:
        with record(encoder, stages=[1], block=0) as inner:
            encoder(image[None]).sum().backward()
        assert [(one.place.stage, one.place.block) for one in inner] == [(1, 0)]
        encoder(image[None])
    assert len(outer) == 4
    assert not any(one.after.requires_grad for one in outer)
    assert encoder.stages[0].blocks[0].op.to_k.weight.grad.abs().sum() > 0
    assert not any(module._forward_hooks for module in encoder.modules())
    encoder(image[None])
    assert len(outer) == 4


def test_conduction_is_a_module_with_hooks(encoder, image):
    encoder.eval()
    conduction = encoder.stages[0].blocks[0].op.conduction
    assert not list(conduction.parameters())
    seen = []
    with torch.no_grad(), record(encoder, stages=[0]) as found:
        plain = encoder(image[None])
        handle = conduction.register_forward_hook(lambda m, args, y: seen.append((args[0], y)))
        assert torch.equal(encoder(image[None]), plain)
        handle.remove()
        handle = conduction.register_forward_hook(lambda m, args, y: y + 1)
        assert not torch.equal(encoder(image[None]), plain)
        handle.remove()
        assert torch.equal(encoder(image[None]), plain)
    assert len(found) == 4
    ((before, after),) = seen
    assert torch.equal(before, found[1].before)
    assert torch.equal(after, found[1].after)


def test_hooks_come_off_after_an_error(encoder, image):
    with pytest.raises(RuntimeError, match="stop"), record(encoder):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in encoder.modules())
    with pytest.raises(ValueError, match="image must be"):
        conductions(encoder, image[:2])
    assert encoder.training


def test_modes_and_random_state_are_left_as_found(encoder, image):
    encoder.train()
    encoder.stages[1].eval()
    modes = [module.training for module in encoder.modules()]
    state = torch.random.get_rng_state()
    conductions(encoder, image)
    assert [module.training for module in encoder.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_evaluation_is_what_is_recorded(one_thread, image):
    encoder = conducting(drop_path=0.9).train()
    first, second = (conductions(encoder, image)[-1].after for _ in range(2))
    assert torch.equal(first, second)


def test_later_stages_are_not_computed(encoder, image):
    calls = []
    encoder.stages[1].register_forward_hook(lambda *_: calls.append(1))
    conductions(encoder, image, stages=[0])
    assert not calls
    conductions(encoder, image, stages=[-1])
    assert calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [2]}, "stages must be within -2 to 1"),
        ({"stages": []}, "stages must be"),
        ({"block": 1}, "within -1 to 0 in stage 0, got 1"),
        ({"modality": "radar"}, "modality must be one of"),
        ({"modality": "sar"}, r"image must be \(1, H, W\)"),
        ({"image": torch.zeros(1, 3, 8, 8)}, r"image must be \(3, H, W\)"),
        ({"image": torch.zeros(3, 0, 8)}, "image must be"),
        ({"image": torch.full((3, 8, 8), float("nan"))}, "finite"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "floating-point"),
        ({"gsd": 10.0}, "gsd has no effect"),
    ],
)
def test_wrong_arguments_are_named(encoder, image, arguments, message):
    with pytest.raises(ValueError, match=message):
        conductions(**{"encoder": encoder, "image": image, **arguments})
