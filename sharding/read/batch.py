"""Shards on the store to uint8 batches: verified once, kept in a local cache, memory-mapped, fetched ahead of time.

One thread copies the pixels and a few fetch shards. More threads or processes would not be faster: a copy of a sample
is one memcpy, and the fetching waits for the network and lets go of Python's lock while it hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Some samples of a split, in the order asked for."""

    keys: list[str]
    fields: dict[str, np.ndarray]
    """Name of a stored field -> uint8 (B, ...), as stored: (B, H, W, 3) for pictures, (B, H, W) for masks."""
    epoch: np.ndarray | None = None
    """int64 (B,): the epoch that each sample belongs to, when the batch comes from a loader."""

    @property
    def clean(self) -> np.ndarray:
        """uint8 (B, H, W, 3), as stored."""
        return self.fields["clean"]
