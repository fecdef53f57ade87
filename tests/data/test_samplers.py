# SPDX-License-Identifier: Apache-2.0
from itertools import chain

import numpy as np
import pytest
from torch.utils.data import BatchSampler

from rsvheat.data import ResumableSampler


def batches(sampler):
    """Batches of sample numbers as a loader makes them."""
    made = BatchSampler(sampler, sampler.batch_size, sampler.drop_last)
    return [[index.sample for index in batch] for batch in made]


def make(*args, epoch=0, **options):
    sampler = ResumableSampler(*args, **options)
    sampler.set_epoch(epoch)
    return sampler


def test_an_epoch_has_each_sample_once_in_a_seeded_order():
    first = batches(make(30, 4))
    assert first == batches(make(30, 4)) != batches(make(30, 4, seed=1))
    assert first != batches(make(30, 4, epoch=1))
    flat = list(chain.from_iterable(first))
    assert len(first) == 7
    assert len(set(flat)) == 28
    every = chain.from_iterable(batches(make(30, 4, drop_last=False)))
    assert sorted(every) == list(range(30))
    in_order = chain.from_iterable(batches(make(30, 4, shuffle=False, drop_last=False)))
    assert list(in_order) == list(range(30))


def test_samples_know_their_epoch():
    assert {index.epoch for index in make(30, 4, epoch=5)} == {5}


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("length", [30, 37, 61])
def test_processes_share_the_batches_of_one(ranks, length):
    one = batches(make(length, 3 * ranks, epoch=2))
    several = [batches(make(length, 3, epoch=2, num_replicas=ranks, rank=r)) for r in range(ranks)]
    assert {len(part) for part in several} == {len(one)}
    for step, joint in enumerate(one):
        together = [sample for part in several for sample in part[step]]
        assert sorted(together) == sorted(joint)
        assert all(len(part[step]) == 3 for part in several)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_evaluation_sees_all_in_as_many_steps_on_each_process(ranks):
    options = {"shuffle": False, "drop_last": False, "num_replicas": ranks}
    samplers = [make(13, 2, rank=rank, **options) for rank in range(ranks)]
    parts = [batches(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {samplers[0].batches}
    seen = [sample for part in parts for batch in part for sample in batch]
    assert set(seen) == set(range(13))
    assert len(seen) - 13 < ranks


def test_more_processes_than_samples_still_evaluate():
    parts = [
        batches(make(2, 2, shuffle=False, drop_last=False, num_replicas=5, rank=rank))
        for rank in range(5)
    ]
    assert [len(part) for part in parts] == [1] * 5


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 4, 7])
def test_an_epoch_goes_on_where_it_was(ranks, done):
    for rank in range(ranks):
        where = {"num_replicas": ranks, "rank": rank}
        before = make(31 * ranks, 4, epoch=3, **where)
        undisturbed = batches(before) + batches(make(31 * ranks, 4, epoch=4, **where))
        state = before.state_dict(done)
        after = ResumableSampler(31 * ranks, 4, **where)
        after.load_state_dict(state)
        assert after.epoch == (3 if done < 7 else 4)
        rest = batches(after)
        assert batches(after) == rest  # looking ahead changes nothing
        assert len(after) == len(before)  # of all the epoch, as Lightning counts
        if done < 7:
            after.set_epoch(4)
            rest += batches(after)
        assert rest == undisturbed[done:]


def test_a_place_between_batches_is_refused():
    sampler = ResumableSampler(40, 4, num_replicas=2, rank=0)
    for state in ({"epoch": 0, "samples": 12}, {"epoch": -1, "samples": 0}):
        with pytest.raises(ValueError, match=r"no batch begins .* a step takes 8"):
            sampler.load_state_dict(state)
    sampler.load_state_dict({"epoch": 2, "samples": 0})
    sampler.load_state_dict({"epoch": 2, "samples": 16})


def test_blocks_are_read_together_and_mixed():
    blocks = [10, 5, 20, 1, 14]
    starts = np.cumsum([0, *blocks])
    order = make(50, 1, blocks=blocks, mix_blocks=1).order(0)
    assert sorted(order) == list(range(50))
    numbers = np.searchsorted(starts, order, "right")
    assert (np.diff(numbers) != 0).sum() == 4  # each block in one run
    assert not np.array_equal(order[numbers == 3], np.arange(15, 35))  # but mixed within
    assert not np.array_equal(order, make(50, 1, blocks=blocks, mix_blocks=1).order(1))
    mixed = np.searchsorted(starts, make(50, 1, blocks=blocks).order(0), "right")
    assert (np.diff(mixed) != 0).sum() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"mix_blocks": 0}, "mix_blocks must be"),
        ({"blocks": [3, 3]}, "blocks have 6 samples, expected 10"),
        ({"num_replicas": 3, "rank": 0}, "10 samples do not fill one batch of 4 on 3"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResumableSampler(**{"length": 10, "batch_size": 4, **arguments})
