"""Resume of a data set: whether its destination is free, and which shards an earlier run has finished there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.storage import Storage, UserError
from sharding.dataset import DATASET, MANIFEST, Dataset
from sharding.sources import SPLITS
from sharding.verify import shard_problem
from sharding.write.pack import RECORDS, ShardRecord, clear_records, record_name
from sharding.write.plan import Plan, ShardPlan

PLAN, QUARANTINE = "plan.json", "quarantine.json"
METRICS = "metrics.json"
"""Speed of the last run: the one file that does not depend on images and settings alone."""


@dataclass(frozen=True)
class ResumeState:
    """Result of earlier runs of the same plan."""

    info: dict[str, Any] | None = None
    """Content of dataset.json, when it and its manifest are published and whole."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Shard name -> the hash that a published shard must have again."""
    pending: tuple[ShardPlan, ...] = ()
    """Missing and damaged shards."""


def reserve_destination(store: Storage, plan: Plan, encoders: Mapping[str, Any], overwrite: bool) -> None:
    """Write plan.json, as the lease's holder. Raises UserError for another data set, which `overwrite` deletes."""
    ours = json.loads(json.dumps({"plan_sha256": plan.sha256, **plan.settings, "encoders": encoders}))
    finished = store.size(DATASET) is not None
    found = _read_json(store, PLAN) or _read_json(store, DATASET)
    if not (overwrite and finished):
        problem = _difference(store, ours, found, finished)
        if problem and not overwrite:
            raise UserError(f"{store.url} {problem}; choose another --out, or replace it with --overwrite.")
        if not problem:
            store.put_new(PLAN, json.dumps(ours, indent=1).encode())
            return
    clear(store)
    store.put(PLAN, json.dumps(ours, indent=1).encode())


def _difference(store: Storage, ours: dict[str, Any], found: dict[str, Any] | None, finished: bool) -> str | None:
    """Why the destination does not belong to this plan; None when it is empty or does."""
    if found is None:
        foreign = [entry.name for entry in store.list() if _is_shard(entry.name)]
        return f"holds shards of another origin ({foreign[0]} and so on)" if foreign else None
    differing = {name for name, value in ours.items() if found.get(name) != value}
    # A finished data set keeps its encoders; an unfinished one must not mix two versions of them.
    if not differing or (finished and "plan_sha256" not in differing):
        return None
    named = ", ".join(sorted(differing - {"plan_sha256"})) or "its images"
    return f"holds another data set (it differs in {named})"


def clear(store: Storage) -> None:
    """Delete a data set, dataset.json first and plan.json last; other files stay."""
    store.delete(DATASET)
    clear_records(store)
    for entry in store.list():
        if _is_shard(entry.name) or entry.name in (MANIFEST, QUARANTINE, METRICS):
            store.delete(entry.name)
    store.delete(PLAN)


def find_finished_shards(store: Storage, plan: Plan, checksum: bool = False) -> ResumeState:
    """Compare the store with the plan by sizes and the store's checksums, or with `checksum` by every byte."""
    info = _read_json(store, DATASET)
    if info is None or info.get("plan_sha256") != plan.sha256:
        recorded = {entry.name for entry in store.list(RECORDS)}
        left = {s.name for s in plan.shards if record_name(s.name) in recorded and _is_finished(store, s, checksum)}
        return ResumeState(pending=tuple(shard for shard in plan.shards if shard.name not in left))
    published = {shard["name"]: shard for shard in info["shards"]}
    sha256 = {name: shard["sha256"] for name, shard in published.items()}
    try:
        Dataset.open(store)
    except UserError:  # the manifest is damaged, and only the rows of all shards can replace it
        return ResumeState(sha256=sha256, pending=plan.shards)
    damaged = tuple(shard for shard in plan.shards if shard_problem(store, published[shard.name], checksum))
    return ResumeState(info, sha256, damaged)


def _is_finished(store: Storage, shard: ShardPlan, checksum: bool) -> bool:
    """Whether an interrupted run left the shard whole on the store, without unusable images."""
    try:
        record = ShardRecord.from_bytes(store.get(record_name(shard.name)))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return False
    return not record.bad and shard_problem(store, record.summary(), checksum) is None


def _read_json(store: Storage, name: str) -> dict[str, Any] | None:
    try:
        content = json.loads(store.get(name))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _is_shard(name: str) -> bool:
    return name.endswith(".tar") and name.split("-")[0] in SPLITS
