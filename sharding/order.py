"""Deterministic sampling: the images of each step are a function of (seed, images seen) and of nothing else.

The samples form one endless sequence of epochs, each a fresh permutation; a global batch is the next
`global_batch_size` of them. Ranks divide a global batch among themselves, so the batches are the same on 1 and on 64
GPUs, and the sampler's state is a single number: the images seen.

A data set that exceeds a machine's disk is read in windows: a permutation that uses only `shuffle_window_shards` shards
at a time. With P canonical partitions, slot j of every global batch is filled from partition
j * P // global_batch_size, and each partition has its own windows. N machines that divide P take whole partitions, so
each fetches about 1/N of the bytes, while the global batches are the same for every N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from infra.storage import UserError


@dataclass(frozen=True)
class GlobalBatch:
    """Consecutive slots of a global batch; arrays of one length."""

    epoch: np.ndarray
    """int64: epoch of each slot."""
    sample: np.ndarray
    """int64: index of each slot's sample in its split."""

    def __len__(self) -> int:
        return len(self.sample)

    def part(self, where: slice) -> GlobalBatch:
        return GlobalBatch(self.epoch[where], self.sample[where])


@dataclass(frozen=True)
class DeterministicSampler:
    """The endless order of a split's samples. Raises UserError for settings that contradict each other."""

    samples: int
    seed: int
    global_batch_size: int
    drop_last: bool = False
    """Drop an epoch's incomplete last batch instead of completing it with images of the next epoch."""
    shards: tuple[int, ...] = ()
    """Samples in each shard, in the split's order; needed for windows and partitions only."""
    shuffle_window_shards: int | None = None
    """Shards that a partition uses at a time. None: all, a uniform permutation of the partition."""
    num_canonical_partitions: int = 1
    """Parts of every global batch that read disjoint shards. Belongs to the run: it changes the order."""

    def __post_init__(self) -> None:
        sizes = {
            "samples": self.samples,
            "global_batch_size": self.global_batch_size,
            "num_canonical_partitions": self.num_canonical_partitions,
            "shuffle_window_shards": 1 if self.shuffle_window_shards is None else self.shuffle_window_shards,
        }
        problems = [f"{name} is {size}, but must be at least 1" for name, size in sizes.items() if size < 1]
        if not problems and self.global_batch_size % self.num_canonical_partitions:
            problems.append(
                f"a global batch of {self.global_batch_size} cannot be divided by {self.num_canonical_partitions} "
                "canonical partitions; choose a multiple of them"
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
        """Whether an epoch is more restricted than one permutation of all samples."""
        return self.shuffle_window_shards is not None or self.num_canonical_partitions > 1

    @property
    def images_per_epoch(self) -> int:
        """All samples; with drop_last, those that fill whole batches, different ones in each epoch."""
        return self.samples - (self.samples % self.global_batch_size if self.drop_last else 0)

    def describe(self) -> str:
        """One line for a plan or a log: the length of an epoch, and the handling of its last images."""
        rest = self.samples % self.global_batch_size
        fate = "is dropped" if self.drop_last else "carries over into the next epoch"
        batches = f"{self.images_per_epoch:,} images an epoch in batches of {self.global_batch_size}"
        text = f"{batches}, the rest of {rest} {fate}"
        if self.windowed:
            window = "all" if self.shuffle_window_shards is None else self.shuffle_window_shards
            text += f", in windows of {window} shards in each of {self.num_canonical_partitions} partitions"
        return text

    def global_batch_at(self, images_seen: int) -> GlobalBatch:
        """The global batch that follows the first `images_seen` images."""
        position = np.arange(images_seen, images_seen + self.global_batch_size)
        epoch, index = np.divmod(position, self.images_per_epoch)
        sample = np.empty_like(position)
        for e in range(int(epoch[0]), int(epoch[-1]) + 1):
            chosen = epoch == e
            sample[chosen] = epoch_order(self, e)[index[chosen]]
        return GlobalBatch(epoch, sample)


@lru_cache(maxsize=4)
def epoch_order(sampler: DeterministicSampler, epoch: int) -> np.ndarray:
    """The samples of one epoch in their order, int64 (images_per_epoch,), without repetition.

    With windows: shuffle the shards, cut their samples into one stretch a partition, shuffle each stretch within its
    windows. A stretch has as many samples as its partition has slots in this epoch. A shard that lies across a cut is
    read by two partitions.
    """
    rng, count = np.random.Generator(np.random.Philox([sampler.seed, epoch])), sampler.images_per_epoch
    if not sampler.windowed:
        return rng.permutation(sampler.samples)[:count]
    shard_order = rng.permutation(len(sampler.shards))
    sizes = np.asarray(sampler.shards, np.int64)
    first_sample = np.cumsum(sizes) - sizes
    samples = np.concatenate([np.arange(sizes[s]) + first_sample[s] for s in shard_order])[:count]
    turn = np.repeat(np.arange(len(sizes)), sizes[shard_order])[:count]

    slot = (epoch * count + np.arange(count)) % sampler.global_batch_size
    partition_of_slot = slot * sampler.num_canonical_partitions // sampler.global_batch_size
    window = turn // (sampler.shuffle_window_shards or len(sizes))

    shuffled = samples[np.lexsort((rng.permutation(count), window, np.sort(partition_of_slot)))]
    result = np.empty_like(shuffled)
    result[np.argsort(partition_of_slot, kind="stable")] = shuffled
    return result


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The consecutive slots of `count` that a rank handles; sizes differ by at most one."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def padded_rank_indices(count: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, real): a rank's part of `count` samples that are each used once, as in validation.

    Equally many on every rank: the last ones repeat a sample, which must not be counted; `real` (bool) is False there.
    """
    each = -(-count // world_size)
    indices = np.arange(rank * each, (rank + 1) * each)
    return np.minimum(indices, count - 1), indices < count
