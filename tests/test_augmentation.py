# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from utils import random

from rsvheat.augmentation import RandomView

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = {"scale": (1, 1), "ratio": (1, 1), "dihedral": False}
PLAIN = {"contrast": 0, "brightness": 0, "channel_shift": 0}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_view_without_changes_is_the_image():
    x = random((3, 2, 10, 14))
    torch.testing.assert_close(RandomView(**STILL, **PLAIN)(x, _generator()), x)


def test_turns_are_the_eight_of_the_square():
    x = random((1, 1, 6, 6))
    turns = [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]
    view = RandomView(**{**STILL, "dihedral": True}, **PLAIN)
    views = view(x.expand(64, 1, 6, 6), _generator())
    seen = set()
    for i in range(64):
        matches = [
            k for k, turn in enumerate(turns) if torch.allclose(views[i : i + 1], turn, atol=1e-4)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(range(8))


def test_oblong_images_are_not_transposed():
    ramp = torch.arange(12.0).expand(32, 1, 8, 12)  # varies along the width only
    views = RandomView(**{**STILL, "dihedral": True}, **PLAIN)(ramp, _generator())
    assert views.diff(dim=2).abs().max() < 1e-4


def test_crops_show_the_wanted_share_of_the_image():
    rows = torch.arange(64.0)[:, None].expand(64, 64)
    x = torch.stack((rows, rows.T)).expand(256, 2, 64, 64)
    view = RandomView(scale=(0.25, 0.5), ratio=(0.5, 2), dihedral=False, **PLAIN)
    views = view(x, _generator())
    # What a ramp spans between the outermost pixels' centres is the crop's extent.
    height = (views[:, 0].amax((1, 2)) - views[:, 0].amin((1, 2))) / 63
    width = (views[:, 1].amax((1, 2)) - views[:, 1].amin((1, 2))) / 63
    area = height * width
    assert area.min() > 0.24
    assert area.max() < 0.51
    ratio = width / height
    assert ratio.min() > 0.49
    assert ratio.max() < 2.05
    assert ratio.log().std() > 0.2
    assert views.min() >= 0
    assert views.max() <= 63


def test_views_have_the_wanted_size():
    x = random((2, 3, 20, 30))
    assert RandomView()(x).shape == x.shape
    assert RandomView(size=16)(x).shape == (2, 3, 16, 16)
    assert RandomView(size=(12, 8))(x).shape == (2, 3, 12, 8)


def test_colours_change_by_what_is_asked_for():
    x = random((512, 3, 16, 16))
    view = RandomView(**STILL, contrast=0.2, brightness=0.3, channel_shift=0.1)
    y = view(x, _generator())
    shift = (y - x).mean((2, 3))
    assert shift.abs().max() <= 0.4 + 1e-5
    assert shift.mean(1).abs().max() > 0.25, "brightness"
    assert (shift - shift.mean(1, keepdim=True)).abs().max() <= 0.2
    factor = y.std((2, 3)) / x.std((2, 3))
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert 0.8 - 1e-4 <= factor.min() < 0.83
    assert 1.17 < factor.max() <= 1.2 + 1e-4


def test_same_seed_same_views_and_each_sample_its_own():
    x = random((1, 1, 16, 16)).expand(4, 1, 16, 16)
    first = RandomView()(x, _generator())
    assert torch.equal(first, RandomView()(x, _generator()))
    assert not torch.equal(first, RandomView()(x, _generator(1)))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_views_keep_the_dtype(dtype):
    assert RandomView()(random((2, 1, 16, 16), dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (0.5, 1.5)}, "scale must be .* within 0 to 1.0, got"),
        ({"scale": (0, 1)}, "scale must be"),
        ({"ratio": (2, 1)}, "ratio must be"),
        ({"size": 0}, "size must be a side or .height, width., got 0"),
        ({"size": (4, 4, 4)}, "size must be"),
        ({"contrast": -0.1}, "contrast must be at least 0, got -0.1"),
        ({"brightness": float("nan")}, "brightness must be at least 0, got nan"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomView(**arguments)
