"""Shards as verified files of this machine: in the cache, or where a local store keeps them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from infra.storage import UserError, open_storage
from sharding.dataset import Dataset, Split
from sharding.read.cache import Cache, map_file


class LocalShards:
    """Opens shards by their index in the data set. The cache folder is used only for a store that is not local."""

    def __init__(self, dataset: Dataset, split: Split, cache: Path, cache_bytes: int | None) -> None:
        self.dataset, self.split = dataset, split
        is_local = dataset.store.local_path(dataset.shards[0]["name"]) is not None
        self._cache = None if is_local else Cache(cache, cache_bytes)

    @property
    def limit_bytes(self) -> int | None:
        """Capacity of the cache; None for a local store."""
        return self._cache.limit_bytes if self._cache else None

    def contains(self, shard: int) -> bool:
        """Whether the shard is on this machine's disk."""
        return self._cache is None or self._cache.contains(self._cache_name(shard))

    def open(self, shard: int) -> np.ndarray:
        """The shard's bytes, memory-mapped, uint8.

        Raises UserError when it is missing or its SHA-256 is not the one in dataset.json, StorageError when the store
        does not answer.
        """
        info = self.dataset.shards[shard]
        if self._cache:
            return self._cache.map(self._cache_name(shard), info["bytes"], partial(self._fetch, shard))
        store, name = self.dataset.store, info["name"]
        if (sha256 := store.sha256(name)) != info["sha256"]:
            raise self._unusable(shard, sha256)
        path = store.local_path(name)
        assert path is not None
        return map_file(path)

    def _cache_name(self, shard: int) -> str:
        return f"{self.dataset.shards[shard]['sha256']}.tar"

    def _fetch(self, shard: int, path: Path) -> None:
        """Download and verify; a shard that arrives damaged is fetched once more."""
        info = self.dataset.shards[shard]
        sha256 = None
        for _ in range(2):
            try:
                self.dataset.store.get_file(info["name"], path)
            except FileNotFoundError:
                break
            sha256 = open_storage(path.parent).sha256(path.name)
            if sha256 == info["sha256"]:
                return
        raise self._unusable(shard, sha256)

    def _unusable(self, shard: int, sha256: str | None) -> UserError:
        info = self.dataset.shards[shard]
        keys = [self.split.keys[i] for i in np.flatnonzero(self.split.shard == shard)]
        return UserError(
            f"the shard {self.dataset.store.url}/{info['name']} is missing or damaged (SHA-256 "
            f"{sha256[:12] if sha256 else 'none'}, expected {info['sha256'][:12]}), and with it {len(keys)} samples: "
            f"{', '.join(keys[:3])}{', ...' * (len(keys) > 3)}; run the command that made the data set "
            "again, with --checksum: it makes damaged shards again."
        )
