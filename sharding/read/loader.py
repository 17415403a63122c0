"""A rank's batches of every epoch, as an iterable with a `state_dict` of four values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from infra.storage import UserError
from sharding.order import DeterministicSampler, GlobalBatch, rank_slice
from sharding.read.fields import Batch
from sharding.read.reader import ShardReader


class Loader:
    """A rank's share of every global batch, in the sampler's order.

    Each `for` loop is an epoch: it ends with the batch that holds the epoch's last image, after the same number of
    steps on every rank. The next loop continues with the next batch, also after a loop that was left early: each image
    is delivered once.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        drop_last: bool = False,
        shuffle_window_shards: int | None = None,
        num_canonical_partitions: int = 1,
    ) -> None:
        """See DeterministicSampler for the order's options. Raises UserError when the cache is too small for it."""
        if not 0 <= rank < world_size <= global_batch_size:
            raise UserError(
                f"rank {rank} of {world_size} cannot share a global batch of {global_batch_size}; ranks count from 0, "
                "and each needs an image of every batch."
            )
        assert (np.diff(reader.split.shard) >= 0).all(), "the manifest lists its shards one after the other"
        samples_of_shards = np.unique(reader.split.shard, return_counts=True)[1]
        self.reader = reader
        self.sampler = DeterministicSampler(
            len(reader),
            seed,
            global_batch_size,
            drop_last,
            tuple(samples_of_shards.tolist()),
            shuffle_window_shards,
            num_canonical_partitions,
        )
        reader.check_cache_size(self.sampler, world_size)
        self._share = rank_slice(global_batch_size, rank, world_size)
        self._images_seen = 0
        self._batches: Iterator[Batch] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next global batch's first image."""
        return self._images_seen // self.sampler.images_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        while self.epoch == epoch:
            yield self.next()

    def next(self) -> Batch:
        """The next batch, across epochs. Raises UserError when its samples cannot be read; the next call retries."""
        if self._batches is None:
            self._batches = self._endless()
        try:
            batch = next(self._batches)
        except BaseException:
            self._batches = None
            raise
        self._images_seen += self.sampler.global_batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last delivered batch, as JSON values: equal on every rank, valid at any world size."""
        return {
            "epoch": self.epoch,
            "images_seen": self._images_seen,
            "dataset_sha256": self.reader.dataset.sha256,
            "seed": self.sampler.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a `state_dict`'s position. UserError when an entry is missing or of another data set or seed."""
        here = self.state_dict()
        if missing := [name for name in here if name not in state]:
            raise UserError(f"the loader's state lacks {', '.join(missing)}; take it from a whole checkpoint.")
        problems = []
        if state["dataset_sha256"] != here["dataset_sha256"]:
            hashes = f"its manifest's hash is {state['dataset_sha256'][:12]}, here {here['dataset_sha256'][:12]}"
            problems.append(f"another data set ({hashes})")
        if state["seed"] != here["seed"]:
            problems.append(f"another seed ({state['seed']}, here {here['seed']})")
        if problems:
            raise UserError(f"the loader's state belongs to {' and '.join(problems)}; give it the original ones.")
        self.close()
        self._images_seen = state["images_seen"]

    def close(self) -> None:
        """Stop the reading thread; `next` starts it again."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
            self._batches = None

    def _endless(self) -> Iterator[Batch]:
        requested: deque[GlobalBatch] = deque()

        def index_lists() -> Iterator[Any]:
            images_seen = self._images_seen
            while True:
                requested.append(self.sampler.global_batch_at(images_seen).part(self._share))
                images_seen += self.sampler.global_batch_size
                yield requested[-1].sample

        for batch in self.reader.batches(index_lists()):
            yield replace(batch, epoch=requested.popleft().epoch)
