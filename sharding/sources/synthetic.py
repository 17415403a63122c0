"""Dead leaves: occluding discs of all sizes, drawn from a seed. No download, no licence.

The model has the scale invariance, occlusions and edges of natural images (Lee, Mumford, Huang 2001), enough to train
restoration networks (Achddou, Gousseau, Ladjal 2021). An image is drawn at twice its size and averaged down. All
arithmetic is in integers, but for divisions and square roots, which IEEE 754 rounds alike everywhere, and one
logarithm, which only counts the discs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.storage import UserError
from sharding.sources.base import SourceImage, check_size
from sharding.write.degrade import keyed_bits

RECIPE = "dead-leaves-1"
"""Version of the drawing; any change of a pixel needs another one."""
RADIUS_PX = (2, 100)
"""Smallest and largest radius r before halving; the density of r is proportional to r^-3."""
UNCOVERED = 0.001
"""Share of the pixels that no disc covers; they show the background colour."""


@dataclass(frozen=True)
class Synthetic:
    """Dead-leaves images of `size` x `size` px, each a function of (seed, split, number) alone."""

    count_train: int = 2400
    count_val: int = 120
    count_test: int = 120
    size: int = 64
    seed: int = 0
    name: str = field(default="synthetic", init=False)

    def __post_init__(self) -> None:
        check_size(self.size)
        counts = (self.count_train, self.count_val, self.count_test)
        if min(counts) < 0 or max(counts) < 1:
            raise UserError(f"the counts of images are {counts}, but none may be negative and one must be above 0.")

    def settings(self) -> dict[str, Any]:
        return {"source": self.name, "recipe": RECIPE, "size": self.size, "seed": self.seed}

    def images(self) -> list[SourceImage]:
        counts = {"train": self.count_train, "val": self.count_val, "test": self.count_test}
        names = [(f"{split}_{i:06d}", split) for split, count in counts.items() for i in range(count)]
        return sorted(SourceImage(name, name, split) for name, split in names)

    def read(self, image: SourceImage) -> bytes:
        """The pixels themselves: there is no file."""
        return dead_leaves(self.size, keyed_bits(RECIPE, str(self.seed), image.key)).tobytes()

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3).copy()


def dead_leaves(size: int, bits: np.random.Philox) -> np.ndarray:
    """One image, uint8 (size, size, 3)."""
    side = 2 * size
    x, y, radius = _discs(side, bits)
    colours = _colours(len(radius) + 1, bits)
    leaf = np.zeros(side * side, np.intp)  # 0 is the background
    pixels, lengths = _runs(side, x, y, radius)
    leaf[pixels] = np.repeat(np.arange(1, len(radius) + 1), lengths)  # the last disc at a pixel stays
    fine = colours[leaf].reshape(size, 2, size, 2, 3)
    total = fine[:, 0, :, 0] + fine[:, 0, :, 1] + fine[:, 1, :, 0] + fine[:, 1, :, 1]
    return ((total + 2) // 4).astype(np.uint8)


def _discs(side: int, bits: np.random.Philox) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and radii, in whole pixels, of the discs that touch the canvas, the lowest first."""
    smallest, largest = RADIUS_PX
    field_side = side + 2 * largest  # beyond it, the largest disc misses the canvas
    # Mean area of a disc: pi E[r^2]. Each pixel is missed by all of n discs with exp(-n * mean area / field area).
    mean_area = np.pi * 2 * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    count = int(np.log(1 / UNCOVERED) * field_side**2 / mean_area)
    draws = bits.random_raw(3 * count).reshape(3, count)
    x, y = ((draws[:2] >> np.uint64(40)) * np.uint64(field_side) >> np.uint64(24)).astype(np.int64) - largest
    uniform = (draws[2] >> np.uint64(11)) * 2.0**-53
    radius = (1 / np.sqrt(smallest**-2 - uniform * (smallest**-2 - largest**-2)) + 0.5).astype(np.int64)
    touches = (x + radius >= 0) & (x - radius < side) & (y + radius >= 0) & (y - radius < side)
    return x[touches], y[touches], radius[touches]


def _colours(count: int, bits: np.random.Philox) -> np.ndarray:
    """uint16 (count, 3), 0..255: a Beta(2, 2) distributed grey plus a deviation of sigma 0.12 in each channel."""
    draws = bits.random_raw(4 * count).astype("<u8").view("<u2").astype(np.int32).reshape(count, 16)
    grey = np.median(draws[:, :3], axis=1).astype(np.int32)  # the median of three uniform numbers is Beta(2, 2)
    # The sum of four uniform numbers is nearly Gaussian with sigma 65536 / sqrt(3); 5/24 of that is 0.12 * 65536.
    deviation = (draws[:, 4:].reshape(count, 3, 4).sum(axis=2) - 131070) * 5 // 24
    return np.clip((grey[:, None] + deviation) >> 8, 0, 255).astype(np.uint16)


def _runs(side: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The discs' pixels as flat indices of the canvas, disc after disc, and the number of each disc's pixels."""
    heights = 2 * radius + 1
    disc = np.repeat(np.arange(len(radius)), heights)
    dy = _count_up(heights) - radius[disc]
    half = np.sqrt(radius[disc] ** 2 - dy**2).astype(np.int64)
    row = y[disc] + dy
    start, stop = np.maximum(x[disc] - half, 0), np.minimum(x[disc] + half + 1, side)
    widths = np.where((row >= 0) & (row < side), np.maximum(stop - start, 0), 0)
    pixels = np.repeat(row * side + start, widths) + _count_up(widths)
    return pixels, np.bincount(disc, widths, len(radius)).astype(np.intp)


def _count_up(lengths: np.ndarray) -> np.ndarray:
    """0 .. length-1 for each length, concatenated."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
