"""The shards of a plan, made in this process or on Ray: one shard is one task.

A task may be lost and repeated, or run twice: its shard's bytes are deterministic and appear on the store whole.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra.cluster import ray_session
from infra.storage import Storage, UserError
from infra.storage.lease import Lease
from pipeline.shard.config import ShardConfig
from sharding.sources import Source
from sharding.tar import Tar
from sharding.write.pack import SampleSpec, ShardRecord, build_shard, put_shard
from sharding.write.plan import ShardPlan

RAY_FROM_SHARDS = 16
"""Fewest shards that justify starting Ray on one machine, which takes as long as about ten of them."""
TASK_RETRIES = 5


@dataclass(frozen=True)
class MadeShard:
    """Summary of a finished shard; its record is on the store."""

    images: int
    bad: list[dict[str, str]]


@dataclass(frozen=True)
class Job:
    """Arguments that all tasks share; travels to other machines by pickling."""

    source: Source
    spec: SampleSpec
    store: Storage
    lease: Lease
    sha256: dict[str, str] = field(default_factory=dict)
    """Shard name -> the hash that it must have, when the data set is published already."""

    def put(self, content: memoryview, record: ShardRecord) -> MadeShard:
        """Write a shard and its record."""
        put_shard(content, record, self.store, self.sha256.get(record.name), self.lease.check)
        return MadeShard(len(record.rows) + len(record.bad), record.bad)


def choose_workers(config: ShardConfig, shards: int) -> int | None:
    """Number of shards that Ray makes at once: 0 for all processors of the cluster, None for no Ray."""
    if not config.ray or not shards:
        return None
    if os.environ.get("RAY_ADDRESS"):
        return config.workers or 0
    if config.workers:
        return config.workers if config.workers > 1 else None
    return 0 if shards >= RAY_FROM_SHARDS and _processors() > 1 else None


def make_shards(job: Job, shards: Sequence[ShardPlan], workers: int | None) -> Iterator[MadeShard]:
    """Make the shards, in any order; `workers` as in `choose_workers`. Raises UserError at the first that fails."""
    if workers is None:
        yield from _in_this_process(job, shards)
    else:
        with ray_session(1):
            yield from spread(job, shards, workers)


def _in_this_process(job: Job, shards: Sequence[ShardPlan]) -> Iterator[MadeShard]:
    """Pack one shard while the previous one is written: two are in memory."""
    with ThreadPoolExecutor(1) as uploads:
        uploading = None
        for shard, tar in zip(shards, itertools.cycle((Tar(), Tar()))):
            content, record = build_shard(job.source, shard, job.spec, tar)
            if uploading:
                yield uploading.result()
            uploading = uploads.submit(job.put, content, record)
        if uploading:
            yield uploading.result()


def spread(job: Job, shards: Sequence[ShardPlan], workers: int) -> Iterator[MadeShard]:
    """The shards as tasks of the connected Ray, at most `workers` at once."""
    import ray

    shared = ray.put(job)
    task = ray.remote(max_retries=TASK_RETRIES)(make_shard)
    waiting = iter(shards)
    running: set[Any] = set()
    while True:
        # Twice the processors: no worker waits for a task, and an autoscaler sees the demand.
        limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(running) < limit and (shard := next(waiting, None)) is not None:
            running.add(task.remote(shared, shard))
        if not running:
            return
        done, rest = ray.wait(list(running))
        running = set(rest)
        yield from map(_result, done)


def make_shard(job: Job, shard: ShardPlan) -> MadeShard | UserError:
    """The task. A user's error is a result, since Ray would wrap an exception in its own."""
    try:
        return job.put(*build_shard(job.source, shard, job.spec))
    except UserError as error:
        return error


def _result(reference: Any) -> MadeShard:
    import ray

    try:
        made = ray.get(reference)
    except ray.exceptions.RayTaskError:  # a defect: its traceback is wanted
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Ray lost its workers ({type(error).__name__}: {reason}); check the memory of their machines, then run "
            "the same command again: it resumes from here."
        ) from error
    if isinstance(made, UserError):
        raise made
    return made


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
