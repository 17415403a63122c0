"""Small data sets for tests, made by the real command."""

from __future__ import annotations

from pipeline.shard.config import ShardConfig
from pipeline.shard.make import main as shard

TRAIN_IMAGES, VAL_IMAGES, TEST_IMAGES = 48, 10, 6
DEGRADE = ("jpeg:10", "mask:box,brush")


def make_dataset(
    url: str, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES, test: int = TEST_IMAGES, size: int = 16
) -> str:
    """Write a synthetic data set with stored degradations, in shards of 16 images; returns the URL."""
    counts = {"train_images": train, "val_images": val, "test_images": test}
    shard(ShardConfig(out=url, size=size, degrade=DEGRADE, images_per_shard=16, **counts))  # type: ignore[arg-type]
    return url
