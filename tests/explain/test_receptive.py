# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from explain.conftest import conducting

from rsvheat.explain import ReceptiveField, effective_receptive_field


def centre(encoder, image, stage):
    """The features in the middle of a stage, in evaluation."""
    maps = encoder.forward_intermediates(image[None], [stage], intermediates_only=True)[0]
    return maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2]


def test_sensitivity_agrees_with_finite_differences(one_thread):
    encoder = conducting(depths=(1, 1)).double()
    image = torch.randn(3, 19, 26, dtype=torch.float64)
    fields = effective_receptive_field(encoder, image, probes=1, seed=1)
    encoder.eval()
    generator = torch.Generator().manual_seed(1)
    pixels = [(8, 12), (9, 11), (4, 16), (17, 2)]
    for stage, field in enumerate(fields):
        assert field.sensitivity.shape == (19, 26)
        assert field.sensitivity.sum() == pytest.approx(1)
        signs = torch.randint(2, (encoder.dims[stage],), generator=generator) * 2.0 - 1
        squares = []
        for row, column in pixels:
            total = 0.0
            for band in range(3):
                values = []
                for step in (1e-4, -1e-4):
                    moved = image.clone()
                    moved[band, row, column] += step
                    with torch.no_grad():
                        values.append(float(centre(encoder, moved, stage) @ signs.double()))
                total += ((values[0] - values[1]) / 2e-4) ** 2
            squares.append(total)
        actual = [field.sensitivity[pixel] for pixel in pixels]
        # Both up to one factor: the sensitivity adds up to 1.
        np.testing.assert_allclose(
            np.array(actual) / max(actual), np.array(squares) / max(squares), rtol=1e-5, atol=1e-9
        )
        assert min(actual) > 1e-8 * max(actual)


def test_probes_estimate_the_jacobian_and_images_are_averaged(one_thread):
    encoder = conducting(dims=(4,), depths=(1,)).eval()
    images = torch.randn(2, 3, 16, 16)
    exact = np.zeros((16, 16))
    for image in images:
        x = image.requires_grad_()
        for feature in centre(encoder, x, 0):
            (gradient,) = torch.autograd.grad(feature, x, retain_graph=True)
            exact += gradient.double().square().sum(0).numpy()
    exact /= exact.sum()
    few, many = (
        effective_receptive_field(encoder, images, probes=n)[0].sensitivity for n in (2, 200)
    )
    assert abs(many - exact).sum() < 0.1
    assert abs(many - exact).sum() < abs(few - exact).sum()


def test_heat_reaches_beyond_convolutions(one_thread):
    image = torch.randn(3, 96, 96)
    encoder = conducting(dims=(8,), depths=(1,))
    (warm,) = effective_receptive_field(encoder, image)
    torch.nn.init.zeros_(encoder.stages[0].blocks[0].op.to_k.weight)
    torch.nn.init.zeros_(encoder.stages[0].blocks[0].op.to_k.bias)
    (cold,) = effective_receptive_field(encoder, image)
    # Two convolutions of stride 2, and one of a position in each direction.
    rows, columns = np.nonzero(cold.sensitivity > 1e-9)
    assert warm.center == (48, 48)
    assert rows.min() == columns.min() == 48 - 3 - 4
    assert rows.max() == columns.max() == 48 + 3 + 4
    assert (warm.sensitivity > 1e-9).mean() > 0.5
    assert warm.radius(0.99) > cold.radius(0.99)


def test_radius_holds_its_share():
    sensitivity = np.zeros((21, 31))
    sensitivity[10, 15], sensitivity[10, 18], sensitivity[6, 15] = 0.5, 0.4, 0.1
    field = ReceptiveField(0, 4, (10, 15), sensitivity)
    assert [field.radius(share) for share in (0.5, 0.6, 0.9, 0.95, 1.0)] == [0, 3, 3, 4, 4]
    uniform = ReceptiveField(0, 4, (100, 100), np.full((201, 201), 1 / 201**2))
    # A disc of half the square's area.
    assert uniform.radius(0.5) == pytest.approx(201 * np.sqrt(0.5 / np.pi), rel=0.01)


def test_model_and_random_state_are_left_as_found(encoder, image):
    encoder.train()
    encoder.stages[0].requires_grad_(False)
    encoder.stages[1].eval()
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    modes = [module.training for module in encoder.modules()]
    state = torch.random.get_rng_state()
    with torch.no_grad():
        first = effective_receptive_field(encoder, image)
    assert [parameter.requires_grad for parameter in encoder.parameters()] == trained
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    second = effective_receptive_field(encoder, image)
    np.testing.assert_array_equal(first[1].sensitivity, second[1].sensitivity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 0}, "probes must be"),
        ({"stages": [5]}, "stages must be"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one"),
        ({"images": torch.zeros(2, 8, 8)}, "image must be"),
    ],
)
def test_wrong_arguments_are_named(encoder, image, arguments, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(**{"encoder": encoder, "images": image, **arguments})
