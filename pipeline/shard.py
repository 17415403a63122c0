"""python -m pipeline.shard: photographs -> WebDataset shards and a manifest on the store."""

from __future__ import annotations

import json
import time
from typing import Any

from pipeline.cli import ProgressLine, run_command
from pipeline.config import ShardConfig


def main(config: ShardConfig) -> None:
    """Plan, pack what is missing, publish."""
    from infra.storage import open_storage
    from pipeline.places import data_url
    from sharding.pack import Recipe
    from sharding.sources import open_source

    source = open_source(config.source, config.root, config.size, **source_options(config))
    url = config.out or data_url(config.source)
    recipe = Recipe(bits=config.bits, seed=config.seed)
    plan = plan_for(source, recipe, config)
    counts = {split: n for split, n in split_counts(plan).items() if n}
    print(f"data set {url}: {plan.image_count:,} images {counts}, {len(plan.shards)} shards, from {source.name}")
    if config.dry_run:
        print(json.dumps(plan.settings, indent=1))
        return
    store = open_storage(url)
    store.check()
    begin = time.monotonic()
    info = make_dataset(source, plan, recipe, store, config)
    elapsed_s = time.monotonic() - begin
    stored_bytes = sum(shard["bytes"] for shard in info["shards"])
    metrics = {"images": info["manifest"]["rows"], "bytes": stored_bytes, "elapsed_s": round(elapsed_s, 3)}
    metrics["images_per_sec"] = round(metrics["images"] / elapsed_s, 1)
    store.put("metrics.json", json.dumps(metrics, indent=1).encode())
    print(f"done in {elapsed_s:.1f} s: {metrics['images']:,} images, {stored_bytes / 1e6:,.1f} MB, {url}/dataset.json")


def source_options(config: ShardConfig) -> dict[str, Any]:
    """The options that only one source knows."""
    if config.source == "synthetic":
        return {
            "count_train": config.train_images,
            "count_val": config.val_images,
            "count_test": config.test_images,
            "seed": config.seed,
        }
    if config.split is None:
        return {}
    return {"split": config.split}


def plan_for(source: Any, recipe: Any, config: ShardConfig) -> Any:
    """The plan of the data set: shards, and the settings that decide their bytes."""
    from sharding.plan import default_images_per_shard, make_plan

    settings = {"source": source.name, "preprocessing": source.settings(), "bits": recipe.bits}
    per_shard = config.images_per_shard or default_images_per_shard(3 * source.size**2)
    return make_plan(source.images(), settings, config.seed, per_shard)


def split_counts(plan: Any) -> dict[str, int]:
    """Images of each split."""
    counts: dict[str, int] = {}
    for shard in plan.shards:
        counts[shard.split] = counts.get(shard.split, 0) + len(shard.images)
    return counts


def make_dataset(source: Any, plan: Any, recipe: Any, store: Any, config: ShardConfig) -> dict[str, Any]:
    """Claim the place, pack every shard that is not there yet, publish; returns dataset.json's content."""
    from sharding.claim import claim, finished_info, finished_part
    from sharding.manifest import publish
    from sharding.pack import PARTS, pack_shard

    claim(store, plan, config.overwrite)
    info = finished_info(store, plan)
    if info is not None:
        print("the data set is there already, whole; nothing to do.")
        return info
    parts = []
    with ProgressLine("sharding", plan.image_count, "images") as progress:
        for shard in plan.shards:
            parts.append(finished_part(store, shard) or pack_shard(source, shard, recipe, store))
            progress.update(sum(len(part.rows) + len(part.bad) for part in parts))
    refuse_bad(store, parts, config.max_bad)
    details = {
        "name": source.name,
        "bits": recipe.bits,
        "image_size": source.size,
        "plan_sha256": plan.sha256,
        **plan.settings,
    }
    info = publish(store, parts, details, {"clean": "npy"})
    for entry in store.list(PARTS):
        store.delete(entry.name)
    return info


def refuse_bad(store: Any, parts: list[Any], max_bad: int) -> None:
    """Write the quarantine report; ValueError when more images were unusable than allowed."""
    bad = [entry for part in parts for entry in part.bad]
    if not bad:
        store.delete("quarantine.json")
        return
    store.put("quarantine.json", json.dumps(bad, indent=1).encode())
    for entry in bad[:10]:
        print(f"unusable: {entry['file']}: {entry['reason']}")
    if len(bad) > max_bad:
        raise ValueError(
            f"{len(bad)} images are unusable and --max-bad is {max_bad}; mend them, or allow them with --max-bad "
            f"{len(bad)} (all are listed in {store.url}/quarantine.json)."
        )


if __name__ == "__main__":
    run_command(ShardConfig, main)
