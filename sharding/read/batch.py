"""A batch of samples as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """B samples of a split in the requested order."""

    keys: list[str]
    fields: dict[str, np.ndarray]
    """Field name -> uint8 as stored: (B, H, W, 3) for images, (B, H, W) for masks."""
    epoch: np.ndarray | None = None
    """int64 (B,): epoch of each sample, for a batch of a loader."""

    @property
    def clean(self) -> np.ndarray:
        """uint8 (B, H, W, 3) as stored."""
        return self.fields["clean"]
