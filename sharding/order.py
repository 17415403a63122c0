"""Which sample is in which slot of which step: a function of (seed, images seen), of nothing else.

The samples form one endless sequence, epoch after epoch, each a fresh permutation; a global batch is the next
`global_batch` of them. Ranks only divide a global batch among themselves, so that the batches are the same on 1 and
on 64 GPUs, and the state of the order is a single number: the images seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Slots:
    """What a stretch of slots holds; arrays of one length."""

    epoch: np.ndarray
    """int64: the epoch that each slot belongs to."""
    sample: np.ndarray
    """int64: index of the sample in its split."""

    def __len__(self) -> int:
        return len(self.sample)

    def part(self, where: slice) -> Slots:
        return Slots(self.epoch[where], self.sample[where])


@dataclass(frozen=True)
class SampleOrder:
    """The endless order of a split's samples."""

    samples: int
    seed: int
    global_batch: int
    remainder: Literal["carry", "drop"] = "carry"
    """The rest at an epoch's end: carry it over into the next epoch's first batch, or drop it."""

    def __post_init__(self) -> None:
        if self.remainder == "drop" and self.global_batch > self.samples:
            raise ValueError(
                f"a global batch of {self.global_batch} is larger than the split of {self.samples} images; choose a "
                "smaller batch, or carry the remainder over."
            )

    @property
    def images_per_epoch(self) -> int:
        """All samples, or, when the rest is dropped, as many as fill whole batches."""
        rest = self.samples % self.global_batch if self.remainder == "drop" else 0
        return self.samples - rest

    def slots(self, images_seen: int) -> Slots:
        """The global batch that comes after `images_seen` images."""
        position = np.arange(images_seen, images_seen + self.global_batch)
        epoch = position // self.images_per_epoch
        place = position % self.images_per_epoch
        sample = np.empty_like(position)
        for e in np.unique(epoch):
            chosen = epoch == e
            sample[chosen] = epoch_permutation(self.samples, self.seed, int(e))[place[chosen]]
        return Slots(epoch, sample)


@lru_cache(maxsize=2)
def epoch_permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, int64 (samples,)."""
    return np.random.Generator(np.random.Philox([seed, epoch])).permutation(samples)


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The part of `count` slots that a rank handles: consecutive, sizes differing by at most one."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)
