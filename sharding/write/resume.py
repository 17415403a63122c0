"""What lies at the place of a data set already: whose it is, and what of it can be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.storage import Storage, UserError
from sharding.dataset import DATASET, MANIFEST, Dataset
from sharding.sources import SPLITS
from sharding.verify import shard_problem
from sharding.write.pack import RECORDS, ShardRecord, record_name
from sharding.write.plan import Plan, ShardPlan

PLAN, QUARANTINE = "plan.json", "quarantine.json"
METRICS = "metrics.json"
"""How fast the last run was: the one file that depends on more than the images and the settings."""


@dataclass(frozen=True)
class ResumeState:
    """What a run finds of its own data set."""

    info: dict[str, Any] | None = None
    """dataset.json's content, when that was published with its manifest, and both are whole."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """The hash that each published shard must have."""
    todo: tuple[ShardPlan, ...] = ()
    """Shards that are missing or damaged."""


def reserve_destination(store: Storage, plan: Plan, encoders: Mapping[str, Any], overwrite: bool) -> None:
    """Make the place this plan's. ValueError when it holds another data set, unless that is to be overwritten.

    For the holder of the place's lock.
    """
    ours = json.loads(json.dumps({"plan_sha256": plan.sha256, **plan.settings, "encoders": encoders}))
    finished = store.size(DATASET) is not None
    held = _read_json(store, PLAN) or _read_json(store, DATASET)
    if not (overwrite and finished):
        problem = _difference(store, ours, held, finished)
        if problem and not overwrite:
            raise UserError(f"{store.url} {problem}; choose another --out, or replace it with --overwrite.")
        if not problem:
            store.put_new(PLAN, json.dumps(ours, indent=1).encode())
            return
    clear(store)
    store.put(PLAN, json.dumps(ours, indent=1).encode())


def _difference(store: Storage, ours: dict[str, Any], held: dict[str, Any] | None, finished: bool) -> str | None:
    """Why what is at the place is not this plan's data set, None when it is, or nothing is there."""
    if held is None:
        foreign = [entry.name for entry in store.list() if _is_shard(entry.name)]
        return f"holds shards of another origin ({foreign[0]} and so on)" if foreign else None
    differing = {name for name, value in ours.items() if held.get(name) != value}
    # A finished data set keeps its encoders; an unfinished one must not mix two versions of them.
    if not differing or (finished and "plan_sha256" not in differing):
        return None
    named = ", ".join(sorted(differing - {"plan_sha256"})) or "its images"
    return f"holds another data set (it differs in {named})"


def clear(store: Storage) -> None:
    """Delete a data set, dataset.json first and plan.json last; files that are not a data set's stay."""
    store.delete(DATASET)
    for entry in store.list():
        if _is_shard(entry.name) or entry.name in (MANIFEST, QUARANTINE, METRICS) or entry.name.startswith(RECORDS):
            store.delete(entry.name)
    store.delete(PLAN)


def find_finished_shards(store: Storage, plan: Plan, deep: bool = False) -> ResumeState:
    """Compare what is there with the plan: sizes and the store's checksums, or (deep) every byte."""
    info = _read_json(store, DATASET)
    if info is None or info.get("plan_sha256") != plan.sha256:
        return _unfinished(store, plan, deep)
    try:
        Dataset.open(store)
    except ValueError:  # the manifest is damaged: only all shards together can give a new one
        return ResumeState(sha256={shard["name"]: shard["sha256"] for shard in info["shards"]}, todo=plan.shards)
    published = {shard["name"]: shard for shard in info["shards"]}
    todo = tuple(shard for shard in plan.shards if shard_problem(store, published[shard.name], deep))
    return ResumeState(info, {name: shard["sha256"] for name, shard in published.items()}, todo)


def _unfinished(store: Storage, plan: Plan, deep: bool) -> ResumeState:
    there = {entry.name for entry in store.list(RECORDS)}
    todo = (s for s in plan.shards if record_name(s.name) not in there or not _is_finished(store, s, deep))
    return ResumeState(todo=tuple(todo))


def _is_finished(store: Storage, shard: ShardPlan, deep: bool) -> bool:
    """Whether an interrupted run left the shard whole on the store, with no image unusable."""
    try:
        part = ShardRecord.from_bytes(store.get(record_name(shard.name)))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return False
    return not part.bad and shard_problem(store, part.summary(), deep) is None


def _read_json(store: Storage, name: str) -> dict[str, Any] | None:
    try:
        content = json.loads(store.get(name))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _is_shard(name: str) -> bool:
    return name.endswith(".tar") and name.split("-")[0] in SPLITS
