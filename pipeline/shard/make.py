"""Photographs to a data set on a store: plan, make the missing shards, publish."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.storage import Storage, UserError, open_storage
from infra.storage.lease import hold_lease
from pipeline.cli import ProgressLine
from pipeline.config.environment import cache_folder
from pipeline.runs.find import data_url
from pipeline.shard.config import ShardConfig
from pipeline.shard.tasks import Job, choose_workers, make_shards
from sharding.dataset import publish
from sharding.download import download
from sharding.download.archives import ARCHIVES
from sharding.sources import Source, open_source
from sharding.write.degrade import encoder_settings, parse_degradations
from sharding.write.pack import RECORDS, SampleSpec, ShardRecord, clear_records, record_name
from sharding.write.plan import Plan, default_images_per_shard, make_plan
from sharding.write.resume import METRICS, QUARANTINE, ResumeState, find_finished_shards, reserve_destination

logger = logging.getLogger(__name__)


def main(config: ShardConfig) -> None:
    """Make the data set, or what is missing or damaged of it."""
    spec = SampleSpec(tuple(parse_degradations(config.degrade)), config.bits, config.seed)
    root = download_source(config) if config.download else config.root
    source = open_source(config.source, root, config.size, **source_options(config))
    url = config.out or data_url(config.source)
    plan = plan_for(source, spec, config)
    counts = Counter(shard.split for shard in plan.shards for _ in shard.images)
    logger.info(
        f"data set {url}: {counts.total():,} images {dict(counts)}, {len(plan.shards)} shards, from {source.name}"
    )
    if config.dry_run:
        logger.info(json.dumps(plan.settings, indent=1))
        return
    store = open_storage(url)
    store.check()
    with hold_lease(store) as lease:
        make_dataset(Job(source, spec, store, lease), plan, config)


def download_source(config: ShardConfig) -> Path:
    """Fetch the published archives; returns the folder of the images."""
    folder = config.root or cache_folder() / "sources" / config.source
    logger.info(f"downloading {config.source} into {folder}")
    total_bytes = sum(archive.size_bytes for archive in ARCHIVES.get(config.source, ()))
    with ProgressLine("downloading", total_bytes, "bytes") as line:
        return download(config.source, folder, line.update)


def source_options(config: ShardConfig) -> dict[str, Any]:
    """The options that belong to one source."""
    if config.source == "synthetic":
        return {
            "count_train": config.train_images,
            "count_val": config.val_images,
            "count_test": config.test_images,
            "seed": config.seed,
        }
    given = {"split": config.split, "crop": config.crop}
    return {name: value for name, value in given.items() if value is not None}


def plan_for(source: Source, spec: SampleSpec, config: ShardConfig) -> Plan:
    """The plan of the data set: its shards, and the settings that decide their bytes."""
    settings = {
        "source": source.name,
        "preprocessing": source.settings(),
        "bits": spec.bits,
        "degradations": [degradation.text for degradation in spec.degradations],
    }
    per_shard = config.images_per_shard or default_images_per_shard(source.size, spec.fields)
    return make_plan(source.images(), settings, config.seed, per_shard)


def make_dataset(job: Job, plan: Plan, config: ShardConfig) -> None:
    """Reserve the destination, make every shard that is missing or damaged, publish."""
    store, encoders = job.store, encoder_settings()
    reserve_destination(store, plan, encoders, config.overwrite)
    for folder in (store, store.at(RECORDS)):
        folder.sweep()
    found = find_finished_shards(store, plan, config.checksum)
    info = found.info
    if info is not None and not found.pending:
        logger.info(f"{store.url} is whole already ({len(plan.shards)} shards checked); nothing to do.")
    else:
        make_pending(job, plan, config, found)
    if info is None:
        details = {
            "name": job.source.name,
            "image_size": job.source.size,
            "plan_sha256": plan.sha256,
            **plan.settings,
            "encoders": encoders,
        }
        job.lease.check()
        records = (ShardRecord.from_bytes(store.get(record_name(shard.name))) for shard in plan.shards)
        info = publish(store, records, details, job.spec.fields)
    clear_records(store)
    stored_bytes = sum(shard["bytes"] for shard in info["shards"])
    logger.info(f"{store.url}/dataset.json: {info['manifest']['rows']:,} images, {stored_bytes / 1e6:,.1f} MB")


def make_pending(job: Job, plan: Plan, config: ShardConfig, found: ResumeState) -> None:
    """Make the pending shards and write metrics.json. Raises UserError for more unusable images than allowed."""
    workers = choose_workers(config, len(found.pending))
    how = "in this process" if workers is None else f"on Ray with {workers or 'all'} workers"
    logger.info(f"{len(found.pending)} of {len(plan.shards)} shards to make, {how}")
    job = replace(job, sha256=dict(found.sha256))
    images, bad = sum(len(shard.images) for shard in found.pending), []
    start_s, done = time.monotonic(), 0
    with ProgressLine("sharding", images, "images") as progress:
        for made in make_shards(job, found.pending, workers):
            done += made.images
            bad += made.bad
            progress.update(done, f"{done / (time.monotonic() - start_s):,.0f} images/s")
    elapsed_s = time.monotonic() - start_s
    per_sec = done / max(elapsed_s, 1e-9)
    logger.info(f"{done:,} images in {elapsed_s:.1f} s, {per_sec:,.0f} images/s")
    metrics = {"images": done, "elapsed_s": elapsed_s, "images_per_sec": per_sec, "unusable": len(bad)}
    job.store.put(METRICS, json.dumps({**metrics, "shards": len(found.pending), "workers": workers}, indent=1).encode())
    if found.info is None:
        check_bad(job.store, bad, config.max_bad)


def check_bad(store: Storage, bad: list[dict[str, str]], max_bad: int) -> None:
    """Write quarantine.json. Raises UserError when more than `max_bad` images are unusable."""
    if not bad:
        store.delete(QUARANTINE)
        return
    bad = sorted(bad, key=lambda entry: entry["key"])
    store.put(QUARANTINE, json.dumps(bad, indent=1).encode())
    for entry in bad[:10]:
        logger.info(f"unusable: {entry['file']}: {entry['reason']}")
    if len(bad) > max_bad:
        raise UserError(
            f"{len(bad)} images are unusable and --max-bad is {max_bad}; fix them, or allow them with --max-bad "
            f"{len(bad)} (all are listed in {store.url}/{QUARANTINE})."
        )
