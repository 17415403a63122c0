"""Assignment of images to shards."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import UserError
from sharding.sources import SPLITS, SourceImage
from sharding.write.plan import SHARD_BYTES, default_images_per_shard, make_plan

images_of_splits = st.lists(st.sampled_from(SPLITS), max_size=60).map(
    lambda splits: [SourceImage(f"k{number}", f"k{number}.jpg", split) for number, split in enumerate(splits)]
)


@given(images_of_splits, st.integers(0, 3), st.integers(1, 20), st.randoms())
def test_every_image_once_whatever_the_listing_s_order(
    images: list[SourceImage], seed: int, per_shard: int, shuffler: random.Random
) -> None:
    plan = make_plan(images, {"a": 1}, seed, per_shard)
    shuffled = list(images)
    shuffler.shuffle(shuffled)
    assert make_plan(shuffled, {"a": 1}, seed, per_shard) == plan
    planned = [image for shard in plan.shards for image in shard.images]
    assert sorted(planned) == sorted(images)
    assert [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    assert len({shard.name for shard in plan.shards}) == len(plan.shards)
    for split in SPLITS:
        sizes = [len(shard.images) for shard in plan.shards if shard.split == split]
        assert all(size == per_shard for size in sizes[:-1]) and all(0 < size <= per_shard for size in sizes)
        assert all(image.split == shard.split for shard in plan.shards for image in shard.images)


def test_the_hash_names_everything_that_decides_the_bytes() -> None:
    images = [SourceImage(f"k{number}", f"k{number}.jpg", "train") for number in range(30)]
    base = make_plan(images, {"a": 1}, 0, 10)
    relabelled = [*images[:-1], SourceImage("k29", "k29.jpg", "train", 5)]
    others = [
        make_plan(images, {"a": 2}, 0, 10),
        make_plan(images, {"a": 1}, 1, 10),
        make_plan(images, {"a": 1}, 0, 11),
        make_plan(images[:-1], {"a": 1}, 0, 10),
        make_plan(relabelled, {"a": 1}, 0, 10),
    ]
    assert len({plan.sha256 for plan in [base, *others]}) == 6
    first = [image.key for image in base.shards[0].images]
    assert first != sorted(first)  # shuffled
    assert first != [image.key for image in others[1].shards[0].images]  # by the seed


def test_keys_that_webdataset_would_split_are_all_named() -> None:
    images = [SourceImage(key, f"{number}.jpg", "train") for number, key in enumerate(["a", "a", "b.c", "d"])]
    with pytest.raises(UserError) as caught:
        make_plan(images, {}, 0, 10)
    for part in ("1 keys occur twice", "'a' (0.jpg, 1.jpg)", "1 keys contain a dot", "'b.c'"):
        assert part in str(caught.value)


@given(st.integers(8, 1024), st.integers(0, 6), st.integers(0, 2))
def test_the_default_shard_size_counts_all_fields(size: int, jpegs: int, masks: int) -> None:
    fields = {"clean": "npy", **{f"j{i}": "jpg" for i in range(jpegs)}, **{f"m{i}": "npy" for i in range(masks)}}
    count = default_images_per_shard(size, fields)
    raw_bytes = 3 * size**2 + masks * size**2
    assert count == 1 or count * raw_bytes < SHARD_BYTES
    assert default_images_per_shard(size, {**fields, "more": "npy"}) <= count
