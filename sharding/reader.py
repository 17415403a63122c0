"""Shards on the store to uint8 batches: verified once, kept in a local cache, memory-mapped."""

from __future__ import annotations

import hashlib
import mmap
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharding.manifest import Dataset

NPY_HEADER_BYTES = 128


@dataclass(frozen=True)
class Batch:
    """Some samples of a split, in the order asked for."""

    keys: list[str]
    clean: np.ndarray
    """uint8 (B, H, W, 3), as stored."""


class ShardReader:
    """Any samples of one split of a data set, in any order.

    A shard is fetched when its first sample is asked for, its SHA-256 is compared with dataset.json, and it stays in
    `cache` (a shard on a local store is used where it lies). Raises ValueError when a shard is damaged or missing.
    """

    def __init__(self, dataset: Dataset, split: str, cache: Path) -> None:
        self.dataset = dataset
        self.split = dataset.split(split)
        self.cache = cache
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples at these indices of the split."""
        size = self.dataset.image_size
        clean = np.empty((len(indices), size, size, 3), np.uint8)
        flat = clean.reshape(len(indices), -1)
        for row, index in enumerate(indices):
            start = self.split.offsets["clean"][index] + NPY_HEADER_BYTES
            flat[row] = self._shard(int(self.split.shard[index]))[start : start + flat.shape[1]]
        return Batch([self.split.keys[i] for i in indices], clean)

    def batches(self, index_lists: Iterable[Sequence[int] | np.ndarray], ahead: int = 2) -> Iterator[Batch]:
        """`read` for each list of indices, up to `ahead` batches before they are asked for, in a thread."""
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
                for indices in index_lists:
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
            thread.join()

    def _shard(self, index: int) -> np.ndarray:
        """The shard's bytes, memory-mapped."""
        if index not in self._maps:
            path = self._verified_path(index)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[index] = np.frombuffer(mapped, np.uint8)
        return self._maps[index]

    def _verified_path(self, index: int) -> Path:
        shard = self.dataset.shards[index]
        local = self.dataset.store.local_path(shard["name"])
        if local is not None:
            check_shard(local, shard["sha256"], f"{self.dataset.store.url}/{shard['name']}")
            return local
        cached = self.cache / f"{shard['sha256']}.tar"
        if not cached.exists() or cached.stat().st_size != shard["bytes"]:
            self._fetch(shard, cached)
        return cached

    def _fetch(self, shard: dict, target: Path) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        name, url = shard["name"], f"{self.dataset.store.url}/{shard['name']}"
        unverified = target.with_suffix(f".{threading.get_ident()}-{id(self)}.part")
        try:
            self.dataset.store.get_file(name, unverified)
            check_shard(unverified, shard["sha256"], url)
            unverified.replace(target)
        except FileNotFoundError:
            raise ValueError(f"the shard {url} is missing; run the command that made the data set again.") from None
        finally:
            unverified.unlink(missing_ok=True)


def check_shard(path: Path, sha256: str, url: str) -> None:
    """ValueError when the file is missing or has another hash."""
    found = file_sha256(path) if path.exists() else "none"
    if found != sha256:
        raise ValueError(
            f"the shard {url} is missing or damaged (SHA-256 {found[:12]}, expected {sha256[:12]}); run the command "
            "that made the data set again: it redoes damaged shards."
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
