"""Small data sets for tests, made by the real command."""

from __future__ import annotations

from pipeline.shard.config import ShardConfig
from pipeline.shard.make import main as shard


def make_dataset(
    url: str, train: int = 48, val: int = 10, test: int = 6, size: int = 16, degrade: tuple[str, ...] = ()
) -> str:
    """A synthetic data set at the URL, in shards of 16 images; returns the URL."""
    counts = {"train_images": train, "val_images": val, "test_images": test}
    shard(ShardConfig(out=url, size=size, degrade=degrade, images_per_shard=16, **counts))  # type: ignore[arg-type]
    return url
