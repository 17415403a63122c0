"""Background loading of shards: a few at a time, in the order in which they will be needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np


class ShardPrefetcher:
    """Memory-mapped shards by index, loaded by `load` in up to `threads` threads.

    Daemon threads, not a ThreadPoolExecutor: a download that hangs must not keep the process alive.
    """

    def __init__(self, load: Callable[[int], np.ndarray], threads: int) -> None:
        self._load, self._threads = load, threads
        self._shards: dict[int, Future[np.ndarray]] = {}
        self._waiting: deque[int] = deque()
        self._running = 0
        self._lock = threading.Lock()
        self.loads = 0
        """Shards loaded so far."""

    @property
    def idle(self) -> bool:
        """Whether a thread is free."""
        with self._lock:
            return self._running < self._threads

    def loaded(self) -> list[int]:
        """The shards that are mapped now."""
        with self._lock:
            return [shard for shard, future in self._shards.items() if future.done()]

    def prefetch(self, shard: int, urgent: bool = False) -> Future[np.ndarray]:
        """Queue the shard, or put it first in the queue; the result is its bytes."""
        with self._lock:
            future = self._shards.get(shard)
            if future is not None:
                if urgent and shard in self._waiting:
                    self._waiting.remove(shard)
                    self._waiting.appendleft(shard)
                return future
            future = self._shards[shard] = Future()
            (self._waiting.appendleft if urgent else self._waiting.append)(shard)
            if self._running < self._threads:
                self._running += 1
                threading.Thread(target=self._work, daemon=True, name="shard-prefetch").start()
            return future

    def get(self, shard: int) -> np.ndarray:
        """The shard's bytes; waits for them. Raises what `load` raised."""
        return self.prefetch(shard, urgent=True).result()

    def release(self, shard: int) -> None:
        """Unmap a loaded shard."""
        with self._lock:
            self._shards.pop(shard, None)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                shard = self._waiting.popleft()
                future = self._shards[shard]
            try:
                future.set_result(self._load(shard))
                self.loads += 1
            except BaseException as error:
                self.release(shard)  # a later request tries again: the cause may be over by then
                future.set_exception(error)
