"""Shards on the store to uint8 batches: verified, cached, memory-mapped and prefetched.

One thread copies the pixels and a few fetch shards. More threads or processes would not be faster: copying a sample is
one memcpy, and fetching waits for the network and releases the GIL while it hashes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from infra.storage import UserError
from sharding.dataset import Dataset
from sharding.order import DeterministicSampler
from sharding.read.fields import Batch, open_field
from sharding.read.local_shards import LocalShards
from sharding.read.prefetch import ShardPrefetcher

FETCH_THREADS = 8
PREFETCH_BATCHES = 256
"""Most batches whose shards are prefetched."""
Indices = Sequence[int] | np.ndarray


class ShardReader:
    """Any samples of one split of a data set, in any order.

    A shard's SHA-256 is compared with dataset.json before it is used. A shard on S3 is kept in `cache`, which all
    processes of a machine may share and which holds at most `cache_bytes` (default: IRAE_CACHE_BYTES, or 80 % of the
    free disk); a shard on a local store is mapped where it is.

    fields: names of the stored fields to read.
    allocate: makes the uint8 arrays of a batch, of a given shape; for example page-locked ones.
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
        allocate: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(shape, np.uint8),
    ) -> None:
        self.dataset = dataset
        self.split = dataset.split(split)
        self._allocate = allocate
        self._fields = {name: open_field(dataset, self.split, name) for name in fields}
        self._local = LocalShards(dataset, self.split, cache, cache_bytes)
        self._shard_bytes = [dataset.shards[s]["bytes"] for s in np.unique(self.split.shard)]
        if self._local.limit_bytes:  # downloads in progress must not evict what is being read
            fetch_threads = max(1, min(fetch_threads, self._local.limit_bytes // (4 * max(self._shard_bytes))))
        self._shards = ShardPrefetcher(self._local.open, fetch_threads)

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Indices) -> Batch:
        """The samples at these indices of the split. Raises UserError when a shard is damaged or unreachable."""
        rows = np.asarray(indices, np.int64)
        shards = self.split.shard[rows]
        fields = {name: self._allocate((len(rows), *field.shape)) for name, field in self._fields.items()}
        # Shard by shard: a split that exceeds the cache needs one shard at a time.
        for shard in np.unique(shards).tolist():
            slots = np.flatnonzero(shards == shard)
            content = self._shards.get(shard)
            for name, field in self._fields.items():
                field.copy(content, rows[slots], fields[name], slots)
        return Batch([self.split.keys[i] for i in rows.tolist()], fields)

    def batches(self, index_lists: Iterable[Indices], ahead: int = 2) -> Iterator[Batch]:
        """`read` for each list of indices in a background thread, up to `ahead` batches early.

        Shards are prefetched further ahead, while a fetching thread is idle and half of the cache holds them.
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
                for indices in self._prefetched(index_lists):
                    if stop.is_set():
                        return
                    put(self.read(indices))
                put(None)
            except BaseException as error:  # raised again by the consumer
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
                results.get_nowait()  # wakes a thread that waits to put
            thread.join(timeout=1)  # a thread that waits for a hanging store ends at the store's own timeout

    def check_cache_size(self, sampler: DeterministicSampler, world_size: int) -> None:
        """Raise UserError when the cache is so small that shards would be fetched again and again."""
        limit_bytes = self._local.limit_bytes
        if limit_bytes is None:
            return
        needed_bytes, shards = sum(self._shard_bytes), len(self._shard_bytes)
        if sampler.windowed:  # for each partition of this rank: the current window, and the next one in download
            partitions = max(1, sampler.num_canonical_partitions // world_size)
            most = -(-shards // sampler.num_canonical_partitions) + 1
            in_use = min(2 * (sampler.shuffle_window_shards or shards), most)
            needed_bytes = min(needed_bytes, partitions * max(self._shard_bytes) * in_use)
        if needed_bytes > limit_bytes:
            raise UserError(
                f"reading the split {self.split.name!r} in this order needs {needed_bytes:,} bytes of cache, but it "
                f"may hold {limit_bytes:,}; raise IRAE_CACHE_BYTES, free some of the disk, or read in windows of few "
                "shards (shuffle_window_shards)."
            )

    def _prefetched(self, index_lists: Iterable[Indices]) -> Iterator[Indices]:
        """The lists as they are, after prefetching the shards of as many later ones as fit."""
        lists, pending, wanted = iter(index_lists), deque[tuple[Indices, list[int]]](), Counter[int]()
        exhausted, loads = False, 0
        while True:
            while not exhausted and (not pending or self._may_prefetch(len(pending), wanted)):
                indices = next(lists, None)
                if indices is None:
                    exhausted = True
                    break
                shards = np.unique(self.split.shard[np.asarray(indices, np.int64)]).tolist()
                pending.append((indices, shards))
                wanted.update(shards)
                for shard in shards:
                    self._shards.prefetch(shard)
            if not pending:
                return
            yield pending[0][0]
            wanted -= Counter(pending.popleft()[1])
            if self._shards.loads != loads:
                loads = self._shards.loads
                self._release_evicted(wanted)

    def _may_prefetch(self, pending: int, wanted: Counter[int]) -> bool:
        if pending >= PREFETCH_BATCHES or not self._shards.idle:
            return False
        limit_bytes = self._local.limit_bytes
        return limit_bytes is None or 2 * sum(self.dataset.shards[s]["bytes"] for s in wanted) <= limit_bytes

    def _release_evicted(self, wanted: Counter[int]) -> None:
        """Unmap shards that the cache has evicted: a mapped file keeps its disk space."""
        for shard in self._shards.loaded():
            if shard not in wanted and not self._local.contains(shard):
                self._shards.release(shard)
