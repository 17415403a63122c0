"""Pairs of clean and degraded images from stored fields, y = A * x + n: a function of (seed, epoch, key)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from irae.noise import as_image, awgn, noise_levels, sample_seeds, unit_range
from pipeline.config.task import Task
from sharding import Batch

HOLE_VALUE = 1.0
"""Value of missing pixels, as in the released code."""


@dataclass(frozen=True)
class Pairs:
    """Images that a model is trained and measured on, float32 (B, C, H, W)."""

    clean: Tensor
    """In [0, 1]."""
    degraded: Tensor
    """Noise is not clipped."""
    sigma_255: Tensor | None = None
    """Noise level of each image, (B,); None for other tasks."""
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
        """The result that is shown and measured: known pixels are the input's."""
        return restored if self.hole is None else torch.where(self.hole, restored, self.degraded)


def make_pairs(batch: Batch, epochs: Sequence[int], task: Task, *, bits: int, seed: int, device: torch.device) -> Pairs:
    """Pairs of the task, from its fields.

    bits: of the clean image, see `unit_range`. A JPEG image is taken as it was decoded, 8 bits.
    """

    def seeds(purpose: str) -> Tensor:
        return sample_seeds(seed, epochs, batch.keys, purpose).to(device)

    def stored(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(batch.fields[name])).to(device, non_blocking=True)

    clean = unit_range(stored("clean"), bits, seeds("dequantise") if bits < 8 else None)
    if task.kind == "noise":
        sigma = noise_levels(task.known_sigma_255, seeds("sigma"))
        return Pairs(clean, awgn(clean, sigma, seeds("noise")), sigma_255=sigma)
    other = stored(task.fields[1])
    if task.kind == "jpeg":
        return Pairs(clean, unit_range(other, 8))
    hole = as_image(other[..., None]) > 0
    return Pairs(clean, torch.where(hole, HOLE_VALUE, clean), hole=hole)
