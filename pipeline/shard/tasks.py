"""The shards of a plan, made in this process or spread over Ray: one shard is one task.

A task may be lost and run again, or run twice: its shard's bytes are determined, and are put on the store whole.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.cluster import ray_session
from infra.storage import Storage, UserError
from infra.storage.lease import Lease
from pipeline.shard.config import ShardConfig
from sharding.sources import Source
from sharding.tar import Tar
from sharding.write.pack import SampleSpec, ShardRecord, build_shard, pack_shard, put_shard
from sharding.write.plan import ShardPlan

RAY_FROM_SHARDS = 16
"""To start Ray on one machine takes the time of about ten shards."""
TASK_RETRIES = 5


@dataclass(frozen=True)
class Made:
    """What the command needs to know of a finished shard; its rows lie on the store."""

    images: int
    bad: list[dict[str, str]]


@dataclass(frozen=True)
class Job:
    """What all tasks have in common; travels to other machines by pickling."""

    source: Source
    spec: SampleSpec
    store: Storage
    lock: Lease
    sha256: dict[str, str]
    """Hashes that shards must have, by name, where the data set is published already."""


def choose_workers(config: ShardConfig, shards: int) -> int | None:
    """How many shards are made at once by Ray: 0 for as many as the cluster has processors, None for no Ray."""
    if not config.ray or not shards:
        return None
    if os.environ.get("RAY_ADDRESS"):
        return config.workers or 0
    if config.workers:
        return config.workers if config.workers > 1 else None
    return 0 if shards >= RAY_FROM_SHARDS and _processors() > 1 else None


def make_shards(job: Job, shards: Sequence[ShardPlan], workers: int | None) -> Iterator[Made]:
    """Make the shards, in any order; `workers` is `choose_workers`'. ValueError as soon as one cannot be made."""
    return _in_this_process(job, shards) if workers is None else _on_ray(job, shards, workers)


def _in_this_process(job: Job, shards: Sequence[ShardPlan]) -> Iterator[Made]:
    """One shard is packed while the one before it is put on the store: two are in memory."""
    with ThreadPoolExecutor(1) as uploads:
        uploading = None
        for shard, tar in zip(shards, itertools.cycle((Tar(), Tar()))):
            content, part = build_shard(job.source, shard, job.spec, tar)
            if uploading:
                yield _made(uploading.result())
            uploading = uploads.submit(put_shard, content, part, job.store, job.sha256.get(shard.name), job.lock.check)
        if uploading:
            yield _made(uploading.result())


def _on_ray(job: Job, shards: Sequence[ShardPlan], workers: int) -> Iterator[Made]:

    with ray_session(1):
        yield from spread(job, shards, workers)


def spread(job: Job, shards: Sequence[ShardPlan], workers: int) -> Iterator[Made]:
    """The shards as tasks of the Ray that this process is connected to; as many at once as there are `workers`."""
    import ray

    shared = ray.put(job)
    task = ray.remote(max_retries=TASK_RETRIES)(make_shard)
    waiting = iter(shards)
    running: set[Any] = set()
    while True:
        # Twice the processors, so that none waits for work, and an autoscaler sees that there is more.
        limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(running) < limit and (shard := next(waiting, None)) is not None:
            running.add(task.remote(shared, shard))
        if not running:
            return
        done, rest = ray.wait(list(running))
        running = set(rest)
        yield from map(_result, done)


def make_shard(job: Job, shard: ShardPlan) -> Made | ValueError:
    """On a worker. An error that a user can mend is a result, since Ray would wrap it in its own."""
    try:
        expected = job.sha256.get(shard.name)
        return _made(pack_shard(job.source, shard, job.spec, job.store, expected, job.lock.check))
    except ValueError as error:
        return error


def _result(reference: Any) -> Made:
    import ray

    try:
        made = ray.get(reference)
    except ray.exceptions.RayTaskError:  # a defect of ours: its traceback is wanted
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Ray lost its workers ({type(error).__name__}: {reason}); look at the memory of their machines, then run "
            "the same command again: it goes on from here."
        ) from error
    if isinstance(made, ValueError):
        raise made
    return made


def _made(part: ShardRecord) -> Made:
    return Made(len(part.rows) + len(part.bad), part.bad)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
