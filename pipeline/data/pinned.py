"""Page-locked host memory, from which copies to a GPU run asynchronously."""

from __future__ import annotations

import numpy as np
import torch


def pinned_array(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array, page-locked if torch sees a GPU."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available()).numpy()
