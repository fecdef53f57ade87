# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from rsvheat.models import RSVHeat
from rsvheat.models.layers import HeatOperator


def conducting(**arguments):
    """A small encoder whose every channel conducts, as fresh ones hardly do."""
    encoder = RSVHeat(
        **{
            "dims": (8, 16),
            "depths": (1, 2),
            "img_size": 32,
            "modalities": {"optical": 3, "sar": 1, "sentinel2": 13},
            "num_classes": 0,
            "norm_position": "pre",
            "layer_scale": None,
            **arguments,
        }
    )
    for module in encoder.modules():
        if isinstance(module, HeatOperator):
            torch.nn.init.normal_(module.to_k.weight, std=2.0)
            torch.nn.init.uniform_(module.to_k.bias, 0.0, 1.0)
            # Beside the residual connection it counts.
            torch.nn.init.normal_(module.linear.weight, std=0.5)
            torch.nn.init.normal_(module.out_linear.weight, std=0.5)
    return encoder


@pytest.fixture
def encoder(one_thread):
    return conducting()


@pytest.fixture
def image():
    return torch.randn(3, 37, 50)
