"""Stored pixels to pairs of clean and degraded images, y = A * x + n: a function of (seed, epoch, key)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from irae.degradations import awgn, noise_levels, sample_seeds, unit_range
from pipeline.config import Sigma


def make_pairs(
    pixels: np.ndarray,
    keys: Sequence[str],
    epochs: Iterable[int],
    *,
    bits: int,
    sigma_255: Sigma,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """(clean, noisy), float32 (B, C, H, W) in [0, 1] (noisy is not clipped), from uint8 (B, H, W, C)."""
    epochs = list(epochs)

    def seeds(purpose: str) -> Tensor:
        return sample_seeds(seed, epochs, keys, purpose).to(device)

    stored = torch.from_numpy(pixels).to(device, non_blocking=True)
    clean = unit_range(stored, bits, seeds("dequantise") if bits < 8 else None)
    sigma = noise_levels(None if sigma_255 == "blind" else sigma_255, seeds("sigma"))
    return clean, awgn(clean, sigma, seeds("noise"))
