"""What lies at the place of a data set already: whose it is, and what of it can be kept."""

from __future__ import annotations

import json
from typing import Any

from sharding.manifest import DATASET, MANIFEST
from sharding.pack import PARTS, Part, part_name
from sharding.plan import Plan, ShardPlan
from sharding.sources import SPLITS
from sharding.store import Store

PLAN = "plan.json"


def claim(store: Store, plan: Plan, overwrite: bool) -> None:
    """Make the place this plan's. ValueError when it holds another data set, unless that is to be overwritten."""
    content = json.dumps({"plan_sha256": plan.sha256, **plan.settings}, indent=1).encode()
    if store.put_new(PLAN, content):
        return
    held = json.loads(store.get(PLAN))
    if held["plan_sha256"] == plan.sha256:
        return
    if not overwrite:
        ours = {"plan_sha256": plan.sha256, **plan.settings}
        differing = sorted(k for k in {*held, *ours} - {"plan_sha256"} if held.get(k) != ours.get(k))
        raise ValueError(
            f"{store.url} holds another data set (it differs in {', '.join(differing) or 'its images'}); choose "
            "another --out, or replace it with --overwrite."
        )
    clear(store)
    store.put(PLAN, content)


def clear(store: Store) -> None:
    """Delete a data set, dataset.json first; files that are not a data set's stay."""
    ours = {DATASET, MANIFEST, PLAN, "quarantine.json", "metrics.json"}
    store.delete(DATASET)
    for entry in store.list():
        is_shard = entry.name.endswith(".tar") and entry.name.split("-")[0] in SPLITS
        if is_shard or entry.name in ours or entry.name.startswith(PARTS):
            store.delete(entry.name)


def finished_info(store: Store, plan: Plan) -> dict[str, Any] | None:
    """dataset.json's content when it is this plan's and all its files have their sizes, else None."""
    try:
        info = json.loads(store.get(DATASET))
    except FileNotFoundError:
        return None
    sizes = {entry.name: entry.size_bytes for entry in store.list()}
    whole = all(sizes.get(shard["name"]) == shard["bytes"] for shard in info["shards"]) and MANIFEST in sizes
    return info if whole and info["plan_sha256"] == plan.sha256 else None


def finished_part(store: Store, shard: ShardPlan) -> Part | None:
    """The part of a shard that an interrupted run finished, with no image unusable; None when it is to be made."""
    try:
        part = Part.from_bytes(store.get(part_name(shard)))
    except (FileNotFoundError, ValueError):
        return None
    return part if not part.bad and store.size(shard.name) == part.size_bytes else None
