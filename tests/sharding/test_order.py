"""The sampler: every sample once an epoch over all ranks, the same global batches at every world size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.storage import UserError
from sharding.order import DeterministicSampler, epoch_order, padded_rank_indices, rank_slice

PROPERTIES = settings(max_examples=150, deadline=None)


@st.composite
def samplers(draw: st.DrawFn) -> DeterministicSampler:
    """Any sampler, windowed or not."""
    shards = draw(st.lists(st.integers(1, 40), min_size=1, max_size=20).map(tuple))
    num_canonical_partitions = draw(st.sampled_from([1, 1, 2, 3, 4, 8]))
    global_batch_size = num_canonical_partitions * draw(st.integers(1, 24))
    drop_last = global_batch_size <= sum(shards) and draw(st.booleans())
    window = draw(st.none() | st.integers(1, 22))
    return DeterministicSampler(
        sum(shards), draw(st.integers(0, 99)), global_batch_size, drop_last, shards, window, num_canonical_partitions
    )


def steps(sampler: DeterministicSampler, start: int, count: int, world_size: int) -> list[list[np.ndarray]]:
    """The samples of each rank in each step."""
    shares = [rank_slice(sampler.global_batch_size, rank, world_size) for rank in range(world_size)]
    seen = [start + step * sampler.global_batch_size for step in range(count)]
    return [[sampler.global_batch_at(s).part(share).sample for share in shares] for s in seen]


@PROPERTIES
@given(samplers(), st.integers(1, 64), st.integers(1, 64), st.integers(0, 200))
def test_global_batches_are_the_same_for_every_world_size(
    sampler: DeterministicSampler, before: int, after: int, restart: int
) -> None:
    whole = [np.concatenate(step) for step in steps(sampler, 0, 12, 1)]
    stop = restart % 12
    parts = steps(sampler, 0, stop, before) + steps(sampler, stop * sampler.global_batch_size, 12 - stop, after)
    for expected, shares in zip(whole, parts, strict=True):
        assert np.array_equal(np.concatenate(shares), expected)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@PROPERTIES
@given(samplers(), st.integers(1, 64), st.integers(0, 3))
def test_every_sample_once_an_epoch_over_all_ranks(sampler: DeterministicSampler, world_size: int, epoch: int) -> None:
    first, end = epoch * sampler.images_per_epoch, (epoch + 1) * sampler.images_per_epoch
    start = first // sampler.global_batch_size * sampler.global_batch_size
    counts: Counter[int] = Counter()
    for seen in range(start, end, sampler.global_batch_size):
        global_batch_at = sampler.global_batch_at(seen)
        for rank in range(world_size):
            mine = global_batch_at.part(rank_slice(sampler.global_batch_size, rank, world_size))
            counts.update(mine.sample[mine.epoch == epoch].tolist())
    assert set(counts.values()) == {1}
    assert len(counts) == sampler.images_per_epoch
    if not sampler.drop_last:
        assert sorted(counts) == list(range(sampler.samples))
    else:
        assert sampler.images_per_epoch % sampler.global_batch_size == 0


@PROPERTIES
@given(samplers().filter(lambda sampler: sampler.windowed), st.integers(0, 3))
def test_a_partition_keeps_to_its_windows(sampler: DeterministicSampler, epoch: int) -> None:
    shard_of = np.repeat(np.arange(len(sampler.shards)), sampler.shards)
    samples = epoch_order(sampler, epoch)
    slot = (epoch * sampler.images_per_epoch + np.arange(len(samples))) % sampler.global_batch_size
    read_by: list[set[int]] = []
    for partition in range(sampler.num_canonical_partitions):
        mine = shard_of[samples[slot * sampler.num_canonical_partitions // sampler.global_batch_size == partition]]
        read_by.append(set(mine.tolist()))
        # A shard whose samples have all been read never comes back: in use at a time are at most a window's.
        first = {s: np.flatnonzero(mine == s)[0] for s in read_by[-1]}
        last = {s: np.flatnonzero(mine == s)[-1] for s in read_by[-1]}
        in_use = [sum(first[s] <= i <= last[s] for s in read_by[-1]) for i in range(len(mine))]
        assert max(in_use, default=0) <= (sampler.shuffle_window_shards or len(sampler.shards))
    # Only the shards at the cuts are read twice, so that each partition fetches its share of the bytes.
    assert sum(map(len, read_by)) <= len(sampler.shards) + sampler.num_canonical_partitions - 1


@PROPERTIES
@given(st.integers(1, 300), st.integers(1, 64))
def test_validation_uses_each_sample_once_in_equal_shares(count: int, world_size: int) -> None:
    shares = [padded_rank_indices(count, rank, world_size) for rank in range(world_size)]
    assert len({len(indices) for indices, _ in shares}) == 1
    assert np.concatenate([indices[real] for indices, real in shares]).tolist() == list(range(count))
    assert all(indices.max() < count for indices, _ in shares)


def test_epochs_and_seeds_differ() -> None:
    for window in (None, 3):
        shards = (50,) * 20
        samplers = [DeterministicSampler(1000, seed, 100, False, shards, window) for seed in (0, 1)]
        found = [epoch_order(sampler, epoch) for sampler in samplers for epoch in (0, 1)]
        for i, a in enumerate(found):
            assert all((a != b).mean() > 0.9 for b in found[:i])


def test_every_position_of_the_default_order_is_equally_likely() -> None:
    positions = np.array([np.argsort(epoch_order(DeterministicSampler(20, 7, 5), epoch)) for epoch in range(2000)])
    counts = np.stack([np.bincount(positions[:, sample], minlength=20) for sample in range(20)])
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared < 500, "361 degrees of freedom: above 500 once in a million seeds"


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="larger than the split of 10 images"):
        DeterministicSampler(10, 0, 11, drop_last=True)
    with pytest.raises(UserError, match="cannot be divided by 3 canonical partitions"):
        DeterministicSampler(10, 0, 4, shards=(10,), num_canonical_partitions=3)
    with pytest.raises(UserError, match="global_batch_size is 0, but must be at least 1; .*_shards is 0"):
        DeterministicSampler(10, 0, 0, shuffle_window_shards=0)


def test_the_description_says_what_happens_to_the_last_images() -> None:
    assert DeterministicSampler(10, 0, 4).describe() == (
        "10 images an epoch in batches of 4, the rest of 2 carries over into the next epoch"
    )
    assert "8 images an epoch" in DeterministicSampler(10, 0, 4, drop_last=True).describe()
    assert "the rest of 2 is dropped" in DeterministicSampler(10, 0, 4, drop_last=True).describe()
    assert "windows of 2 shards" in DeterministicSampler(10, 0, 4, shards=(5, 5), shuffle_window_shards=2).describe()
