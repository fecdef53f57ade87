# SPDX-License-Identifier: Apache-2.0
"""The order of samples: seeded, for any number of processes, from any place in an epoch on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler


class SampleIndex(NamedTuple):
    """Index of a sample in an epoch; with the seed it determines the sample's randomness.

    The epoch is part of the index since persistent workers do not see values that are set in the
    main process.
    """

    epoch: int
    sample: int
    repeated: bool = False  # fills a step; another process or batch has the sample, too


class ResumableSampler(DistributedSampler[Any]):
    """Yields one order of samples for all processes; it can start within an epoch.

    Rank r of W takes every W-th sample, so the batches that W processes see in a step together are
    the batch that one process with a W times larger batch sees. Each has the same number of
    steps: training leaves out samples that do not fill a step, evaluation repeats the first samples
    and marks them as repeated.

    It yields ``SampleIndex``; give it to a ``DataLoader`` as ``sampler`` with the same
    ``batch_size`` and ``drop_last``. Being a ``DistributedSampler`` it is left in place by
    Lightning, which calls ``set_epoch``.

    Only the training loop knows how many batches of an epoch were used, since workers read ahead.
    So it passes that number when it asks for the state:

        torch.save(sampler.state_dict(batches_done), ...)

    Args:
        length: Number of samples.
        batch_size: Samples in a batch of one process.
        shuffle: Whether a new order is drawn in each epoch.
        drop_last: Whether the last samples are left out where they do not fill a batch on each
            process.
        seed: Seed of the order.
        blocks: Numbers of consecutive samples that lie together in storage, see
            ``Source.blocks``. Shuffling then draws the order of blocks and mixes
            ``mix_blocks`` of them at a time, so that reading stays near.
        mix_blocks: Number of blocks that are mixed, see ``blocks``.
        num_replicas: Number of processes; by default ``torch.distributed``'s, or 1.
        rank: Rank of this process; by default ``torch.distributed``'s, or 0.

    Raises:
        ValueError: If an argument is not as above, or ``drop_last`` leaves out everything.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        blocks: Sequence[int] = (),
        mix_blocks: int = 16,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        if num_replicas is None:
            num_replicas = distributed.get_world_size() if ready else 1
        if rank is None:
            rank = distributed.get_rank() if ready else 0
        for name, value in (("length", length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if mix_blocks < 1:
            raise ValueError(f"mix_blocks must be at least 1, got {mix_blocks}")
        if blocks and sum(blocks) != length:
            raise ValueError(f"blocks have {sum(blocks)} samples, expected {length}")
        super().__init__(range(length), num_replicas, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.batch_size = batch_size
        step = batch_size * num_replicas
        if drop_last:
            if length < step:
                raise ValueError(
                    f"{length} samples do not fill one batch of {batch_size} on {num_replicas} "
                    "processes; choose a smaller batch_size"
                )
            self.num_samples = length // step * batch_size
        self.total_size = self.num_samples * num_replicas
        self._length, self._blocks, self._mix_blocks = length, list(blocks), mix_blocks
        self._start = (0, 0)  # epoch, and how many samples of it were used by all processes

    @property
    def step(self) -> int:
        """Number of samples that all processes use in a step."""
        return self.batch_size * self.num_replicas

    @property
    def batches(self) -> int:
        """Number of batches of an epoch on each process."""
        return -(-self.num_samples // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of all samples in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self._length)
        rng = np.random.default_rng([self.seed, epoch])
        if not self._blocks:
            return rng.permutation(self._length)
        starts = np.concatenate([[0], np.cumsum(self._blocks)])
        chosen = rng.permutation(len(self._blocks))
        mixed = []
        for first in range(0, len(chosen), self._mix_blocks):
            blocks = chosen[first : first + self._mix_blocks]
            samples = np.concatenate([np.arange(starts[b], starts[b + 1]) for b in blocks])
            mixed.append(rng.permutation(samples))
        return np.concatenate(mixed)

    def __iter__(self) -> Iterator[SampleIndex]:
        """Iterate over what is left of the epoch for this process."""
        # Not a generator: the epoch is that of this call, not that of the first sample's.
        order = self.order(self.epoch)
        order = np.resize(order, self.total_size)  # repeats the first where there are too few
        start = self._start[1] if self._start[0] == self.epoch else 0
        places = range(start + self.rank, self.total_size, self.num_replicas)
        epoch = self.epoch
        return iter([SampleIndex(epoch, int(order[i]), i >= self._length) for i in places])

    def state_dict(self, batches_done: int) -> dict[str, int]:
        """Return a place in an epoch, the same for all processes.

        Args:
            batches_done: Number of batches of the epoch that each process has used.
        """
        done = batches_done * self.step
        if done >= self.total_size:
            return {"epoch": self.epoch + 1, "samples": 0}
        return {"epoch": self.epoch, "samples": done}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Start at a place in an epoch; those after it begin at their first sample.

        Args:
            state_dict: Result of ``state_dict``, of any number of processes.

        Raises:
            ValueError: If no batch of these processes begins there.
        """
        epoch, samples = int(state_dict["epoch"]), int(state_dict["samples"])
        if epoch < 0 or samples < 0 or samples % self.step:
            raise ValueError(
                f"no batch begins {samples} samples into epoch {epoch}: a step takes {self.step} "
                "now; continue with the same number of processes and batch_size, or from the end "
                "of an epoch"
            )
        if samples >= self.total_size:
            epoch, samples = epoch + 1, 0
        self._start = (epoch, samples)
        self.set_epoch(epoch)


def repeat_factors(labels: Sequence[NDArray[np.int64]], threshold: float) -> NDArray[np.float64]:
    """Return how often images are to be taken so that rare classes are seen more often.

    Source: Gupta, Dollar, Girshick: LVIS, 2019, section 5: the square root of ``threshold`` over
    the part of the images that have the class, at least 1; of an image the largest of its classes.

    Args:
        labels: Class numbers of the boxes of each image.
        threshold: Part of the images below which a class is rare.

    Returns:
        Factor of each image, at least 1.
    """
    there = [np.unique(some) for some in labels]
    if not any(map(len, there)):
        return np.ones(len(there))
    images = np.bincount(np.concatenate(there))
    with np.errstate(divide="ignore"):
        factors = np.sqrt(threshold * len(there) / images).clip(1)
    return np.array([factors[some].max(initial=1) for some in there])
