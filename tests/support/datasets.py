"""Small synthetic data sets for tests."""

from __future__ import annotations

from pathlib import Path

from infra.storage import open_storage
from pipeline.shard.config import ShardConfig
from pipeline.shard.make import main as shard
from sharding import Dataset
from sharding.dataset import publish
from sharding.sources.synthetic import Synthetic
from sharding.write.degrade import parse_degradations
from sharding.write.pack import SampleSpec, build_shard, put_shard
from sharding.write.plan import make_plan

TRAIN_IMAGES, VAL_IMAGES, TEST_IMAGES = 48, 10, 6
DEGRADE = ("jpeg:10", "mask:box,brush")


def make_dataset(
    url: str, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES, test: int = TEST_IMAGES, size: int = 16
) -> str:
    """Write a synthetic data set with stored degradations, in shards of 16 images; returns the URL."""
    counts = {"train_images": train, "val_images": val, "test_images": test}
    shard(ShardConfig(out=url, size=size, degrade=DEGRADE, images_per_shard=16, **counts))  # type: ignore[arg-type]
    return url


def build(url: str, train: int = 50, per_shard: int = 7, size: int = 16, degrade: tuple[str, ...] = ()) -> Dataset:
    """A data set with `train` training images, in shards of `per_shard`."""
    source = Synthetic(count_train=train, count_val=5, count_test=0, size=size)
    spec = SampleSpec(degradations=tuple(parse_degradations(degrade)))
    plan = make_plan(source.images(), {}, 0, per_shard)
    store = open_storage(url)
    records = [put_shard(*build_shard(source, shard, spec), store) for shard in plan.shards]
    publish(store, records, {"name": "synthetic", "bits": 8, "image_size": size}, spec.fields)
    return Dataset.open(store)


def upload(folder: Path, url: str) -> Dataset:
    """A copy of the data set in the folder."""
    store = open_storage(url)
    for path in folder.iterdir():
        if path.is_file():
            store.put(path.name, path.read_bytes())
    return Dataset.open(store)
