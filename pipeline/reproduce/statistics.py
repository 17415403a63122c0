"""Means with confidence intervals, and the order of models by PSNR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from infra.storage import UserError

DRAWS = 2000
CONFIDENCE = 0.95
_CHUNK = 100
"""Draws at once, so that their weights fit into memory."""


class Estimate(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean of `values`, (images,) or (seeds, images), with a percentile bootstrap interval (Efron 1979).

    Images and, independently, seeds are drawn with replacement. For two or three seeds the interval is too narrow.
    UserError for values that are not finite, or none.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    if not table.size or not np.isfinite(table).all():
        raise UserError(f"a mean needs finite values, but of {table.size} are {int(np.isfinite(table).sum())} finite.")
    seeds, images = table.shape
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        image_counts = rng.multinomial(images, np.full(images, 1 / images), size=count)
        seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        means.append(np.einsum("ds,si,di->d", seed_counts, table, image_counts, optimize=True) / table.size)
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(table.mean()), float(low), float(high))


def ranking(psnr_db: Mapping[str, float]) -> list[str]:
    """Models from the best to the worst."""
    return sorted(psnr_db, key=lambda model: -psnr_db[model])


def ranking_is_certain(psnr_db: Mapping[str, np.ndarray]) -> bool:
    """Whether no two neighbours of the ranking could be swapped: 0 lies outside the interval of their difference.

    psnr_db: (images,) or (seeds, images) of each model, of the same images and seeds, so that an image that is hard for
    all models drops out of the differences.
    """
    ranked = ranking({model: float(np.mean(values)) for model, values in psnr_db.items()})
    neighbours = zip(ranked, ranked[1:], strict=False)
    return all(bootstrap(psnr_db[better] - psnr_db[worse]).low > 0 for better, worse in neighbours)
