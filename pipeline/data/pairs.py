"""Stored fields to pairs of clean and degraded images, y = A * x + n: a function of (seed, epoch, key)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from irae.noise import as_image, awgn, noise_levels, sample_seeds, unit_range
from pipeline.config.task import stored_fields
from pipeline.config.train import TrainConfig
from sharding import Batch

HOLE_VALUE = 1.0
"""What missing pixels are filled with, as in the released code."""


@dataclass(frozen=True)
class Pairs:
    """Images as a system is trained and measured on, float32 (B, C, H, W)."""

    clean: Tensor
    """In [0, 1]."""
    degraded: Tensor
    """Noise is not clipped."""
    sigma_255: Tensor | None = None
    """Of each image's noise, (B,); None for other tasks."""
    hole: Tensor | None = None
    """bool (B, 1, H, W), where pixels are missing; None for other tasks."""

    def split(self, size: int) -> Iterator[Pairs]:
        """Pieces of at most `size` images."""
        for start in range(0, len(self.clean), size):
            part = slice(start, start + size)
            sigma_255 = None if self.sigma_255 is None else self.sigma_255[part]
            hole = None if self.hole is None else self.hole[part]
            yield Pairs(self.clean[part], self.degraded[part], sigma_255, hole)

    def paste(self, restored: Tensor) -> Tensor:
        """The result that is shown and measured: pixels that are not missing are those of the input."""
        return restored if self.hole is None else torch.where(self.hole, restored, self.degraded)


def make_pairs(
    batch: Batch, epochs: Sequence[int], task: TrainConfig, *, bits: int, seed: int, device: torch.device
) -> Pairs:
    """Pairs of the task, from its `stored_fields`.

    bits: of the clean image, see `unit_range`. A JPEG picture is taken as it was decoded, 8 bits.
    """

    def seeds(purpose: str) -> Tensor:
        return sample_seeds(seed, epochs, batch.keys, purpose).to(device)

    def stored(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(batch.fields[name])).to(device, non_blocking=True)

    clean = unit_range(stored("clean"), bits, seeds("dequantise") if bits < 8 else None)
    if task.task == "noise":
        sigma = noise_levels(None if task.sigma_255 == "blind" else task.sigma_255, seeds("sigma"))
        return Pairs(clean, awgn(clean, sigma, seeds("noise")), sigma_255=sigma)
    other = stored(stored_fields(task)[1])
    if task.task == "jpeg":
        return Pairs(clean, unit_range(other, 8))
    hole = as_image(other[..., None]) > 0
    return Pairs(clean, torch.where(hole, HOLE_VALUE, clean), hole=hole)
