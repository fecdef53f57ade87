# SPDX-License-Identifier: Apache-2.0
"""Photometric changes of images of any number of bands."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from torchvision import tv_tensors

from rsvheat.data import ArraySource, Crop, ImageDataset, Normalize, Photometric, Sensor


@pytest.mark.parametrize("bands", [1, 3, 12])
def test_images_change_by_a_gain_and_shifts_and_nothing_else_does(bands):
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.randn(bands, 9, 11))
    missing = torch.zeros(1, 9, 11, dtype=torch.uint8)
    missing[:, :3] = 1
    mask = tv_tensors.Mask(torch.randint(4, (1, 9, 11)))
    entries = {"images.a": image, "missing.a": tv_tensors.Mask(missing), "mask": mask}
    changed = Photometric()(entries)
    assert changed["mask"] is mask
    assert changed["missing.a"] is entries["missing.a"]
    result = changed["images.a"]
    assert isinstance(result, tv_tensors.Image)
    assert torch.equal(result[:, :3], image[:, :3])  # no data
    gains = []
    for before, after in zip(image[:, 3:], result[:, 3:], strict=True):
        design = torch.stack((before.flatten(), torch.ones(before.numel())), 1)
        (gain, shift), residual = torch.linalg.lstsq(design, after.reshape(-1, 1))[:2]
        assert float(residual.sum()) < 1e-8
        assert abs(float(shift)) < 0.2 + 0.1 + 0.2
        gains.append(float(gain))
    assert np.ptp(gains) < 1e-5  # one contrast for all bands
    assert 0.8 <= gains[0] <= 1.2
    assert gains[0] != pytest.approx(1, abs=1e-6)


def test_noise_is_bounded_and_some_images_stay():
    image = tv_tensors.Image(torch.zeros(1, 100, 100))
    noise = Photometric(0.0, 0.0, 0.0, noise=0.3)
    spreads = [float(noise({"images.sar": image})["images.sar"].std()) for _ in range(20)]
    assert 0.2 < max(spreads) < 0.31
    rare = Photometric(probability=0.25)
    same = sum(rare({"images.sar": image})["images.sar"] is image for _ in range(200))
    assert 120 < same < 180


def test_samples_of_a_dataset_follow_their_seed():
    values = np.random.default_rng(0).normal(100, 20, (12, 32, 32)).astype(np.float32)
    values[:, :4] = np.nan
    source = ArraySource([{"optical": values, "sar": values[:1]}])
    normalize = Normalize("fixed", low=50, high=150, clip=False)
    sensors = {"optical": Sensor(12, normalize=normalize), "sar": Sensor(1, normalize=normalize)}
    normalizers = {name: normalize.resolve(sensor.bands) for name, sensor in sensors.items()}

    def sample(*transforms):
        data = ImageDataset(source, sensors, normalizers, Crop(16), transforms=transforms, seed=3)
        return data[0]

    plain, changed, again = sample(), sample(Photometric()), sample(Photometric())
    for name in ("optical", "sar"):
        assert torch.equal(changed["images"][name], again["images"][name])
        before, after = plain["images"][name], changed["images"][name]
        missing = plain["missing"][name].bool().expand_as(before)
        assert missing.any()
        assert torch.equal(before[missing], after[missing])
        assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ({"contrast": float("nan")}, "contrast must be at least 0, got nan"),
        ({"probability": 1.5}, "probability must be at least 0 and at most 1, got 1.5"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Photometric(**options)
