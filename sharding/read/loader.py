"""A loader like torch's: batches of an epoch in a for loop, and a state of a few bytes to go on from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.storage import UserError
from sharding.order import GlobalBatch, rank_slice
from sharding.read.batch import Batch
from sharding.read.reader import ShardReader


@dataclass(frozen=True)
class ReaderState:
    """Where reading stands, the same on every rank; goes on at any world size."""

    epoch: int
    images_seen: int
    """By all ranks together, since the very beginning."""
    dataset_sha256: str
    """The manifest's hash: it knows a data set that was moved, and tells another one."""
    seed: int

    @classmethod
    def begin(cls, dataset_sha256: str, seed: int) -> ReaderState:
        """Before the first batch."""
        return cls(0, 0, dataset_sha256, seed)

    def to_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReaderState:
        """From what `to_json` gave; other entries are passed over. ValueError when one is missing."""
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise UserError(f"the reader's state lacks {', '.join(missing)}; take it from a checkpoint that is whole.")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    def check(self, dataset_sha256: str, seed: int) -> None:
        """ValueError unless the state belongs to this data set and this seed."""
        problems = []
        if self.dataset_sha256 != dataset_sha256:
            problems.append(
                f"another data set (its manifest's hash is {self.dataset_sha256[:12]}, here {dataset_sha256[:12]})"
            )
        if self.seed != seed:
            problems.append(f"another seed ({self.seed}, here {seed})")
        if problems:
            raise UserError(f"the reader's state belongs to {' and '.join(problems)}; give it what it began with.")


class Loader:
    """A rank's share of every global batch, in the order's own order, from a state on.

    Each `for` loop is an epoch: it ends with the batch in which the epoch's last image lies, after equally many steps
    on every rank. The next loop goes on with the next batch, also after a loop that was left early: an image is
    delivered once, whatever the loops look like.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        state: ReaderState | None = None,
        drop_last: bool = False,
        shuffle_window_shards: int | None = None,
        num_canonical_partitions: int = 1,
    ) -> None:
        """Resumes at `state`. See DeterministicSampler for what decides the order.

        Raises ValueError when the state belongs to another data set or seed, or the cache is too small for the order.
        """
        if not 0 <= rank < world_size <= global_batch_size:
            raise UserError(
                f"rank {rank} of {world_size} cannot share a global batch of {global_batch_size}; ranks count from 0, "
                "and each needs an image of every batch."
            )
        order = reader.order(
            seed,
            global_batch_size,
            drop_last=drop_last,
            shuffle_window_shards=shuffle_window_shards,
            num_canonical_partitions=num_canonical_partitions,
        )
        reader.check_cache_size(order, world_size)
        state = state or ReaderState.begin(reader.dataset.sha256, seed)
        state.check(reader.dataset.sha256, order.seed)
        self.reader, self.order = reader, order
        self._share = rank_slice(global_batch_size, rank, world_size)
        self._images_seen = state.images_seen
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._images_seen // self.order.images_per_epoch
        while self._images_seen // self.order.images_per_epoch == epoch:
            yield self.next()

    def next(self) -> Batch:
        """The next batch, whatever the epoch. Raises ValueError when its samples cannot be read."""
        if self._batches is None:
            self._batches = self._endless()
        try:
            batch = next(self._batches)
        except BaseException:
            self._batches = None  # after an error the next call tries the same batch again
            raise
        self._images_seen += self.order.global_batch_size
        return batch

    def state(self) -> ReaderState:
        """After the batch that was delivered last."""
        epoch = self._images_seen // self.order.images_per_epoch
        return ReaderState(epoch, self._images_seen, self.reader.dataset.sha256, self.order.seed)

    def close(self) -> None:
        """End the reading thread; going on afterwards begins it anew."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
            self._batches = None

    def _endless(self) -> Iterator[Batch]:
        asked: deque[GlobalBatch] = deque()

        def index_lists() -> Iterator[Any]:
            seen = self._images_seen
            while True:
                asked.append(self.order.global_batch_at(seen).part(self._share))
                seen += self.order.global_batch_size
                yield asked[-1].sample

        for batch in self.reader.batches(index_lists()):
            yield replace(batch, epoch=asked.popleft().epoch)
