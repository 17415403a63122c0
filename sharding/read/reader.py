"""Shards on the store to uint8 batches: verified once, kept in a local cache, memory-mapped, fetched ahead of time.

One thread copies the pixels and a few fetch shards. More threads or processes would not be faster: a copy of a sample
is one memcpy, and the fetching waits for the network and lets go of Python's lock while it hashes.
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from infra.storage import UserError
from sharding.dataset import Dataset
from sharding.order import DeterministicSampler
from sharding.read.batch import Batch
from sharding.read.fields import FieldReader, open_field
from sharding.read.local_shards import LocalShards
from sharding.read.prefetch import ShardPrefetcher

FETCH_THREADS = 8
LOOK_AHEAD_BATCHES = 256
"""Batches, at most, whose shards are fetched before they are read."""
Indices = Sequence[int] | np.ndarray


class ShardReader:
    """Any samples of one split of a data set, in any order.

    A shard's SHA-256 is compared with dataset.json before it is used. One from S3 is kept in `cache`, which may be
    shared by all processes of a machine and holds at most `cache_bytes` (default: IRAE_CACHE_BYTES, or 80 % of the free
    disk); one on a local store is used where it lies. Raises ValueError when a shard is damaged, missing or does not
    come. `pin`: give batches in page-locked memory, for a faster copy to a GPU; default: when torch sees one.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        cache: Path,
        *,
        fields: Sequence[str] = ("clean",),
        cache_bytes: int | None = None,
        fetch_threads: int = FETCH_THREADS,
        pin: bool | None = None,
    ) -> None:
        self.dataset = dataset
        self.split = dataset.split(split)
        self.pin = _sees_gpu() if pin is None else pin
        self._fields: dict[str, FieldReader] = {name: open_field(dataset, self.split, name) for name in fields}
        self._files = LocalShards(dataset, self.split, cache, cache_bytes)
        sizes = [dataset.shards[s]["bytes"] for s in np.unique(self.split.shard)]
        if self._files.limit_bytes:  # what is being fetched must not push out what is being read
            fetch_threads = max(1, min(fetch_threads, self._files.limit_bytes // (4 * max(sizes))))
        self._shards = ShardPrefetcher(self._files.open, fetch_threads)

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Indices) -> Batch:
        """The samples at these indices of the split."""
        rows = np.asarray(indices, np.int64)
        shards = self.split.shard[rows]
        empty = _empty_pinned if self.pin else _empty
        fields = {name: empty((len(rows), *field.shape)) for name, field in self._fields.items()}
        # Shard by shard: of a split that does not fit the cache, one at a time has to be there.
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            content = self._shards.get(shard)
            for name, field in self._fields.items():
                field.copy(content, rows[places], fields[name], places)
        return Batch([self.split.keys[i] for i in rows.tolist()], fields)

    def batches(self, index_lists: Iterable[Indices], ahead: int = 2) -> Iterator[Batch]:
        """`read` for each list of indices, up to `ahead` batches before they are asked for, in a thread.

        Their shards are fetched further ahead: as far as fetching threads are free and half of the cache holds them.
        """
        results: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=ahead)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return results.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for indices in self._look_ahead(index_lists):
                    if stop.is_set():
                        return
                    put(self.read(indices))
                put(None)
            except BaseException as error:  # handed to the consumer, who raises it
                put(error)

        thread = threading.Thread(target=work, daemon=True, name="shard-reader")
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            with contextlib.suppress(queue.Empty):
                results.get_nowait()  # a thread that waits to put goes on at once
            thread.join(timeout=1)  # one that waits for a store that hangs ends by itself when the store's time is up

    def order(
        self,
        seed: int,
        global_batch_size: int,
        *,
        drop_last: bool = False,
        shuffle_window_shards: int | None = None,
        num_canonical_partitions: int = 1,
    ) -> DeterministicSampler:
        """The order of this split's samples; see DeterministicSampler."""
        shards, samples = np.unique(self.split.shard, return_counts=True)
        assert (np.diff(self.split.shard) >= 0).all(), "the samples of a shard lie together"
        return DeterministicSampler(
            len(self),
            seed,
            global_batch_size,
            drop_last,
            tuple(samples.tolist()),
            shuffle_window_shards,
            num_canonical_partitions,
        )

    def check_cache_size(self, order: DeterministicSampler, world_size: int) -> None:
        """ValueError when shards would be fetched again and again, because too few of them fit the cache."""
        if self._files.limit_bytes is None:
            return
        sizes = [self.dataset.shards[s]["bytes"] for s in np.unique(self.split.shard)]
        needed = sum(sizes)
        if order.windowed:  # of each partition that this rank reads, one window while the next one is fetched
            mine = max(1, order.num_canonical_partitions // world_size)
            all_of_one = -(-len(sizes) // order.num_canonical_partitions) + 1
            needed = min(needed, mine * max(sizes) * min(2 * (order.shuffle_window_shards or len(sizes)), all_of_one))
        if needed > self._files.limit_bytes:
            raise UserError(
                f"reading the split {self.split.name!r} in this order needs {needed:,} bytes of cache, but it may "
                f"hold {self._files.limit_bytes:,}; raise IRAE_CACHE_BYTES, free some of the "
                "disk, or read in windows of few shards (shuffle_window_shards)."
            )

    def _look_ahead(self, index_lists: Iterable[Indices]) -> Iterator[Indices]:
        """The lists as they come, after asking for the shards of as many of the next ones as there is room for."""
        lists, pending, wanted = iter(index_lists), deque[tuple[Indices, list[int]]](), Counter[int]()
        ended, loads = False, 0
        while True:
            while not ended and (not pending or self._may_look_on(len(pending), wanted)):
                indices = next(lists, None)
                if indices is None:
                    ended = True
                    break
                shards = np.unique(self.split.shard[np.asarray(indices, np.int64)]).tolist()
                pending.append((indices, shards))
                wanted.update(shards)
                for shard in shards:
                    self._shards.ask(shard)
            if not pending:
                return
            yield pending[0][0]
            for shard in pending.popleft()[1]:
                wanted[shard] -= 1
                if not wanted[shard]:
                    del wanted[shard]
            if self._shards.loads != loads:
                loads = self._shards.loads
                self._unmap_removed(wanted)

    def _may_look_on(self, pending: int, wanted: Counter[int]) -> bool:
        if pending >= LOOK_AHEAD_BATCHES or not self._shards.idle:
            return False
        limit_bytes = self._files.limit_bytes
        return limit_bytes is None or 2 * sum(self.dataset.shards[s]["bytes"] for s in wanted) <= limit_bytes

    def _unmap_removed(self, wanted: Counter[int]) -> None:
        """Let go of shards that the cache has removed, or their room on the disk would never be free."""
        for shard in self._shards.loaded():
            if shard not in wanted and not self._files.holds(shard):
                self._shards.forget(shard)


def _sees_gpu() -> bool:
    torch = sys.modules.get("torch")  # whoever uses one has imported it
    return torch is not None and torch.cuda.is_available()


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def _empty_pinned(shape: tuple[int, ...]) -> np.ndarray:
    torch = importlib.import_module("torch")
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
