# SPDX-License-Identifier: Apache-2.0
"""Outputs of the public vHeat and RS-vHeat implementations, from a folder beside the checkout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rsvheat.models import RSVHeat, load_checkpoint

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
CASES = (
    "vheat_postnorm",
    "vheat_prenorm",
    "vheat_dense_nonsquare",
    "rsvheat_optical",
    "rsvheat_sar",
)


def _load(case: str) -> tuple[RSVHeat, dict[str, Tensor]]:
    if not (GOLDEN / f"{case}.json").exists():
        pytest.skip(f"the golden vectors are not at {GOLDEN}")
    config = json.loads((GOLDEN / f"{case}.json").read_text())
    values = np.load(GOLDEN / f"{case}.npz")
    model = RSVHeat(
        config["dims"],
        config["depths"],
        config["img_size"],
        {"sar": 1} if config.get("mode") == "sar" else {"optical": 3},
        config.get("num_classes", 0),
        "post" if config["post_norm"] else "pre",
        1e-5 if config["layer_scale"] else None,
        spatial_correction=case.startswith("rsvheat"),
        freq_resize="bicubic",
        output_norms="dense" in case,
    )
    report = load_checkpoint(model, GOLDEN / f"{case}.pth")
    assert not report.skipped
    # A dense backbone is published without a head.
    assert all(name.startswith("head.") for name in report.missing)
    assert "dense" in case or not report.missing
    return model.eval(), {name: torch.from_numpy(values[name]) for name in values.files}


def _error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES)
def test_every_stage_is_that_of_the_public_encoder(
    case: str, implementation: str, device: torch.device
) -> None:
    model, values = _load(case)
    model.to(device)
    image = values["input"].to(device)
    with torch.no_grad():
        last, stages = model.forward_intermediates(image)
        # Once more, with the filters that the first pass left in the cache.
        cached = model.forward_intermediates(image, intermediates_only=True)
        features = model.forward_features(image)
        logits = model(image)
    assert torch.equal(last, features)
    for i in range(4):
        assert _error(stages[i], values[f"stage{i}"]) <= 1e-5
        assert _error(cached[i], values[f"stage{i}"]) <= 1e-5
    assert "logits" in values or "dense" in case
    if "logits" in values:
        assert _error(logits, values["logits"]) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_training_mode_computes_the_same(case: str) -> None:
    model, values = _load(case)
    with torch.no_grad():
        stages = model.train().forward_intermediates(values["input"], intermediates_only=True)
    for i in range(4):
        assert _error(stages[i], values[f"stage{i}"]) <= 1e-5
