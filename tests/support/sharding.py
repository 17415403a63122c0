"""Small data sets and the sharding command, for several tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.storage import Storage
from sharding.dataset import publish
from sharding.sources import Source, open_source
from sharding.write.pack import SampleSpec, ShardRecord, build_shard, clear_records, put_shard
from sharding.write.plan import Plan, ShardPlan, make_plan
from sharding.write.resume import METRICS

SYNTHETIC = ["--train-images", "60", "--val-images", "6", "--test-images", "6", "--size", "16"]
DEGRADE = ["--degrade", "jpeg:10,40", "mask:box"]
SMALL = [*SYNTHETIC, *DEGRADE, "--images-per-shard", "6"]
"""12 shards of about 50 KB."""


def small_source(**options: int) -> Source:
    counts = {"count_train": 20, "count_val": 4, "count_test": 4}
    return open_source("synthetic", **{"size": 16, **counts, **options})


def small_plan(source: Source, images_per_shard: int = 6) -> Plan:
    return make_plan(source.images(), {"source": source.name}, 0, images_per_shard)


def pack_shard(source: Source, plan: ShardPlan, spec: SampleSpec, store: Storage, *put_options: Any) -> ShardRecord:
    """A shard made and written, with further arguments of `put_shard`."""
    return put_shard(*build_shard(source, plan, spec), store, *put_options)


def make_small(store: Storage, spec: SampleSpec, source: Source | None = None) -> Plan:
    """A finished data set, made without the command."""
    source = source or small_source()
    plan = small_plan(source)
    records = [pack_shard(source, shard, spec, store) for shard in plan.shards]
    details = {"name": "small", "image_size": source.size, "bits": 8, "plan_sha256": plan.sha256}
    publish(store, records, details, spec.fields)
    clear_records(store)
    return plan


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m pipeline.shard` with these arguments."""
    command = [sys.executable, "-m", "pipeline.shard", *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def shard(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `start` to its end: exit code, stdout, stderr."""
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def partial_files(cache: Path) -> list[str]:
    """Files of a cache folder other than shards and locks."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.parent.name != "locks")
    return sorted(path.name for path in files if path.suffix != ".tar")


def contents(store: Storage) -> dict[str, bytes]:
    """Every file of a data set that depends on the images and the settings alone."""
    return {entry.name: store.get(entry.name) for entry in store.list() if entry.name != METRICS}
