# SPDX-License-Identifier: Apache-2.0
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from rsvheat.training import Optimization
from rsvheat.training.optimization import warmup_cosine


class _Trainer:
    """What Optimization asks of a Trainer."""

    def __init__(self, steps, batch_size=None, processes=1, accumulated=1):
        self.estimated_stepping_batches = steps
        self.train_dataloader = torch.utils.data.DataLoader(range(8), batch_size)
        self.world_size, self.accumulate_grad_batches = processes, accumulated


def test_rate_rises_linearly_then_falls_along_half_a_cosine():
    course = [warmup_cosine(step, 100, 20, 0.1) for step in range(101)]
    assert course[0] > 0
    rises = [b - a for a, b in pairwise(course[:20])]
    assert rises == pytest.approx([1 / 21] * 19)
    assert course[20] == max(course) == 1
    assert course[60] == pytest.approx(0.1 + 0.9 / 2)
    assert course[100] == warmup_cosine(500, 100, 20, 0.1) == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(course[20:]))


def test_rate_follows_the_global_batch():
    # 8 samples x 4 processes x 2 accumulated batches
    trainer = _Trainer(10, batch_size=8, processes=4, accumulated=2)
    assert Optimization(base_lr=2e-4).learning_rate(trainer) == pytest.approx(2e-4 * 64 / 256)
    assert Optimization(base_lr=2e-4, lr=3e-3).learning_rate(trainer) == 3e-3


def test_batch_size_may_be_that_of_a_batch_sampler():
    trainer = _Trainer(10)
    sampler = torch.utils.data.BatchSampler(range(8), 4, drop_last=False)
    trainer.train_dataloader = torch.utils.data.DataLoader(range(8), batch_sampler=sampler)
    assert Optimization(base_lr=1.0).learning_rate(trainer) == pytest.approx(4 / 256)
    trainer.train_dataloader = [1, 2]
    with pytest.raises(ValueError, match="give lr instead"):
        Optimization().learning_rate(trainer)


def test_groups_keep_their_share_of_the_rate_through_the_schedule():
    groups = [
        {"params": [nn.Parameter(torch.zeros(2))], "lr_scale": scale} for scale in (1.0, 0.25)
    ]
    configured = Optimization(lr=0.8, warmup=0.5, floor=0).configure(groups, _Trainer(8))
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for step in range(8):
        expected = 0.8 * warmup_cosine(step, 8, 4, 0)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([expected, 0.25 * expected])
        optimizer.step()
        scheduler.step()


def test_a_run_without_an_end_has_no_cosine():
    with pytest.raises(ValueError, match="max_epochs"):
        Optimization(lr=1e-3).configure([{"params": []}], _Trainer(math.inf))


@pytest.mark.parametrize(
    "wrong", [{"base_lr": 0}, {"lr": -1.0}, {"warmup": 1.0}, {"warmup": -0.1}, {"floor": 1.1}]
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Optimization(**wrong)
