"""Arrays of 8-bit pixels: from tensors, and for batches on their way to the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_pixels(images: Tensor) -> np.ndarray:
    """(B, C, H, W) in [0, 1] to uint8 (B, H, W, C), rounded and clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def pinned_array(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array, in page-locked memory if torch sees a GPU: copies from it are asynchronous."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available()).numpy()
