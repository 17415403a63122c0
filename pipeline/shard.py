"""python -m pipeline.shard: photographs -> WebDataset shards and a manifest on the store; verify and inspect them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli import ProgressLine, run_command
from pipeline.config import InspectConfig, ShardConfig, VerifyConfig, cache_folder

if TYPE_CHECKING:
    from infra.storage import Storage
    from sharding.claim import Kept
    from sharding.lock import Lock
    from sharding.pack import Recipe
    from sharding.plan import Plan
    from sharding.sources import Source


def main(config: ShardConfig) -> None:
    """Plan, make what is missing, publish."""
    from infra.storage import open_storage
    from pipeline.places import data_url
    from sharding.degrade import parse_degradations
    from sharding.lock import locked
    from sharding.pack import Recipe
    from sharding.sources import open_source

    recipe = Recipe(tuple(parse_degradations(config.degrade)), config.bits, config.seed)
    root = download_source(config) if config.download else config.root
    source = open_source(config.source, root, config.size, **source_options(config))
    url = config.out or data_url(config.source)
    plan = plan_for(source, recipe, config)
    counts = {split: n for split, n in split_counts(plan).items() if n}
    print(f"data set {url}: {plan.image_count:,} images {counts}, {len(plan.shards)} shards, from {source.name}")
    if config.dry_run:
        print(json.dumps(plan.settings, indent=1))
        return
    store = open_storage(url)
    store.check()
    with locked(store) as lock:
        make_dataset(source, plan, recipe, store, lock, config)


def download_source(config: ShardConfig) -> Path:
    """Fetch the published archives; the folder that then holds the images."""
    from sharding.download import download
    from sharding.download.archives import ARCHIVES

    folder = config.root or cache_folder() / "sources" / config.source
    print(f"downloading {config.source} into {folder}")
    total = sum(archive.size_bytes or 0 for archive in ARCHIVES.get(config.source, ()))
    with ProgressLine("downloading", total, "bytes") as line:
        return download(config.source, folder, lambda done, _: line.update(done))


def source_options(config: ShardConfig) -> dict[str, Any]:
    """The options that only one source knows."""
    if config.source == "synthetic":
        return {
            "count_train": config.train_images,
            "count_val": config.val_images,
            "count_test": config.test_images,
            "seed": config.seed,
        }
    given = {"split": config.split, "crop": config.crop}
    return {name: value for name, value in given.items() if value is not None}


def plan_for(source: Source, recipe: Recipe, config: ShardConfig) -> Plan:
    """The plan of the data set: shards, and the settings that decide their bytes."""
    from sharding.plan import default_images_per_shard, make_plan

    settings = {
        "source": source.name,
        "preprocessing": source.settings(),
        "bits": recipe.bits,
        "degradations": [degradation.text for degradation in recipe.degradations],
    }
    per_shard = config.images_per_shard or default_images_per_shard(source.size, recipe.fields)
    return make_plan(source.images(), settings, config.seed, per_shard)


def split_counts(plan: Plan) -> dict[str, int]:
    """Images of each split."""
    counts: dict[str, int] = {}
    for shard in plan.shards:
        counts[shard.split] = counts.get(shard.split, 0) + len(shard.images)
    return counts


def make_dataset(
    source: Source, plan: Plan, recipe: Recipe, store: Storage, lock: Lock, config: ShardConfig
) -> dict[str, Any]:
    """Claim the place, make every shard that is not there yet, publish; returns dataset.json's content."""
    from sharding.claim import claim, kept
    from sharding.degrade import encoder_settings
    from sharding.manifest import publish
    from sharding.pack import PARTS, Part, part_name

    encoders = encoder_settings()
    claim(store, plan, encoders, config.overwrite)
    for place in (store, store.at(PARTS)):
        place.sweep()
    found = kept(store, plan, config.deep)
    if found.info is not None and not found.todo:
        print(f"{store.url} is whole already ({len(plan.shards)} shards checked); nothing to do.")
    else:
        make_missing(source, plan, recipe, store, lock, config, found)
    info = found.info
    if info is None:
        details = {
            "name": source.name,
            "image_size": source.size,
            "plan_sha256": plan.sha256,
            **plan.settings,
            "encoders": encoders,
        }
        lock.check()
        parts = (Part.from_bytes(store.get(part_name(shard.name))) for shard in plan.shards)
        info = publish(store, parts, details, recipe.fields)
    for entry in store.list(PARTS):
        store.delete(entry.name)
    stored_bytes = sum(shard["bytes"] for shard in info["shards"])
    print(f"{store.url}/dataset.json: {info['manifest']['rows']:,} images, {stored_bytes / 1e6:,.1f} MB")
    return info


