"""Flips and crops of training images: a function of (seed, epoch, key), like the noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from irae.noise import sample_seeds

_WORD = (1 << 20) - 1


def augment(
    pixels: np.ndarray, keys: Sequence[str], epochs: Iterable[int], *, seed: int, flip: bool, crop: int | None
) -> np.ndarray:
    """uint8 (B, H, W, ...) -> (B, crop or H, crop or W, ...): each image cropped at a position of its own, half of
    them mirrored left to right. The same draw for every field of a sample."""
    if not flip and crop is None:
        return pixels
    height, width = pixels.shape[1:3]
    side_y, side_x = (height, width) if crop is None else (crop, crop)
    assert side_y <= height and side_x <= width, (crop, height, width)
    words = sample_seeds(seed, epochs, keys, "augment").numpy().view(np.uint64)
    out = np.empty((len(pixels), side_y, side_x, *pixels.shape[3:]), pixels.dtype)
    for i, (image, word) in enumerate(zip(pixels, words.tolist(), strict=True)):
        top = (word & _WORD) % (height - side_y + 1)
        left = (word >> 20 & _WORD) % (width - side_x + 1)
        cut = image[top : top + side_y, left : left + side_x]
        out[i] = cut[:, ::-1] if flip and word >> 63 else cut
    return out
