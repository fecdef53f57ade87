# SPDX-License-Identifier: Apache-2.0
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    """Small models run slower on several threads, many times so on a busy machine."""
    torch.set_num_threads(1)