def make_missing(
    source: Source, plan: Plan, recipe: Recipe, store: Storage, lock: Lock, config: ShardConfig, found: Kept
) -> None:
    """Make the shards that are to do; metrics.json says how fast. ValueError for more unusable images than allowed."""
    from pipeline.shard_tasks import Job, choose_workers, make_shards
    from sharding.claim import METRICS

    workers = choose_workers(config, len(found.todo))
    how = "in this process" if workers is None else f"on Ray with {workers or 'all'} workers"
    print(f"{len(found.todo)} of {len(plan.shards)} shards to make, {how}")
    job = Job(source, recipe, store, lock, dict(found.sha256))
    images, bad = sum(len(shard.images) for shard in found.todo), []
    begin, done = time.monotonic(), 0
    with ProgressLine("sharding", images, "images") as progress:
        for made in make_shards(job, found.todo, workers):
            done += made.images
            bad += made.bad
            progress.update(done, f"{done / (time.monotonic() - begin):,.0f} images/s")
    elapsed_s = time.monotonic() - begin
    per_sec = done / max(elapsed_s, 1e-9)
    print(f"{done:,} images in {elapsed_s:.1f} s, {per_sec:,.0f} images/s")
    metrics = {"images": done, "elapsed_s": elapsed_s, "images_per_sec": per_sec, "unusable": len(bad)}
    store.put(METRICS, json.dumps({**metrics, "shards": len(found.todo), "workers": workers}, indent=1).encode())
    if found.info is None:
        refuse_bad(store, bad, config.max_bad)


def refuse_bad(store: Storage, bad: list[dict[str, str]], max_bad: int) -> None:
    """Write the quarantine report; ValueError when more images were unusable than allowed."""
    from sharding.claim import QUARANTINE

    if not bad:
        store.delete(QUARANTINE)
        return
    bad = sorted(bad, key=lambda entry: entry["key"])
    store.put(QUARANTINE, json.dumps(bad, indent=1).encode())
    for entry in bad[:10]:
        print(f"unusable: {entry['file']}: {entry['reason']}")
    if len(bad) > max_bad:
        raise ValueError(
            f"{len(bad)} images are unusable and --max-bad is {max_bad}; mend them, or allow them with --max-bad "
            f"{len(bad)} (all are listed in {store.url}/{QUARANTINE})."
        )


def verify_main(config: VerifyConfig) -> None:
    """Check a data set; ValueError with a line for each damaged shard."""
    from pipeline.places import find_data, open_checked
    from sharding.manifest import Dataset
    from sharding.verify import verify

    store = open_checked(find_data(config.data))
    total = Dataset.open(store).info["manifest"]["rows"]
    with ProgressLine("verifying", total, "images") as progress:
        verdict = verify(store, config.deep, progress.update)
    for name in verdict.left_over:
        print(f"{store.url}/{name} is left over: it belongs to no data set and may be deleted.")
    if verdict.problems:
        raise ValueError("\n".join(verdict.problems))
    how = "every byte and every image" if config.deep else "sizes and checksums"
    size = f"{verdict.shards} shards, {verdict.samples:,} images, {verdict.size_bytes / 1e6:,.1f} MB"
    print(f"{store.url} is whole: {size} ({how} checked)")


def inspect_main(config: InspectConfig) -> None:
    """Print what a data set holds and write a sheet of its images."""
    from pipeline.shard_inspect import inspect

    inspect(config)


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        run_command(VerifyConfig, verify_main, skip=1)
    elif sys.argv[1:2] == ["inspect"]:
        run_command(InspectConfig, inspect_main, skip=1)
    else:
        run_command(ShardConfig, main)
