"""Which sample is in which slot of which step: a function of (seed, images seen), of nothing else.

The samples form one endless sequence, epoch after epoch, each a fresh permutation; a global batch is the next
`global_batch_size` of them. Ranks only divide a global batch among themselves, so that the batches are the same on 1 and
on 64 GPUs, and the state of the order is a single number: the images seen.

A data set that is larger than a machine's disk is read in windows: a permutation that keeps only `shuffle_window_shards`
shards in use at a time. With P partitions, slot j of every global batch is filled from partition j * P // global_batch_size,
and each partition has windows of its own. N machines that divide P take whole partitions each, so that each fetches
about 1/N of the bytes, while the global batches stay the same for every N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from infra.storage import UserError


@dataclass(frozen=True)
class GlobalBatch:
    """What a stretch of slots holds; arrays of one length."""

    epoch: np.ndarray
    """int64: the epoch that each slot belongs to."""
    sample: np.ndarray
    """int64: index of the sample in its split."""

    def __len__(self) -> int:
        return len(self.sample)

    def part(self, where: slice) -> GlobalBatch:
        return GlobalBatch(self.epoch[where], self.sample[where])


@dataclass(frozen=True)
class DeterministicSampler:
    """The endless order of a split's samples. ValueError for settings that do not fit together."""

    samples: int
    seed: int
    global_batch_size: int
    drop_last: bool = False
    """The rest at an epoch's end: carry it over into the next epoch's first batch, or drop it."""
    shards: tuple[int, ...] = ()
    """Samples in each shard, in the split's order; needed for windows and partitions only."""
    shuffle_window_shards: int | None = None
    """Shards that a partition has in use at a time. None: all, which is a uniform permutation of the partition."""
    num_canonical_partitions: int = 1
    """Parts of every global batch that read from shards of their own. Belongs to the run: it changes the order."""

    def __post_init__(self) -> None:
        problems = []
        if (
            min(self.samples, self.global_batch_size, self.num_canonical_partitions, self.shuffle_window_shards or 1)
            < 1
        ):
            problems.append(
                f"samples ({self.samples}), global_batch_size ({self.global_batch_size}), partitions ({self.num_canonical_partitions}) and "
                f"shuffle_window_shards ({self.shuffle_window_shards}) must be at least 1"
            )
        elif self.global_batch_size % self.num_canonical_partitions:
            problems.append(
                f"a global batch of {self.global_batch_size} cannot be divided by {self.num_canonical_partitions} partitions; choose a "
                "multiple of them"
            )
        if self.drop_last and self.global_batch_size > self.samples:
            problems.append(
                f"a global batch of {self.global_batch_size} is larger than the split of {self.samples} images; choose "
                "a smaller batch, or keep the last images (drop_last=False)"
            )
        if problems:
            raise UserError("; ".join(problems) + ".")
        assert not self.windowed or sum(self.shards) == self.samples, (self.shards, self.samples)

    @property
    def windowed(self) -> bool:
        """Whether an epoch is anything else than one permutation of all samples."""
        return self.shuffle_window_shards is not None or self.num_canonical_partitions > 1

    @property
    def images_per_epoch(self) -> int:
        """All samples, or, when the rest is dropped, as many as fill whole batches."""
        return self.samples - self.dropped_per_epoch

    @property
    def dropped_per_epoch(self) -> int:
        """Samples that an epoch leaves out: others in each epoch, none when the rest is carried over."""
        return self.samples % self.global_batch_size if self.drop_last else 0

    def describe(self) -> str:
        """One line for a plan or a log: what an epoch is, and what becomes of its rest."""
        rest = self.samples % self.global_batch_size
        fate = "is dropped" if self.drop_last else "carries over into the next epoch"
        batches = f"{self.images_per_epoch:,} images an epoch in batches of {self.global_batch_size}"
        text = f"{batches}, the rest of {rest} {fate}"
        if self.windowed:
            window = "all" if self.shuffle_window_shards is None else self.shuffle_window_shards
            text += f", in windows of {window} shards in each of {self.num_canonical_partitions} partitions"
        return text

    def global_batch_at(self, images_seen: int) -> GlobalBatch:
        """The global batch that comes after `images_seen` images."""
        position = np.arange(images_seen, images_seen + self.global_batch_size)
        epoch, place = np.divmod(position, self.images_per_epoch)
        sample = np.empty_like(position)
        for e in range(int(epoch[0]), int(epoch[-1]) + 1):
            chosen = epoch == e
            sample[chosen] = epoch_order(self, e)[place[chosen]]
        return GlobalBatch(epoch, sample)


@lru_cache(maxsize=4)
def epoch_order(order: DeterministicSampler, epoch: int) -> np.ndarray:
    """The samples of one epoch in their order, int64 (images_per_epoch,), without a repetition."""
    random = np.random.Generator(np.random.Philox([order.seed, epoch]))
    if not order.windowed:
        return random.permutation(order.samples)[: order.images_per_epoch]
    return _windowed_epoch(order, epoch, random)


def _windowed_epoch(order: DeterministicSampler, epoch: int, random: np.random.Generator) -> np.ndarray:
    """Shuffle the shards, cut their samples into one run a partition, shuffle each run within its windows.

    A run is exactly as long as the slots that its partition has in this epoch: what goes in is a permutation and what
    is done to it is one, so every sample comes out once. A shard that lies across a cut is read by two partitions.
    """
    count = order.images_per_epoch
    shard_order = random.permutation(len(order.shards))
    sizes = np.asarray(order.shards, np.int64)
    first_sample = np.cumsum(sizes) - sizes
    samples = np.concatenate([np.arange(sizes[s]) + first_sample[s] for s in shard_order])[:count]
    turn = np.repeat(np.arange(len(sizes)), sizes[shard_order])[:count]

    slot = (epoch * count + np.arange(count)) % order.global_batch_size
    partition_of_place = slot * order.num_canonical_partitions // order.global_batch_size
    partition = np.sort(partition_of_place)
    window = turn // (order.shuffle_window_shards or len(sizes))

    shuffled = samples[np.lexsort((random.permutation(count), window, partition))]
    result = np.empty_like(shuffled)
    result[np.argsort(partition_of_place, kind="stable")] = shuffled
    return result


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The part of `count` slots that a rank handles: consecutive, sizes differing by at most one."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def padded_rank_indices(count: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, real): a rank's part of `count` samples that are each to be used once, as in validation.

    As many on every rank; the last ones repeat a sample where `real` (bool) is False, and are not to be counted.
    """
    each = -(-count // world_size)
    indices = np.arange(rank * each, (rank + 1) * each)
    return np.minimum(indices, count - 1), indices < count
