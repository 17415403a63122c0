"""Shards in the background: a few at a time, in the order in which they will be needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np


class ShardPrefetcher:
    """Memory-mapped shards by index. `load` brings one; it runs in up to `threads` threads at a time.

    The threads are daemons and end when there is nothing to do: a download that hangs does not keep a process alive.
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
        """Whether a thread is free for one more."""
        with self._lock:
            return self._running < self._threads

    def loaded(self) -> list[int]:
        """The shards that are mapped now."""
        with self._lock:
            return [shard for shard, future in self._shards.items() if future.done()]

    def ask(self, shard: int, urgent: bool = False) -> Future[np.ndarray]:
        """Fetch the shard in its turn, or before all others; its bytes come with the result."""
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
                threading.Thread(target=self._work, daemon=True, name="shard-fetch").start()
            return future

    def get(self, shard: int) -> np.ndarray:
        """The shard's bytes, when they have come. Raises what `load` raised."""
        return self.ask(shard, urgent=True).result()

    def forget(self, shard: int) -> None:
        """Unmap a shard that was loaded."""
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
                # Who waits now hears of it. Who needs the shard later tries anew: the trouble may be over by then.
                self.forget(shard)
                future.set_exception(error)
